//! The choices of grading on which reasonable people differ, each with its default.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a percent sign means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Percent {
    /// A unit: `50%` equals `50`, whichever side has the sign.
    #[default]
    Unit,
    /// A factor: `50%` equals `1/2`.
    Factor,
}

/// How answers are found and compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Phrases that announce an answer where there is no box, tried in this order, letter case
    /// ignored. The answer is the text from the last occurrence to the end of its line or sentence.
    pub phrases: Vec<String>,
    /// Whether the last number of a response is its answer where there is neither a box nor a phrase; in the line where it
    /// stands, a number in bold goes before it. Of a sentence in a box the number counts. Lenient: a response that only
    /// mentions the right number last passes. For traces whose prompt did not ask for a box.
    pub last_number: bool,
    /// Whether `016` equals `16`. Graders that compare digits as text say no.
    pub leading_zeros: bool,
    /// Whether `2\frac{1}{3}` and `2 1/3` are mixed numbers, 7/3; otherwise they are not understood.
    pub mixed_numbers: bool,
    /// What a percent sign means.
    pub percent: Percent,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            phrases: ["####", "the final answer is", "the answer is", "final answer:"]
                .map(str::to_owned)
                .into(),
            last_number: false,
            leading_zeros: true,
            mixed_numbers: true,
            percent: Percent::Unit,
        }
    }
}
