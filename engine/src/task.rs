//! The contract that a task author reads: `trait Task`, what it declares and how it fails.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use dag_cache::{Digest, Logged, View};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use crate::artifact::{Arity, ArtifactType, Ports};
pub use crate::context::TaskCx;
pub use crate::service::ServiceUse;

/// One kind of work. Implemented once per kind; it is everything the engine needs to know about it.
///
/// All functions but [`run`](Task::run) are pure: they are called for planning, for `dag check` and for `dag schema`.
pub trait Task: Send + Sync + 'static {
    /// The value of `task:` in the experiment file.
    const KIND: &'static str;
    /// Bumped when equal inputs and params would give other bytes than before. It is in the key.
    const VERSION: u32;
    /// One line for the schema and for `dag schema --tasks`.
    const ABOUT: &'static str;
    /// What `with:` holds. Semantic: all of it is in the key, fields at their default left out.
    type Params: DeserializeOwned + Serialize + JsonSchema + Send + Sync + 'static;
    /// What `run:` holds for this kind, beside the engine's own options. Operational: never in a key.
    type Run: DeserializeOwned + Default + JsonSchema + Send + Sync + 'static;

    /// The named, typed inputs and outputs.
    fn ports(params: &Self::Params) -> Ports;

    /// Faults that the types of `Params` cannot express (a rate above one, two fields that exclude each other).
    fn check(_params: &Self::Params) -> Vec<Fault> {
        Vec::new()
    }

    /// The params that name files. Their content enters the key, their path does not.
    fn files(_params: &Self::Params) -> Vec<FileRef> {
        Vec::new()
    }

    /// Whether the experiment's `seed:` decides any byte of the output. Only then is it in the key.
    fn uses_seed(_params: &Self::Params) -> bool {
        false
    }

    /// What the key says of where the step is computed, given how many GPUs it has: something, if other bytes come out there than
    /// where it is left out.
    fn device(_params: &Self::Params, _gpus: u32) -> Option<&'static str> {
        None
    }

    /// Whether its records can be asked for in parts, each by a worker of its own (see [`TaskCx::shard`]).
    fn splits(_params: &Self::Params) -> bool {
        false
    }

    /// The slots the step takes while it runs, unless `run:` says otherwise.
    fn resources(_params: &Self::Params) -> Resources {
        Resources::default()
    }

    /// Faults of `run:` that its type cannot express, with pointers below it.
    fn check_run(_params: &Self::Params, _run: &Self::Run) -> Vec<Fault> {
        Vec::new()
    }

    /// The services that `run:` names. What it names is replaced, before the step runs, by a map with the `name`, the `folder`
    /// in which its [endpoints](crate::service::endpoints) are told, its `replicas`, and within how many seconds each of them
    /// is there (`start_within`).
    fn services(_params: &Self::Params, _run: &Self::Run) -> Vec<ServiceUse> {
        Vec::new()
    }

    /// What can be known to be missing before anything is spent: an endpoint, a key, a GPU, weights.
    fn preflight(_params: &Self::Params, _run: &Self::Run, _environment: &dyn Environment) -> Vec<Missing> {
        Vec::new()
    }

    /// How much work the step is, as far as its params and the metrics of its inputs tell.
    fn estimate(_params: &Self::Params, _inputs: &EstimateInputs) -> Estimate {
        Estimate::default()
    }

    /// Does the work: reads its inputs, writes its outputs, through `cx` alone.
    fn run(params: &Self::Params, cx: &mut TaskCx) -> Result<(), TaskError>;
}

/// The `Run` of a task kind without operational options of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoRun {}

/// Something wrong with a param, found by [`Task::check`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// JSON pointer below `with:`, such as `/optimizer/betas`.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Fault {
    /// A fault of the param at `pointer`.
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into(), help: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// A param that names one or more files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRef {
    /// JSON pointer of the param below `with:`.
    pub pointer: String,
    /// The path or pattern as written; relative ones start at the folder of the experiment file.
    pub pattern: String,
    /// How to read the pattern.
    pub kind: FileKind,
}

