//! Where responses come from: a scripted teacher, the embedded runtime, or a server that speaks OpenAI's protocol.
//!
//! A backend takes requests from an iterator as it has room for them and hands back every response as it finishes. It
//! knows nothing of records: what was asked before, and what is kept, is `records`' business.

mod embedded;
mod failure;
mod options;
mod reply;
mod sampling;
mod scripted;
mod served;
mod spec;
mod templated;

use dag_engine::Digest;
use dag_engine::context::{Cancel, Input};
use dag_engine::task::{Environment, Fault, Missing, ServiceUse, TaskCx, TaskError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::device;
pub use embedded::Embedded;
pub use failure::{Failure, FailureKind};
pub use options::{Addresses, BackendRun, Batch, BatchRun, PlacedService, Price, ServiceRef};
pub use reply::{Accepts, FinishReason, Raw, Reply, Usage, split_thinking};
pub use sampling::Sampling;
pub use scripted::Scripted;
pub use served::Served;
pub use spec::{CheckpointSpec, GivenSpec, ModelSpec, Protocol, ScriptedSpec, ServedSpec, Teacher};

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
    /// [`Backend::accepts`] of a model that is asked and not evaluated.
    pub fn accepts(&self) -> Accepts {
        let only_thinking = match self {
            Self::Openai(spec) => spec.thinks,
            Self::Served(spec) => spec.thinks,
            _ => false,
        };
        Accepts { only_thinking, blank: false }
    }

    /// Whether the model enters the node by a port.
    pub fn enters(&self) -> bool {
        matches!(self, Self::Embedded | Self::Served(_))
    }

    /// What the key of a node with so many GPUs says of where the model computes.
    pub fn device(&self, gpus: u32) -> Option<&'static str> {
        matches!(self, Self::Embedded).then(|| device::of_key(gpus)).flatten()
    }

    /// [`Backend::identity`] without opening the backend; `model` is the digest of what enters the port `model`, and `gpus` how
    /// many GPUs the node has. `None` where nobody is asked, or where the model is not known yet.
    pub fn identity(&self, model: Option<&Digest>, gpus: u32) -> Option<Value> {
        match self {
            Self::Scripted(spec) => Some(Scripted::new(spec.clone()).identity()),
            Self::Openai(spec) => Some(spec.identity()),
            Self::Embedded => model.map(|model| embedded::identity(model, gpus)),
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
                Self::Served(Box::new(served.of_model(model)))
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

    /// The same for a model that is evaluated: its answer may be nothing.
    #[must_use]
    pub fn evaluated(self) -> Self {
        match self {
            Self::Served(served) => Self::Served(Box::new(served.evaluated())),
            other => other,
        }
    }

    /// Which responses are answers.
    pub fn accepts(&self) -> Accepts {
        match self {
            Self::Served(served) => served.accepts(),
            _ => Accepts::default(),
        }
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
        ModelSpec::Embedded => return device::missing(environment).into_iter().collect(),
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
