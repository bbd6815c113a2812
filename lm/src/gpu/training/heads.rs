//! Queries and keys between their projection and attention: biases, normalisation of heads, rotation; and back.

use std::sync::Arc;

use super::steps::{Steps, Sum, parts};
use crate::gpu::driver::{Argument, Gpu, GpuError, Kernels, Launch};
use crate::gpu::sources::HEADS;
use crate::gpu::{Buffer, Element, View};
use crate::kernels::attention::Heads;
use crate::kernels::rope::Turn;

const THREADS: usize = 256;
/// Threads of a block that normalises heads: a warp per head.
const NORM_THREADS: usize = 256;

/// The kernels of `heads.cu`.
#[derive(Debug)]
pub(crate) struct HeadSteps {
    kernels: Arc<dyn Kernels>,
    heads: Heads,
    /// Radians per position of every pair of a head.
    frequencies: Buffer<f32>,
}

impl HeadSteps {
    /// Kernels for such heads, whose size is a multiple of 16.
    pub(crate) fn new(gpu: &Gpu, heads: Heads, frequencies: &[f32]) -> Result<Self, GpuError> {
        assert!(heads.dim.is_multiple_of(16) && frequencies.len() == heads.dim / 2);
        let defines = [("HEAD_DIM", heads.dim), ("HEADS", heads.queries), ("KEY_HEADS", heads.keys)];
        Ok(Self {
            kernels: gpu.compile(HEADS, &defines)?,
            heads,
            frequencies: Buffer::from(gpu, frequencies)?,
        })
    }

    /// Heads that are turned and normalised: all but the values.
    pub(crate) fn turned(&self) -> usize {
        self.heads.queries + self.heads.keys
    }

    /// Adds the bias, if there is one, to rows of queries, keys and values, and turns queries and keys by their positions.
    pub(crate) fn turn(
        &self,
        qkv: View<Element>,
        bias: Option<View<Element>>,
        positions: View<u32>,
        turn: Turn,
    ) -> Result<(), GpuError> {
        let Heads { dim, .. } = self.heads;
        assert!(qkv.len() == positions.len() * self.heads.row());
        assert!(bias.is_none_or(|bias| bias.len() == self.heads.row()));
        let sign: f32 = if turn == Turn::Forward { 1.0 } else { -1.0 };
        let threads = (self.turned() * dim / 16).next_multiple_of(32).min(THREADS);
        let arguments =
            [qkv.into(), bias.into(), self.frequencies.all().into(), positions.into(), sign.into()];
        self.kernels.launch("turn", Launch::new([positions.len(), 1, 1], threads), &arguments)
    }

    /// Rows of queries, keys and values with their queries and keys normalised.
    pub(crate) fn norm(
        &self,
        from: View<Element>,
        to: View<Element>,
        weights: [View<Element>; 2],
        scales: View<f32>,
        epsilon: f32,
    ) -> Result<(), GpuError> {
        let rows = scales.len() / self.turned();
        assert!(from.len() == rows * self.heads.row() && to.len() == from.len());
        assert!(weights.into_iter().all(|weight| weight.len() == self.heads.dim));
        let [query, key] = weights.map(Argument::from);
        let threads = (self.turned() * 32).min(NORM_THREADS);
        let arguments = [from.into(), to.into(), query, key, scales.into(), epsilon.into()];
        self.kernels.launch("head_norm", Launch::new([rows, 1, 1], threads), &arguments)
    }

