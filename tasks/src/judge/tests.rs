//! `judge` by rules, and by models on the loopback.

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::table::Row;
use crate::table::testing::{rows, table};

mod edits;
mod labelled;
mod server;

use server::{Server, say};

fn verdicts(path: &Path) -> Vec<(String, Value)> {
    let verdict = |row: &Row| (row["verdict"].as_str().unwrap().to_owned(), row["match"].clone());
    rows(path).iter().map(verdict).collect()
}

/// A folder with a table of responses and a store, judged as often as a test wants.
struct Bench {
    dir: tempfile::TempDir,
    run: Value,
    prompt: Option<std::path::PathBuf>,
}

impl Bench {
    /// `responses` as pairs of a response and its reference.
    fn new(server: &Server, responses: &[(&str, &str)]) -> Self {
        let row = |(number, (response, answer)): (usize, &(&str, &str))| json!({ "id": format!("p{number}"), "response": response, "answer": answer });
        Self::of_rows(server, json!(responses.iter().enumerate().map(row).collect::<Vec<_>>()))
    }

    fn of_rows(server: &Server, responses: Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        table(dir.path().join("responses"), responses);
        let run = json!({ "base_url": server.address, "concurrency": 4, "request_retries": 0 });
        Self { dir, run, prompt: None }
    }

    /// Judges by a model with no shortcuts, unless `params` say otherwise.
    fn judge(&self, params: &Value) -> Result<TaskCx, TaskError> {
        let mut all = json!({
            "by": "model", "model": { "backend": "openai", "name": "a-judge" }, "part": "whole", "shortcuts": [],
            "retries": 0, "max_without_verdict": 1.0,
        });
        all.as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
        let params: Params = serde_json::from_value(all).unwrap();
        assert_eq!(Judge::check(&params), []);
        let mut cx = TaskCx::for_test(self.dir.path())
            .input("responses", self.dir.path().join("responses"))
            .run(self.run.clone())
            .seed(17);
        if let Some(prompt) = &self.prompt {
            cx = cx.file("/prompt_file", prompt);
        }
        let mut cx = cx.build()?;
        Judge::run(&params, &mut cx)?;
        Ok(cx)
    }
}

/// The values of a column of the judged table.
fn column(cx: &TaskCx, name: &str) -> Vec<Value> {
    rows(&cx.output("judged")).into_iter().map(|row| row[name].clone()).collect()
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
    assert_eq!(column(&cx, "decided_by"), [json!("rules"), json!("rules"), json!("rules"), Value::Null]);
}

#[test]
fn every_category_is_told_apart() {
    let server = Server::start(|question| match question.reference.as_str() {
        "cut" => Some(("**MATCH** be".to_owned(), "length")),
        "both" => say("MATCH or MISMATCH"),
        "words" => say("I do not know."),
        "refused" => None,
        _ => say(if question.holds() { "**MATCH**" } else { "**MISMATCH**" }),
    });
    let responses = [
        ("\\boxed{1}", "1"),
        ("\\boxed{1}", "2"),
        ("<think>\\boxed{1}", "1"),
        ("\\boxed{1}", "cut"),
        ("\\boxed{1}", "both"),
        ("\\boxed{1}", "words"),
        ("\\boxed{1}", "refused"),
        ("exact", "exact"),
        ("It is \\boxed{1.0}.", "1"),
    ];
    let mut bench = Bench::new(&server, &responses);
    bench.run["allow_failed"] = json!(1.0);
    let params = json!({ "shortcuts": ["no_answer", "exact", "rules"] });
    let cx = bench.judge(&params).unwrap();
    let expected = [
        ("match", "rules", "shortcut"),
        ("mismatch", "bold", "judge"),
        ("no_answer", "no_answer", "shortcut"),
        ("truncated", "length", ""),
        ("ambiguous", "both", ""),
        ("unparsable", "nothing_found", ""),
        ("error", "failure", ""),
        ("match", "exact", "shortcut"),
        ("match", "rules", "shortcut"),
    ];
    let found: Vec<[Value; 3]> = rows(&cx.output("judged"))
        .into_iter()
        .map(|row| ["verdict", "rule", "decided_by"].map(|name| row[name].clone()))
        .collect();
    let text = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
    assert_eq!(found, expected.map(|(verdict, rule, by)| [verdict, rule, by].map(text)));
    assert_eq!((server.asked().len(), cx.owed_records()), (5, 1), "one was refused, and is owed");
    assert_eq!(cx.metrics()["without_verdict"], json!(4));
}

