//! Running a model for training: forward, keeping what the way back needs, and backward, accumulating gradients.
//!
//! The gradient of a weight continues one chain of additions over the tokens, so cutting a batch into passes does not change
//! what a projection's gradient is.

use super::{Config, LayerPlaces, Places};
use crate::kernels::activation::{swiglu, swiglu_backward};
use crate::kernels::attention::{attention, attention_backward, kept_len};
use crate::kernels::matmul::{Into, Matrix, matmul};
use crate::kernels::norm::{rms_norm, rms_norm_backward};
use crate::kernels::rope::{Rotation, Turn};

/// Samples laid end to end, without padding.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    /// The tokens that are read.
    pub(crate) inputs: Vec<u32>,
    /// Where each stands in its sample.
    pub(crate) positions: Vec<u32>,
    /// The end of each sample.
    pub(crate) bounds: Vec<usize>,
    /// Rows whose next token is learned, and that token.
    pub(crate) labels: Vec<(usize, u32)>,
}

/// Everything that one pass keeps; its buffers are used again by the next.
#[derive(Debug)]
pub(crate) struct Tape {
    config: Config,
    places: Places,
    rotation: Rotation,
    layers: Vec<LayerTape>,
    /// The residual stream after the last layer.
    last: Vec<f32>,
    scales: Vec<f32>,
    /// The same, normalised: what the head reads.
    pub(crate) normed: Vec<f32>,
    /// The gradient of `normed`, for the caller to fill.
    pub(crate) normed_gradient: Vec<f32>,
    /// Gradients on the way back: of the residual stream and of what is inside a layer.
    stream: Vec<f32>,
    narrow: Vec<f32>,
    attended: Vec<f32>,
    qkv: Vec<f32>,
    wide: Vec<f32>,
}

/// What one layer keeps.
#[derive(Clone, Debug, Default)]
struct LayerTape {
    /// The residual stream before attention, and after it.
    before: Vec<f32>,
    between: Vec<f32>,
    attention_scales: Vec<f32>,
    attention_normed: Vec<f32>,
    qkv: Vec<f32>,
    kept: Vec<f32>,
    attended: Vec<f32>,
    feed_scales: Vec<f32>,
    feed_normed: Vec<f32>,
    gate_up: Vec<f32>,
    active: Vec<f32>,
}

/// A slice of `length` places with any contents.
fn room(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    buffer.resize(length, 0.0);
    buffer
}

/// `to = x · weightᵀ`, the weight stored with a row per output.
fn project(to: &mut [f32], x: &[f32], weight: &[f32], rows: usize, into: Into) {
    let (inputs, outputs) = (x.len() / rows, to.len() / rows);
    matmul(to, Matrix::new(x, rows, inputs), Matrix::new(weight, outputs, inputs).transposed(), into);
}

/// The way back through [`project`]: the gradient of `x`, and that of the weight added to what is there.
pub(crate) fn project_backward(
    x_gradient: &mut [f32],
    weight_gradient: &mut [f32],
    gradient: &[f32],
    x: &[f32],
    weight: &[f32],
    rows: usize,
) {
    let (inputs, outputs) = (x.len() / rows, gradient.len() / rows);
    let gradient = Matrix::new(gradient, rows, outputs);
    matmul(weight_gradient, gradient.transposed(), Matrix::new(x, rows, inputs), Into::Accumulate);
    matmul(x_gradient, gradient, Matrix::new(weight, outputs, inputs), Into::Replace);
}

impl Tape {
    pub(crate) fn new(config: &Config, places: &Places) -> Self {
        let empty = Vec::new;
        Self {
            rotation: Rotation::new(config.heads().dim, config.theta(), config.max_position_embeddings),
            layers: vec![LayerTape::default(); config.num_hidden_layers],
            last: empty(),
            scales: empty(),
            normed: empty(),
            normed_gradient: empty(),
            stream: empty(),
            narrow: empty(),
            attended: empty(),
            qkv: empty(),
            wide: empty(),
            config: config.clone(),
            places: places.clone(),
        }
    }

