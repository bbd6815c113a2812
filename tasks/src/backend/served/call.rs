//! One request to one of the endpoints: its attempts, and what each came to.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dag_engine::Digest;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, StatusCode};
use serde_json::{Map, Value, json};
use tokio::time::{sleep, sleep_until, timeout};

use dag_engine::context::Cancel;

use super::super::reply::abridge;
use super::super::{Accepts, Failure, FailureKind, Raw, Sample};
use super::pace::Pace;
use super::pool::{Pool, Signal, Turn};
use super::request::below;
use super::retry::{self, Backoff};
use super::stream;

/// How often a wait looks whether the run is to stop.
const GLANCE: Duration = Duration::from_millis(200);

/// A request is sent again after so many servers of a service were lost under it, and after this pause.
const MOST_LOST: u32 = 10;
const LOST_PAUSE: Duration = Duration::from_millis(100);

/// What all calls of a node share.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) pool: Pool,
    /// What the server calls the model, where the spec does not say.
    pub(super) name: Option<String>,
    pub(super) pace: Pace,
    /// Where completions are asked for, below a base.
    pub(super) path: &'static str,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) secret: Option<String>,
    pub(super) retries: u32,
    /// The kinds of failure after which a request is sent again.
    pub(super) retried: Vec<FailureKind>,
    pub(super) accepts: Accepts,
    pub(super) is_streamed: bool,
    /// The most bytes of one body.
    pub(super) largest: usize,
    /// How long a body may pause.
    pub(super) idle: Duration,
    pub(super) cancel: Cancel,
    /// Whether a server was seen to answer once where several samples were asked for.
    pub(super) answers_once: AtomicBool,
    /// How many calls are waiting to be tried again.
    pub(super) waiting: AtomicUsize,
    /// The way to the node's thread.
    pub(super) tell: mpsc::Sender<Told>,
}

/// What the node's thread is told.
pub(super) enum Told {
    /// A call has ended.
    Done(Vec<Outcome>),
    /// A call waits to be tried again, so that another may be sent.
    Waiting,
}

/// One request, for one sample or for several of one prompt.
pub(super) struct Call {
    pub(super) shared: Arc<Shared>,
    pub(super) samples: Vec<Sample>,
    /// Whether the prompt has opened the thinking.
    pub(super) opens_thinking: bool,
    pub(super) body: Map<String, Value>,
}

/// The outcome of one sample.
pub(super) type Outcome = (Digest, Result<Raw, Failure>);

/// What one attempt failed by.
pub(super) struct Attempt {
    pub(super) failure: Failure,
    /// How long the server asks to wait.
    pub(super) wait: Option<Duration>,
}

impl Attempt {
    pub(super) fn new(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self { failure: Failure::new(kind, detail), wait: None }
    }

    /// What it tells about the endpoint.
    fn signal(&self) -> Signal {
        match self.failure.kind {
            FailureKind::RateLimit | FailureKind::Overloaded => {
                Signal::Overloaded(self.wait.filter(|wait| retry::is_bearable(Some(*wait))))
            }
            FailureKind::Timeout => Signal::Overloaded(None),
            FailureKind::Connection | FailureKind::Broken => Signal::Lost(self.failure.detail.clone()),
            FailureKind::Server => Signal::Failed(self.failure.detail.clone()),
            _ => Signal::Answered,
        }
    }
}

/// The losses of one request to servers that died under it.
#[derive(Default)]
struct Lost {
    since: Option<Instant>,
    count: u32,
}

impl Lost {
    /// Whether an attempt was lost with a server of a service that comes back, so that it is none of the request's retries.
    /// Not for ever: a request may be what its servers die of.
    fn is_free(&mut self, failure: &Failure, pool: &Pool) -> bool {
        let is_lost = matches!(failure.kind, FailureKind::Connection | FailureKind::Broken);
        if !is_lost || !pool.is_changing() || pool.gone().is_some() {
            return false;
        }
        self.count += 1;
        let since = *self.since.get_or_insert_with(Instant::now);
        self.count <= MOST_LOST && since.elapsed() < pool.patience()
    }
}

