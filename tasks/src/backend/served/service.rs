//! A service that is asked: where it answers changes while it is, and is read again and again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use dag_engine::context::Cancel;
use dag_engine::service::{self, Endpoint};
use dag_engine::task::TaskError;

use super::super::{BackendRun, ServiceRef};
use super::pool::{Address, Pool};
use super::request::base;

/// How often to look where it answers.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// Looks where a service answers.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    name: String,
    folder: PathBuf,
    replicas: u32,
    start_within: f64,
    has_key: bool,
}

impl Watch {
    /// Of the service of a node that is about to run, if it asks one.
    pub(super) fn of(run: &BackendRun, has_key: bool) -> Option<Self> {
        let Some(ServiceRef::Placed(placed)) = &run.service else { return None };
        Some(Self {
            name: placed.name.clone(),
            folder: placed.folder.clone(),
            replicas: placed.replicas,
            start_within: placed.start_within,
            has_key,
        })
    }

    pub(super) fn replicas(&self) -> usize {
        self.replicas.max(1) as usize
    }

    /// How long nothing of it may answer: as long as it may take to begin.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.start_within.clamp(1.0, 1e7))
    }

    /// Tells the pool where it answers now; gives what was found.
    pub(super) fn look(&self, pool: &Pool) -> Vec<Endpoint> {
        if let Some(why) = service::failure(&self.folder) {
            pool.give_up(format!("the service `{}`: {why}", self.name));
            return Vec::new();
        }
        // What cannot be read now is read the next time.
        let endpoints = service::endpoints(&self.folder).unwrap_or_default();
        let mut addresses = Vec::new();
        for endpoint in &endpoints {
            match base(&endpoint.url, self.has_key) {
                Ok(url) => addresses.push(Address { url, nonce: endpoint.nonce.clone() }),
                Err(why) => pool.give_up(format!("the service `{}`: {why}", self.name)),
            }
        }
        pool.update(&addresses, Instant::now());
        endpoints
    }

    /// Waits until it answers somewhere; gives what it calls its model, or nothing where the run stops first.
    pub(super) fn wait(&self, pool: &Pool, cancel: &Cancel) -> Result<Option<String>, TaskError> {
        let began = Instant::now();
        loop {
            if let Some(endpoint) = self.look(pool).into_iter().next() {
                return Ok(Some(endpoint.model));
            }
            if cancel.is_cancelled() {
                return Ok(None);
            }
            if let Some(why) = pool.gone() {
                return Err(TaskError::Transient(why));
            }
            if began.elapsed() >= self.patience() {
                return Err(TaskError::Transient(format!(
                    "the service `{}` does not answer anywhere; its files are in `{}`",
                    self.name,
                    self.folder.display()
                )));
            }
            std::thread::sleep(LOOK);
        }
    }
}
