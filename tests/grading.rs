//! `dag grade`: one answer, a file of them, and what is said of cases that cannot be read.

use std::fmt::Write as _;
use std::time::Instant;

use serde_json::Value;

use crate::support::{Sandbox, shared};

#[test]
fn a_verdict_and_its_rule_whatever_the_exit_code() {
    let sandbox = Sandbox::new();
    let grade = |gold: &str, prediction: &str| sandbox.dag(&["grade", gold, prediction]).expect(0).stdout;
    assert_eq!(grade(r"\frac{1}{2}", r"<think>1</think>So \boxed{0.5}."), "correct  number\n");
    assert_eq!(grade("2", "3"), "incorrect  number\n");
    assert_eq!(grade("-3", "-3"), "correct  number\n");
    assert_eq!(grade("2", "<think>2"), "no_answer  none\n");
    assert!(!sandbox.path(".dag").exists(), "grading needs no store");
}

#[test]
fn explain_says_what_was_found_and_what_decided() {
    let sandbox = Sandbox::new();
    let response = r"First \boxed{3}. But then it is \boxed{x \ge 2}.";
    insta::assert_snapshot!(sandbox.dag(&["grade", r"[2,\infty)", response, "--explain"]).expect(0).stdout, @r"
    correct  tuple
      gold        [2,\infty)   tuple or interval: [2, ∞)
      prediction  x \ge 2   tuple or interval: [2, ∞)
      found       boxed, the last of 2 boxes
      decided     Tuples and intervals, their brackets included
    ");
    let told = sandbox.dag(&["grade", "1/2", "0.5", "--json"]).expect(0).json();
    assert_eq!((&told["verdict"], &told["rung"]), (&"correct".into(), &"bare".into()), "{told}");
}

#[test]
fn policies_are_fields_of_grading() {
    let sandbox = Sandbox::new();
    let grade = |policy: &str| sandbox.dag(&["grade", "50", "50%", "--policy", policy]).expect(0).stdout;
    assert_eq!(grade("percent=unit"), "correct  number\n");
    assert_eq!(grade("percent=factor"), "incorrect  number\n");
    assert_eq!(grade("{ percent: factor, last_number: false }"), "incorrect  number\n");
    sandbox.write("grading.yaml", "percent: factor\nmode: dag\n");
    assert_eq!(grade("grading.yaml"), "incorrect  number\n");
    let refused = sandbox.dag(&["grade", "1", "1", "--policy", "percents=unit"]).expect(2).stderr;
    assert!(refused.contains("unknown field `percents`"), "{refused}");
    let refused = sandbox.dag(&["grade", "1", "1", "--policy", "percent=half"]).expect(2).stderr;
    assert!(refused.contains("at `percent`") && refused.contains("`factor`"), "{refused}");
    let nemo = ["grade", "16", "016", "--policy", "mode=nemo-skills-2025-10"];
    assert_eq!(sandbox.dag(&nemo).expect(0).stdout, "incorrect  mode\n");
}

#[test]
fn a_file_of_cases_line_by_line() {
    let sandbox = Sandbox::new();
    let cases = r#"{"id": "a", "gold": "1/2", "prediction": "so \\boxed{0.5}"}

{"id": 7, "gold": 12, "prediction": "They need 13 of them."}
{"gold": "x", "prediction": null}
"#;
    sandbox.write("cases.jsonl", cases);
    let told = sandbox.dag(&["grade", "--file", "cases.jsonl", "--json"]).expect(0).stdout;
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let verdicts: Vec<_> = told.iter().map(|case| case["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["correct", "incorrect", "no_answer"]);
    assert_eq!((&told[0]["id"], &told[1]["id"], told[2].get("id")), (&"a".into(), &7.into(), None));
    let words = sandbox.dag(&["grade", "--file", "cases.jsonl"]).expect(0);
    assert_eq!(words.stdout, "correct  number  a\nincorrect  number  7\nno_answer  none  4\n");
    assert!(words.stderr.contains("3 graded: 1 correct, 1 incorrect, 1 no_answer"), "{}", words.stderr);
}

#[test]
fn a_line_that_is_no_case_is_named() {
    let sandbox = Sandbox::new();
    for (broken, why) in [
        ("{\"gold\": ", "this is no JSON"),
        ("[1]", "this is no object"),
        ("{\"gold\": \"1\"}", "there is no `prediction`"),
        ("{\"gold\": [1], \"prediction\": \"1\"}", "`gold` is neither a text nor a number"),
    ] {
        sandbox.write("cases.jsonl", &format!("{{\"gold\": \"1\", \"prediction\": \"1\"}}\n{broken}\n"));
        let refused = sandbox.dag(&["grade", "--file", "cases.jsonl"]).expect(2);
        assert!(refused.stderr.contains(&format!("cases.jsonl:2: {why}")), "{}", refused.stderr);
        assert_eq!(refused.stdout, "correct  number  1\n", "what came before is told");
    }
    assert!(sandbox.dag(&["grade", "--file", "none.jsonl"]).expect(2).stderr.contains("none.jsonl"));
    sandbox.dag(&["grade", "1"]).expect(2);
}

/// Tens of thousands of lines, of which none is held longer than needed.
#[test]
fn many_lines_take_seconds() {
    let sandbox = Sandbox::new();
    let cases = (0..30_000).fold(String::new(), |mut cases, n| {
        let _ = writeln!(
            cases,
            r#"{{"id": {n}, "gold": "{n}/7", "prediction": "\\boxed{{\\frac{{{n}}}{{7}}}}"}}"#
        );
        cases
    });
    sandbox.write("cases.jsonl", &cases);
    let begin = Instant::now();
    let told = sandbox.dag(&["grade", "--file", "cases.jsonl", "--json"]).expect(0).stdout;
    assert_eq!(told.lines().filter(|line| line.contains("\"correct\"")).count(), 30_000);
    assert!(begin.elapsed().as_secs() < 60, "{:?}", begin.elapsed());
}

#[test]
fn cases_of_other_graders_by_the_command() {
    let Some(path) = shared("data/grader/dev.jsonl") else { return };
    let sandbox = Sandbox::new();
    let told = sandbox.dag(&["grade", "--file", path.to_str().unwrap(), "--json"]).expect(0).stdout;
    let cases = std::fs::read_to_string(&path).unwrap();
    let (mut right, mut all) = (0, 0);
    for (case, told) in cases.lines().zip(told.lines()) {
        let (case, told): (Value, Value) =
            (serde_json::from_str(case).unwrap(), serde_json::from_str(told).unwrap());
        assert_eq!(case["id"], told["id"]);
        if case.get("contested").is_none() {
            all += 1;
            right += usize::from((told["verdict"] == "correct") == case["expected"]);
        }
    }
    assert!(right * 100 >= all * 97, "{right} of {all}");
}
