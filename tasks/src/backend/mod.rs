//! Where responses come from: a scripted teacher, the embedded runtime, or a server that speaks OpenAI's protocol.
//!
//! A backend takes requests from an iterator as it has room for them and hands back every response as it finishes. It
//! knows nothing of records: what was asked before, and what is kept, is `records`' business.

mod embedded;
mod reply;
mod sampling;
mod scripted;
mod served;

use std::fmt;
use std::path::PathBuf;

use dag_engine::Digest;
use dag_engine::context::{Cancel, Input};
use dag_engine::task::{Environment, Fault, Missing, ServiceUse, TaskCx, TaskError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use embedded::Embedded;
pub use reply::{FinishReason, Raw, Reply, Usage, split_thinking};
pub use sampling::Sampling;
pub use scripted::Scripted;
pub use served::Served;

/// Which model answers. Semantic: it is in the key of every record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "backend", rename_all = "lowercase", deny_unknown_fields)]
pub enum ModelSpec {
    /// The model that enters the port `model`, run by the embedded runtime.
    #[default]
    Embedded,
    /// A scripted teacher of the arithmetic problems that `dataset` can make.
    Scripted(ScriptedSpec),
    /// A model behind a server that speaks OpenAI's protocol; `run: { base_url }` says where.
    Openai(ServedSpec),
    /// The model that enters the port `model`, behind a server that is started for it; `run: { service }` says which.
    Served(CheckpointSpec),
    /// Nobody is asked: the responses are in the data already. For `sample` only.
    Given(GivenSpec),
}

/// A scripted teacher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScriptedSpec {
    /// How it writes.
    pub teacher: Teacher,
    /// How many times over a verbose teacher says each step.
    #[serde(default = "four")]
    pub ratio: u32,
    /// The share of its responses that have a mistake in them.
    #[serde(default)]
    pub error_rate: f64,
}

fn four() -> u32 {
    4
}

/// How a scripted teacher writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Teacher {
    /// Each step once.
    Terse,
    /// Each step several times over.
    Verbose,
}

/// A model behind a server. Where the server is does not matter and is not said here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServedSpec {
    /// The name the server knows it by, such as `openai/gpt-oss-120b`.
    pub name: String,
    /// The revision of its weights.
    #[serde(default)]
    pub revision: Option<String>,
    /// How its weights are quantised, such as `mxfp4`.
    #[serde(default)]
    pub quantization: Option<String>,
    /// Whether it thinks before it answers. Then a response without its thinking is a failure: it means that the
    /// server's parser and ours do not fit, and would otherwise be an empty trace.
    #[serde(default)]
    pub thinks: bool,
    /// How it is asked.
    #[serde(default)]
    pub protocol: Protocol,
    /// Further fields of every request's body, for what one server has and others have not; null takes one out.
    #[serde(default)]
    pub extra: Map<String, Value>,
}

/// A model that enters a node, behind a server. What the server is does not matter and is not said here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSpec {
    /// How the server quantises its weights, such as `fp8`.
    pub quantization: Option<String>,
    /// Whether it thinks before it answers, and the server has a parser for that: then a response without its thinking is a
    /// failure.
    pub thinks: bool,
    /// How it is asked.
    pub protocol: Protocol,
    /// Further fields of every request's body, for what one server has and others have not; null takes one out.
    pub extra: Map<String, Value>,
}

impl CheckpointSpec {
    /// As it is asked for. It has the name that its server gives it.
    fn asked(&self) -> ServedSpec {
        ServedSpec {
            name: String::new(),
            revision: None,
            quantization: self.quantization.clone(),
            thinks: self.thinks,
            protocol: self.protocol,
            extra: self.extra.clone(),
        }
    }
}

/// The two ways to ask a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Chat completions: the server puts the messages into the model's template.
    #[default]
    Chat,
    /// Completions of a text: the contents of the messages, one after the other, as they stand. For base models, and for
    /// prompts that are templated already.
    Text,
}

/// Responses that the data already holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GivenSpec {
    /// Whose they are, such as `deepseek-ai/DeepSeek-R1-0528`.
    pub name: String,
    /// The column with the response, or with what follows the thinking where that has a column of its own.
    #[serde(default = "response_column")]
    pub column: String,
    /// The column with the thinking.
    #[serde(default)]
    pub reasoning: Option<String>,
    /// The column that says `length` where a response was cut off.
    #[serde(default)]
    pub finish_reason: Option<String>,
    /// The column with the tokens of the response.
    #[serde(default)]
    pub output_tokens: Option<String>,
}

