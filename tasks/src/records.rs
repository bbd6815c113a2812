//! Reuse record by record: what has been asked of a model is never asked again, whoever asks.
//!
//! A record is one response. Its key holds everything that decides it (the model, the messages, the sampling, the seed,
//! the repeat) and nothing else: no node, row, shard or file. So eight repeats after four ask for the other four, ten more
//! rows ask for theirs, and another experiment that asks the same pays nothing. Two rows of one node with the same
//! messages share a record; to draw twice from one prompt, ask for repeats.
//!
//! The raw response is what is stored; everything read out of it is derived again each time.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dag_engine::context::Shard;
use dag_engine::task::{TaskCx, TaskError};
use dag_engine::{Digest, RecordLog, canonical, seed};
use serde_json::{Value, json};

use crate::backend::{Backend, Failure, FailureKind, Message, Raw, Reply, Request, Sample, Sampling};
use crate::purse::{Purse, Short};

/// Part of every key. Bumped when a stored response could mean something else than before.
const RECORD_VERSION: u32 = 1;
/// How long a budget that is short waits for what is in flight before it looks again.
const PATIENCE: Duration = Duration::from_millis(5);
/// How often one that waits for another node looks whether the run is to stop.
const GLANCE: Duration = Duration::from_millis(200);

/// The seed of a node: the experiment's, and another for another draw.
pub fn draw(experiment: u64, draw: u64) -> u64 {
    if draw == 0 { experiment } else { seed::derive(experiment, &[b"draw", &draw.to_le_bytes()]) }
}

/// A prompt, and which of its repeats are wanted.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// The conversation.
    pub messages: Vec<Message>,
    /// The repeats, from zero.
    pub repeats: std::ops::Range<u32>,
}

impl Prompt {
    /// Whether it is of the share of the records that is asked for.
    fn is_of(&self, shard: Option<Shard>) -> bool {
        shard.is_none_or(|shard| shard.holds(&canonical::digest(&json!(self.messages))))
    }
}

/// The records of one model with one way of sampling.
pub struct Records {
    stored: Stored,
    asked: BTreeSet<Digest>,
    failed: BTreeMap<Digest, Failure>,
    counts: Counts,
    purse: Purse,
}

/// What is stored of one stream, to look up. Cheap to clone.
#[derive(Clone)]
pub struct Stored {
    log: Arc<RecordLog>,
    keys: Arc<Keys>,
}

/// What the keys of a stream have in common.
pub(crate) struct Keys {
    pub(crate) model: Value,
    pub(crate) sampling: Value,
    pub(crate) seed: u64,
}

/// The statement of the stream that records with such keys are in.
pub(crate) fn stream(keys: &Keys) -> Value {
    json!({ "version": RECORD_VERSION, "model": keys.model, "sampling": keys.sampling })
}

impl Stored {
    /// The key of one repeat of a prompt.
    pub fn key(&self, messages: &[Message], repeat: u32) -> Digest {
        self.keys.sample(messages, repeat).key
    }

    /// The stored response of a key. One that cannot be read is as good as none.
    pub fn get(&self, key: &Digest) -> Result<Option<Raw>, TaskError> {
        Ok(self.log.get(key)?.and_then(|bytes| Raw::from_bytes(&bytes).ok()))
    }
}

impl Keys {
    pub(crate) fn sample(&self, messages: &[Message], repeat: u32) -> Sample {
        let messages = json!(messages);
        let seed =
            seed::derive(self.seed, &[&canonical::to_bytes(&messages), &u64::from(repeat).to_le_bytes()]);
        let key = canonical::digest(&json!({
            "version": RECORD_VERSION,
            "model": self.model,
            "messages": messages,
            "sampling": self.sampling,
            "seed": seed,
            "repeat": repeat,
        }));
        Sample { key, seed }
    }
}

/// The rights to ask that one node holds; given back however its asking ends.
struct Claims<'a> {
    log: &'a RecordLog,
    held: RefCell<BTreeSet<Digest>>,
}

impl Claims<'_> {
    fn take(&self, key: &Digest) -> bool {
        self.log.claim(key) && self.held.borrow_mut().insert(*key)
    }

    fn release(&self, key: &Digest) {
        self.held.borrow_mut().remove(key);
        self.log.release(key);
    }
}

impl Drop for Claims<'_> {
    fn drop(&mut self) {
        self.held.borrow().iter().for_each(|key| self.log.release(key));
    }
}

/// What asking came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records wanted, each key once.
    pub wanted: u64,
    /// Of these, in the store already.
    pub reused: u64,
}

