//! The miniature's problems and scripted teachers: chains of small operations with exact answers, as pure functions.
//!
//! A problem is worked from left to right, and every intermediate result is reduced by the modulus:
//! `7*4-9+6 mod 10=?` is 7·4 = 8, 8 - 9 = 9, 9 + 6 = 5. Two teachers answer in two styles with one content: `terse` says each
//! step once; `verbose` says it again, checks it and now and then backtracks, until it has used about `ratio` times the tokens.
//! Either errs at a set rate, and a trace that errs ends in a wrong answer.

use std::fmt::Write as _;
use std::str::FromStr;

use dag_engine::seed;

/// One step of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Operation {
    sign: char,
    operand: u32,
}

/// A problem. Its text is its [`Display`](std::fmt::Display) form, from which it can be parsed back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    start: u32,
    operations: Vec<Operation>,
    modulus: u32,
}

/// A text that is not a problem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a problem such as `7*4-9+6 mod 10=?`")]
pub struct NotAProblem(pub String);

/// How a teacher writes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Style {
    /// Each step once.
    Terse,
    /// Steps restated, checked and sometimes first tried wrongly, to about this many times the tokens of a terse trace.
    Verbose {
        /// Tokens of the trace over those of a terse one.
        ratio: f64,
    },
}

/// The problem of a seed, with `least` to `most` operations on numbers below the modulus.
pub fn problem(seed: u64, least: u32, most: u32, modulus: u32) -> Problem {
    let mut draw = Draw::new(seed, b"problem");
    let modulus = modulus.max(2);
    let start = draw.below(modulus);
    let count = least + draw.below(most.saturating_sub(least) + 1);
    let operations = (0..count)
        .map(|_| Operation { sign: ['+', '-', '*'][draw.below(3) as usize], operand: draw.below(modulus) })
        .collect();
    Problem { start, operations, modulus }
}

impl Problem {
    /// The number of operations.
    pub fn steps(&self) -> u32 {
        self.operations.len() as u32
    }

    /// The exact result.
    pub fn answer(&self) -> u32 {
        self.operations.iter().fold(self.start, |value, operation| operation.apply(value, self.modulus))
    }

    /// A teacher's response: the working inside `<think>`, then the answer in a box. Wrong with probability `error_rate`.
    pub fn trace(&self, style: Style, error_rate: f64, seed: u64) -> String {
        let mut draw = Draw::new(seed, b"trace");
        let wrong_at = (draw.unit() < error_rate).then(|| draw.below(self.steps().max(1)));
        let mut working = String::new();
        let mut value = self.start;
        for (index, operation) in (0..).zip(&self.operations) {
            let right = operation.apply(value, self.modulus);
            let result = if wrong_at == Some(index) { self.another(right, &mut draw) } else { right };
            let step = format!("{value}{}{}={result}", operation.sign, operation.operand);
            match style {
                Style::Terse => writeln!(working, "{step}"),
                Style::Verbose { ratio } => {
                    writeln!(working, "{}", self.verbose(&step, right, ratio, &mut draw))
                }
            }
            .expect("a string takes any text");
            value = result;
        }
        // A slip on the way can be undone by a later multiplication; a wrong trace must be wrong in the end.
        if wrong_at.is_some() && value == self.answer() {
            value = self.another(value, &mut draw);
        }
        format!("<think>\n{working}</think>\n\n\\boxed{{{value}}}")
    }

    /// A step told at length. Every sentence repeats the step, so that what is said more often is the arithmetic itself.
    fn verbose(&self, step: &str, right: u32, ratio: f64, draw: &mut Draw) -> String {
        let goal = (ratio * (step.len() + 1) as f64) as usize;
        let mut said = step.to_owned();
        if draw.unit() < 0.1 {
            // A false start, corrected at once.
            let (task, _) = step.split_once('=').expect("a step has a result");
            said = format!("{task}={} no {step}", self.another(right, draw));
        }
        while said.len() + step.len() / 2 < goal {
            let sentence = [" so ", " ok ", " yes ", " again "][draw.below(4) as usize];
            said.push_str(sentence);
            said.push_str(step);
        }
        said
    }

    /// A value other than this one.
    fn another(&self, value: u32, draw: &mut Draw) -> u32 {
        (value + 1 + draw.below(self.modulus - 1)) % self.modulus
    }
}