fn response_column() -> String {
    "response".into()
}

impl GivenSpec {
    /// The columns it reads.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        let optional = [&self.reasoning, &self.finish_reason, &self.output_tokens];
        std::iter::once(self.column.as_str()).chain(optional.into_iter().filter_map(|name| name.as_deref()))
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// One prompt and the samples wanted of it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// The samples. None if all are stored: the backend then only looks after what is in flight.
    pub samples: Vec<Sample>,
}

/// One response that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// What it is known by.
    pub key: Digest,
    /// What its randomness comes from.
    pub seed: u64,
}

/// A response that was not had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {detail}")]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// What was seen, without secrets.
    pub detail: String,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

/// The kinds of [`Failure`]. They name rows of tables and counts of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The prompt could not be put to the model.
    Prompt,
    /// No connection could be made.
    Connection,
    /// The connection broke off after the request was sent.
    Broken,
    /// No answer in time.
    Timeout,
    /// The server asks to slow down (429).
    RateLimit,
    /// The server has too much to do (503, 529).
    Overloaded,
    /// The server has a fault of its own (5xx).
    Server,
    /// The server refuses the request (4xx).
    Refused,
    /// The server sends us elsewhere, where the key must not go.
    Redirect,
    /// The body is not what the protocol says.
    Malformed,
    /// The body is larger than any response.
    TooLarge,
    /// A response without a text.
    Empty,
    /// A response of a thinking model without its thinking.
    NoThinking,
    /// The server withholds the response.
    Filtered,
    /// The batch ran out of time before the request's turn came.
    Expired,
    /// The batch was cancelled before the request's turn came.
    Cancelled,
}

impl FailureKind {
    /// Those after which the same request may well be answered.
    pub const TRANSIENT: [Self; 6] =
        [Self::Connection, Self::Broken, Self::Timeout, Self::RateLimit, Self::Overloaded, Self::Server];

    /// What helps against it, where that is not plain.
    pub fn help(self) -> Option<&'static str> {
        Some(match self {
            Self::Timeout => "`run: { request_timeout }` is how long one may take",
            Self::RateLimit => {
                "`run: { requests_per_minute, tokens_per_minute, concurrency }` ask less of it"
            }
            Self::Malformed => {
                "is this a server of OpenAI's protocol? `run: { retry_on }` tries such answers again"
            }
            Self::TooLarge => "`run: { largest_response }` is the most bytes of one",
            Self::NoThinking => "does the server run with the parser of this model's reasoning?",
            Self::Redirect => "give the address it ends at as `run: { base_url }`",
            _ => return None,
        })
    }

    /// Whether the server may have billed what ended so.
    pub fn may_be_billed(self) -> bool {
        !matches!(
            self,
            Self::Prompt
                | Self::Connection
                | Self::RateLimit
                | Self::Overloaded
                | Self::Server
                | Self::Refused
                | Self::Redirect
                | Self::Expired
                | Self::Cancelled
        )
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prompt => "prompt",
            Self::Connection => "connection",
            Self::Broken => "broken",
            Self::Timeout => "timeout",
            Self::RateLimit => "rate_limit",
            Self::Overloaded => "overloaded",
            Self::Server => "server",
            Self::Refused => "refused",
            Self::Redirect => "redirect",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Empty => "empty",
            Self::NoThinking => "no_thinking",
            Self::Filtered => "filtered",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        })
    }
}

