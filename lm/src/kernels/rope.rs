//! Rotary position embedding in the layout of the Llama family: element `i` of a head turns with element `i + half`.

use super::share::{Shared, share};
use super::vectorised;

/// Which way to turn: backward is the gradient of forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// By the angle of the position.
    Forward,
    /// By the angle of the position, negated.
    Backward,
}

/// Cosines and sines per position.
#[derive(Clone, Debug)]
pub struct Rotation {
    half: usize,
    /// Per position: `half` cosines, then `half` sines.
    table: Vec<f32>,
}

impl Rotation {
    /// Angles for heads of `head_dim` elements at `positions` positions.
    pub fn new(head_dim: usize, theta: f64, positions: usize) -> Self {
        let half = head_dim / 2;
        let mut table = Vec::with_capacity(positions * head_dim);
        for position in 0..positions {
            // Rounded to f32 before the cosine is taken, as the reference implementations do.
            let angles = (0..half).map(|index| {
                let frequency = theta.powf(-((2 * index) as f64) / head_dim as f64) as f32;
                f64::from(position as f32 * frequency)
            });
            table.extend(angles.clone().map(|angle| angle.cos() as f32));
            table.extend(angles.map(|angle| angle.sin() as f32));
        }
        Self { half, table }
    }

    /// Number of positions with an angle.
    pub fn positions(&self) -> usize {
        self.table.len() / (2 * self.half)
    }

    /// Turns the first `heads` heads of every row in place; rows are `stride` long.
    ///
    /// # Panics
    /// If a position has no angle.
    pub fn apply(&self, rows: &mut [f32], stride: usize, heads: usize, positions: &[u32], turn: Turn) {
        let shared = Shared::new(rows);
        share(positions.len(), 128, |range| {
            // SAFETY: every row is written by one call.
            let rows = unsafe { shared.slice(range.start * stride..range.end * stride) };
            turn_rows(
                rows,
                stride,
                heads,
                self.half,
                &self.table,
                &positions[range],
                if turn == Turn::Forward { 1.0 } else { -1.0 },
            );
        });
    }
}

vectorised! {
    fn turn_rows(rows: &mut [f32], stride: usize, heads: usize, half: usize, table: &[f32], positions: &[u32], sign: f32) {
        for (row, &position) in rows.chunks_exact_mut(stride).zip(positions) {
            let (cosines, sines) = table[position as usize * 2 * half..][..2 * half].split_at(half);
            for head in row[..heads * 2 * half].chunks_exact_mut(2 * half) {
                let (first, second) = head.split_at_mut(half);
                for (((a, b), cosine), sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
                    let sine = sign * sine;
                    (*a, *b) = (a.mul_add(*cosine, -(*b * sine)), b.mul_add(*cosine, *a * sine));
                }
            }
        }
    }
}
