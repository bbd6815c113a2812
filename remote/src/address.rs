//! Address: where a shared cache is, and the options that may stand behind it as a query.

use std::fmt;

/// The schemes there are, each with an example.
const SCHEMES: [(&str, &str); 4] = [
    ("s3", "s3://bucket/folder"),
    ("gs", "gs://bucket/folder"),
    ("az", "az://container/folder"),
    ("file", "file:///mnt/team/dag"),
];

/// Where a shared cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `s3`, `gs`, `az` or `file`.
    pub(crate) scheme: &'static str,
    /// The bucket or container; empty for a folder.
    pub(crate) bucket: String,
    /// The folder in the bucket, without slashes around it; for `file`, the absolute path.
    pub(crate) folder: String,
    /// `sign=` of the query.
    pub sign: Option<bool>,
    /// `write=` of the query.
    pub write: Option<bool>,
}

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{address}` is not the address of a shared cache: {what}")]
pub struct AddressError {
    /// The text.
    pub address: String,
    /// What is wrong with it.
    pub what: String,
}

impl Address {
    /// Reads an address such as `s3://bucket/folder` or `file:///mnt/team/dag?sign=false`.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let refuse = |what: String| AddressError { address: text.to_owned(), what };
        let examples = SCHEMES.map(|(_, example)| format!("`{example}`")).join(", ");
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(refuse(format!("write it as one of {examples}")));
        };
        let Some((scheme, example)) = SCHEMES.into_iter().find(|(name, _)| *name == scheme) else {
            return Err(refuse(format!("`{scheme}` is not known; write it as one of {examples}")));
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        if place.contains('@') && scheme != "file" {
            return Err(refuse("secrets do not stand in it; they are taken from the environment".to_owned()));
        }
        let (bucket, folder) = place.split_once('/').unwrap_or((place, ""));
        let (bucket, folder) = match (scheme, bucket, folder.trim_matches('/')) {
            ("file", "", folder) if !folder.is_empty() => (String::new(), format!("/{folder}")),
            ("file", ..) | (_, "", _) => return Err(refuse(format!("write it as `{example}`"))),
            (_, bucket, folder) => (bucket.to_owned(), folder.to_owned()),
        };
        if folder.split('/').any(|part| part == "..") {
            return Err(refuse("its path leads outside".to_owned()));
        }
        let mut address = Self { scheme, bucket, folder, sign: None, write: None };
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let value = match value {
                "true" => true,
                "false" => false,
                _ => return Err(refuse(format!("the option `{name}` is `true` or `false`"))),
            };
            match name {
                "sign" => address.sign = Some(value),
                "write" => address.write = Some(value),
                _ => return Err(refuse(format!("it has no option `{name}`, only `sign` and `write`"))),
            }
        }
        Ok(address)
    }
}

impl fmt::Display for Address {
    /// Without its options.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, bucket, folder, .. } = self;
        let slash = if bucket.is_empty() || folder.is_empty() { "" } else { "/" };
        write!(f, "{scheme}://{bucket}{slash}{folder}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_without_options() {
        for (text, shown, bucket, folder) in [
            ("s3://team/dag/", "s3://team/dag", "team", "dag"),
            ("gs://team", "gs://team", "team", ""),
            ("az://team/a/b?write=false", "az://team/a/b", "team", "a/b"),
            ("file:///mnt/team?sign=false&write=true", "file:///mnt/team", "", "/mnt/team"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(
                (address.to_string().as_str(), &*address.bucket, &*address.folder),
                (shown, bucket, folder)
            );
        }
        let options = Address::parse("file:///x?sign=false&write=true").unwrap();
        assert_eq!((options.sign, options.write), (Some(false), Some(true)));
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_to_write() {
        for (text, told) in [
            ("bucket/folder", "s3://bucket/folder"),
            ("ftp://host/x", "`ftp` is not known"),
            ("s3:///folder", "s3://bucket/folder"),
            ("file://relative/x", "file:///mnt/team/dag"),
            ("file:///", "file:///mnt/team/dag"),
            ("s3://key:secret@bucket/x", "environment"),
            ("s3://bucket/a/../b", "outside"),
            ("s3://bucket?sign=maybe", "`true` or `false`"),
            ("s3://bucket?public=true", "no option `public`"),
        ] {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
