//! Grading of mathematical answers: find the answer of a response, decide whether it equals the gold one.
//!
//! ```text
//! response ─ extract ─→ answer ─ strip ─→ words, choice, time ─┐
//!                          └─ lexer ─ parser ─→ tree ─ build ──┴→ form ─→ key
//! ```
//! Each answer is brought to a canonical form of its own and the keys of the two are compared, so equality is, but for the
//! rules in [`equal`], reflexive, symmetric and transitive, and answers can be counted as votes. Rational numbers are
//! exact; what has no exact value is known to 192 bits; expressions with variables are compared by their values at fixed
//! points. Grading is a pure function of gold, response and [`Policy`]; it never panics, and its work is bounded by the
//! length of answers, the depth of their trees and the fuel of [`evaluate`]. One grading reads each text once, by its
//! [`reader`]; only a comma may have it read a second time.
mod build;
mod canonical;
mod complex;
mod equal;
mod evaluate;
mod expression;
mod extract;
mod float;
mod form;
mod functions;
mod hendrycks;
mod lenient;
mod lexer;
mod nemo;
mod numeral;
mod parser;
mod pattern;
mod policy;
mod primary;
mod ratio;
mod reader;
mod relations;
mod rule;
mod sets;
mod strip;
mod text;
mod value;
mod vocabulary;

use serde::{Deserialize, Serialize};

pub use canonical::{Canonical, Refusal, canonical};
pub use extract::{Extracted, Rung, after_thinking, extract, gold_answer};
pub use pattern::Pattern;
pub use policy::{Mode, Percent, Policy, Units};
pub use rule::Rule;

use form::Form;
use reader::Reader;

/// Bumped when any verdict could change; graded results depend on it.
pub const VERSION: u32 = 3;

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
    /// An answer is beyond the caps of length, depth or work.
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
    let reader = Reader::new(policy);
    graded(gold, extract::extract_with(response, &reader), &reader)
}

/// Grades what may be a response or a bare answer, as people paste it. A text without a box or a phrase is an answer if it can
/// be read as one; only else may a number or formula in it be.
pub fn grade_any(gold: &str, text: &str, policy: &Policy) -> Graded {
    let reader = Reader::new(policy);
    let found = extract::extract_any(text, &reader);
    let guessed = found.as_ref().is_some_and(|found| matches!(found.rung, Rung::Number | Rung::Formula));
    if guessed && compare_with(gold, after_thinking(text).trim(), &reader).0 == Verdict::Correct {
        return graded(gold, extract::bare(text), &reader);
    }
    graded(gold, found, &reader)
}

fn graded(gold: &str, extracted: Option<Extracted>, reader: &Reader) -> Graded {
    let policy = reader.policy;
    let Some(found) = &extracted else {
        return Graded { verdict: Verdict::NoAnswer, rule: Rule::None, extracted };
    };
    let (mut verdict, mut rule) = compare_with(gold, &found.answer, reader);
    // The elements of one answer may stand in a box each.
    if verdict != Verdict::Correct
        && let Some(all) =
            found.several.as_deref().filter(|_| policy.several_boxes && policy.mode == Mode::Dag)
        && compare_with(gold, all, reader).0 == Verdict::Correct
    {
        (verdict, rule) = (Verdict::Correct, Rule::SeveralBoxes);
    }
    Graded { verdict, rule, extracted }
}

/// Compares two bare answers.
pub fn compare(gold: &str, prediction: &str, policy: &Policy) -> (Verdict, Rule) {
    compare_with(gold, prediction, &Reader::new(policy))
}

fn compare_with(gold: &str, prediction: &str, reader: &Reader) -> (Verdict, Rule) {
    let policy = reader.policy;
    match policy.mode {
        Mode::Dag => {}
        Mode::Hendrycks => return (verdict(hendrycks::equal(gold, prediction)), Rule::Mode),
        Mode::NemoSkills202510 => return (verdict(nemo::equal(gold, prediction)), Rule::Mode),
    }
    // Whatever an answer is, it equals itself.
    let found = if gold.trim() == prediction.trim() { gold.into() } else { gold_answer(gold, policy) };
    let (gold_text, prediction_text) = (found.as_ref(), prediction);
    let gold = match reader.read(gold_text) {
        Ok(gold) => gold,
        Err(Refusal::Empty) => return (Verdict::UnparsableGold, Rule::None),
        Err(Refusal::TooLong) => return (Verdict::TooComplex, Rule::None),
    };
    let prediction = match reader.read(prediction) {
        Ok(prediction) => prediction,
        Err(Refusal::Empty) => return (Verdict::NoAnswer, Rule::None),
        Err(Refusal::TooLong) => return (Verdict::TooComplex, Rule::None),
    };
    if let Some(rule) = equal::equal(&gold.form, &prediction.form, policy) {
        return (Verdict::Correct, rule);
    }
    if policy.leading_zeros && gold.text() == prediction.text() {
        return (Verdict::Correct, Rule::SameText);
    }
    if let Some(rule) = reread(&gold, gold_text, &prediction, policy)
        .or_else(|| reread(&prediction, prediction_text, &gold, policy))
    {
        return (Verdict::Correct, rule);
    }
    match (&gold.form, &prediction.form) {
        (Form::Beyond(_), _) | (_, Form::Beyond(_)) => (Verdict::TooComplex, Rule::None),
        (Form::Other(_), _) => (Verdict::UnparsableGold, Rule::None),
        (_, Form::Other(_)) => (Verdict::UnparsablePrediction, Rule::None),
        (a, b) => (Verdict::Incorrect, equal::rule(a, b)),
    }
}

fn verdict(equal: bool) -> Verdict {
    if equal { Verdict::Correct } else { Verdict::Incorrect }
}

/// Commas have three meanings. One answer is read again with those that the other suggests: `1,234` beside a list is two
/// numbers, `1,5` beside a decimal is 1.5.
fn reread(one: &Canonical, text: &str, other: &Canonical, policy: &Policy) -> Option<Rule> {
    if !text.contains(',') {
        return None;
    }
    if matches!(other.form, Form::List(_) | Form::Set(_) | Form::Sequence { .. } | Form::Matrix(_)) {
        let again = canonical::read(text, policy, false).ok()?;
        return equal::equal(&again.form, &other.form, policy);
    }
    let Form::Number(_) = other.form else { return None };
    let decimal = equal::decimal_comma(&one.text())?;
    equal::equal(&decimal, &other.form, policy).map(|_| Rule::DecimalComma)
}

/// Whether any prediction could be told right from wrong against this gold answer. Items whose gold
/// answer is beyond the grader are left out of a benchmark for every model alike.
pub fn is_gradable(gold: &str, policy: &Policy) -> bool {
    if policy.mode != Mode::Dag {
        return !gold.trim().is_empty();
    }
    canonical(&gold_answer(gold, policy), policy).is_ok_and(|gold| gold.is_understood())
}

#[cfg(test)]
mod measured;
#[cfg(test)]
mod robust;
#[cfg(test)]
mod tests;
