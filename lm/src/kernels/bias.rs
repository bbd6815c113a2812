//! A bias added to every row, forward and backward.

use super::share::{Shared, share};
use super::vectorised;

/// Elements that are worth handing to another thread.
const GRAIN: usize = 1 << 14;

/// Adds `bias` to every row.
pub fn add_bias(rows: &mut [f32], bias: &[f32]) {
    let width = bias.len();
    let count = rows.len() / width;
    let shared = Shared::new(rows);
    share(count, (GRAIN / width).max(1), |range| {
        // SAFETY: every row is written by one call.
        add_rows(unsafe { shared.slice(range.start * width..range.end * width) }, bias);
    });
}

/// Adds the gradient of the bias, the sum of the rows' gradients, to `bias_gradient`.
pub fn add_bias_backward(gradient: &[f32], bias_gradient: &mut [f32]) {
    let width = bias_gradient.len();
    let to = Shared::new(bias_gradient);
    // One chain over the rows per column, hence shared out by columns.
    share(width, 64, |columns| {
        // SAFETY: every column is written by one call.
        let to = unsafe { to.slice(columns.clone()) };
        sum_columns(gradient, width, columns.start, to);
    });
}

vectorised! {
    fn add_rows(rows: &mut [f32], bias: &[f32]) {
        for row in rows.chunks_exact_mut(bias.len()) {
            for (to, bias) in row.iter_mut().zip(bias) {
                *to += bias;
            }
        }
    }

    fn sum_columns(rows: &[f32], width: usize, first: usize, to: &mut [f32]) {
        for row in rows.chunks_exact(width) {
            for (to, gradient) in to.iter_mut().zip(&row[first..]) {
                *to += gradient;
            }
        }
    }
}
