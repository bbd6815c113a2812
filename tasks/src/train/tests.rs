//! `train` on a model and packs that are made here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use std::fs;
use std::path::{Path, PathBuf};

use dag_lm::train::{self, StepStats};
use serde_json::{Value, json};

use super::log::Log;
use super::*;
use crate::model::ModelTask;
use crate::pack::Pack;
use crate::table::{Row, Schema, TableWriter};

/// A base model and packs below `dir`.
fn material(dir: &Path) -> (PathBuf, PathBuf) {
    let mut made = TaskCx::for_test(&dir.join("base")).build().unwrap();
    let model = json!({
        "architecture": { "hidden": 32, "layers": 1, "head_dim": 16, "max_positions": 64 },
        "tokenizer": { "kind": "characters" },
    });
    ModelTask::run(&serde_json::from_value(model).unwrap(), &mut made).unwrap();
    let rows: Vec<Row> = (0..24)
        .map(|number| {
            let row = json!({ "id": format!("{number}"), "problem": format!("{number}?"), "response": format!("<think>{number}</think>{number}") });
            row.as_object().unwrap().clone()
        })
        .collect();
    let path = dir.join("examples");
    let mut writer = TableWriter::create(&path, Schema::infer(&rows)).unwrap();
    for row in &rows {
        writer.write(row).unwrap();
    }
    writer.finish().unwrap();
    let mut packed = TaskCx::for_test(&dir.join("packed"))
        .input("examples", path)
        .input("tokenizer", made.output("model"))
        .build()
        .unwrap();
    Pack::run(&serde_json::from_value(json!({ "max_tokens": 40 })).unwrap(), &mut packed).unwrap();
    (made.output("model"), packed.output("packs"))
}

fn params() -> Params {
    serde_json::from_value(json!({ "steps": 12, "batch": 2, "peak_lr": 3e-3 })).unwrap()
}

#[test]
fn a_run_that_is_interrupted_ends_in_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (base, packs) = material(dir.path());
    let cx = |name: &str| {
        let run = json!({ "checkpoint_every": 3 });
        TaskCx::for_test(&dir.path().join(name)).input("base", &base).input("packs", &packs).seed(17).run(run)
    };
    let kept = Params { keep: vec![2, 9], ..params() };
    let mut whole = cx("whole").threads(2).build().unwrap();
    Train::run(&kept, &mut whole).unwrap();

    // Stopped after seven steps: it goes on from its own checkpoint, with another number of threads.
    let mut stopped = cx("parts").build().unwrap();
    let cancel = stopped.cancel_token();
    let done = Arc::new(AtomicU64::new(0));
    let watcher = std::thread::spawn({
        let (done, log) = (Arc::clone(&done), stopped.scratch().join("checkpoint"));
        move || {
            while !log.is_dir() && done.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            cancel.cancel();
        }
    });
    let outcome = Train::run(&kept, &mut stopped);
    done.store(1, Ordering::Relaxed);
    watcher.join().unwrap();
    // A machine fast enough to finish first has nothing to resume; the bytes must be equal all the same.
    if outcome.is_err() {
        assert!(matches!(outcome, Err(TaskError::Cancelled)), "{outcome:?}");
        let mut resumed = cx("parts").build().unwrap();
        Train::run(&kept, &mut resumed).unwrap();
    }
    for file in
        ["model.safetensors", "config.json", "tokenizer.json", "training/loss.jsonl", "training/summary.json"]
    {
        let read = |cx: &TaskCx| fs::read(cx.output("model").join(file)).unwrap();
        assert_eq!(read(&whole), read(&stopped), "{file}");
    }
    let weights = |cx: &TaskCx, port: &str| fs::read(cx.output(port).join("model.safetensors")).unwrap();
    for step in ["step_2", "step_9"] {
        assert_eq!(weights(&whole, step), weights(&stopped, step), "{step}");
    }
    assert_ne!(weights(&whole, "step_2"), weights(&whole, "step_9"));
    assert_ne!(weights(&whole, "step_9"), weights(&whole, "model"));
    // A kept step is the model that a training of as many steps under the same schedule would have: nothing else is changed.
    let mut plain = cx("plain").build().unwrap();
    Train::run(&params(), &mut plain).unwrap();
    assert_eq!(weights(&whole, "model"), weights(&plain, "model"));
    let summary: Value =
        serde_json::from_slice(&fs::read(whole.output("model").join("training/summary.json")).unwrap())
            .unwrap();
    assert_eq!(summary["steps"], json!(12));
    assert!(summary["final_loss"].as_f64().unwrap() < summary["first_loss"].as_f64().unwrap());
}

