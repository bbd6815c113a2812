//! The selective state space of Mamba-2 (Dao and Gu, "Transformers are SSMs", arXiv 2405.21060), forward and backward.
//!
//! Per head, with input x of `dim` elements, B and C of `state` elements (shared by the heads of a group) and a step Δ:
//!
//! ```text
//! S ← exp(Δ A) S + Δ x Bᵀ        y = S C + D x        Δ = softplus(raw + bias), A = -exp(A_log)
//! ```
//!
//! computed token after token, also where many are known at once: so a token's bytes do not depend on how its sequence was cut,
//! which the usual computation in chunks does not give. Before it, a causal convolution along the sequence, one per channel.
//!
//! Every function takes the rows of one sequence, so that nothing passes from one sample into another.

mod scan;

use std::ops::Range;

use super::math::{exp, ln, sigmoid};
use super::share::{Shared, share};
use super::vectorised;
pub use scan::{CHUNK, Recurrence, ScanGradients, Scanned, scan, scan_backward};

/// Channels that are worth handing to another thread.
const GRAIN: usize = 64;

/// The shape of a Mamba-2 layer.
///
/// A row of its projection holds the gates of the output, the channels of the convolution (x, then B, then C), and a raw step
/// per head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MambaShape {
    /// Number of heads.
    pub heads: usize,
    /// Elements of x per head.
    pub dim: usize,
    /// Groups of heads that share B and C.
    pub groups: usize,
    /// Elements of B and C.
    pub state: usize,
    /// Tokens that the convolution reads.
    pub kernel: usize,
    /// The smallest and the largest step.
    pub limit: (f32, f32),
}

impl MambaShape {
    /// Elements of x and of the output.
    pub fn inner(&self) -> usize {
        self.heads * self.dim
    }

    /// Channels of the convolution.
    pub fn channels(&self) -> usize {
        self.inner() + 2 * self.groups * self.state
    }

    /// Elements of a row of the projection.
    pub fn row(&self) -> usize {
        self.inner() + self.channels() + self.heads
    }

    /// Elements of the states of all heads.
    pub fn states(&self) -> usize {
        self.inner() * self.state
    }

    /// Elements of what the convolution remembers.
    pub fn history(&self) -> usize {
        (self.kernel - 1) * self.channels()
    }

    /// Where B of a group lies in a row of channels; C lies `groups · state` further.
    fn b(&self, group: usize) -> Range<usize> {
        let start = self.inner() + group * self.state;
        start..start + self.state
    }

    fn c(&self, group: usize) -> Range<usize> {
        let start = self.inner() + (self.groups + group) * self.state;
        start..start + self.state
    }

    fn x(&self, head: usize) -> Range<usize> {
        head * self.dim..(head + 1) * self.dim
    }

    /// The channels of row `index` of the sequence, which is before it where the index is below `kernel - 1`.
    fn input<'a>(&self, projected: &'a [f32], history: &'a [f32], index: usize) -> &'a [f32] {
        let channels = self.channels();
        match index.checked_sub(self.kernel - 1) {
            Some(row) => &projected[row * self.row() + self.inner()..][..channels],
            None => &history[index * channels..][..channels],
        }
    }

    /// Remembers the last rows of `projected` for the tokens to come.
    pub fn remember(&self, projected: &[f32], history: &mut [f32]) {
        let (rows, channels) = (projected.len() / self.row(), self.channels());
        let kept: Vec<f32> = (0..self.kernel - 1)
            .flat_map(|index| self.input(projected, history, rows + index))
            .copied()
            .collect();
        history[..(self.kernel - 1) * channels].copy_from_slice(&kept);
    }
}

/// The weights of the convolution, stored with a row per channel, with a row per tap: the oldest first.
pub fn taps(shape: MambaShape, weight: &[f32]) -> Vec<f32> {
    let kernel = shape.kernel;
    (0..kernel).flat_map(|tap| weight.iter().skip(tap).step_by(kernel)).copied().collect()
}

/// The convolution before its activation; `history` holds the `kernel - 1` rows of channels before the sequence.
pub fn convolve(
    shape: MambaShape,
    projected: &[f32],
    history: &[f32],
    taps: &[f32],
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    let channels = shape.channels();
    let out = Shared::new(out);
    share(channels, GRAIN, |range| {
        for row in 0..projected.len() / shape.row() {
            let start = row * channels;
            // SAFETY: every channel is written by one call.
            let out = unsafe { out.slice(start + range.start..start + range.end) };
            match bias {
                Some(bias) => out.copy_from_slice(&bias[range.clone()]),
                None => out.fill(0.0),
            }
            for (tap, weights) in taps.chunks_exact(channels).enumerate() {
                let input = shape.input(projected, history, row + tap);
                multiply_add(out, &weights[range.clone()], &input[range.clone()]);
            }
        }
    });
}

