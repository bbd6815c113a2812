//! Rotary position embedding in the layout of the Llama family: element `i` of a head turns with element `i + half`.

use std::sync::OnceLock;

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

/// Positions whose angles are computed together.
const PAGE: usize = 512;

/// Cosines and sines per position, computed when a position is first asked for: a model's context may be far longer than
/// any of its sequences.
#[derive(Debug)]
pub struct Rotation {
    /// Radians per position.
    frequencies: Vec<f32>,
    /// Per position of a page: as many cosines as there are frequencies, then the sines.
    pages: Vec<OnceLock<Vec<f32>>>,
}

impl Rotation {
    /// Angles at `positions` positions for heads of twice as many elements as there are `frequencies`.
    pub fn new(frequencies: Vec<f32>, positions: usize) -> Self {
        let pages = (0..positions.div_ceil(PAGE)).map(|_| OnceLock::new()).collect();
        Self { frequencies, pages }
    }

    /// Turns the first `heads` heads of every row in place; rows are `stride` long.
    ///
    /// # Panics
    /// If a position has no angle.
    pub fn apply(&self, rows: &mut [f32], stride: usize, heads: usize, positions: &[u32], turn: Turn) {
        let half = self.frequencies.len();
        let shared = Shared::new(rows);
        share(positions.len(), 128, |range| {
            // SAFETY: every row is written by one call.
            let rows = unsafe { shared.slice(range.start * stride..range.end * stride) };
            let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
            for (row, &position) in rows.chunks_exact_mut(stride).zip(&positions[range]) {
                turn_row(&mut row[..heads * 2 * half], half, self.angles(position as usize), sign);
            }
        });
    }

    /// The cosines and sines of a position.
    fn angles(&self, position: usize) -> &[f32] {
        let width = 2 * self.frequencies.len();
        let page = self.pages[position / PAGE].get_or_init(|| {
            let mut table = Vec::with_capacity(PAGE * width);
            for position in position / PAGE * PAGE..(position / PAGE + 1) * PAGE {
                // Rounded to f32 before the cosine is taken, as the reference implementations do.
                let angles = self.frequencies.iter().map(|frequency| f64::from(position as f32 * frequency));
                table.extend(angles.clone().map(|angle| angle.cos() as f32));
                table.extend(angles.map(|angle| angle.sin() as f32));
            }
            table
        });
        &page[position % PAGE * width..][..width]
    }
}

vectorised! {
    fn turn_row(heads: &mut [f32], half: usize, angles: &[f32], sign: f32) {
        let (cosines, sines) = angles.split_at(half);
        for head in heads.chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            for (((a, b), cosine), sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
                let sine = sign * sine;
                (*a, *b) = (a.mul_add(*cosine, -(*b * sine)), b.mul_add(*cosine, *a * sine));
            }
        }
    }
}
