//! A feed-forward block in training.

use super::{Backward, Weights};
use crate::kernels::matmul::Into;
use crate::model::{FeedPlaces, room};

/// What the way back needs.
#[derive(Debug, Default)]
pub(super) struct FeedTape {
    input: Vec<f32>,
    active: Vec<f32>,
}

impl FeedTape {
    /// Numbers kept per token, in a model of this width.
    pub(super) fn width(places: &FeedPlaces, hidden: usize) -> usize {
        (places.activation.inputs() + 1) * places.down.len() / hidden
    }

    pub(super) fn forward(&mut self, places: &FeedPlaces, weights: Weights<'_>, normed: &[f32], rows: usize) {
        let inner = places.down.len() / (normed.len() / rows);
        let input = room(&mut self.input, rows * places.activation.inputs() * inner);
        weights.project(input, normed, &places.inward, rows, Into::Replace);
        places.activation.forward(input, inner, room(&mut self.active, rows * inner));
    }

    /// Adds what the block gave to the stream.
    pub(super) fn add(&self, places: &FeedPlaces, weights: Weights<'_>, rows: usize, stream: &mut [f32]) {
        weights.project(stream, &self.active, &places.down, rows, Into::Accumulate);
    }

    pub(super) fn backward(&mut self, places: &FeedPlaces, rows: usize, back: Backward<'_, '_>) {
        let Backward { weights, normed, gradient, normed_gradient, gradients, scratch } = back;
        let inner = self.active.len() / rows;
        let active = room(&mut scratch.inner, rows * inner);
        gradients.project_backward(weights, &places.down, active, gradient, &self.active, rows);
        places.activation.backward(&mut self.input, inner, active);
        gradients.project_backward(weights, &places.inward, normed_gradient, &self.input, normed, rows);
    }
}
