//! Toy tasks and a graph builder, for the tests of the engine and of the command line.
//!
//! Every toy says through `run: { log }` that it was executed, by a line in that file, so that a test can count
//! executions over threads and processes.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::{Event, Reporter, Stamped};
use crate::graph::{FileInput, Graph, Location, Node, NodeId, NodeInput, RunOptions};
use crate::registry::Registry;
use crate::service::ServiceUse;
use crate::stat_cache::Clock;
use crate::task::{
    ArtifactType, Environment, Estimate, EstimateInputs, FileKind, FileRef, Missing, Ports, Task, TaskCx,
    TaskError,
};

/// All toy kinds.
pub fn registry() -> Registry {
    Registry::new()
        .with::<Echo>()
        .with::<Concat>()
        .with::<Head>()
        .with::<Fail>()
        .with::<Panic>()
        .with::<Slow>()
        .with::<Flaky>()
        .with::<Ask>()
}

/// What a toy reads under `run:`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ToyRun {
    /// A line is appended here by every execution.
    log: Option<PathBuf>,
    /// `slow` ends when this file exists.
    until: Option<PathBuf>,
    /// So many attempts of `flaky` fail.
    failures: u32,
    /// An environment variable that must be set.
    needs: Option<String>,
    /// The service that `ask` asks.
    service: Option<Value>,
}

fn begin(cx: &TaskCx, what: &str) -> Result<ToyRun, TaskError> {
    let run: ToyRun = cx.run_options()?;
    if let Some(log) = &run.log {
        let opened = OpenOptions::new().append(true).create(true).open(log);
        opened.and_then(|mut file| writeln!(file, "{what}")).map_err(|error| TaskError::io(log, error))?;
    }
    Ok(run)
}

fn write(cx: &TaskCx, text: &str) -> Result<(), TaskError> {
    let path = cx.output("text");
    fs::write(&path, text).map_err(|error| TaskError::io(path, error))
}

fn read(path: &Path) -> Result<String, TaskError> {
    fs::read_to_string(path).map_err(|error| TaskError::io(path, error))
}

fn missing(run: &ToyRun, environment: &dyn Environment) -> Vec<Missing> {
    let unset = run.needs.iter().filter(|name| environment.var(name).is_none());
    unset
        .map(|name| Missing { what: format!("`{name}` is not set"), help: format!("export {name}=…") })
        .collect()
}

/// Params of [`Echo`].
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EchoParams {
    /// What is written.
    #[serde(default)]
    text: String,
    /// A file whose content is written after it.
    #[serde(default)]
    file: Option<String>,
    /// So many records are said to have failed.
    #[serde(default)]
    owed: u64,
    /// Whether the seed is written, too.
    #[serde(default)]
    seeded: bool,
}

/// Writes a text.
pub struct Echo;

impl Task for Echo {
    const KIND: &'static str = "echo";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "write a text";
    type Params = EchoParams;
    type Run = ToyRun;

    fn ports(_: &EchoParams) -> Ports {
        Ports::new().optional("after", ArtifactType::Any).output("text", ArtifactType::File)
    }
    fn files(params: &EchoParams) -> Vec<FileRef> {
        let file = |pattern: &String| FileRef {
            pointer: "/file".into(),
            pattern: pattern.clone(),
            kind: FileKind::File,
        };
        params.file.iter().map(file).collect()
    }
    fn uses_seed(params: &EchoParams) -> bool {
        params.seeded
    }
    fn preflight(_: &EchoParams, run: &ToyRun, environment: &dyn Environment) -> Vec<Missing> {
        missing(run, environment)
    }
    fn estimate(params: &EchoParams, _: &EstimateInputs) -> Estimate {
        Estimate { records: Some(params.text.len() as u64), ..Estimate::default() }
    }
    fn run(params: &EchoParams, cx: &mut TaskCx) -> Result<(), TaskError> {
        begin(cx, &format!("echo {}", params.text))?;
        let mut text = params.text.clone();
        for path in cx.files("/file") {
            text.push_str(&read(path)?);
        }
        if params.seeded {
            text.push_str(&cx.seed().to_string());
        }
        cx.progress().total(text.len() as u64);
        cx.progress().done(text.len() as u64);
        cx.metric("length", text.len());
        cx.owed(params.owed);
        write(cx, &text)
    }
}

/// Params of [`Ask`].
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AskParams {
    /// Whether all that it asks for is stored.
    stored: bool,
}

/// Asks a service, unless what it wants is stored; it always believes that it is.
pub struct Ask;

impl Task for Ask {
    const KIND: &'static str = "ask";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "ask a service";
    type Params = AskParams;
    type Run = ToyRun;

