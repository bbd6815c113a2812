//! Responses by a provider's batches: the records of the same node asked one by one, submitted once whatever happens.

use std::process::Stdio;

use serde_json::Value;

use crate::mock::{Behaviour, Fault, Mock};
use crate::support::{Ran, Sandbox, kill, wait_until};

const ROWS: u64 = 40;

const FILE: &str = r"
name: batch
nodes:
  problems: { task: dataset, with: { source: { path: problems.jsonl } } }
  answers:
    task: sample
    inputs: { prompts: problems }
    with: { model: { backend: openai, name: solver }, max_tokens: 64, repeats: 2 }
    run: { base_url: SERVER, allow_failed: 1, OPTIONS }
";

fn solve(asked: &str) -> String {
    format!("To {asked} it is \\boxed{{{}}}.", asked.len())
}

fn sandbox(server: &Mock, options: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("batch.yaml", &FILE.replace("SERVER", server.address()).replace("OPTIONS", options));
    let row = |n: u64| format!("{{\"id\":\"p{n}\",\"problem\":\"problem {n}\"}}\n");
    sandbox.write("problems.jsonl", &(0..ROWS).map(row).collect::<String>());
    sandbox
}

fn rows(sandbox: &Sandbox) -> Vec<Value> {
    let shown =
        sandbox.command(&["show", "batch.yaml", "answers", "--json", "--head", "1000"]).output().unwrap();
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    shown["content"]["rows"].as_array().unwrap().clone()
}

fn summary(ran: &Ran) -> &str {
    ran.stderr.lines().find(|line| line.starts_with("2 nodes")).unwrap_or_default()
}

const QUICK: &str = "batch: { poll: 0.02 }";

#[test]
fn batches_give_the_records_that_single_requests_give() {
    let (one_by_one, by_batch) = (Mock::start(Behaviour::of(solve)), Mock::start(Behaviour::of(solve)));
    let single = sandbox(&one_by_one, "concurrency: 4");
    single.dag(&["run", "batch.yaml"]).expect(0);
    let batched = sandbox(&by_batch, QUICK);
    batched.dag(&["run", "batch.yaml"]).expect(0);
    assert_eq!(rows(&batched), rows(&single));
    assert_eq!((by_batch.batches().submitted(), by_batch.calls()), (1, 2 * ROWS));
    // What a batch has brought is asked of nobody again, by any way.
    batched.write(
        "batch.yaml",
        &batched.read("batch.yaml").replace(QUICK, "concurrency: 4").replace("repeats: 2", "repeats: 3"),
    );
    batched.dag(&["run", "batch.yaml"]).expect(0);
    assert_eq!(by_batch.calls(), 3 * ROWS);
}

#[test]
fn what_fails_in_a_batch_is_a_failure_of_its_kind_and_owed() {
    let faults = |key: &str| match key.as_bytes()[0] {
        b'0' => vec![Fault::Status(400)],
        b'1' => vec![Fault::Status(500)],
        b'2' => vec![Fault::Silence],
        b'3' => vec![Fault::NotJson],
        b'4' => vec![Fault::HalfBody],
        _ => Vec::new(),
    };
    let server = Mock::start(Behaviour::of(solve).failing(faults));
    let sandbox = sandbox(&server, QUICK);
    let ran = sandbox.dag(&["run", "batch.yaml"]).expect(0);
    let mut failed = 0;
    for row in rows(&sandbox) {
        let key = row["record_key"].as_str().unwrap();
        let kind = match key.as_bytes()[0] {
            b'0' => Some("refused"),
            b'1' => Some("server"),
            b'2' => Some("timeout"),
            b'3' | b'4' => Some("malformed"),
            _ => None,
        };
        assert_eq!(row["error"].as_str(), kind, "{row}");
        failed += u64::from(kind.is_some());
    }
    assert!(failed > 10 && summary(&ran).starts_with("2 nodes: 2 ran"), "{}", ran.stderr);
    sandbox.dag(&["run", "batch.yaml"]).expect(0);
    assert_eq!(
        server.ledger().all().values().map(|entry| entry.arrivals.len() as u64).sum::<u64>(),
        2 * ROWS + failed
    );
    assert!(server.ledger().all().values().all(|entry| entry.billed <= 1));
}

/// Stops a run while its batch is under way, then lets the batch be done and runs again.
fn stop_and_resume(signal: i32, code: Option<i32>) {
    let server = Mock::start(Behaviour::of(solve));
    server.batches().hold();
    let sandbox = sandbox(&server, QUICK);
    let mut child = sandbox.command(&["run", "batch.yaml"]).stderr(Stdio::null()).spawn().unwrap();
    wait_until("a batch is submitted", || server.batches().submitted() == 1);
    kill(&child, signal);
    assert_eq!(child.wait().unwrap().code(), code);
    let mut child = sandbox.command(&["run", "batch.yaml"]).stderr(Stdio::null()).spawn().unwrap();
    server.batches().release();
    assert!(child.wait().unwrap().success());
    assert_eq!((server.batches().submitted(), server.calls()), (1, 2 * ROWS), "submitted and billed once");
    assert!(rows(&sandbox).iter().all(|row| row["response"].is_string()));
}

#[test]
fn an_interrupted_run_leaves_its_batch_and_the_next_one_takes_it_up() {
    stop_and_resume(libc::SIGINT, Some(130));
}

#[test]
fn a_killed_run_does_not_submit_its_batch_again() {
    // At whatever instant: between the file and the batch, or after both.
    for _ in 0..3 {
        stop_and_resume(libc::SIGKILL, None);
    }
}