impl Records {
    /// The records of `backend` under `sampling`. `seed` is the experiment's, or zero where nothing is random.
    pub fn open(cx: &TaskCx, backend: &Backend, sampling: &Sampling, seed: u64) -> Result<Self, TaskError> {
        let keys = Keys { model: backend.identity(), sampling: json!(sampling), seed };
        Ok(Self {
            stored: Stored { log: cx.records(&stream(&keys))?, keys: Arc::new(keys) },
            asked: BTreeSet::new(),
            failed: BTreeMap::new(),
            counts: Counts::default(),
            purse: Purse::new(cx.allowance(), backend.price(), backend.is_batch(), sampling.max_tokens),
        })
    }

    /// What is stored, to look up.
    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    /// The key of one repeat of a prompt.
    pub fn key(&self, messages: &[Message], repeat: u32) -> Digest {
        self.stored.key(messages, repeat)
    }

    /// The response of a key as `backend` answers are read, or why there is none.
    pub fn outcome(&self, key: &Digest, backend: &Backend) -> Result<Result<Reply, Failure>, TaskError> {
        Ok(match self.stored.get(key)? {
            Some(raw) => raw.read(backend.accepts()),
            None => Err(self.failed.get(key).cloned().unwrap_or_else(|| {
                Failure::new(FailureKind::Malformed, "the stored response cannot be read")
            })),
        })
    }

    /// The failures so far, each key once.
    pub fn failures(&self) -> impl ExactSizeIterator<Item = &Failure> {
        self.failed.values()
    }

    /// What asking came to so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Asks for every wanted response that is not stored, and stores it the moment it is there.
    ///
    /// May be called several times; a key is asked for once. A request's intent is written ahead of it where it costs
    /// money, so that what a killed process may have paid for in vain is known. What another node of this process is asking
    /// for is waited for and not asked for again.
    pub fn ask(
        &mut self,
        cx: &TaskCx,
        backend: &Backend,
        sampling: &Sampling,
        prompts: &mut dyn Iterator<Item = Result<Prompt, TaskError>>,
    ) -> Result<(), TaskError> {
        if backend.is_paid() && self.asked.is_empty() {
            let unknown = self.stored.log.unknown().len();
            if unknown > 0 {
                cx.warn(&format!(
                    "{unknown} requests of an interrupted run are of unknown state; those needed are sent again"
                ));
            }
        }
        let log = Arc::clone(&self.stored.log);
        let mut elsewhere = self.ask_once(cx, backend, sampling, prompts)?;
        while !elsewhere.is_empty() {
            for (prompt, key) in &elsewhere {
                while !log.wait(key, GLANCE) {
                    if cx.cancelled() {
                        return Err(TaskError::Cancelled);
                    }
                }
                // Wanted anew: stored by now, or failed there and asked for here.
                self.asked.remove(key);
                self.counts.wanted -= prompt.repeats.len() as u64;
            }
            let mut again = elsewhere.into_iter().map(|(prompt, _)| Ok(prompt));
            elsewhere = self.ask_once(cx, backend, sampling, &mut again)?;
        }
        Ok(())
    }

