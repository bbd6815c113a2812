//! A Mamba-2 block in training. Every sample starts from a state of zero.

use std::ops::Range;

use super::{Backward, Batch, Weights};
use crate::kernels::activation::{Gates, gate, gate_backward, silu, silu_backward};
use crate::kernels::mamba::{
    CHUNK, MambaShape, Recurrence, ScanGradients, Scanned, convolve, convolve_backward, scan, scan_backward,
    steps, steps_backward, taps,
};
use crate::kernels::matmul::Into;
use crate::kernels::norm::{HeadPart, head_norm, head_norm_backward};
use crate::model::{MambaPlaces, room};

/// What the way back needs.
#[derive(Debug, Default)]
pub(super) struct MambaTape {
    projected: Vec<f32>,
    convolved: Vec<f32>,
    active: Vec<f32>,
    steps: Vec<f32>,
    /// The states before every chunk but a sample's first.
    states: Vec<f32>,
    /// What the recurrence gave.
    read: Vec<f32>,
    /// The same after the gates, and after the normalisation too.
    gated: Vec<f32>,
    normed: Vec<f32>,
    /// Per group, one number per row.
    scales: Vec<f32>,
}

/// The rows of every sample, and where its states lie.
fn samples(batch: &Batch, shape: MambaShape) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let (mut start, mut state) = (0, 0);
    batch.bounds.iter().map(move |&end| {
        let rows = std::mem::replace(&mut start, end)..end;
        let kept = (rows.len().div_ceil(CHUNK) - 1) * shape.states();
        state += kept;
        (rows, state - kept..state)
    })
}

/// The places of some rows of `width` elements.
fn part(rows: &Range<usize>, width: usize) -> Range<usize> {
    rows.start * width..rows.end * width
}

impl MambaTape {
    /// Numbers kept per token, but for the states: a few per chunk.
    pub(super) fn width(places: &MambaPlaces) -> usize {
        let shape = places.shape;
        shape.row() + 2 * shape.channels() + shape.heads + 3 * shape.inner() + shape.groups
    }

    pub(super) fn forward(
        &mut self,
        places: &MambaPlaces,
        weights: Weights<'_>,
        batch: &Batch,
        epsilon: f32,
        normed: &[f32],
    ) {
        let (rows, shape) = (batch.inputs.len(), places.shape);
        let (inner, channels) = (shape.inner(), shape.channels());
        let projected = room(&mut self.projected, rows * shape.row());
        weights.project(projected, normed, &places.inward, rows, Into::Replace);
        let convolved = room(&mut self.convolved, rows * channels);
        let (taps, history) = (taps(shape, weights.at(&places.convolution)), vec![0.0; shape.history()]);
        let bias = places.convolution_bias.as_ref().map(|bias| weights.at(bias));
        for (rows, _) in samples(batch, shape) {
            let projected = &projected[part(&rows, shape.row())];
            convolve(shape, projected, &history, &taps, bias, &mut convolved[part(&rows, channels)]);
        }
        let active = room(&mut self.active, rows * channels);
        silu(convolved, active);
        let step = room(&mut self.steps, rows * shape.heads);
        steps(shape, projected, weights.at(&places.step_bias), step);
        let read = room(&mut self.read, rows * inner);
        let recurrence = Recurrence { a_log: weights.at(&places.a_log), d: weights.at(&places.d) };
        self.states.clear();
        let mut state = vec![0.0; shape.states()];
        for (rows, _) in samples(batch, shape) {
            state.fill(0.0);
            for start in rows.clone().step_by(CHUNK) {
                if start > rows.start {
                    self.states.extend_from_slice(&state);
                }
                let rows = start..(start + CHUNK).min(rows.end);
                let (active, step) = (&active[part(&rows, channels)], &step[part(&rows, shape.heads)]);
                scan(shape, active, step, recurrence, &mut state, &mut read[part(&rows, inner)]);
            }
        }
        let gated = room(&mut self.gated, rows * inner);
        gate(read, Gates { rows: projected, stride: shape.row(), width: inner }, gated);
        self.normed.clear();
        self.normed.extend_from_slice(gated);
        let scales = room(&mut self.scales, rows * shape.groups);
        for (group, scales) in scales.chunks_exact_mut(rows).enumerate() {
            let (part, norm) = group_norm(shape, weights.at(&places.norm), group);
            head_norm(&mut self.normed, part, norm, epsilon, scales);
        }
    }