/// The operational half of a backend: where the server is and how hard to ask it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BackendRun {
    /// The service that is asked, by its name under `services:`; instead of `base_url`.
    #[schemars(with = "Option<String>")]
    pub service: Option<ServiceRef>,
    /// The address of the server up to `/v1`, such as `http://localhost:8000/v1`; or several that serve the same model, as
    /// a list or with commas between them.
    pub base_url: Option<Addresses>,
    /// The name of the environment variable that holds the key. Never the key itself.
    pub api_key: Option<String>,
    /// Requests in flight at once, over all addresses, or sequences decoded side by side (default 16). What a server takes
    /// is found out below this; without it, from 32 up to 1,024.
    pub concurrency: Option<usize>,
    /// How many requests a minute the provider allows.
    pub requests_per_minute: Option<f64>,
    /// How many tokens a minute, read and written, the provider allows.
    pub tokens_per_minute: Option<f64>,
    /// How many samples of one prompt one request asks for (default 1). More spare a server without a prefix cache the
    /// reading, and a provider's customer its price; but the tokens of each sample are then not told.
    pub samples_per_request: Option<usize>,
    /// Whether the answer is streamed. For servers, and proxies before them, that close a connection which is silent for
    /// long.
    pub stream: bool,
    /// How often one request is tried again after a failure that may pass (default 5).
    pub request_retries: Option<u32>,
    /// The kinds of failure that may pass (default: connection, broken, timeout, rate_limit, overloaded, server). A retry
    /// after one of the others (malformed, empty, no_thinking, …) is billed again.
    pub retry_on: Option<Vec<FailureKind>>,
    /// Seconds one request may take (default 14,400).
    pub request_timeout: Option<f64>,
    /// Seconds an answer that has begun may stand still (default 300).
    pub idle_timeout: Option<f64>,
    /// The most bytes of one answer (default 64 MiB, a hundred times the longest of today's).
    pub largest_response: Option<usize>,
    /// Seconds without an answer of any server before the node is given up (default 60). One that never answered at all is
    /// given up at once.
    pub server_patience: Option<f64>,
    /// What the model costs. Then `dag plan` says what a run would, `dag run --budget` ends it in time, and the summary says
    /// what was spent and what reuse saved.
    pub price: Option<Price>,
    /// Ask by the provider's batch API, which takes up to a day and costs less: `true`, or how.
    pub batch: Option<Batch>,
    /// The share of records that may fail before the node does (default 0.01). Below it the node commits what there is,
    /// and the next run asks for the rest.
    pub allow_failed: Option<f64>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "the name of a service")]
pub enum ServiceRef {
    /// By its name, as it is written.
    Name(String),
    /// As the engine hands it to a node that is about to run; nobody writes it.
    Placed(PlacedService),
}

/// Where a service is told about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacedService {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) replicas: u32,
    pub(crate) start_within: f64,
}

/// What a model costs, in dollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Tokens of prompts.
    pub input: f64,
    /// Tokens of prompts that the provider had in its cache, where it tells; as the others if it is left out.
    #[serde(default)]
    pub cached_input: Option<f64>,
    /// Tokens of responses, thinking included.
    pub output: f64,
    /// The share of these prices that a batch costs.
    #[serde(default = "half")]
    pub batch: f64,
}

fn half() -> f64 {
    0.5
}

impl Price {
    /// Dollars for so many tokens. `is_batch`: at the price of a batch.
    pub fn of(&self, usage: &Usage, is_batch: bool) -> f64 {
        let cached = usage.cached.min(usage.input);
        let input = (usage.input - cached) as f64 * self.input
            + cached as f64 * self.cached_input.unwrap_or(self.input);
        let share = if is_batch { self.batch } else { 1.0 };
        (input + usage.output as f64 * self.output) * share / 1e6
    }
}

/// Whether requests go out in batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "`true`, `false` or `{ poll, requests, bytes }`")]
pub enum Batch {
    /// They do, or not.
    Plain(bool),
    /// They do, in this way.
    With(BatchRun),
}

/// How batches are asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BatchRun {
    /// Seconds between two looks at a batch (default 60).
    pub poll: Option<f64>,
    /// The most requests of one batch (default 50,000).
    pub requests: Option<usize>,
    /// The most bytes of one batch's file (default 200,000,000).
    pub bytes: Option<usize>,
}

/// One address or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Addresses {
    /// One, or several with commas between them.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl BackendRun {
    /// The share of records that may fail.
    pub fn allowed_failures(&self) -> f64 {
        self.allow_failed.unwrap_or(0.01)
    }

    /// Whether requests go out in batches.
    pub fn is_batched(&self) -> bool {
        !matches!(self.batch, None | Some(Batch::Plain(false)))
    }

    /// The addresses of the servers.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        let texts: &[String] = match &self.base_url {
            None => &[],
            Some(Addresses::One(text)) => std::slice::from_ref(text),
            Some(Addresses::Many(texts)) => texts,
        };
        texts.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|text| !text.is_empty())
    }
}

/// What takes each response as it finishes; its error ends the asking.
pub type OnFinished<'a> = dyn FnMut(Digest, Result<Raw, Failure>) -> Result<(), TaskError> + 'a;

