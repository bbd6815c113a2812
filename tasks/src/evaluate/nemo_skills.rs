//! The metrics of a benchmark in the form of NeMo-Skills, so that its readers and older tables can be compared digit for digit.
//!
//! What differs from this project's own numbers is kept as it is there: majority votes by the text of an answer (1/2 and 0.5
//! are two votes), average and majority over the first k responses, percentages from 0 to 100 beside statistics from 0 to 1,
//! mean tokens cut to a whole number, errors that look at runs and not at problems. `gen_seconds` is left out, as it is there
//! for records without times: times are no part of a result here.
use std::collections::BTreeMap;
use std::path::Path;

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use crate::stats;
use crate::table::{TableError, TableReader};

/// One response, as NeMo-Skills sees it.
#[derive(Debug, Clone, PartialEq)]
struct Prediction {
    answer: Option<String>,
    correct: bool,
    tokens: Option<u64>,
}

/// The metrics of a table of graded responses under a benchmark's name. A response that could not be had is an empty one, as
/// with soft failures there.
pub(super) fn metrics(benchmark: &str, graded: &Path) -> Result<Value, TableError> {
    let mut items: IndexMap<String, Vec<Prediction>> = IndexMap::new();
    for row in TableReader::open(graded)?.rows_of(&["id", "extracted", "verdict", "output_tokens"])? {
        let row = row?;
        let text = |column: &str| row.get(column).and_then(Value::as_str);
        items.entry(text("id").unwrap_or_default().to_owned()).or_default().push(Prediction {
            answer: text("extracted").map(str::to_owned),
            correct: text("verdict") == Some("correct"),
            tokens: row.get("output_tokens").and_then(Value::as_u64),
        });
    }
    let items: Vec<Vec<Prediction>> = items.into_values().collect();
    Ok(json!({ benchmark: modes(&items) }))
}

fn modes(items: &[Vec<Prediction>]) -> Value {
    let runs = items.iter().map(Vec::len).min().unwrap_or(0);
    let mut modes = Map::new();
    for k in 1..=runs {
        let pass = |item: &[Prediction]| {
            let correct = item.iter().filter(|one| one.correct).count();
            stats::pass_at_k(item.len(), correct, k).unwrap_or_default()
        };
        let silent = |item: &[Prediction]| item[..k].iter().filter(|one| one.answer.is_none()).count();
        let all_silent = |item: &[Prediction]| f64::from(u8::from(silent(item) == k));
        let average =
            |item: &[Prediction]| item[..k].iter().filter(|one| one.correct).count() as f64 / k as f64;
        modes.insert(format!("pass@{k}"), mode(items, &pass, &all_silent).into());
        let share_silent = |item: &[Prediction]| silent(item) as f64 / k as f64;
        let mut averaged = mode(items, &average, &share_silent);
        if k > 1 {
            let right = |one: &Prediction| f64::from(u8::from(one.correct));
            averaged.insert("symbolic_correct_statistics".into(), statistics(items, k, &right));
            // Nobody tells thinking and answer apart there, unless the server does: all counts as answer.
            averaged.insert("reasoning_tokens_statistics".into(), statistics(items, k, &|_| 0.0));
            let tokens = |one: &Prediction| one.tokens.unwrap_or_default() as f64;
            averaged.insert("answer_tokens_statistics".into(), statistics(items, k, &tokens));
            modes.insert(
                format!("majority@{k}"),
                mode(items, &|item| majority(&item[..k]), &all_silent).into(),
            );
        }
        modes.insert(format!("pass@1[avg-of-{k}]"), averaged.into());
    }
    Value::Object(modes)
}

type OfItem<'a> = &'a dyn Fn(&[Prediction]) -> f64;

fn mode(items: &[Vec<Prediction>], correct: OfItem<'_>, no_answer: OfItem<'_>) -> Map<String, Value> {
    let mean = |of: OfItem<'_>| items.iter().map(|item| of(item)).sum::<f64>() / items.len() as f64;
    let tokens =
        mean(&|item| item.iter().filter_map(|one| one.tokens).sum::<u64>() as f64 / item.len() as f64);
    let mut mode = Map::new();
    mode.insert("num_entries".into(), json!(items.len()));
    if tokens > 0.0 {
        mode.insert("avg_tokens".into(), json!(tokens as u64));
    }
    mode.insert("symbolic_correct".into(), json!(100.0 * mean(correct)));
    mode.insert("no_answer".into(), json!(100.0 * mean(no_answer)));
    mode
}

/// The mean grade of the answers that most give, each answer's text with its grade a vote of its own; 0 without an answer.
fn majority(predictions: &[Prediction]) -> f64 {
    let mut votes: BTreeMap<(&str, bool), usize> = BTreeMap::new();
    for one in predictions {
        if let Some(answer) = &one.answer {
            *votes.entry((answer, one.correct)).or_default() += 1;
        }
    }
    let most = votes.values().copied().max().unwrap_or(0);
    let tied: Vec<bool> =
        votes.iter().filter(|(_, count)| **count == most).map(|((_, right), _)| *right).collect();
    tied.iter().filter(|right| **right).count() as f64 / tied.len().max(1) as f64
}

