//! Executors: tasks that run elsewhere than in the process of `dag run`.
//!
//! ```text
//! execute   slurm, ray    an order and the options of a node → what was delivered
//! drive     drive         submits what is wanted, hears what came of it, submits again what was lost
//! queue     queue         the contract of a scheduler: submit, find, states, cancel
//! folder    folder        the files through which coordinator and workers speak; both sides
//! work      work          the worker: carries out one part of an order, and says so in its folder
//! services  service       servers that nodes ask, each replica under a supervisor of its own
//! script    script        what a job's tasks run: a few lines of shell that start a worker
//! ```
//!
//! Only the coordinator, the process of `dag run`, commits. A worker writes blobs and records into the store, and its
//! exit file last. An attempt that still runs when another has taken its place can do no harm: its files have names of
//! their own, and nobody reads them any more.

mod copy;
mod drive;
mod folder;
mod program;
mod queue;
mod ray;
mod script;
mod service;
mod slurm;
mod time;
mod work;

use std::sync::Arc;

use dag_engine::executor::Executor;
use dag_engine::service::Host;

pub use folder::{Part, logs};
pub use service::{Serve, serve};
pub use work::{Duty, Ended, work};

use ray::Ray;
use service::Services;
use slurm::Slurm;

/// What runs tasks and services elsewhere. Whatever speaks to one scheduler shares what it said last, so that it is asked
/// once for all.
#[derive(Default)]
pub struct Cluster {
    slurm: Arc<Slurm>,
}

impl Cluster {
    /// All executors there are.
    pub fn executors(&self) -> Vec<Arc<dyn Executor>> {
        vec![Arc::new(Ray), Arc::clone(&self.slurm) as Arc<dyn Executor>]
    }

    /// Who keeps services up.
    pub fn host(&self) -> Arc<dyn Host> {
        Arc::new(Services::new(Arc::clone(&self.slurm)))
    }
}