/// A model that can be asked.
pub enum Backend {
    /// A scripted teacher.
    Scripted(Scripted),
    /// The embedded runtime.
    Embedded(Box<Embedded>),
    /// A server.
    Served(Box<Served>),
}

impl ModelSpec {
    /// [`Backend::thinks`].
    pub fn thinks(&self) -> bool {
        match self {
            Self::Openai(spec) => spec.thinks,
            Self::Served(spec) => spec.thinks,
            _ => false,
        }
    }

    /// Whether the model enters the node by a port.
    pub fn enters(&self) -> bool {
        matches!(self, Self::Embedded | Self::Served(_))
    }

    /// [`Backend::identity`] without opening the backend; `model` is the digest of what enters the port `model`. `None`
    /// where nobody is asked, or where the model is not known yet.
    pub fn identity(&self, model: Option<&Digest>) -> Option<Value> {
        match self {
            Self::Scripted(spec) => Some(Scripted::new(spec.clone()).identity()),
            Self::Openai(spec) => Some(spec.identity()),
            Self::Embedded => model.map(embedded::identity),
            Self::Served(spec) => model.map(|model| spec.asked().identity_of(model)),
            Self::Given(_) => None,
        }
    }
}

impl Backend {
    /// The backend of `spec`, with the model in the port `model` where it is embedded.
    pub fn open(
        spec: &ModelSpec,
        model: Option<&Input>,
        run: &BackendRun,
        cx: &TaskCx,
    ) -> Result<Self, TaskError> {
        Ok(match spec {
            ModelSpec::Scripted(spec) => Self::Scripted(Scripted::new(spec.clone())),
            ModelSpec::Openai(spec) => Self::Served(Box::new(Served::open(spec.clone(), run, cx)?)),
            ModelSpec::Served(spec) => {
                let model = model.ok_or_else(|| TaskError::failed("no model enters the port `model`"))?;
                let served = Served::open(spec.asked(), run, cx)?;
                Self::Served(Box::new(served.of_model(model.digest)))
            }
            ModelSpec::Embedded => {
                let model = model.ok_or_else(|| TaskError::failed("no model enters the port `model`"))?;
                Self::Embedded(Box::new(Embedded::open(model, run, cx)?))
            }
            ModelSpec::Given(_) => {
                return Err(TaskError::failed("responses that are given cannot be asked for"));
            }
        })
    }

    /// What a record must know of the model: everything that may change a response, and nothing else.
    pub fn identity(&self) -> Value {
        match self {
            Self::Scripted(scripted) => scripted.identity(),
            Self::Embedded(embedded) => embedded.identity(),
            Self::Served(served) => served.identity(),
        }
    }

    /// Whether a request costs money and is sent by itself, so that its intent is noted before. What is in a batch is known
    /// from the batch.
    pub fn is_paid(&self) -> bool {
        matches!(self, Self::Served(_)) && !self.is_batch()
    }

    /// Whether requests wait in batches, at the price of such.
    pub fn is_batch(&self) -> bool {
        matches!(self, Self::Served(served) if served.is_batched())
    }

    /// What a request costs, where that is known.
    pub fn price(&self) -> Option<Price> {
        match self {
            Self::Served(served) => served.price(),
            _ => None,
        }
    }

    /// Whether every response must hold its thinking.
    pub fn thinks(&self) -> bool {
        matches!(self, Self::Served(served) if served.thinks())
    }

    /// Asks everything of `requests`, and calls `finished` with every response in the order they finish.
    ///
    /// After `cancel` no more is taken from `requests`; what is in flight is waited for, because it is paid for, unless it
    /// is a batch, which the next run waits for.
    pub fn ask(
        &self,
        sampling: &Sampling,
        requests: &mut dyn Iterator<Item = Request>,
        cancel: &Cancel,
        finished: &mut OnFinished,
    ) -> Result<(), TaskError> {
        match self {
            Self::Scripted(scripted) => scripted.ask(requests, cancel, finished),
            Self::Embedded(embedded) => embedded.ask(sampling, requests, cancel, finished),
            Self::Served(served) => served.ask(sampling, requests, cancel, finished),
        }
    }
}

