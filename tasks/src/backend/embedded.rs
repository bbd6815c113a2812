//! The embedded runtime: a model directory that enters the node, decoded many sequences at a time.
//!
//! On a CPU a response is the same bytes whatever else is decoded beside it, so its record may be reused anywhere. On a GPU its
//! last digits may depend on its company; records say on which of the two they were made.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use dag_engine::Digest;
use dag_engine::context::{Cancel, Input};
use dag_engine::task::{TaskCx, TaskError};
use dag_lm::generate::{self, Limits, ThinkingBudget};
use dag_lm::model::{Model, ModelError, Precision};
use dag_lm::sampler;
use dag_lm::template::{ChatTemplate, THINK_CLOSE};
use dag_lm::tokenizer::Tokenizer;
use serde_json::{Value, json};

use super::{
    BackendRun, Failure, FailureKind, FinishReason, Message, OnFinished, Raw, Request, Sampling, templated,
};
use crate::device;

/// Part of the identity of every response. Bumped when the runtime gives other bytes than before.
const RUNTIME: u32 = 1;

/// Sequences that advance together on the CPU, where `concurrency` does not say.
const CPU_SLOTS: usize = 16;
/// The same on a GPU, which reads all weights for a token of one sequence or of hundreds.
const GPU_SLOTS: usize = 256;

/// A model in this process.
pub struct Embedded {
    model: Model,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    digest: Digest,
    gpus: u32,
    limits: Limits,
}

/// The identity of a model that is not open, in a node that has so many GPUs.
pub(super) fn identity(digest: &Digest, gpus: u32) -> Value {
    let device = device::name(gpus);
    let facts = json!({ "digest": digest.to_string(), "device": device, "runtime": RUNTIME });
    super::identity("embedded", &facts)
}

/// A prompt that is being answered.
struct Asked {
    keys: Vec<Digest>,
    left: usize,
    input_tokens: u64,
    /// What the prompt has said of the response already: its opening tag.
    opening: &'static str,
}

impl Embedded {
    pub(super) fn open(model: &Input, run: &BackendRun, cx: &TaskCx) -> Result<Self, TaskError> {
        let device = device::of(cx)?;
        let slots = if cx.gpus().is_empty() { CPU_SLOTS } else { GPU_SLOTS };
        let broken = |what: String| TaskError::input(&model.path, None, what);
        let tokenizer = Tokenizer::load(&model.path).map_err(|error| broken(error.to_string()))?;
        let template = ChatTemplate::of(&tokenizer).map_err(|error| broken(error.to_string()))?;
        Ok(Self {
            model: Model::load(&model.path, Precision::AsStored, &device).map_err(|error| match error {
                ModelError::Gpu(error) => TaskError::failed(error.to_string()),
                error => broken(error.to_string()),
            })?,
            tokenizer,
            template,
            digest: model.digest,
            gpus: cx.gpus().len() as u32,
            limits: Limits::new(run.concurrency.unwrap_or(slots).max(1), cx.threads().max(1)),
        })
    }

    pub(super) fn identity(&self) -> Value {
        identity(&self.digest, self.gpus)
    }

