//! Generation: many sequences at once, each as if it were alone.
//!
//! Sequences share the products of one step, in a fixed number of slots. A finished one leaves and the next enters at once;
//! the samples of one prompt share its prefill. Memory is given to sequences as they grow; when it runs out, the youngest waits.
//! A sequence depends on its prompt, its sampling parameters and its seed alone: the kernels give a row the same bits in any
//! company, and the sampler draws by seed and position.

mod desk;
mod on_cpu;
mod on_gpu;
mod sequence;
mod thinking;

use std::ops::ControlFlow;

use rayon::ThreadPoolBuildError;
use serde::{Deserialize, Serialize};

use crate::model::{Config, Model};
use crate::sampler::{SamplerError, Sampling};
use crate::tokenizer::{Tokenizer, TokenizerError};
pub use thinking::ThinkingBudget;

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
    /// Bytes that all caches together may take; none: 4 GiB on a CPU, and on a GPU most of what is free. Where sequences
    /// outgrow them, the one begun last gives its cache up and is computed again later. One sequence of a thread always runs.
    pub cache_bytes: Option<usize>,
}

impl Limits {
    /// So many slots on so many threads.
    pub fn new(slots: usize, threads: usize) -> Self {
        Self { slots, threads, cache_bytes: None }
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
    /// The GPU does not do what it should.
    #[error(transparent)]
    Gpu(#[from] crate::gpu::GpuError),
    /// The threads cannot be started.
    #[error("cannot start the worker threads: {0}")]
    Threads(#[from] ThreadPoolBuildError),
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
    match model {
        Model::Cpu(decoder) => on_cpu::generate(decoder, tokenizer, requests, limits, receive),
        Model::Gpu(decoder) => on_gpu::generate(decoder, tokenizer, requests, limits, receive),
    }
}

/// Refuses a request that cannot be answered by a model of this shape.
fn check(number: usize, request: &Request, model: &Config) -> Result<(), GenerateError> {
    let (context, vocabulary) = (model.context(), model.vocab_size);
    request.sampling.check().map_err(|source| GenerateError::Sampling { request: number, source })?;
    if request.prompt.is_empty() {
        return Err(GenerateError::EmptyPrompt { request: number });
    }
    if request.prompt.len() >= context {
        let tokens = request.prompt.len();
        return Err(GenerateError::PromptTooLong { request: number, tokens, context });
    }
    let forced = request.thinking.iter().flat_map(|thinking| &thinking.close);
    match request.prompt.iter().chain(forced).find(|&&token| token as usize >= vocabulary) {
        Some(&token) => Err(GenerateError::ForeignToken { request: number, token, vocabulary }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