/// What can be known to be missing before anything is spent.
pub fn preflight(spec: &ModelSpec, run: &BackendRun, environment: &dyn Environment) -> Vec<Missing> {
    let name = match spec {
        ModelSpec::Openai(spec) => spec.name.as_str(),
        ModelSpec::Served(_) => "the model that enters",
        _ => return Vec::new(),
    };
    let mut missing = Vec::new();
    match spec {
        _ if run.service.is_some() => {}
        ModelSpec::Served(_) => missing.push(Missing {
            what: "the service that serves the model".into(),
            help: "describe one with `{model}` in its `argv` under `services:`, and name it as `run: { service: NAME }`".into(),
        }),
        _ if run.endpoints().next().is_none() => missing.push(Missing {
            what: format!("the address of a server for `{name}`"),
            help: "start one (vLLM, SGLang, any OpenAI-compatible server) and give `run: { base_url: http://HOST:PORT/v1 }`, or have \
                   it started: `services:`"
                .into(),
        }),
        _ => {}
    }
    if run.is_batched() && run.endpoints().nth(1).is_some() {
        missing.push(Missing {
            what: format!("the one server that a batch for `{name}` goes to: there are several"),
            help: "give one address as `run: { base_url }`, or leave out `run: { batch }`".into(),
        });
    }
    for url in run.endpoints() {
        if let Err(what) = served::base(url, run.api_key.is_some()) {
            missing.push(Missing { what, help: "see `run: { base_url }`".into() });
        }
    }
    if let Some(variable) = &run.api_key
        && environment.var(variable).is_none_or(|key| key.is_empty())
    {
        missing.push(Missing {
            what: format!("the key for `{name}`: the environment variable `{variable}` is not set"),
            help: format!("set `{variable}`, or leave out `run: {{ api_key }}` if the server needs none"),
        });
    }
    missing
}

/// What is wrong with how a model is asked, at the pointer `at` below `run:`.
pub fn check_run(spec: &ModelSpec, run: &BackendRun, at: &str) -> Vec<Fault> {
    let Some(service) = &run.service else {
        return match (spec, &run.base_url) {
            (ModelSpec::Served(_), Some(_)) => vec![
                Fault::new(format!("{at}/base_url"), "a model that enters is served by a service that is started for it").help(
                    "name one as `service`, or say which model a server of your own has: `model: { backend: openai, name: … }`",
                ),
            ],
            _ => Vec::new(),
        };
    };
    let fault = |message: &str| vec![Fault::new(format!("{at}/service"), message)];
    match service {
        ServiceRef::Placed(_) => fault("`service` is the name of a service"),
        _ if run.base_url.is_some() => {
            let help = "a service is started and its address found; leave one of them out";
            vec![
                Fault::new(format!("{at}/service"), "`service` and `base_url` exclude each other").help(help),
            ]
        }
        _ if run.is_batched() => fault("a service is asked request by request; leave `batch` out"),
        _ if !matches!(spec, ModelSpec::Openai(_) | ModelSpec::Served(_)) => {
            fault("only a model behind a server (`backend: openai`, `backend: served`) is asked by a service")
        }
        ServiceRef::Name(_) => Vec::new(),
    }
}

/// The service that a model is asked by, whose name stands at the pointer `at` below `run:`; `port` is where a model enters.
pub fn service_of(spec: &ModelSpec, run: &BackendRun, at: &str, port: &'static str) -> Option<ServiceUse> {
    let Some(ServiceRef::Name(name)) = &run.service else { return None };
    let model = match spec {
        ModelSpec::Served(_) => Some(port),
        ModelSpec::Openai(_) => None,
        _ => return None,
    };
    Some(ServiceUse { pointer: format!("{at}/service"), name: name.clone(), model })
}

/// What is wrong with a model's spec, at the pointer `at`.
pub fn check(spec: &ModelSpec, at: &str) -> Vec<Fault> {
    match spec {
        ModelSpec::Scripted(spec) if !(0.0..=1.0).contains(&spec.error_rate) => {
            vec![Fault::new(format!("{at}/error_rate"), "an error rate is a share from 0 to 1")]
        }
        ModelSpec::Openai(spec) if spec.name.is_empty() => {
            vec![Fault::new(format!("{at}/name"), "a served model has a name")]
        }
        ModelSpec::Given(_) => {
            vec![Fault::new(at, "only `sample` takes responses that are given; this needs a model to ask")]
        }
        _ => Vec::new(),
    }
}

/// The part of an identity that all backends share: what kind of thing answers.
fn identity(class: &str, facts: &Value) -> Value {
    json!({ "class": class, "model": facts })
}