    fn ports(_: &AskParams) -> Ports {
        Ports::new().output("text", ArtifactType::File)
    }
    fn services(_: &AskParams, run: &ToyRun) -> Vec<ServiceUse> {
        let named = run.service.iter().filter_map(Value::as_str);
        named.map(|name| ServiceUse { pointer: "/service".into(), name: name.into(), model: None }).collect()
    }
    fn estimate(_: &AskParams, _: &EstimateInputs) -> Estimate {
        Estimate { records: Some(1), calls: Some(0), ..Estimate::default() }
    }
    fn run(params: &AskParams, cx: &mut TaskCx) -> Result<(), TaskError> {
        let run = begin(cx, "ask")?;
        match run.service {
            Some(Value::String(name)) if !params.stored => Err(TaskError::Unserved(name)),
            Some(Value::String(_)) => write(cx, "stored"),
            _ => write(cx, "answered"),
        }
    }
}

/// Params of the toys that need none.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// Writes what enters it, one after the other.
pub struct Concat;

impl Task for Concat {
    const KIND: &'static str = "concat";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "write the inputs one after the other";
    type Params = NoParams;
    type Run = ToyRun;

    fn ports(_: &NoParams) -> Ports {
        Ports::new().many("parts", ArtifactType::File).output("text", ArtifactType::File)
    }
    fn run(_: &NoParams, cx: &mut TaskCx) -> Result<(), TaskError> {
        begin(cx, "concat")?;
        let parts = cx.inputs("parts").iter().map(|part| read(&part.path)).collect::<Result<Vec<_>, _>>()?;
        write(cx, &parts.concat())
    }
}

/// Params of [`Head`].
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeadParams {
    /// How many characters are kept.
    take: usize,
}

/// Writes the beginning of its input.
pub struct Head;

impl Task for Head {
    const KIND: &'static str = "head";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "write the beginning of the input";
    type Params = HeadParams;
    type Run = ToyRun;

    fn ports(_: &HeadParams) -> Ports {
        Ports::new().input("text", ArtifactType::File).output("text", ArtifactType::File)
    }
    fn run(params: &HeadParams, cx: &mut TaskCx) -> Result<(), TaskError> {
        begin(cx, "head")?;
        let text = read(&cx.input("text")?.path)?;
        write(cx, &text.chars().take(params.take).collect::<String>())
    }
}

/// Fails.
pub struct Fail;

impl Task for Fail {
    const KIND: &'static str = "fail";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "fail";
    type Params = NoParams;
    type Run = ToyRun;

    fn ports(_: &NoParams) -> Ports {
        Ports::new().optional("after", ArtifactType::Any).output("text", ArtifactType::File)
    }
    fn run(_: &NoParams, cx: &mut TaskCx) -> Result<(), TaskError> {
        begin(cx, "fail")?;
        Err(TaskError::failed("it was told to fail"))
    }
}

/// Panics.
pub struct Panic;

impl Task for Panic {
    const KIND: &'static str = "panic";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "panic";
    type Params = NoParams;
    type Run = ToyRun;

    fn ports(_: &NoParams) -> Ports {
        Ports::new().output("text", ArtifactType::File)
    }
    fn run(_: &NoParams, _: &mut TaskCx) -> Result<(), TaskError> {
        panic!("it was told to panic")
    }
}

/// Leaves a checkpoint, then waits until it is stopped or `run: { until }` exists. Goes on from its checkpoint.
pub struct Slow;

impl Task for Slow {
    const KIND: &'static str = "slow";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "wait until stopped, and go on from there";
    type Params = EchoParams;
    type Run = ToyRun;

