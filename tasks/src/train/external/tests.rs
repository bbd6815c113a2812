//! The recipe for NeMo-Automodel, as it is written for a small base.

use std::path::PathBuf;

use dag_engine::task::{Task, TaskCx};
use serde_json::json;

use super::nemo::{Material, recipe};
use super::*;
use crate::model::ModelTask;
use crate::train::Train;

fn params(more: &Value) -> Params {
    let mut params = json!({
        "backend": "nemo", "trainer": { "version": "0.7.0" }, "steps": 3000, "batch": 64, "peak_lr": 5e-6, "initial_lr": 5e-7,
    });
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(params).unwrap()
}

fn base(dir: &Path) -> PathBuf {
    let mut cx = TaskCx::for_test(dir).build().unwrap();
    let model = json!({
        "architecture": { "family": "mistral", "hidden": 32, "layers": 2, "head_dim": 16, "max_positions": 64 },
        "tokenizer": { "kind": "characters" },
    });
    ModelTask::run(&serde_json::from_value(model).unwrap(), &mut cx).unwrap();
    cx.output("model")
}

fn written(base: &Path, params: &Params, run: Value, processes: u32) -> Result<String, String> {
    resumed(base, params, run, processes, None)
}

fn resumed(
    base: &Path,
    params: &Params,
    run: Value,
    processes: u32,
    resume: Option<&Path>,
) -> Result<String, String> {
    let run: Run = serde_json::from_value(run).unwrap();
    let config = params.config(params.steps.unwrap(), 7);
    let material = Material {
        base,
        config: &config,
        seed: 7,
        data: Path::new("/trainer/data"),
        dataset: Path::new("/trainer/dag_packs.py"),
        checkpoints: Path::new("/trainer/checkpoints"),
        resume,
        longest: 60_000,
        pad_token: 0,
        size: Size { nodes: 4, processes },
    };
    let recipe = recipe(params, params.trainer.as_ref().unwrap(), &run, &material)?;
    Ok(recipe.replace(&base.display().to_string(), "/base"))
}

#[test]
fn every_hyperparameter_is_in_the_recipe() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let plain = written(&base, &params(&json!({})), json!({}), 8).unwrap();
    insta::assert_snapshot!("recipe", plain);
    let other = params(&json!({ "schedule": "constant", "clip_norm": 0, "trainer": {
        "version": "0.7.0", "precision": "bf16", "options": { "model.attn_implementation": "sdpa" },
    } }));
    let run = json!({ "parallel": { "tensor": 2 }, "recompute": false, "recipe": { "dataloader.pin_memory": true } });
    let last = Path::new("/trainer/checkpoints/epoch_0_step_99");
    let other = resumed(&base, &other, run, 8, Some(last)).unwrap();
    for line in [
        "  attn_implementation: \"sdpa\"",
        "  torch_dtype: \"bfloat16\"",
        "  max_norm: 1.0e+30",
        "  restore_from: \"/trainer/checkpoints/epoch_0_step_99\"",
        "  lr_decay_style: \"constant\"",
        "  pin_memory: true",
        "  tp_size: 2",
        "  activation_checkpointing: false",
        "  _target_: \"nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy\"",
    ] {
        assert!(other.lines().any(|written| written == line), "{line} in\n{other}");
    }
}

#[test]
fn what_automodel_would_refuse_is_refused_before() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let fault =
        |more: Value, run: Value, processes| written(&base, &params(&more), run, processes).unwrap_err();
    assert!(fault(json!({}), json!({}), 7).contains("64 packs cannot be shared out to 28 models"));
    assert!(fault(json!({}), json!({ "parallel": { "tensor": 3 } }), 8).contains("groups of 3"));
    assert!(fault(json!({}), json!({ "parallel": { "context": 2 } }), 8).contains("parallel: { tensor }"));
    assert!(fault(json!({ "warmup_ratio": 1 }), json!({}), 8).contains("lower `warmup_ratio`"));
}

#[test]
fn a_backend_needs_its_trainer_and_no_other() {
    let faults = |more: Value| Train::check(&params(&more)).len();
    assert_eq!(faults(json!({})), 0);
    assert_eq!(faults(json!({ "backend": "embedded" })), 1);
    assert_eq!(faults(json!({ "backend": "embedded", "trainer": null })), 0);
    assert_eq!(faults(json!({ "backend": "torchrun" })), 1);
    assert_eq!(faults(json!({ "trainer": null })), 1);
    assert_eq!(faults(json!({ "trainer": {} })), 1);
    assert_eq!(faults(json!({ "trainer": { "version": "0.5.0" } })), 1);
    assert_eq!(faults(json!({ "trainer": { "version": "0.10.0" } })), 0);
    assert_eq!(faults(json!({ "keep": [1], "lora": { "rank": 4 } })), 2);
    assert!(check_version(Some("0.7.0"), Some("0.7.0+36044ad")).is_ok());
    assert!(check_version(Some("0.7.0"), Some("0.7.01")).is_err());
    assert!(check_version(Some("0.6.0"), Some("0.7.0")).unwrap_err().to_string().contains("asks for 0.6.0"));
}