#[test]
fn too_many_without_a_verdict_fail_with_counts_and_a_next_step() {
    let server = Server::start(|question| match question.reference.as_str() {
        "2" => Some(("so **MATCH".to_owned(), "length")),
        "3" => say("Both are five, as it seems."),
        _ => say("**MATCH**"),
    });
    let responses: Vec<(&str, &str)> =
        ["1", "2", "3", "3", "1"].map(|reference| ("\\boxed{1}", reference)).into();
    let bench = Bench::new(&server, &responses);
    let error = bench.judge(&json!({ "max_without_verdict": 0.5 })).err().unwrap().to_string();
    assert_eq!(
        error,
        "3 of 5 responses have no verdict (2 unparsable, 1 truncated), more than `max_without_verdict` allows (0.5). \
         Most often it is unparsable, as of `p2`, where it says “Both are five, as it seems.”. Read what it says, then say \
         in a `prompt_file` how the verdict is written, or take `synonyms: true`; what the judge said is kept, and nothing \
         of it is asked again"
    );
    // Equal questions are one record: three different ones were asked, and all of them are kept.
    assert_eq!(server.asked().len(), 3);
    bench.judge(&json!({ "max_without_verdict": 0.6 })).unwrap();
    assert_eq!(server.asked(), []);
}

#[test]
fn a_retry_draws_with_another_seed() {
    let first = std::sync::Mutex::new(std::collections::BTreeSet::new());
    let server = Server::start(move |question| {
        let is_new = first.lock().unwrap().insert(question.answer.clone());
        say(if is_new && question.answer.contains('1') { "Hm." } else { "**MATCH**" })
    });
    let bench = Bench::new(&server, &[("\\boxed{1}", "1"), ("\\boxed{2}", "2")]);
    let cx = bench.judge(&json!({ "retries": 3 })).unwrap();
    assert_eq!(column(&cx, "judge_attempts"), [json!(2), json!(1)]);
    assert_eq!(column(&cx, "verdict"), [json!("match"), json!("match")]);
    let asked = server.asked();
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[0].answer, asked[1].answer);
    assert_ne!(asked[0].seed, asked[1].seed);
}

#[test]
fn what_the_first_judge_leaves_open_is_handed_over() {
    let first = Server::start(|question| match question.reference.as_str() {
        "open" | "hard" => say("Hm."),
        "refused" => None,
        _ => say("**MATCH**"),
    });
    let second =
        Server::start(|question| say(if question.reference == "open" { "**MISMATCH**" } else { "Hm." }));
    let responses = ["clear", "open", "hard", "refused"].map(|reference| ("\\boxed{1}", reference));
    let mut bench = Bench::new(&first, &responses);
    bench.run["allow_failed"] = json!(0.25);
    bench.run["second"] = json!({ "base_url": second.address, "request_retries": 0 });
    let cx = bench.judge(&json!({ "without_verdict": "count_as_mismatch" })).unwrap();
    assert_eq!(column(&cx, "match"), [true, false, false, false].map(Value::from));
    assert_eq!((first.asked().len(), second.asked().len()), (4, 0));

    let escalate =
        json!({ "escalate": { "model": { "backend": "openai", "name": "another" }, "retries": 1 } });
    let cx = bench.judge(&json!({ "without_verdict": escalate })).unwrap();
    assert_eq!(first.asked().len(), 1, "only what was refused is asked again");
    let asked: Vec<String> = second.asked().into_iter().map(|question| question.reference).collect();
    assert_eq!(asked, ["hard", "hard", "open"], "what the first judge owes is not handed over");
    assert_eq!(column(&cx, "verdict"), ["match", "mismatch", "unparsable", "error"].map(Value::from));
    assert_eq!(column(&cx, "match"), [json!(true), json!(false), Value::Null, Value::Null]);
    assert_eq!(column(&cx, "decided_by"), [json!("judge"), json!("second_judge"), Value::Null, Value::Null]);
    assert_eq!(column(&cx, "judge_attempts"), [1, 1, 2, 1].map(Value::from));
    assert_eq!((&cx.metrics()["escalated"], &cx.metrics()["records"]), (&json!(2), &json!(4)));
    assert_eq!(cx.owed_records(), 1);

    // Back to the other policy: nobody is asked but for what is owed.
    bench.judge(&json!({})).unwrap();
    assert_eq!((first.asked().len(), second.asked().len()), (1, 0));
}