/// Spread between runs and within items over the first k responses, of a score from 0 to 1 or of tokens. Neither is the error
/// of a benchmark's mean: the problems are taken as if there were no others.
fn statistics(items: &[Vec<Prediction>], k: usize, score: &dyn Fn(&Prediction) -> f64) -> Value {
    let deviation = |values: &[f64]| {
        stats::mean(values)
            .and_then(|mean| mean.standard_error)
            .map_or(0.0, |error| error * (values.len() as f64).sqrt())
    };
    let mean = |values: &[f64]| stats::mean(values).map_or(0.0, |mean| mean.mean);
    let of_items: Vec<Vec<f64>> = items.iter().map(|item| item[..k].iter().map(score).collect()).collect();
    let runs: Vec<f64> =
        (0..k).map(|run| mean(&of_items.iter().map(|item| item[run]).collect::<Vec<_>>())).collect();
    let across = deviation(&runs);
    json!({
        "avg": mean(&of_items.iter().map(|item| mean(item)).collect::<Vec<_>>()),
        "std_dev_across_runs": across,
        "avg_sample_std_dev": mean(&of_items.iter().map(|item| deviation(item)).collect::<Vec<_>>()),
        "std_err_across_runs": across / (k as f64).sqrt(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(answers: &[(&str, u8)]) -> Vec<Prediction> {
        answers
            .iter()
            .zip(1..)
            .map(|((answer, right), number)| Prediction {
                answer: (!answer.is_empty()).then(|| (*answer).to_owned()),
                correct: *right == 1,
                tokens: Some(100 * number + 1),
            })
            .collect()
    }

    #[test]
    fn the_majority_is_of_texts() {
        for (answers, expected) in [
            (&[("70", 1), ("70", 1), ("71", 0), ("", 0)][..], 1.0),
            (&[("70", 1), ("71", 0)], 0.5),
            (&[("1/2", 1), ("0.5", 1), ("2", 0), ("2", 0)], 0.0),
            (&[("", 0), ("", 0)], 0.0),
        ] {
            assert!((majority(&item(answers)) - expected).abs() < 1e-12, "{answers:?}");
        }
    }

    fn runs(item: [u8; 4]) -> Vec<Prediction> {
        super::tests::item(&item.map(|right| (if right == 1 { "7" } else { "8" }, right)))
    }

    #[test]
    fn the_modes_of_five_items() {
        let items = [[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 1], [0, 0, 1, 0]].map(runs);
        let found = modes(&items);
        let names: Vec<&str> = found.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = [
            "majority@2",
            "majority@3",
            "majority@4",
            "pass@1",
            "pass@1[avg-of-1]",
            "pass@1[avg-of-2]",
            "pass@1[avg-of-3]",
            "pass@1[avg-of-4]",
            "pass@2",
            "pass@3",
            "pass@4",
        ];
        assert_eq!(names, expected);
        let averaged = &found["pass@1[avg-of-4]"];
        let close = |value: &Value, expected: f64| {
            assert!((value.as_f64().unwrap() - expected).abs() < 1e-6, "{value} {expected}");
        };
        close(&averaged["symbolic_correct"], 50.0);
        close(&found["pass@1[avg-of-1]"]["symbolic_correct"], 60.0);
        close(&found["pass@1"]["symbolic_correct"], 50.0);
        close(&found["pass@4"]["symbolic_correct"], 80.0);
        let statistics = &averaged["symbolic_correct_statistics"];
        close(&statistics["avg"], 0.5);
        close(&statistics["std_dev_across_runs"], 0.115_470);
        close(&statistics["std_err_across_runs"], 0.057_735);
        close(&statistics["avg_sample_std_dev"], 0.315_470);
        // 101, 201, 301, 401: 251 in the mean, cut to a whole number.
        assert_eq!((&averaged["avg_tokens"], &averaged["num_entries"]), (&json!(251), &json!(5)));
        close(&averaged["answer_tokens_statistics"]["avg"], 251.0);
        close(&averaged["reasoning_tokens_statistics"]["std_dev_across_runs"], 0.0);
        assert!(found["pass@1[avg-of-1]"].get("symbolic_correct_statistics").is_none());
        assert!(averaged.get("gen_seconds").is_none());
    }

    /// The example of their documentation, whose deviation is 0.1667 and not the 0.1925 that is printed there.
    #[test]
    fn the_spread_of_their_example() {
        let items = [[1, 0, 1, 0], [1, 1, 0, 0], [0, 1, 1, 1]].map(runs);
        let found = &modes(&items)["pass@1[avg-of-4]"]["symbolic_correct_statistics"];
        assert!((found["std_dev_across_runs"].as_f64().unwrap() - 1.0 / 6.0).abs() < 1e-9, "{found}");
        assert!((found["avg_sample_std_dev"].as_f64().unwrap() - (2.0 * 0.577_350 + 0.5) / 3.0).abs() < 1e-6);
    }

    #[test]
    fn no_answer_is_of_all_or_a_share() {
        let items = [item(&[("", 0), ("3", 1)]), item(&[("", 0), ("", 0)])];
        let found = modes(&items);
        let no_answer = |mode: &str| found[mode]["no_answer"].as_f64().unwrap();
        assert_eq!((no_answer("pass@1"), no_answer("pass@2"), no_answer("majority@2")), (100.0, 50.0, 50.0));
        assert_eq!((no_answer("pass@1[avg-of-1]"), no_answer("pass@1[avg-of-2]")), (100.0, 75.0));
        assert_eq!(modes(&[]), json!({}));
    }
}
