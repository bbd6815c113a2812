//! The address of a repository on a hub: `hf://[datasets/]OWNER/NAME[@REVISION][/PATH]`.

use std::fmt;

/// The scheme.
const SCHEME: &str = "hf://";

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A data set.
    Dataset,
    /// A model.
    Model,
}

impl Kind {
    /// The word before the repository's name in the hub's own addresses, with its stroke.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Dataset => "datasets/",
            Self::Model => "",
        }
    }

    /// The word in the hub's interface and in the names of cache folders.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Dataset => "datasets",
            Self::Model => "models",
        }
    }

    /// In words.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Dataset => "data set",
            Self::Model => "model",
        }
    }
}

/// A repository at a revision, or some files of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    kind: Kind,
    repository: String,
    revision: String,
    /// The revision that was pinned to a commit, where this is such an address.
    pinned_from: Option<String>,
    path: Option<String>,
}

impl Address {
    /// Whether `text` is an address on the hub, well formed or not.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(SCHEME)
    }

    /// Reads `text`, which a param for data of `kind` holds; `revision` stands beside it.
    pub fn parse(text: &str, kind: Kind, revision: Option<&str>) -> Result<Self, String> {
        let rest =
            text.strip_prefix(SCHEME).ok_or_else(|| format!("`{text}` does not begin with `{SCHEME}`"))?;
        let (rest, pinned_from) = match rest.rsplit_once('#') {
            Some((rest, from)) => (rest, Some(from.to_owned())),
            None => (rest, None),
        };
        let rest = match kind {
            Kind::Dataset => rest.strip_prefix("datasets/").unwrap_or(rest),
            Kind::Model if rest.starts_with("datasets/") => {
                return Err(format!("`{text}` is a data set, and a model is wanted"));
            }
            Kind::Model => rest.strip_prefix("models/").unwrap_or(rest),
        };
        let mut parts = rest.split('/');
        let (owner, named) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (name, own) = match named.split_once('@') {
            Some((name, own)) => (name, Some(own)),
            None => (named, None),
        };
        let mut own = own.map(str::to_owned);
        // Hidden references have strokes in their names: `refs/convert/parquet`.
        if own.as_deref() == Some("refs") {
            let (kind, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            own = Some(format!("refs/{kind}/{name}"));
        }
        let path = parts.collect::<Vec<_>>().join("/");
        if !is_name(owner) || !is_name(name) {
            return Err(format!("`{text}` is no address on the hub: write `{SCHEME}OWNER/NAME`"));
        }
        let revision = match (own, revision) {
            (Some(_), Some(_)) => {
                return Err(format!(
                    "`{text}` names a revision, and so does `revision`: one of them is enough"
                ));
            }
            (Some(own), None) => own,
            (None, Some(revision)) => revision.to_owned(),
            (None, None) => "main".to_owned(),
        };
        if revision.split('/').any(|part| part.is_empty() || part == ".." || part == ".") {
            return Err(format!("`{revision}` is no revision: give a branch, a tag or a commit"));
        }
        let path = Some(path).filter(|path| !path.is_empty());
        Ok(Self { kind, repository: format!("{owner}/{name}"), revision, pinned_from, path })
    }

    /// The same at a commit, which it remembers to have been found from this revision.
    #[must_use]
    pub fn at(&self, commit: &str) -> Self {
        let pinned_from = self.commit().is_none().then(|| self.revision.clone());
        Self { revision: commit.to_owned(), pinned_from, ..self.clone() }
    }

    /// For a param of a task that is told a pinned address.
    pub fn told(&self) -> String {
        match &self.pinned_from {
            Some(from) => format!("{self}#{from}"),
            None => self.to_string(),
        }
    }

    /// What the repository holds.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its owner and name.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The commit, if the revision is one: then the address means the same for ever.
    pub fn commit(&self) -> Option<&str> {
        is_commit(&self.revision).then_some(&self.revision)
    }

    /// The revision that led to the commit.
    pub fn pinned_from(&self) -> Option<&str> {
        self.pinned_from.as_deref()
    }

    /// The files that are meant, as a path or pattern below the root of the repository.
    pub fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }
}

/// `hf://datasets/openai/gsm8k@main`: in full, however it was written.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}@{}", self.kind.prefix(), self.repository, self.revision)?;
        self.path.iter().try_for_each(|path| write!(f, "/{path}"))
    }
}

fn is_name(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && !text.starts_with('.') && !text.contains("..") && text.chars().all(is_plain)
}

/// Whether a revision is a commit in full.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn shown(text: &str, kind: Kind, revision: Option<&str>) -> Result<String, String> {
        Address::parse(text, kind, revision).map(|address| address.to_string())
    }

    #[test]
    fn the_ways_to_write_an_address() {
        for (text, revision, full) in [
            ("hf://openai/gsm8k", None, "hf://datasets/openai/gsm8k@main"),
            ("hf://datasets/openai/gsm8k", Some("v1"), "hf://datasets/openai/gsm8k@v1"),
            ("hf://openai/gsm8k@v1", None, "hf://datasets/openai/gsm8k@v1"),
            (
                "hf://a/b@refs/convert/parquet/c/*.parquet",
                None,
                "hf://datasets/a/b@refs/convert/parquet/c/*.parquet",
            ),
            ("hf://a/b/data/x.jsonl", None, "hf://datasets/a/b@main/data/x.jsonl"),
        ] {
            assert_eq!(shown(text, Kind::Dataset, revision).as_deref(), Ok(full));
        }
        assert_eq!(shown("hf://a/b", Kind::Model, None).as_deref(), Ok("hf://a/b@main"));
        for text in ["hf://", "hf://a", "hf://a/..", "hf://a/b c", "hf://a/b@", "hf://a/b@..", "hf://a/b@v1"]
        {
            assert!(shown(text, Kind::Dataset, Some("v2")).is_err(), "{text}");
        }
        assert!(shown("hf://datasets/a/b", Kind::Model, None).is_err());
    }

    #[test]
    fn a_pinned_address_remembers_where_it_came_from() {
        let address = Address::parse("hf://a/b", Kind::Dataset, None).unwrap();
        assert_eq!(address.commit(), None);
        let pinned = Address::parse(&address.at(COMMIT).told(), Kind::Dataset, None).unwrap();
        assert_eq!((pinned.commit(), pinned.pinned_from()), (Some(COMMIT), Some("main")));
        assert_eq!(pinned.to_string(), format!("hf://datasets/a/b@{COMMIT}"));
        assert_eq!(pinned.at(COMMIT).pinned_from(), None);
    }
}
