//! Generation on the CPU: every thread runs slots of its own, so threads wait for no one between steps; but with a large model
//! they share the work of each step, so that its weights are read once.
//!
//! A cache grows with its sequence. When all of them would take more than they may, the sequence begun last gives its cache
//! up and keeps its tokens; it is computed again, to the same bytes, when there is room, before anything new begins. The one
//! begun first is never stopped, so all of them end.

use std::ops::ControlFlow;
use std::sync::Arc;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::desk::{self, Desk};
use super::sequence::{Sequence, Speaker};
use super::{FinishReason, Finished, GenerateError, Limits, Request};
use crate::model::{Cache, Decoder, Turn, Workspace};
use crate::sampler::Sampler;
use crate::tokenizer::Tokenizer;

/// Tokens of a prompt that pass the model at once: enough for full speed, few enough to bound the memory of a step.
const PREFILL_CHUNK: usize = 256;
/// Tokens by which a cache grows at least.
const GROWTH: usize = 64;

/// Weights up to which every thread runs steps of its own; more of them are read once per step for all threads.
const CACHED_WEIGHTS: usize = 32 << 20;
/// Bytes of all caches, where nothing is said about them.
const CACHE_BYTES: usize = 4 << 30;

/// [`super::generate`] on the CPU.
pub(super) fn generate(
    model: &Decoder,
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
    let cache_bytes = limits.cache_bytes.unwrap_or(CACHE_BYTES) / count;
    let workers = pools.iter().enumerate().map(|(index, pool)| {
        let slots = slots / count + usize::from(index < slots % count);
        move |desk: Desk<'_>| {
            pool.install(move || desk.work(Worker::new(model, tokenizer, slots, cache_bytes)))
        }
    });
    desk::run(workers.collect(), 1, requests, receive)
}

/// The slots of one thread and the request it is answering.
pub(super) struct Worker<'a> {
    model: &'a Decoder,
    slots: usize,
    cache_bytes: usize,
    speaker: Speaker<'a>,
    /// One for each thread.
    samplers: Vec<Sampler>,
    workspace: Workspace,
    running: Vec<Running>,
    /// What gave its cache up.
    stopped: Vec<Sequence>,
    /// A request that has not passed the model.
    next: Option<(usize, Request)>,
    prefilled: Option<Prefilled>,
    finished: Vec<Finished>,
}

/// A sequence with the keys and values of all its tokens but the last one.
struct Running {
    sequence: Sequence,
    cache: Cache,
}

/// A prompt that has passed the model; its samples not yet begun start from here.
struct Prefilled {
    number: usize,
    request: Arc<Request>,
    cache: Cache,
    logits: Vec<f32>,
    /// Tokens that the longest response may have.
    room: usize,
    /// The first sample not yet begun.
    sample: usize,
}

impl<'a> Worker<'a> {
    /// A worker of the current pool.
    pub(super) fn new(
        model: &'a Decoder,
        tokenizer: &'a Tokenizer,
        slots: usize,
        cache_bytes: usize,
    ) -> Self {
        let vocabulary = model.config().vocab_size.min(tokenizer.vocab_size());
        Self {
            model,
            slots,
            cache_bytes,
            speaker: Speaker::new(tokenizer, vocabulary),
            samplers: std::iter::repeat_with(Sampler::default).take(rayon::current_num_threads()).collect(),
            workspace: Workspace::default(),
            running: Vec::with_capacity(slots),
            stopped: Vec::new(),
            next: None,
            prefilled: None,
            finished: Vec::new(),
        }
    }

    fn has_begun_all(&self) -> bool {
        self.next.is_none() && self.prefilled.is_none()
    }

    /// The cache of a sequence and the logits after its last token.
    fn prefill(&mut self, tokens: &[u32]) -> (Cache, Vec<f32>) {
        let mut cache = self.model.cache();
        cache.reserve(tokens.len());
        let mut logits: &[f32] = &[];
        for tokens in tokens.chunks(PREFILL_CHUNK) {
            let turn = Turn { cache: &mut cache, tokens };
            logits = self.model.forward_here(&mut [turn], &mut self.workspace);
        }
        (cache, logits.to_vec())
    }

    fn begin_samples(&mut self) -> Result<(), GenerateError> {
        while let Some(prefilled) = &self.prefilled {
            if prefilled.sample == prefilled.request.samples.len() {
                self.prefilled = None;
                break;
            }
            let Prefilled { number, sample, room, .. } = *prefilled;
            let mut sequence = Sequence::new(number, sample, Arc::clone(&prefilled.request), room);
            let capacity = grown(prefilled.cache.len(), sequence.longest());
            if self.running.len() == self.slots || !self.has_room_for(capacity) {
                break;
            }
            if let Some(reason) =
                self.speaker.advance(&mut self.samplers[0], &mut sequence, &prefilled.logits)?
            {
                self.finished.push(self.speaker.finish(sequence, reason)?);
            } else {
                let mut cache = prefilled.cache.clone();
                cache.reserve(capacity - cache.len());
                self.running.push(Running { sequence, cache });
            }
            self.prefilled.as_mut().expect("it is there").sample += 1;
        }
        Ok(())
    }

