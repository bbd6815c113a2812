//! A server that speaks OpenAI's chat completions: many requests in flight, retried with care, each paid for once.
//!
//! tokio lives inside [`Served::ask`] only. The key goes to the address that was given and nowhere else: redirects are
//! not followed, and it is blotted out of every message.

mod retry;

use std::time::Duration;

use dag_engine::Digest;
use dag_engine::context::Cancel;
use dag_engine::task::{TaskCx, TaskError};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url};
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::reply::abridge;
use super::{
    BackendRun, Failure, FailureKind, Message, OnFinished, Raw, Request, Sample, Sampling, ServedSpec,
};
use retry::Backoff;

/// The largest body read. The longest responses of today's models are a hundredth of it.
const LARGEST_BODY: usize = 64 << 20;
/// So many records in a row without an answer of any kind mean that the server is gone.
const GIVE_UP_AFTER: usize = 20;

/// A model behind a server.
pub struct Served {
    spec: ServedSpec,
    client: Client,
    address: Url,
    key: Option<String>,
    concurrency: usize,
    retries: u32,
}

impl Served {
    /// Prepares to ask; no request is sent.
    pub(super) fn open(spec: ServedSpec, run: &BackendRun, cx: &TaskCx) -> Result<Self, TaskError> {
        let missing =
            |what: String| TaskError::Missing { what, help: "see `run: { base_url, api_key }`".into() };
        let key = match &run.api_key {
            Some(name) => Some(cx.env(name).filter(|key| !key.is_empty()).ok_or_else(|| {
                missing(format!("the environment variable `{name}` with the key is not set"))
            })?),
            None => None,
        };
        let base = run
            .base_url
            .as_deref()
            .ok_or_else(|| missing(format!("no server is given for `{}`", spec.name)))?;
        let address = check_address(base, key.is_some()).map_err(missing)?;
        let timeout = Duration::from_secs_f64(run.request_timeout.unwrap_or(14_400.0).clamp(0.001, 1e7));
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(timeout.min(Duration::from_secs(30)))
            .timeout(timeout)
            .build()
            .map_err(|error| TaskError::failed(format!("the HTTP client cannot start: {error}")))?;
        Ok(Self {
            spec,
            client,
            address,
            key,
            concurrency: run.concurrency.unwrap_or(32).max(1),
            retries: run.request_retries.unwrap_or(5),
        })
    }

    pub(super) fn thinks(&self) -> bool {
        self.spec.thinks
    }

    pub(super) fn identity(&self) -> Value {
        let mut facts = Map::new();
        facts.insert("name".into(), json!(self.spec.name));
        for (field, value) in [("revision", &self.spec.revision), ("quantization", &self.spec.quantization)] {
            if let Some(value) = value {
                facts.insert(field.into(), json!(value));
            }
        }
        super::identity("served", &Value::Object(facts))
    }

    pub(super) fn ask(
        &self,
        sampling: &Sampling,
        requests: &mut dyn Iterator<Item = Request>,
        cancel: &Cancel,
        finished: &mut OnFinished,
    ) -> Result<(), TaskError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| TaskError::failed(format!("the HTTP runtime cannot start: {error}")))?;
        runtime.block_on(self.ask_all(sampling, requests, cancel, finished))
    }

    async fn ask_all(
        &self,
        sampling: &Sampling,
        requests: &mut dyn Iterator<Item = Request>,
        cancel: &Cancel,
        finished: &mut OnFinished<'_>,
    ) -> Result<(), TaskError> {
        let mut samples = requests.flat_map(|request| {
            let messages = request.messages;
            request.samples.into_iter().map(move |sample| (messages.clone(), sample))
        });
        let mut in_flight = JoinSet::new();
        let mut unanswered = 0;
        loop {
            while in_flight.len() < self.concurrency && unanswered < GIVE_UP_AFTER && !cancel.is_cancelled() {
                let Some((messages, sample)) = samples.next() else { break };
                in_flight.spawn(self.call(&messages, sampling, sample, cancel.clone()).run());
            }
            let Some(joined) = in_flight.join_next().await else { break };
            let (key, outcome) =
                joined.map_err(|error| TaskError::failed(format!("a request ended early: {error}")))?;
            let is_gone = matches!(
                &outcome,
                Err(failure) if matches!(failure.kind, FailureKind::Connection | FailureKind::Timeout)
            );
            unanswered = if is_gone { unanswered + 1 } else { 0 };
            let last = outcome.as_ref().err().map(ToString::to_string);
            finished(key, outcome)?;
            if let Some(last) = last.filter(|_| unanswered >= GIVE_UP_AFTER && in_flight.is_empty()) {
                return Err(TaskError::Transient(format!(
                    "the server does not answer ({unanswered} requests in a row; the last: {last})"
                )));
            }
        }
        Ok(())
    }

    fn call(&self, messages: &[Message], sampling: &Sampling, sample: Sample, cancel: Cancel) -> Call {
        let mut request = self
            .client
            .post(self.address.clone())
            // The same on every retry: a server that knows it charges once.
            .header("Idempotency-Key", sample.key.to_string())
            .json(&body(&self.spec, messages, sampling, sample.seed));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        Call {
            request,
            sample,
            retries: self.retries,
            thinks: self.spec.thinks,
            secret: self.key.clone(),
            cancel,
        }
    }
}