#[test]
fn faults_name_the_place() {
    let faults = |params: Value| {
        let faults = Judge::check(&serde_json::from_value(params).unwrap());
        faults.into_iter().map(|fault| fault.pointer).collect::<Vec<_>>()
    };
    assert_eq!(faults(json!({ "by": "rules", "controls": 3 })), ["/controls"]);
    let given = json!({ "escalate": { "model": { "backend": "given", "name": "r1" }, "temperature": -1 } });
    assert_eq!(
        faults(json!({ "by": "model", "without_verdict": given })),
        ["/without_verdict/escalate/temperature", "/without_verdict/escalate/model"]
    );
    assert_eq!(faults(json!({ "by": "rules", "without_verdict": given })), ["/without_verdict"]);
    assert_eq!(
        faults(json!({ "by": "model", "part": { "last_words": 0 }, "min_control_true_match": 90 })),
        ["/min_control_true_match", "/part/last_words"]
    );
    assert!(serde_json::from_value::<Params>(json!({ "by": "model", "control": 3 })).is_err());

    let refused = |run: Value| serde_json::from_value::<JudgeRun>(run).err().unwrap().to_string();
    assert!(refused(json!({ "base": 1 })).contains("unknown field `base`"));
    assert!(refused(json!({ "second": { "base": 1 } })).starts_with("`second`: unknown field `base`"));
    let schema = schemars::schema_for!(JudgeRun).to_value();
    assert!(schema["properties"]["second"].is_object() && schema["properties"]["base_url"].is_object());
}

#[test]
fn an_embedded_second_judge_has_a_port() {
    let params = |second: Value| -> Params {
        serde_json::from_value(json!({
            "by": "model", "model": { "backend": "openai", "name": "a" }, "controls": 5, "without_verdict": { "escalate": second },
        }))
        .unwrap()
    };
    let ports = |params: &Params| format!("{:?}", Judge::ports(params));
    assert!(ports(&params(json!({}))).contains("second_model"));
    assert!(
        !ports(&params(json!({ "model": { "backend": "openai", "name": "b" } }))).contains("second_model")
    );
    assert!(Judge::uses_seed(&params(json!({}))));

    for (rows, records) in [(3, 9), (100, 110)] {
        let inputs = EstimateInputs::default().with_metric("responses", "rows", rows);
        let estimate = Judge::estimate(&params(json!({})), &inputs);
        assert_eq!(
            (estimate.records, estimate.calls, estimate.at_most),
            (Some(records), Some(2 * records), true)
        );
    }
}

/// Responses whose answers all differ, right in two of three.
fn sums(count: u32) -> Value {
    let row = |n: u32| json!({ "id": format!("p{n}"), "response": format!("It is \\boxed{{{}}}.", 100 + n + u32::from(n.is_multiple_of(3))), "answer": (100 + n).to_string() });
    json!((0..count).map(row).collect::<Vec<_>>())
}

#[test]
fn controls_of_a_judge_that_reads() {
    let server = Server::honest();
    let bench = Bench::of_rows(&server, sums(40));
    bench.judge(&json!({})).unwrap();
    assert_eq!(server.asked().len(), 40);

    let cx = bench.judge(&json!({ "controls": 10 })).unwrap();
    let asked = server.asked();
    assert_eq!(asked.len(), 20, "only the controls are asked");
    let controls = rows(&cx.output("controls"));
    for row in &controls {
        let kind = row["control"].as_str().unwrap();
        assert_eq!(row["match"], json!(kind == "own_reference"), "{row:?}");
        let is_own = row["answer"] == row["reference"];
        assert_eq!(is_own, kind == "own_reference");
    }
    let found = &cx.metrics()["controls"];
    assert_eq!((&found["asked"], &found["unpaired"]), (&json!(20), &json!(0)));
    assert_eq!((&found["false_match"]["count"], &found["false_match"]["of"]), (&json!(0), &json!(10)));
    assert_eq!((&found["true_match"]["count"], &found["true_match"]["of"]), (&json!(10), &json!(10)));
    // Wilson's interval of none of ten.
    assert!((found["false_match"]["high"].as_f64().unwrap() - 0.277_533).abs() < 1e-6);
    assert_eq!((&cx.metrics()["records"], &cx.metrics()["rows"]), (&json!(40), &json!(40)), "counted apart");

    // Five more ask for theirs, and leave the others as they were.
    let cx = bench.judge(&json!({ "controls": 15 })).unwrap();
    assert_eq!(server.asked().len(), 10);
    let more = rows(&cx.output("controls"));
    assert!(controls.iter().all(|row| more.contains(row)));
}

