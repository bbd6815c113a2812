//! The params and the options of `train`: what decides the model, and what does not.

use std::collections::BTreeSet;

use dag_engine::task::Fault;
use dag_lm::train::{self, TrainConfig};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The params of `train`. How long is one of `steps`, `epochs`, `tokens` and `examples`: what is the same for two arms is what
/// they are matched by.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// What trains: what is built in, on one GPU or for small models on a CPU, or a program on GPUs.
    #[serde(default)]
    pub backend: Backend,
    /// Which program it is, where none is built in.
    #[serde(default)]
    pub trainer: Option<Trainer>,
    /// The optimiser.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// Optimiser steps.
    #[serde(default)]
    pub steps: Option<u64>,
    /// Times through all packs; may be a fraction.
    #[serde(default)]
    pub epochs: Option<f64>,
    /// Tokens to train on, prompts included, to the nearest step.
    #[serde(default)]
    pub tokens: Option<u64>,
    /// Examples to see, each as often as it comes up, to the nearest step.
    #[serde(default)]
    pub examples: Option<u64>,
    /// Packs in one step.
    pub batch: usize,
    /// The highest learning rate.
    pub peak_lr: f64,
    /// The learning rate of the first step; a tenth of the peak if it is left out.
    #[serde(default)]
    pub initial_lr: Option<f64>,
    /// The learning rate at the end; a hundredth of the peak if it is left out.
    #[serde(default)]
    pub min_lr: Option<f64>,
    /// The share of the steps until the peak.
    #[serde(default = "warmup_ratio")]
    pub warmup_ratio: f64,
    /// How the learning rate falls after the peak.
    #[serde(default)]
    pub schedule: Schedule,
    /// Shares of the first and the second moment kept from step to step.
    #[serde(default = "betas")]
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    #[serde(default = "eps")]
    pub eps: f64,
    /// Decay of matrices per unit of learning rate.
    #[serde(default = "weight_decay")]
    pub weight_decay: f64,
    /// The largest global norm of a gradient; zero for no limit.
    #[serde(default = "clip_norm")]
    pub clip_norm: f64,
    /// Low-rank adapters that are trained instead of the weights, and added to them at the end.
    #[serde(default)]
    pub lora: Option<Lora>,
    /// Steps after which the model is an output of its own besides the last one: `step_500` for 500.
    #[serde(default)]
    pub keep: Vec<u64>,
    /// Another number takes the packs in another order, and starts adapters from other weights.
    #[serde(default)]
    pub seed: u64,
}

/// What trains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The trainer that is built in.
    #[default]
    Embedded,
    /// A script of your own, started by `torchrun` or as `run: { launch }` says.
    Torchrun,
    /// NeMo-Automodel, with a recipe that is written here.
    Nemo,
}

/// A trainer that is a program: all of it that decides the model. How and where it is started stands under `run:`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Trainer {
    /// The script, for `backend: torchrun`. Its content decides reuse, not its path.
    #[serde(default)]
    pub script: Option<String>,
    /// Files that lie beside the script under these names, such as modules that it imports.
    #[serde(default)]
    pub files: IndexMap<String, String>,
    /// Which versions of what it is built on: an image, a lock file, `torch 2.8`. For `backend: nemo` the version of
    /// NeMo-Automodel, which is held against what it says of itself.
    #[serde(default)]
    pub version: Option<String>,
    /// The numbers that weights and moments are kept in, and those that are computed with.
    #[serde(default)]
    pub precision: Precision,
    /// How the packs are handed to a script.
    #[serde(default)]
    pub data: DataForm,
    /// What else decides the model: hyperparameters of the script's own, or fields of the recipe by their dotted names.
    #[serde(default)]
    pub options: Map<String, Value>,
}

/// The numbers of a training.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Weights and moments in 32 bits, products in bfloat16.
    #[default]
    Mixed,
    /// Everything in bfloat16: half the memory, and small updates are rounded away.
    Bf16,
    /// Everything in 32 bits.
    Fp32,
}

