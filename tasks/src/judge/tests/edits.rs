//! An edit pays for what it changes, and for nothing else.

use super::*;

#[test]
fn edits_ask_exactly_what_they_must() {
    let server = Server::start(|question| match question.reference.as_str() {
        "3" => say("They are equivalent."),
        _ => say(if question.holds() { "**MATCH**" } else { "**MISMATCH**" }),
    });
    let rows = json!([
        { "id": "a", "response": "<think>hm</think>\\boxed{1}", "answer": "1", "right": true },
        { "id": "b", "response": "<think>hm</think>\\boxed{1}", "answer": "2", "right": false },
        { "id": "c", "response": "\\boxed{1}", "answer": "3", "right": null },
        { "id": "d", "response": "one more \\boxed{4}", "answer": "4", "right": true },
    ]);
    let mut bench = Bench::of_rows(&server, rows);
    let calls = |bench: &Bench, params: Value| {
        bench.judge(&params).unwrap();
        server.asked().len()
    };
    assert_eq!(calls(&bench, json!({})), 4);
    for (what, params) in [
        ("a second run", json!({})),
        ("the parser", json!({ "synonyms": true })),
        ("the policy", json!({ "without_verdict": "count_as_mismatch" })),
        ("a label", json!({ "label": "right" })),
        (
            "thresholds",
            json!({ "max_without_verdict": 0.25, "max_control_false_match": 0, "min_control_true_match": 1 }),
        ),
        ("the rules", json!({ "grading": { "last_number": true } })),
        ("more shortcuts", json!({ "shortcuts": ["exact", "rules"] })),
    ] {
        assert_eq!(calls(&bench, params), 0, "{what}");
    }
    assert_eq!(
        calls(&bench, json!({ "part": "final" })),
        2,
        "two responses have thinking that is no longer shown"
    );
    assert_eq!(calls(&bench, json!({ "part": { "last_words": 2 } })), 1, "one has more than two words");
    assert_eq!(calls(&bench, json!({ "part": { "last_words": 3 } })), 0);
    assert_eq!(calls(&bench, json!({ "retries": 1 })), 1, "one has no verdict");
    assert_eq!(calls(&bench, json!({ "retries": 1, "synonyms": true })), 0);
    assert_eq!(calls(&bench, json!({ "temperature": 0.7 })), 4);

    let prompt = bench.dir.path().join("prompt.md");
    std::fs::write(&prompt, "Say **MATCH** or **MISMATCH**.").unwrap();
    bench.prompt = Some(prompt);
    bench.judge(&json!({ "prompt_file": "prompt.md" })).unwrap();
    let asked = server.asked();
    assert_eq!(asked.len(), 4, "another prompt asks everything");
    assert!(asked.iter().all(|question| question.prompt == "Say **MATCH** or **MISMATCH**."));
    bench.prompt = None;
    assert_eq!(calls(&bench, json!({})), 0, "and back again nothing");
}