    /// Fills [`Tape::normed`] and everything that [`Tape::backward`] needs.
    pub(crate) fn forward(&mut self, weights: &[f32], batch: &Batch) {
        let (rows, hidden, inner) =
            (batch.inputs.len(), self.config.hidden_size, self.config.intermediate_size);
        let (heads, epsilon) = (self.config.heads(), self.config.rms_norm_eps as f32);
        let embedding = &weights[self.places.embedding.clone()];
        room(&mut self.last, rows * hidden);
        for (row, &token) in self.last.chunks_exact_mut(hidden).zip(&batch.inputs) {
            row.copy_from_slice(&embedding[token as usize * hidden..][..hidden]);
        }
        for (tape, places) in self.layers.iter_mut().zip(&self.places.layers) {
            let weight = |places: &std::ops::Range<usize>| &weights[places.clone()];
            std::mem::swap(&mut tape.before, &mut self.last);
            room(&mut self.last, rows * hidden);
            let normed = room(&mut tape.attention_normed, rows * hidden);
            let scales = room(&mut tape.attention_scales, rows);
            rms_norm(&tape.before, weight(&places.attention_norm), epsilon, normed, scales);
            let qkv = room(&mut tape.qkv, rows * heads.row());
            project(qkv, normed, weight(&places.qkv), rows, Into::Replace);
            self.rotation.apply(
                qkv,
                heads.row(),
                heads.queries + heads.keys,
                &batch.positions,
                Turn::Forward,
            );
            let attended = room(&mut tape.attended, rows * heads.out());
            attention(heads, qkv, &batch.bounds, attended, room(&mut tape.kept, kept_len(heads, rows)));
            tape.between.clone_from(&tape.before);
            project(&mut tape.between, attended, weight(&places.output), rows, Into::Accumulate);
            let normed = room(&mut tape.feed_normed, rows * hidden);
            rms_norm(
                &tape.between,
                weight(&places.feed_norm),
                epsilon,
                normed,
                room(&mut tape.feed_scales, rows),
            );
            let gate_up = room(&mut tape.gate_up, rows * 2 * inner);
            project(gate_up, normed, weight(&places.gate_up), rows, Into::Replace);
            let active = room(&mut tape.active, rows * inner);
            swiglu(gate_up, inner, active);
            self.last.copy_from_slice(&tape.between);
            project(&mut self.last, active, weight(&places.down), rows, Into::Accumulate);
        }
        let normed = room(&mut self.normed, rows * hidden);
        rms_norm(
            &self.last,
            &weights[self.places.norm.clone()],
            epsilon,
            normed,
            room(&mut self.scales, rows),
        );
    }

    /// Adds the gradients of all weights below the head, given [`Tape::normed_gradient`]. Undoes the activations on the way.
    pub(crate) fn backward(&mut self, weights: &[f32], batch: &Batch, gradients: &mut [f32]) {
        let hidden = self.config.hidden_size;
        self.stream.clear();
        self.stream.resize(batch.inputs.len() * hidden, 0.0);
        let norm = self.places.norm.clone();
        rms_norm_backward(
            &self.last,
            &weights[norm.clone()],
            &self.scales,
            &self.normed_gradient,
            &mut self.stream,
            &mut gradients[norm],
        );
        for layer in (0..self.layers.len()).rev() {
            let places = self.places.layers[layer].clone();
            self.layer_backward(layer, &places, weights, batch, gradients);
        }
        let to = &mut gradients[self.places.embedding.clone()];
        for (row, &token) in self.stream.chunks_exact(hidden).zip(&batch.inputs) {
            for (to, gradient) in to[token as usize * hidden..][..hidden].iter_mut().zip(row) {
                *to += gradient;
            }
        }
    }

    fn layer_backward(
        &mut self,
        layer: usize,
        places: &LayerPlaces,
        weights: &[f32],
        batch: &Batch,
        gradients: &mut [f32],
    ) {
        let (rows, hidden, inner) =
            (batch.inputs.len(), self.config.hidden_size, self.config.intermediate_size);
        let heads = self.config.heads();
        let weight = |places: &std::ops::Range<usize>| &weights[places.clone()];
        let tape = &mut self.layers[layer];

        let active = room(&mut self.wide, rows * inner);
        let to = &mut gradients[places.down.clone()];
        project_backward(active, to, &self.stream, &tape.active, weight(&places.down), rows);
        swiglu_backward(&mut tape.gate_up, inner, active);
        let normed = room(&mut self.narrow, rows * hidden);
        let to = &mut gradients[places.gate_up.clone()];
        project_backward(normed, to, &tape.gate_up, &tape.feed_normed, weight(&places.gate_up), rows);
        let (norm, to) = (weight(&places.feed_norm), &mut gradients[places.feed_norm.clone()]);
        rms_norm_backward(&tape.between, norm, &tape.feed_scales, normed, &mut self.stream, to);

        let attended = room(&mut self.attended, rows * heads.out());
        let to = &mut gradients[places.output.clone()];
        project_backward(attended, to, &self.stream, &tape.attended, weight(&places.output), rows);
        let qkv = room(&mut self.qkv, rows * heads.row());
        attention_backward(heads, &tape.qkv, &batch.bounds, &tape.attended, &tape.kept, attended, qkv);
        self.rotation.apply(qkv, heads.row(), heads.queries + heads.keys, &batch.positions, Turn::Backward);
        let to = &mut gradients[places.qkv.clone()];
        project_backward(normed, to, qkv, &tape.attention_normed, weight(&places.qkv), rows);
        let (norm, to) = (weight(&places.attention_norm), &mut gradients[places.attention_norm.clone()]);
        rms_norm_backward(&tape.before, norm, &tape.attention_scales, normed, &mut self.stream, to);
    }
}