#[test]
fn a_judge_that_says_match_to_everything_is_stopped_before_it_judges() {
    let server = Server::start(|_| say("**MATCH**"));
    let bench = Bench::of_rows(&server, sums(60));
    let error = bench.judge(&json!({ "controls": 20 })).err().unwrap().to_string();
    assert!(
        error.starts_with(
            "the judge says MATCH to 20 of 20 responses that are shown with the reference of another row"
        ),
        "{error}"
    );
    assert!(
        error.contains("(95 % interval 83.9 to 100.0 %)") && error.contains("where it says “**MATCH**”"),
        "{error}"
    );
    assert_eq!(server.asked().len(), 40, "none of the sixty responses was judged");
    // Who wants it nevertheless pays for the responses alone.
    bench.judge(&json!({ "controls": 20, "max_control_false_match": 1.0 })).unwrap();
    assert_eq!(server.asked().len(), 60);
}

#[test]
fn a_judge_that_finds_no_match_fails_the_other_control() {
    let server = Server::start(|_| say("Unclear."));
    let bench = Bench::of_rows(&server, sums(20));
    let error = bench.judge(&json!({ "controls": 20 })).err().unwrap().to_string();
    assert!(
        error.starts_with("the judge says MATCH to 0 of 20 references that are their own answer"),
        "{error}"
    );
}

#[test]
fn no_control_shows_a_reference_that_its_row_may_reach() {
    let server = Server::honest();
    // Of equal value, equal text, reached by a wrong answer, or not understood and written alike.
    let responses = [
        ("\\boxed{5}", "5"),
        ("so \\boxed{5}", "5.0"),
        ("\\boxed{6}", "05"),
        ("then \\boxed{5}", "6"),
        ("\\boxed{x + y}", "x+y"),
        ("\\boxed{x+y}", "x  + Y"),
    ];
    let bench = Bench::new(&server, &responses);
    let cx = bench.judge(&json!({ "controls": 6, "min_control_true_match": 0 })).unwrap();
    for row in rows(&cx.output("controls")) {
        if row["control"] == json!("other_reference") {
            let is_number = |value: &Value| !value.as_str().unwrap().to_lowercase().contains('y');
            // Of two kinds, so that nothing can be equal; or the 6 that no response reaches, beside a 5, and the reverse.
            let kinds = [&row["answer"], &row["reference"]].map(is_number);
            let is_six =
                [&row["answer"], &row["reference"]].iter().any(|value| value.as_str().unwrap().contains('6'));
            assert!(kinds[0] != kinds[1] || is_six, "{row:?}");
        }
    }
    // A reference that two rows share is one trial.
    let found = &cx.metrics()["controls"];
    assert_eq!((&found["true_match"]["of"], &found["false_match"]["of"]), (&json!(6), &json!(6)));
    let same = Bench::new(&server, &[("\\boxed{5}", "5"), ("so \\boxed{5}", "5"), ("\\boxed{7}", "5")]);
    let cx = same.judge(&json!({ "controls": 3 })).unwrap();
    let found = &cx.metrics()["controls"];
    assert_eq!(
        (&found["unpaired"], &found["true_match"]["of"], &found["false_match"]["of"]),
        (&json!(3), &json!(1), &json!(0))
    );
}

#[test]
fn the_rules_stand_beside_the_model() {
    let server = Server::honest();
    let responses = [
        ("\\boxed{5}", "5"),
        ("\\boxed{5.0}", "5"), // the model does not know that these are equal
        ("\\boxed{6}", "5"),
        ("\\boxed{x \\perp y}", "5"),
        ("5", "5"), // and the rules find no answer
    ];
    let bench = Bench::new(&server, &responses);
    let cx = bench.judge(&json!({})).unwrap();
    assert_eq!(
        column(&cx, "verdict"),
        ["match", "mismatch", "mismatch", "mismatch", "match"].map(Value::from)
    );
    assert_eq!(
        column(&cx, "rules_verdict"),
        ["match", "match", "mismatch", "unparsable", "no_answer"].map(Value::from)
    );
    assert_eq!(column(&cx, "rules_rule"), ["number", "number", "number", "none", "none"].map(Value::from));
    assert_eq!(column(&cx, "disagrees"), [json!(false), json!(true), json!(false), Value::Null, json!(true)]);
    let agreement = &cx.metrics()["agreement"];
    assert_eq!((&agreement["agreed"]["count"], &agreement["agreed"]["of"]), (&json!(2), &json!(4)));
    assert_eq!(agreement["kappa"], json!(0.0), "each says match to two of four");
    let cx = bench.judge(&json!({ "shortcuts": ["rules"] })).unwrap();
    assert_eq!(column(&cx, "disagrees"), [Value::Null, Value::Null, json!(false), Value::Null, json!(true)]);
}
