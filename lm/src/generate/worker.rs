//! One thread's share of the slots: prompts in, tokens on, responses out.

use std::sync::Arc;

use super::{FinishReason, Finished, GenerateError, Request};
use crate::model::{Cache, Model, Turn};
use crate::sampler::Sampler;
use crate::tokenizer::Tokenizer;

/// Tokens of a prompt that pass the model at once: enough for full speed, few enough to bound the memory of a step.
const PREFILL_CHUNK: usize = 256;

/// The slots of one thread and the request it is answering.
pub(super) struct Worker<'a> {
    model: &'a Model,
    slots: usize,
    cache_bytes: usize,
    speaker: Speaker<'a>,
    active: Vec<Sequence>,
    prefilled: Option<Prefilled>,
    finished: Vec<Finished>,
}

/// Turns logits into tokens and tokens into text.
struct Speaker<'a> {
    tokenizer: &'a Tokenizer,
    /// Ids that may be drawn: rows that pad the model's vocabulary beyond the tokenizer's mean nothing.
    vocabulary: usize,
    sampler: Sampler,
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
    next: usize,
}

/// A response in the making.
struct Sequence {
    number: usize,
    sample: usize,
    request: Arc<Request>,
    cache: Cache,
    tokens: Vec<u32>,
    room: usize,
    logprob_sum: f64,
}

impl<'a> Worker<'a> {
    pub(super) fn new(model: &'a Model, tokenizer: &'a Tokenizer, slots: usize, cache_bytes: usize) -> Self {
        let vocabulary = model.config().vocab_size.min(tokenizer.vocab_size());
        Self {
            model,
            slots,
            cache_bytes,
            speaker: Speaker { tokenizer, vocabulary, sampler: Sampler::default() },
            active: Vec::with_capacity(slots),
            prefilled: None,
            finished: Vec::new(),
        }
    }

    /// Whether nothing is left to do.
    pub(super) fn is_idle(&self) -> bool {
        self.active.is_empty() && self.prefilled.is_none()
    }

    /// Whether a slot is free and no sample waits for it.
    pub(super) fn wants_request(&self) -> bool {
        self.active.len() < self.slots && self.prefilled.is_none()
    }

    /// The responses completed since the last call.
    pub(super) fn take_finished(&mut self) -> std::vec::Drain<'_, Finished> {
        self.finished.drain(..)
    }

    /// Passes a prompt through the model, once for all its samples.
    pub(super) fn prefill(&mut self, number: usize, request: Request) -> Result<(), GenerateError> {
        let context = self.model.config().context();
        let vocabulary = self.model.config().vocab_size;
        request.sampling.check().map_err(|source| GenerateError::Sampling { request: number, source })?;
        if request.prompt.is_empty() {
            return Err(GenerateError::EmptyPrompt { request: number });
        }
        if request.prompt.len() >= context {
            let tokens = request.prompt.len();
            return Err(GenerateError::PromptTooLong { request: number, tokens, context });
        }
        if let Some(&token) = request.prompt.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(GenerateError::ForeignToken { request: number, token, vocabulary });
        }
        let mut cache = self.model.cache();
        let mut logits = Vec::new();
        for tokens in request.prompt.chunks(PREFILL_CHUNK) {
            logits = self.model.forward_here(&mut [Turn { cache: &mut cache, tokens }]);
        }
        let room = request.max_tokens.min(context - request.prompt.len());
        self.prefilled = Some(Prefilled { number, request: Arc::new(request), cache, logits, room, next: 0 });
        Ok(())
    }

    /// Begins samples of the prefilled request while there are slots and memory for them.
    pub(super) fn admit(&mut self) -> Result<(), GenerateError> {
        let Some(mut prefilled) = self.prefilled.take() else { return Ok(()) };
        while prefilled.next < prefilled.request.samples.len() {
            if self.active.len() == self.slots || !self.has_room_for(&prefilled) {
                self.prefilled = Some(prefilled);
                return Ok(());
            }
            let mut sequence = Sequence {
                number: prefilled.number,
                sample: prefilled.next,
                request: Arc::clone(&prefilled.request),
                cache: prefilled.cache.clone(),
                tokens: Vec::with_capacity(prefilled.room),
                room: prefilled.room,
                logprob_sum: 0.0,
            };
            sequence.cache.reserve(prefilled.room);
            prefilled.next += 1;
            match self.speaker.advance(&mut sequence, &prefilled.logits)? {
                Some(reason) => self.finished.push(self.speaker.finish(sequence, reason)?),
                None => self.active.push(sequence),
            }
        }
        Ok(())
    }

    /// Advances every active sequence by one token.
    pub(super) fn step(&mut self) -> Result<(), GenerateError> {
        let mut turns: Vec<Turn<'_>> = self
            .active
            .iter_mut()
            .map(|Sequence { cache, tokens, .. }| Turn { cache, tokens: &tokens[tokens.len() - 1..] })
            .collect();
        let logits = self.model.forward_here(&mut turns);
        let rows = logits.chunks_exact(self.model.config().vocab_size);
        // Backwards, so that what takes the place of a finished sequence has been advanced already.
        for (index, row) in rows.enumerate().rev() {
            if let Some(reason) = self.speaker.advance(&mut self.active[index], row)? {
                let sequence = self.active.swap_remove(index);
                self.finished.push(self.speaker.finish(sequence, reason)?);
            }
        }
        Ok(())
    }

    /// Whether the caches may take one more sequence; one alone always may.
    fn has_room_for(&self, prefilled: &Prefilled) -> bool {
        let bytes = |prompt: &[u32], room: usize| self.model.cache_bytes(prompt.len() + room);
        let taken: usize = self.active.iter().map(|active| bytes(&active.request.prompt, active.room)).sum();
        let needed = bytes(&prefilled.request.prompt, prefilled.room);
        self.active.is_empty() || taken + needed <= self.cache_bytes
    }
}