    pub(super) fn ask(
        &self,
        sampling: &Sampling,
        requests: &mut dyn Iterator<Item = Request>,
        cancel: &Cancel,
        finished: &mut OnFinished,
    ) -> Result<(), TaskError> {
        let stop_tokens = vec![self.tokenizer.eos_id().ok_or_else(|| {
            TaskError::failed("the model's tokenizer has no end token, so no response would ever end")
        })?];
        let close = self.tokenizer.encode(THINK_CLOSE).ok();
        if sampling.thinking_budget.is_some() && close.is_none() {
            return Err(TaskError::failed(format!(
                "`thinking_budget`: the model's vocabulary cannot write {THINK_CLOSE}"
            )));
        }
        // The iterator and the receiver below take turns on this thread; neither calls the other.
        let asked: RefCell<BTreeMap<usize, Asked>> = RefCell::default();
        let finished = RefCell::new(finished);
        let fault = RefCell::new(None);
        let give = |key, outcome| {
            let given = (finished.borrow_mut())(key, outcome);
            given.map_or_else(
                |error| {
                    fault.borrow_mut().get_or_insert(error);
                    ControlFlow::Break(())
                },
                ControlFlow::Continue,
            )
        };
        let mut next = 0;
        let prepared = std::iter::from_fn(|| {
            while !cancel.is_cancelled() {
                let request = requests.next()?;
                if request.samples.is_empty() {
                    continue;
                }
                match self.prepare(&request.messages, sampling) {
                    Err(failure) => {
                        for sample in request.samples {
                            if give(sample.key, Err(failure.clone())).is_break() {
                                return None;
                            }
                        }
                    }
                    Ok((prompt, opening)) => {
                        let thinking = sampling.thinking_budget.zip(close.clone());
                        let thinking = thinking.map(|(tokens, close)| ThinkingBudget {
                            tokens: tokens as usize,
                            opened: !opening.is_empty(),
                            close,
                        });
                        let keys: Vec<Digest> = request.samples.iter().map(|sample| sample.key).collect();
                        let entry =
                            Asked { left: keys.len(), keys, input_tokens: prompt.len() as u64, opening };
                        asked.borrow_mut().insert(next, entry);
                        next += 1;
                        return Some(generate::Request {
                            prompt,
                            samples: request.samples.iter().map(|sample| sample.seed).collect(),
                            sampling: sampler::Sampling {
                                temperature: sampling.temperature,
                                top_p: sampling.top_p,
                                top_k: sampling.top_k.unwrap_or(0),
                                min_p: sampling.min_p.unwrap_or(0.0),
                                repetition_penalty: sampling.repetition_penalty,
                            },
                            max_tokens: sampling.max_tokens as usize,
                            stop_tokens: stop_tokens.clone(),
                            stop: sampling.stop.clone(),
                            thinking,
                        });
                    }
                }
            }
            None
        });
        let mut receive = |answer: generate::Finished| {
            let (key, raw) = {
                let mut asked = asked.borrow_mut();
                let entry = asked.get_mut(&answer.request).expect("an answer is to a request");
                entry.left -= 1;
                let key = entry.keys[answer.sample];
                let raw = Raw::Text {
                    text: format!("{}{}", entry.opening, answer.text),
                    finish_reason: match answer.reason {
                        generate::FinishReason::Stop => FinishReason::Stop,
                        generate::FinishReason::Length => FinishReason::Length,
                    },
                    input_tokens: Some(entry.input_tokens),
                    output_tokens: Some(answer.tokens.len() as u64),
                    logprobs: sampling.logprobs.then(|| self.logprobs(&answer)),
                };
                if entry.left == 0 {
                    asked.remove(&answer.request);
                }
                (key, raw)
            };
            match give(key, Ok(raw)) {
                // Sequences in flight cost seconds, not money: a stop need not wait for them.
                ControlFlow::Continue(()) if cancel.is_cancelled() => ControlFlow::Break(()),
                flow => flow,
            }
        };
        let flow = generate::generate(&self.model, &self.tokenizer, prepared, &self.limits, &mut receive);
        if let Some(fault) = fault.into_inner() {
            return Err(fault);
        }
        flow.map(|_| ()).map_err(|error| TaskError::failed(format!("the model cannot answer: {error}")))
    }

    /// The log-probabilities of a response in the form of a chat completion's.
    fn logprobs(&self, answer: &generate::Finished) -> Value {
        // A token of a response that was decoded has a text of its own.
        let text = |token| self.tokenizer.decode(&[token]).unwrap_or_default();
        let tokens = answer.tokens.iter().zip(&answer.logprobs);
        let content: Vec<Value> =
            tokens.map(|(&token, logprob)| json!({ "token": text(token), "logprob": logprob })).collect();
        json!({ "content": content })
    }

    /// The tokens of a prompt, and how it opens the response; or why the model cannot be asked.
    fn prepare(
        &self,
        messages: &[Message],
        sampling: &Sampling,
    ) -> Result<(Vec<u32>, &'static str), Failure> {
        let failure = |what: String| Failure::new(FailureKind::Prompt, what);
        let read = templated::render(&self.template, messages, sampling);
        let read = read.map_err(|error| failure(error.to_string()))?;
        let prompt = self.tokenizer.encode(&read.text).map_err(|error| failure(error.to_string()))?;
        let context = self.model.config().context();
        if prompt.is_empty() || prompt.len() >= context {
            return Err(failure(format!(
                "the prompt has {} tokens; the model's context is {context}",
                prompt.len()
            )));
        }
        Ok((prompt, if read.opens_thinking { "<think>\n" } else { "" }))
    }
}

#[cfg(test)]
mod tests;
