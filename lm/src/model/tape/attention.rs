//! Attention in training.

use super::{Backward, Batch, Shape, Weights};
use crate::kernels::attention::{Heads, attention, attention_backward, kept_len};
use crate::kernels::bias::{add_bias, add_bias_backward};
use crate::kernels::matmul::Into;
use crate::kernels::norm::{head_norm, head_norm_backward};
use crate::kernels::rope::Turn;
use crate::model::{AttentionPlaces, room};

/// What the way back needs.
#[derive(Debug, Default)]
pub(super) struct AttentionTape {
    /// Queries, keys and values before their normalisation, where heads are normalised.
    raw: Vec<f32>,
    head_scales: [Vec<f32>; 2],
    /// The same as attention reads them.
    qkv: Vec<f32>,
    kept: Vec<f32>,
    attended: Vec<f32>,
}

impl AttentionTape {
    /// Numbers kept per token.
    pub(super) fn width(places: &AttentionPlaces, heads: Heads) -> usize {
        let rows = if places.head_norms.is_some() { 2 * heads.row() } else { heads.row() };
        rows + heads.out() + kept_len(heads, 1)
    }

    pub(super) fn forward(
        &mut self,
        places: &AttentionPlaces,
        shape: &Shape,
        weights: Weights<'_>,
        batch: &Batch,
        normed: &[f32],
    ) {
        let (rows, heads) = (batch.inputs.len(), shape.heads);
        let qkv = room(&mut self.qkv, rows * heads.row());
        weights.project(qkv, normed, &places.qkv, rows, Into::Replace);
        if let Some(bias) = &places.bias {
            add_bias(qkv, weights.at(bias));
        }
        if let Some(norms) = &places.head_norms {
            self.raw.clear();
            self.raw.extend_from_slice(qkv);
            for ((part, norm), scales) in heads.turned().into_iter().zip(norms).zip(&mut self.head_scales) {
                let scales = room(scales, rows * part.count);
                head_norm(qkv, part, weights.at(norm), shape.epsilon, scales);
            }
        }
        if let Some(rotation) = &shape.rotation {
            let turning = heads.queries + heads.keys;
            rotation.apply(qkv, heads.row(), turning, &batch.positions, Turn::Forward);
        }
        let attended = room(&mut self.attended, rows * heads.out());
        attention(heads, qkv, &batch.bounds, attended, room(&mut self.kept, kept_len(heads, rows)));
    }

    /// Adds what the block gave to the stream.
    pub(super) fn add(
        &self,
        places: &AttentionPlaces,
        weights: Weights<'_>,
        rows: usize,
        stream: &mut [f32],
    ) {
        weights.project(stream, &self.attended, &places.output, rows, Into::Accumulate);
    }

    pub(super) fn backward(
        &self,
        places: &AttentionPlaces,
        shape: &Shape,
        batch: &Batch,
        back: Backward<'_, '_>,
    ) {
        let Backward { weights, normed, gradient, normed_gradient, gradients, scratch } = back;
        let (rows, heads) = (batch.inputs.len(), shape.heads);
        let attended = room(&mut scratch.outer, rows * heads.out());
        gradients.project_backward(weights, &places.output, attended, gradient, &self.attended, rows);
        let qkv = room(&mut scratch.inner, rows * heads.row());
        attention_backward(heads, &self.qkv, &batch.bounds, &self.attended, &self.kept, attended, qkv);
        if let Some(rotation) = &shape.rotation {
            let turning = heads.queries + heads.keys;
            rotation.apply(qkv, heads.row(), turning, &batch.positions, Turn::Backward);
        }
        if let Some(norms) = &places.head_norms {
            for ((part, norm), scales) in heads.turned().into_iter().zip(norms).zip(&self.head_scales) {
                let to = gradients.of(norm);
                head_norm_backward(&self.raw, part, weights.at(norm), scales, qkv, to);
            }
        }
        if let Some(bias) = &places.bias {
            add_bias_backward(qkv, gradients.of(bias));
        }
        gradients.project_backward(weights, &places.qkv, normed_gradient, qkv, normed, rows);
    }
}