    fn ports(_: &EchoParams) -> Ports {
        Ports::new().output("text", ArtifactType::File)
    }
    fn run(params: &EchoParams, cx: &mut TaskCx) -> Result<(), TaskError> {
        let checkpoint = cx.scratch().join("checkpoint");
        let resumed = checkpoint.exists();
        let run = begin(cx, if resumed { "slow resumed" } else { "slow began" })?;
        fs::write(&checkpoint, "").map_err(|error| TaskError::io(&checkpoint, error))?;
        while !resumed && !run.until.as_ref().is_some_and(|path| path.exists()) {
            if cx.cancelled() {
                return Err(TaskError::Cancelled);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        write(cx, &params.text)
    }
}

/// Fails `run: { failures }` times in a way that passes.
pub struct Flaky;

impl Task for Flaky {
    const KIND: &'static str = "flaky";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "fail a few times";
    type Params = EchoParams;
    type Run = ToyRun;

    fn ports(_: &EchoParams) -> Ports {
        Ports::new().output("text", ArtifactType::File)
    }
    fn run(params: &EchoParams, cx: &mut TaskCx) -> Result<(), TaskError> {
        let run = begin(cx, "flaky")?;
        let path = cx.scratch().join("attempts");
        let attempts = fs::read(&path).map_or(0, |bytes| bytes.len());
        fs::write(&path, vec![b'.'; attempts + 1]).map_err(|error| TaskError::io(&path, error))?;
        if attempts < run.failures as usize {
            return Err(TaskError::Transient(format!("attempt {} failed", attempts + 1)));
        }
        write(cx, &params.text)
    }
}

/// Builds a graph of toys, in which a node reads the default output of nodes added before it.
pub struct ToyGraph {
    registry: Registry,
    nodes: Vec<Node>,
}

impl Default for ToyGraph {
    fn default() -> Self {
        Self { registry: registry(), nodes: Vec::new() }
    }
}

impl ToyGraph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a node that reads `inputs`, as (port, node). A port that is named twice is gathered.
    ///
    /// # Panics
    /// If a kind, a param or an input is not known: the test is wrong.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "a graph of a test reads better without borrows")]
    pub fn node(mut self, name: &str, kind: &str, params: Value, inputs: &[(&str, &str)]) -> Self {
        let bound = self.registry.bind(kind, &params).expect("a toy kind");
        let step = bound.expect("params of the toy");
        let find =
            |source: &str| self.nodes.iter().position(|node| &*node.name == source).expect("an earlier node");
        let many = |port: &str| inputs.iter().filter(|(other, _)| *other == port).count() > 1;
        let inputs = inputs.iter().map(|&(port, source)| NodeInput {
            port: port.into(),
            source: NodeId::new(find(source)),
            output: "text".into(),
            gathered: many(port),
        });
        let inputs = inputs.collect();
        let files = step.files().into_iter().map(|file| FileInput {
            pointer: file.pointer,
            path: PathBuf::from(file.pattern),
            kind: file.kind,
        });
        self.nodes.push(Node {
            name: name.into(),
            base: name.into(),
            coordinates: Arc::from([]),
            inputs,
            files: files.collect(),
            run: Arc::default(),
            seed: step.uses_seed().then_some(17),
            location: Location::default(),
            step,
        });
        self
    }

    /// Sets how the node added last is run.
    ///
    /// # Panics
    /// If there is no node yet.
    #[must_use]
    pub fn run(mut self, run: RunOptions) -> Self {
        self.nodes.last_mut().expect("a node was added").run = Arc::new(run);
        self
    }

    /// Gives every node these options of the toys under `run:`.
    #[must_use]
    pub fn log(mut self, path: &Path) -> Self {
        for node in &mut self.nodes {
            let mut run = (*node.run).clone();
            if !run.task.is_object() {
                run.task = Value::Object(serde_json::Map::new());
            }
            run.task["log"] = Value::from(path.to_string_lossy());
            node.run = Arc::new(run);
        }
        self
    }

    /// The graph.
    ///
    /// # Panics
    /// Never: a node reads only earlier ones.
    pub fn build(self) -> Graph {
        Graph::new("toys".into(), None, self.nodes).expect("nodes read only earlier nodes")
    }
}

/// An environment of fixed values.
#[derive(Debug, Clone, Default)]
pub struct ToyEnvironment {
    /// The folder of the experiment.
    pub root: PathBuf,
    /// Environment variables.
    pub vars: BTreeMap<String, String>,
}

impl Environment for ToyEnvironment {
    fn var(&self, name: &str) -> Option<String> {
        self.vars.get(name).cloned()
    }
    fn gpus(&self) -> usize {
        0
    }
    fn root(&self) -> &Path {
        &self.root
    }
}

/// A clock that stands still, in the year 2100: every file looks settled.
pub fn clock() -> Clock {
    Arc::new(|| SystemTime::UNIX_EPOCH + Duration::from_hours(1_139_568))
}

/// Keeps all events.
#[derive(Debug, Default)]
pub struct Recorder {
    /// The events, in order.
    pub events: Vec<Stamped>,
}

impl Reporter for Recorder {
    fn report(&mut self, event: &Stamped) {
        self.events.push(event.clone());
    }
}

impl Recorder {
    /// The nodes whose task was started, in order.
    pub fn started(&self) -> Vec<&str> {
        self.events
            .iter()
            .filter_map(|stamped| match &stamped.event {
                Event::NodeStarted { node, .. } => Some(node.as_str()),
                _ => None,
            })
            .collect()
    }
}