    /// Asks for what is neither stored nor being asked for by another node; gives what is.
    fn ask_once(
        &mut self,
        cx: &TaskCx,
        backend: &Backend,
        sampling: &Sampling,
        prompts: &mut dyn Iterator<Item = Result<Prompt, TaskError>>,
    ) -> Result<Vec<(Prompt, Digest)>, TaskError> {
        let cancel = cx.cancel_token();
        let progress = cx.progress();
        let (log, keys, is_paid) = (&*self.stored.log, &self.stored.keys, backend.is_paid());
        let (wanted, counts, failed) = (&mut self.asked, &mut self.counts, &mut self.failed);
        let purse = &self.purse;
        let shard = cx.shard();
        // All repeats of a prompt, and every further attempt at it, are of one share.
        let mut prompts = prompts.filter(|prompt| prompt.as_ref().map_or(true, |prompt| prompt.is_of(shard)));
        let claims = Claims { log, held: RefCell::default() };
        let (mut fault, mut stopped, mut elsewhere) = (None, None, Vec::new());
        // A prompt that was held back with what is left of its repeats, and what there was not enough of.
        let mut held: Option<(Prompt, Short)> = None;
        let mut missing =
            |prompt: Prompt, held: &mut Option<(Prompt, Short)>| -> Result<Request, TaskError> {
                let mut samples = Vec::new();
                let bytes = prompt.messages.iter().map(|message| message.content.len()).sum();
                for repeat in prompt.repeats.clone() {
                    let sample = keys.sample(&prompt.messages, repeat);
                    if wanted.contains(&sample.key) {
                        continue;
                    }
                    let part = |repeats| Prompt { messages: prompt.messages.clone(), repeats };
                    // Claimed before it is looked for: another node may be about to store it.
                    if !claims.take(&sample.key) {
                        elsewhere.push((part(repeat..repeat + 1), sample.key));
                    } else if let Some(stored) = log.get(&sample.key)? {
                        claims.release(&sample.key);
                        counts.reused += 1;
                        progress.reused(1);
                        let worth = purse.has_price().then(|| Raw::from_bytes(&stored).ok()).flatten();
                        if let Some(worth) = worth.and_then(|raw| purse.worth(&raw)) {
                            progress.saved(worth);
                        }
                    } else if let Err(short) = purse.take(&sample.key, bytes) {
                        claims.release(&sample.key);
                        *held = Some((part(repeat..prompt.repeats.end), short));
                        break;
                    } else {
                        if is_paid {
                            log.intent(&sample.key)?;
                        }
                        samples.push(sample);
                    }
                    wanted.insert(sample.key);
                    counts.wanted += 1;
                }
                Ok(Request { messages: prompt.messages, samples })
            };
        let mut requests = std::iter::from_fn(|| {
            let prompt = match held.take() {
                Some((prompt, _)) => Ok(prompt),
                None => prompts.next()?,
            };
            let request = prompt.and_then(|prompt| missing(prompt, &mut held));
            let is_empty = request.as_ref().is_ok_and(|request| request.samples.is_empty());
            if let Some((_, short)) = held.as_ref().filter(|_| is_empty) {
                // A batch is handed over before anything of it comes back.
                if !purse.is_waiting() || *short == Short::Pilot || backend.is_batch() {
                    stopped = Some(*short);
                    return None;
                }
                // What is in flight may come out cheaper than feared.
                std::thread::sleep(PATIENCE);
            }
            match request {
                Ok(request) => Some(request),
                Err(error) => {
                    fault = Some(error);
                    None
                }
            }
        })
        .fuse();
        let mut finished = |key: Digest, outcome: Result<Raw, Failure>| {
            let paid = purse.pay(&key, outcome.as_ref().ok());
            match outcome {
                Ok(raw) => {
                    log.put(&key, &raw.to_bytes())?;
                    let usage = raw.usage();
                    progress.tokens(usage.input, usage.output);
                    if let Some(dollars) = paid {
                        progress.spent(dollars);
                    }
                    progress.done(1);
                }
                Err(failure) => {
                    if is_paid && !failure.kind.may_be_billed() {
                        log.void(&key)?;
                    }
                    progress.failed(&failure.kind.to_string());
                    failed.insert(key, failure);
                }
            }
            claims.release(&key);
            Ok(())
        };
        let asked = backend.ask(sampling, &mut requests, &cancel, &mut finished);
        // Whatever happened, what was paid for is kept.
        log.sync()?;
        asked?;
        match (fault, stopped) {
            (Some(fault), _) => Err(fault),
            _ if cancel.is_cancelled() => Err(TaskError::Cancelled),
            (None, Some(short)) => Err(TaskError::Paused(purse.why(short))),
            (None, None) => Ok(elsewhere),
        }
    }

    /// Every kind of failure with its count, one example, and what helps against it; the most frequent first.
    fn kinds_of_failure(&self) -> String {
        let mut kinds: BTreeMap<FailureKind, (u64, &str)> = BTreeMap::new();
        for failure in self.failed.values() {
            kinds.entry(failure.kind).or_insert((0, &failure.detail)).0 += 1;
        }
        let mut kinds: Vec<_> = kinds.into_iter().collect();
        kinds.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        let told = kinds.iter().map(|(kind, (count, example))| match kind.help() {
            Some(help) => format!("{count} {kind} ({}; {help})", example.trim()),
            None => format!("{count} {kind} ({})", example.trim()),
        });
        told.collect::<Vec<_>>().join(", ")
    }

    /// Ends a node: as partial where the share of failed records is allowed, else in failure. What is done is kept.
    pub fn settle(&self, cx: &mut TaskCx, allowed: f64) -> Result<(), TaskError> {
        self.stored.log.seal()?;
        let failed = self.failed.len() as u64;
        cx.metric("records", self.counts.wanted);
        cx.metric("failed", failed);
        if failed == 0 {
            return Ok(());
        }
        let wanted = self.counts.wanted;
        let summary = format!("{failed} of {wanted} records failed: {}", self.kinds_of_failure());
        if failed as f64 > allowed * wanted as f64 {
            return Err(TaskError::failed(format!(
                "{summary}. The others are kept, and the next run asks for these alone; `run: {{ allow_failed }}` allows \
                 {allowed} to fail"
            )));
        }
        cx.warn(&summary);
        cx.owed(failed);
        Ok(())
    }
}
