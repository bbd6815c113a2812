//! Generation: many sequences at once, each as if it were alone.
//!
//! Sequences share the products of one step, in a fixed number of slots. A finished one leaves and the next enters at once;
//! the samples of one prompt share its prefill. Every thread runs slots of its own, so threads wait for no one between steps;
//! but with a large model they share the work of each step, so that its weights are read once.
//! Memory is given to sequences as they grow; when it runs out, the youngest waits.
//! A sequence depends on its prompt, its sampling parameters and its seed alone: the kernels give a row the same bits in any
//! company, and the sampler draws by seed and position.

mod sequence;
mod thinking;
mod worker;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use serde::{Deserialize, Serialize};

use crate::model::Model;
use crate::sampler::{SamplerError, Sampling};
use crate::tokenizer::{Tokenizer, TokenizerError};
pub use thinking::ThinkingBudget;
use worker::Worker;

/// A prompt and how to answer it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The prompt's tokens; at least one.
    pub prompt: Vec<u32>,
    /// The seed of every sample to draw.
    pub samples: Vec<u64>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// The longest response; the model's context may end it before.
    pub max_tokens: usize,
    /// Tokens that end a response, as the tokenizer's end token. Nothing is added to them.
    pub stop_tokens: Vec<u32>,
    /// Strings that end a response.
    pub stop: Vec<String>,
    /// How long a response may think; as long as it likes where there is none.
    pub thinking: Option<ThinkingBudget>,
}

/// Why a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// With a stop token or a stop string.
    Stop,
    /// Because it was as long as it may be.
    Length,
}

/// A response.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Which request, counted from 0.
    pub request: usize,
    /// Which of its samples, counted from 0.
    pub sample: usize,
    /// The tokens drawn, a stop token at the end included.
    pub tokens: Vec<u32>,
    /// Their text: without the stop token, and cut before the first stop string.
    pub text: String,
    /// Why it ended.
    pub reason: FinishReason,
    /// The log-probability of every token in the model's own distribution.
    pub logprobs: Vec<f64>,
}

impl Finished {
    /// The log-probability of the response.
    pub fn logprob_sum(&self) -> f64 {
        self.logprobs.iter().sum()
    }
}

/// How much is done at once; none of it changes a response.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Sequences that advance together, over all threads.
    pub slots: usize,
    /// Threads that compute.
    pub threads: usize,
    /// Bytes that all caches together may take. Where sequences outgrow them, the one begun last gives its cache up and is
    /// computed again later. One sequence of a thread always runs, however long.
    pub cache_bytes: usize,
}

impl Limits {
    /// So many slots on so many threads, with caches of at most 4 GiB.
    pub fn new(slots: usize, threads: usize) -> Self {
        Self { slots, threads, cache_bytes: 4 << 30 }
    }
}

/// Why generation failed.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A request has nothing to answer.
    #[error("the prompt of request {request} is empty")]
    EmptyPrompt {
        /// The request.
        request: usize,
    },
    /// A prompt leaves no room for a response.
    #[error("the prompt of request {request} has {tokens} tokens; the model's context is {context}")]
    PromptTooLong {
        /// The request.
        request: usize,
        /// The prompt's length.
        tokens: usize,
        /// The model's longest sequence.
        context: usize,
    },
    /// A prompt was tokenised for another model.
    #[error("request {request} holds token {token}; the model has {vocabulary}")]
    ForeignToken {
        /// The request.
        request: usize,
        /// The token.
        token: u32,
        /// The size of the model's vocabulary.
        vocabulary: usize,
    },
    /// The sampling parameters are wrong.
    #[error("request {request}: {source}")]
    Sampling {
        /// The request.
        request: usize,
        /// What is wrong.
        source: SamplerError,
    },
    /// No token could be drawn.
    #[error("token {position} of sample {sample} of request {request} cannot be drawn: {source}")]
    Draw {
        /// The request.
        request: usize,
        /// The sample.
        sample: usize,
        /// The token's position in the response.
        position: usize,
        /// What is wrong.
        source: SamplerError,
    },
    /// A response has no text.
    #[error("sample {sample} of request {request} cannot be decoded: {source}")]
    Decode {
        /// The request.
        request: usize,
        /// The sample.
        sample: usize,
        /// What is wrong.
        source: TokenizerError,
    },
    /// The threads cannot be started.
    #[error("cannot start the worker threads: {0}")]
    Threads(#[from] ThreadPoolBuildError),
}

