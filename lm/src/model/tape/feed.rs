//! A feed-forward block in training.

use super::{Backward, at, project, project_backward};
use crate::kernels::matmul::Into;
use crate::model::{FeedPlaces, room};

/// What the way back needs.
#[derive(Debug)]
pub(super) struct FeedTape {
    places: FeedPlaces,
    input: Vec<f32>,
    active: Vec<f32>,
}

impl FeedTape {
    pub(super) fn new(places: &FeedPlaces) -> Self {
        Self { places: places.clone(), input: Vec::new(), active: Vec::new() }
    }

    pub(super) fn forward(&mut self, weights: &[f32], normed: &[f32], rows: usize, stream: &mut [f32]) {
        let places = &self.places;
        let inner = places.down.len() / (stream.len() / rows);
        let input = room(&mut self.input, rows * places.activation.inputs() * inner);
        project(input, normed, at(weights, &places.inward), rows, Into::Replace);
        let active = room(&mut self.active, rows * inner);
        places.activation.forward(input, inner, active);
        project(stream, active, at(weights, &places.down), rows, Into::Accumulate);
    }

    pub(super) fn backward(&mut self, rows: usize, back: Backward<'_>) {
        let Backward { weights, normed, gradient, normed_gradient, gradients, scratch } = back;
        let places = &self.places;
        let inner = self.active.len() / rows;
        let active = room(&mut scratch.inner, rows * inner);
        let to = &mut gradients[places.down.clone()];
        project_backward(active, to, gradient, &self.active, at(weights, &places.down), rows);
        places.activation.backward(&mut self.input, inner, active);
        let to = &mut gradients[places.inward.clone()];
        project_backward(normed_gradient, to, &self.input, normed, at(weights, &places.inward), rows);
    }
}
