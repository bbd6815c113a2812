//! The commands that look: plan, explain, diff, show, graph, export, gc, and what stdout and stderr are for.

use std::io::Read;
use std::process::Stdio;

use crate::cli_run::letters;
use crate::support::Sandbox;

#[test]
fn plan_in_words() {
    let sandbox = letters();
    insta::assert_snapshot!(sandbox.dag(&["plan", "letters.yaml"]).expect(0).stdout, @r"
      run   copy ×2   command  never run
      wait  greet ×2  command  depends on copy
      wait  join      command  depends on greet
    5 nodes: 0 up to date, 2 to run, 3 after them unless what they read comes out the same
    ");
    assert!(!sandbox.path(".dag").exists(), "a plan changes nothing");
}

#[test]
fn explain_names_the_field() {
    let sandbox = letters();
    sandbox.dag(&["run", "letters.yaml"]).expect(0);
    let explained =
        sandbox.dag(&["explain", "letters.yaml", "greet@a", "--set", "greeting=hey"]).expect(0).stdout;
    insta::assert_snapshot!(explained, @r#"
    greet@a
      param `argv[2]` "echo hi; cat {inputs.source}" → "echo hey; cat {inputs.source}"
      action [DIGEST] → [DIGEST]
    "#);
}

#[test]
fn diff_of_two_values_of_an_axis() {
    let sandbox = letters();
    let found = sandbox.dag(&["diff", "letters.yaml", "a", "b", "--json"]).expect(0).json();
    assert_eq!(found["axis"], "letter");
    assert_eq!(found["parts"].as_array().unwrap().len(), 1, "only `copy` differs of its own: {found}");
    assert_eq!(found["parts"][0]["node"], "copy");
}

#[test]
fn diff_of_two_files_and_two_runs() {
    let sandbox = letters();
    sandbox.dag(&["run", "letters.yaml"]).expect(0);
    sandbox.write("other.yaml", &sandbox.read("letters.yaml").replace("greeting: hi", "greeting: hey"));
    let files = sandbox.dag(&["diff", "letters.yaml", "other.yaml", "--json"]).expect(0).json();
    assert_eq!((&files["same"], &files["only_by_their_inputs"]), (&2.into(), &1.into()), "{files}");
    sandbox.dag(&["run", "other.yaml"]).expect(0);
    let status = sandbox.command(&["status", "--json"]).output().unwrap().stdout;
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    let id = |index: usize| status[index]["run"].as_str().unwrap().to_owned();
    let runs = sandbox.dag(&["diff", &id(1), &id(0), "--json"]).expect(0).json();
    assert_eq!(runs["changed"].as_array().unwrap().len(), 3, "{runs}");
}

#[test]
fn show_and_export_give_what_was_made() {
    let sandbox = letters();
    sandbox.dag(&["run", "letters.yaml"]).expect(0);
    let shown = sandbox.dag(&["show", "letters.yaml", "join", "--head", "2"]).expect(0).stdout;
    assert!(shown.ends_with("hi\nfirst\n…\n"), "{shown}");
    sandbox.dag(&["export", "letters.yaml", "greet@b", "copies/b.txt"]).expect(0);
    assert_eq!(sandbox.read("copies/b.txt"), "hi\nsecond\n");
    let again = sandbox.dag(&["export", "letters.yaml", "greet@b", "copies/b.txt"]).expect(2);
    assert!(again.stderr.contains("hint: "), "{}", again.stderr);
}

#[test]
fn what_was_collected_is_said_to_be_and_made_again_when_needed() {
    let sandbox = letters();
    sandbox.dag(&["run", "letters.yaml"]).expect(0);
    let dry = sandbox.dag(&["gc", "--keep", "0"]).expect(0);
    assert!(dry.stderr.contains("hint: `dag gc --yes`"), "{}", dry.stderr);
    sandbox.dag(&["gc", "--keep", "0", "--yes"]).expect(0);
    assert!(sandbox.dag(&["show", "letters.yaml", "greet@a"]).expect(0).stdout.contains("collected"));
    let still = sandbox.dag(&["run", "letters.yaml"]).expect(0);
    assert!(
        still.stderr.contains("all up to date"),
        "a hit needs the record and not the bytes: {}",
        still.stderr
    );
    sandbox.dag(&["run", "letters.yaml", "--rerun", "join"]).expect(0);
    assert_eq!(sandbox.read("out/join.txt"), "hi\nfirst\nhi\nsecond\n");
}

#[test]
fn words_of_programs_cannot_command_the_terminal() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "x.yaml",
        "nodes:\n  loud: { task: command, with: { argv: [printf, '\\033[2Jx\\033]0;title\\007\\n'], stdout: out } }\n  \
         bad: { task: command, with: { argv: [sh, -c, 'printf \"\\033[31mred\" >&2; exit 1'], stdout: out } }\n",
    );
    let ran = sandbox.dag(&["run", "x.yaml", "--keep-going"]).expect(1);
    let shown = sandbox.dag(&["show", "x.yaml", "loud"]).expect(0);
    for text in [&ran.stderr, &shown.stdout, &sandbox.dag(&["log"]).stdout] {
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text:?}");
    }
    assert!(shown.stdout.contains("\\u{1b}[2Jx"), "{}", shown.stdout);
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let sandbox = letters();
    let mut child =
        sandbox.command(&["schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 1];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn every_command_has_help() {
    let sandbox = Sandbox::new();
    let all = sandbox.dag(&["--help"]).expect(0).stdout;
    for command in [
        "run", "plan", "explain", "diff", "status", "log", "show", "trace", "graph", "check", "schema",
        "export", "gc", "verify",
    ] {
        assert!(all.contains(&format!("\n  {command} ")), "`dag --help` does not list {command}");
        assert!(sandbox.dag(&[command, "--help"]).expect(0).stdout.contains("Usage: "), "{command}");
    }
}

#[test]
fn a_graph_is_drawn_in_every_format() {
    let sandbox = letters();
    for (format, begins) in
        [("text", "copy ×2"), ("dot", "digraph"), ("mermaid", "flowchart"), ("svg", "<svg")]
    {
        let drawn = sandbox.dag(&["graph", "letters.yaml", "--format", format]).expect(0).stdout;
        assert!(drawn.starts_with(begins), "{format}: {drawn}");
    }
    let all = sandbox.dag(&["graph", "letters.yaml", "--expand", "--json"]).expect(0).json();
    assert_eq!(all["nodes"].as_array().unwrap().len(), 5);
}
