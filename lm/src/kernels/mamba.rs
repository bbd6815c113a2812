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

use std::ops::Range;

use super::math::{dot, exp, ln, sigmoid};
use super::share::{Shared, share};
use super::vectorised;

/// Tokens whose states are computed again together on the way back.
pub const CHUNK: usize = 64;
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

/// The weights of the recurrence, one number per head each.
#[derive(Clone, Copy, Debug)]
pub struct Recurrence<'a> {
    /// ln(-A).
    pub a_log: &'a [f32],
    /// The share of x that passes by the state.
    pub d: &'a [f32],
}

/// The recurrence over the rows of a sequence, whose `states` it continues. `active` is the convolution's output.
pub fn scan(
    shape: MambaShape,
    active: &[f32],
    steps: &[f32],
    weights: Recurrence<'_>,
    states: &mut [f32],
    out: &mut [f32],
) {
    let size = shape.dim * shape.state;
    let (states, out) = (Shared::new(states), Shared::new(out));
    share(shape.heads, 1, |heads| {
        for head in heads {
            let group = head / (shape.heads / shape.groups);
            let a = -exp(weights.a_log[head]);
            // SAFETY: every head is computed by one call.
            let state = unsafe { states.slice(head * size..(head + 1) * size) };
            for (row, active) in active.chunks_exact(shape.channels()).enumerate() {
                let step = steps[row * shape.heads + head];
                let start = row * shape.inner();
                // SAFETY: as above.
                let out = unsafe { out.slice(start + shape.x(head).start..start + shape.x(head).end) };
                let (x, b, c) = (&active[shape.x(head)], &active[shape.b(group)], &active[shape.c(group)]);
                advance(state, x, b, exp(step * a), step);
                read(state, x, c, weights.d[head], out);
            }
        }
    });
}

/// What [`scan_backward`] reads.
#[derive(Clone, Copy, Debug)]
pub struct Scanned<'a> {
    /// The convolution's output.
    pub active: &'a [f32],
    /// The steps.
    pub steps: &'a [f32],
    /// The states before every [`CHUNK`] rows but the first, which start from zero.
    pub states: &'a [f32],
    /// The gradient of the recurrence's output.
    pub gradient: &'a [f32],
}

/// What [`scan_backward`] writes.
#[derive(Debug)]
pub struct ScanGradients<'a> {
    /// The gradient of the convolution's output, to be written.
    pub active: &'a mut [f32],
    /// The gradient of the steps, to be written.
    pub steps: &'a mut [f32],
    /// The gradient of `a_log`, to be added to.
    pub a_log: &'a mut [f32],
    /// The gradient of `d`, to be added to.
    pub d: &'a mut [f32],
}

/// The way back through [`scan`] from states that were zero.
pub fn scan_backward(
    shape: MambaShape,
    scanned: Scanned<'_>,
    weights: Recurrence<'_>,
    to: ScanGradients<'_>,
) {
    let per_group = shape.heads / shape.groups;
    let ScanGradients { active, steps, a_log, d } = to;
    let to_active = Shared::new(active);
    let (to_steps, to_a, to_d) = (Shared::new(steps), Shared::new(a_log), Shared::new(d));
    share(shape.groups, 1, |groups| {
        for group in groups {
            let mut head_gradients = HeadGradients::new(shape, scanned.steps.len() / shape.heads);
            for head in group * per_group..(group + 1) * per_group {
                let (a_log, d) = head_gradients.add(shape, scanned, weights, head);
                // SAFETY: every head is computed by one call.
                unsafe {
                    to_a.slice(head..head + 1)[0] += a_log;
                    to_d.slice(head..head + 1)[0] += d;
                    for (row, step) in head_gradients.steps.iter().enumerate() {
                        let place = row * shape.heads + head;
                        to_steps.slice(place..place + 1)[0] = *step;
                        let place = row * shape.channels() + shape.x(head).start;
                        let x = &head_gradients.x[row * shape.dim..(row + 1) * shape.dim];
                        to_active.slice(place..place + shape.dim).copy_from_slice(x);
                    }
                }
            }
            for (sums, places) in [(&head_gradients.b, shape.b(group)), (&head_gradients.c, shape.c(group))] {
                for (row, sums) in sums.chunks_exact(shape.state).enumerate() {
                    let start = row * shape.channels();
                    // SAFETY: every group is computed by one call.
                    unsafe { to_active.slice(start + places.start..start + places.end) }
                        .copy_from_slice(sums);
                }
            }
        }
    });
}

/// Gradients of one head over a sequence, and the sums over the heads of its group.
struct HeadGradients {
    x: Vec<f32>,
    steps: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    /// The states before and after every row of a chunk.
    states: Vec<f32>,
    /// The gradient of the state.
    state: Vec<f32>,
}

impl HeadGradients {
    fn new(shape: MambaShape, rows: usize) -> Self {
        let size = shape.dim * shape.state;
        Self {
            x: vec![0.0; rows * shape.dim],
            steps: vec![0.0; rows],
            b: vec![0.0; rows * shape.state],
            c: vec![0.0; rows * shape.state],
            states: vec![0.0; (CHUNK.min(rows) + 1) * size],
            state: vec![0.0; size],
        }
    }