impl Speaker<'_> {
    /// Draws the next token; says why the response ends with it, if it does.
    fn advance(
        &mut self,
        sequence: &mut Sequence,
        logits: &[f32],
    ) -> Result<Option<FinishReason>, GenerateError> {
        let Sequence { number, sample, request, tokens, .. } = sequence;
        if tokens.len() == sequence.room {
            return Ok(Some(FinishReason::Length));
        }
        let position = tokens.len();
        let seed = request.samples[*sample];
        let drawn =
            self.sampler.draw(&logits[..self.vocabulary], &request.sampling, seed, position as u64).map_err(
                |source| GenerateError::Draw { request: *number, sample: *sample, position, source },
            )?;
        tokens.push(drawn.token);
        sequence.logprob_sum += drawn.logprob;
        if request.stop_tokens.contains(&drawn.token) || self.ends_with_stop(sequence)? {
            return Ok(Some(FinishReason::Stop));
        }
        Ok((sequence.tokens.len() == sequence.room).then_some(FinishReason::Length))
    }

    /// Whether the last token has completed a stop string.
    fn ends_with_stop(&self, sequence: &Sequence) -> Result<bool, GenerateError> {
        let Some(longest) = sequence.request.stop.iter().map(String::len).max() else { return Ok(false) };
        // A token has a byte at least, so a stop string lies within this many; a few more for a character cut in two.
        let start = sequence.tokens.len().saturating_sub(longest + 4);
        let tail = self.decode(sequence, &sequence.tokens[start..])?;
        Ok(sequence.request.stop.iter().any(|stop| tail.contains(stop.as_str())))
    }

    /// The response that a sequence has become.
    fn finish(&self, sequence: Sequence, reason: FinishReason) -> Result<Finished, GenerateError> {
        let stopped = sequence.tokens.last().filter(|token| sequence.request.stop_tokens.contains(token));
        let written = &sequence.tokens[..sequence.tokens.len() - usize::from(stopped.is_some())];
        let mut text = self.decode(&sequence, written)?;
        let stops = sequence.request.stop.iter();
        if let Some(end) = stops.filter_map(|stop| text.find(stop.as_str())).min() {
            text.truncate(end);
        }
        let Sequence { number, sample, tokens, logprob_sum, .. } = sequence;
        Ok(Finished { request: number, sample, tokens, text, reason, logprob_sum })
    }

    fn decode(&self, sequence: &Sequence, tokens: &[u32]) -> Result<String, GenerateError> {
        self.tokenizer.decode(tokens).map_err(|source| GenerateError::Decode {
            request: sequence.number,
            sample: sequence.sample,
            source,
        })
    }
}
