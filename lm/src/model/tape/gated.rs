//! The gated feed-forward block in training.

use super::{Backward, at, project, project_backward};
use crate::kernels::activation::{swiglu, swiglu_backward};
use crate::kernels::matmul::Into;
use crate::model::{GatedPlaces, room};

/// What the way back needs.
#[derive(Debug)]
pub(super) struct GatedTape {
    places: GatedPlaces,
    gate_up: Vec<f32>,
    active: Vec<f32>,
}

impl GatedTape {
    pub(super) fn new(places: &GatedPlaces) -> Self {
        Self { places: places.clone(), gate_up: Vec::new(), active: Vec::new() }
    }

    pub(super) fn forward(&mut self, weights: &[f32], normed: &[f32], rows: usize, stream: &mut [f32]) {
        let places = &self.places;
        let inner = places.down.len() / (stream.len() / rows);
        let gate_up = room(&mut self.gate_up, rows * 2 * inner);
        project(gate_up, normed, at(weights, &places.gate_up), rows, Into::Replace);
        let active = room(&mut self.active, rows * inner);
        swiglu(gate_up, inner, active);
        project(stream, active, at(weights, &places.down), rows, Into::Accumulate);
    }

    pub(super) fn backward(&mut self, rows: usize, back: Backward<'_>) {
        let Backward { weights, normed, gradient, normed_gradient, gradients, scratch } = back;
        let places = &self.places;
        let inner = self.active.len() / rows;
        let active = room(&mut scratch.inner, rows * inner);
        let to = &mut gradients[places.down.clone()];
        project_backward(active, to, gradient, &self.active, at(weights, &places.down), rows);
        swiglu_backward(&mut self.gate_up, inner, active);
        let to = &mut gradients[places.gate_up.clone()];
        project_backward(normed_gradient, to, &self.gate_up, normed, at(weights, &places.gate_up), rows);
    }
}
