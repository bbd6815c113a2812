//! Which shared cache is used, and with which key: from arguments, environment and experiment to one that is open.

use dag_cache::{Remote, RemoteOptions, SigningKey};
use dag_engine::spec::RemoteSpec;
use dag_remote::Address;

use crate::environment::variable;
use crate::failure::Failure;

/// What says on the command line that there is none.
const NONE: &str = "none";
/// Holds the key.
const KEY: &str = "DAG_REMOTE_KEY";
/// Names a file that holds the key.
const KEY_FILE: &str = "DAG_REMOTE_KEY_FILE";

/// A shared cache that was named.
pub enum Opened {
    /// It can be used.
    With(Remote),
    /// It cannot, and the run does without it.
    Without {
        /// Its address.
        url: String,
        /// Why, with what to do.
        why: String,
    },
}

/// Opens what `named`, the command line's or the environment's word, or else the experiment says.
pub fn open(named: Option<&str>, spec: Option<&RemoteSpec>) -> Result<Option<Opened>, Failure> {
    let spec = match (named, spec) {
        (Some(NONE), _) | (None, None) => return Ok(None),
        // Options belong to the address they were written for.
        (Some(url), _) => RemoteSpec { url: url.to_owned(), ..RemoteSpec::default() },
        (None, Some(spec)) => spec.clone(),
    };
    let address = Address::parse(&spec.url).map_err(|error| Failure::user(error.to_string()))?;
    let url = address.to_string();
    let key = if spec.sign.or(address.sign).unwrap_or(true) {
        let Some(key) = key()? else {
            let why = format!(
                "its records are signed, and neither {KEY} nor {KEY_FILE} is set (`sign: false`, or `?sign=false` after \
                 the address, does without)"
            );
            return Ok(Some(Opened::Without { url, why }));
        };
        Some(key)
    } else {
        None
    };
    let options = RemoteOptions { key, write: spec.write.or(address.write).unwrap_or(true) };
    match dag_remote::open(&address) {
        Ok(place) => Ok(Some(Opened::With(Remote::new(place, options)))),
        Err(error) => Ok(Some(Opened::Without { url, why: error.to_string() })),
    }
}

/// The key that the environment holds or names.
fn key() -> Result<Option<SigningKey>, Failure> {
    let (name, text) = match (variable(KEY), variable(KEY_FILE)) {
        (Some(text), _) if !text.is_empty() => (KEY, text),
        (_, Some(path)) if !path.is_empty() => {
            let read = std::fs::read_to_string(&path);
            (
                KEY_FILE,
                read.map_err(|error| {
                    Failure::user(format!("the {KEY_FILE} `{path}` cannot be read: {error}"))
                })?,
            )
        }
        _ => return Ok(None),
    };
    SigningKey::new(&text).map(Some).map_err(|error| Failure::user(format!("{name}: {error}")))
}
