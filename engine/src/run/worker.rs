//! Runs one step on its own thread, or has it run elsewhere: catches its panics, tries again as the policy allows, and
//! sends one result.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use dag_cache::{Lease, Record, Writer};
use serde_json::Value;

use super::commit::commit;
use super::meter::Meter;
use super::services::{Need, Services};
use crate::allowance::Allowance;
use crate::call::{Call, CallInput, Delivery, place_inputs};
use crate::context::{Cancel, EnvLookup, Note, Progress};
use crate::executor::{Executor, Site};
use crate::files;
use crate::graph::{Placement, RunOptions};
use crate::order::{self, Order, without_secrets};
use crate::plan::Work;
use crate::registry::Step;
use crate::seed;
use crate::task::{Resources, TaskError};

/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// How often a waiting worker looks whether the run is stopping.
const LOOK: Duration = Duration::from_millis(50);

/// One step to run, with all that its context needs.
pub(crate) struct Job {
    pub(crate) node: u32,
    pub(crate) step: Arc<dyn Step>,
    pub(crate) work: Work,
    pub(crate) name: String,
    pub(crate) inputs: Vec<CallInput>,
    pub(crate) files: BTreeMap<String, Vec<PathBuf>>,
    pub(crate) seed: Option<u64>,
    pub(crate) options: Arc<RunOptions>,
    /// Who runs it, if not this process.
    pub(crate) executor: Option<Arc<dyn Executor>>,
    pub(crate) resources: Resources,
    /// The services it asks.
    pub(crate) services: Arc<Services>,
    pub(crate) needs: Vec<Need>,
    pub(crate) env: EnvLookup,
    pub(crate) allowance: Arc<Allowance>,
    pub(crate) writer: Arc<Writer>,
    /// The folder of this node in the run's work folder.
    pub(crate) folder: PathBuf,
    pub(crate) threads: usize,
    pub(crate) gpus: Vec<u32>,
    pub(crate) meter: Arc<Meter>,
    /// Set when the run is stopping: no further attempt then.
    pub(crate) stop: Cancel,
    pub(crate) backoff: Duration,
    pub(crate) lease: Lease,
    pub(crate) results: Sender<Message>,
}

/// Lets the run loop stop one attempt.
#[derive(Debug, Default)]
pub(crate) struct Control {
    pub(crate) cancel: Cancel,
    pub(crate) timed_out: AtomicBool,
}

/// What a worker tells the run loop.
pub(crate) enum Message {
    /// An attempt begins.
    Attempt { node: u32, control: Arc<Control> },
    /// An attempt failed; another follows after `wait`.
    Retry { node: u32, attempt: u32, error: String, wait: Duration },
    /// It is over.
    Ended { node: u32, result: Result<Record, Failure>, seconds: f64 },
}

/// Why a job gave no record.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It failed.
    Failed(String),
    /// It stopped because the run did.
    Cancelled,
    /// It went as far as the run allows.
    Paused(String),
    /// The bytes of an input are gone or damaged, so it could not begin.
    InputLost(String),
    /// It asks a service that was not begun.
    Unserved(String),
}

/// Starts the job on a thread of its own.
pub(crate) fn spawn(name: &str, job: Job) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || job.run()).map(drop)
}

