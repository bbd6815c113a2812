//! Training on packed samples: one optimiser step at a time, with checkpoints that resume to the bit.
//!
//! The loss of a step is the mean over all its label tokens, whichever pack they are in. Samples in a pack do not see each
//! other. Weights, and so losses, do not depend on the number of threads.

mod checkpoint;
mod config;
mod engine;
mod on_cpu;
mod on_gpu;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::ThreadPool;
use serde::{Deserialize, Serialize};

use crate::device::{self, Device};
use crate::gpu::{self, Gpu, GpuError};
use crate::model::{self, Adapters, Batch, Config, ModelError, Places};
use crate::optimizer::{AdamW, Step};
use engine::Engine;
use on_cpu::OnCpu;
use on_gpu::{Base, OnGpu};

pub use crate::model::{Lora, Recompute};
pub use config::TrainConfig;

/// Where in a trained model's directory its adapters lie.
pub const ADAPTER_FOLDER: &str = "adapter";

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
    /// The GPU failed, or there is none.
    #[error(transparent)]
    Gpu(#[from] GpuError),
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
    /// The adapters as they are at the start, if these are what is trained.
    adapters: Option<Adapters>,
    position: Position,
    engine: Box<dyn Engine>,
    pool: Arc<ThreadPool>,
}

impl Trainer {
    /// Starts from the model in `base_dir`.
    pub fn new(base_dir: &Path, config: &TrainConfig, device: &Device) -> Result<Self, TrainError> {
        match *device {
            Device::Cpu { threads } => {
                let (model, places, weights) = model::load(base_dir)?;
                Self::with(model, places, config, threads, |model, places, adapters| {
                    Ok(Box::new(OnCpu::new(model, places, weights, adapters)?))
                })
            }
            Device::Cuda(ordinal) => {
                let (model, places) = model::shape(base_dir)?;
                OnGpu::check(&model, &places)?;
                Self::on_gpu(&gpu::open(ordinal)?, model, places, config, Base::Stored(base_dir.to_owned()))
            }
        }
    }

    /// Starts from a model of this shape with weights that mean nothing, on a GPU: for measurements.
    pub fn with_random_weights(
        model: &Config,
        config: &TrainConfig,
        ordinal: usize,
    ) -> Result<Self, TrainError> {
        model.check()?;
        let places = Places::new(model);
        OnGpu::check(model, &places)?;
        Self::on_gpu(&gpu::open(ordinal)?, model.clone(), places, config, Base::Random)
    }

    fn on_gpu(
        gpu: &Gpu,
        model: Config,
        places: Places,
        config: &TrainConfig,
        base: Base,
    ) -> Result<Self, TrainError> {
        // What is left to the CPU: adding adapters to the weights that are saved.
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with(model, places, config, threads, |model, places, adapters| {
            Ok(Box::new(OnGpu::new(gpu, model, places, base, adapters)?))
        })
    }

    fn with(
        model: Config,
        places: Places,
        config: &TrainConfig,
        threads: usize,
        engine: impl FnOnce(&Config, &Places, Option<Adapters>) -> Result<Box<dyn Engine>, TrainError>,
    ) -> Result<Self, TrainError> {
        let adapters = config.lora.as_ref().map(|lora| Adapters::new(&places, lora)).transpose()?;
        Ok(Self {
            config: config.clone(),
            engine: engine(&model, &places, adapters.clone())?,
            position: Position::default(),
            pool: device::pool(threads).map_err(ModelError::from)?,
            model,
            places,
            adapters,
        })
    }

    /// Whether activations are kept or computed again on the way back; no bit depends on it.
    pub fn set_recompute(&mut self, recompute: Recompute) {
        self.engine.set_recompute(recompute);
    }

    /// Bytes of the GPU's memory that the training holds, if it is on one: weights, gradients, moments and what steps have needed
    /// so far.
    pub fn gpu_bytes(&self) -> Option<usize> {
        self.engine.gpu_bytes()
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
        let grad_norm = self.engine.gradient_norm()?;
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
        self.engine.update(&constants, Step { number: step, rate: lr, scale })?;
        self.position = Position { step, packs: self.position.packs + packs.len() as u64 };
        Ok(StepStats { step, loss, grad_norm, lr, loss_tokens })
    }

    /// Leaves the gradient of the mean loss with what computes; returns that loss and the number of labels.
    fn compute_gradients(&mut self, packs: &[&Pack]) -> Result<(f64, u64), TrainError> {
        let batches = batches(packs, &self.model, self.engine.pass())?;
        let labels: usize = batches.iter().map(|batch| batch.labels.len()).sum();
        if labels == 0 {
            return Err(TrainError::NoLabels);
        }
        let total = self.engine.compute_gradients(&batches, 1.0 / labels as f32)?;
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

    /// Log-probabilities of the label tokens of each pack, in order.
    pub fn score(&mut self, packs: &[Pack]) -> Result<Vec<Vec<f32>>, TrainError> {
        let pool = Arc::clone(&self.pool);
        pool.install(|| packs.iter().map(|pack| self.score_pack(pack)).collect())
    }

    fn score_pack(&mut self, pack: &Pack) -> Result<Vec<f32>, TrainError> {
        let mut scores = Vec::new();
        for batch in batches(&[pack], &self.model, self.engine.pass())? {
            scores.extend(self.engine.losses(&batch)?.into_iter().map(|loss| -loss));
        }
        Ok(scores)
    }

    /// Writes the model as a directory that [`model::Model::load`] and transformers read. Adapters are added to the weights,
    /// and also lie in [`ADAPTER_FOLDER`] below it, as PEFT reads them.
    pub fn save_model(&self, dir: &Path) -> Result<(), TrainError> {
        let trained = self.engine.trained()?;
        let Some((adapters, lora)) = self.adapters.as_ref().zip(self.config.lora.as_ref()) else {
            return Ok(model::save(&self.model, &self.places, &trained, dir)?);
        };
        let adapters = adapters.with(trained.into_owned());
        let mut merged = self.engine.weights()?.into_owned();
        self.pool.install(|| adapters.merge(&mut merged));
        model::save(&self.model, &self.places, &merged, dir)?;
        Ok(adapters.save(lora, &dir.join(ADAPTER_FOLDER))?)
    }

    /// Numbers that are trained.
    fn trained_len(&self) -> usize {
        self.adapters.as_ref().map_or(self.places.total(), |adapters| adapters.values.len())
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

/// [`Trainer::score`] of the model in `dir`.
pub fn score(dir: &Path, packs: &[Pack], device: &Device) -> Result<Vec<Vec<f32>>, TrainError> {
    Trainer::new(dir, &TrainConfig::new(1, 0.0), device)?.score(packs)
}

/// Checks the packs and lays them out as passes of up to `pass` tokens, or of one pack that has more.
fn batches(packs: &[&Pack], model: &Config, pass: usize) -> Result<Vec<Batch>, TrainError> {
    let mut batches: Vec<Batch> = Vec::new();
    for (index, pack) in packs.iter().enumerate() {
        check(pack, model).map_err(|reason| TrainError::Pack { pack: index, reason })?;
        if batches.last().is_none_or(|batch| batch.inputs.len() + pack.tokens.len() > pass) {
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
