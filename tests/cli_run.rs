//! `dag run`: the first run, the second (nothing), one after an edit (only what changed), and failures.

use crate::support::Sandbox;

/// Copies two files, says something before each, and joins them.
const LETTERS: &str = r#"
name: letters
axes:
  letter: [a, b]
params: { greeting: hi }
nodes:
  copy:
    over: [letter]
    task: command
    with: { argv: [cp, "{files.source}", "{outputs.copy}"], files: { source: "in/$(letter).txt" }, outputs: [copy] }
  greet:
    over: [letter]
    task: command
    inputs: { source: copy }
    with: { argv: [sh, -c, "echo $(greeting); cat {inputs.source}"], stdout: said }
  join:
    task: command
    inputs: { parts: greet@* }
    with: { argv: [cat, "{inputs.parts}"], stdout: joined }
    run: { publish: { joined: out/join.txt } }
"#;

pub(crate) fn letters() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("letters.yaml", LETTERS);
    sandbox.write("in/a.txt", "first\n");
    sandbox.write("in/b.txt", "second\n");
    sandbox
}

#[test]
fn a_second_run_does_nothing_and_says_so() {
    let sandbox = letters();
    let first = sandbox.dag(&["run", "letters.yaml"]).expect(0);
    assert!(first.stderr.contains("5 nodes: 5 ran, 0 up to date"), "{}", first.stderr);
    assert_eq!(sandbox.read("out/join.txt"), "hi\nfirst\nhi\nsecond\n");
    insta::assert_snapshot!(sandbox.dag(&["run", "letters.yaml"]).transcript(), @r"
    exit 0
    -- stdout
    -- stderr
    5 nodes, all up to date; 0 ran
    ");
}

#[test]
fn an_edit_runs_what_it_concerns_and_nothing_else() {
    let sandbox = letters();
    sandbox.dag(&["run", "letters.yaml"]).expect(0);
    sandbox.write("in/b.txt", "changed\n");
    let plan = sandbox.dag(&["plan", "letters.yaml", "--json"]).expect(0).json();
    let decisions: Vec<(&str, &str)> = plan["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["node"].as_str().unwrap(), node["decision"].as_str().unwrap()))
        .collect();
    for expected in [
        ("copy@a", "hit"),
        ("copy@b", "run"),
        ("greet@a", "hit"),
        ("greet@b", "unsettled"),
        ("join", "unsettled"),
    ] {
        assert!(decisions.contains(&expected), "{expected:?} is not in {decisions:?}");
    }
    let ran = sandbox.dag(&["run", "letters.yaml"]).expect(0);
    assert!(ran.stderr.contains("5 nodes: 3 ran, 2 up to date"), "{}", ran.stderr);
    assert_eq!(sandbox.read("out/join.txt"), "hi\nfirst\nhi\nchanged\n");
}

#[test]
fn an_edit_that_changes_no_bytes_stops_at_once() {
    let sandbox = Sandbox::new();
    let file = |text: &str| {
        format!(
            "nodes:\n  first:\n    task: command\n    with: {{ argv: [sh, -c, '{text}'], stdout: out }}\n  \
             second:\n    task: command\n    inputs: {{ source: first }}\n    with: {{ argv: [cat, '{{inputs.source}}'], stdout: out }}\n"
        )
    };
    sandbox.write("x.yaml", &file("echo same"));
    sandbox.dag(&["run", "x.yaml"]).expect(0);
    sandbox.write("x.yaml", &file("echo same; true"));
    let ran = sandbox.dag(&["run", "x.yaml"]).expect(0);
    assert!(ran.stderr.contains("2 nodes: 1 ran, 1 up to date"), "{}", ran.stderr);
}

#[test]
fn a_failed_node_skips_what_needs_it_and_the_rest_is_kept() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "x.yaml",
        r#"
nodes:
  bad: { task: command, with: { argv: [sh, -c, "echo wrong >&2; exit 3"], stdout: out } }
  after: { task: command, inputs: { source: bad }, with: { argv: [cat, "{inputs.source}"], stdout: out } }
  good: { task: command, with: { argv: [echo, fine], stdout: out } }
"#,
    );
    let ran = sandbox.dag(&["run", "x.yaml", "--keep-going"]).expect(1);
    assert!(ran.stderr.contains("wrong"), "the words of the program are shown: {}", ran.stderr);
    assert!(ran.stderr.contains("3 nodes: 1 ran, 0 up to date, 1 failed, 1 skipped"), "{}", ran.stderr);
    assert!(ran.stderr.contains("error: 1 node failed: `bad`\nhint: "), "{}", ran.stderr);
    let again = sandbox.dag(&["run", "x.yaml", "--keep-going"]).expect(1);
    assert!(again.stderr.contains("0 ran, 1 up to date, 1 failed"), "{}", again.stderr);
}

#[test]
fn events_are_json_lines_on_request() {
    let sandbox = letters();
    let events = sandbox.dag(&["run", "letters.yaml", "--json"]).expect(0).json_lines();
    assert_eq!(events.first().unwrap()["event"], "run_started");
    assert_eq!(events.last().unwrap()["event"], "run_finished");
    assert_eq!(events.iter().filter(|event| event["event"] == "node_finished").count(), 5);
    let again = sandbox.dag(&["run", "letters.yaml", "--json"]).expect(0).json_lines();
    assert!(again.iter().all(|event| event["event"] != "node_started"), "{again:?}");
}

#[test]
fn a_store_can_be_named_and_is_found_from_below() {
    let sandbox = letters();
    sandbox.dag(&["run", "letters.yaml", "--store", "elsewhere"]).expect(0);
    assert!(sandbox.path("elsewhere/records").is_dir() && !sandbox.path(".dag").exists());
    sandbox.dag(&["run", "letters.yaml"]).expect(0);
    let from_below =
        sandbox.command(&["run", "../letters.yaml"]).current_dir(sandbox.path("in")).output().unwrap();
    let told = String::from_utf8(from_below.stderr).unwrap();
    assert!(told.contains("5 nodes, all up to date"), "{told}");
}
