//! The run: one loop owns all state and waits on one channel; every running node has a thread of its own.
//!
//! `Run` plans, checks that nothing is missing, then decides and starts nodes as what they read is committed. An action
//! is executed under its lease (C5): while another process holds it the loop does other work, and takes that process's
//! record in the end, so nothing is computed twice.

mod commit;
mod execution;
mod meter;
mod preflight;
mod schedule;
mod services;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dag_cache::{CacheError, Writer};

pub use meter::Meter;
pub use preflight::{MissingThing, preflight};
pub use schedule::Capacity;

use crate::context::Cancel;
use crate::event::{Ends, Reporter, RunResult};
use crate::executor::Executor;
use crate::files;
use crate::graph::Graph;
use crate::journal::{self, Journal};
use crate::plan::{PlanError, Planner, Selection};
use crate::remote::Resolver;
use crate::service::Host;
use crate::stat_cache::Clock;
use crate::task::Environment;
use execution::Execution;

/// So many nodes are with one executor at a time: each takes a thread here that waits for it.
const MOST_ELSEWHERE: u32 = 64;

/// What a run is asked to do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The nodes it is about.
    pub selection: Selection,
    /// Whether nodes that do not depend on a failed one are still run.
    pub keep_going: bool,
    /// What the machine offers. Its limits take precedence over those of the graph.
    pub capacity: Capacity,
    /// The experiment file as the user named it.
    pub file: String,
    /// The wait before the second attempt of a node; it doubles with every further one.
    pub backoff: Duration,
    /// Dollars that all nodes together may spend.
    pub budget: Option<f64>,
    /// Records that each node may ask a model for.
    pub pilot: Option<u64>,
}

/// The parts of the world a run may look at.
#[derive(Clone)]
pub struct World {
    /// The clock.
    pub clock: Clock,
    /// Environment variables, GPUs, the folder of the experiment file.
    pub environment: Arc<dyn Environment + Send + Sync>,
    /// Who knows what addresses of data elsewhere mean.
    pub resolver: Arc<dyn Resolver>,
    /// Who runs tasks elsewhere, by name.
    pub executors: BTreeMap<String, Arc<dyn Executor>>,
    /// Who keeps services up.
    pub host: Option<Arc<dyn Host>>,
}

/// How the user stops a run.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    /// Start nothing any more; what runs may finish or checkpoint.
    pub stop: Cancel,
    /// Leave at once. What runs is abandoned; the caller ends the process.
    pub abort: Cancel,
}

/// A run that is about to begin.
pub struct Run<'a> {
    /// What is run.
    pub graph: &'a Graph,
    /// The store.
    pub writer: Arc<Writer>,
    /// What is asked.
    pub settings: Settings,
    /// The world.
    pub world: World,
    /// How to stop it.
    pub interrupt: Interrupt,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Its id.
    pub run: String,
    /// In one word.
    pub result: RunResult,
    /// How many nodes ended how.
    pub ends: Ends,
    /// The nodes that failed, with their errors.
    pub failures: Vec<(String, String)>,
    /// The nodes that went as far as the run allows, with what stopped them.
    pub paused: Vec<(String, String)>,
}

/// Why a run did not begin, or had to be given up.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Something is needed and not there; nothing was spent.
    #[error("{}", .0.iter().map(|missing| missing.what.as_str()).collect::<Vec<_>>().join("; "))]
    Missing(Vec<MissingThing>),
    /// The journal cannot be begun.
    #[error("failed to begin the journal of the run: {0}")]
    Journal(#[source] io::Error),
    /// The store failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl Run<'_> {
    /// Runs what is needed, and reports everything that happens.
    pub fn execute(mut self, reporter: &mut dyn Reporter) -> Result<Outcome, RunError> {
        let began = Instant::now();
        for (name, &count) in &self.graph.limits {
            self.settings.capacity.limits.entry(name.clone()).or_insert(count);
        }
        for name in self.world.executors.keys() {
            self.settings.capacity.limits.insert(preflight::executor_limit(name), MOST_ELSEWHERE);
        }
        let environment = &*self.world.environment;
        let clock = &self.world.clock;
        let mut planner = Planner::new(self.graph, self.writer.view(), environment.root(), Arc::clone(clock))
            .with_resolver(Arc::clone(&self.world.resolver));
        let plan = planner.plan(&self.settings.selection)?;
        let missing =
            preflight(self.graph, &plan, &self.settings.capacity, environment, &self.world.executors);
        if !missing.is_empty() {
            return Err(RunError::Missing(missing));
        }
        remove_work_of_the_dead(&self.writer);
        let (id, journal) =
            Journal::create(self.writer.view().layout(), milliseconds(clock)).map_err(RunError::Journal)?;
        let (mut execution, messages) = Execution::new(self, planner, &plan, id, journal, reporter);
        execution.announce(&plan);
        let complete = execution.work(&messages);
        Ok(execution.finish(began, complete))
    }
}

fn milliseconds(clock: &Clock) -> u64 {
    clock().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Removes what the tasks of runs that died were reading and writing. What they need to go on is in scratch folders.
fn remove_work_of_the_dead(writer: &Writer) {
    let layout = writer.view().layout();
    for entry in fs::read_dir(layout.work_of_all()).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(|run| journal::is_live(layout, run)) {
            // Another run may be removing it too; what stays is only disk space.
            let _ = files::remove_tree(&entry.path());
        }
    }
}
