//! Root-mean-square normalisation, forward and backward.

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

vectorised! {
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
