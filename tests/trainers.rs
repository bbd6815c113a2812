//! `train` with a program: the packs it is handed, what it says, its checkpoints, and the model it writes.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Sandbox, kill, wait_until};

const FILE: &str = "train.yaml";

/// Twelve steps of the stand-in, with options under `with:` and `run:`.
fn sandbox(with: &str, run: &str) -> Option<Sandbox> {
    let sandbox = Sandbox::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trainer.py");
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        #[expect(clippy::print_stderr, reason = "a test that skips says so")]
        {
            eprintln!("skipped: there is no `python3`");
        }
        return None;
    }
    sandbox.write("trainer.py", &fs::read_to_string(script).unwrap());
    write(&sandbox, with, run);
    Some(sandbox)
}

fn write(sandbox: &Sandbox, with: &str, run: &str) {
    sandbox.write(
        FILE,
        &format!(
            r"name: train
seed: 17
nodes:
  problems: {{ task: dataset, with: {{ source: {{ generator: arithmetic, count: 40, steps: [2, 3], modulus: 10 }} }} }}
  traces: {{ task: sample, inputs: {{ prompts: problems }}, with: {{ model: {{ backend: scripted, teacher: terse }} }} }}
  base:
    task: model
    with:
      architecture: {{ hidden: 32, layers: 1, head_dim: 16, max_positions: 512 }}
      tokenizer: {{ kind: characters }}
  packs: {{ task: pack, inputs: {{ examples: traces, tokenizer: base }}, with: {{ max_tokens: 256 }} }}
  trained:
    task: train
    inputs: {{ base: base, packs: packs }}
    with:
      backend: torchrun
      trainer: {{ script: trainer.py, version: '1' }}
      steps: 12
      batch: 2
      peak_lr: 1e-3
      {with}
    run: {{ launch: [python3], checkpoint_every: 3, grace: 30, {run} }}
"
        ),
    );
}

/// The files of the trained model.
fn model(sandbox: &Sandbox) -> Vec<(String, Vec<u8>)> {
    sandbox.dag(&["export", FILE, "trained", "model"]).expect(0);
    let mut files = Vec::new();
    let mut open = vec![sandbox.path("model")];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                files.push((
                    path.strip_prefix(sandbox.path("model")).unwrap().display().to_string(),
                    fs::read(&path).unwrap(),
                ));
            }
        }
    }
    files.sort();
    files
}

/// Which nodes would run.
fn would_run(sandbox: &Sandbox) -> Vec<String> {
    let plan = sandbox.dag(&["plan", FILE, "--json"]).expect(0).json();
    let nodes = plan["nodes"].as_array().unwrap();
    let run = nodes.iter().filter(|node| node["decision"] != "hit");
    run.map(|node| node["node"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_killed_trainer_goes_on_and_ends_in_the_same_model() {
    let Some(whole) = sandbox("", "") else { return };
    whole.dag(&["run", FILE]).expect(0);
    let expected = model(&whole);
    let summary = &expected.iter().find(|(name, _)| name == "training/summary.json").unwrap().1;
    let summary: Value = serde_json::from_slice(summary).unwrap();
    assert_eq!((&summary["steps"], &summary["backend"]), (&Value::from(12), &Value::from("torchrun")));
    let loss = &expected.iter().find(|(name, _)| name == "training/loss.jsonl").unwrap().1;
    assert_eq!(String::from_utf8_lossy(loss).lines().count(), 12);

    let killed = Sandbox::new();
    let says = killed.path("says");
    let stops = format!("env: {{ STAND_IN_STOPS_AT: '8', STAND_IN_SAYS: '{}' }}", says.display());
    killed.write("trainer.py", &whole.read("trainer.py"));
    write(&killed, "", &stops);
    let mut child = killed.start(&["run", FILE]);
    wait_until("the stand-in has stopped", || says.exists());
    kill(&child, libc::SIGKILL);
    child.wait().unwrap();
    // What stopped it stands under `run:`, so the action is the same.
    write(&killed, "", "");
    let ran = killed.dag(&["run", FILE, "--json"]).expect(0);
    assert!(ran.stdout.contains("\"reused\":6"), "it did not go on after step 6:\n{}", ran.stdout);
    assert!(model(&killed) == expected, "the model depends on the interruption");
}

#[test]
fn options_of_a_run_decide_nothing_and_hyperparameters_decide_the_training() {
    let Some(sandbox) = sandbox("", "") else { return };
    sandbox.dag(&["run", FILE]).expect(0);
    let first = model(&sandbox);
    write(&sandbox, "", "port: 1234, srun: [--mpi=none], env: { NCCL_DEBUG: INFO }");
    assert_eq!(would_run(&sandbox), Vec::<String>::new());
    write(&sandbox, "weight_decay: 0.2", "");
    assert_eq!(would_run(&sandbox), ["trained"]);
    sandbox.dag(&["run", FILE]).expect(0);
    fs::remove_dir_all(sandbox.path("model")).unwrap();
    assert!(model(&sandbox) != first);
    // The script is an input by its content.
    write(&sandbox, "", "");
    sandbox.write("trainer.py", &format!("{}\n", sandbox.read("trainer.py")));
    assert_eq!(would_run(&sandbox), ["trained"]);
}
