//! Data on a hub through the built `dag`: a branch that moves, a hub that is silent, and a token that nobody else hears.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use serde_json::Value;

use crate::hub_server::HubServer;
use crate::support::{Ran, Sandbox};

const REPOSITORY: &str = "datasets/some/problems";
const CANARY: &str = "hf_canary_0123456789";

const EXPERIMENT: &str = r#"
name: fetched
nodes:
  fetched:
    task: dataset
    with: { source: { path: "hf://some/problems", split: test } }
  easy:
    task: dataset
    with: { source: { rows: [{ id: a, problem: "1+1", answer: "2" }] } }
  short:
    task: filter
    inputs: { rows: fetched }
    with: { keep: "problem != 'long'" }
"#;

fn dag(sandbox: &Sandbox, endpoint: &str, arguments: &[&str]) -> Ran {
    sandbox.dag_with(arguments, &[("HF_ENDPOINT", endpoint), ("HF_TOKEN", CANARY)])
}

/// What `dag plan` decides about each node, as `name:decision`.
fn decisions(ran: &Ran) -> Vec<String> {
    let plan = ran.json();
    let nodes = plan["nodes"].as_array().unwrap().iter();
    nodes
        .map(|node| format!("{}:{}", node["node"].as_str().unwrap(), node["decision"].as_str().unwrap()))
        .collect()
}

#[test]
fn a_branch_that_moves_makes_its_data_set_run_again() {
    let sandbox = Sandbox::new();
    sandbox.write("fetched.yaml", EXPERIMENT);
    let server = HubServer::start();
    let row = |problem: &str| format!("{{\"id\": \"{problem}\", \"problem\": \"{problem}\"}}\n");
    let rows = row("one") + &row("two");
    let first = server.push(REPOSITORY, "main", &[("test.jsonl", rows.as_bytes())]);
    dag(&sandbox, server.endpoint(), &["run", "fetched.yaml"]).expect(0);
    let plan = dag(&sandbox, server.endpoint(), &["plan", "fetched.yaml", "--json"]).expect(0);
    assert_eq!(decisions(&plan), ["fetched:hit", "easy:hit", "short:hit"]);

    // Another commit with the same rows: the data set runs again, and nothing that reads it.
    let second = server.push(REPOSITORY, "main", &[("test.jsonl", rows.as_bytes()), ("NOTES.md", b"new")]);
    let plan = dag(&sandbox, server.endpoint(), &["plan", "fetched.yaml", "--json"]).expect(0);
    assert_eq!(decisions(&plan), ["fetched:run", "easy:hit", "short:unsettled"]);
    let explained =
        dag(&sandbox, server.endpoint(), &["explain", "fetched.yaml", "fetched"]).expect(0).stdout;
    let line = format!(
        "content changed (`source.path`): hf://datasets/some/problems@{first} → hf://datasets/some/problems@{second}"
    );
    assert!(explained.contains(&line), "{explained}");
    let ran = dag(&sandbox, server.endpoint(), &["run", "fetched.yaml"]).expect(0);
    assert!(ran.stderr.contains("3 nodes: 1 ran, 2 up to date"), "{}", ran.stderr);

    // Another row: what depends on it runs, too.
    let rows = rows + &row("three");
    server.push(REPOSITORY, "main", &[("test.jsonl", rows.as_bytes())]);
    let ran = dag(&sandbox, server.endpoint(), &["run", "fetched.yaml"]).expect(0);
    assert!(ran.stderr.contains("3 nodes: 2 ran, 1 up to date"), "{}", ran.stderr);

    // The commit of then is what it was, and how the revision is written is in no key.
    sandbox.write(
        "fetched.yaml",
        &EXPERIMENT.replace("split: test", &format!("split: test, revision: {second}")),
    );
    let plan = dag(&sandbox, server.endpoint(), &["plan", "fetched.yaml", "--json"]).expect(0);
    assert_eq!(decisions(&plan), ["fetched:hit", "easy:hit", "short:hit"]);
}