#[test]
fn a_kept_step_that_is_gone_is_trained_again() {
    let dir = tempfile::tempdir().unwrap();
    let (base, packs) = material(dir.path());
    let kept = Params { keep: vec![2], ..params() };
    let cx = || {
        let cx = TaskCx::for_test(&dir.path().join("run")).input("base", &base).input("packs", &packs);
        cx.seed(17).run(json!({ "checkpoint_every": 3 })).build().unwrap()
    };
    let mut first = cx();
    Train::run(&kept, &mut first).unwrap();
    let read = |cx: &TaskCx| fs::read(cx.output("step_2").join("model.safetensors")).unwrap();
    let model = read(&first);
    // As after a crash between handing over and the commit: the checkpoint is past the step, and its model is not there.
    assert!(first.scratch().join("checkpoint").is_dir() && !first.scratch().join("kept/step_2").exists());
    let mut second = cx();
    fs::remove_dir_all(second.output("step_2")).unwrap();
    fs::remove_dir_all(second.output("model")).unwrap();
    Train::run(&kept, &mut second).unwrap();
    assert_eq!(read(&second), model);
}

#[test]
fn steps_to_keep_are_steps_of_the_training() {
    let faults = |value: Value| Train::check(&serde_json::from_value(value).unwrap()).len();
    let with = |keep: Value| json!({ "steps": 12, "batch": 2, "peak_lr": 3e-3, "keep": keep });
    assert_eq!(faults(with(json!([1, 11]))), 0);
    for keep in [json!([0]), json!([12]), json!([3, 3])] {
        assert_eq!(faults(with(keep.clone())), 1, "{keep}");
    }
}

#[test]
fn adapters_are_trained_and_what_comes_out_is_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let (base, packs) = material(dir.path());
    let train = |name: &str, run: Value| {
        let cx = TaskCx::for_test(&dir.path().join(name)).input("base", &base).input("packs", &packs);
        let mut cx = cx.seed(17).run(run).build().unwrap();
        let params = json!({ "steps": 12, "batch": 2, "peak_lr": 3e-2, "lora": { "rank": 4 } });
        Train::run(&serde_json::from_value(params).unwrap(), &mut cx).unwrap();
        cx.output("model")
    };
    let model = train("kept", json!({ "recompute": false }));
    let again = train("again", json!({ "recompute": true }));
    for file in ["model.safetensors", "adapter/adapter_model.safetensors", "training/loss.jsonl"] {
        let read = |folder: &Path| fs::read(folder.join(file)).unwrap();
        assert!(read(&model) == read(&again), "`{file}` depends on whether activations are kept");
    }
    assert_ne!(
        fs::read(model.join("model.safetensors")).unwrap(),
        fs::read(base.join("model.safetensors")).unwrap()
    );
    let summary: Value =
        serde_json::from_slice(&fs::read(model.join("training/summary.json")).unwrap()).unwrap();
    assert_eq!(summary["optimizer"]["lora"]["alpha"], json!(8.0));
    assert!(summary["final_loss"].as_f64().unwrap() < summary["first_loss"].as_f64().unwrap());
}

#[test]
fn recompute_is_one_of_three() {
    let run = |value: Value| serde_json::from_value::<Run>(json!({ "recompute": value }));
    for (value, expected) in [
        (json!(true), train::Recompute::Always),
        (json!(false), train::Recompute::Never),
        (json!("auto"), train::Recompute::Auto),
    ] {
        assert_eq!(train::Recompute::from(run(value).unwrap().recompute), expected);
    }
    assert!(run(json!("sometimes")).is_err());
    assert_eq!(train::Recompute::from(Run::default().recompute), train::Recompute::Auto);
}

