//! Which model answers, as it stands under `with:`. All of it is in the key of every record.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

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
    pub(super) fn asked(&self) -> ServedSpec {
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
