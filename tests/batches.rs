//! Asking by a provider's batch API: every request is paid for once, however the run is stopped, and what the provider says of
//! each is a record or a failure by its kind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Stdio;
use std::sync::Arc;

use serde_json::Value;

use crate::mock::batch::{Batches, Ending, LineFault};
use crate::mock::{Behaviour, Mock};
use crate::store;
use crate::support::{Sandbox, kill, wait_until};

const ROWS: u64 = 20;

/// Twenty problems, at most eight in one batch: three batches.
const FILE: &str = r"
name: batched
nodes:
  problems: { task: dataset, with: { source: { path: problems.jsonl } } }
  answers:
    task: sample
    inputs: { prompts: problems }
    with: { model: { backend: openai, name: solver }, max_tokens: 64 }
    run: { base_url: $(env:SERVER), batch: { poll: 0.05, requests: 8 }, allow_failed: 1 }
";

fn solve(asked: &str) -> String {
    format!("It is \\boxed{{{}}}.", asked.len())
}

struct Provider {
    batches: Arc<Batches>,
    mock: Mock,
}

impl Provider {
    fn of(batches: Batches) -> Self {
        let batches = Arc::new(batches);
        Self { mock: Mock::start(Behaviour::of(solve).batching(&batches)), batches }
    }

    /// The exit code of a run, and what it says.
    fn run(&self, sandbox: &Sandbox) -> (Option<i32>, String) {
        let output = sandbox.command(&["run", "b.yaml"]).env("SERVER", self.mock.address()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Every row's key, with the kind of its failure if it has one.
    fn rows(&self, sandbox: &Sandbox) -> BTreeMap<String, Option<String>> {
        let mut command = sandbox.command(&["show", "b.yaml", "answers", "--json", "--head", "1000"]);
        let shown = command.env("SERVER", self.mock.address()).output().unwrap();
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        let row = |row: &Value| {
            let kind = row["error"].as_str().map(|error| error.split(':').next().unwrap().to_owned());
            assert_eq!(row["response"].is_null(), kind.is_some(), "no failure is an empty success: {row}");
            (row["record_key"].as_str().unwrap().to_owned(), kind)
        };
        shown["content"]["rows"].as_array().unwrap().iter().map(row).collect()
    }

    /// What was billed, by key.
    fn billed(&self) -> BTreeMap<String, u64> {
        self.mock.ledger().all().into_iter().map(|(key, entry)| (key, entry.billed)).collect()
    }

    fn assert_each_billed_once(&self) {
        let billed = self.billed();
        assert!(billed.len() as u64 == ROWS && billed.values().all(|times| *times == 1), "{billed:?}");
    }
}

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("b.yaml", FILE);
    let row = |n: u64| {
        serde_json::json!({ "id": format!("p{n}"), "problem": format!("problem {}", n * 7919) }).to_string()
            + "\n"
    };
    sandbox.write("problems.jsonl", &(0..ROWS).map(row).collect::<String>());
    sandbox
}

#[test]
fn batches_are_asked_for_once_and_share_their_records_with_single_requests() {
    let (provider, sandbox) = (Provider::of(Batches::default()), sandbox());
    let (code, stderr) = provider.run(&sandbox);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(provider.batches.made(), 3);
    provider.assert_each_billed_once();
    assert!(provider.rows(&sandbox).values().all(Option::is_none));
    // The same asked one by one, in another experiment: everything is there.
    let single = FILE.replace("batch: { poll: 0.05, requests: 8 }, ", "").replace("batched", "single");
    sandbox.write("b.yaml", &single.replace("max_tokens: 64 }", "max_tokens: 64, repeats: 2 }"));
    let (code, stderr) = provider.run(&sandbox);
    assert!(code == Some(0) && stderr.contains("20 records made, 20 reused"), "{code:?} {stderr}");
    assert_eq!(provider.billed().values().sum::<u64>(), 2 * ROWS);
}

/// One request in four goes well; what becomes of the others follows from their keys.
fn draw(key: &str) -> Option<LineFault> {
    match u8::from_str_radix(&key[..2], 16).unwrap() % 8 {
        0 => Some(LineFault::Status(400)),
        1 => Some(LineFault::Status(429)),
        2 => Some(LineFault::Expired),
        3 => Some(LineFault::Missing),
        4 => Some(LineFault::HalfLine),
        5 => Some(LineFault::NoChoices),
        _ => None,
    }
}

fn kind(fault: LineFault) -> &'static str {
    match fault {
        LineFault::Status(429) => "rate_limit",
        LineFault::Status(_) => "refused",
        LineFault::Expired => "expired",
        LineFault::Missing | LineFault::HalfLine | LineFault::NoChoices => "malformed",
    }
}

