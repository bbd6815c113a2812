//! Benchmarks by name: where each is, and how its rows become problems with answers.
//!
//! The same data is written in several ways: by its authors, by other suites, by people who have kept a copy. All of them
//! give the same rows here: `id`, `problem`, `answer`, and `solution`, `subject` and `level` where they are there.

use std::sync::LazyLock;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::source::{BadRow, Place};
use crate::table::Row;

/// The names of a field, the first that is there counts.
const PROBLEM: [&str; 2] = ["problem", "question"];
const ANSWER: [&str; 2] = ["answer", "expected_answer"];
const SOLUTION: [&str; 2] = ["solution", "reference_solution"];
const SUBJECT: [&str; 2] = ["subject", "type"];
/// Where GSM8K's solution ends and its answer begins.
const GSM8K_MARK: &str = "####";

/// What a calculator was asked within a solution of GSM8K: `<<48/2=24>>`.
static CALCULATED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("<<[^<>]*>>").expect("the pattern is fixed"));
/// A number in figures.
static NUMBER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^(-?)0*(\d+)(?:\.(\d*?)0*)?$").expect("the pattern is fixed"));

/// The benchmarks that are known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Benchmark {
    /// Grade-school mathematics: `openai/gsm8k`, 1,319 problems (`split: train` has 7,473).
    #[serde(rename = "gsm8k")]
    Gsm8k,
    /// 500 competition problems of all subjects: `HuggingFaceH4/MATH-500`. Answers are LaTeX.
    #[serde(rename = "math-500")]
    Math500,
    /// AIME 2024, I and II: `HuggingFaceH4/aime_2024`, 30 problems.
    #[serde(rename = "aime24")]
    Aime24,
    /// AIME 2025, I and II: `math-ai/aime25`, 30 problems.
    #[serde(rename = "aime25")]
    Aime25,
}

impl Benchmark {
    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gsm8k => "gsm8k",
            Self::Math500 => "math-500",
            Self::Aime24 => "aime24",
            Self::Aime25 => "aime25",
        }
    }

    /// Its address on the hub.
    pub(super) fn address(self) -> &'static str {
        match self {
            Self::Gsm8k => "hf://openai/gsm8k",
            Self::Math500 => "hf://HuggingFaceH4/MATH-500",
            Self::Aime24 => "hf://HuggingFaceH4/aime_2024",
            Self::Aime25 => "hf://math-ai/aime25",
        }
    }

    /// Its configuration there.
    pub(super) fn config(self) -> Option<&'static str> {
        (self == Self::Gsm8k).then_some("main")
    }

    /// The splits that it has, the one that is tested on first.
    pub(super) fn splits(self) -> &'static [&'static str] {
        match self {
            Self::Gsm8k => &["test", "train"],
            Self::Aime24 => &["train"],
            Self::Math500 | Self::Aime25 => &["test"],
        }
    }

    /// The problem in a row of its data, whose number counts from zero.
    pub(super) fn row(self, split: &str, number: u64, place: &Place, row: &Row) -> Result<Row, BadRow> {
        let name = self.name();
        let lacks = |what: &str, names: &[&str]| {
            let columns: Vec<String> = row.keys().map(|column| format!("`{column}`")).collect();
            place.bad(format!(
                "a row of {name} has no {what} (`{}`), but {}; is this {name}?",
                names.join("` or `"),
                columns.join(", ")
            ))
        };
        let problem = text(row, &PROBLEM).ok_or_else(|| lacks("problem", &PROBLEM))?;
        let (answer, solution) = match self {
            Self::Gsm8k => gsm8k(row),
            _ => (text(row, &ANSWER), text(row, &SOLUTION)),
        };
        let answer = answer.ok_or_else(|| lacks("answer", &ANSWER))?;
        let checked = match self {
            Self::Gsm8k => number_of(&answer.replace([',', '$'], "")),
            Self::Math500 => Some(answer.clone()),
            // From 0 to 999; contests print them with leading zeros, and these are no part of the number.
            Self::Aime24 | Self::Aime25 => number_of(&answer)
                .filter(|answer| answer.len() <= 3 && answer.bytes().all(|byte| byte.is_ascii_digit())),
        };
        let answer = checked
            .ok_or_else(|| place.bad(format!("the answer `{answer}` is none that {name} can have")))?;
        let part = if split == self.splits()[0] { String::new() } else { format!("-{split}") };
        let mut made = Row::new();
        made.insert("id".into(), json!(format!("{name}{part}-{number}")));
        made.insert("problem".into(), json!(problem));
        made.insert("answer".into(), json!(answer));
        made.extend(solution.map(|solution| ("solution".to_owned(), json!(solution))));
        made.extend(text(row, &SUBJECT).map(|subject| ("subject".to_owned(), json!(subject))));
        made.extend(level(row).map(|level| ("level".to_owned(), json!(level))));
        Ok(made)
    }
}