/// How the pattern of a [`FileRef`] is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// The path of one file.
    File,
    /// A glob (`*`, `?`, `**`); the files it finds, sorted by path.
    Glob,
    /// The path of a directory, taken with everything below it.
    Tree,
    /// The address of data elsewhere. A [`Resolver`](crate::remote::Resolver) pins it down; the task finds the pinned
    /// address where it finds the paths of the others.
    Remote,
}

/// Slots of the machine that a running step holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Threads it may keep busy.
    pub cpus: u32,
    /// GPUs, each by its own id.
    pub gpus: u32,
    /// Bytes of memory; zero means unknown, which takes no slot.
    pub memory: u64,
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpus: 1, gpus: 0, memory: 0 }
    }
}

/// The parts of the world that a preflight may look at.
pub trait Environment {
    /// The value of an environment variable.
    fn var(&self, name: &str) -> Option<String>;
    /// Whether `name` is the path of a program, or the name of one on the search path.
    fn has_program(&self, name: &str) -> bool {
        is_program(name, &self.var("PATH").unwrap_or_default())
    }
    /// How many GPUs there are for the step: those that it is given, in [`Task::preflight`].
    fn gpus(&self) -> usize;
    /// The folder that relative paths of the experiment start from.
    fn root(&self) -> &Path;
}

/// Whether `name` is the path of a file, or that of one in a folder of the search path.
pub fn is_program(name: &str, search_path: &str) -> bool {
    if name.contains('/') {
        return Path::new(name).is_file();
    }
    std::env::split_paths(search_path).any(|folder| folder.join(name).is_file())
}

/// Something that a step will need and that is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// What is missing.
    pub what: String,
    /// The next step.
    pub help: String,
}

/// What [`Task::estimate`] may look at: what is settled of its inputs, and what is stored of the records it would make.
#[derive(Default)]
pub struct EstimateInputs {
    pub(crate) inputs: BTreeMap<String, Vec<EstimateInput>>,
    pub(crate) files: BTreeMap<String, Vec<PathBuf>>,
    pub(crate) seed: u64,
    pub(crate) run: Value,
    pub(crate) gpus: u32,
    pub(crate) view: Option<View>,
}

/// One input of a step that is estimated.
#[derive(Debug, Default)]
pub struct EstimateInput {
    /// The artifact's bytes and digest, where they are there.
    pub artifact: Option<(PathBuf, Digest)>,
    /// The metrics of its node, where it is settled.
    pub metrics: Option<BTreeMap<String, Value>>,
    /// The most records it can hold, where it is not settled and that is known.
    pub at_most: Option<u64>,
}

impl EstimateInputs {
    /// How many GPUs the step has.
    pub fn gpus(&self) -> u32 {
        self.gpus
    }

    /// Adds an input that has one metric and no bytes; for tests of a task kind.
    #[must_use]
    pub fn with_metric(mut self, port: &str, name: &str, value: u64) -> Self {
        let metrics = Some([(name.to_owned(), value.into())].into());
        self.inputs
            .entry(port.to_owned())
            .or_default()
            .push(EstimateInput { metrics, ..EstimateInput::default() });
        self
    }

    /// The sum of metric `name` over the inputs of `port`; `None` if any of them is not known.
    pub fn total(&self, port: &str, name: &str) -> Option<u64> {
        let inputs = self.inputs.get(port)?;
        inputs.iter().map(|input| input.metrics.as_ref()?.get(name)?.as_u64()).sum()
    }

    /// The most records that the inputs of `port` hold: the metric `rows` where they are settled.
    pub fn most(&self, port: &str) -> Option<u64> {
        let rows = |input: &EstimateInput| match &input.metrics {
            Some(metrics) => metrics.get("rows")?.as_u64(),
            None => input.at_most,
        };
        self.inputs.get(port)?.iter().map(rows).sum()
    }

