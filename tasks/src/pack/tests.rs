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

#[test]
fn arms_of_other_lengths_keep_the_same_problems() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    // The first arm's traces grow with the number, the second's shrink; one response is missing in the second.
    let rows: Vec<Value> = (1..=9)
        .map(|number| {
            let trace = |length: usize| format!("<think>{}</think>4", "x".repeat(length));
            let second = if number == 5 { Value::Null } else { json!(trace(100 - 10 * number)) };
            json!({ "id": format!("p{number}"), "problem": "2+2?", "a.response": trace(10 * number), "b.response": second })
        })
        .collect();
    let examples = table(dir.path().join("examples"), json!(rows));
    let run = |name: &str, params: Value| {
        let mut cx = TaskCx::for_test(&dir.path().join(name))
            .input("examples", &examples)
            .input("tokenizer", &base)
            .build()
            .unwrap();
        let mut all = json!({ "max_tokens": 90 });
        all.as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
        let params: Params = serde_json::from_value(all).unwrap();
        assert_eq!(Pack::check(&params), []);
        Pack::run(&params, &mut cx).map(|()| {
            let folder = cx.output("packs");
            let mut ids: Vec<String> = packs(&folder)
                .iter()
                .flat_map(|pack| serde_json::from_value::<Vec<String>>(pack["examples"].clone()).unwrap())
                .collect();
            ids.sort();
            let stats: Value =
                serde_json::from_slice(&std::fs::read(folder.join("stats.json")).unwrap()).unwrap();
            (ids, stats["dropped"].clone())
        })
    };
    let (alone_a, _) = run("alone-a", json!({ "response": "a.response" })).unwrap();
    let (alone_b, _) = run("alone-b", json!({ "response": "b.response" })).unwrap();
    assert_ne!(alone_a, alone_b);
    let beside = json!(["a.response", "b.response"]);
    let (a, dropped_a) = run("a", json!({ "response": "a.response", "beside": beside })).unwrap();
    let (b, dropped_b) = run("b", json!({ "response": "b.response", "beside": beside })).unwrap();
    assert_eq!(a, b);
    let both: Vec<String> = alone_a.iter().filter(|id| alone_b.contains(id)).cloned().collect();
    assert_eq!(a, both);
    assert_eq!((&dropped_a["empty_beside"], &dropped_b["empty"]), (&json!(1), &json!(1)));
    assert_eq!(dropped_a["over_long_beside"], dropped_b["over_long"]);

    let few = |arm: &str| json!({ "response": format!("{arm}.response"), "beside": beside, "examples": 3 });
    let (a, dropped) = run("few-a", few("a")).unwrap();
    assert_eq!((a.as_slice(), &a), (&both[..3], &run("few-b", few("b")).unwrap().0));
    assert!(dropped["not_wanted"].as_u64().unwrap() > 0);
    let error = run("many", json!({ "response": "a.response", "examples": 9 })).unwrap_err().to_string();
    assert!(error.contains("9 examples are wanted and"), "{error}");
    let error = run("none", json!({ "response": "a.response", "beside": ["c"] })).unwrap_err().to_string();
    assert!(error.contains("no column `c`"), "{error}");
}