/// Weights up to which every thread runs steps of its own; more of them are read once per step for all threads.
const CACHED_WEIGHTS: usize = 32 << 20;

/// What workers tell the calling thread.
enum Event {
    /// This worker has taken its request and may be given another.
    Taken(usize),
    /// A response is complete.
    Finished(Finished),
}

/// Answers requests and hands over every response when it is complete, in no particular order.
///
/// Requests are taken from the iterator as slots become free. When `receive` breaks, generation stops where it is and the
/// result is `Break`. Both run on the calling thread.
pub fn generate(
    model: &Model,
    tokenizer: &Tokenizer,
    requests: impl Iterator<Item = Request>,
    limits: &Limits,
    receive: &mut dyn FnMut(Finished) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, GenerateError> {
    let slots = limits.slots.max(1);
    // Threads that each read all weights wait for memory where the caches do not hold them.
    let count = if model.weight_bytes() > CACHED_WEIGHTS { 1 } else { limits.threads.clamp(1, slots) };
    // Fewer workers than threads: then several threads share the work of a step.
    let pools = (0..count)
        .map(|_| ThreadPoolBuilder::new().num_threads((limits.threads / count).max(1)).build())
        .collect::<Result<Vec<ThreadPool>, _>>()?;
    let cancelled = AtomicBool::new(false);
    let (events, happened) = mpsc::channel();

    thread::scope(|scope| {
        let mut workers = Vec::new();
        let mut desks = Vec::new();
        for (index, pool) in pools.iter().enumerate() {
            let (desk, tasks) = mpsc::channel();
            let (events, cancelled) = (events.clone(), &cancelled);
            let slots = slots / count + usize::from(index < slots % count);
            let cache_bytes = limits.cache_bytes / count;
            let begin = move || Worker::new(model, tokenizer, slots, cache_bytes);
            workers.push(scope.spawn(move || {
                let result = pool.install(move || work(begin(), index, &tasks, &events, cancelled));
                if result.is_err() {
                    cancelled.store(true, Ordering::Relaxed);
                }
                result
            }));
            desks.push(Some(desk));
        }
        drop(events);
        let flow = attend(requests, desks, &happened, receive);
        if flow.is_break() {
            cancelled.store(true, Ordering::Relaxed);
        }
        drop(happened);
        for worker in workers {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(flow)
    })
}

/// The calling thread's part: gives every worker one request ahead and receives what they finish.
fn attend(
    requests: impl Iterator<Item = Request>,
    mut desks: Vec<Option<Sender<(usize, Request)>>>,
    happened: &Receiver<Event>,
    receive: &mut dyn FnMut(Finished) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut requests = requests.enumerate();
    let workers = desks.len();
    let mut give = |index: usize| {
        // A worker whose desk is gone works off what it has and ends; one that has failed no longer listens.
        let desk = desks[index].take();
        if let (Some(desk), Some(request)) = (desk, requests.next())
            && desk.send(request).is_ok()
        {
            desks[index] = Some(desk);
        }
    };
    (0..workers).for_each(&mut give);
    for event in happened {
        match event {
            Event::Taken(index) => give(index),
            Event::Finished(finished) => receive(finished)?,
        }
    }
    ControlFlow::Continue(())
}

/// A worker's loop: fill the slots, advance them by a token, hand over what is complete.
fn work(
    mut worker: Worker<'_>,
    index: usize,
    tasks: &Receiver<(usize, Request)>,
    events: &Sender<Event>,
    cancelled: &AtomicBool,
) -> Result<(), GenerateError> {
    while !cancelled.load(Ordering::Relaxed) {
        worker.admit()?;
        while worker.wants_request() {
            // With nothing to do it waits; otherwise the calling thread may be busy, and the slots go on meanwhile.
            let task = if worker.is_idle() { tasks.recv().ok() } else { tasks.try_recv().ok() };
            let Some((number, request)) = task else { break };
            // Where nobody listens any more the next check of `cancelled` ends the work.
            drop(events.send(Event::Taken(index)));
            worker.take(number, request)?;
            worker.admit()?;
        }
        for finished in worker.take_finished() {
            drop(events.send(Event::Finished(finished)));
        }
        if worker.is_idle() {
            break;
        }
        worker.step()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
