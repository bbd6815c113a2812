//! What computes the steps of a training, on whatever device: it holds the weights, their gradients and their moments.

use std::any::Any;
use std::borrow::Cow;
use std::fmt::Debug;

use super::TrainError;
use crate::model::{Batch, Recompute};
use crate::optimizer::{AdamW, Step};

/// All that changes from step to step: what is trained and its moments, at the places of the parameters.
#[derive(Debug)]
pub(super) struct State<'a> {
    pub(super) trained: Cow<'a, [f32]>,
    pub(super) first: Cow<'a, [f32]>,
    pub(super) second: Cow<'a, [f32]>,
}

/// A model in training on one device.
///
/// What is trained are all weights of the model, or adapters beside them; the model's own weights then stay what they are.
pub(super) trait Engine: Any + Debug + Send + Sync {
    /// Tokens computed at once; a larger step is cut between packs.
    fn pass(&self) -> usize;

    /// Whether activations are kept or computed again on the way back; no bit depends on it.
    fn set_recompute(&mut self, recompute: Recompute);

    /// Bytes of a GPU's memory that it holds: weights, gradients, moments and what passes have needed so far.
    fn gpu_bytes(&self) -> Option<usize> {
        None
    }

    /// Replaces the gradients by those of `scale` times the sum of all labels' losses; returns that sum, not scaled. At least
    /// one of the batches has a label.
    fn compute_gradients(&mut self, batches: &[Batch], scale: f32) -> Result<f64, TrainError>;

    /// The Euclidean norm of all gradients together.
    fn gradient_norm(&mut self) -> Result<f64, TrainError>;

    /// One update of what is trained, by the gradients.
    fn update(&mut self, constants: &AdamW, step: Step) -> Result<(), TrainError>;

    /// The negative log-probability of every label, in order.
    fn losses(&mut self, batch: &Batch) -> Result<Vec<f32>, TrainError>;

    /// What is trained and its moments, exactly.
    fn state(&self) -> Result<State<'_>, TrainError>;

    /// What is trained alone.
    fn trained(&self) -> Result<Cow<'_, [f32]>, TrainError>;

    /// Takes over what [`Engine::state`] gave: each part as the bytes of its numbers, little-endian, as long as what is there.
    fn restore(&mut self, trained: &[u8], first: &[u8], second: &[u8]) -> Result<(), TrainError>;

    /// The model's weights: without the adapters, if there are any.
    fn weights(&self) -> Result<Cow<'_, [f32]>, TrainError>;

    /// The gradients.
    #[cfg(test)]
    fn gradients(&self) -> Result<Vec<f32>, TrainError>;
}
