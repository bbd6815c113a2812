//! Other processes during a run, and runs that are interrupted.

use std::process::Child;
use std::time::{Duration, Instant};

use crate::support::{Sandbox, kill, wait_until};

/// Says that it has begun, then waits for a file that the test makes.
const SLOW: &str = r#"
name: slow
nodes:
  quick: { task: command, with: { argv: [echo, done], stdout: out } }
  slow:
    task: command
    inputs: { source: quick }
    with: { argv: [sh, -c, "touch $(root)/begun; while [ ! -e $(root)/go ]; do sleep 0.02; done; cat {inputs.source}"], stdout: out }
"#;

fn slow() -> (Sandbox, Child) {
    let sandbox = Sandbox::new();
    let root = sandbox.path("");
    sandbox.write("slow.yaml", &SLOW.replace("$(root)", root.to_str().unwrap().trim_end_matches('/')));
    let child = sandbox.start(&["run", "slow.yaml"]);
    sandbox.wait_for("begun");
    (sandbox, child)
}

/// The exit code, waited for.
fn code(mut child: Child) -> Option<i32> {
    child.wait().unwrap().code()
}

#[test]
fn readers_work_while_a_run_goes_on() {
    let (sandbox, child) = slow();
    let status = sandbox.dag(&["status", "--json"]).expect(0).json();
    assert_eq!(status[0]["status"], "running");
    assert_eq!(status[0]["state"]["nodes"]["slow"]["phase"], "running");
    assert!(sandbox.dag(&["status"]).expect(0).stdout.contains("running  slow"));
    assert!(sandbox.dag(&["log"]).expect(0).stdout.contains("done  quick"));
    assert_eq!(
        sandbox.dag(&["show", "slow.yaml", "quick", "--json"]).expect(0).json()["content"]["lines"][0],
        "done"
    );
    let plan = sandbox.dag(&["plan", "slow.yaml", "--json"]).expect(0).json();
    assert_eq!(plan["counts"]["hits"], 1);
    sandbox.dag(&["diff", "slow.yaml", "slow.yaml"]).expect(0);
    sandbox.dag(&["verify"]).expect(0);
    sandbox.write("go", "");
    assert_eq!(code(child), Some(0));
    assert!(sandbox.dag(&["status"]).expect(0).stdout.contains("done  slow"));
}

#[test]
fn two_runs_compute_an_action_once() {
    let (sandbox, first) = slow();
    let second = sandbox.start(&["run", "slow.yaml"]);
    let waits = || {
        let told = sandbox.dag(&["status", "--json"]).json();
        told.as_array().unwrap().iter().any(|run| run["state"]["nodes"]["slow"]["phase"] == "waiting")
    };
    wait_until("the second run waits for the first", waits);
    sandbox.write("go", "");
    assert_eq!((code(first), code(second)), (Some(0), Some(0)));
    let runs = sandbox.dag(&["status", "--json"]).expect(0).json();
    let computed: u64 =
        runs.as_array().unwrap().iter().map(|run| run["state"]["ends"]["ran"].as_u64().unwrap()).sum();
    assert_eq!(computed, 2, "`quick` and `slow` once each: {runs}");
}

#[test]
fn an_interrupted_run_goes_on_where_it_was() {
    for times in [1, 2] {
        let (sandbox, child) = slow();
        let start = Instant::now();
        kill(&child, libc::SIGINT);
        if times == 2 {
            std::thread::sleep(Duration::from_millis(100));
            kill(&child, libc::SIGINT);
        }
        assert_eq!(code(child), Some(130), "after {times} signals");
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "after {times} signals it took {:?}",
            start.elapsed()
        );
        sandbox.dag(&["verify"]).expect(0);
        sandbox.write("go", "");
        let again = sandbox.dag(&["run", "slow.yaml"]).expect(0);
        assert!(again.stderr.contains("2 nodes: 1 ran, 1 up to date"), "{}", again.stderr);
    }
}

#[test]
fn a_killed_run_is_told_as_dead_and_goes_on() {
    let (sandbox, child) = slow();
    kill(&child, libc::SIGKILL);
    assert_eq!(code(child), None);
    assert!(sandbox.dag(&["status"]).expect(0).stdout.contains("died"));
    sandbox.write("go", "");
    sandbox.dag(&["run", "slow.yaml"]).expect(0);
}
