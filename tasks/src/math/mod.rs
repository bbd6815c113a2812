//! Grading of mathematical answers: find the answer of a response, decide whether it equals the gold one.
//!
//! Each answer is brought to a canonical form of its own and the two forms are compared, so equality
//! is reflexive, symmetric and transitive, and answers can be counted as votes. Grading is a pure
//! function of gold, response and [`Policy`]; it never panics and its work is bounded by the length
//! caps in [`canonical`]. This grader knows numbers (integers, decimals, fractions, percentages,
//! products and powers of them, with units) exactly, and words; other LaTeX is compared as text.
mod canonical;
mod extract;
mod lenient;
mod number;
mod policy;
mod strip;

use serde::{Deserialize, Serialize};

pub use canonical::{Canonical, Refusal, canonical};
pub use extract::{Extracted, Rung, after_thinking, extract};
pub use policy::{Percent, Policy};

/// Bumped when any verdict could change; graded results depend on it.
pub const VERSION: u32 = 2;

/// What grading one response came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The answers are equal.
    Correct,
    /// Both answers are understood and differ.
    Incorrect,
    /// The response gives no answer.
    NoAnswer,
    /// The gold answer is not understood, so nothing can be said.
    UnparsableGold,
    /// The gold answer is understood, the response's is not.
    UnparsablePrediction,
    /// An answer is beyond the length caps.
    TooComplex,
}

impl Verdict {
    /// The verdict's name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Correct => "correct",
            Self::Incorrect => "incorrect",
            Self::NoAnswer => "no_answer",
            Self::UnparsableGold => "unparsable_gold",
            Self::UnparsablePrediction => "unparsable_prediction",
            Self::TooComplex => "too_complex",
        }
    }
}

/// What decided a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Exact comparison of two numbers.
    Number,
    /// The same, though the two name different units; worth a look.
    NumberUnitsDiffer,
    /// Comparison of two words or of a number and a word.
    Words,
    /// The same text, of a form this grader does not understand.
    SameText,
    /// No comparison: an answer was missing, not understood or too long.
    None,
}

impl Rule {
    /// The rule's name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::NumberUnitsDiffer => "number_units_differ",
            Self::Words => "words",
            Self::SameText => "same_text",
            Self::None => "none",
        }
    }
}

/// A graded response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graded {
    /// The outcome.
    pub verdict: Verdict,
    /// What decided it.
    pub rule: Rule,
    /// The answer that was found in the response.
    pub extracted: Option<Extracted>,
}

/// Grades a whole response against the gold answer.
pub fn grade(gold: &str, response: &str, policy: &Policy) -> Graded {
    let extracted = extract(response, policy);
    let (verdict, rule) = match &extracted {
        Some(found) => compare(gold, &found.answer, policy),
        None => (Verdict::NoAnswer, Rule::None),
    };
    Graded { verdict, rule, extracted }
}

/// Compares two bare answers.
pub fn compare(gold: &str, prediction: &str, policy: &Policy) -> (Verdict, Rule) {
    let gold = match canonical(gold, policy) {
        Ok(gold) => gold,
        Err(Refusal::Empty) => return (Verdict::UnparsableGold, Rule::None),
        Err(Refusal::TooLong) => return (Verdict::TooComplex, Rule::None),
    };
    let prediction = match canonical(prediction, policy) {
        Ok(prediction) => prediction,
        Err(Refusal::Empty) => return (Verdict::NoAnswer, Rule::None),
        Err(Refusal::TooLong) => return (Verdict::TooComplex, Rule::None),
    };
    let equal = gold.key() == prediction.key();
    let verdict = if equal { Verdict::Correct } else { Verdict::Incorrect };
    match (&gold, &prediction) {
        (Canonical::Number { unit: Some(a), .. }, Canonical::Number { unit: Some(b), .. })
            if equal && a != b =>
        {
            (verdict, Rule::NumberUnitsDiffer)
        }
        (Canonical::Number { .. }, Canonical::Number { .. }) => (verdict, Rule::Number),
        (Canonical::Other(_), _) if equal => (verdict, Rule::SameText),
        (Canonical::Other(_), _) => (Verdict::UnparsableGold, Rule::None),
        (_, Canonical::Other(_)) => (Verdict::UnparsablePrediction, Rule::None),
        (Canonical::Words(_), _) | (_, Canonical::Words(_)) => (verdict, Rule::Words),
    }
}

/// Whether any prediction could be told right from wrong against this gold answer. Items whose gold
/// answer is beyond the grader are left out of a benchmark for every model alike.
pub fn is_gradable(gold: &str, policy: &Policy) -> bool {
    matches!(canonical(gold, policy), Ok(Canonical::Number { .. } | Canonical::Words(_)))
}

#[cfg(test)]
mod tests;