/// How packs are handed over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DataForm {
    /// Shards of safetensors with tokens, loss masks and where samples start, and the order in which packs are taken.
    #[default]
    Safetensors,
    /// Those, and `packs.idx.parquet` as Megatron-Bridge reads packed data.
    Megatron,
}

/// Low-rank adapters: `alpha/rank · B·A` beside the weight of every target (arXiv 2106.09685), without dropout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Rows of A and columns of B.
    pub rank: usize,
    /// The adapters are weighted by `alpha / rank`; twice the rank if it is left out.
    #[serde(default)]
    pub alpha: Option<f64>,
    /// The projections that get one, by the last part of their names.
    #[serde(default = "targets")]
    pub targets: Vec<String>,
}

fn targets() -> Vec<String> {
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"].map(str::to_owned).into()
}

fn warmup_ratio() -> f64 {
    0.03
}
fn betas() -> (f64, f64) {
    (0.9, 0.98)
}
fn eps() -> f64 {
    1e-8
}
fn weight_decay() -> f64 {
    0.1
}
fn clip_norm() -> f64 {
    1.0
}

/// The optimisers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam with decoupled weight decay.
    #[default]
    Adamw,
}

/// How the learning rate falls after the peak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// As half a cosine, down to `min_lr`.
    #[default]
    Cosine,
    /// Not at all: it stays at the peak.
    Constant,
}

/// The operational options of `train`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Run {
    /// Steps between checkpoints (default 100). A killed run goes on from the last.
    pub checkpoint_every: Option<u64>,
    /// Whether activations are computed again on the way back instead of kept: a tenth of the memory for about a quarter more
    /// time. `auto`, the default, does so for passes whose activations would take more than 2 GiB, or a quarter of what is free on a
    /// GPU. No byte depends on it.
    pub recompute: Recompute,
    /// For a trainer that is a program: what starts it, on each machine. The program and its arguments follow. `{nodes}`,
    /// `{processes}` (on each machine), `{endpoint}` (where they meet) and `{job}` are filled in. By default `torchrun` with these.
    pub launch: Option<Vec<String>>,
    /// Machines; by default those of the Slurm allocation, or one. More than one are reached by `srun`.
    pub nodes: Option<u32>,
    /// Processes on each machine; by default one for each GPU.
    pub processes_per_node: Option<u32>,
    /// Further options for `srun`.
    pub srun: Vec<String>,
    /// The port at which machines meet (default 29500).
    pub port: Option<u16>,
    /// Seconds that a program gets for a last checkpoint when the run is stopped (default 600).
    pub grace: Option<f64>,
    /// What asks it to (default `term`).
    pub stop_signal: StopSignal,
    /// Environment variables for it that decide nothing, such as `NCCL_DEBUG`.
    pub env: IndexMap<String, String>,
    /// Environment variables that are handed through to it.
    pub pass_env: Vec<String>,
    /// How NeMo spreads one model over GPUs; what is left of them takes packs side by side.
    pub parallel: Parallel,
    /// Fields of NeMo's recipe that decide nothing but speed and memory, by their dotted names.
    pub recipe: Map<String, Value>,
}

/// What asks a program to write a checkpoint and end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StopSignal {
    /// SIGTERM.
    #[default]
    Term,
    /// SIGUSR1.
    Usr1,
    /// SIGINT.
    Int,
}

/// Over how many GPUs one model is spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Parallel {
    /// Each matrix.
    pub tensor: u32,
    /// Each pack.
    pub context: u32,
}

impl Default for Parallel {
    fn default() -> Self {
        Self { tensor: 1, context: 1 }
    }
}

/// Whether activations are computed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Recompute {
    /// Always, or never.
    Plain(bool),
    /// Where there are many.
    Named(Auto),
}

/// The word for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Auto {
    /// Where there are many.
    Auto,
}

