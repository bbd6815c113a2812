//! What a run will cost, before and while it does: calls owed, dollars, a budget, a pilot; held against a server's ledger.

use serde_json::Value;

use crate::mock::{Behaviour, Mock};
use crate::support::{Ran, Sandbox};

const ROWS: u64 = 200;
/// Dollars per million tokens, so that a token of a response is a thousandth of a dollar.
const FILE: &str = r"
name: money
params: { temperature: 1.0 }
nodes:
  problems: { task: dataset, with: { source: { path: problems.jsonl } } }
  answers:
    task: sample
    inputs: { prompts: problems }
    with: { model: { backend: openai, name: solver }, max_tokens: 100, temperature: $(temperature) }
    run: { base_url: SERVER, concurrency: 4, price: { input: 0, output: 1000 } }
";

/// From 10 to 19 tokens of four letters, by the length of the question.
fn solve(asked: &str) -> String {
    "word".repeat(10 + asked.len() % 10)
}

fn sandbox(server: &Mock) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("money.yaml", &FILE.replace("SERVER", server.address()));
    let row = |n: u64| format!("{{\"id\":\"p{n}\",\"problem\":\"{n} {}\"}}\n", "x".repeat(n as usize % 10));
    sandbox.write("problems.jsonl", &(0..ROWS).map(row).collect::<String>());
    sandbox
}

fn estimate(sandbox: &Sandbox, set: &[&str]) -> Value {
    let arguments: Vec<&str> =
        ["plan", "money.yaml", "--json"].into_iter().chain(set.iter().copied()).collect();
    let plan = sandbox.dag(&arguments).expect(0).json();
    let nodes = plan["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["node"] == "answers").unwrap()["estimate"].clone()
}

/// What the table says that all responses cost.
fn cost(sandbox: &Sandbox) -> f64 {
    let shown = sandbox.dag(&["show", "money.yaml", "answers", "--json", "--head", "1000"]).expect(0).json();
    let rows = shown["content"]["rows"].as_array().unwrap();
    rows.iter().map(|row| row["output_tokens"].as_f64().unwrap() / 1e3).sum()
}

fn summary(ran: &Ran) -> &str {
    ran.stderr.lines().find(|line| line.starts_with("2 nodes")).unwrap_or_default()
}

#[test]
fn a_pilot_keeps_its_records_and_tells_what_all_would_cost() {
    let server = Mock::start(Behaviour::of(solve));
    let sandbox = sandbox(&server);
    let ran = sandbox.dag(&["run", "money.yaml", "--pilot", "50"]).expect(0);
    assert_eq!(server.calls(), 50, "{}", ran.stderr);
    assert!(ran.stdout.contains("150 calls") && ran.stdout.contains('$'), "{}", ran.stdout);
    let told = estimate(&sandbox, &[]);
    assert_eq!((&told["records"], &told["calls"]), (&Value::from(ROWS), &Value::from(150)), "{told}");
    assert!(told["at_most"].is_null(), "every input is settled: {told}");
    let ran = sandbox.dag(&["run", "money.yaml"]).expect(0);
    assert_eq!(server.calls(), ROWS, "the pilot's records are reused");
    assert!(
        summary(&ran).contains("50 reused") && summary(&ran).contains("spent; reuse saved $"),
        "{}",
        ran.stderr
    );
    // 150 calls of what the pilot told, within what it said it may be off by.
    let rest = cost(&sandbox) * 150.0 / ROWS as f64;
    let (usd, spread) = (told["usd"].as_f64().unwrap(), told["usd_spread"].as_f64().unwrap());
    assert!((usd - rest).abs() <= spread && spread < 0.2 * usd, "{usd} ± {spread} against {rest}");
    let told = estimate(&sandbox, &["--set", "temperature=0.5"]);
    assert_eq!(told["calls"], ROWS, "other sampling is other records");
    assert!(
        told["usd"].as_f64().is_some_and(|usd| (usd - cost(&sandbox)).abs() < 0.1),
        "but they cost alike: {told}"
    );
}

#[test]
fn a_budget_stops_a_run_before_it_is_exceeded_and_loses_nothing() {
    let server = Mock::start(Behaviour::of(solve));
    let sandbox = sandbox(&server);
    let ran = sandbox.dag(&["run", "money.yaml", "--budget", "1"]).expect(1);
    assert!(ran.stderr.contains("the budget of $1 does not hold another record"), "{}", ran.stderr);
    assert!(ran.stderr.contains("a larger `--budget`"), "{}", ran.stderr);
    let billed = server.calls();
    // A record costs from 0.010 to 0.019, and one of 0.1 is feared before any was seen.
    assert!((52..=100).contains(&billed), "{billed} for one dollar");
    let ran = sandbox.dag(&["run", "money.yaml", "--budget", "1"]).expect(1);
    let more = server.calls() - billed;
    assert!((52..=100).contains(&more), "a budget is that of one run: {more}; {}", ran.stderr);
    sandbox.dag(&["run", "money.yaml"]).expect(0);
    assert_eq!(server.calls(), ROWS, "nothing is paid twice");
    let ran = sandbox.dag(&["run", "money.yaml", "--budget", "nonsense"]).expect(2);
    assert!(ran.stderr.contains("an amount such as 12.50"), "{}", ran.stderr);
}
