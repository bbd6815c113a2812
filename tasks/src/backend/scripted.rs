//! A scripted teacher (stand-in until arithmetic's traces).
use dag_engine::context::Cancel;
use dag_engine::task::TaskError;
use serde_json::{Value, json};
use super::{OnFinished, Request, ScriptedSpec, Raw, FinishReason};
pub struct Scripted(ScriptedSpec);
impl Scripted {
    pub(super) fn new(spec: ScriptedSpec) -> Self { Self(spec) }
    pub(super) fn identity(&self) -> Value { super::identity("scripted", json!(self.0)) }
    pub(super) fn ask(&self, requests: &mut dyn Iterator<Item = Request>, cancel: &Cancel, finished: &mut OnFinished) -> Result<(), TaskError> {
        for request in requests { for sample in request.samples {
            if cancel.is_cancelled() { return Ok(()); }
            finished(sample.key, Ok(Raw::Text { text: format!("{} {}", request.messages[0].content, sample.seed), finish_reason: FinishReason::Stop, input_tokens: None, output_tokens: None }))?; } }
        Ok(())
    }
}
