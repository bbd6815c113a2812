//! The main job in small: `experiments/mistral-nemo.yaml` with few problems and few steps, through every property that the
//! full run promises.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::{Ran, Sandbox, kill};

/// Sizes at which the whole graph takes a second or two.
const SMALL: [&str; 12] = [
    "--set",
    "problems.source.count=60",
    "--set",
    "take=50",
    "--set",
    "train.steps=12",
    "--set",
    "evaluate.repeats=2",
    "--set",
    "evaluate.max_tokens=48",
    "--set",
    "benchmark_size=6",
];

const FILE: &str = "experiments/mistral-nemo.yaml";

/// A sandbox with this repository's experiments.
fn experiments() -> Sandbox {
    let sandbox = Sandbox::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.extension().is_some_and(|extension| extension == "yaml" || extension == "jinja") {
            sandbox.write(&format!("experiments/{name}"), &fs::read_to_string(&path).unwrap());
        }
    }
    sandbox
}

fn dag(sandbox: &Sandbox, command: &str, more: &[&str]) -> Ran {
    let arguments: Vec<&str> = [command, FILE].into_iter().chain(SMALL).chain(more.iter().copied()).collect();
    sandbox.dag(&arguments).expect(0)
}

/// The summary line of a run.
fn summary(ran: &Ran) -> &str {
    ran.stderr.lines().find(|line| line.starts_with("24 nodes")).unwrap_or_default()
}

/// The names of the nodes that a plan would run, and of those that wait for them.
fn not_hit(plan: &Ran) -> Vec<String> {
    let plan = plan.json();
    let nodes = plan["nodes"].as_array().unwrap().iter();
    let mut names: Vec<String> = nodes
        .filter(|node| node["decision"] != "hit")
        .map(|node| node["node"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn every_experiment_compiles_in_every_profile() {
    let sandbox = experiments();
    for file in ["mistral-nemo.yaml", "nemotron-nano.yaml"] {
        for profile in ["local", "paper"] {
            sandbox.dag(&["check", &format!("experiments/{file}"), "--profile", profile]).expect(0);
            sandbox.dag(&["plan", &format!("experiments/{file}"), "--profile", profile]).expect(0);
        }
    }
}

#[test]
fn what_the_paper_profile_lacks_is_said_before_anything_runs() {
    let sandbox = experiments();
    let ran = sandbox.dag(&["run", FILE, "--profile", "paper"]);
    assert_ne!(ran.code, 0);
    for missing in ["hf://nvidia/Nemotron-Post-Training-Dataset-v1", "hf://mistralai/Mistral-Nemo-Base-2407"]
    {
        assert!(ran.stderr.contains(missing), "{missing} is not named:\n{}", ran.stderr);
    }
}

#[test]
fn it_runs_once_and_an_edit_runs_what_it_concerns() {
    let sandbox = experiments();
    let first = dag(&sandbox, "run", &[]);
    assert!(first.stdout.contains("untrained base"), "{}", first.stdout);
    for page in ["index.html", "report.md", "table.csv", "report.json"] {
        assert!(sandbox.path("reports/mistral-nemo").join(page).is_file(), "{page}");
    }

    let again = dag(&sandbox, "run", &[]);
    assert_eq!(summary(&again), "24 nodes, all up to date; 0 ran");

    let edit = ["--set", "arms.gpt-oss.train.peak_lr=1e-3"];
    let mut arguments = edit.to_vec();
    arguments.push("--json");
    assert_eq!(
        not_hit(&dag(&sandbox, "plan", &arguments)),
        [
            "evaluated@gpt-oss/1/long-sums",
            "evaluated@gpt-oss/1/longer-than-trained",
            "evaluated@gpt-oss/1/short-sums",
            "table",
            "trained@gpt-oss/1"
        ]
    );
    let edited = dag(&sandbox, "run", &edit);
    assert!(summary(&edited).starts_with("24 nodes: 5 ran, 19 up to date"), "{}", edited.stderr);
}

#[test]
fn more_repeats_ask_only_for_the_new_ones() {
    let sandbox = experiments();
    dag(&sandbox, "run", &[]);
    let more = dag(&sandbox, "run", &["--set", "evaluate.repeats=3"]);
    // Three models on three benchmarks of six problems: two responses each are there, the third is new.
    let line = summary(&more);
    assert!(line.starts_with("24 nodes: 10 ran, 14 up to date"), "{line}");
    assert!(line.contains("54 records made, 108 reused"), "{line}");
}

#[test]
fn killed_again_and_again_it_ends_with_the_same_bytes() {
    let whole = experiments();
    dag(&whole, "run", &[]);
    let broken = experiments();
    let arguments: Vec<&str> = ["run", FILE].into_iter().chain(SMALL).collect();
    for wait in [60, 150, 250, 400, 600, 900] {
        let mut child = broken.start(&arguments);
        std::thread::sleep(Duration::from_millis(wait));
        if child.try_wait().unwrap().is_none() {
            kill(&child, libc::SIGKILL);
        }
        child.wait().unwrap();
    }
    dag(&broken, "run", &[]);
    for page in ["report.json", "table.csv", "loss.csv", "report.md"] {
        let path = format!("reports/mistral-nemo/{page}");
        assert_eq!(whole.read(&path), broken.read(&path), "{page}");
    }
    broken.dag(&["verify"]).expect(0);
}
