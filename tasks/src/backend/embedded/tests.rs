//! A response is the same record whatever is decoded beside it, with every option of sampling.

use std::path::{Path, PathBuf};

use dag_engine::task::Task;

use super::*;
use crate::model::ModelTask;
use crate::sample::{Params, SampleTask};
use crate::table::Row;
use crate::table::testing::{rows, table};

/// A model with random weights below `dir`.
fn model(dir: &Path) -> PathBuf {
    let mut made = TaskCx::for_test(&dir.join("base")).build().unwrap();
    let params = json!({
        "architecture": { "hidden": 32, "layers": 2, "head_dim": 16, "max_positions": 64 },
        "tokenizer": { "kind": "characters" },
    });
    ModelTask::run(&serde_json::from_value(params).unwrap(), &mut made).unwrap();
    made.output("model")
}

/// How `sample` is run.
#[derive(Clone, Copy)]
struct How {
    store: &'static str,
    problems: usize,
    repeats: u32,
    concurrency: usize,
    threads: usize,
}

/// Samples in a store of its own below `dir`; gives the table and what was asked and reused.
fn sample(dir: &Path, model: &Path, how: &How) -> (PathBuf, u64) {
    let row = |number| json!({ "id": format!("p{number}"), "problem": format!("{number}+{}?", number * 7) });
    let problems = (0..how.problems).map(row).collect();
    let dir = dir.join(how.store);
    let mut cx = TaskCx::for_test(&dir)
        .input("prompts", table(dir.join(format!("problems-{}", how.problems)), problems))
        .input("model", model)
        .seed(5)
        .threads(how.threads)
        .run(json!({ "concurrency": how.concurrency }))
        .build()
        .unwrap();
    let params: Params = serde_json::from_value(json!({
        "repeats": how.repeats, "max_tokens": 24, "repetition_penalty": 1.2, "thinking_budget": 7, "logprobs": true,
    }))
    .unwrap();
    assert!(SampleTask::check(&params).is_empty());
    SampleTask::run(&params, &mut cx).unwrap();
    (cx.output("responses"), cx.metrics()["records"].as_u64().unwrap())
}

#[test]
fn company_threads_and_interruptions_change_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let base = How { store: "base", problems: 32, repeats: 2, concurrency: 1, threads: 1 };
    let (expected, _) = sample(dir.path(), &model, &base);
    let (found, _) = sample(dir.path(), &model, &How { store: "wide", concurrency: 32, threads: 2, ..base });
    assert_eq!(std::fs::read(&found).unwrap(), std::fs::read(&expected).unwrap());
    // One problem alone.
    let expected_rows = rows(&expected);
    let (alone, _) = sample(dir.path(), &model, &How { store: "alone", problems: 1, ..base });
    assert_eq!(rows(&alone), expected_rows[..2]);
    // A part first, the others later: the same records, of which none is asked for twice.
    let part = How { store: "part", problems: 10, repeats: 1, concurrency: 3, threads: 1 };
    let (_, asked) = sample(dir.path(), &model, &part);
    assert_eq!(asked, 10);
    let (found, _) = sample(dir.path(), &model, &How { store: "part", concurrency: 5, threads: 2, ..base });
    assert_eq!(std::fs::read(&found).unwrap(), std::fs::read(&expected).unwrap());
}

#[test]
fn thinking_is_bounded_and_probabilities_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let how = How { store: "store", problems: 12, repeats: 2, concurrency: 8, threads: 1 };
    let (path, _) = sample(dir.path(), &model, &how);
    let tokens = |row: &Row| -> Vec<(String, f64)> {
        let content = row["logprobs"]["content"].as_array().unwrap();
        let token =
            |token: &Value| (token["token"].as_str().unwrap().to_owned(), token["logprob"].as_f64().unwrap());
        content.iter().map(token).collect()
    };
    let mut bounded = 0;
    for row in rows(&path) {
        let tokens = tokens(&row);
        assert_eq!(tokens.len() as u64, row["output_tokens"].as_u64().unwrap());
        assert!(tokens.iter().all(|(_, logprob)| *logprob < 0.0));
        let text: String = tokens.iter().map(|(token, _)| token.as_str()).collect();
        assert_eq!(
            format!("<think>\n{}", text.trim_end_matches("<|end|>")),
            row["response"].as_str().unwrap()
        );
        // The template opens the thinking.
        if tokens.len() > 8 && tokens[..7].iter().all(|(token, _)| token != THINK_CLOSE) {
            assert_eq!(tokens[7].0, THINK_CLOSE);
            bounded += 1;
        }
    }
    assert!(bounded > 10, "{bounded}");
}