/// The way back through [`convolve`] without a history: writes the gradient of the channels of `projected`, and adds those of the
/// weight, a row per channel, and of the bias.
pub fn convolve_backward(
    shape: MambaShape,
    projected: &[f32],
    taps: &[f32],
    gradient: &[f32],
    projected_gradient: &mut [f32],
    weight_gradient: &mut [f32],
    bias_gradient: Option<&mut [f32]>,
) {
    let (rows, channels, kernel) = (projected.len() / shape.row(), shape.channels(), shape.kernel);
    let (to, to_weight) = (Shared::new(projected_gradient), Shared::new(weight_gradient));
    let to_bias = bias_gradient.map(Shared::new);
    share(channels, GRAIN, |range| {
        let mut sums = vec![0.0; range.len()];
        for tap in 0..kernel {
            sums.fill(0.0);
            // The tap reads the row `kernel - 1 - tap` before.
            let back = kernel - 1 - tap;
            for row in back..rows {
                let input = &projected[(row - back) * shape.row() + shape.inner()..][range.clone()];
                multiply_add(&mut sums, &gradient[row * channels..][range.clone()], input);
            }
            for (channel, sum) in range.clone().zip(&sums) {
                let place = channel * kernel + tap;
                // SAFETY: every channel is written by one call.
                let to = unsafe { to_weight.slice(place..place + 1) };
                to[0] += sum;
            }
        }
        for row in 0..rows {
            let start = row * shape.row() + shape.inner();
            // SAFETY: as above.
            let to = unsafe { to.slice(start + range.start..start + range.end) };
            to.fill(0.0);
            for (tap, weights) in taps.chunks_exact(channels).enumerate() {
                let reader = row + kernel - 1 - tap;
                if reader < rows {
                    multiply_add(to, &weights[range.clone()], &gradient[reader * channels..][range.clone()]);
                }
            }
            if let Some(to_bias) = &to_bias {
                // SAFETY: as above.
                let to = unsafe { to_bias.slice(range.clone()) };
                for (to, gradient) in to.iter_mut().zip(&gradient[row * channels..][range.clone()]) {
                    *to += gradient;
                }
            }
        }
    });
}

/// ln(1 + eˣ)
fn softplus(x: f32) -> f32 {
    x.max(0.0) + ln(1.0 + f64::from(exp(-x.abs()))) as f32
}

/// The steps of every row and head.
pub fn steps(shape: MambaShape, projected: &[f32], bias: &[f32], out: &mut [f32]) {
    let rows = projected.chunks_exact(shape.row()).zip(out.chunks_exact_mut(shape.heads));
    for (row, out) in rows {
        for ((out, raw), bias) in out.iter_mut().zip(&row[shape.row() - shape.heads..]).zip(bias) {
            *out = softplus(raw + bias).clamp(shape.limit.0, shape.limit.1);
        }
    }
}

/// The way back through [`steps`]: writes the gradient of the raw steps in `projected`, and adds that of the bias.
pub fn steps_backward(
    shape: MambaShape,
    projected: &[f32],
    bias: &[f32],
    gradient: &[f32],
    projected_gradient: &mut [f32],
    bias_gradient: &mut [f32],
) {
    let first = shape.row() - shape.heads;
    let rows = projected.chunks_exact(shape.row()).zip(projected_gradient.chunks_exact_mut(shape.row()));
    for ((row, to), gradient) in rows.zip(gradient.chunks_exact(shape.heads)) {
        for head in 0..shape.heads {
            let raw = row[first + head] + bias[head];
            let step = softplus(raw);
            let is_limited = step < shape.limit.0 || step > shape.limit.1;
            let slope = if is_limited { 0.0 } else { sigmoid(raw) };
            to[first + head] = gradient[head] * slope;
            bias_gradient[head] += gradient[head] * slope;
        }
    }
}

vectorised! {
    /// `to += left · right`
    fn multiply_add(to: &mut [f32], left: &[f32], right: &[f32]) {
        for ((to, left), right) in to.iter_mut().zip(left).zip(right) {
            *to = left.mul_add(*right, *to);
        }
    }
}