impl Call {
    /// Sends the request until it is answered, or until its retries are used up.
    pub(super) async fn run(mut self) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(self.samples.len());
        while !self.samples.is_empty() {
            match self.answered().await {
                Ok(raws) => {
                    // A server that does not know `n` answers once; the others are asked for one by one.
                    if raws.len() < self.samples.len() {
                        self.shared.answers_once.store(true, Ordering::Relaxed);
                    }
                    let answered = self.samples.drain(..raws.len());
                    outcomes.extend(answered.map(|sample| sample.key).zip(raws));
                    self.body.remove("n");
                    if let Some(next) = self.samples.first() {
                        self.body.insert("seed".into(), json!(next.seed >> 33));
                    }
                }
                Err(failure) => {
                    let failed = self.samples.drain(..).map(|sample| (sample.key, Err(failure.clone())));
                    outcomes.extend(failed);
                }
            }
        }
        outcomes
    }

    /// The answers, at least one and at most as many as are wanted, after as many attempts as it takes and is allowed.
    async fn answered(&self) -> Result<Vec<Result<Raw, Failure>>, Failure> {
        let sample = self.samples[0];
        let mut backoff = Backoff::new(sample.seed);
        let mut left = self.shared.retries;
        let mut lost = Lost::default();
        let bytes = Bytes::from(Value::Object(self.body.clone()).to_string());
        loop {
            let attempt = match self.attempt(&bytes, &sample).await {
                Ok(raws) => return Ok(raws),
                Err(attempt) => attempt,
            };
            let Attempt { failure, wait } = attempt;
            let may_pass = self.shared.retried.contains(&failure.kind) && retry::is_bearable(wait);
            if may_pass && !self.shared.cancel.is_cancelled() && lost.is_free(&failure, &self.shared.pool) {
                self.shared.pause(LOST_PAUSE).await;
                continue;
            }
            if !may_pass || left == 0 || self.shared.cancel.is_cancelled() {
                return Err(Failure { detail: self.shared.blot(&failure.detail), ..failure });
            }
            left -= 1;
            self.shared.waiting.fetch_add(1, Ordering::Relaxed);
            // Nobody is there to be told only where the node has failed.
            let _ = self.shared.tell.send(Told::Waiting);
            self.shared.pause(backoff.next(wait)).await;
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Waits for its turn, and sends once.
    async fn attempt(&self, bytes: &Bytes, sample: &Sample) -> Result<Vec<Result<Raw, Failure>>, Attempt> {
        let shared = &self.shared;
        let (due, booked) = shared.pace.book(bytes.len(), Instant::now());
        if due > Instant::now() {
            sleep_until(due.into()).await;
        }
        let slot = loop {
            if shared.cancel.is_cancelled() {
                return Err(Attempt::new(
                    FailureKind::Connection,
                    "the run was interrupted before it was sent",
                ));
            }
            match shared.pool.turn().await {
                Ok(Turn::Send(slot)) => break slot,
                Ok(Turn::Probe(probe)) => {
                    let back = shared.probe(&probe.address).await;
                    probe.finish(back);
                }
                Err(why) => return Err(Attempt::new(FailureKind::Connection, why)),
            }
        };
        let mut request = shared
            .client
            .post(below(&slot.address, shared.path))
            .header(CONTENT_TYPE, "application/json")
            // The same on every retry: a server that knows it charges once.
            .header("Idempotency-Key", sample.key.to_string())
            .body(bytes.clone());
        if let Some(authorization) = &shared.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let sent = shared.send(request).await;
        let (input, output) = sent.as_ref().map_or((None, None), usage);
        shared.pace.settle(booked, input, output);
        slot.finish(sent.as_ref().err().map_or(Signal::Answered, Attempt::signal));
        let mut raws: Vec<_> =
            choices(sent?, self.samples.len()).into_iter().map(|body| self.read(body)).collect();
        if raws.len() == 1 {
            // What is no answer may be worth another attempt, and is never kept as one.
            raws.remove(0).map(|raw| vec![Ok(raw)]).map_err(|failure| Attempt { failure, wait: None })
        } else {
            Ok(raws)
        }
    }

    /// The answer in a body, if it is one.
    fn read(&self, body: Value) -> Result<Raw, Failure> {
        let raw = if self.opens_thinking { Raw::Thinking(body) } else { Raw::Chat(body) };
        match raw.read(self.shared.accepts) {
            Ok(_) => Ok(raw),
            Err(failure) => Err(Failure { detail: self.shared.blot(&failure.detail), ..failure }),
        }
    }
}

impl Shared {
    /// Sends once; what comes back has a body to be read.
    pub(super) async fn response(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, Attempt> {
        let mut response = request.send().await.map_err(broken)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let wait = retry_after(response.headers());
        // The status says what it is, whatever becomes of the rest.
        let body = self.read(&mut response).await.unwrap_or_default();
        let detail = format!("{status}: {}", abridge(String::from_utf8_lossy(&body).trim()));
        Err(Attempt { failure: Failure::new(classify(status), detail), wait })
    }

    /// Sends once, and reads what comes back.
    pub(super) async fn send(&self, request: reqwest::RequestBuilder) -> Result<Value, Attempt> {
        let mut response = self.response(request).await?;
        let is_events = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if self.is_streamed && is_events {
            let mut events = stream::Events::default();
            while let Some(part) = self.part(&mut response).await? {
                events.push(part).map_err(|failure| Attempt { failure, wait: None })?;
                if events.bytes() > self.largest {
                    return Err(self.too_large());
                }
            }
            return events.finish().map_err(|failure| Attempt { failure, wait: None });
        }
        let body = self.read(&mut response).await?;
        serde_json::from_slice(&body)
            .map_err(|error| Attempt::new(FailureKind::Malformed, format!("the body is not JSON: {error}")))
    }

    async fn read(&self, response: &mut reqwest::Response) -> Result<Vec<u8>, Attempt> {
        let mut body = Vec::new();
        while let Some(part) = self.part(response).await? {
            if body.len() + part.len() > self.largest {
                return Err(self.too_large());
            }
            body.extend_from_slice(&part);
        }
        Ok(body)
    }

    /// The next part of a body that has begun.
    pub(super) async fn part(&self, response: &mut reqwest::Response) -> Result<Option<Bytes>, Attempt> {
        let part = timeout(self.idle, response.chunk()).await.map_err(|_| {
            Attempt::new(
                FailureKind::Timeout,
                format!("the body stood still for {} s", self.idle.as_secs_f64()),
            )
        })?;
        part.map_err(broken)
    }

    fn too_large(&self) -> Attempt {
        let largest = self.largest;
        Attempt::new(
            FailureKind::TooLarge,
            format!("the body is larger than `largest_response`, {largest} bytes"),
        )
    }

    /// Whether an endpoint is back: any answer but one of 5xx to the cheapest question there is.
    async fn probe(&self, base: &reqwest::Url) -> Result<(), String> {
        let mut request = self.client.get(below(base, "models")).timeout(Duration::from_secs(10));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        match request.send().await {
            Ok(response) if response.status().is_server_error() => Err(response.status().to_string()),
            Ok(_) => Ok(()),
            Err(error) => Err(self.blot(&broken(error).failure.detail)),
        }
    }

    /// Sleeps, unless the run is to stop or there is nothing to wait for.
    pub(super) async fn pause(&self, wait: Duration) {
        let end = Instant::now() + wait;
        while Instant::now() < end && !self.cancel.is_cancelled() && self.pool.gone().is_none() {
            sleep(GLANCE.min(end.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// The text without the key.
    pub(super) fn blot(&self, text: &str) -> String {
        match &self.secret {
            Some(secret) => text.replace(secret.as_str(), "***"),
            None => text.to_owned(),
        }
    }
}

/// The answer split into one body for each of its choices, at most `wanted`. The tokens of several choices are told as one
/// sum, which says nothing about any of them.
fn choices(mut body: Value, wanted: usize) -> Vec<Value> {
    let several = match body.get_mut("choices").and_then(Value::as_array_mut) {
        Some(choices) if choices.len() > 1 && wanted > 1 => std::mem::take(choices),
        _ => return vec![body],
    };
    if let Some(usage) = body.get_mut("usage").and_then(Value::as_object_mut) {
        usage.retain(|field, _| field == "prompt_tokens");
    }
    let one = |choice| {
        let mut one = body.clone();
        one["choices"] = json!([choice]);
        one
    };
    several.into_iter().take(wanted).map(one).collect()
}

fn usage(body: &Value) -> (Option<u64>, Option<u64>) {
    let of = |field| body.get("usage")?.get(field)?.as_u64();
    (of("prompt_tokens"), of("completion_tokens"))
}

pub(super) fn classify(status: StatusCode) -> FailureKind {
    match status.as_u16() {
        429 => FailureKind::RateLimit,
        408 | 425 | 504 => FailureKind::Timeout,
        // 529 is not registered; Anthropic and others say by it what 503 says.
        503 | 529 => FailureKind::Overloaded,
        500..=599 => FailureKind::Server,
        300..=399 => FailureKind::Redirect,
        _ => FailureKind::Refused,
    }
}

/// A connection that could not be made, or that broke.
fn broken(error: reqwest::Error) -> Attempt {
    let kind = match () {
        () if error.is_connect() => FailureKind::Connection,
        () if error.is_timeout() => FailureKind::Timeout,
        () => FailureKind::Broken,
    };
    let error = error.without_url();
    let mut detail = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        detail = format!("{detail}: {inner}");
        cause = inner.source();
    }
    Attempt::new(kind, abridge(&detail))
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    retry::wait_of(text(RETRY_AFTER)?, text(DATE))
}
