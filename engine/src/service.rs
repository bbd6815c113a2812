//! `Service`: a server that nodes ask, described in the experiment and kept up while one of them needs it.
//!
//! Who keeps it up is a [`Host`]; where it answers is told by small files in a folder of its own, which the host writes and
//! whoever asks reads again and again: an endpoint that went away is replaced by its successor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dag_cache::{Digest, View};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::canonical;
use crate::context::Cancel;
use crate::graph::Placement;
use crate::task::Resources;

/// What stands for the folder of the model in a service's argv.
pub const MODEL: &str = "{model}";
/// What stands for the port it is to listen at.
pub const PORT: &str = "{port}";
/// What stands for the address it is to listen at.
pub const HOST: &str = "{host}";

/// A service as an experiment describes it. Operational: it is in no key.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Its name in the file.
    pub name: String,
    /// The program and its arguments, with [`MODEL`], [`PORT`] and [`HOST`] in them.
    pub argv: Vec<String>,
    /// How many of it there are.
    pub replicas: u32,
    /// The path that answers 200 once it can be asked.
    pub health: String,
    /// Seconds it may take to begin.
    pub start_within: f64,
    /// Seconds it may leave the question after its health unanswered once it has answered, before it is taken for hung and
    /// started again; zero is for ever.
    pub hang_after: f64,
    /// Seconds it outlives the processes that want it, should they die without a word.
    pub lease: f64,
    /// The address under which others reach it.
    pub host: Option<String>,
    /// Its port; a free one where none is given.
    pub port: Option<u16>,
    /// Further environment variables of it.
    pub env: BTreeMap<String, String>,
    /// Those of them whose values must reach no file.
    pub secrets: BTreeSet<String>,
    /// What each replica holds.
    pub resources: Resources,
    /// Who runs it, if not this machine.
    pub executor: Option<Placement>,
}

impl Service {
    /// Whether it serves a model that enters a node.
    pub fn serves_model(&self) -> bool {
        self.argv.iter().any(|word| word.contains(MODEL))
    }

    /// GPUs of this machine that all its replicas hold together.
    pub fn local_gpus(&self) -> u32 {
        if self.executor.is_none() { self.resources.gpus.saturating_mul(self.replicas) } else { 0 }
    }

    /// What tells this service with this model from all others. Secrets are in it by their names only.
    pub fn instance(&self, model: Option<&Digest>) -> Digest {
        let env = self.env.iter().filter(|(name, _)| !self.secrets.contains(*name));
        canonical::digest(&json!({
            "name": self.name, "argv": self.argv, "replicas": self.replicas, "health": self.health,
            "start_within": self.start_within.to_string(), "hang_after": self.hang_after.to_string(),
            "lease": self.lease.to_string(), "host": self.host, "port": self.port,
            "env": env.collect::<BTreeMap<_, _>>(),
            "secrets": self.secrets, "resources": self.resources,
            "executor": self.executor.as_ref().map(|placement| (&placement.name, placement.options.to_string())),
            "model": model.map(ToString::to_string),
        }))
    }
}

/// That a node asks a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceUse {
    /// Where its name stands below the node's `run:`, as a JSON pointer.
    pub pointer: String,
    /// Its name.
    pub name: String,
    /// The port whose model it is to serve, where it is one that enters the node.
    pub model: Option<&'static str>,
}

/// Keeps services up.
pub trait Host: Send + Sync {
    /// Keeps a service up until `site.stop` is raised, from wherever an earlier process has left it. Comes back when it runs
    /// no more, or when others go on with it; an error says why it could not be kept up, and what to do.
    fn keep(&self, service: &Service, site: &ServiceSite) -> Result<(), String>;
}

/// Where a host works, and how it is heard.
pub struct ServiceSite {
    /// Of this service, with this model, alone.
    pub folder: PathBuf,
    /// The store.
    pub view: View,
    /// Where the model lies.
    pub model: Option<PathBuf>,
    /// GPUs of this machine that are its own.
    pub gpus: Vec<u32>,
    /// Who wants it: a run.
    pub holder: String,
    /// Raised when nobody wants it any more.
    pub stop: Cancel,
    /// Takes what is new.
    pub tell: Arc<dyn Fn(ServiceNews) + Send + Sync>,
}

/// What a host tells of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceNews {
    /// Nothing of it answers; why.
    Waiting(String),
    /// So many replicas answer.
    Up(u32),
    /// Something the user should know.
    Warning(String),
}

/// Where one replica answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Its address up to `/v1`.
    pub url: String,
    /// The machine.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The server's process, which leads a group of its own.
    pub process: u32,
    /// What the scheduler calls its job; empty for a process of this machine.
    pub job: String,
    /// Of this start of the server alone.
    pub nonce: String,
    /// What the server calls the first of its models.
    pub model: String,
}

/// The file in which attempt `attempt` of a replica says where it answers.
pub fn endpoint_file(folder: &Path, replica: u32, attempt: u32) -> PathBuf {
    folder.join(format!("{replica}.{attempt}.endpoint.json"))
}

/// The file that says why a service was given up.
pub fn failure_file(folder: &Path) -> PathBuf {
    folder.join("failed")
}

/// Where the service of a folder answers now: of each replica the newest attempt that has said so.
pub fn endpoints(folder: &Path) -> io::Result<Vec<Endpoint>> {
    let mut newest: BTreeMap<u32, (u32, Endpoint)> = BTreeMap::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name();
        let Some((replica, attempt)) =
            name.to_str().and_then(|name| name.strip_suffix(".endpoint.json")?.split_once('.'))
        else {
            continue;
        };
        let (Ok(replica), Ok(attempt)) = (replica.parse(), attempt.parse()) else { continue };
        // It may be gone again, or shown before its content is.
        let read = fs::read(endpoint_file(folder, replica, attempt)).ok();
        let Some(endpoint) = read.and_then(|bytes| serde_json::from_slice(&bytes).ok()) else { continue };
        if newest.get(&replica).is_none_or(|(known, _)| *known < attempt) {
            newest.insert(replica, (attempt, endpoint));
        }
    }
    Ok(newest.into_values().map(|(_, endpoint)| endpoint).collect())
}

/// Why the service of a folder was given up, if it was.
pub fn failure(folder: &Path) -> Option<String> {
    fs::read_to_string(failure_file(folder)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_attempt_of_each_replica_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let write = |replica, attempt, port| {
            let endpoint = Endpoint {
                url: format!("http://127.0.0.1:{port}/v1"),
                host: "127.0.0.1".into(),
                port,
                process: 1,
                job: String::new(),
                nonce: "n".into(),
                model: "m".into(),
            };
            let path = endpoint_file(folder.path(), replica, attempt);
            fs::write(path, serde_json::to_vec(&endpoint).unwrap()).unwrap();
        };
        write(0, 2, 12);
        write(0, 10, 20);
        write(1, 1, 31);
        fs::write(folder.path().join("2.1.endpoint.json"), "{").unwrap();
        fs::write(folder.path().join("lease"), "").unwrap();
        let ports: Vec<u16> =
            endpoints(folder.path()).unwrap().iter().map(|endpoint| endpoint.port).collect();
        assert_eq!(ports, [20, 31]);
        assert_eq!(endpoints(&folder.path().join("none")).unwrap(), []);
    }
}
