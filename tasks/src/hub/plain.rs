//! Files at plain addresses (`https://…`), which are known by the digest that is given with them.

use std::fmt;

use reqwest::Url;

/// The digest of a file, by one of two functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainDigest {
    /// SHA-256.
    Sha256([u8; 32]),
    /// BLAKE3, which is what the store uses: a file that is known by it has the key of a local copy.
    Blake3([u8; 32]),
}

/// Whether `text` is an address of the web, well formed or not.
pub fn is_plain(text: &str) -> bool {
    text.starts_with("https://") || text.starts_with("http://")
}

/// Reads an address. What is not encrypted may come from this machine only.
pub(crate) fn check_address(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error| format!("`{text}` is no address ({error})"))?;
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(&url) => {}
        _ => return Err(format!("`{text}` must be `https://`; `http://` is for this machine itself")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("an address with a name and password in it would be written into journals".to_owned());
    }
    Ok(url)
}

/// Whether the address is one of this machine itself.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl PlainDigest {
    /// Reads `sha256:…` or `blake3:…`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no digest: write `sha256:` or `blake3:` and 64 hexadecimal digits");
        let (function, digits) = text.split_once(':').ok_or_else(wrong)?;
        let digest: dag_engine::Digest = digits.to_ascii_lowercase().parse().map_err(|_| wrong())?;
        match function {
            "sha256" => Ok(Self::Sha256(*digest.as_bytes())),
            "blake3" => Ok(Self::Blake3(*digest.as_bytes())),
            _ => Err(wrong()),
        }
    }

    pub(super) fn file_name(&self) -> String {
        self.to_string().replace(':', "-")
    }
}

impl fmt::Display for PlainDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (function, bytes) = match self {
            Self::Sha256(bytes) => ("sha256", bytes),
            Self::Blake3(bytes) => ("blake3", bytes),
        };
        write!(f, "{function}:")?;
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Computes a digest as bytes come.
pub(super) enum Hasher {
    Sha256(Box<ring::digest::Context>),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    /// By the function of `digest`; where nothing is promised, the faster one.
    pub(super) fn like(digest: Option<PlainDigest>) -> Self {
        match digest {
            Some(PlainDigest::Sha256(_)) => {
                Self::Sha256(Box::new(ring::digest::Context::new(&ring::digest::SHA256)))
            }
            _ => Self::Blake3(Box::default()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Blake3(hasher) => {
                hasher.update(bytes);
            }
        }
    }

    pub(super) fn finish(self) -> PlainDigest {
        match self {
            Self::Sha256(hasher) => {
                let mut bytes = [0; 32];
                bytes.copy_from_slice(hasher.finish().as_ref());
                PlainDigest::Sha256(bytes)
            }
            Self::Blake3(hasher) => PlainDigest::Blake3(*hasher.finalize().as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_and_written() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let digest = PlainDigest::parse(empty).unwrap();
        assert_eq!(digest.to_string(), empty);
        assert_eq!(Hasher::like(Some(digest)).finish(), digest);
        let blake = format!("blake3:{}", blake3::hash(b"").to_hex());
        assert_eq!(Hasher::like(PlainDigest::parse(&blake).ok()).finish().to_string(), blake);
        for wrong in ["", "sha256:", "md5:00", "sha256:xy", &empty[..70]] {
            assert!(PlainDigest::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_this_machine_may_speak_in_the_open() {
        for (text, is_fine) in [
            ("https://a.example/x", true),
            ("http://127.0.0.1:80/x", true),
            ("http://[::1]/x", true),
            ("http://localhost/x", true),
            ("http://a.example/x", false),
            ("http://127.0.0.1.example/x", false),
            ("https://user:word@a.example/x", false),
            ("ftp://a.example/x", false),
        ] {
            assert_eq!(check_address(text).is_ok(), is_fine, "{text}");
        }
    }
}
