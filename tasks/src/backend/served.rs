//! A server that speaks OpenAI's protocol: many requests in flight, retried with care, each paid for once.
//!
//! Two threads share the work. The node's own takes requests as there is room for them and keeps every answer; another
//! runs tokio and does nothing but send and receive, so that no write to the disk holds up the network.
//! The key goes to the addresses that were given and nowhere else: redirects are not followed, and it is blotted out of
//! every message.

mod batch;
mod call;
mod pace;
mod pool;
mod request;
mod retry;
mod service;
mod stream;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use dag_engine::Digest;
use dag_engine::context::{Cancel, Input, Progress};
use dag_engine::task::{TaskCx, TaskError};
use dag_lm::template::ChatTemplate;
use reqwest::header::HeaderValue;
use reqwest::{Client, Url};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{
    Accepts, BackendRun, FailureKind, OnFinished, Protocol, Request, Sample, Sampling, ServedSpec,
    ServiceRef, templated,
};
use call::{Call, Shared, Told};
use pace::Pace;
use pool::Pool;
pub(super) use request::base;
use service::Watch;

/// What may be in flight at once where `concurrency` leaves it to be found out.
const MOST_IN_FLIGHT: usize = 1024;

/// What to do about a certificate that is not believed.
const UNTRUSTED: &str =
    "; an authority of one's own is trusted if `SSL_CERT_FILE` names the file with its certificate";

