//! A response in the making.

use std::sync::Arc;

use super::thinking::{Foreseen, Thinking, ThinkingBudget};
use super::{FinishReason, Finished, GenerateError, Request};
use crate::model::{Cache, Turn};
use crate::sampler::{Drawn, Sampler, SamplerError, Sampling};
use crate::tokenizer::Tokenizer;

/// A response in the making.
pub(super) struct Sequence {
    number: usize,
    sample: usize,
    request: Arc<Request>,
    tokens: Vec<u32>,
    /// Tokens that the response may have.
    room: usize,
    logprobs: Vec<f64>,
    thinking: Option<Thinking>,
}

impl Sequence {
    /// A response of at most `room` tokens.
    pub(super) fn new(number: usize, sample: usize, request: Arc<Request>, room: usize) -> Self {
        let thinking = request.thinking.as_ref().map(Thinking::new);
        Self { number, sample, request, tokens: Vec::new(), room, logprobs: Vec::new(), thinking }
    }

    /// Which was asked for first.
    pub(super) fn rank(&self) -> (usize, usize) {
        (self.number, self.sample)
    }

    /// Its next turn, with the cache that holds [`Sequence::past`].
    pub(super) fn turn<'a>(&'a self, cache: &'a mut Cache) -> Turn<'a> {
        Turn { cache, tokens: &self.tokens[self.tokens.len() - 1..] }
    }

    /// All tokens of the prompt and of the response but the last one.
    pub(super) fn past(&self) -> Vec<u32> {
        let mut past = [&self.request.prompt[..], &self.tokens].concat();
        past.pop();
        past
    }

    /// The last token of the response, or of the prompt.
    pub(super) fn last(&self) -> u32 {
        self.tokens.last().or(self.request.prompt.last()).copied().unwrap_or_default()
    }

    /// Tokens that the response may still have.
    pub(super) fn left(&self) -> usize {
        self.room - self.tokens.len()
    }

    /// How its next token is drawn.
    pub(super) fn wish(&self) -> Wish<'_> {
        self.wish_for(0, self.thinking().and_then(|(thinking, budget)| thinking.forces(budget)))
    }

    /// How the token after the next one is drawn, where that is sure whatever the next one is.
    pub(super) fn wish_after_next(&self) -> Option<Wish<'_>> {
        let foreseen = self.thinking().map_or(Foreseen::Free, |(thinking, budget)| thinking.foresees(budget));
        match foreseen {
            Foreseen::Forced(token) => Some(self.wish_for(1, Some(token))),
            Foreseen::Free => Some(self.wish_for(1, None)),
            Foreseen::Unsure => None,
        }
    }

    fn thinking(&self) -> Option<(&Thinking, &ThinkingBudget)> {
        self.thinking.as_ref().zip(self.request.thinking.as_ref())
    }

    fn wish_for(&self, after: usize, forced: Option<u32>) -> Wish<'_> {
        let Self { request, tokens, sample, .. } = self;
        let position = (tokens.len() + after) as u64;
        Wish { forced, sampling: &request.sampling, seed: request.samples[*sample], position }
    }

    /// The tokens of the prompt and of the response.
    pub(super) fn seen(&self) -> impl Iterator<Item = u32> {
        self.request.prompt.iter().chain(&self.tokens).copied()
    }

    /// The most tokens that the cache will ever hold.
    pub(super) fn longest(&self) -> usize {
        self.request.prompt.len() + self.room.saturating_sub(1)
    }
}

/// How a token is drawn.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    /// The token that has to come, whatever the model holds of it.
    pub(super) forced: Option<u32>,
    /// How it is drawn otherwise.
    pub(super) sampling: &'a Sampling,
    /// The seed of the sample.
    pub(super) seed: u64,
    /// The token's position in the response.
    pub(super) position: u64,
}

/// Turns logits into tokens and tokens into text.
pub(super) struct Speaker<'a> {
    tokenizer: &'a Tokenizer,
    /// Ids that may be drawn: rows that pad the model's vocabulary beyond the tokenizer's mean nothing.
    vocabulary: usize,
}

impl<'a> Speaker<'a> {
    /// Draws from the first `vocabulary` logits of a row.
    pub(super) fn new(tokenizer: &'a Tokenizer, vocabulary: usize) -> Self {
        Self { tokenizer, vocabulary }
    }

    /// Draws the next token from its logits; says why the response ends with it, if it does.
    pub(super) fn advance(
        &self,
        sampler: &mut Sampler,
        sequence: &mut Sequence,
        logits: &[f32],
    ) -> Result<Option<FinishReason>, GenerateError> {
        if sequence.left() == 0 {
            return Ok(Some(FinishReason::Length));
        }
        let logits = &logits[..self.vocabulary];
        let Wish { forced, sampling, seed, position } = sequence.wish();
        let drawn = match forced {
            Some(token) => sampler.force(logits, token),
            None => sampler.draw(logits, sampling, sequence.seen(), seed, position),
        };
        self.add(sequence, drawn)
    }

    /// Adds the token that was drawn; says why the response ends with it, if it does.
    pub(super) fn add(
        &self,
        sequence: &mut Sequence,
        drawn: Result<Drawn, SamplerError>,
    ) -> Result<Option<FinishReason>, GenerateError> {
        let drawn = drawn.map_err(|source| GenerateError::Draw {
            request: sequence.number,
            sample: sequence.sample,
            position: sequence.tokens.len(),
            source,
        })?;
        let stops = sequence.request.stop_tokens.contains(&drawn.token);
        sequence.tokens.push(drawn.token);
        sequence.logprobs.push(drawn.logprob);
        self.think(sequence)?;
        if stops || self.ends_with_stop(sequence)? {
            return Ok(Some(FinishReason::Stop));
        }
        Ok((sequence.left() == 0).then_some(FinishReason::Length))
    }

    /// Follows the thinking of a sequence over its last token.
    fn think(&self, sequence: &mut Sequence) -> Result<(), GenerateError> {
        let Some(mut thinking) = sequence.thinking.take() else { return Ok(()) };
        if let Some(budget) = &sequence.request.thinking {
            let length = sequence.tokens.len();
            let tail = self.decode(sequence, &sequence.tokens[thinking.tail(length)..])?;
            thinking.note(budget, length, &tail);
        }
        sequence.thinking = Some(thinking);
        Ok(())
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
    pub(super) fn finish(&self, sequence: Sequence, reason: FinishReason) -> Result<Finished, GenerateError> {
        let stopped = sequence.tokens.last().filter(|token| sequence.request.stop_tokens.contains(token));
        let written = &sequence.tokens[..sequence.tokens.len() - usize::from(stopped.is_some())];
        let mut text = self.decode(&sequence, written)?;
        let stops = sequence.request.stop.iter();
        if let Some(end) = stops.filter_map(|stop| text.find(stop.as_str())).min() {
            text.truncate(end);
        }
        let Sequence { number, sample, tokens, logprobs, .. } = sequence;
        Ok(Finished { request: number, sample, tokens, text, reason, logprobs })
    }

    fn decode(&self, sequence: &Sequence, tokens: &[u32]) -> Result<String, GenerateError> {
        self.tokenizer.decode(tokens).map_err(|source| GenerateError::Decode {
            request: sequence.number,
            sample: sequence.sample,
            source,
        })
    }
}