    /// The only artifact in a port, if its bytes are there.
    pub fn artifact(&self, port: &str) -> Option<&(PathBuf, Digest)> {
        match self.inputs.get(port)?.as_slice() {
            [only] => only.artifact.as_ref(),
            _ => None,
        }
    }

    /// The names of the ports that something enters, sorted.
    pub fn ports(&self) -> impl Iterator<Item = &str> {
        self.inputs.keys().map(String::as_str)
    }

    /// The local files that the param at `pointer` names, as far as they are there.
    pub fn files(&self, pointer: &str) -> &[PathBuf] {
        self.files.get(pointer).map_or(&[], Vec::as_slice)
    }

    /// The experiment's seed; zero where the kind does not use it.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The operational options of the kind; those by default where they do not fit.
    pub fn run_options<R: DeserializeOwned + Default>(&self) -> R {
        R::deserialize(&self.run).unwrap_or_default()
    }

    /// What is stored of a stream of records.
    pub fn logged(&self, stream: &Value) -> Option<Logged> {
        self.view.as_ref()?.logged(&crate::canonical::digest(stream)).ok()
    }

    /// What is stored of every stream whose statement satisfies `is_wanted`.
    pub fn logged_where(&self, is_wanted: impl Fn(&Value) -> bool) -> Vec<Logged> {
        let streams = self.view.as_ref().and_then(|view| view.streams().ok()).unwrap_or_default();
        let wanted = streams.into_iter().filter(|(_, about)| is_wanted(about));
        wanted.filter_map(|(stream, _)| self.view.as_ref()?.logged(&stream).ok()).collect()
    }
}

/// How much work a step is. `None` is unknown, and is shown as such.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// Records (responses, verdicts, examples). Where an input is not settled, the most there can be.
    pub records: Option<u64>,
    /// Calls of a model: those of the records that are not stored.
    pub calls: Option<u64>,
    /// Whether `calls` is only the most there can be.
    pub at_most: bool,
    /// Dollars that the calls cost, and by how many that may be off with 95 % confidence.
    pub usd: Option<(f64, f64)>,
    /// Tokens read.
    pub input_tokens: Option<u64>,
    /// Tokens written, or trained on.
    pub output_tokens: Option<u64>,
}

/// Why a task did not finish.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The work cannot be done; the text says why.
    #[error("{0}")]
    Failed(String),
    /// The run asked it to stop; what it has done so far is kept and the next run goes on from there.
    #[error("interrupted")]
    Cancelled,
    /// It went as far as the run's allowance lets it; what it has done is kept and another run goes on from there.
    #[error("{0}")]
    Paused(String),
    /// It failed in a way that may pass; retried as `run: { retries }` allows.
    #[error("{0}")]
    Transient(String),
    /// It asks a service that was not begun, since nothing was thought to be asked of it. It begins, and the task runs again.
    #[error("the service `{0}` has not begun")]
    Unserved(String),
    /// The bytes of an input are gone or damaged. What made it runs again.
    #[error("{0}")]
    InputLost(String),
    /// An input is not what it should be.
    #[error("{}{}: {what}", path.as_deref().map_or_else(String::new, |path| path.display().to_string()), line.map_or_else(String::new, |line| format!(":{line}")))]
    Input {
        /// What is wrong with it.
        what: String,
        /// The file.
        path: Option<PathBuf>,
        /// The line or row in it, counted from one.
        line: Option<u64>,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something outside the experiment is needed and not there.
    #[error("{what}")]
    Missing {
        /// What is missing.
        what: String,
        /// The next step.
        help: String,
    },
    /// The store failed.
    #[error(transparent)]
    Cache(#[from] dag_cache::CacheError),
}

impl TaskError {
    /// The work cannot be done, because of `reason`.
    pub fn failed(reason: impl Into<String>) -> Self {
        Self::Failed(reason.into())
    }

    /// The system refused something at `path`.
    pub fn io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// The file at `path` is not what it should be.
    pub fn input(path: impl Into<PathBuf>, line: Option<u64>, what: impl Into<String>) -> Self {
        Self::Input { what: what.into(), path: Some(path.into()), line }
    }
}
