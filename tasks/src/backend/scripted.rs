//! The scripted teachers of the miniature: they know how to work out its problems, and are wrong at a set rate.

use dag_engine::context::Cancel;
use dag_engine::task::TaskError;
use serde_json::{Value, json};

use super::{Failure, FailureKind, FinishReason, OnFinished, Raw, Request, ScriptedSpec, Teacher};
use crate::arithmetic::Chain;

/// A scripted teacher. It has no sampling parameters: its seed decides whether it errs.
pub struct Scripted(ScriptedSpec);

impl Scripted {
    pub(super) fn new(spec: ScriptedSpec) -> Self {
        Self(spec)
    }

    pub(super) fn identity(&self) -> Value {
        super::identity("scripted", &json!(self.0))
    }

    pub(super) fn ask(
        &self,
        requests: &mut dyn Iterator<Item = Request>,
        cancel: &Cancel,
        finished: &mut OnFinished,
    ) -> Result<(), TaskError> {
        for request in requests {
            let chain = request.messages.iter().rev().find_map(|message| Chain::find(&message.content));
            for sample in request.samples {
                if cancel.is_cancelled() {
                    return Ok(());
                }
                finished(sample.key, self.answer(chain.as_ref(), sample.seed))?;
            }
        }
        Ok(())
    }

    fn answer(&self, chain: Option<&Chain>, seed: u64) -> Result<Raw, Failure> {
        let chain = chain.ok_or_else(|| {
            Failure::new(FailureKind::Prompt, "the messages hold no chain such as `7*4-9 mod 10?`")
        })?;
        let repeats = match self.0.teacher {
            Teacher::Terse => 1,
            Teacher::Verbose => self.0.ratio,
        };
        let text = chain.response(repeats, self.0.error_rate, seed);
        // Counted in characters, which is what the miniature's tokenizer has for tokens.
        let output_tokens = Some(text.chars().count() as u64);
        Ok(Raw::Text {
            text,
            finish_reason: FinishReason::Stop,
            input_tokens: None,
            output_tokens,
            logprobs: None,
        })
    }
}
