//! Training on packed samples: one optimiser step at a time, with checkpoints that resume to the bit.
//!
//! The loss of a step is the mean over all its label tokens, whichever pack they are in. Samples in a pack do not see each
//! other. Weights, and so losses, do not depend on the number of threads.

mod checkpoint;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::ThreadPool;
use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::loss::{CrossEntropy, Head};
use crate::model::{self, Batch, Config, ModelError, Places, Tape};
use crate::optimizer::{AdamW, Moments, Schedule, Step, global_norm, update};

/// Tokens computed at once; a larger step is cut between packs.
const PASS: usize = 4096;

/// Samples laid end to end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// The tokens of all samples.
    pub tokens: Vec<u32>,
    /// Per token, 1 where it is to be learned: a label. The first token of a sample is never one, as nothing predicts it.
    pub loss_mask: Vec<u8>,
    /// Where each sample starts.
    pub starts: Vec<u32>,
}

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

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepStats {
    /// The step's number, from 1.
    pub step: u64,
    /// Mean loss over the label tokens, before the update.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// The learning rate used.
    pub lr: f64,
    /// Number of label tokens.
    pub loss_tokens: u64,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Steps done.
    pub step: u64,
    /// Packs consumed, over all epochs. With [`order`] this is also the state of the only random choice in training.
    pub packs: u64,
}

/// Why training failed.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The model cannot be read or written.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A pack is not what it should be.
    #[error("pack {pack} of the step is not valid: {reason}")]
    Pack {
        /// Its place in the step.
        pack: usize,
        /// What is wrong.
        reason: String,
    },
    /// Nothing to learn.
    #[error("no token of the step is a label")]
    NoLabels,
    /// The loss or the gradient is not a number any more.
    #[error("step {step} diverged: loss {loss}, gradient norm {grad_norm}")]
    Diverged {
        /// The step.
        step: u64,
        /// Its loss.
        loss: f64,
        /// Its gradient norm.
        grad_norm: f64,
    },
    /// A checkpoint cannot be used.
    #[error("checkpoint `{}` cannot be used: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// A model in training.
#[derive(Debug)]
pub struct Trainer {
    config: TrainConfig,
    model: Config,
    places: Places,
    weights: Vec<f32>,
    gradients: Vec<f32>,
    moments: Moments,
    position: Position,
    tape: Tape,
    loss: CrossEntropy,
    pool: Arc<ThreadPool>,
}

impl Trainer {
    /// Starts from the model in `base_dir`.
    pub fn new(base_dir: &Path, config: &TrainConfig, device: &Device) -> Result<Self, TrainError> {
        if let Device::Cuda(ordinal) = device {
            return Err(ModelError::Device(format!("training on CUDA device {ordinal}")).into());
        }
        let (model, places, weights) = model::load(base_dir)?;
        let total = weights.len();
        Ok(Self {
            config: config.clone(),
            tape: Tape::new(&model, &places)?,
            loss: CrossEntropy::default(),
            gradients: vec![0.0; total],
            moments: Moments::new(total),
            position: Position::default(),
            pool: device.pool().map_err(ModelError::from)?,
            model,
            places,
            weights,
        })
    }

    /// How far the run has come.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The shape of the model.
    pub fn model(&self) -> &Config {
        &self.model
    }

    /// One optimiser step on the packs together.
    pub fn step(&mut self, packs: &[&Pack]) -> Result<StepStats, TrainError> {
        let pool = Arc::clone(&self.pool);
        pool.install(|| self.step_here(packs))
    }

    fn step_here(&mut self, packs: &[&Pack]) -> Result<StepStats, TrainError> {
        let (loss, loss_tokens) = self.compute_gradients(packs)?;
        let grad_norm = global_norm(&self.gradients);
        let step = self.position.step + 1;
        if !(loss.is_finite() && grad_norm.is_finite()) {
            return Err(TrainError::Diverged { step, loss, grad_norm });
        }
        let lr = self.config.schedule().rate(self.position.step);
        let scale = match self.config.clip_norm {
            Some(limit) if grad_norm > limit => limit / grad_norm,
            _ => 1.0,
        };
        let constants = AdamW {
            beta1: self.config.betas.0,
            beta2: self.config.betas.1,
            epsilon: self.config.eps,
            weight_decay: self.config.weight_decay,
        };
        let Self { places, weights, gradients, moments, .. } = self;
        update(&constants, Step { number: step, rate: lr, scale }, places, weights, gradients, moments);
        self.position = Position { step, packs: self.position.packs + packs.len() as u64 };
        Ok(StepStats { step, loss, grad_norm, lr, loss_tokens })
    }

    /// Leaves the gradient of the mean loss in `gradients`; returns that loss and the number of labels.
    fn compute_gradients(&mut self, packs: &[&Pack]) -> Result<(f64, u64), TrainError> {
        let batches = batches(packs, &self.model)?;
        let labels: usize = batches.iter().map(|batch| batch.labels.len()).sum();
        if labels == 0 {
            return Err(TrainError::NoLabels);
        }
        self.gradients.fill(0.0);
        let mut total = 0.0;
        for batch in &batches {
            self.tape.forward(&self.weights, batch);
            let Tape { normed, normed_gradient, .. } = &mut self.tape;
            let head =
                Head { weight: &self.weights[self.places.head.clone()], hidden: self.model.hidden_size };
            let to = &mut self.gradients[self.places.head.clone()];
            total +=
                self.loss.backward(head, normed, &batch.labels, 1.0 / labels as f32, normed_gradient, to);
            self.tape.backward(&self.weights, batch, &mut self.gradients);
        }
        Ok((total / labels as f64, labels as u64))
    }