impl Job {
    fn run(self) {
        let began = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| self.attempts()))
            .unwrap_or_else(|panic| Err(Failure::Failed(panic_text(&*panic))));
        // A left-over is removed with the run's work folder, or by a later run.
        let _ = files::remove_tree(&self.folder);
        let seconds = began.elapsed().as_secs_f64();
        let Self { node, results, lease, .. } = self;
        // Others may take the action before the loop hears of it: the record is there by now.
        drop(lease);
        // The loop is gone only if it was told to stop at once.
        let _ = results.send(Message::Ended { node, result, seconds });
    }

    fn attempts(&self) -> Result<Record, Failure> {
        let mut attempt = 1;
        loop {
            let control = Arc::new(Control::default());
            let _ = self.results.send(Message::Attempt { node: self.node, control: Arc::clone(&control) });
            let error = match catch_unwind(AssertUnwindSafe(|| self.attempt(&control))) {
                Ok(Ok(record)) => return Ok(record),
                Ok(Err(error)) => error,
                Err(panic) => return Err(Failure::Failed(panic_text(&*panic))),
            };
            let error = match error {
                TaskError::Transient(text) => text,
                TaskError::Cancelled if self.stop.is_cancelled() => return Err(Failure::Cancelled),
                TaskError::Cancelled if control.timed_out.load(Ordering::Relaxed) => {
                    format!("timed out after {} s", self.options.timeout.unwrap_or_default())
                }
                TaskError::Cancelled => {
                    return Err(Failure::Failed("the task stopped without being asked to".to_owned()));
                }
                TaskError::InputLost(text) => return Err(Failure::InputLost(text)),
                TaskError::Unserved(name) => return Err(Failure::Unserved(name)),
                TaskError::Paused(text) => return Err(Failure::Paused(text)),
                TaskError::Missing { what, help } => return Err(Failure::Failed(format!("{what} ({help})"))),
                error => return Err(Failure::Failed(error.to_string())),
            };
            if attempt > self.options.retries {
                return Err(Failure::Failed(error));
            }
            let wait = self.wait(attempt);
            let _ = self.results.send(Message::Retry { node: self.node, attempt, error, wait });
            let until = Instant::now() + wait;
            while Instant::now() < until {
                if self.stop.is_cancelled() {
                    return Err(Failure::Cancelled);
                }
                std::thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
            }
            self.meter.restart();
            attempt += 1;
        }
    }

    /// Twice as long each time, but for up to half of it, which differs between nodes and processes: what failed
    /// together should not come back together.
    fn wait(&self, attempt: u32) -> Duration {
        let full = self.backoff.saturating_mul(1 << (attempt - 1).min(16)).min(LONGEST_WAIT);
        let mixed = seed::derive(
            u64::from(std::process::id()),
            &[self.work.action.0.as_bytes(), &attempt.to_le_bytes()],
        );
        full.mul_f64(1.0 - 0.5 * (mixed as f64 / u64::MAX as f64))
    }

    fn attempt(&self, control: &Control) -> Result<Record, TaskError> {
        let run = self.services.ready(&self.needs, &self.options.task, &control.cancel, &|text| {
            self.meter.note(Note::Message { text: text.to_owned() });
        })?;
        let delivery = match &self.options.executor {
            None => self.here(run, control)?,
            Some(placement) => self.elsewhere(&run, placement, control)?,
        };
        let record = commit(&self.writer, &self.work, delivery)?;
        // What an action needed to go on is of no use once it is done; a left-over is only disk space.
        let _ = files::remove_tree(&self.scratch());
        Ok(record)
    }

    fn scratch(&self) -> PathBuf {
        self.writer.view().layout().scratch(&self.work.action.0)
    }

    /// Calls the task on this thread.
    fn here(&self, run: Value, control: &Control) -> Result<Delivery, TaskError> {
        let meter = Arc::clone(&self.meter);
        Call {
            step: &*self.step,
            inputs: place_inputs(self.writer.view(), &self.inputs, &self.folder.join("inputs"))?,
            files: self.files.clone(),
            seed: self.seed,
            run,
            env: Arc::clone(&self.env),
            writer: Arc::clone(&self.writer),
            outputs: self.folder.join("outputs"),
            scratch: self.scratch(),
            progress: Progress::to(move |note| meter.note(note)),
            cancel: control.cancel.clone(),
            threads: self.threads,
            gpus: self.gpus.clone(),
            allowance: Arc::clone(&self.allowance),
            shard: None,
        }
        .make()
    }

    /// Has an executor do it.
    fn elsewhere(
        &self,
        run: &Value,
        placement: &Placement,
        control: &Control,
    ) -> Result<Delivery, TaskError> {
        let executor = self
            .executor
            .as_ref()
            .ok_or_else(|| TaskError::failed(format!("there is no executor `{}`", placement.name)))?;
        let (run, names, secrets) = without_secrets(run, &self.options.secrets);
        let allowance = &self.allowance;
        // An allowance is not shared between processes: then one worker does all of it.
        let is_shared = self.step.splits() && allowance.budget().is_none() && allowance.pilot().is_none();
        let order = Order {
            version: order::VERSION,
            action: self.work.action.0,
            kind: self.step.kind().to_owned(),
            task_version: self.step.version(),
            params: serde_json::from_slice(self.step.params()).expect("params are canonical JSON"),
            run,
            secrets: names,
            seed: self.seed,
            inputs: self.inputs.clone(),
            files: self.files.clone(),
            resources: self.resources,
            budget: allowance.left(),
            pilot: allowance.pilot(),
            shards: self.options.shards.filter(|_| is_shared).unwrap_or(1),
        };
        let meter = Arc::clone(&self.meter);
        let site = Site {
            node: self.name.clone(),
            folder: self.writer.view().layout().job(&self.work.action.0),
            view: self.writer.view().clone(),
            secrets,
            cancel: control.cancel.clone(),
            tell: Arc::new(move |news| meter.take(news)),
        };
        let delivery = executor.execute(&order, &placement.options, &site);
        // What the workers spent is spent, whatever came of it.
        self.allowance.settle(0.0, self.meter.counts().spent as f64 / 1e6);
        let delivery = delivery?;
        for output in delivery.outputs.values() {
            self.writer.view().check_output(output)?;
        }
        Ok(delivery)
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the task panicked: {}", text.unwrap_or("no message"))
}
