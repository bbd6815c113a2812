//! Activations: those of feed-forward blocks (SwiGLU and the squared ReLU), SiLU, and gates.

use super::math::sigmoid;
use super::share::{Shared, share};
use super::vectorised;

/// Elements that are worth handing to another thread.
const GRAIN: usize = 1 << 13;

/// `out = silu(gate) · up`, where a row of `gate_up` is the gates followed by the ups, `width` each.
fn swiglu(gate_up: &[f32], width: usize, out: &mut [f32]) {
    let shared = Shared::new(out);
    share(gate_up.len() / (2 * width), (GRAIN / width).max(1), |rows| {
        // SAFETY: every row is written by one call.
        let out = unsafe { shared.slice(rows.start * width..rows.end * width) };
        forward_rows(&gate_up[rows.start * 2 * width..rows.end * 2 * width], width, out);
    });
}

/// Replaces `gate_up` by its gradient.
fn swiglu_backward(gate_up: &mut [f32], width: usize, gradient: &[f32]) {
    let rows = gate_up.len() / (2 * width);
    let shared = Shared::new(gate_up);
    share(rows, (GRAIN / width).max(1), |rows| {
        // SAFETY: every row is written by one call.
        let gate_up = unsafe { shared.slice(rows.start * 2 * width..rows.end * 2 * width) };
        backward_rows(gate_up, width, &gradient[rows.start * width..rows.end * width]);
    });
}

/// The activation of a feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `silu(gate) · up`: a row holds the gates, then the ups.
    SwiGlu,
    /// `max(x, 0)²`.
    SquaredRelu,
}

impl Activation {
    /// Elements that it reads for each that it gives.
    pub fn inputs(self) -> usize {
        match self {
            Self::SwiGlu => 2,
            Self::SquaredRelu => 1,
        }
    }

    /// Computes it for rows that give `width` elements each.
    pub fn forward(self, input: &[f32], width: usize, out: &mut [f32]) {
        match self {
            Self::SwiGlu => swiglu(input, width, out),
            Self::SquaredRelu => each(out, input, square),
        }
    }

    /// Replaces `input` by its gradient.
    pub fn backward(self, input: &mut [f32], width: usize, gradient: &[f32]) {
        match self {
            Self::SwiGlu => swiglu_backward(input, width, gradient),
            Self::SquaredRelu => each(input, gradient, square_backward),
        }
    }
}

/// `out = silu(x)`
pub fn silu(x: &[f32], out: &mut [f32]) {
    each(out, x, silu_part);
}

/// Replaces `x` by its gradient.
pub fn silu_backward(x: &mut [f32], gradient: &[f32]) {
    each(x, gradient, silu_backward_part);
}

/// Rows of values, with the place in each row of a wider matrix where their gates start.
#[derive(Clone, Copy, Debug)]
pub struct Gates<'a> {
    /// The wider matrix.
    pub rows: &'a [f32],
    /// Elements of its rows.
    pub stride: usize,
    /// Values per row, and gates, which come first.
    pub width: usize,
}

/// `out = x · silu(gate)`
pub fn gate(x: &[f32], gates: Gates<'_>, out: &mut [f32]) {
    let Gates { rows, stride, width } = gates;
    let out = Shared::new(out);
    share(x.len() / width, (GRAIN / width).max(1), |range| {
        for row in range {
            let places = row * width..(row + 1) * width;
            // SAFETY: every row is written by one call.
            let out = unsafe { out.slice(places.clone()) };
            gate_row(&x[places], &rows[row * stride..][..width], out);
        }
    });
}

/// The way back through [`gate`]: replaces `gradient` by that of `x`, and writes that of the gates into rows like theirs.
pub fn gate_backward(x: &[f32], gates: Gates<'_>, gradient: &mut [f32], gates_gradient: &mut [f32]) {
    let Gates { rows, stride, width } = gates;
    let (to, to_gates) = (Shared::new(gradient), Shared::new(gates_gradient));
    share(x.len() / width, (GRAIN / width).max(1), |range| {
        for row in range {
            let places = row * width..(row + 1) * width;
            // SAFETY: every row is written by one call.
            let (to, to_gates) =
                unsafe { (to.slice(places.clone()), to_gates.slice(row * stride..row * stride + width)) };
            gate_row_backward(&x[places], &rows[row * stride..][..width], to, to_gates);
        }
    });
}

/// Calls `run` on parts of two slices of one length.
fn each(to: &mut [f32], from: &[f32], run: impl Fn(&mut [f32], &[f32]) + Sync) {
    let to = Shared::new(to);
    share(from.len(), GRAIN, |range| {
        // SAFETY: every place is written by one call.
        run(unsafe { to.slice(range.clone()) }, &from[range]);
    });
}

vectorised! {
    fn square(out: &mut [f32], x: &[f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            let positive = x.max(0.0);
            *out = positive * positive;
        }
    }

    fn square_backward(x: &mut [f32], gradient: &[f32]) {
        for (x, gradient) in x.iter_mut().zip(gradient) {
            *x = 2.0 * x.max(0.0) * gradient;
        }
    }

    fn silu_part(out: &mut [f32], x: &[f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x * sigmoid(*x);
        }
    }

    fn silu_backward_part(x: &mut [f32], gradient: &[f32]) {
        for (x, gradient) in x.iter_mut().zip(gradient) {
            let sigmoid = sigmoid(*x);
            *x = gradient * (*x * sigmoid).mul_add(1.0 - sigmoid, sigmoid);
        }
    }

    fn gate_row(x: &[f32], gates: &[f32], out: &mut [f32]) {
        for ((out, x), gate) in out.iter_mut().zip(x).zip(gates) {
            *out = x * (gate * sigmoid(*gate));
        }
    }

    fn gate_row_backward(x: &[f32], gates: &[f32], gradient: &mut [f32], gates_gradient: &mut [f32]) {
        for (((gradient, to_gate), x), gate) in gradient.iter_mut().zip(gates_gradient).zip(x).zip(gates) {
            let sigmoid = sigmoid(*gate);
            let silu = gate * sigmoid;
            *to_gate = *gradient * x * silu.mul_add(1.0 - sigmoid, sigmoid);
            *gradient *= silu;
        }
    }

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