    /// Saves everything that the rest of the run depends on, replacing the checkpoint in `dir` at once or not at all.
    pub fn save_checkpoint(&self, dir: &Path) -> Result<(), TrainError> {
        checkpoint::save(self, dir)
    }

    /// Continues from the checkpoint in `dir`, which must be of the same run.
    pub fn load_checkpoint(&mut self, dir: &Path) -> Result<(), TrainError> {
        checkpoint::load(self, dir)
    }

    /// Writes the model as a directory that [`model::Model::load`] and transformers read.
    pub fn save_model(&self, dir: &Path) -> Result<(), TrainError> {
        Ok(model::save(&self.model, &self.places, &self.weights, dir)?)
    }
}

/// The packs of the step after `position`: each epoch goes through all of them in an order of its own, without replacement.
///
/// The order is a function of its arguments, so a resumed run needs no random state.
pub fn order(seed: u64, position: Position, packs: usize, per_step: usize) -> Vec<usize> {
    let mut chosen = Vec::with_capacity(per_step);
    let mut current: Option<(u64, Vec<usize>)> = None;
    for place in position.packs..position.packs + per_step as u64 {
        let epoch = place / packs as u64;
        if current.as_ref().is_none_or(|(of, _)| *of != epoch) {
            current = Some((epoch, shuffled(seed, epoch, packs)));
        }
        let shuffled = current.as_ref().map(|(_, order)| order.as_slice()).unwrap_or_default();
        chosen.push(shuffled[(place % packs as u64) as usize]);
    }
    chosen
}

fn shuffled(seed: u64, epoch: u64, count: usize) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(epoch);
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        // The bias of the remainder is below 2⁻³² for any number of packs there is.
        order.swap(last, (random.next_u64() % (last as u64 + 1)) as usize);
    }
    order
}

/// Log-probabilities of the label tokens of each pack, in order, under the model in `dir`.
pub fn score(dir: &Path, packs: &[Pack], device: &Device) -> Result<Vec<Vec<f32>>, TrainError> {
    let mut trainer = Trainer::new(dir, &TrainConfig::new(1, 0.0), device)?;
    let pool = Arc::clone(&trainer.pool);
    pool.install(|| {
        let mut scores = Vec::with_capacity(packs.len());
        for pack in packs {
            let mut of_pack = Vec::new();
            for batch in batches(&[pack], &trainer.model)? {
                trainer.tape.forward(&trainer.weights, &batch);
                let weight = &trainer.weights[trainer.places.head.clone()];
                let head = Head { weight, hidden: trainer.model.hidden_size };
                of_pack.extend(trainer.loss.losses(head, &trainer.tape.normed, &batch.labels));
            }
            for loss in &mut of_pack {
                *loss = -*loss;
            }
            scores.push(of_pack);
        }
        Ok(scores)
    })
}

/// Checks the packs and lays them out as passes of about [`PASS`] tokens.
fn batches(packs: &[&Pack], model: &Config) -> Result<Vec<Batch>, TrainError> {
    let mut batches: Vec<Batch> = Vec::new();
    for (index, pack) in packs.iter().enumerate() {
        check(pack, model).map_err(|reason| TrainError::Pack { pack: index, reason })?;
        if batches.last().is_none_or(|batch| batch.inputs.len() + pack.tokens.len() > PASS) {
            batches.push(Batch::default());
        }
        if let Some(batch) = batches.last_mut() {
            append(batch, pack);
        }
    }
    Ok(batches)
}

fn check(pack: &Pack, model: &Config) -> Result<(), String> {
    let length = pack.tokens.len();
    if pack.loss_mask.len() != length {
        return Err(format!("{length} tokens and a loss mask of {}", pack.loss_mask.len()));
    }
    if pack.starts.first() != Some(&0) || !pack.starts.is_sorted_by(|a, b| a < b) {
        return Err("the starts do not rise from 0".to_owned());
    }
    if let Some(token) = pack.tokens.iter().find(|&&token| token as usize >= model.vocab_size) {
        return Err(format!("token {token} lies outside the vocabulary of {}", model.vocab_size));
    }
    for (start, end) in samples(pack) {
        if end <= start || end > length {
            return Err(format!("a sample starts at {start} of {length} tokens"));
        }
        if end - start - 1 > model.context() {
            return Err(format!("a sample of {} tokens exceeds the model's context", end - start));
        }
        if pack.loss_mask[start] != 0 {
            return Err(format!("token {start} starts a sample and is marked as a label"));
        }
    }
    Ok(())
}

/// Start and end of every sample.
fn samples(pack: &Pack) -> impl Iterator<Item = (usize, usize)> {
    let ends = pack.starts.iter().skip(1).map(|&start| start as usize).chain([pack.tokens.len()]);
    pack.starts.iter().map(|&start| start as usize).zip(ends)
}

/// A sample of n tokens is n - 1 inputs, each followed by the token it should predict.
fn append(batch: &mut Batch, pack: &Pack) {
    for (start, end) in samples(pack) {
        for place in start..end - 1 {
            if pack.loss_mask[place + 1] != 0 {
                batch.labels.push((batch.inputs.len(), pack.tokens[place + 1]));
            }
            batch.inputs.push(pack.tokens[place]);
            batch.positions.push((place - start) as u32);
        }
        batch.bounds.push(batch.inputs.len());
    }
}

#[cfg(test)]
mod tests;