#[test]
fn a_silent_hub_stops_only_what_needs_it() {
    let sandbox = Sandbox::new();
    sandbox.write("fetched.yaml", EXPERIMENT);
    let silent = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let plan = dag(&sandbox, &silent, &["plan", "fetched.yaml", "--json"]).expect(0);
    assert_eq!(decisions(&plan), ["fetched:run", "easy:run", "short:unsettled"]);
    let missing = &plan.json()["missing"][0];
    assert_eq!(missing["nodes"], serde_json::json!(["fetched"]));
    let what = missing["what"].as_str().unwrap();
    assert!(
        what.starts_with(&format!("the data set `some/problems` at `main`: {silent} cannot be reached")),
        "{what}"
    );
    dag(&sandbox, &silent, &["run", "fetched.yaml", "easy"]).expect(0);
    let refused = dag(&sandbox, &silent, &["run", "fetched.yaml"]).expect(2);
    assert!(refused.stderr.contains("1 thing missing; nothing was run"), "{}", refused.stderr);
    let explained = dag(&sandbox, &silent, &["explain", "fetched.yaml", "fetched"]).expect(0);
    assert!(explained.stdout.contains("the content of `source.path` is not known"), "{}", explained.stdout);

    // Once fetched, the data are there without the hub, and a word says so.
    let server = HubServer::start();
    server.push(REPOSITORY, "main", &[("test.jsonl", b"{\"problem\": \"one\"}\n")]);
    dag(&sandbox, server.endpoint(), &["run", "fetched.yaml"]).expect(0);
    let ran = dag(&sandbox, &silent, &["run", "fetched.yaml"]).expect(0);
    assert!(ran.stderr.contains("3 nodes, all up to date; 0 ran"), "{}", ran.stderr);
    assert!(ran.stderr.contains("taken as last fetched here"), "{}", ran.stderr);
}

#[test]
fn the_token_is_written_nowhere() {
    let sandbox = Sandbox::new();
    sandbox.write("fetched.yaml", EXPERIMENT);
    let server = HubServer::start();
    server.push(REPOSITORY, "main", &[("data/test-00000-of-00001.parquet", b"problem\nx\n")]);
    server.ask_for(CANARY);
    let ran = dag(&sandbox, server.endpoint(), &["run", "fetched.yaml"]).expect(0);
    assert!(!ran.stdout.contains(CANARY) && !ran.stderr.contains(CANARY));
    let seen = server.seen();
    assert!(seen.iter().any(|seen| seen.is_hub && seen.authorization.is_some()));
    assert!(seen.iter().any(|seen| !seen.is_hub));
    assert!(seen.iter().filter(|seen| !seen.is_hub).all(|seen| seen.authorization.is_none()));
    for path in files_below(&sandbox.path("")) {
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(CANARY.len()).any(|part| part == CANARY.as_bytes()), "{}", path.display());
    }
}

fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                open.push(path);
            } else if path.is_file() {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn a_file_of_the_web_is_known_by_its_digest() {
    let sandbox = Sandbox::new();
    let server = HubServer::start();
    let bytes = b"{\"id\": \"a\", \"problem\": \"x\"}\n";
    server.push(REPOSITORY, "main", &[("test.jsonl", bytes)]);
    let url = format!("{}/{REPOSITORY}/resolve/main/test.jsonl", server.endpoint());
    let experiment = |source: &str| {
        let text = format!(
            "name: web\nnodes:\n  rows:\n    task: dataset\n    with: {{ source: {{ {source} }} }}\n"
        );
        sandbox.write("web.yaml", &text);
        sandbox.dag(&["run", "web.yaml"])
    };
    let digest = blake3::hash(bytes);
    experiment(&format!("path: \"{url}\", digest: \"blake3:{digest}\"")).expect(0);
    // A local copy of the same bytes is the same data.
    sandbox.write("copy.jsonl", std::str::from_utf8(bytes).unwrap());
    let ran = experiment("path: copy.jsonl").expect(0);
    assert!(ran.stderr.contains("1 node, all up to date; 0 ran"), "{}", ran.stderr);
    let wrong = "0".repeat(64);
    let failed = experiment(&format!("path: \"{url}\", digest: \"blake3:{wrong}\"")).expect(1);
    assert!(
        failed.stderr.contains("the digest is blake3:") && failed.stderr.contains("and should be blake3:")
    );
    let refused = experiment(&format!("path: \"{url}\"")).expect(2);
    assert!(refused.stderr.contains("needs its `digest`"), "{}", refused.stderr);
    let shown: Value = sandbox.dag(&["schema"]).json();
    assert!(shown.to_string().contains("sha256:"));
}
