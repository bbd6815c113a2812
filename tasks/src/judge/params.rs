//! What a `judge` node is given: its params, and the options of the models that it asks.

use std::borrow::Cow;

use dag_engine::task::Fault;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::question::Part;
use crate::backend::{self, BackendRun, ModelSpec, Sampling};
use crate::math::Policy;

/// The params of `judge`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Who decides.
    pub by: By,
    /// How the rules find and compare answers.
    #[serde(default)]
    pub grading: Policy,
    /// Which model judges; the one in the port `model` if it is left out.
    #[serde(default)]
    pub model: ModelSpec,
    /// A file with the judge's system prompt, instead of the one that is built in.
    #[serde(default)]
    pub prompt_file: Option<String>,
    /// Which part of a response the judge is shown.
    #[serde(default)]
    pub part: Part,
    /// What is decided without asking the model.
    #[serde(default = "every_shortcut")]
    pub shortcuts: Vec<Shortcut>,
    /// Zero takes the likeliest token every time, which makes thinking models loop.
    #[serde(default = "temperature")]
    pub temperature: f64,
    /// The share of probability from which tokens are drawn.
    #[serde(default = "top_p")]
    pub top_p: f64,
    /// How many of the likeliest tokens are drawn from; all if it is left out.
    #[serde(default)]
    pub top_k: Option<u32>,
    /// Longest verdict in tokens, thinking included.
    #[serde(default = "longest")]
    pub max_tokens: u32,
    /// How often a judge whose words hold no verdict is asked again, with another seed.
    #[serde(default = "one")]
    pub retries: u32,
    /// Whether `EQUIVALENT`, `YES` and their opposites are verdicts where the judge says nothing else.
    #[serde(default)]
    pub synonyms: bool,
    /// What becomes of a response without a verdict.
    #[serde(default)]
    pub without_verdict: WithoutVerdict,
    /// The largest share of responses that a model may leave without a verdict.
    #[serde(default = "two_percent")]
    pub max_without_verdict: f64,
    /// The column with the reference answer.
    #[serde(default = "answer")]
    pub reference: String,
    /// The column, of the responses or of the references, that says whether a response is right. The verdicts are measured
    /// against it.
    #[serde(default)]
    pub label: Option<String>,
    /// How many responses the judge is put to the test with: each beside the reference of another row, and its own reference
    /// as the answer. Two calls each.
    #[serde(default)]
    pub controls: u32,
    /// The largest share of matches that the judge may find beside the reference of another row.
    #[serde(default = "five_percent")]
    pub max_control_false_match: f64,
    /// The least share of matches that the judge must find where the answer is the reference.
    #[serde(default = "ninety_percent")]
    pub min_control_true_match: f64,
    /// Another number draws other verdicts.
    #[serde(default)]
    pub seed: u64,
}

/// A judge that is asked where the first says no verdict. It is shown the same, under the same prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Second {
    /// Which model judges; the one in the port `second_model` if it is left out.
    #[serde(default)]
    pub model: ModelSpec,
    /// Zero takes the likeliest token every time.
    #[serde(default = "temperature")]
    pub temperature: f64,
    /// The share of probability from which tokens are drawn.
    #[serde(default = "top_p")]
    pub top_p: f64,
    /// How many of the likeliest tokens are drawn from; all if it is left out.
    #[serde(default)]
    pub top_k: Option<u32>,
    /// Longest verdict in tokens, thinking included.
    #[serde(default = "longest")]
    pub max_tokens: u32,
    /// How often it is asked again, with another seed.
    #[serde(default = "one")]
    pub retries: u32,
    /// Another number draws other verdicts.
    #[serde(default)]
    pub seed: u64,
}

fn every_shortcut() -> Vec<Shortcut> {
    vec![Shortcut::NoAnswer, Shortcut::Exact, Shortcut::Rules]
}
fn temperature() -> f64 {
    0.6
}
fn top_p() -> f64 {
    0.95
}
fn longest() -> u32 {
    32_768
}
fn one() -> u32 {
    1
}
fn two_percent() -> f64 {
    0.02
}
fn five_percent() -> f64 {
    0.05
}
fn ninety_percent() -> f64 {
    0.9
}
fn answer() -> String {
    "answer".into()
}

