//! The params and the options of `train`: what decides the model, and what does not.

use std::collections::BTreeSet;

use dag_engine::task::Fault;
use dag_lm::train::{self, TrainConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The params of `train`. How long is one of `steps`, `epochs`, `tokens` and `examples`: what is the same for two arms is what
/// they are matched by.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
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
    /// time. `auto`, the default, does so for passes whose activations would take more than 2 GiB. No byte depends on it.
    pub recompute: Recompute,
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
    faults
}