impl Operation {
    fn apply(self, value: u32, modulus: u32) -> u32 {
        let (value, operand, modulus) = (u64::from(value), u64::from(self.operand), u64::from(modulus));
        let result = match self.sign {
            '+' => value + operand,
            '-' => value + modulus - operand % modulus,
            _ => value * operand,
        };
        (result % modulus) as u32
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}", self.start)?;
        for Operation { sign, operand } in &self.operations {
            write!(to, "{sign}{operand}")?;
        }
        write!(to, " mod {}=?", self.modulus)
    }
}

impl FromStr for Problem {
    type Err = NotAProblem;

    fn from_str(text: &str) -> Result<Self, NotAProblem> {
        parse(text.trim()).ok_or_else(|| NotAProblem(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Problem> {
    let (chain, modulus) = text.strip_suffix("=?")?.split_once(" mod ")?;
    let modulus = modulus.parse().ok().filter(|&modulus| modulus >= 2)?;
    let first = chain.find(['+', '-', '*']).unwrap_or(chain.len());
    let (start, mut rest) = chain.split_at(first);
    let mut operations = Vec::new();
    while let Some(sign) = rest.chars().next() {
        let end = rest[1..].find(['+', '-', '*']).map_or(rest.len(), |place| place + 1);
        operations.push(Operation { sign, operand: rest[1..end].parse().ok()? });
        rest = &rest[end..];
    }
    Some(Problem { start: start.parse().ok()?, operations, modulus })
}

/// A stream of draws from a seed.
struct Draw {
    seed: u64,
    what: &'static [u8],
    count: u64,
}

impl Draw {
    fn new(seed: u64, what: &'static [u8]) -> Self {
        Self { seed, what, count: 0 }
    }

    fn next(&mut self) -> u64 {
        self.count += 1;
        seed::derive(self.seed, &[self.what, &self.count.to_le_bytes()])
    }

    /// A number below `limit`, which is far below 2³², so the remainder's bias does not matter.
    fn below(&mut self, limit: u32) -> u32 {
        (self.next() % u64::from(limit.max(1))) as u32
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn boxed(trace: &str) -> u32 {
        trace.rsplit_once("\\boxed{").unwrap().1.strip_suffix('}').unwrap().parse().unwrap()
    }

    #[test]
    fn a_worked_example() {
        let problem: Problem = "7*4-9+6 mod 10=?".parse().unwrap();
        assert_eq!((problem.steps(), problem.answer()), (3, 5));
        assert_eq!(
            problem.trace(Style::Terse, 0.0, 1),
            "<think>\n7*4=8\n8-9=9\n9+6=5\n</think>\n\n\\boxed{5}"
        );
    }

    #[test]
    fn other_texts_are_no_problems() {
        for text in ["", "7*4", "7*4 mod 1=?", "7* mod 10=?", "x+1 mod 10=?", "7/2 mod 10=?", "7+é mod 10=?"]
        {
            assert!(text.parse::<Problem>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_and_problem_are_one(seed: u64, least in 1_u32..5, more in 0_u32..5, modulus in 2_u32..200) {
            let made = problem(seed, least, least + more, modulus);
            prop_assert_eq!(&made, &made.to_string().parse::<Problem>().unwrap());
            prop_assert_eq!(&made, &problem(seed, least, least + more, modulus));
            prop_assert!((least..=least + more).contains(&made.steps()) && made.answer() < modulus);
        }

        #[test]
        fn a_trace_is_right_or_wrong_as_asked(seed: u64, draw: u64, ratio in 1.0_f64..8.0, modulus in 2_u32..100) {
            let problem = problem(seed, 1, 8, modulus);
            for style in [Style::Terse, Style::Verbose { ratio }] {
                prop_assert_eq!(boxed(&problem.trace(style, 0.0, draw)), problem.answer());
                prop_assert_ne!(boxed(&problem.trace(style, 1.0, draw)), problem.answer());
            }
        }
    }

    #[test]
    fn errors_and_lengths_are_as_frequent_as_asked() {
        let (mut wrong, mut terse, mut verbose) = (0, 0, 0);
        for number in 0..2000 {
            let problem = problem(number, 2, 6, 10);
            let short = problem.trace(Style::Terse, 0.1, number);
            wrong += u32::from(boxed(&short) != problem.answer());
            // Tags and answer are the same in both styles, and are single tokens for the most part.
            terse += short.len() - 30;
            verbose += problem.trace(Style::Verbose { ratio: 4.0 }, 0.1, number).len() - 30;
        }
        assert!((150..250).contains(&wrong), "{wrong}");
        let ratio = verbose as f64 / terse as f64;
        assert!((3.5..4.8).contains(&ratio), "{ratio}");
    }
}
