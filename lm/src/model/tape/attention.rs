//! Attention in training.

use super::{Backward, Batch, Shape, at, project, project_backward};
use crate::kernels::attention::{attention, attention_backward, kept_len};
use crate::kernels::bias::{add_bias, add_bias_backward};
use crate::kernels::matmul::Into;
use crate::kernels::norm::{head_norm, head_norm_backward};
use crate::kernels::rope::Turn;
use crate::model::{AttentionPlaces, room};

/// What the way back needs.
#[derive(Debug)]
pub(super) struct AttentionTape {
    places: AttentionPlaces,
    /// Queries, keys and values before their normalisation, where heads are normalised.
    raw: Vec<f32>,
    head_scales: [Vec<f32>; 2],
    /// The same as attention reads them.
    qkv: Vec<f32>,
    kept: Vec<f32>,
    attended: Vec<f32>,
}

impl AttentionTape {
    pub(super) fn new(places: &AttentionPlaces) -> Self {
        Self {
            places: places.clone(),
            raw: Vec::new(),
            head_scales: [Vec::new(), Vec::new()],
            qkv: Vec::new(),
            kept: Vec::new(),
            attended: Vec::new(),
        }
    }

    pub(super) fn forward(
        &mut self,
        shape: &Shape,
        weights: &[f32],
        batch: &Batch,
        normed: &[f32],
        stream: &mut [f32],
    ) {
        let (places, rows, heads) = (&self.places, batch.inputs.len(), shape.heads);
        let qkv = room(&mut self.qkv, rows * heads.row());
        project(qkv, normed, at(weights, &places.qkv), rows, Into::Replace);
        if let Some(bias) = &places.bias {
            add_bias(qkv, at(weights, bias));
        }
        if let Some(norms) = &places.head_norms {
            self.raw.clear();
            self.raw.extend_from_slice(qkv);
            for ((part, norm), scales) in heads.turned().into_iter().zip(norms).zip(&mut self.head_scales) {
                let scales = room(scales, rows * part.count);
                head_norm(qkv, part, at(weights, norm), shape.epsilon, scales);
            }
        }
        if let Some(rotation) = &shape.rotation {
            let turning = heads.queries + heads.keys;
            rotation.apply(qkv, heads.row(), turning, &batch.positions, Turn::Forward);
        }
        let attended = room(&mut self.attended, rows * heads.out());
        attention(heads, qkv, &batch.bounds, attended, room(&mut self.kept, kept_len(heads, rows)));
        project(stream, attended, at(weights, &places.output), rows, Into::Accumulate);
    }

    pub(super) fn backward(&mut self, shape: &Shape, batch: &Batch, back: Backward<'_>) {
        let Backward { weights, normed, gradient, normed_gradient, gradients, scratch } = back;
        let places = &self.places;
        let (rows, heads) = (batch.inputs.len(), shape.heads);
        let attended = room(&mut scratch.outer, rows * heads.out());
        let to = &mut gradients[places.output.clone()];
        project_backward(attended, to, gradient, &self.attended, at(weights, &places.output), rows);
        let qkv = room(&mut scratch.inner, rows * heads.row());
        attention_backward(heads, &self.qkv, &batch.bounds, &self.attended, &self.kept, attended, qkv);
        if let Some(rotation) = &shape.rotation {
            let turning = heads.queries + heads.keys;
            rotation.apply(qkv, heads.row(), turning, &batch.positions, Turn::Backward);
        }
        if let Some(norms) = &places.head_norms {
            for ((part, norm), scales) in heads.turned().into_iter().zip(norms).zip(&self.head_scales) {
                let to = &mut gradients[norm.clone()];
                head_norm_backward(&self.raw, part, at(weights, norm), scales, qkv, to);
            }
        }
        if let Some(bias) = &places.bias {
            add_bias_backward(qkv, &mut gradients[bias.clone()]);
        }
        let to = &mut gradients[places.qkv.clone()];
        project_backward(normed_gradient, to, qkv, normed, at(weights, &places.qkv), rows);
    }
}
