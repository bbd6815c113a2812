//! Mistakes of a user: each is named with its place and the next step, and nothing is run.

use crate::support::Sandbox;

/// Checks a file and gives what was said; it must be refused as the user's mistake.
#[track_caller]
fn refused(text: &str) -> String {
    let sandbox = Sandbox::new();
    sandbox.write("x.yaml", text);
    let ran = sandbox.dag(&["run", "x.yaml"]).expect(2);
    assert!(ran.stdout.is_empty() && !sandbox.path(".dag").exists(), "nothing is run and no store is made");
    ran.stderr
}

#[test]
fn a_misspelt_field_is_shown_in_its_line() {
    insta::assert_snapshot!(refused("nodes:\n  one: { tsak: command }\n"), @r"
    error: the node `one` has no `task`
     --> x.yaml:2:3
      |
    2 |   one: { tsak: command }
      |   ^^^
      help: if it only changes a node that is extended, its name may be misspelt

    error: a node has no field `tsak`
     --> x.yaml:2:10
      |
    2 |   one: { tsak: command }
      |          ^^^^
      help: did you mean `task`?

    error: 2 faults in the experiment; nothing was run
    ");
}

#[test]
fn all_faults_are_told_at_once() {
    let told = refused(
        "nodes:\n  one: { task: comand }\n  two: { task: command, with: { argv: [echo], stdout: out, colour: red } }\n  \
         three: { task: command, inputs: { source: tow }, with: { argv: [cat, '{inputs.source}'], stdout: out } }\n",
    );
    for place in ["x.yaml:2:", "x.yaml:3:", "x.yaml:4:"] {
        assert!(told.contains(place), "{place} is not in {told}");
    }
    for hint in ["did you mean `command`?", "did you mean `two`?"] {
        assert!(told.contains(hint), "{hint} is not in {told}");
    }
}

#[test]
fn mistakes_of_every_kind_name_their_place() {
    let node = "task: command, with: { argv: [echo], stdout: out }";
    for (what, text) in [
        ("not YAML", "nodes: { one: [".to_owned()),
        ("a duplicate key", format!("nodes:\n  one: {{ {node} }}\n  one: {{ {node} }}\n")),
        ("a cycle", "nodes:\n  a: { task: command, inputs: { x: b }, with: { argv: [cat, '{inputs.x}'], stdout: out } }\n  b: { task: command, inputs: { x: a }, with: { argv: [cat, '{inputs.x}'], stdout: out } }\n".into()),
        ("an unknown axis", format!("nodes:\n  one: {{ over: [shard], {node} }}\n")),
        ("an undefined variable", "nodes:\n  one: { task: command, with: { argv: [echo, $(nothing)], stdout: out } }\n".into()),
        ("an unknown output", format!("nodes:\n  one: {{ {node} }}\n  two: {{ task: command, inputs: {{ x: one.other }}, with: {{ argv: [cat, '{{inputs.x}}'], stdout: out }} }}\n")),
        ("a wrong type", "nodes:\n  one: { task: command, with: { argv: 3, stdout: out } }\n".into()),
        ("no task", "nodes:\n  one: { with: { argv: [echo] } }\n".into()),
    ] {
        let told = refused(&text);
        assert!(told.contains("--> x.yaml:"), "{what}: no place in {told}");
        assert!(told.contains("error: "), "{what}: {told}");
    }
}

#[test]
fn mistakes_on_the_command_line_have_a_next_step() {
    let sandbox = Sandbox::new();
    sandbox.write("x.yaml", "nodes:\n  one: { task: command, with: { argv: [echo], stdout: out } }\n");
    for arguments in [
        &["run", "y.yaml"][..],
        &["run", "x.yaml", "oen"],
        &["run", "x.yaml", "--set", "steps"],
        &["run", "x.yaml", "--profile", "paper"],
        &["show", "x.yaml", "one.other"],
        &["diff", "x.yaml", "r1", "gpt-oss"],
        &["log"],
        &["status", "nine"],
    ] {
        let ran = sandbox.dag(arguments);
        let refused = ran.code == 2 || (arguments[0] == "show" && ran.code == 1);
        assert!(refused, "{arguments:?} ends in {}: {}", ran.code, ran.stderr);
        assert!(
            ran.stderr.contains("hint: ") || ran.stderr.contains("help: "),
            "{arguments:?}: {}",
            ran.stderr
        );
    }
    let unused = sandbox.dag(&["run", "x.yaml", "--set", "steps=3"]).expect(2).stderr;
    assert!(unused.contains("nothing in the experiment uses `steps`"), "{unused}");
    assert_eq!(sandbox.dag(&["fly"]).code, 2);
    assert_eq!(sandbox.dag(&["run"]).code, 2);
}

#[test]
fn missing_files_are_all_told() {
    let sandbox = Sandbox::new();
    let node = |name: &str| {
        format!(
            "  {name}: {{ task: command, with: {{ argv: [cat, '{{files.x}}'], files: {{ x: {name}.txt }}, stdout: out }} }}\n"
        )
    };
    sandbox.write("x.yaml", &format!("nodes:\n{}{}", node("one"), node("two")));
    let told = sandbox.dag(&["run", "x.yaml"]).expect(2).stderr;
    assert!(told.contains("one.txt") && told.contains("two.txt"), "{told}");
}
