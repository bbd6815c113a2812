//! `pack` with a model that is made here.

use std::path::PathBuf;

use super::*;
use crate::model::ModelTask;
use crate::table::testing::{rows, table};

fn base(dir: &Path) -> PathBuf {
    let mut cx = TaskCx::for_test(&dir.join("base")).build().unwrap();
    let params = json!({
        "architecture": { "hidden": 32, "layers": 1, "head_dim": 16, "max_positions": 256 },
        "tokenizer": { "kind": "characters" },
    });
    ModelTask::run(&serde_json::from_value(params).unwrap(), &mut cx).unwrap();
    cx.output("model")
}

fn examples(dir: &Path) -> PathBuf {
    let row = |number: usize| {
        json!({
            "id": format!("p{number}"), "r1.record_key": format!("k{number}"), "r1.problem": "2+2?",
            "r1.response": format!("<think>\n{}\n</think>\n\n4", "x".repeat(number * 5)),
        })
    };
    let mut rows: Vec<Value> = (1..=9).map(row).collect();
    rows.push(json!({ "id": "long", "r1.record_key": "kl", "r1.problem": "2+2?", "r1.response": format!("<think>\n{}</think>4", "y".repeat(300)) }));
    rows.push(json!({ "id": "empty", "r1.record_key": "ke", "r1.problem": "2+2?", "r1.response": null }));
    table(dir.join("examples"), json!(rows))
}

fn packs(folder: &Path) -> Vec<Row> {
    rows(&folder.join("packs.parquet"))
}

#[test]
fn every_example_is_in_one_pack_and_labels_are_the_completions() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let mut cx = TaskCx::for_test(dir.path())
        .input("examples", examples(dir.path()))
        .input("tokenizer", &base)
        .threads(2)
        .build()
        .unwrap();
    let params = json!({ "problem": "r1.problem", "response": "r1.response", "max_tokens": 80 });
    Pack::run(&serde_json::from_value(params).unwrap(), &mut cx).unwrap();
    let folder = cx.output("packs");
    let packs = packs(&folder);
    let mut sources: Vec<String> = Vec::new();
    let tokenizer = Tokenizer::load(&folder).unwrap();
    for pack in &packs {
        let list = |name: &str| -> Vec<u32> { serde_json::from_value(pack[name].clone()).unwrap() };
        let (tokens, mask, starts) = (list("tokens"), list("loss_mask"), list("starts"));
        assert_eq!(tokens.len(), mask.len());
        assert!(tokens.len() - starts.len() <= 80, "lengths are counted less one");
        assert_eq!(starts.len(), pack["examples"].as_array().unwrap().len());
        for (index, &start) in starts.iter().enumerate() {
            let end = starts.get(index + 1).map_or(tokens.len(), |end| *end as usize);
            assert_eq!(mask[start as usize], 0);
            assert_eq!(
                (tokens[end - 1], mask[end - 1]),
                (tokenizer.eos_id().unwrap(), 1),
                "the end token is trained"
            );
            let labels: Vec<u32> =
                (start as usize..end).filter(|at| mask[*at] == 1).map(|at| tokens[at]).collect();
            let text = tokenizer.decode(&labels).unwrap();
            assert!(text.starts_with('x') && text.contains("</think>"), "{text}");
        }
        sources.extend(
            pack["examples"].as_array().unwrap().iter().map(|source| source.as_str().unwrap().to_owned()),
        );
    }
    sources.sort();
    assert_eq!(sources, (1..=9).map(|number| format!("k{number}")).collect::<Vec<_>>());
    let stats: Value = serde_json::from_slice(&std::fs::read(folder.join("stats.json")).unwrap()).unwrap();
    assert_eq!(stats["dropped"], json!({ "empty": 1, "over_long": 1 }));
    assert_eq!((&stats["examples"], &stats["packs"]), (&json!(9), &json!(packs.len())));
    assert_eq!(cx.metrics()["unique_problems"], json!(9));
}

#[test]
fn threads_and_algorithms() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let run = |threads, algorithm: &str| {
        let dir = dir.path().join(format!("{algorithm}{threads}"));
        std::fs::create_dir_all(&dir).unwrap();
        let mut cx = TaskCx::for_test(&dir)
            .input("examples", examples(&dir))
            .input("tokenizer", &base)
            .threads(threads)
            .build()
            .unwrap();
        let params = json!({ "problem": "r1.problem", "response": "r1.response", "max_tokens": 80, "algorithm": algorithm });
        Pack::run(&serde_json::from_value(params).unwrap(), &mut cx).unwrap();
        std::fs::read(cx.output("packs").join("packs.parquet")).unwrap()
    };
    for algorithm in ["first-fit-decreasing", "best-fit-decreasing", "sequential", "none"] {
        assert_eq!(run(1, algorithm), run(2, algorithm));
    }
    assert_ne!(run(1, "none"), run(1, "sequential"));
}

#[test]
fn what_does_not_fit_the_tokenizer_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let rows = json!([
        { "id": "a", "problem": "2+2?", "response": "<think>ä</think>4" },
        { "id": "b", "problem": "2+2?", "response": "<think>x</think>4" },
    ]);
    let mut cx = TaskCx::for_test(dir.path())
        .input("examples", table(dir.path().join("examples"), rows))
        .input("tokenizer", base(dir.path()))
        .build()
        .unwrap();
    let mut run = |value: Value| Pack::run(&serde_json::from_value(value).unwrap(), &mut cx);
    let error = run(json!({ "max_tokens": 80 })).unwrap_err().to_string();
    assert!(error.contains("1 of 2 examples") && error.contains("row 1"), "{error}");
    run(json!({ "max_tokens": 80, "max_unfit": 0.5 })).unwrap();
    let error = run(json!({ "max_tokens": 80, "response": "answer" })).unwrap_err().to_string();
    assert!(error.contains("no column `answer`"), "{error}");
}
