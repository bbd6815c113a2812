//! What addresses mean now, for keys: asked of the hub, or of what was last fetched from it where it is silent.

use std::sync::{Mutex, PoisonError};

use dag_engine::Digest;
use dag_engine::context::EnvLookup;
use dag_engine::remote::{Content, Pinned, Resolver};
use dag_engine::task::Missing;

use super::{Address, Hub, HubError, Kind, PlainDigest};

/// Pins addresses down. Nothing is opened before the first that needs to be asked for.
pub struct Remote {
    env: EnvLookup,
    hub: Mutex<Asked>,
}

enum Asked {
    NotYet,
    Open(Box<Hub>),
    /// It did not answer, or not to the point, and is not asked again: each attempt takes seconds.
    Silent(Box<Hub>, String),
}

impl Remote {
    /// With the environment that names the hub.
    pub fn new(env: EnvLookup) -> Self {
        Self { env, hub: Mutex::new(Asked::NotYet) }
    }

    /// The address of a data set or model, as a param's [`FileRef`](dag_engine::task::FileRef) holds it.
    pub fn pattern(address: &Address) -> String {
        let kind = match address.kind() {
            Kind::Dataset => "dataset",
            Kind::Model => "model",
        };
        format!("{kind} {address}")
    }

    /// The same of a file at a plain address.
    pub fn plain_pattern(url: &str, digest: &str) -> String {
        format!("{digest} {url}")
    }

    fn pin(&self, address: &Address) -> Result<Pinned, HubError> {
        let pinned = |commit: &str, warning| {
            let at = address.at(commit);
            Pinned { address: at.told(), content: Content::Identity(at.to_string()), warning }
        };
        if let Some(commit) = address.commit() {
            return Ok(pinned(commit, None));
        }
        let mut asked = self.hub.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*asked, Asked::NotYet) {
            *asked = Asked::Open(Box::new(Hub::open(&*self.env)?));
        }
        let error = match &*asked {
            Asked::Open(hub) => match hub.commit(address) {
                Ok(commit) => return Ok(pinned(&commit, None)),
                Err(error) if error.is_passing() => error,
                Err(error) => return Err(error),
            },
            Asked::Silent(hub, why) => HubError::Unreachable {
                what: HubError::named(address),
                endpoint: super::http::place(&hub.settings().endpoint),
                why: why.clone(),
                cache: hub.settings().cache.clone(),
            },
            Asked::NotYet => unreachable!("it has just been opened"),
        };
        *asked = match std::mem::replace(&mut *asked, Asked::NotYet) {
            Asked::Open(hub) => Asked::Silent(hub, error.why()),
            other => other,
        };
        let (Asked::Open(hub) | Asked::Silent(hub, _)) = &*asked else { return Err(error) };
        match hub.last_commit(address) {
            Some(commit) => {
                let last = &commit[..12];
                Ok(pinned(&commit, Some(format!("{error}; taken as last fetched here, commit {last}"))))
            }
            None => Err(error),
        }
    }
}

impl Resolver for Remote {
    fn resolve(&self, pattern: &str) -> Result<Pinned, Missing> {
        let wrong = |what: String| HubError::Address(what).missing();
        let (kind, address) = pattern.split_once(' ').unwrap_or_default();
        let kind = match kind {
            "dataset" => Kind::Dataset,
            "model" => Kind::Model,
            digest => {
                let digest = PlainDigest::parse(digest).map_err(wrong)?;
                let content = match digest {
                    PlainDigest::Blake3(bytes) => Content::Digest(Digest::from_bytes(bytes)),
                    PlainDigest::Sha256(_) => Content::Identity(digest.to_string()),
                };
                return Ok(Pinned { address: address.to_owned(), content, warning: None });
            }
        };
        let address = Address::parse(address, kind, None).map_err(wrong)?;
        self.pin(&address).map_err(|error| error.missing())
    }
}
