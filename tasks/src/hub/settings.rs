//! What the environment says of the hub, by the variables that Hugging Face's own tools read.

use std::fs;
use std::path::{Path, PathBuf};

use reqwest::Url;

use super::error::HubError;
use super::plain::is_loopback;

/// Where the hub is where nobody says otherwise.
const ENDPOINT: &str = "https://huggingface.co";

/// Which hub, who asks, and where files are kept.
#[derive(Clone)]
pub struct Settings {
    /// The hub (`HF_ENDPOINT`).
    pub endpoint: Url,
    /// Where repositories are kept (`HF_HUB_CACHE`, else `hub` in `HF_HOME`).
    pub cache: PathBuf,
    /// Whether nothing may be asked (`HF_HUB_OFFLINE`).
    pub is_offline: bool,
    home: PathBuf,
    token: Option<String>,
}

impl Settings {
    /// Reads the environment. The token is `HF_TOKEN`, else what `HF_TOKEN_PATH` or `token` in `HF_HOME` holds.
    pub fn from(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let given = |name: &str| env(name).filter(|value| !value.trim().is_empty());
        let user = given("HOME").map(PathBuf::from);
        let path = |value: String| match (value.strip_prefix("~/"), &user) {
            (Some(rest), Some(user)) => user.join(rest),
            _ => PathBuf::from(value),
        };
        let home = match (given("HF_HOME"), given("XDG_CACHE_HOME"), &user) {
            (Some(home), ..) => path(home),
            (None, Some(caches), _) => path(caches).join("huggingface"),
            (None, None, Some(user)) => user.join(".cache/huggingface"),
            (None, None, None) => return Err(HubError::NoHome),
        };
        let cache = given("HF_HUB_CACHE")
            .or_else(|| given("HUGGINGFACE_HUB_CACHE"))
            .map_or_else(|| home.join("hub"), path);
        let token_file = given("HF_TOKEN_PATH").map_or_else(|| home.join("token"), path);
        let token = given("HF_TOKEN").or_else(|| given("HUGGING_FACE_HUB_TOKEN"));
        let token = token.or_else(|| fs::read_to_string(token_file).ok());
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        let is_offline = given("HF_HUB_OFFLINE").is_some_and(|value| {
            matches!(value.trim().to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on")
        });
        let text = given("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = check_endpoint(text.trim(), token.is_some()).map_err(HubError::Endpoint)?;
        Ok(Self { endpoint, cache, is_offline, home, token })
    }

    /// The token, for requests to the endpoint.
    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Where files of plain addresses are kept, by their digests.
    pub(super) fn plain(&self) -> PathBuf {
        self.home.join("dag/files")
    }
}

fn check_endpoint(text: &str, has_token: bool) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error| format!("`{text}` is no address ({error})"))?;
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(&url) || !has_token => {}
        "http" => return Err(format!("`{text}` would carry the token in the open: it must be `https://`")),
        _ => return Err(format!("`{text}` is neither `https://` nor `http://`")),
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err("the address holds more than a place".to_owned());
    }
    Ok(url)
}

/// Bytes that are free where `path` will be.
pub(super) fn free_bytes(path: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let existing = path.ancestors().find(|ancestor| ancestor.exists())?;
    let name = std::ffi::CString::new(existing.as_os_str().as_bytes()).ok()?;
    // SAFETY: an all-zero `statvfs` is a valid value of a plain C struct of integers.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `name` is a C string and `found` is owned here; both outlive the call.
    (unsafe { libc::statvfs(name.as_ptr(), &raw mut found) } == 0)
        .then(|| found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings, HubError> {
        Settings::from(&|name| {
            variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_places_are_those_of_hugging_faces_tools() {
        let cache = |variables| settings(variables).unwrap().cache;
        assert_eq!(cache(&[("HOME", "/u")]), Path::new("/u/.cache/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/u"), ("HF_HOME", "~/hf")]), Path::new("/u/hf/hub"));
        assert_eq!(cache(&[("HF_HOME", "/a"), ("HF_HUB_CACHE", "/b")]), Path::new("/b"));
        assert!(settings(&[]).is_err());
    }

    #[test]
    fn a_token_is_taken_from_the_file_and_never_sent_in_the_open() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        assert_eq!(settings(&[("HF_HOME", home)]).unwrap().token(), Some("hf_file"));
        assert_eq!(settings(&[("HF_HOME", home), ("HF_TOKEN", "hf_env")]).unwrap().token(), Some("hf_env"));
        for (endpoint, is_fine) in [
            ("http://127.0.0.1:9", true),
            ("http://mirror.example", false),
            ("https://mirror.example/hf", true),
        ] {
            assert_eq!(
                settings(&[("HF_HOME", home), ("HF_ENDPOINT", endpoint)]).is_ok(),
                is_fine,
                "{endpoint}"
            );
        }
    }
}