impl Default for Recompute {
    fn default() -> Self {
        Self::Named(Auto::Auto)
    }
}

impl From<Recompute> for train::Recompute {
    fn from(recompute: Recompute) -> Self {
        match recompute {
            Recompute::Plain(true) => Self::Always,
            Recompute::Plain(false) => Self::Never,
            Recompute::Named(Auto::Auto) => Self::Auto,
        }
    }
}

impl Params {
    /// The steps, if what is known of the packs is enough to tell.
    pub(super) fn steps(&self, packs: Size) -> Option<u64> {
        let in_one_step = |total: Option<u64>| {
            Some(total? as f64 / packs.packs? as f64 * self.batch.max(1) as f64)
                .filter(|tokens| *tokens > 0.0)
        };
        let steps = if let Some(steps) = self.steps {
            return Some(steps);
        } else if let Some(tokens) = self.tokens {
            (tokens as f64 / in_one_step(packs.tokens)?).round()
        } else if let Some(examples) = self.examples {
            (examples as f64 / in_one_step(packs.examples)?).round()
        } else {
            (self.epochs.unwrap_or(1.0) * packs.packs? as f64 / self.batch.max(1) as f64).ceil()
        };
        Some((steps as u64).max(1))
    }

    pub(super) fn config(&self, steps: u64, seed: u64) -> TrainConfig {
        TrainConfig {
            steps,
            peak_lr: self.peak_lr,
            initial_lr: self.initial_lr.unwrap_or(self.peak_lr / 10.0),
            min_lr: match self.schedule {
                Schedule::Cosine => self.min_lr.unwrap_or(self.peak_lr / 100.0),
                Schedule::Constant => self.peak_lr,
            },
            warmup_steps: (self.warmup_ratio * steps as f64).round() as u64,
            betas: self.betas,
            eps: self.eps,
            weight_decay: self.weight_decay,
            clip_norm: (self.clip_norm > 0.0).then_some(self.clip_norm),
            lora: self.lora.as_ref().map(|lora| train::Lora {
                rank: lora.rank,
                alpha: lora.alpha.unwrap_or(2.0 * lora.rank as f64),
                targets: lora.targets.clone(),
                seed,
            }),
        }
    }
}

/// What is known of the packs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Size {
    pub(super) packs: Option<u64>,
    pub(super) tokens: Option<u64>,
    pub(super) examples: Option<u64>,
}

/// What is wrong with the params beyond what their types say.
pub(super) fn faults(params: &Params) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut require = |holds: bool, pointer: &str, message: &str| {
        if !holds {
            faults.push(Fault::new(pointer, message));
        }
    };
    let is_rate = |rate: f64| rate.is_finite() && rate >= 0.0;
    let given =
        [params.steps.is_some(), params.epochs.is_some(), params.tokens.is_some(), params.examples.is_some()];
    require(
        given.iter().filter(|is_given| **is_given).count() == 1,
        "",
        "how long to train is one of `steps`, `epochs`, `tokens` and `examples`",
    );
    require(params.tokens != Some(0), "/tokens", "there is at least one token to train on");
    require(params.examples != Some(0), "/examples", "there is at least one example to see");
    require(params.steps != Some(0), "/steps", "there is at least one step");
    require(
        params.epochs.is_none_or(|epochs| epochs.is_finite() && epochs > 0.0),
        "/epochs",
        "epochs are above zero",
    );
    require(params.batch > 0, "/batch", "a step has at least one pack");
    require(is_rate(params.peak_lr), "/peak_lr", "a learning rate is zero or more");
    require(params.initial_lr.is_none_or(is_rate), "/initial_lr", "a learning rate is zero or more");
    require(params.min_lr.is_none_or(is_rate), "/min_lr", "a learning rate is zero or more");
    require(
        params.schedule == Schedule::Cosine || params.min_lr.is_none(),
        "/min_lr",
        "a constant schedule ends at the peak",
    );
    require((0.0..=1.0).contains(&params.warmup_ratio), "/warmup_ratio", "a share is from 0 to 1");
    let is_share = |beta: f64| (0.0..1.0).contains(&beta);
    require(is_share(params.betas.0) && is_share(params.betas.1), "/betas", "betas are from 0 to below 1");
    require(params.eps > 0.0, "/eps", "epsilon is above zero");
    require(is_rate(params.weight_decay), "/weight_decay", "a decay is zero or more");
    require(is_rate(params.clip_norm), "/clip_norm", "a norm is zero or more");
    let last = params.steps.unwrap_or(u64::MAX);
    require(
        params.keep.iter().all(|&step| step > 0 && step < last),
        "/keep",
        "steps to keep are between the first and the last, which is kept as `model`",
    );
    let different: BTreeSet<u64> = params.keep.iter().copied().collect();
    require(different.len() == params.keep.len(), "/keep", "a step is named twice");
    if let Some(lora) = &params.lora {
        require(lora.rank > 0, "/lora/rank", "a rank is at least 1");
        require(
            lora.alpha.is_none_or(|alpha| alpha.is_finite() && alpha > 0.0),
            "/lora/alpha",
            "an alpha is above zero",
        );
        require(!lora.targets.is_empty(), "/lora/targets", "adapters are of at least one projection");
    }
    faults.extend(faults_of_backend(params));
    faults
}

