//! `sample` on scripted and given responses.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::table::testing::{self, table};

fn problems(dir: &Path, count: u32) -> PathBuf {
    let row = |number| json!({ "id": format!("p{number}"), "record_key": format!("k{number}"), "problem": format!("{number}+1*2 mod 10?") });
    table(dir.join("problems"), json!((0..count).map(row).collect::<Vec<_>>()))
}

fn rows(cx: &TaskCx) -> Vec<Row> {
    testing::rows(&cx.output("responses"))
}

/// Runs a scripted teacher in one store, and gives what was asked and the rows.
fn teach(dir: &Path, count: u32, repeats: u32) -> (u64, Vec<Row>) {
    let mut cx = TaskCx::for_test(dir).input("prompts", problems(dir, count)).seed(17).build().unwrap();
    let value = json!({ "model": { "backend": "scripted", "teacher": "terse", "error_rate": 0.3 }, "repeats": repeats });
    let params: Params = serde_json::from_value(value).unwrap();
    assert!(SampleTask::check(&params).is_empty());
    SampleTask::run(&params, &mut cx).unwrap();
    let wanted = cx.metrics()["records"].as_u64().unwrap();
    assert_eq!(wanted, u64::from(count * repeats));
    (wanted, rows(&cx))
}

#[test]
fn more_repeats_and_more_rows_leave_the_others_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let (_, few) = teach(dir.path(), 5, 2);
    let (_, many) = teach(dir.path(), 8, 4);
    assert_eq!((few.len(), many.len()), (10, 32));
    for row in &few {
        assert!(many.contains(row), "{row:?}");
    }
    let keys: std::collections::BTreeSet<&str> =
        many.iter().map(|row| row["record_key"].as_str().unwrap()).collect();
    assert_eq!(keys.len(), 32);
    let first = &few[0];
    assert_eq!(
        (&first["id"], &first["repeat"], &first["parents"]),
        (&json!("p0"), &json!(0), &json!(["k0"]))
    );
    assert_eq!((&first["finish_reason"], &first["error"]), (&json!("stop"), &Value::Null));
    assert_eq!(first["messages"], json!([{ "role": "user", "content": "0+1*2 mod 10?" }]));
    assert!(first["response"].as_str().unwrap().starts_with("<think>\n0+1=1;"));
}

#[test]
fn what_is_stored_is_not_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let cx = TaskCx::for_test(dir.path()).build().unwrap();
    let spec: ModelSpec =
        serde_json::from_value(json!({ "backend": "scripted", "teacher": "terse" })).unwrap();
    let backend = Backend::open(&spec, None, &BackendRun::default(), &cx).unwrap();
    let prompt = |number: u32| Prompt {
        messages: vec![Message { role: "user".into(), content: format!("{number}+1 mod 10?") }],
        repeats: 0..2,
    };
    let calls = AtomicU64::new(0);
    let ask = |numbers: Vec<u32>| {
        let mut records = Records::open(&cx, &backend, &Sampling::default(), 17).unwrap();
        let mut prompts = numbers.into_iter().map(|number| {
            calls.fetch_add(1, Ordering::Relaxed);
            Ok(prompt(number))
        });
        records.ask(&cx, &backend, &Sampling::default(), &mut prompts).unwrap();
        (records.counts().wanted, records.counts().reused)
    };
    // The same prompt twice is one record.
    assert_eq!(ask(vec![1, 2, 1]), (4, 0));
    assert_eq!(ask(vec![1, 2, 3]), (6, 4));
    assert_eq!(ask(vec![3, 2, 1]), (6, 6));
}

#[test]
fn a_prompt_that_cannot_be_answered_is_a_failed_record() {
    let dir = tempfile::tempdir().unwrap();
    let prompts = table(
        dir.path().join("p"),
        json!([{ "id": "a", "problem": "1+1 mod 10?" }, { "id": "b", "problem": "hello" }]),
    );
    let params: Params =
        serde_json::from_value(json!({ "model": { "backend": "scripted", "teacher": "terse" } })).unwrap();
    let mut strict = TaskCx::for_test(dir.path()).input("prompts", &prompts).build().unwrap();
    let error = SampleTask::run(&params, &mut strict).unwrap_err().to_string();
    assert!(error.contains("1 of 2 records failed: 1 prompt (the messages hold no chain"), "{error}");
    let mut lenient = TaskCx::for_test(dir.path())
        .input("prompts", &prompts)
        .run(json!({ "allow_failed": 0.5 }))
        .build()
        .unwrap();
    SampleTask::run(&params, &mut lenient).unwrap();
    assert_eq!(lenient.owed_records(), 1);
    let rows = rows(&lenient);
    assert_eq!((&rows[1]["finish_reason"], &rows[1]["error"]), (&json!("error"), &json!("prompt")));
    assert_eq!(rows[0]["error"], Value::Null);
}

#[test]
fn given_responses_are_read_as_if_they_were_sampled() {
    let dir = tempfile::tempdir().unwrap();
    let data = json!([
        { "id": "a", "problem": "p", "reasoning": "so 4", "response": "It is 4.", "tokens": 7 },
        { "id": "b", "problem": "q", "reasoning": "hm", "response": "" , "tokens": null },
        { "id": "c", "problem": "r", "reasoning": null, "response": null, "tokens": null },
    ]);
    let mut cx =
        TaskCx::for_test(dir.path()).input("prompts", table(dir.path().join("p"), data)).build().unwrap();
    let model =
        json!({ "backend": "given", "name": "r1", "reasoning": "reasoning", "output_tokens": "tokens" });
    SampleTask::run(&serde_json::from_value(json!({ "model": model })).unwrap(), &mut cx).unwrap();
    let rows = rows(&cx);
    assert_eq!(rows[0]["response"], json!("<think>\nso 4\n</think>\n\nIt is 4."));
    assert_eq!((&rows[0]["answer_text"], &rows[0]["output_tokens"]), (&json!("It is 4."), &json!(7)));
    assert_eq!((&rows[2]["error"], &cx.metrics()["without_response"]), (&json!("empty"), &json!(1)));
}
