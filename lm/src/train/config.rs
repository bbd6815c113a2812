//! How a run trains.

use serde::{Deserialize, Serialize};

use crate::model::Lora;
use crate::optimizer::Schedule;

/// How to train. The defaults of the optimiser are those of the NeMo family of trainers (Megatron-Bridge's supervised
/// fine-tuning recipe: betas 0.9 and 0.98, epsilon 1e-8, weight decay 0.1, clipping at 1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimiser steps of the whole run.
    pub steps: u64,
    /// The highest learning rate.
    pub peak_lr: f64,
    /// The learning rate of the first step.
    pub initial_lr: f64,
    /// The learning rate at the end.
    pub min_lr: f64,
    /// Steps until the peak.
    pub warmup_steps: u64,
    /// Shares of the old moments kept per step.
    #[serde(default = "default_betas")]
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    #[serde(default = "default_eps")]
    pub eps: f64,
    /// Decay of matrices per unit of learning rate.
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f64,
    /// The largest global norm of a step's gradient; none: no clipping.
    #[serde(default = "default_clip_norm")]
    pub clip_norm: Option<f64>,
    /// Adapters that are trained instead of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
}

fn default_betas() -> (f64, f64) {
    (0.9, 0.98)
}

fn default_eps() -> f64 {
    1e-8
}

fn default_weight_decay() -> f64 {
    0.1
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the type of the field")]
fn default_clip_norm() -> Option<f64> {
    Some(1.0)
}

impl TrainConfig {
    /// A run of so many steps up to `peak_lr`, shaped as the paper's: 3 % warm-up from a tenth of the peak, cosine down to a
    /// hundredth.
    pub fn new(steps: u64, peak_lr: f64) -> Self {
        Self {
            steps,
            peak_lr,
            initial_lr: peak_lr / 10.0,
            min_lr: peak_lr / 100.0,
            warmup_steps: steps * 3 / 100,
            betas: default_betas(),
            eps: default_eps(),
            weight_decay: default_weight_decay(),
            clip_norm: default_clip_norm(),
            lora: None,
        }
    }

    /// The learning rate over the run.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            steps: self.steps,
            warmup_steps: self.warmup_steps,
            initial: self.initial_lr,
            peak: self.peak_lr,
            minimum: self.min_lr,
        }
    }
}
