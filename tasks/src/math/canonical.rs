//! Reading an answer: as words, as a choice or time, as mathematics, else as text.
use super::evaluate::Fault;
use super::form::Form;
use super::parser::Stop;
use super::strip::strip;
use super::{Policy, build, lexer, parser, text};

/// Answers longer than this are not looked at; the longest gold answers of benchmarks have tens.
const LONGEST_ANSWER: usize = 2000;

/// An answer in its canonical form.
#[derive(Debug, Clone)]
pub struct Canonical {
    pub(super) form: Form,
    /// The answer as text without typesetting.
    stripped: String,
}

/// Why an answer has no canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing is left when the typesetting is off.
    Empty,
    /// Longer than 2,000 bytes.
    TooLong,
}

impl Canonical {
    /// A text that is the same for equal answers.
    pub fn key(&self) -> String {
        self.form.key()
    }

    /// The answer as text without typesetting and spaces.
    pub(super) fn text(&self) -> String {
        self.stripped.replace(' ', "")
    }

    /// What the grader took the answer for, such as `number` or `set`.
    pub fn name(&self) -> &'static str {
        self.form.name()
    }

    /// The answer as the grader understands it, for people.
    pub fn shown(&self) -> String {
        self.form.shown()
    }

    /// Whether it is understood, and not only compared as text.
    pub fn is_understood(&self) -> bool {
        self.form.is_understood()
    }
}

/// Brings an answer to its canonical form.
pub fn canonical(answer: &str, policy: &Policy) -> Result<Canonical, Refusal> {
    read(answer, policy, true)
}

/// `grouping` says whether `1,234` is one number.
pub(super) fn read(answer: &str, policy: &Policy, grouping: bool) -> Result<Canonical, Refusal> {
    if answer.len() > LONGEST_ANSWER {
        return Err(Refusal::TooLong);
    }
    let stripped = strip(answer);
    if stripped.is_empty() {
        return Err(Refusal::Empty);
    }
    let form = form(answer, &stripped, policy, grouping);
    Ok(Canonical { form, stripped })
}

fn form(answer: &str, stripped: &str, policy: &Policy, grouping: bool) -> Form {
    if let Some(words) = text::words(stripped) {
        return words;
    }
    if let Some((seconds, after_noon)) = text::time(stripped) {
        // Without a half of the day it may also be a ratio.
        let quotient = after_noon.is_none().then(|| mathematics(answer, policy, grouping).ok()).flatten();
        return Form::Time { seconds, after_noon, quotient: quotient.map(Box::new) };
    }
    if let Some((letter, rest)) = text::choice(stripped) {
        let rest = form(rest, rest, policy, grouping);
        return Form::Choice { letter, rest: Box::new(rest) };
    }
    let plain = || stripped.replace(' ', "");
    match mathematics(answer, policy, grouping) {
        Ok(form) => form,
        Err(Fault::Undefined) => Form::Other(plain()),
        Err(Fault::Beyond) => Form::Beyond(plain()),
    }
}

fn mathematics(answer: &str, policy: &Policy, grouping: bool) -> build::Built {
    let answer = lexer::single_backslashes(answer);
    let tokens = lexer::tokens(&answer, policy, grouping).map_err(|_| Fault::Beyond)?;
    let node = parser::parse(tokens, policy).map_err(|stop| match stop {
        Stop::NotMathematics => Fault::Undefined,
        Stop::TooDeep => Fault::Beyond,
    })?;
    build::form(&node, policy)
}
