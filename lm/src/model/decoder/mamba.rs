//! A Mamba-2 block: new tokens advance the states of their sequences.

use super::projection::Projection;
use super::{Pass, Scratch, Turn, WeightReader};
use crate::kernels::activation::{Gates, gate, silu};
use crate::kernels::mamba::{MambaShape, Recurrence, convolve, scan, steps, taps};
use crate::kernels::matmul::Into;
use crate::kernels::norm::{HeadPart, head_norm};
use crate::model::{MambaPlaces, ModelError, room};

/// The weights of the block.
#[derive(Debug)]
pub(super) struct Mamba {
    /// Its number among the model's Mamba blocks, for the cache.
    layer: usize,
    shape: MambaShape,
    inward: Projection,
    taps: Vec<f32>,
    convolution_bias: Option<Vec<f32>>,
    step_bias: Vec<f32>,
    a_log: Vec<f32>,
    d: Vec<f32>,
    norm: Vec<f32>,
    output: Projection,
}

impl Mamba {
    pub(super) fn read(
        reader: &WeightReader<'_>,
        places: &MambaPlaces,
        layer: usize,
    ) -> Result<Self, ModelError> {
        Ok(Self {
            layer,
            shape: places.shape,
            inward: reader.projection(&places.inward)?,
            taps: taps(places.shape, &reader.vector(&places.convolution)?),
            convolution_bias: places.convolution_bias.as_ref().map(|bias| reader.vector(bias)).transpose()?,
            step_bias: reader.vector(&places.step_bias)?,
            a_log: reader.vector(&places.a_log)?,
            d: reader.vector(&places.d)?,
            norm: reader.vector(&places.norm)?,
            output: reader.projection(&places.output)?,
        })
    }

    /// Adds the block's output to the stream `x`.
    pub(super) fn add(
        &self,
        pass: &Pass<'_>,
        turns: &mut [Turn<'_>],
        normed: &[f32],
        x: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let (rows, shape) = (pass.positions.len(), self.shape);
        let (inner, channels) = (shape.inner(), shape.channels());
        let projected = room(&mut scratch.inner, rows * shape.row());
        self.inward.apply(projected, normed, Into::Replace);
        let mut convolved = vec![0.0; rows * channels];
        let mut active = vec![0.0; rows * channels];
        let mut step = vec![0.0; rows * shape.heads];
        let mut read = vec![0.0; rows * inner];
        let weights = Recurrence { a_log: &self.a_log, d: &self.d };
        for (turn, &end) in turns.iter_mut().zip(pass.ends) {
            let rows = end - turn.tokens.len()..end;
            let part = |width: usize| rows.start * width..rows.end * width;
            let projected = &projected[part(shape.row())];
            let state = turn.cache.state(self.layer);
            let bias = self.convolution_bias.as_deref();
            convolve(shape, projected, &state.history, &self.taps, bias, &mut convolved[part(channels)]);
            shape.remember(projected, &mut state.history);
            silu(&convolved[part(channels)], &mut active[part(channels)]);
            steps(shape, projected, &self.step_bias, &mut step[part(shape.heads)]);
            let (active, step) = (&active[part(channels)], &step[part(shape.heads)]);
            scan(shape, active, step, weights, &mut state.states, &mut read[part(inner)]);
        }
        let gated = room(&mut scratch.outer, rows * inner);
        gate(&read, Gates { rows: projected, stride: shape.row(), width: inner }, gated);
        let scales = room(&mut scratch.scales, rows);
        for (group, norm) in self.norm.chunks_exact(inner / shape.groups).enumerate() {
            let part = HeadPart { stride: inner, first: group * norm.len(), count: 1 };
            head_norm(gated, part, norm, pass.epsilon, scales);
        }
        self.output.apply(x, gated, Into::Accumulate);
    }
}