    /// Grows the caches that are full, and stops the youngest sequences where there is no memory for that.
    fn make_room(&mut self) {
        let needed = |running: &[Running]| -> usize {
            running.iter().map(|running| self.model.cache_bytes(running.capacity())).sum()
        };
        while self.running.len() > 1 && self.kept() + needed(&self.running) > self.cache_bytes {
            let youngest = self.running.iter().enumerate().max_by_key(|(_, running)| running.sequence.rank());
            let (youngest, _) = youngest.expect("more than one is running");
            self.stopped.push(self.running.swap_remove(youngest).sequence);
        }
        for running in &mut self.running {
            running.cache.reserve(running.capacity() - running.cache.len());
        }
    }

    /// Whether there may be one more cache for so many tokens; a first one always may.
    fn has_room_for(&self, tokens: usize) -> bool {
        let caches = self.running.iter().map(|running| self.model.cache_bytes(running.cache.capacity()));
        let needed = self.kept() + self.model.cache_bytes(tokens);
        self.running.is_empty() || caches.sum::<usize>() + needed <= self.cache_bytes
    }

    /// Bytes of the cache that further samples start from.
    fn kept(&self) -> usize {
        self.prefilled.as_ref().map_or(0, |prefilled| self.model.cache_bytes(prefilled.cache.capacity()))
    }
}

impl desk::Worker for Worker<'_> {
    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.stopped.is_empty() && self.has_begun_all()
    }

    fn wants_request(&self) -> bool {
        self.running.len() < self.slots && self.stopped.is_empty() && self.has_begun_all()
    }

    fn take(&mut self, number: usize, request: Request) -> Result<(), GenerateError> {
        super::check(number, &request, self.model.config())?;
        self.next = Some((number, request));
        Ok(())
    }

    /// Goes on with what was stopped, then begins samples, while there are slots and memory for them.
    fn admit(&mut self) -> Result<(), GenerateError> {
        while let Some(oldest) = (0..self.stopped.len()).min_by_key(|&index| self.stopped[index].rank()) {
            let past = self.stopped[oldest].past();
            let capacity = grown(past.len(), self.stopped[oldest].longest());
            if self.running.len() == self.slots || !self.has_room_for(capacity) {
                return Ok(());
            }
            let (mut cache, _) = self.prefill(&past);
            cache.reserve(capacity - past.len());
            self.running.push(Running { sequence: self.stopped.swap_remove(oldest), cache });
        }
        if let Some((number, request)) = self.next.take() {
            if !self.has_room_for(request.prompt.len()) {
                self.next = Some((number, request));
                return Ok(());
            }
            let (cache, logits) = self.prefill(&request.prompt);
            let room = request.max_tokens.min(self.model.config().context() - request.prompt.len());
            let request = Arc::new(request);
            self.prefilled = Some(Prefilled { number, request, cache, logits, room, sample: 0 });
        }
        self.begin_samples()
    }

    fn step(&mut self) -> Result<(), GenerateError> {
        self.make_room();
        let mut turns: Vec<Turn<'_>> =
            self.running.iter_mut().map(|Running { sequence, cache }| sequence.turn(cache)).collect();
        let logits = self.model.forward_here(&mut turns, &mut self.workspace);
        let ends = draw(self.model, &self.speaker, &mut self.samplers, &mut self.running, logits);
        // Backwards, so that what takes the place of a finished sequence has been looked at already.
        for (index, end) in ends.into_iter().enumerate().rev() {
            if let Some(reason) = end? {
                let Running { sequence, .. } = self.running.swap_remove(index);
                self.finished.push(self.speaker.finish(sequence, reason)?);
            }
        }
        Ok(())
    }

    fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }
}

impl Running {
    /// Tokens that the cache has room for once the next one is in it.
    fn capacity(&self) -> usize {
        let (held, room) = (self.cache.len(), self.cache.capacity());
        if held < room { room } else { grown(held, self.sequence.longest()) }
    }
}

/// Gives every running sequence its next token from its row of logits, each thread some of them.
fn draw(
    model: &Decoder,
    speaker: &Speaker<'_>,
    samplers: &mut [Sampler],
    running: &mut [Running],
    logits: &[f32],
) -> Vec<Result<Option<FinishReason>, GenerateError>> {
    let vocabulary = model.config().vocab_size;
    let each = running.len().div_ceil(samplers.len()).max(1);
    let parts = running.par_chunks_mut(each).zip(logits.par_chunks(each * vocabulary)).zip(samplers);
    parts
        .flat_map_iter(|((running, logits), sampler)| {
            let rows = running.iter_mut().zip(logits.chunks_exact(vocabulary));
            rows.map(move |(running, row)| speaker.advance(sampler, &mut running.sequence, row))
        })
        .collect()
}

/// The room of a cache that holds so many tokens and has to take more, up to `longest`.
fn grown(tokens: usize, longest: usize) -> usize {
    (tokens + tokens.max(GROWTH)).min(longest).max(tokens)
}

#[cfg(test)]
mod tests;
