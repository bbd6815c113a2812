//! The choices of grading on which reasonable people differ, each with its default.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Pattern;

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

/// What becomes of units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Units {
    /// They are set aside; where two differ, the rule says so.
    #[default]
    Ignore,
    /// Where both sides have one they must be the same.
    Match,
}

/// Whose rules decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// This grader's own.
    #[default]
    Dag,
    /// Those of NeMo-Skills in October 2025, its mistakes included: `016` is not `16`. Boxes only; the other policies are not
    /// looked at.
    #[serde(rename = "nemo-skills-2025-10")]
    NemoSkills202510,
    /// The text comparison that came with the MATH data set. Boxes only; the other policies are not looked at.
    Hendrycks,
}

/// How answers are found and compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
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
    /// Whose rules decide: this grader's, or those of one whose published numbers are to be reproduced.
    pub mode: Mode,
    /// Whether, where percent signs are units, `33.5%` also equals `0.335`.
    pub percent_of_one: bool,
    /// What becomes of units.
    pub units: Units,
    /// A decimal of so many significant digits or more equals what it is the rounding of: `1.4142135623730951` is
    /// `\sqrt{2}`. With 3, `0.333` is `1/3`; with 0 no decimal is.
    pub rounded_digits: u32,
    /// Whether `1, 2` equals the tuple `(1, 2)`, in that order.
    pub bare_tuples: bool,
    /// Whether `y = 2x + 3` equals `2x + 3`.
    pub definitions: bool,
    /// Whether a number must say its base where the other does: `2516_8` and `2516`.
    pub bases: bool,
    /// Regular expressions that find an answer where there is no box, tried in this order before the phrases. The answer is
    /// the first group of the last match, or all of it where there is no group.
    pub patterns: Vec<Pattern>,
    /// Whether several boxes at the end of a response may be the elements of one gold answer.
    pub several_boxes: bool,
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
            mode: Mode::Dag,
            percent_of_one: true,
            units: Units::Ignore,
            rounded_digits: 15,
            bare_tuples: true,
            definitions: true,
            bases: false,
            patterns: Vec::new(),
            several_boxes: true,
        }
    }
}