/// Who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Exact comparison of the answers, as `evaluate` grades.
    Rules,
    /// A model that reads the response beside the reference.
    Model,
}

/// What is decided without asking the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shortcut {
    /// A response that ends inside its thinking is no match.
    NoAnswer,
    /// A final part that is the reference to the letter is a match.
    Exact,
    /// An answer that the rules find equal is a match.
    Rules,
}

/// What becomes of a response without a verdict.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WithoutVerdict {
    /// `match` is null, and no filter keeps it.
    #[default]
    Drop,
    /// It counts as no match.
    CountAsMismatch,
    /// Another judge is asked. What that one leaves without a verdict is dropped.
    Escalate(Box<Second>),
}

impl Params {
    /// How the judge's words are drawn.
    pub(super) fn sampling(&self) -> Sampling {
        sampling(self.temperature, self.top_p, self.top_k, self.max_tokens)
    }

    /// The judge that is asked where the first says no verdict.
    pub(super) fn second(&self) -> Option<&Second> {
        match &self.without_verdict {
            WithoutVerdict::Escalate(second) if self.by == By::Model => Some(second),
            _ => None,
        }
    }

    /// What the types cannot say.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = self.sampling().check(&self.model, "");
        if self.by == By::Model {
            faults.extend(backend::check(&self.model, "/model"));
        } else {
            let mut needless = |holds: bool, pointer: &str, what: &str| {
                if holds {
                    faults.push(Fault::new(pointer, what).help("for a model say `by: model`"));
                }
            };
            needless(self.model != ModelSpec::default(), "/model", "the rules need no model");
            needless(self.controls > 0, "/controls", "controls put a model to the test");
            let escalates = matches!(self.without_verdict, WithoutVerdict::Escalate(_));
            needless(escalates, "/without_verdict", "the rules hand nothing over to another judge");
        }
        if let Some(second) = self.second() {
            let at = "/without_verdict/escalate";
            faults.extend(second.sampling().check(&second.model, at));
            faults.extend(backend::check(&second.model, &format!("{at}/model")));
        }
        for (name, share) in [
            ("max_without_verdict", self.max_without_verdict),
            ("max_control_false_match", self.max_control_false_match),
            ("min_control_true_match", self.min_control_true_match),
        ] {
            if !(0.0..=1.0).contains(&share) {
                faults.push(Fault::new(format!("/{name}"), "a share is from 0 to 1"));
            }
        }
        if self.part == Part::LastWords(0) {
            faults.push(Fault::new("/part/last_words", "no words are nothing to judge"));
        }
        faults
    }
}

impl Second {
    /// How its words are drawn.
    pub(super) fn sampling(&self) -> Sampling {
        sampling(self.temperature, self.top_p, self.top_k, self.max_tokens)
    }
}

fn sampling(temperature: f64, top_p: f64, top_k: Option<u32>, max_tokens: u32) -> Sampling {
    Sampling { temperature, top_p, top_k, max_tokens, ..Sampling::default() }
}

/// The options of a `judge` node: those of its model, and under `second` those of the judge that it hands over to.
///
/// Read by hand, since the options of a backend refuse what they do not know and so cannot be flattened.
#[derive(Debug, Clone, Default)]
pub struct JudgeRun {
    /// Of the model that judges.
    pub first: BackendRun,
    /// Of the one that is asked where it says no verdict.
    pub second: BackendRun,
}

const SECOND: &str = "second";

impl<'de> Deserialize<'de> for JudgeRun {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut options = Map::<String, Value>::deserialize(deserializer)?;
        let second = options.remove(SECOND).map(BackendRun::deserialize).transpose();
        Ok(Self {
            second: second
                .map_err(|error| D::Error::custom(format!("`{SECOND}`: {error}")))?
                .unwrap_or_default(),
            first: BackendRun::deserialize(Value::Object(options)).map_err(D::Error::custom)?,
        })
    }
}

impl JsonSchema for JudgeRun {
    fn schema_name() -> Cow<'static, str> {
        "JudgeRun".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = BackendRun::json_schema(generator);
        let second = generator.subschema_for::<BackendRun>();
        if let Some(Value::Object(properties)) = schema.get_mut("properties") {
            properties.insert(SECOND.to_owned(), second.to_value());
        }
        schema
    }
}