#[test]
fn batches_whose_requests_fail_give_every_failure_by_its_kind() {
    let (provider, sandbox) = (Provider::of(Batches::failing(Ending::Completed, draw)), sandbox());
    let (code, stderr) = provider.run(&sandbox);
    assert_eq!(code, Some(0), "{stderr}");
    let rows = provider.rows(&sandbox);
    assert_eq!(rows.len() as u64, ROWS);
    for (key, failure) in &rows {
        assert_eq!(failure.as_deref(), draw(key).map(kind), "{key}");
    }
    let kinds: BTreeSet<_> = rows.values().flatten().collect();
    assert!(kinds.len() == 4 && rows.values().any(Option::is_none), "{kinds:?}");
    // The next run owes the failed ones and nothing else.
    let before = provider.billed();
    provider.run(&sandbox);
    for (key, billed) in provider.billed() {
        let is_billed_when_it_fails = matches!(draw(&key), Some(LineFault::HalfLine | LineFault::NoChoices));
        assert_eq!(billed - before[&key], u64::from(is_billed_when_it_fails), "{key}");
    }
}

#[test]
fn batches_that_end_early_fail_as_a_whole() {
    for (ending, kind) in
        [(Ending::Failed, "refused"), (Ending::Expired, "expired"), (Ending::Cancelled, "cancelled")]
    {
        let batches = Batches::failing(ending, |_| Some(LineFault::Missing));
        let (provider, sandbox) = (Provider::of(batches), sandbox());
        let (code, stderr) = provider.run(&sandbox);
        assert!(code == Some(0) && stderr.contains(&format!("20 {kind} (")), "{code:?} {stderr}");
        assert!(provider.rows(&sandbox).values().all(|failure| failure.as_deref() == Some(kind)));
        assert!(ending != Ending::Failed || stderr.contains("token_limit_exceeded"), "{stderr}");
    }
}

/// Starts a run, sends it `signal` once `is_time`, and gives its exit code.
fn stop(provider: &Provider, sandbox: &Sandbox, signal: i32, is_time: impl Fn() -> bool) -> Option<i32> {
    let mut command = sandbox.command(&["run", "b.yaml"]);
    command.env("SERVER", provider.mock.address()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    wait_until("it is time to stop the run", is_time);
    kill(&child, signal);
    child.wait().unwrap().code()
}

/// How many batches are known to the store.
fn known(sandbox: &Sandbox) -> usize {
    fn count(folder: &std::path::Path) -> usize {
        let paths = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
        let known = |path: std::path::PathBuf| {
            if path.is_dir() {
                return count(&path);
            }
            let is_state = path.extension().is_some_and(|ending| ending == "json");
            usize::from(is_state && fs::read_to_string(&path).unwrap_or_default().contains("batch_"))
        };
        paths.map(known).sum()
    }
    count(&sandbox.path(".dag/scratch"))
}

#[test]
fn batches_go_on_after_a_kill_and_after_an_interrupt() {
    let (provider, sandbox) = (Provider::of(Batches::held()), sandbox());
    stop(&provider, &sandbox, libc::SIGKILL, || known(&sandbox) == 3);
    let looks = || {
        let heads = provider.mock.ledger().heads();
        heads.iter().filter(|head| head.starts_with("GET /v1/batches/batch_2 ")).count()
    };
    let before = looks();
    let code = stop(&provider, &sandbox, libc::SIGINT, || looks() > before);
    assert_eq!(code, Some(130));
    assert_eq!((provider.batches.made(), known(&sandbox)), (3, 3), "they are left at the provider");
    provider.batches.mend();
    let (code, stderr) = provider.run(&sandbox);
    assert!(code == Some(0) && !stderr.contains("sent again"), "{code:?} {stderr}");
    assert_eq!(provider.batches.made(), 3);
    provider.assert_each_billed_once();
    assert!(store::logged(&sandbox.path(".dag")).values().all(|times| *times == 1));
}

#[test]
fn batches_that_were_made_when_nobody_was_told_are_found() {
    let (provider, sandbox) = (Provider::of(Batches::silent()), sandbox());
    stop(&provider, &sandbox, libc::SIGKILL, || provider.batches.made() == 1);
    assert_eq!(known(&sandbox), 0);
    provider.batches.mend();
    let (code, stderr) = provider.run(&sandbox);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(provider.batches.made(), 3);
    provider.assert_each_billed_once();
}

#[test]
fn batches_whose_making_is_not_answered_are_looked_for_before_they_are_made_again() {
    let (provider, sandbox) = (Provider::of(Batches::silent()), sandbox());
    sandbox.write("b.yaml", &FILE.replace("allow_failed", "request_timeout: 0.5, allow_failed"));
    let (code, stderr) = provider.run(&sandbox);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(provider.batches.made(), 3);
    provider.assert_each_billed_once();
}

#[test]
fn batches_under_way_are_not_asked_for_at_another_address() {
    let (provider, other, sandbox) =
        (Provider::of(Batches::held()), Provider::of(Batches::default()), sandbox());
    stop(&provider, &sandbox, libc::SIGKILL, || known(&sandbox) == 3);
    let (code, stderr) = other.run(&sandbox);
    assert!(code == Some(1) && stderr.contains("a batch is under way at"), "{code:?} {stderr}");
    assert_eq!(other.batches.made(), 0);
}