/// The body of one request.
fn body(spec: &ServedSpec, messages: &[Message], sampling: &Sampling, seed: u64) -> Value {
    let mut body = Map::new();
    body.insert("model".into(), json!(spec.name));
    body.insert("messages".into(), json!(messages));
    body.insert("temperature".into(), json!(sampling.temperature));
    body.insert("top_p".into(), json!(sampling.top_p));
    body.insert("max_tokens".into(), json!(sampling.max_tokens));
    // 31 bits: the most that every server takes without cutting it.
    body.insert("seed".into(), json!(seed >> 33));
    let optional = [
        ("top_k", sampling.top_k.map(|k| json!(k))),
        ("min_p", sampling.min_p.map(|p| json!(p))),
        // An extension that vLLM and SGLang know.
        ("repetition_penalty", sampling.penalises().then(|| json!(sampling.repetition_penalty))),
        ("logprobs", sampling.logprobs.then_some(json!(true))),
        ("stop", (!sampling.stop.is_empty()).then(|| json!(sampling.stop))),
        ("reasoning_effort", sampling.reasoning_effort.as_ref().map(|effort| json!(effort))),
        ("chat_template_kwargs", (!sampling.template.is_empty()).then(|| json!(sampling.template))),
    ];
    for (field, value) in optional {
        if let Some(value) = value {
            body.insert(field.into(), value);
        }
    }
    Value::Object(body)
}

/// The address of chat completions below `base`, or what is wrong with it.
pub(super) fn check_address(base: &str, has_key: bool) -> Result<Url, String> {
    let mut url = Url::parse(base).map_err(|error| format!("the server's address is no URL: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "the server's address has a name or password in it; give a key by `api_key` instead".into()
        );
    }
    let is_local = match url.host_str() {
        Some(host) => {
            let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
            host == "localhost" || address.is_ok_and(|address| address.is_loopback())
        }
        None => return Err(format!("`{url}` names no server")),
    };
    match url.scheme() {
        "https" => {}
        "http" if is_local || !has_key => {}
        "http" => return Err(format!("`{url}` would carry the key in the clear; use https, or no key")),
        scheme => return Err(format!("`{scheme}` is no way to reach a server; use http or https")),
    }
    let path = format!("{}/chat/completions", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

/// One response to be had, with its retries.
struct Call {
    request: reqwest::RequestBuilder,
    sample: Sample,
    retries: u32,
    thinks: bool,
    secret: Option<String>,
    cancel: Cancel,
}

/// What one attempt came to.
struct Attempt {
    failure: Failure,
    /// Whether another attempt may end otherwise.
    may_pass: bool,
    /// How long the server asks to wait.
    wait: Option<Duration>,
}

impl Call {
    async fn run(self) -> (Digest, Result<Raw, Failure>) {
        let mut backoff = Backoff::new(self.sample.seed);
        let mut left = self.retries;
        loop {
            let attempt = match self.attempt().await {
                Ok(raw) => return (self.sample.key, Ok(raw)),
                Err(attempt) => attempt,
            };
            if !attempt.may_pass || left == 0 || self.cancel.is_cancelled() {
                let detail = self.blot(&attempt.failure.detail);
                return (self.sample.key, Err(Failure { detail, ..attempt.failure }));
            }
            left -= 1;
            tokio::time::sleep(backoff.next(attempt.wait)).await;
        }
    }

    async fn attempt(&self) -> Result<Raw, Attempt> {
        let request = self.request.try_clone().expect("a JSON body can be sent again");
        let mut response = request.send().await.map_err(|error| broken(error, FailureKind::Connection))?;
        let status = response.status();
        let wait = retry_after(response.headers());
        let body = read(&mut response).await?;
        if status.is_success() {
            let body: Value = serde_json::from_slice(&body).map_err(|error| Attempt {
                failure: Failure::new(FailureKind::Malformed, format!("the body is not JSON: {error}")),
                may_pass: false,
                wait: None,
            })?;
            let raw = Raw::Chat(body);
            // Read once here so that only what is an answer is kept as one.
            return match raw.read(self.thinks) {
                Ok(_) => Ok(raw),
                Err(failure) => Err(Attempt { failure, may_pass: false, wait: None }),
            };
        }
        let (kind, may_pass) = classify(status);
        let detail = format!("{status}: {}", abridge(String::from_utf8_lossy(&body).trim()));
        Err(Attempt { failure: Failure::new(kind, detail), may_pass, wait })
    }

    fn blot(&self, text: &str) -> String {
        match &self.secret {
            Some(secret) => text.replace(secret.as_str(), "***"),
            None => text.to_owned(),
        }
    }
}

fn classify(status: StatusCode) -> (FailureKind, bool) {
    match status.as_u16() {
        429 => (FailureKind::RateLimit, true),
        408 | 425 => (FailureKind::Timeout, true),
        500..=599 => (FailureKind::Server, true),
        300..=399 => (FailureKind::Redirect, false),
        _ => (FailureKind::Refused, false),
    }
}

async fn read(response: &mut reqwest::Response) -> Result<Vec<u8>, Attempt> {
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| broken(error, FailureKind::Malformed))? {
        if body.len() + part.len() > LARGEST_BODY {
            let detail = format!("the body is larger than {LARGEST_BODY} bytes");
            return Err(Attempt {
                failure: Failure::new(FailureKind::TooLarge, detail),
                may_pass: false,
                wait: None,
            });
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

/// A connection that could not be made, or that broke.
fn broken(error: reqwest::Error, otherwise: FailureKind) -> Attempt {
    let kind = if error.is_timeout() { FailureKind::Timeout } else { otherwise };
    let error = error.without_url();
    let mut detail = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        detail = format!("{detail}: {inner}");
        cause = inner.source();
    }
    Attempt { failure: Failure::new(kind, abridge(&detail)), may_pass: true, wait: None }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    retry::wait_of(text(RETRY_AFTER)?, text(reqwest::header::DATE))
}

#[cfg(test)]
mod tests;