/// The answer and the solution: the authors write both in one text, others apart.
fn gsm8k(row: &Row) -> (Option<String>, Option<String>) {
    let full = ["answer", "answer_full", "reference_solution", "solution"].iter().find_map(|name| {
        let text = row.get(*name)?.as_str()?;
        let (solution, answer) = text.rsplit_once(GSM8K_MARK)?;
        Some((answer.trim().to_owned(), solution.to_owned()))
    });
    let (answer, solution) = match full {
        Some((answer, solution)) => (Some(answer), Some(solution)),
        None => (text(row, &["expected_answer", "answer"]), text(row, &SOLUTION)),
    };
    (answer, solution.map(|solution| CALCULATED.replace_all(&solution, "").trim().to_owned()))
}

/// The text of the first of `names` that is there and not empty; a number as its figures.
fn text(row: &Row, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| {
        let text = match row.get(*name)? {
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) => number.to_string(),
            _ => return None,
        };
        Some(text).filter(|text| !text.is_empty())
    })
}

/// `Level 3` and `3` as 3.
fn level(row: &Row) -> Option<i64> {
    match row.get("level")? {
        Value::String(text) => text.trim_start_matches("Level").trim().parse().ok(),
        value => value.as_i64(),
    }
}

/// A number as one writes it: no leading zeros, no fraction of zeros.
fn number_of(text: &str) -> Option<String> {
    let parts = NUMBER.captures(text.trim().trim_end_matches('.'))?;
    let fraction = parts.get(3).map(|fraction| fraction.as_str()).filter(|fraction| !fraction.is_empty());
    let whole = &parts[2];
    let sign = if whole == "0" && fraction.is_none() { "" } else { &parts[1] };
    Some(format!("{sign}{whole}{}", fraction.map_or_else(String::new, |fraction| format!(".{fraction}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(benchmark: Benchmark, value: Value) -> Result<Value, String> {
        let Value::Object(row) = value else { panic!("a row is an object") };
        let made = benchmark.row(benchmark.splits()[0], 4, &Place::number(5), &row);
        made.map(Value::Object).map_err(|bad| bad.what)
    }

    #[test]
    fn the_ways_to_write_gsm8k_are_one() {
        let full = "He pays 2 * 500 = $<<2*500=1000>>1,000.\n#### $1,000";
        let made = json!({
            "id": "gsm8k-4", "problem": "How much?", "answer": "1000", "solution": "He pays 2 * 500 = $1,000.",
        });
        for written in [
            json!({ "question": "How much? ", "answer": full }),
            json!({ "id": "gsm8k-test-0004", "problem": "How much?", "answer": "1000", "question": "How much?", "answer_full": full }),
            json!({ "problem": "How much?", "expected_answer": 1000, "reference_solution": "He pays 2 * 500 = $1,000." }),
            json!({ "problem": "How much?", "expected_answer": "1000.0", "answer": "x", "solution": full }),
        ] {
            assert_eq!(row(Benchmark::Gsm8k, written), Ok(made.clone()));
        }
        let error = row(Benchmark::Gsm8k, json!({ "question": "How much?", "note": "" })).unwrap_err();
        assert_eq!(
            error,
            "a row of gsm8k has no answer (`answer` or `expected_answer`), but `note`, `question`; is this gsm8k?"
        );
        assert!(row(Benchmark::Gsm8k, json!({ "question": "?", "answer": "so #### many" })).is_err());
    }

    #[test]
    fn numbers_are_written_in_one_way() {
        for (text, number) in [
            ("018", Some("18")),
            ("-0.50", Some("-0.5")),
            ("-0", Some("0")),
            ("3.", Some("3")),
            ("100", Some("100")),
            ("1e3", None),
            ("", None),
            ("1 000", None),
        ] {
            assert_eq!(number_of(text).as_deref(), number, "{text}");
        }
    }

    #[test]
    fn contests_answer_with_whole_numbers_and_papers_with_latex() {
        let answer = |benchmark, answer: Value| {
            row(benchmark, json!({ "problem": "p", "answer": answer })).map(|row| row["answer"].clone())
        };
        assert_eq!(answer(Benchmark::Aime25, json!("016")), Ok(json!("16")));
        assert_eq!(answer(Benchmark::Aime24, json!(0)), Ok(json!("0")));
        for wrong in [json!("1000"), json!("-3"), json!("1/2"), json!(0.5)] {
            assert!(answer(Benchmark::Aime25, wrong).is_err());
        }
        assert_eq!(answer(Benchmark::Math500, json!(" \\frac{1}{2}")), Ok(json!("\\frac{1}{2}")));
        assert!(
            answer(Benchmark::Math500, json!("")).is_err()
                && answer(Benchmark::Math500, Value::Null).is_err()
        );
        let levels =
            json!({ "problem": "p", "answer": "2", "type": "Algebra", "level": "Level 3", "solution": "s" });
        let made = row(Benchmark::Math500, levels).unwrap();
        assert_eq!((&made["subject"], &made["level"]), (&json!("Algebra"), &json!(3)));
    }
}
