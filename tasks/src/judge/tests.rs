//! `judge` by rules, with references from a table.

use serde_json::json;

use super::*;
use crate::table::testing::{rows, table};

fn verdicts(path: &std::path::Path) -> Vec<(String, Value)> {
    let verdict = |row: &Row| (row["verdict"].as_str().unwrap().to_owned(), row["match"].clone());
    rows(path).iter().map(verdict).collect()
}

#[test]
fn rules_decide_and_non_verdicts_follow_the_policy() {
    let dir = tempfile::tempdir().unwrap();
    let responses = json!([
        { "id": "a", "response": "<think>x</think>\\boxed{5}" },
        { "id": "b", "response": "\\boxed{6}" },
        { "id": "c", "response": "<think>\\boxed{5}" },
        { "id": "d", "response": null },
    ]);
    let references = json!([
        { "id": "d", "answer": "5" }, { "id": "c", "answer": "5" }, { "id": "b", "answer": "5" }, { "id": "a", "answer": "5" },
    ]);
    let mut cx = TaskCx::for_test(dir.path())
        .input("responses", table(dir.path().join("responses"), responses))
        .input("references", table(dir.path().join("references"), references))
        .build()
        .unwrap();
    let run = |params: Value, cx: &mut TaskCx| {
        Judge::run(&serde_json::from_value(params).unwrap(), cx).unwrap();
        verdicts(&cx.output("judged"))
    };
    let expected = |last: Value| {
        [("match", json!(true)), ("mismatch", json!(false)), ("no_answer", json!(false)), ("error", last)]
            .map(|(verdict, is_match)| (verdict.to_owned(), is_match))
    };
    assert_eq!(run(json!({ "by": "rules" }), &mut cx), expected(Value::Null));
    assert_eq!(
        run(json!({ "by": "rules", "without_verdict": "count_as_mismatch" }), &mut cx),
        expected(json!(false))
    );
    assert_eq!(cx.metrics()["verdicts"], json!({ "match": 1, "mismatch": 1, "no_answer": 1, "error": 1 }));
}
