//! NeMo-Automodel's recipe: every hyperparameter of the node, the packs as they are, and how they are spread over GPUs.
//!
//! Written against version 0.5 (docs/training.md names what was read). Packs come in an order of our own through a data set
//! that lies beside the recipe, so that each step has the packs that the trainer that is built in would give it, and tracing holds.

use std::collections::BTreeSet;
use std::path::Path;

use dag_lm::train::TrainConfig;
use dag_lm::weights::Weights;
use serde_json::{Map, Value, json};

use super::super::params::{Params, Precision, Recompute, Run, Schedule, Trainer};
use super::launch::Size;
use super::yaml;

/// The data set that hands our packs to Automodel.
pub(super) const DATASET: &str = include_str!("nemo_packs.py");
/// Its name beside the recipe.
pub(super) const DATASET_FILE: &str = "dag_packs.py";
/// What Automodel writes its checkpoints below, and where in one the whole model lies.
pub(super) const CONSOLIDATED: &str = "model/consolidated";

/// What the recipe is made of besides the params.
pub(super) struct Material<'a> {
    pub(super) base: &'a Path,
    pub(super) config: &'a TrainConfig,
    pub(super) seed: u64,
    /// Where the packs, the data set and the checkpoints lie.
    pub(super) data: &'a Path,
    pub(super) dataset: &'a Path,
    pub(super) checkpoints: &'a Path,
    /// The checkpoint that the training goes on from.
    pub(super) resume: Option<&'a Path>,
    /// Positions of the longest pack.
    pub(super) longest: u64,
    pub(super) pad_token: u32,
    pub(super) size: Size,
}

/// How packs are laid out for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// With a mask that numbers the samples, for models that are those of transformers.
    Neat,
    /// With the lengths of the samples, for models that Automodel has itself: the states of Mamba layers are reset by them.
    Thd,
}

impl Layout {
    fn of(base: &Path) -> Result<Self, String> {
        let path = base.join("config.json");
        let text = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let config: Value =
            serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let is_hybrid = config["architectures"][0] == "NemotronHForCausalLM";
        Ok(if is_hybrid { Self::Thd } else { Self::Neat })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Neat => "neat",
            Self::Thd => "thd",
        }
    }
}

/// The recipe, or why there can be none.
pub(super) fn recipe(
    params: &Params,
    trainer: &Trainer,
    run: &Run,
    material: &Material<'_>,
) -> Result<String, String> {
    let layout = Layout::of(material.base)?;
    check(params, run, material, layout)?;
    let config = material.config;
    let (storage, computed) = match trainer.precision {
        Precision::Mixed => ("float32", "bfloat16"),
        Precision::Bf16 => ("bfloat16", "bfloat16"),
        Precision::Fp32 => ("float32", "float32"),
    };
    // The fused loss never holds the logits of a whole pack, which would take 30 GB at 60,000 tokens; it does not go
    // with matrices that are spread over GPUs.
    let is_fused = run.parallel.tensor == 1;
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let recompute = run.recompute != Recompute::Plain(false);
    let mut model = json!({
        "_target_": "nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained",
        "pretrained_model_name_or_path": path(material.base),
        "torch_dtype": storage,
    });
    match layout {
        Layout::Neat => model["attn_implementation"] = "flash_attention_2".into(),
        Layout::Thd => {
            model["backend"] =
                json!({ "_target_": "nemo_automodel.components.models.common.BackendConfig", "attn": "te" });
        }
    }
    if is_fused {
        model["output_hidden_states"] = true.into();
    }
    let collate = match layout {
        Layout::Neat => json!({
            "_target_": "nemo_automodel.components.datasets.utils.neat_packed_collater",
            "attn_implementation": "flash_attention_2",
        }),
        Layout::Thd => json!("nemo_automodel.components.datasets.utils.packed_sequence_thd_collater"),
    };
    let mut optimizer = json!({
        "_target_": "torch.optim.AdamW",
        "lr": config.peak_lr,
        "betas": [config.betas.0, config.betas.1],
        "eps": config.eps,
        "weight_decay": config.weight_decay,
    });
    let undecayed = undecayed(material.base)?;
    if !undecayed.is_empty() && config.weight_decay > 0.0 {
        optimizer["param_group_overrides"] = json!([{ "pattern": undecayed, "wd_mult": 0.0 }]);
    }
    let mut recipe = json!({
        "recipe": "TrainFinetuneRecipeForNextTokenPrediction",
        "seed": material.seed & 0x7fff_ffff,
        "dist_env": { "backend": "nccl", "timeout_minutes": 30 },
        "step_scheduler": {
            "global_batch_size": params.batch,
            "local_batch_size": 1,
            "max_steps": config.steps,
            "num_epochs": 1,
            "ckpt_every_steps": run.checkpoint_every.unwrap_or(100).max(1),
            "save_checkpoint_every_epoch": false,
        },
        "model": model,
        "distributed": {
            "strategy": "fsdp2",
            "tp_size": run.parallel.tensor,
            "cp_size": run.parallel.context,
            "pp_size": 1,
            "activation_checkpointing": recompute,
            "mp_policy": {
                "_target_": "torch.distributed.fsdp.MixedPrecisionPolicy",
                "param_dtype": computed,
                "reduce_dtype": "float32",
                "output_dtype": computed,
                "cast_forward_inputs": true,
            },
        },
        "dataset": {
            "_target_": format!("{}:Packs", material.dataset.display()),
            "folder": path(material.data),
            "layout": layout.name(),
            "context_parallel": run.parallel.context,
            "pad_token": material.pad_token,
            // Nothing here is tokenized, and for some bases (Mistral's) Automodel looks for files of another kind than ours.
            "tokenizer": null,
        },
        "packed_sequence": {
            "packed_sequence_size": material.longest,
            "packing_strategy": layout.name(),
            "prepacked": true,
        },
        "dataloader": {
            "_target_": "torchdata.stateful_dataloader.StatefulDataLoader",
            "collate_fn": collate,
            "shuffle": false,
            // Workers are spawned, and could not import a data set that is a file beside the recipe.
            "num_workers": 0,
        },
        "loss_fn": {
            "_target_": if is_fused {
                "nemo_automodel.components.loss.linear_ce.FusedLinearCrossEntropy"
            } else {
                "nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy"
            },
        },
        "optimizer": optimizer,
        "lr_scheduler": {
            "lr_decay_style": match params.schedule {
                Schedule::Cosine => "cosine",
                Schedule::Constant => "constant",
            },
            "init_lr": config.initial_lr,
            "max_lr": config.peak_lr,
            "min_lr": config.min_lr,
            "lr_warmup_steps": config.warmup_steps,
            "lr_decay_steps": config.steps,
        },
        // As large as numbers go: Automodel clips at 1 where nothing is said.
        "clip_grad_norm": { "max_norm": config.clip_norm.unwrap_or(1e30) },
        "checkpoint": {
            "enabled": true,
            "checkpoint_dir": path(material.checkpoints),
            "model_save_format": "safetensors",
            "save_consolidated": "final",
            "max_recent_checkpoints": 2,
        },
    });
    if let Some(resume) = material.resume {
        // Said, for Automodel passes over one that it finds by itself: the base lies elsewhere in every run, which it takes for
        // another model.
        recipe["checkpoint"]["restore_from"] = path(resume).into();
    }
    let Value::Object(mut recipe) = recipe else { return Err("the recipe is no map".to_owned()) };
    overlay(&mut recipe, &run.recipe);
    overlay(&mut recipe, &trainer.options);
    Ok(yaml::write(&recipe))
}

