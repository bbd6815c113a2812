//! Root-mean-square normalisation of rows and of heads inside rows, forward and backward.

use super::math::{dot, fold};
use super::share::{Shared, share};
use super::vectorised;

/// Rows that are worth handing to another thread.
const GRAIN: usize = 64;

/// `out = x · scale · weight` per row, where `scale = 1 / √(mean x² + epsilon)` is kept for the way back.
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32], scales: &mut [f32]) {
    let width = weight.len();
    let (out, kept) = (Shared::new(out), Shared::new(scales));
    share(x.len() / width, GRAIN, |rows| {
        // SAFETY: every row is written by one call.
        let (out, scales) =
            unsafe { (out.slice(rows.start * width..rows.end * width), kept.slice(rows.clone())) };
        forward_rows(&x[rows.start * width..rows.end * width], weight, epsilon, out, scales);
    });
}

/// Adds the gradient of the input to `x_gradient` and that of the weight to `weight_gradient`.
pub fn rms_norm_backward(
    x: &[f32],
    weight: &[f32],
    scales: &[f32],
    gradient: &[f32],
    x_gradient: &mut [f32],
    weight_gradient: &mut [f32],
) {
    let width = weight.len();
    let to = Shared::new(x_gradient);
    share(scales.len(), GRAIN, |rows| {
        let places = rows.start * width..rows.end * width;
        // SAFETY: every row is written by one call.
        let to = unsafe { to.slice(places.clone()) };
        backward_rows(&x[places.clone()], weight, &scales[rows], &gradient[places], to);
    });
    // One chain over the rows per column, hence shared out by columns.
    let to = Shared::new(weight_gradient);
    share(width, 64, |columns| {
        // SAFETY: every column is written by one call.
        let to = unsafe { to.slice(columns.clone()) };
        backward_weight(x, scales, gradient, width, columns.start, to);
    });
}

/// Heads inside rows: from place `first` of every row on, `count` heads.
#[derive(Clone, Copy, Debug)]
pub struct HeadPart {
    /// Places from one row to the next.
    pub stride: usize,
    /// Where in a row the heads start.
    pub first: usize,
    /// Number of heads.
    pub count: usize,
}

/// Normalises heads in place, all with one `weight` as long as a head; `scales` gets one number per row and head.
pub fn head_norm(rows: &mut [f32], part: HeadPart, weight: &[f32], epsilon: f32, scales: &mut [f32]) {
    let HeadPart { stride, first, count } = part;
    let (rows, kept) = (Shared::new(rows), Shared::new(scales));
    share(kept.len() / count, GRAIN, |range| {
        for row in range {
            let start = row * stride + first;
            // SAFETY: every row is written by one call.
            let (heads, scales) = unsafe {
                (rows.slice(start..start + count * weight.len()), kept.slice(row * count..(row + 1) * count))
            };
            forward_heads(heads, weight, epsilon, scales);
        }
    });
}

/// Turns the gradient of what [`head_norm`] gave into that of what it was given, `x`, and adds that of the weight to
/// `weight_gradient`.
pub fn head_norm_backward(
    x: &[f32],
    part: HeadPart,
    weight: &[f32],
    scales: &[f32],
    gradient: &mut [f32],
    weight_gradient: &mut [f32],
) {
    let HeadPart { stride, first, count } = part;
    let places = |row: usize| row * stride + first..row * stride + first + count * weight.len();
    for (row, scales) in scales.chunks_exact(count).enumerate() {
        backward_weight(&x[places(row)], scales, &gradient[places(row)], weight.len(), 0, weight_gradient);
    }
    let gradient = Shared::new(gradient);
    share(scales.len() / count, GRAIN, |range| {
        for row in range {
            // SAFETY: every row is written by one call.
            let gradient = unsafe { gradient.slice(places(row)) };
            backward_heads(&x[places(row)], weight, &scales[row * count..(row + 1) * count], gradient);
        }
    });
}

vectorised! {
    fn forward_heads(heads: &mut [f32], weight: &[f32], epsilon: f32, scales: &mut [f32]) {
        let width = weight.len();
        for (head, kept) in heads.chunks_exact_mut(width).zip(scales) {
            let scale = 1.0 / (dot(head, head) / width as f32 + epsilon).sqrt();
            *kept = scale;
            for (x, weight) in head.iter_mut().zip(weight) {
                *x = *x * scale * weight;
            }
        }
    }

    fn backward_heads(x: &[f32], weight: &[f32], scales: &[f32], gradient: &mut [f32]) {
        let width = weight.len();
        for ((x, gradient), &scale) in x.chunks_exact(width).zip(gradient.chunks_exact_mut(width)).zip(scales) {
            let along = fold(width, 0.0, |index| gradient[index] * weight[index] * x[index], |sum, term| sum + term);
            let pull = along * scale * scale * scale / width as f32;
            for index in 0..width {
                gradient[index] = (gradient[index] * weight[index]).mul_add(scale, -(x[index] * pull));
            }
        }
    }

    fn forward_rows(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32], scales: &mut [f32]) {
        let width = weight.len();
        for ((x, out), kept) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(scales) {
            let scale = 1.0 / (dot(x, x) / width as f32 + epsilon).sqrt();
            *kept = scale;
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                *out = x * scale * weight;
            }
        }
    }

    fn backward_rows(x: &[f32], weight: &[f32], scales: &[f32], gradient: &[f32], to: &mut [f32]) {
        let width = weight.len();
        let rows = x.chunks_exact(width).zip(gradient.chunks_exact(width)).zip(to.chunks_exact_mut(width));
        for (((x, gradient), to), &scale) in rows.zip(scales) {
            let (gradient, to) = (&gradient[..width], &mut to[..width]);
            let along = fold(width, 0.0, |index| gradient[index] * weight[index] * x[index], |sum, term| sum + term);
            let pull = along * scale * scale * scale / width as f32;
            for index in 0..width {
                to[index] += (gradient[index] * weight[index]).mul_add(scale, -(x[index] * pull));
            }
        }
    }

    fn backward_weight(x: &[f32], scales: &[f32], gradient: &[f32], width: usize, first: usize, to: &mut [f32]) {
        for (row, &scale) in scales.iter().enumerate() {
            let start = row * width + first;
            for ((to, x), gradient) in to.iter_mut().zip(&x[start..]).zip(&gradient[start..]) {
                *to = (x * scale).mul_add(*gradient, *to);
            }
        }
    }
}