/// What does not fit the trainer that is chosen.
fn faults_of_backend(params: &Params) -> Vec<Fault> {
    let mut faults = Vec::new();
    let Some(trainer) = &params.trainer else {
        let help = match params.backend {
            Backend::Embedded => return faults,
            Backend::Torchrun => "`trainer: { script: train.py }`",
            Backend::Nemo => "`trainer: { version: 0.7.0 }`, the version of NeMo-Automodel that is installed",
        };
        faults.push(Fault::new("/backend", "this backend needs to know its trainer").help(help));
        return faults;
    };
    let mut fault = |pointer: &str, message: &str| faults.push(Fault::new(pointer, message));
    match params.backend {
        Backend::Embedded => {
            fault("/trainer", "the trainer that is built in has no options of this kind; choose a `backend`");
        }
        Backend::Torchrun => {
            if trainer.script.as_ref().is_none_or(String::is_empty) {
                fault("/trainer/script", "`backend: torchrun` starts a script");
            }
            for name in trainer.files.keys().filter(|name| !is_plain(name)) {
                fault(&format!("/trainer/files/{name}"), "this is no file name");
            }
        }
        Backend::Nemo => {
            if trainer.script.is_some() || !trainer.files.is_empty() {
                fault("/trainer/script", "`backend: nemo` starts NeMo-Automodel and no script");
            }
            match trainer.version.as_deref() {
                None | Some("") => fault(
                    "/trainer/version",
                    "the version of NeMo-Automodel decides the model, so it must be said",
                ),
                // They would pack the packs once more, in an order of their own.
                Some(version) if (0..6).any(|minor| version.starts_with(&format!("0.{minor}."))) => fault(
                    "/trainer/version",
                    "NeMo-Automodel takes packs as they are from 0.6 on; the recipe is written for 0.7",
                ),
                Some(_) => {}
            }
            if trainer.data != DataForm::Safetensors {
                fault("/trainer/data", "NeMo-Automodel gets its packs in one form");
            }
            if params.lora.is_some() {
                fault(
                    "/lora",
                    "adapters are not trained with `backend: nemo`; use `torchrun`, or train all weights",
                );
            }
            if !params.keep.is_empty() {
                fault(
                    "/keep",
                    "earlier steps are not kept with `backend: nemo`; train once for each, or use `torchrun`",
                );
            }
        }
    }
    faults
}

/// Whether a name is that of a file in a folder, and leads nowhere else.
fn is_plain(name: &str) -> bool {
    std::path::Path::new(name).file_name().is_some_and(|plain| plain == name) && name != "training.json"
}