#[test]
fn a_log_that_is_read_back_is_the_same_to_the_last_bit() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(dir.path()).unwrap();
    for step in 1..=2000 {
        let loss = (step as f64).sqrt().sin().abs() / 3.0;
        log.push(StepStats { step, loss, grad_norm: loss.exp(), lr: loss * 1e-4, loss_tokens: 7 });
    }
    log.save().unwrap();
    let again = Log::open(dir.path()).unwrap();
    assert!(again.steps == log.steps && again.text().unwrap() == log.text().unwrap());
}

#[test]
fn how_long_is_one_of_four() {
    let faults = |value: Value| Train::check(&serde_json::from_value(value).unwrap()).len();
    for how_long in ["steps", "epochs", "tokens", "examples"] {
        assert_eq!(faults(json!({ how_long: 2, "batch": 1, "peak_lr": 1e-3 })), 0, "{how_long}");
        assert_eq!(faults(json!({ how_long: 0, "batch": 1, "peak_lr": 1e-3 })), 1, "{how_long}");
        let other = if how_long == "steps" { "tokens" } else { "steps" };
        let both = json!({ how_long: 2, "batch": 1, "peak_lr": 1e-3, other: 2 });
        assert_eq!(faults(both), 1, "{how_long} and another");
    }
    assert_eq!(faults(json!({ "batch": 1, "peak_lr": 1e-3 })), 1);
    assert_eq!(faults(json!({ "steps": 1, "epochs": 1, "batch": 0, "peak_lr": -1 })), 3);

    let size = Size { packs: Some(10), tokens: Some(5_000), examples: Some(40) };
    let steps = |how_long: &str, value: Value| {
        let params = json!({ how_long: value, "batch": 4, "peak_lr": 1e-3 });
        serde_json::from_value::<Params>(params).unwrap().steps(size)
    };
    assert_eq!(steps("epochs", json!(2.5)), Some(7));
    // A step is 4 of 10 packs: 2,000 tokens and 16 examples.
    assert_eq!([1, 2_900, 3_100].map(|tokens| steps("tokens", json!(tokens))), [1, 1, 2].map(Some));
    assert_eq!(steps("examples", json!(160)), Some(10));
    let unknown = Params { steps: None, tokens: Some(7), ..params() };
    assert_eq!(unknown.steps(Size { packs: Some(10), ..Size::default() }), None);
}

#[test]
fn arms_matched_by_tokens_or_examples_come_out_so() {
    let dir = tempfile::tempdir().unwrap();
    let (base, packs) = material(dir.path());
    let summary = |how_long: &str, value: u64| -> Value {
        let mut cx = TaskCx::for_test(&dir.path().join(format!("by_{how_long}")))
            .input("base", &base)
            .input("packs", &packs)
            .build()
            .unwrap();
        let params = json!({ how_long: value, "batch": 1, "peak_lr": 1e-3 });
        Train::run(&serde_json::from_value(params).unwrap(), &mut cx).unwrap();
        serde_json::from_slice(&fs::read(cx.output("model").join("training/summary.json")).unwrap()).unwrap()
    };
    let by_examples = summary("examples", 48);
    assert_eq!((&by_examples["exposures"], &by_examples["epochs"]), (&json!(48), &json!(2.0)));
    let tokens = by_examples["tokens"].as_u64().unwrap();
    assert_eq!(summary("tokens", tokens)["steps"], by_examples["steps"]);
}

#[test]
fn a_key_says_that_the_trainer_that_is_built_in_has_a_gpu() {
    assert_eq!([0, 1].map(|gpus| Train::device(&params(), gpus)), [None, Some("cuda")]);
    // A program's key says what was asked for.
    let other = Params { backend: Backend::Nemo, ..params() };
    assert_eq!(Train::device(&other, 8), None);
}
