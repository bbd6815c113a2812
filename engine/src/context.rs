//! `TaskCx`: all that a running task may see or touch.
//!
//! A struct and not a trait: there is one implementation, and tests build it with [`TaskCx::for_test`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dag_cache::{Digest, RecordLog, Writer};
use indexmap::IndexMap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::allowance::Allowance;
use crate::canonical;
use crate::task::TaskError;

/// One artifact that enters a task.
#[derive(Debug, Clone)]
pub struct Input {
    /// Where its node stands on its axes; the labels of a gathered input.
    pub coordinates: IndexMap<String, String>,
    /// The name of its node. For messages only: names are in no key, so no byte of an output may depend on it.
    pub node: String,
    /// Where its bytes are: a read-only file, or a directory of read-only files.
    pub path: PathBuf,
    /// The digest of its bytes.
    pub digest: Digest,
}

/// Asks a task to stop. Cheap to clone and to look at.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Something a running task tells. Telemetry: it goes to the journal and the console, never into an artifact.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Note {
    /// How many records there will be.
    Total {
        /// The count.
        records: u64,
    },
    /// Records finished since the last note.
    Done {
        /// How many.
        records: u64,
    },
    /// Records taken from the store instead of made.
    Reused {
        /// How many.
        records: u64,
    },
    /// Tokens since the last note.
    Tokens {
        /// Read.
        input: u64,
        /// Written, or trained on.
        output: u64,
    },
    /// Millionths of a dollar that a record cost.
    Spent {
        /// How many.
        millionths: u64,
    },
    /// Millionths of a dollar that reused records would have cost.
    Saved {
        /// How many.
        millionths: u64,
    },
    /// A record that failed.
    Failed {
        /// What kind of failure.
        kind: String,
    },
    /// What the task is doing.
    Message {
        /// In words.
        text: String,
    },
    /// One point of a curve, such as the training loss.
    Point {
        /// The curve.
        series: String,
        /// Where.
        x: f64,
        /// How high.
        y: f64,
    },
    /// Something the user should know.
    Warning {
        /// In words.
        text: String,
    },
}

/// The way a task's notes leave it. Cheap to clone, and may be used from any thread.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(Note) + Send + Sync>);

impl Progress {
    /// Progress that goes to `sink`.
    pub fn to(sink: impl Fn(Note) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    /// There will be `records` records.
    pub fn total(&self, records: u64) {
        (self.0)(Note::Total { records });
    }

    /// `records` more are finished.
    pub fn done(&self, records: u64) {
        (self.0)(Note::Done { records });
    }

    /// `records` were in the store already.
    pub fn reused(&self, records: u64) {
        (self.0)(Note::Reused { records });
    }

    /// So many tokens more.
    pub fn tokens(&self, input: u64, output: u64) {
        (self.0)(Note::Tokens { input, output });
    }

    /// A record cost so many dollars.
    pub fn spent(&self, dollars: f64) {
        (self.0)(Note::Spent { millionths: (dollars * 1e6).round() as u64 });
    }

    /// So many dollars that need not be spent.
    pub fn saved(&self, dollars: f64) {
        (self.0)(Note::Saved { millionths: (dollars * 1e6).round() as u64 });
    }

    /// A record failed.
    pub fn failed(&self, kind: &str) {
        (self.0)(Note::Failed { kind: kind.to_owned() });
    }

    /// What is being done.
    pub fn message(&self, text: &str) {
        (self.0)(Note::Message { text: text.to_owned() });
    }

    /// One point of a curve.
    pub fn point(&self, series: &str, x: f64, y: f64) {
        (self.0)(Note::Point { series: series.to_owned(), x, y });
    }

    /// Something the user should know.
    pub fn warning(&self, text: &str) {
        (self.0)(Note::Warning { text: text.to_owned() });
    }
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
}

/// A share of a task's records: those whose worker this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shard {
    /// Which, from zero.
    pub index: u32,
    /// Of how many.
    pub count: u32,
}

impl Shard {
    /// Whether what hashes to `digest` is of this share.
    pub fn holds(self, digest: &Digest) -> bool {
        let first = digest.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        first % u64::from(self.count.max(1)) == u64::from(self.index)
    }
}

