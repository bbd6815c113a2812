//! The gated activation of the feed-forward block (SwiGLU), and sums of slices.

use super::math::sigmoid;
use super::share::{Shared, share};
use super::vectorised;

/// Elements that are worth handing to another thread.
const GRAIN: usize = 1 << 13;

/// `out = silu(gate) · up`, where a row of `gate_up` is the gates followed by the ups, `width` each.
pub fn swiglu(gate_up: &[f32], width: usize, out: &mut [f32]) {
    let shared = Shared::new(out);
    share(gate_up.len() / (2 * width), (GRAIN / width).max(1), |rows| {
        // SAFETY: every row is written by one call.
        let out = unsafe { shared.slice(rows.start * width..rows.end * width) };
        forward_rows(&gate_up[rows.start * 2 * width..rows.end * 2 * width], width, out);
    });
}

/// Replaces `gate_up` by its gradient.
pub fn swiglu_backward(gate_up: &mut [f32], width: usize, gradient: &[f32]) {
    let rows = gate_up.len() / (2 * width);
    let shared = Shared::new(gate_up);
    share(rows, (GRAIN / width).max(1), |rows| {
        // SAFETY: every row is written by one call.
        let gate_up = unsafe { shared.slice(rows.start * 2 * width..rows.end * 2 * width) };
        backward_rows(gate_up, width, &gradient[rows.start * width..rows.end * width]);
    });
}

vectorised! {
    fn forward_rows(gate_up: &[f32], width: usize, out: &mut [f32]) {
        for (gate_up, out) in gate_up.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
            let (gate, up) = gate_up.split_at(width);
            for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                *out = gate * sigmoid(*gate) * up;
            }
        }
    }

    fn backward_rows(gate_up: &mut [f32], width: usize, gradient: &[f32]) {
        for (gate_up, gradient) in gate_up.chunks_exact_mut(2 * width).zip(gradient.chunks_exact(width)) {
            let (gate, up) = gate_up.split_at_mut(width);
            for ((gate, up), gradient) in gate.iter_mut().zip(up).zip(gradient) {
                let sigmoid = sigmoid(*gate);
                let silu = *gate * sigmoid;
                // d silu / d gate = sigmoid + silu (1 - sigmoid)
                let slope = silu.mul_add(1.0 - sigmoid, sigmoid);
                *gate = gradient * *up * slope;
                *up = gradient * silu;
            }
        }
    }
}