/// A model behind a server, or behind several that serve the same.
pub struct Served {
    spec: ServedSpec,
    /// The model that is served, where it enters the node.
    model: Option<Digest>,
    /// Its template, where it is known: the server reads the messages by the same.
    template: Option<ChatTemplate>,
    is_evaluated: bool,
    run: BackendRun,
    client: Client,
    endpoints: Vec<Url>,
    service: Option<Watch>,
    /// A service that has not begun, since all that it would be asked for seems to be stored.
    unserved: Option<String>,
    key: Option<String>,
    /// The node's folder that outlives an interruption, and the way to tell what is being done.
    scratch: PathBuf,
    progress: Progress,
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
        let endpoints = run.endpoints().map(|text| base(text, key.is_some())).collect::<Result<Vec<_>, _>>();
        let endpoints = endpoints.map_err(missing)?;
        let service = Watch::of(run, key.is_some());
        let unserved = match &run.service {
            Some(ServiceRef::Name(name)) => Some(name.clone()),
            _ => None,
        };
        if endpoints.is_empty() && service.is_none() && unserved.is_none() {
            return Err(missing(format!("no server is given for `{}`", spec.name)));
        }
        let timeout = seconds(run.request_timeout, 14_400.0);
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(timeout.min(Duration::from_secs(30)))
            .timeout(timeout)
            .build()
            .map_err(|error| TaskError::failed(format!("the HTTP client cannot start: {error}")))?;
        Ok(Self {
            spec,
            model: None,
            template: None,
            is_evaluated: false,
            run: run.clone(),
            client,
            endpoints,
            service,
            unserved,
            key,
            scratch: cx.scratch().to_owned(),
            progress: cx.progress().clone(),
        })
    }

    /// The same for a model that enters the node.
    pub(super) fn of_model(self, model: &Input) -> Self {
        Self { model: Some(model.digest), template: templated::of_folder(&model.path), ..self }
    }

    /// The same for a model that is evaluated.
    pub(super) fn evaluated(self) -> Self {
        Self { is_evaluated: true, ..self }
    }

    pub(super) fn accepts(&self) -> Accepts {
        Accepts { only_thinking: self.spec.thinks, blank: self.is_evaluated }
    }

    pub(super) fn price(&self) -> Option<super::Price> {
        self.run.price
    }

    pub(super) fn is_batched(&self) -> bool {
        self.run.is_batched()
    }

    pub(super) fn identity(&self) -> Value {
        match &self.model {
            Some(model) => self.spec.identity_of(model),
            None => self.spec.identity(),
        }
    }

    pub(super) fn ask(
        &self,
        sampling: &Sampling,
        requests: &mut dyn Iterator<Item = Request>,
        cancel: &Cancel,
        finished: &mut OnFinished,
    ) -> Result<(), TaskError> {
        if let Some(service) = &self.unserved {
            for request in requests {
                if !request.samples.is_empty() {
                    return Err(TaskError::Unserved(service.clone()));
                }
            }
            return Ok(());
        }
        if let Some(options) = batch::Options::of(&self.run) {
            return batch::ask(self, options, sampling, requests, cancel, finished);
        }
        let runtime = runtime()?;
        let (send, receive) = unbounded_channel();
        let (tell, told) = mpsc::channel();
        let mut shared = self.shared(sampling, cancel, tell)?;
        if let Some(watch) = &self.service {
            let Some(name) = watch.wait(&shared.pool, cancel)? else { return Ok(()) };
            // A model that enters has the name that its server gives it.
            shared.name = self.model.is_some().then_some(name);
        }
        let shared = Arc::new(shared);
        let watch = self.service.clone();
        thread::scope(|scope| {
            let of_all = Arc::clone(&shared);
            scope.spawn(move || runtime.block_on(carry(receive, of_all, watch)));
            let exchanged = self.exchange(&shared, &send, &told, sampling, requests, finished);
            // However this ended, it ends the other thread.
            drop(send);
            exchanged
        })
    }

    fn shared(
        &self,
        sampling: &Sampling,
        cancel: &Cancel,
        tell: mpsc::Sender<Told>,
    ) -> Result<Shared, TaskError> {
        let authorization = self.key.as_ref().map(|key| HeaderValue::from_str(&format!("Bearer {key}")));
        let authorization = authorization.transpose().map_err(|_| {
            TaskError::failed("the key holds characters that no header may hold; is a line break at its end?")
        })?;
        let now = Instant::now();
        let patience = seconds(self.run.server_patience, 60.0);
        let limits = (self.run.requests_per_minute, self.run.tokens_per_minute);
        Ok(Shared {
            client: self.client.clone(),
            pool: match &self.service {
                Some(watch) => Pool::changing(watch.replicas(), self.run.concurrency, watch.patience(), now),
                None => Pool::new(self.endpoints.clone(), self.run.concurrency, patience, now),
            },
            name: None,
            pace: Pace::new(limits.0, limits.1, sampling.max_tokens, now),
            path: request::path(self.spec.protocol),
            authorization: authorization.map(|mut value| {
                value.set_sensitive(true);
                value
            }),
            secret: self.key.clone(),
            retries: self.run.request_retries.unwrap_or(5),
            retried: self.run.retry_on.clone().unwrap_or_else(|| FailureKind::TRANSIENT.to_vec()),
            accepts: self.accepts(),
            is_streamed: self.run.stream,
            largest: self.run.largest_response.unwrap_or(64 << 20),
            idle: seconds(self.run.idle_timeout, 300.0),
            cancel: cancel.clone(),
            answers_once: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            tell,
        })
    }

    /// The node's side: hands over requests while there is room, and takes answers as they come.
    fn exchange(
        &self,
        shared: &Arc<Shared>,
        send: &UnboundedSender<Call>,
        told: &mpsc::Receiver<Told>,
        sampling: &Sampling,
        requests: &mut dyn Iterator<Item = Request>,
        finished: &mut OnFinished,
    ) -> Result<(), TaskError> {
        let most = self.run.concurrency.unwrap_or(MOST_IN_FLIGHT).max(1);
        let mut calls = requests.flat_map(|request| self.calls(shared, &request, sampling));
        let mut in_flight = 0;
        let mut is_over = false;
        loop {
            let is_stopped = || shared.cancel.is_cancelled() || shared.pool.gone().is_some();
            // One that waits to be tried again leaves its place to another, up to the most there may be.
            let has_room = |in_flight: usize| {
                let waiting = shared.waiting.load(Ordering::Relaxed);
                in_flight < most && in_flight.saturating_sub(waiting) < shared.pool.room()
            };
            while !is_over && has_room(in_flight) && !is_stopped() {
                // A prompt whose samples are all stored is no call, but a place to look for answers.
                match calls.next() {
                    None => is_over = true,
                    Some(None) => break,
                    Some(Some(call)) => {
                        in_flight += 1;
                        send.send(call).map_err(|_| TaskError::failed("the HTTP thread is gone"))?;
                    }
                }
            }
            if in_flight == 0 && (is_over || is_stopped()) {
                break;
            }
            let must_wait = is_over || is_stopped() || !has_room(in_flight);
            let first = if must_wait { told.recv().ok() } else { told.try_recv().ok() };
            for told in first.into_iter().chain(told.try_iter()) {
                let Told::Done(outcomes) = told else { continue };
                in_flight -= 1;
                for (key, outcome) in outcomes {
                    finished(key, outcome)?;
                }
            }
        }
        match shared.pool.gone() {
            Some(why) => {
                let help = if why.contains("certificate") { UNTRUSTED } else { "" };
                Err(TaskError::Transient(format!("no server answers ({why}){help}")))
            }
            None => Ok(()),
        }
    }

    /// The calls that a request comes to: one for each sample, or for as many as one call may ask for.
    fn calls(&self, shared: &Arc<Shared>, request: &Request, sampling: &Sampling) -> Vec<Option<Call>> {
        if request.samples.is_empty() {
            return vec![None];
        }
        let several = self.run.samples_per_request.unwrap_or(1).max(1);
        let most = if shared.answers_once.load(Ordering::Relaxed) { 1 } else { several };
        let opens_thinking = self.template.as_ref().is_some_and(|template| {
            self.spec.protocol == Protocol::Chat
                && templated::render(template, &request.messages, sampling)
                    .is_ok_and(|read| read.opens_thinking)
        });
        let call = |samples: &[Sample]| {
            let mut body =
                request::body(&self.spec, &request.messages, sampling, samples[0].seed, samples.len());
            if let (Some(name), false) = (&shared.name, self.spec.extra.contains_key("model")) {
                body.insert("model".into(), json!(name));
            }
            if self.run.stream {
                body.insert("stream".into(), json!(true));
                body.insert("stream_options".into(), json!({ "include_usage": true }));
            }
            Some(Call { shared: Arc::clone(shared), samples: samples.to_vec(), opens_thinking, body })
        };
        request.samples.chunks(most).map(call).collect()
    }
}