/// Looks up an environment variable.
pub type EnvLookup = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What the run loop hands to a task.
pub struct TaskCx {
    pub(crate) inputs: BTreeMap<String, Vec<Input>>,
    pub(crate) files: BTreeMap<String, Vec<PathBuf>>,
    pub(crate) outputs: PathBuf,
    pub(crate) scratch: PathBuf,
    pub(crate) seed: u64,
    pub(crate) run: Value,
    pub(crate) env: EnvLookup,
    pub(crate) writer: Arc<Writer>,
    pub(crate) progress: Progress,
    pub(crate) cancel: Cancel,
    pub(crate) threads: usize,
    pub(crate) gpus: Vec<u32>,
    pub(crate) metrics: BTreeMap<String, Value>,
    pub(crate) owed: u64,
    pub(crate) allowance: Arc<Allowance>,
    pub(crate) shard: Option<Shard>,
}

impl TaskCx {
    /// The artifact in a port that takes exactly one.
    pub fn input(&self, port: &str) -> Result<&Input, TaskError> {
        self.optional(port).ok_or_else(|| TaskError::failed(format!("nothing enters the port `{port}`")))
    }

    /// The artifact in a port that may be empty.
    pub fn optional(&self, port: &str) -> Option<&Input> {
        self.inputs(port).first()
    }

    /// All artifacts in a port, in the order of their coordinates.
    pub fn inputs(&self, port: &str) -> &[Input] {
        self.inputs.get(port).map_or(&[], Vec::as_slice)
    }

    /// The names of the ports that something enters, sorted.
    pub fn ports(&self) -> impl Iterator<Item = &str> {
        self.inputs.keys().map(String::as_str)
    }

    /// The files that the param at `pointer` names; of data elsewhere, the pinned address.
    pub fn files(&self, pointer: &str) -> &[PathBuf] {
        self.files.get(pointer).map_or(&[], Vec::as_slice)
    }

    /// Where to write the file or directory of an output port.
    pub fn output(&self, port: &str) -> PathBuf {
        self.outputs.join(port)
    }

    /// The experiment's seed; zero where the kind does not use it.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The operational options of the kind.
    pub fn run_options<R: DeserializeOwned + Default>(&self) -> Result<R, TaskError> {
        if self.run.is_null() {
            return Ok(R::default());
        }
        serde_json::from_value(self.run.clone())
            .map_err(|error| TaskError::failed(format!("the options under `run:` do not fit: {error}")))
    }

    /// An environment variable, for secrets that `run:` names. Its value must reach no artifact, record or message.
    pub fn env(&self, name: &str) -> Option<String> {
        (self.env)(name)
    }

    /// The same, for other threads.
    pub fn environment(&self) -> EnvLookup {
        Arc::clone(&self.env)
    }

    /// A folder that outlives an interruption of this very action and is removed when it commits.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// The record log of a stream: what has been asked of one model with one set of sampling parameters.
    pub fn records(&self, stream: &Value) -> Result<Arc<RecordLog>, TaskError> {
        Ok(self.writer.record_log(&canonical::digest(stream), stream)?)
    }

    /// A fact about the outputs, kept in the record. It must follow from the manifest alone.
    pub fn metric(&mut self, name: &str, value: impl Into<Value>) {
        self.metrics.insert(name.to_owned(), value.into());
    }

    /// Commits as partial: so many records failed, and the next run owes them.
    pub fn owed(&mut self, failed: u64) {
        self.owed = failed;
    }

    /// The way telemetry leaves the task.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Something the user should know.
    pub fn warn(&self, text: &str) {
        self.progress.warning(text);
    }

    /// What the run may spend. A task that reaches the end of it keeps what it has and returns [`TaskError::Paused`].
    pub fn allowance(&self) -> Arc<Allowance> {
        Arc::clone(&self.allowance)
    }

    /// Whether the run asks the task to stop: then finish or checkpoint what is in flight, and return
    /// [`TaskError::Cancelled`].
    pub fn cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// The same, for other threads.
    pub fn cancel_token(&self) -> Cancel {
        self.cancel.clone()
    }