    /// Fills the head's gradients and adds to the group's; returns those of `a_log` and `d`.
    fn add(
        &mut self,
        shape: MambaShape,
        scanned: Scanned<'_>,
        weights: Recurrence<'_>,
        head: usize,
    ) -> (f32, f32) {
        let (size, rows) = (shape.dim * shape.state, self.steps.len());
        let group = head / (shape.heads / shape.groups);
        let (a, d) = (-exp(weights.a_log[head]), weights.d[head]);
        let (mut a_gradient, mut d_gradient) = (0.0, 0.0);
        self.state.fill(0.0);
        for chunk in (0..rows.div_ceil(CHUNK)).rev() {
            let range = chunk * CHUNK..((chunk + 1) * CHUNK).min(rows);
            match chunk.checked_sub(1) {
                Some(before) => self.states[..size]
                    .copy_from_slice(&scanned.states[before * shape.states() + head * size..][..size]),
                None => self.states[..size].fill(0.0),
            }
            let part = |row: usize| {
                let active = &scanned.active[row * shape.channels()..];
                let step = scanned.steps[row * shape.heads + head];
                (&active[shape.x(head)], &active[shape.b(group)], &active[shape.c(group)], step)
            };
            for (index, row) in range.clone().enumerate() {
                let (x, b, _, step) = part(row);
                let (before, after) = self.states[index * size..].split_at_mut(size);
                after[..size].copy_from_slice(before);
                advance(&mut after[..size], x, b, exp(step * a), step);
            }
            for (index, row) in range.clone().enumerate().rev() {
                let (x, b, c, step) = part(row);
                let (before, after) = self.states[index * size..].split_at(size);
                let token = Token { x, b, c, step, decay: exp(step * a), d };
                let gradient = &scanned.gradient[row * shape.inner()..][shape.x(head)];
                let place = |width: usize| row * width..(row + 1) * width;
                let to = TokenGradients {
                    state: &mut self.state,
                    x: &mut self.x[place(shape.dim)],
                    b: &mut self.b[place(shape.state)],
                    c: &mut self.c[place(shape.state)],
                };
                let [along_x, along_state] = retreat(token, before, &after[..size], gradient, to);
                self.steps[row] = along_state.mul_add(a * token.decay, along_x);
                // d/d a_log = a · d/da
                a_gradient += along_state * token.decay * step * a;
                d_gradient += dot(gradient, x);
            }
        }
        (a_gradient, d_gradient)
    }
}

/// One token of one head.
#[derive(Clone, Copy)]
struct Token<'a> {
    x: &'a [f32],
    b: &'a [f32],
    c: &'a [f32],
    step: f32,
    decay: f32,
    d: f32,
}

/// The gradients of what one token of one head read: the state's becomes that of the state before, x's is written, those of b
/// and c are added to.
struct TokenGradients<'a> {
    state: &'a mut [f32],
    x: &'a mut [f32],
    b: &'a mut [f32],
    c: &'a mut [f32],
}

vectorised! {
    /// `to += left · right`
    fn multiply_add(to: &mut [f32], left: &[f32], right: &[f32]) {
        for ((to, left), right) in to.iter_mut().zip(left).zip(right) {
            *to = left.mul_add(*right, *to);
        }
    }

    /// `state = decay · state + step · x bᵀ`
    fn advance(state: &mut [f32], x: &[f32], b: &[f32], decay: f32, step: f32) {
        for (state, x) in state.chunks_exact_mut(b.len()).zip(x) {
            let x = step * x;
            for (state, b) in state.iter_mut().zip(b) {
                *state = decay.mul_add(*state, x * b);
            }
        }
    }

    /// `out = state · c + d · x`
    fn read(state: &[f32], x: &[f32], c: &[f32], d: f32, out: &mut [f32]) {
        for ((out, state), x) in out.iter_mut().zip(state.chunks_exact(c.len())).zip(x) {
            *out = d.mul_add(*x, dot(state, c));
        }
    }

    /// The way back through [`advance`] and [`read`], given the gradient of the output. Returns the gradient of the step that
    /// goes by x, and that of the decay.
    fn retreat(token: Token<'_>, before: &[f32], after: &[f32], gradient: &[f32], to: TokenGradients<'_>) -> [f32; 2] {
        let TokenGradients { state, x: to_x, b: to_b, c: to_c } = to;
        let Token { x, b, c, step, decay, d } = token;
        let width = b.len();
        let (mut along_x, mut along_state) = (0.0, 0.0);
        let rows = state.chunks_exact_mut(width).zip(before.chunks_exact(width)).zip(after.chunks_exact(width));
        for (index, ((state, before), after)) in rows.enumerate() {
            let (x, gradient) = (x[index], gradient[index]);
            for place in 0..width {
                state[place] = gradient.mul_add(c[place], state[place]);
                to_c[place] = gradient.mul_add(after[place], to_c[place]);
                to_b[place] = (step * x).mul_add(state[place], to_b[place]);
            }
            let by_b = dot(state, b);
            along_x = x.mul_add(by_b, along_x);
            along_state += dot(state, before);
            to_x[index] = d.mul_add(gradient, step * by_b);
            for state in state.iter_mut() {
                *state *= decay;
            }
        }
        [along_x, along_state]
    }
}
