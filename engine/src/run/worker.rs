//! Runs one step on its own thread: places its inputs, catches its panics, tries again as the policy allows, and sends
//! one result.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use dag_cache::{CacheError, Lease, Output, Record, Writer};
use indexmap::IndexMap;

use super::commit::commit;
use super::meter::Meter;
use crate::allowance::Allowance;
use crate::context::{Cancel, EnvLookup, Input, Progress, TaskCx};
use crate::files;
use crate::graph::RunOptions;
use crate::plan::Work;
use crate::registry::Step;
use crate::seed;
use crate::task::TaskError;

/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// How often a waiting worker looks whether the run is stopping.
const LOOK: Duration = Duration::from_millis(50);

/// One step to run, with all that its context needs.
pub(crate) struct Job {
    pub(crate) node: u32,
    pub(crate) step: Arc<dyn Step>,
    pub(crate) work: Work,
    pub(crate) inputs: Vec<JobInput>,
    pub(crate) files: BTreeMap<String, Vec<PathBuf>>,
    pub(crate) seed: Option<u64>,
    pub(crate) options: Arc<RunOptions>,
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

/// An artifact that enters a job.
pub(crate) struct JobInput {
    pub(crate) port: String,
    pub(crate) coordinates: IndexMap<String, String>,
    pub(crate) node: String,
    pub(crate) output: Output,
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
        let inputs = self.place_inputs()?;
        let mut attempt = 1;
        loop {
            let control = Arc::new(Control::default());
            let _ = self.results.send(Message::Attempt { node: self.node, control: Arc::clone(&control) });
            let error = match catch_unwind(AssertUnwindSafe(|| self.attempt(&inputs, &control))) {
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

    fn attempt(&self, inputs: &BTreeMap<String, Vec<Input>>, control: &Control) -> Result<Record, TaskError> {
        let outputs = self.folder.join("outputs");
        let scratch = self.writer.view().layout().scratch(&self.work.action.0);
        files::remove_tree(&outputs).map_err(|error| TaskError::io(&outputs, error))?;
        for folder in [&outputs, &scratch] {
            std::fs::create_dir_all(folder).map_err(|error| TaskError::io(folder, error))?;
        }
        let meter = Arc::clone(&self.meter);
        let mut cx = TaskCx {
            inputs: inputs.clone(),
            files: self.files.clone(),
            outputs: outputs.clone(),
            scratch: scratch.clone(),
            seed: self.seed.unwrap_or_default(),
            run: self.options.task.clone(),
            env: Arc::clone(&self.env),
            writer: Arc::clone(&self.writer),
            progress: Progress::to(move |note| meter.note(note)),
            cancel: control.cancel.clone(),
            threads: self.threads,
            gpus: self.gpus.clone(),
            metrics: BTreeMap::new(),
            owed: 0,
            allowance: Arc::clone(&self.allowance),
        };
        self.step.run(&mut cx)?;
        let record = commit(&self.writer, &*self.step, &self.work, &outputs, &cx)?;
        // What an action needed to go on is of no use once it is done; a left-over is only disk space.
        let _ = files::remove_tree(&scratch);
        Ok(record)
    }

    /// Puts every input where the task finds it, hashed.
    fn place_inputs(&self) -> Result<BTreeMap<String, Vec<Input>>, Failure> {
        let folder = self.folder.join("inputs");
        let failed =
            |path: &Path, error: &std::io::Error| Failure::Failed(format!("{}: {error}", path.display()));
        // A folder of this name can be left only by an earlier try of this very run.
        files::remove_tree(&folder).map_err(|error| failed(&folder, &error))?;
        std::fs::create_dir_all(&folder).map_err(|error| failed(&folder, &error))?;
        let mut inputs: BTreeMap<String, Vec<Input>> = BTreeMap::new();
        for (number, input) in self.inputs.iter().enumerate() {
            let path = folder.join(format!("{number}-{}", input.port));
            match self.writer.view().materialize(&input.output, &path) {
                Ok(()) => {}
                Err(error @ (CacheError::MissingBlob { .. } | CacheError::CorruptBlob { .. })) => {
                    return Err(Failure::InputLost(error.to_string()));
                }
                Err(error) => return Err(Failure::Failed(error.to_string())),
            }
            inputs.entry(input.port.clone()).or_default().push(Input {
                coordinates: input.coordinates.clone(),
                node: input.node.clone(),
                path,
                digest: input.output.digest,
            });
        }
        Ok(inputs)
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the task panicked: {}", text.unwrap_or("no message"))
}
