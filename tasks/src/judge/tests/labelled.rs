//! How good verdicts are: against labels in either table, and the rules against real responses.

use super::*;

#[test]
fn verdicts_are_measured_against_labels_of_either_table() {
    let server = Server::honest();
    let responses = [
        ("\\boxed{5}", "5"),
        ("\\boxed{5.0}", "5"),
        ("\\boxed{6}", "5"),
        ("\\boxed{7}", "7"),
        ("\\boxed{8}", "8"),
    ];
    // The last label says that the reference is wrong; the fourth row has none.
    let labels = [json!(true), json!(true), json!(false), Value::Null, json!(false)];
    let rows = responses.iter().zip(&labels).enumerate().map(|(n, ((response, answer), label))| {
        json!({ "id": format!("p{n}"), "response": response, "answer": answer, "right": label })
    });
    let bench = Bench::of_rows(&server, json!(rows.collect::<Vec<_>>()));
    let cx = bench.judge(&json!({ "label": "right" })).unwrap();
    assert_eq!(column(&cx, LABEL), labels);
    let quality = &cx.metrics()["quality"];
    let counts = |of: &str, what: &str| {
        (quality[of][what]["count"].as_u64().unwrap(), quality[of][what]["of"].as_u64().unwrap())
    };
    assert_eq!(quality["model"]["labelled"], json!(4));
    assert_eq!((counts("model", "precision"), counts("model", "recall")), ((1, 2), (1, 2)));
    assert_eq!((counts("rules", "precision"), counts("rules", "recall")), ((2, 3), (2, 2)));
    assert_eq!((counts("verdicts", "accuracy"), counts("rules", "accuracy")), ((2, 4), (3, 4)));
    let interval = &quality["rules"]["precision"];
    let wilson = crate::stats::wilson(2, 3).unwrap();
    assert_eq!((&interval["low"], &interval["high"]), (&json!(wilson.low), &json!(wilson.high)));

    // Labels of the references, written as a CSV file has them.
    let dir = tempfile::tempdir().unwrap();
    let references = json!([
        { "id": "a", "answer": "5", "right": "True" }, { "id": "b", "answer": "6", "right": "false" },
    ]);
    let answers = json!([{ "id": "a", "response": "\\boxed{5}" }, { "id": "b", "response": "\\boxed{6}" }]);
    let judge = |params: Value| {
        let mut cx = TaskCx::for_test(dir.path())
            .input("responses", table(dir.path().join("answers"), answers.clone()))
            .input("references", table(dir.path().join("references"), references.clone()))
            .build()
            .unwrap();
        Judge::run(&serde_json::from_value(params).unwrap(), &mut cx).map(|()| cx)
    };
    let cx = judge(json!({ "by": "rules", "label": "right" })).unwrap();
    let quality = &cx.metrics()["quality"];
    assert_eq!(quality["verdicts"]["precision"]["share"], json!(0.5));
    assert!(quality.get("model").is_none(), "no model ran");
    let error = judge(json!({ "by": "rules", "label": "wrong" })).err().unwrap().to_string();
    assert!(error.contains("have the column `wrong`"), "{error}");
    let error = judge(json!({ "by": "rules", "label": "answer" })).err().unwrap().to_string();
    assert!(error.contains("references:1: the label in `answer` is true or false, not \"5\""), "{error}");
}

/// A file of the large real data, or `None`, said aloud, where there is none.
#[expect(clippy::disallowed_methods, reason = "the data lies where the caller of the tests says")]
fn shared(path: &str) -> Option<std::path::PathBuf> {
    let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let path = std::env::var("DAG_SHARED").map_or_else(|_| usual(), std::path::PathBuf::from).join(path);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: no `{}`; set DAG_SHARED to the folder that has it", path.display());
    None
}

/// The bar that docs/judge.md states.
#[test]
fn the_rules_hold_their_bar_on_labelled_responses() {
    let Some(path) = shared("data/judge/dev.jsonl") else { return };
    let text = std::fs::read_to_string(&path).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Some labels were made by comparing numbers, much as the rules do; those of others say more.
    let is_of_others = |row: &Value| row["label_by"].as_str().unwrap().starts_with("upstream");
    let of_others: Vec<Value> = rows.iter().filter(|row| is_of_others(row)).cloned().collect();
    // The responses, whether the last number may be the answer, and the right ones: those found at least, and all.
    for (rows, last_number, found, right) in [
        (&rows, false, 122, 226),
        (&rows, true, 225, 226),
        (&of_others, false, 66, 146),
        (&of_others, true, 146, 146),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut cx = TaskCx::for_test(dir.path())
            .input("responses", table(dir.path().join("responses"), json!(rows)))
            .build()
            .unwrap();
        let params = json!({
            "by": "rules", "reference": "gold", "label": "correct", "grading": { "last_number": last_number },
        });
        Judge::run(&serde_json::from_value(params).unwrap(), &mut cx).unwrap();
        let quality = &cx.metrics()["quality"]["verdicts"];
        assert_eq!(quality["labelled"], json!(rows.len()));
        assert_eq!(quality["false_match"], json!(0), "precision, the side that costs: {quality}");
        assert_eq!(quality["recall"]["of"], json!(right));
        assert!(quality["recall"]["count"].as_u64().unwrap() >= found, "{quality}");
    }
}
