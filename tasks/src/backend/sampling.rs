//! How a response is drawn.

use dag_engine::task::Fault;
use serde::Serialize;
use serde_json::{Map, Value};

use super::ModelSpec;

/// How a response is drawn. Semantic: it is in the key of every record, without the fields that came later and are at
/// their default, so that no option invalidates what is stored.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sampling {
    /// Zero takes the likeliest token every time.
    pub temperature: f64,
    /// The share of probability from which tokens are drawn.
    pub top_p: f64,
    /// How many of the likeliest tokens are drawn from; none for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Tokens less likely than this share of the likeliest are not drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// Makes tokens that were there already less probable; one changes nothing.
    #[serde(skip_serializing_if = "is_one")]
    pub repetition_penalty: f64,
    /// Longest response.
    pub max_tokens: u32,
    /// Texts that end a response.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Tokens after which the thinking is ended for the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking_budget: Option<u32>,
    /// Whether the log-probability of every token is kept with the response.
    #[serde(skip_serializing_if = "is_false")]
    pub logprobs: bool,
    /// How much a served model shall think: `low`, `medium`, `high`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<String>,
    /// Variables for the model's chat template.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub template: Map<String, Value>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: None,
            min_p: None,
            repetition_penalty: 1.0,
            max_tokens: 4096,
            stop: Vec::new(),
            thinking_budget: None,
            logprobs: false,
            reasoning_effort: None,
            template: Map::new(),
        }
    }
}

impl Sampling {
    /// Whether what was there already is less probable.
    pub fn penalises(&self) -> bool {
        !is_one(&self.repetition_penalty)
    }

    /// Whether a seed decides what is drawn.
    pub fn is_random(&self) -> bool {
        self.temperature > 0.0
    }

    /// What is wrong with the fields for `model`, each at its name below `at`.
    pub fn check(&self, model: &ModelSpec, at: &str) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut require = |holds: bool, field: &str, message: &str| {
            if !holds {
                faults.push(Fault::new(format!("{at}/{field}"), message));
            }
        };
        require(
            self.temperature >= 0.0 && self.temperature.is_finite(),
            "temperature",
            "a temperature is zero or more",
        );
        require(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", "`top_p` is a share above 0 and up to 1");
        require(
            self.min_p.is_none_or(|p| (0.0..1.0).contains(&p)),
            "min_p",
            "`min_p` is a share from 0 to below 1",
        );
        require(
            self.top_k != Some(0),
            "top_k",
            "`top_k` is at least 1; leave it out to draw from all tokens",
        );
        require(self.max_tokens > 0, "max_tokens", "a response has at least one token");
        require(
            self.stop.iter().all(|stop| !stop.is_empty()),
            "stop",
            "an empty text would end every response",
        );
        require(
            self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite(),
            "repetition_penalty",
            "a penalty is above zero; 1 changes nothing",
        );
        require(
            self.thinking_budget.is_none() || matches!(model, ModelSpec::Embedded),
            "thinking_budget",
            "only the embedded runtime can end a model's thinking",
        );
        require(
            !self.logprobs
                || matches!(model, ModelSpec::Embedded | ModelSpec::Openai(_) | ModelSpec::Served(_)),
            "logprobs",
            "only a model gives log-probabilities",
        );
        faults
    }
}

/// Whether a penalty changes nothing.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde passes it")]
fn is_one(penalty: &f64) -> bool {
    penalty.total_cmp(&1.0).is_eq()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde passes it")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options_at_their_default_are_in_no_key() {
        assert_eq!(
            json!(Sampling::default()),
            json!({ "temperature": 1.0, "top_p": 1.0, "max_tokens": 4096 })
        );
        let sampling = Sampling {
            repetition_penalty: 1.1,
            thinking_budget: Some(0),
            logprobs: true,
            ..Sampling::default()
        };
        let fields = json!({
            "temperature": 1.0, "top_p": 1.0, "max_tokens": 4096, "repetition_penalty": 1.1,
            "thinking_budget": 0, "logprobs": true
        });
        assert_eq!(json!(sampling), fields);
    }

    #[test]
    fn what_a_model_cannot_do_is_a_fault() {
        let scripted: ModelSpec =
            serde_json::from_value(json!({ "backend": "scripted", "teacher": "terse" })).unwrap();
        let served: ModelSpec = serde_json::from_value(json!({ "backend": "openai", "name": "m" })).unwrap();
        let sampling = Sampling {
            repetition_penalty: 0.0,
            thinking_budget: Some(9),
            logprobs: true,
            ..Sampling::default()
        };
        let at = |model: &ModelSpec| {
            sampling.check(model, "").into_iter().map(|fault| fault.pointer).collect::<Vec<_>>()
        };
        assert_eq!(at(&ModelSpec::Embedded), ["/repetition_penalty"]);
        assert_eq!(at(&served), ["/repetition_penalty", "/thinking_budget"]);
        assert_eq!(at(&scripted), ["/repetition_penalty", "/thinking_budget", "/logprobs"]);
    }
}
