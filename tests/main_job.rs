//! The main job in small: `experiments/mistral-nemo.yaml` with few problems and few steps, through every property that the
//! full run promises.

use crate::support::{Ran, SMALL, Sandbox, experiments};

/// No test asks the real hub.
const OFFLINE: [(&str, &str); 1] = [("HF_HUB_OFFLINE", "1")];
const FILE: &str = "experiments/mistral-nemo.yaml";

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
    sandbox.dag(&["check", "experiments/paper-table.yaml"]).expect(0);
    for file in ["mistral-nemo.yaml", "nemotron-nano.yaml", "hybrid.yaml"] {
        for profile in ["local", "paper"] {
            sandbox.dag(&["check", &format!("experiments/{file}"), "--profile", profile]).expect(0);
            let arguments = ["plan", &format!("experiments/{file}"), "--profile", profile];
            sandbox.dag_with(&arguments, &OFFLINE).expect(0);
        }
    }
    // Their data are not in the repository, so these are only checked.
    sandbox.dag(&["check", "experiments/gsm8k-traces.yaml", "--set", "data=data"]).expect(0);
    for profile in ["local", "full"] {
        let arguments = ["check", "experiments/smollm2.yaml", "--set", "data=data", "--profile", profile];
        sandbox.dag(&arguments).expect(0);
    }
}

#[test]
fn what_the_paper_profile_lacks_is_said_before_anything_runs() {
    let sandbox = experiments();
    let ran = sandbox.dag_with(&["run", FILE, "--profile", "paper"], &OFFLINE);
    assert_ne!(ran.code, 0);
    for missing in [
        "the data set `nvidia/Nemotron-Post-Training-Dataset-v1`",
        "the model `mistralai/Mistral-Nemo-Base-2407`",
    ] {
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
fn a_gpu_that_this_program_cannot_use_is_told_before_anything_runs() {
    if cfg!(feature = "cuda") {
        eprintln!("skipped: this program was built with CUDA");
        return;
    }
    let sandbox = experiments();
    for (gpus, told) in [(1, "CUDA in this program"), (2, "an embedded model that 2 GPUs can share")] {
        let text = format!(
            "extends: smoke.yaml\nname: gpu\nprofile: gpu\nprofiles:\n  gpu:\n    extends: local\n    \
             run: {{ train: {{ gpus: {gpus} }}, evaluate: {{ gpus: {gpus} }} }}\n"
        );
        sandbox.write("experiments/gpu.yaml", &text);
        let visible = &[("CUDA_VISIBLE_DEVICES", "3,4")];
        let refused = sandbox.dag_with(&["run", "experiments/gpu.yaml"], visible).expect(2);
        assert!(refused.stderr.contains(told), "{}", refused.stderr);
        for node in ["`trained`", "`evaluated`"] {
            assert!(refused.stderr.contains(node), "{}", refused.stderr);
        }
    }
}

#[test]
fn every_task_kind_is_in_the_smoke_test() {
    let sandbox = experiments();
    let first = sandbox.dag(&["run", "experiments/smoke.yaml"]).expect(0);
    let line = first.stderr.lines().find(|line| line.contains(" nodes: ")).unwrap_or_default();
    assert!(line.starts_with("26 nodes: 26 ran, 0 up to date"), "{}", first.stderr);
    let kinds = sandbox.dag(&["schema", "--tasks", "--json"]).expect(0).json();
    let graph = sandbox.dag(&["graph", "experiments/smoke.yaml", "--json"]).expect(0).json();
    let used: Vec<&str> =
        graph["nodes"].as_array().unwrap().iter().map(|node| node["task"].as_str().unwrap()).collect();
    let kinds = kinds.as_array().unwrap();
    assert!(kinds.len() >= 11, "{kinds:?}");
    for kind in kinds {
        let kind = kind["task"].as_str().unwrap();
        assert!(used.contains(&kind), "no node of experiments/smoke.yaml is a `{kind}`");
    }
}

#[test]
fn a_hybrid_arm_runs_beside_the_two() {
    let sandbox = experiments();
    let arguments: Vec<&str> = ["run", "experiments/hybrid.yaml"].into_iter().chain(SMALL).collect();
    let ran = sandbox.dag(&arguments).expect(0);
    for arm in ["r1", "gpt-oss", "hybrid"] {
        let row = ran.stdout.lines().find(|line| line.trim_start().starts_with(&format!("{arm}  ")));
        assert!(row.is_some(), "no row for {arm}:\n{}", ran.stdout);
    }
    let show = |node: &str| {
        let mut arguments = vec!["show", "experiments/hybrid.yaml", node, "--json", "--head", "1000"];
        arguments.extend(SMALL);
        sandbox.dag(&arguments).expect(0).json()
    };
    let halves = show("halves");
    let of = &halves["metrics"]["rows_of"];
    assert_eq!(of["r1"], of["gpt_oss"], "{of}");
    assert!(of["r1"].as_u64().unwrap() > 10, "{of}");
    let rows = halves["content"]["rows"].as_array().unwrap();
    let ids: std::collections::BTreeSet<&str> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), rows.len(), "no problem twice");
    for row in rows {
        // The verbose teacher says each step several times over, with commas between.
        let is_verbose = row["response"].as_str().unwrap().contains(',');
        assert_eq!(is_verbose, row["source"] == "r1", "{row}");
    }
    // All of them are what the third arm is trained on.
    assert_eq!(show("packs@hybrid")["metrics"]["examples"], rows.len());
}
