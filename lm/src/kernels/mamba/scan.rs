//! The recurrence of Mamba-2 along a sequence, forward and backward.

use super::MambaShape;
use crate::kernels::math::{dot, exp};
use crate::kernels::share::{Shared, share};
use crate::kernels::vectorised;

/// Tokens whose states are computed again together on the way back.
pub const CHUNK: usize = 64;

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