    /// Adds what the block gave to the stream.
    pub(super) fn add(&self, places: &MambaPlaces, weights: Weights<'_>, rows: usize, stream: &mut [f32]) {
        weights.project(stream, &self.normed, &places.output, rows, Into::Accumulate);
    }

    pub(super) fn backward(&mut self, places: &MambaPlaces, batch: &Batch, back: Backward<'_, '_>) {
        let Backward { weights, normed, gradient, normed_gradient, gradients, scratch } = back;
        let Self { projected, .. } = self;
        let (rows, shape) = (batch.inputs.len(), places.shape);
        let (inner, channels) = (shape.inner(), shape.channels());
        let read_gradient = room(&mut scratch.outer, rows * inner);
        gradients.project_backward(weights, &places.output, read_gradient, gradient, &self.normed, rows);
        for (group, scales) in self.scales.chunks_exact(rows).enumerate() {
            let (part, norm) = group_norm(shape, weights.at(&places.norm), group);
            let start = places.norm.start + part.first;
            let to = gradients.of(&(start..start + norm.len()));
            head_norm_backward(&self.gated, part, norm, scales, read_gradient, to);
        }
        let projected_gradient = room(&mut scratch.inner, rows * shape.row());
        let gates = Gates { rows: projected, stride: shape.row(), width: inner };
        gate_backward(&self.read, gates, read_gradient, projected_gradient);
        let mut active_gradient = vec![0.0; rows * channels];
        let mut step_gradient = vec![0.0; rows * shape.heads];
        let recurrence = Recurrence { a_log: weights.at(&places.a_log), d: weights.at(&places.d) };
        let (mut a_log, mut d) = (vec![0.0; shape.heads], vec![0.0; shape.heads]);
        for (rows, states) in samples(batch, shape) {
            let scanned = Scanned {
                active: &self.active[part(&rows, channels)],
                steps: &self.steps[part(&rows, shape.heads)],
                states: &self.states[states],
                gradient: &read_gradient[part(&rows, inner)],
            };
            let to = ScanGradients {
                active: &mut active_gradient[part(&rows, channels)],
                steps: &mut step_gradient[part(&rows, shape.heads)],
                a_log: &mut a_log,
                d: &mut d,
            };
            scan_backward(shape, scanned, recurrence, to);
        }
        for (places, sums) in [(&places.a_log, &a_log), (&places.d, &d)] {
            for (to, sum) in gradients.of(places).iter_mut().zip(sums) {
                *to += sum;
            }
        }
        let to = gradients.of(&places.step_bias);
        let bias = weights.at(&places.step_bias);
        steps_backward(shape, projected, bias, &step_gradient, projected_gradient, to);
        silu_backward(&mut self.convolved, &active_gradient);
        let taps = taps(shape, weights.at(&places.convolution));
        for (rows, _) in samples(batch, shape) {
            let mut bias_gradient = places.convolution_bias.as_ref().map(|_| vec![0.0; channels]);
            convolve_backward(
                shape,
                &projected[part(&rows, shape.row())],
                &taps,
                &self.convolved[part(&rows, channels)],
                &mut projected_gradient[part(&rows, shape.row())],
                gradients.of(&places.convolution),
                bias_gradient.as_deref_mut(),
            );
            if let (Some(places), Some(sums)) = (&places.convolution_bias, bias_gradient) {
                for (to, sum) in gradients.of(places).iter_mut().zip(sums) {
                    *to += sum;
                }
            }
        }
        gradients.project_backward(
            weights,
            &places.inward,
            normed_gradient,
            projected_gradient,
            normed,
            rows,
        );
    }
}

/// The part of a row that belongs to a group, and its share of the normalisation's scale.
fn group_norm(shape: MambaShape, norm: &[f32], group: usize) -> (HeadPart, &[f32]) {
    let width = shape.inner() / shape.groups;
    let first = group * width;
    (HeadPart { stride: shape.inner(), first, count: 1 }, &norm[first..first + width])
}