/// The network's side: every call is a task of its own.
async fn carry(mut calls: UnboundedReceiver<Call>, shared: Arc<Shared>, watch: Option<Watch>) {
    let mut running = tokio::task::JoinSet::new();
    let mut look = tokio::time::interval(service::LOOK);
    loop {
        tokio::select! {
            _ = look.tick(), if watch.is_some() => {
                if let Some(watch) = &watch {
                    watch.look(&shared.pool);
                }
            }
            call = calls.recv() => match call {
                Some(call) => {
                    let shared = Arc::clone(&call.shared);
                    // Nobody is there to be told only where the node has failed.
                    running.spawn(async move { drop(shared.tell.send(Told::Done(call.run().await))) });
                }
                None => break,
            },
            Some(_) = running.join_next() => {}
        }
    }
    // The node's side has failed: what is in flight is not waited for.
    running.abort_all();
}

fn runtime() -> Result<tokio::runtime::Runtime, TaskError> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| TaskError::failed(format!("the HTTP runtime cannot start: {error}")))
}

fn seconds(given: Option<f64>, otherwise: f64) -> Duration {
    // What is no number is no wish.
    let given = given.filter(|seconds| seconds.is_finite());
    Duration::from_secs_f64(given.unwrap_or(otherwise).clamp(0.001, 1e7))
}

impl ServedSpec {
    /// What a record must know of the model.
    pub(super) fn identity(&self) -> Value {
        self.facts("name", json!(self.name))
    }

    /// The same of a model that enters the node: its bytes instead of a name.
    pub(super) fn identity_of(&self, model: &Digest) -> Value {
        self.facts("digest", json!(model.to_string()))
    }

    fn facts(&self, field: &str, which: Value) -> Value {
        let mut facts = Map::new();
        facts.insert(field.into(), which);
        for (field, value) in [("revision", &self.revision), ("quantization", &self.quantization)] {
            if let Some(value) = value {
                facts.insert(field.into(), json!(value));
            }
        }
        if self.protocol != super::Protocol::Chat {
            facts.insert("protocol".into(), json!(self.protocol));
        }
        if !self.extra.is_empty() {
            facts.insert("extra".into(), json!(self.extra));
        }
        super::identity("served", &Value::Object(facts))
    }
}

#[cfg(test)]
mod tests;
