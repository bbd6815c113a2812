//! How a model is asked, as it stands under `run:`. None of it is in a key.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::failure::FailureKind;
use super::reply::Usage;

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