    /// The share of the records that this worker is to ask for, where several do. A task whose [`Task::splits`] is true then
    /// asks for them and returns; it need write no output.
    ///
    /// [`Task::splits`]: crate::Task::splits
    pub fn shard(&self) -> Option<Shard> {
        self.shard
    }

    /// How many threads the task may keep busy. In no key: no output byte may depend on it.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The ids of the GPUs that are the task's own while it runs.
    pub fn gpus(&self) -> &[u32] {
        &self.gpus
    }

    /// A context for the tests of a task kind; its store, outputs and scratch folder lie under `dir`.
    pub fn for_test(dir: &Path) -> TestCx {
        TestCx {
            dir: dir.to_owned(),
            inputs: BTreeMap::new(),
            files: BTreeMap::new(),
            seed: 0,
            run: Value::Null,
            env: BTreeMap::new(),
            threads: 1,
            allowance: Arc::default(),
            shard: None,
        }
    }

    /// The metrics given so far.
    pub fn metrics(&self) -> &BTreeMap<String, Value> {
        &self.metrics
    }

    /// The failed records given so far.
    pub fn owed_records(&self) -> u64 {
        self.owed
    }
}

/// Builds a [`TaskCx`] for a test.
pub struct TestCx {
    dir: PathBuf,
    inputs: BTreeMap<String, Vec<Input>>,
    files: BTreeMap<String, Vec<PathBuf>>,
    seed: u64,
    run: Value,
    env: BTreeMap<String, String>,
    threads: usize,
    allowance: Arc<Allowance>,
    shard: Option<Shard>,
}

impl TestCx {
    /// Adds an input.
    #[must_use]
    pub fn input(self, port: &str, path: impl Into<PathBuf>) -> Self {
        self.input_at(port, path, &[])
    }

    /// Adds a gathered input with its coordinates.
    #[must_use]
    pub fn input_at(mut self, port: &str, path: impl Into<PathBuf>, coordinates: &[(&str, &str)]) -> Self {
        let path = path.into();
        let digest = Digest::of(path.as_os_str().as_encoded_bytes());
        let coordinates =
            coordinates.iter().map(|&(axis, value)| (axis.to_owned(), value.to_owned())).collect();
        self.inputs.entry(port.to_owned()).or_default().push(Input {
            coordinates,
            node: port.to_owned(),
            path,
            digest,
        });
        self
    }

    /// Adds a local file for the param at `pointer`.
    #[must_use]
    pub fn file(mut self, pointer: &str, path: impl Into<PathBuf>) -> Self {
        self.files.entry(pointer.to_owned()).or_default().push(path.into());
        self
    }

    /// Sets the seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the operational options.
    #[must_use]
    pub fn run(mut self, run: Value) -> Self {
        self.run = run;
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// Sets the threads.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets what may be spent.
    #[must_use]
    pub fn allowance(mut self, allowance: Allowance) -> Self {
        self.allowance = Arc::new(allowance);
        self
    }

    /// Sets the share of the records.
    #[must_use]
    pub fn shard(mut self, index: u32, count: u32) -> Self {
        self.shard = Some(Shard { index, count });
        self
    }

    /// The context.
    pub fn build(self) -> Result<TaskCx, TaskError> {
        let outputs = self.dir.join("outputs");
        let scratch = self.dir.join("scratch");
        for folder in [&outputs, &scratch] {
            std::fs::create_dir_all(folder).map_err(|error| TaskError::io(folder, error))?;
        }
        Ok(TaskCx {
            inputs: self.inputs,
            files: self.files,
            outputs,
            scratch,
            seed: self.seed,
            run: self.run,
            env: Arc::new(move |name| self.env.get(name).cloned()),
            writer: Arc::new(Writer::open(&self.dir.join("store"))?),
            progress: Progress::to(|_| ()),
            cancel: Cancel::new(),
            threads: self.threads,
            gpus: Vec::new(),
            metrics: BTreeMap::new(),
            owed: 0,
            allowance: self.allowance,
            shard: self.shard,
        })
    }
}