    /// The way back: `gradient`, of what [`HeadSteps::norm`] gave, becomes that of what it was given, x. `sum` gets the gradients of
    /// the queries' weight and of the keys', one after the other, where they are trained.
    pub(crate) fn norm_backward(
        &self,
        steps: &Steps,
        x: View<Element>,
        weights: [View<Element>; 2],
        scales: View<f32>,
        gradient: View<Element>,
        sum: Option<Sum>,
    ) -> Result<(), GpuError> {
        let rows = scales.len() / self.turned();
        assert!(x.len() == rows * self.heads.row() && gradient.len() == x.len());
        assert!(sum.is_none_or(|sum| sum.to.len() == 2 * self.heads.dim));
        let [query, key] = weights.map(Argument::from);
        let (blocks, each) = parts(rows);
        let partial = sum.map(|sum| sum.partial.at(0..blocks * 2 * self.heads.dim));
        let arguments =
            [x.into(), query, key, scales.into(), gradient.into(), partial.into(), rows.into(), each.into()];
        let launch = Launch::new([blocks, 1, 1], NORM_THREADS);
        self.kernels.launch("head_norm_backward", launch, &arguments)?;
        sum.map_or(Ok(()), |sum| steps.sum_columns(blocks, sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::tests::{assert_close, gpus, noise};
    use crate::gpu::training::steps::partial_len;
    use crate::kernels::norm::{head_norm, head_norm_backward};
    use crate::kernels::{bias, rope::Rotation};
    use crate::model::Scaling;

    const SHAPES: [Heads; 3] = [
        Heads { queries: 4, keys: 2, dim: 16 },
        Heads { queries: 3, keys: 3, dim: 64 },
        Heads { queries: 7, keys: 1, dim: 80 },
    ];

    #[test]
    fn heads_are_turned_by_their_positions_and_back() {
        for tested in gpus() {
            for heads in SHAPES {
                let gpu = &tested.gpu;
                let frequencies = Scaling::None.frequencies(10_000.0, heads.dim);
                let steps = HeadSteps::new(gpu, heads, &frequencies).unwrap();
                // Far positions too: their angles are many turns.
                let positions = [0, 1, 2, 0, 77, 59_999];
                let rotation = Rotation::new(frequencies, 60_000);
                let numbers = tested.rounded(&noise(positions.len() * heads.row(), 1));
                let added = tested.rounded(&noise(heads.row(), 2));
                let positions_there = Buffer::from(gpu, &positions).unwrap();
                let added_there = Buffer::rounded(gpu, &added).unwrap();
                for (turn, bias) in [(Turn::Forward, true), (Turn::Forward, false), (Turn::Backward, false)] {
                    let mut expected = numbers.clone();
                    if bias {
                        bias::add_bias(&mut expected, &added);
                    }
                    rotation.apply(&mut expected, heads.row(), heads.queries + heads.keys, &positions, turn);
                    let rows = Buffer::rounded(gpu, &numbers).unwrap();
                    let bias = bias.then_some(added_there.all());
                    steps.turn(rows.all(), bias, positions_there.all(), turn).unwrap();
                    let got = rows.download(0..expected.len()).unwrap();
                    assert_close(&got, &expected, tested.bound(1e-6, 1e-2));
                }
            }
        }
    }

    #[test]
    fn normalisation_of_heads_is_that_of_the_cpu() {
        for tested in gpus() {
            for heads in SHAPES {
                let (gpu, rows, dim) = (&tested.gpu, 9, heads.dim);
                let steps = Steps::new(gpu, 8).unwrap();
                let head_steps = HeadSteps::new(gpu, heads, &vec![1.0; dim / 2]).unwrap();
                let x = tested.rounded(&noise(rows * heads.row(), 1));
                let weights = [2, 3].map(|seed| tested.rounded(&noise(dim, seed)));
                let gradient = tested.rounded(&noise(rows * heads.row(), 4));
                let before = noise(2 * dim, 5);
                let (mut normed, mut back, mut sums) = (x.clone(), gradient.clone(), before.clone());
                let mut all_scales = vec![0.0; rows * head_steps.turned()];
                let to = sums.split_at_mut(dim);
                for ((part, weight), to) in heads.turned().into_iter().zip(&weights).zip([to.0, to.1]) {
                    let mut scales = vec![0.0; rows * part.count];
                    head_norm(&mut normed, part, weight, 1e-5, &mut scales);
                    head_norm_backward(&x, part, weight, &scales, &mut back, to);
                    let first = part.first / dim;
                    for (row, scales) in scales.chunks_exact(part.count).enumerate() {
                        let at = row * head_steps.turned() + first;
                        all_scales[at..at + part.count].copy_from_slice(scales);
                    }
                }

                let whole = 0..x.len();
                let [query, key] = weights.map(|weight| Buffer::rounded(gpu, &weight).unwrap());
                let weights = [query.all(), key.all()];
                let x = Buffer::rounded(gpu, &x).unwrap();
                let out = Buffer::<Element>::new(gpu, x.len()).unwrap();
                let scales = Buffer::<f32>::new(gpu, all_scales.len()).unwrap();
                head_steps.norm(x.all(), out.all(), weights, scales.all(), 1e-5).unwrap();
                let bound = tested.bound(2e-6, 2e-2);
                assert_close(&out.download(whole.clone()).unwrap(), &normed, bound);
                assert_close(&scales.download(0..all_scales.len()).unwrap(), &all_scales, 1e-5);

                let gradient = Buffer::rounded(gpu, &gradient).unwrap();
                let to = Buffer::from(gpu, &before).unwrap();
                let partial = Buffer::<f32>::new(gpu, partial_len(rows, 2 * dim)).unwrap();
                let sum = Sum { to: to.all(), adds: true, partial: partial.all() };
                let (x, scales) = (x.all(), scales.all());
                head_steps.norm_backward(&steps, x, weights, scales, gradient.all(), Some(sum)).unwrap();
                assert_close(&gradient.download(whole).unwrap(), &back, tested.bound(1e-5, 5e-2));
                assert_close(&to.download(0..2 * dim).unwrap(), &sums, 1e-4);
            }
        }
    }
}
