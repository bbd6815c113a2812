//! One form for each answer: equal answers have equal keys.
use num_bigint::BigInt;
use num_integer::Integer;
use num_traits::{Signed, Zero};

use super::number::{self, Quantity};
use super::strip::strip;
use super::{Percent, Policy};

/// Answers longer than this are not looked at; the longest gold answers of benchmarks have tens.
const LONGEST_ANSWER: usize = 2000;

/// An answer in its canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Canonical {
    /// An exact rational number in lowest terms.
    Number {
        /// With the sign.
        numerator: BigInt,
        /// Positive.
        denominator: BigInt,
        /// The words behind it, ignored by [`Canonical::key`].
        unit: Option<String>,
    },
    /// Words alone, without case and articles: `even`, `no solution`, the letter of a choice.
    Words(String),
    /// Anything else, as text without spaces.
    Other(String),
}

/// Why an answer has no canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing is left when the typesetting is off.
    Empty,
    /// Longer than 2,000 bytes, or numbers of more digits than the grader will compute with.
    TooLong,
}

impl Canonical {
    /// A text that is the same for equal answers and for no others.
    pub fn key(&self) -> String {
        match self {
            Self::Number { numerator, denominator, .. } => format!("{numerator}/{denominator}"),
            Self::Words(text) => format!("words:{text}"),
            Self::Other(text) => format!("other:{text}"),
        }
    }
}

/// Brings an answer to its canonical form.
pub fn canonical(answer: &str, policy: &Policy) -> Result<Canonical, Refusal> {
    if answer.len() > LONGEST_ANSWER {
        return Err(Refusal::TooLong);
    }
    let text = strip(answer);
    let text = without_assignment(&text);
    if text.is_empty() {
        return Err(Refusal::Empty);
    }
    match number::parse(text, policy) {
        Ok(Some(quantity)) => Ok(reduced(quantity, policy)),
        Ok(None) => Ok(words(text).map_or_else(|| Canonical::Other(without_spaces(text)), Canonical::Words)),
        Err(number::TooLarge) => Err(Refusal::TooLong),
    }
}

/// `x = 5` is the answer `5`: one letter, with or without a subscript, alone on the left.
fn without_assignment(text: &str) -> &str {
    let Some((left, right)) = text.split_once('=') else { return text };
    let name = left.trim().split('_').next().unwrap_or_default();
    let one_letter = name.chars().count() == 1 && name.chars().all(char::is_alphabetic);
    if one_letter && !right.contains('=') { right.trim() } else { text }
}

fn reduced(quantity: Quantity, policy: &Policy) -> Canonical {
    let Quantity { mut numerator, mut denominator, percent, unit } = quantity;
    if percent && policy.percent == Percent::Factor {
        denominator *= 100;
    }
    let divisor = numerator.gcd(&denominator);
    if !divisor.is_zero() {
        numerator /= &divisor;
        denominator /= &divisor;
    }
    if denominator.is_negative() {
        (numerator, denominator) = (-numerator, -denominator);
    }
    Canonical::Number { numerator, denominator, unit }
}

/// Words in lower case without a leading article; the letter of a choice without its parentheses.
fn words(text: &str) -> Option<String> {
    let text = text.to_lowercase();
    let inner = text.strip_prefix('(').and_then(|text| text.strip_suffix(')')).unwrap_or(&text).trim();
    let text = if inner.chars().count() == 1 { inner } else { text.as_str() };
    let plain = text.chars().all(|c| c.is_alphabetic() || matches!(c, ' ' | '-' | '\''));
    if !plain || !text.chars().any(char::is_alphabetic) {
        return None;
    }
    let text = ["a ", "an ", "the "].iter().find_map(|article| text.strip_prefix(article)).unwrap_or(text);
    Some(text.trim().to_owned())
}

fn without_spaces(text: &str) -> String {
    text.chars().filter(|character| *character != ' ').collect()
}