fn overlay(recipe: &mut Map<String, Value>, options: &Map<String, Value>) {
    for (name, value) in options {
        yaml::set(recipe, name, value.clone());
    }
}

/// What Automodel would refuse after minutes of loading.
fn check(params: &Params, run: &Run, material: &Material<'_>, layout: Layout) -> Result<(), String> {
    let (world, config) = (material.size.world(), material.config);
    let spread = run.parallel.tensor.max(1) * run.parallel.context.max(1);
    if !world.is_multiple_of(spread) {
        return Err(format!(
            "{world} GPUs cannot be shared out in groups of {spread} (`parallel: {{ tensor: {}, context: {} }}`)",
            run.parallel.tensor, run.parallel.context
        ));
    }
    let side_by_side = (world / spread) as usize;
    if !params.batch.is_multiple_of(side_by_side) {
        return Err(format!(
            "a batch of {} packs cannot be shared out to {side_by_side} models side by side ({world} GPUs, {spread} for each); \
             take another number of GPUs or of `parallel`",
            params.batch
        ));
    }
    if layout == Layout::Neat && run.parallel.context > 1 {
        return Err("NeMo-Automodel spreads packs over GPUs only for models of its own (NemotronH); for this one use \
                    `parallel: { tensor }`"
            .to_owned());
    }
    if config.warmup_steps >= config.steps {
        return Err(format!(
            "NeMo-Automodel wants a warm-up shorter than the training, and it is {} of {} steps; lower `warmup_ratio`",
            config.warmup_steps, config.steps
        ));
    }
    if !(config.min_lr <= config.peak_lr && config.initial_lr <= config.peak_lr) {
        return Err("NeMo-Automodel wants no learning rate above the peak".to_owned());
    }
    Ok(())
}

/// A pattern of the names of what does not decay, which is what is no matrix: by their ends, since a model of Automodel's own
/// may hold its layers under another name.
fn undecayed(base: &Path) -> Result<String, String> {
    let weights = Weights::open(base).map_err(|error| error.to_string())?;
    let ends: BTreeSet<String> = weights
        .shapes()
        .filter(|(_, shape)| shape.len() < 2)
        .map(|(name, _)| {
            let parts: Vec<&str> = name.rsplit('.').take(2).collect();
            parts
                .into_iter()
                .rev()
                .filter(|part| part.parse::<u64>().is_err())
                .collect::<Vec<_>>()
                .join(r"\.")
        })
        .collect();
    if ends.is_empty() {
        return Ok(String::new());
    }
    Ok(format!(r"(^|\.)({})$", ends.into_iter().collect::<Vec<_>>().join("|")))
}
