//! Edits of an experiment, one by one: each asks models for exactly what it owes, and `dag plan` said so before.

use serde_json::{Value, json};

use crate::mock::{Behaviour, Mock, judge};
use crate::support::Sandbox;

const ROWS: u64 = 40;
const REPEATS: u64 = 2;

/// Responses from one model, judged by another; both behind servers.
const FILE: &str = r"
name: edits
seed: 11
params:
  temperature: 1.0
  repeats: 2
  revision: first
  synonyms: true
  server: SERVER
  concurrency: 8
nodes:
  problems: { task: dataset, with: { source: { path: problems.jsonl } } }
  answers:
    task: sample
    inputs: { prompts: problems }
    with:
      model: { backend: openai, name: solver, revision: $(revision) }
      temperature: $(temperature)
      repeats: $(repeats)
      max_tokens: 64
    run: { base_url: $(server), concurrency: $(concurrency) }
  judged:
    task: judge
    inputs: { responses: answers, references: problems }
    with:
      by: model
      model: { backend: openai, name: judge }
      prompt_file: prompt.md
      shortcuts: []
      synonyms: $(synonyms)
      retries: 0
      max_without_verdict: 1
    run: { base_url: $(server), concurrency: $(concurrency) }
";

/// Solves what it is asked, and judges what it is given; the same whatever the sampling, so that only keys decide.
fn solve(asked: &str) -> String {
    if asked.contains("<CORRECT_ANSWER>") {
        return judge(asked);
    }
    format!("To {asked} it is \\boxed{{{}}}.", asked.len())
}

fn row(n: u64) -> String {
    let problem = format!("problem {} {n}", "x".repeat(n as usize % 7));
    json!({ "id": format!("p{n}"), "problem": problem, "answer": problem.len() }).to_string() + "\n"
}

fn sandbox(server: &Mock) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("edits.yaml", &FILE.replace("SERVER", server.address()));
    sandbox.write("problems.jsonl", &(0..ROWS).map(row).collect::<String>());
    sandbox.write("prompt.md", "Say **MATCH** or **MISMATCH**.\n");
    sandbox
}

/// What `dag plan` says of a node: its calls, and whether they are only the most there can be.
fn planned(plan: &Value, node: &str) -> (u64, bool) {
    let nodes = plan["nodes"].as_array().unwrap();
    let line = nodes.iter().find(|line| line["node"] == node).unwrap();
    if line["decision"] == "hit" {
        return (0, false);
    }
    let estimate = &line["estimate"];
    (estimate["calls"].as_u64().unwrap_or_else(|| panic!("{line}")), estimate["at_most"] == true)
}

/// Applies an edit to an experiment that has run, plans, runs, and compares both with what is owed: responses, and
/// verdicts. `settled`: of which of the two the plan knows exactly.
#[track_caller]
fn owes(edit: impl Fn(&Sandbox) -> Vec<&'static str>, owed: [u64; 2], settled: [bool; 2]) {
    let server = Mock::start(Behaviour::of(solve));
    let sandbox = sandbox(&server);
    sandbox.dag(&["run", "edits.yaml"]).expect(0);
    // Two repeats of one problem read alike here, and are one question to the judge.
    assert_eq!(server.calls(), ROWS * REPEATS + ROWS);
    let set = edit(&sandbox);
    let with = |command: &[&str]| {
        let set = set.iter().flat_map(|set| ["--set", *set]);
        let arguments: Vec<String> = command.iter().copied().chain(set).map(str::to_owned).collect();
        sandbox.dag(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).expect(0)
    };
    let plan = with(&["plan", "edits.yaml", "--json"]).json();
    let before = server.calls();
    with(&["run", "edits.yaml"]);
    let made = server.calls() - before;
    assert_eq!(made, owed[0] + owed[1], "calls made, and calls owed");
    for ((node, owed), settled) in ["answers", "judged"].into_iter().zip(owed).zip(settled) {
        let (calls, at_most) = planned(&plan, node);
        assert_eq!(at_most, !settled, "`{node}` of {plan}");
        assert!(
            if at_most { calls >= owed } else { calls == owed },
            "`{node}`: {calls} planned, {owed} owed"
        );
    }
    with(&["run", "edits.yaml"]);
    assert_eq!(server.calls() - before, made, "a second time there is nothing to ask");
}

#[test]
fn edit_matrix_parser() {
    owes(|_| vec!["synonyms=false"], [0, 0], [true, true]);
}

#[test]
fn edit_matrix_judge_prompt() {
    let edit = |sandbox: &Sandbox| {
        sandbox.write("prompt.md", "Is it right? Say **MATCH** or **MISMATCH**.\n");
        Vec::new()
    };
    owes(edit, [0, ROWS], [true, true]);
}

#[test]
fn edit_matrix_temperature() {
    owes(|_| vec!["temperature=0.5"], [ROWS * REPEATS, 0], [true, false]);
}

#[test]
fn edit_matrix_repeats() {
    owes(|_| vec!["repeats=3"], [ROWS, 0], [true, false]);
    owes(|_| vec!["repeats=1"], [0, 0], [true, false]);
}

#[test]
fn edit_matrix_five_percent_of_rows() {
    let edit = |sandbox: &Sandbox| {
        let changed = |n: u64| if n % 20 == 7 { row(n + 1000) } else { row(n) };
        sandbox.write("problems.jsonl", &(0..ROWS).map(changed).collect::<String>());
        Vec::new()
    };
    owes(edit, [2 * REPEATS, 2], [false, false]);
}

#[test]
fn edit_matrix_order_of_rows() {
    let edit = |sandbox: &Sandbox| {
        sandbox.write("problems.jsonl", &(0..ROWS).rev().map(row).collect::<String>());
        Vec::new()
    };
    owes(edit, [0, 0], [false, false]);
}

#[test]
fn edit_matrix_model_revision() {
    owes(|_| vec!["revision=second"], [ROWS * REPEATS, 0], [true, false]);
}

#[test]
fn edit_matrix_endpoint() {
    // Nobody listens there, and nobody is asked.
    owes(|_| vec!["server=http://127.0.0.1:9/v1"], [0, 0], [true, true]);
}

#[test]
fn edit_matrix_concurrency() {
    owes(|_| vec!["concurrency=3"], [0, 0], [true, true]);
}
