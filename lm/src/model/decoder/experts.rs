//! A mixture of experts: a router chooses the feed-forward blocks that compute a token.
//!
//! A token's experts add to the stream in the order of their numbers, whichever other tokens pass with it, so its bytes do not
//! depend on them.

use super::feed::Feed;
use super::projection::Projection;
use super::{Pass, Scratch, WeightReader};
use crate::kernels::math::{exp, max};
use crate::kernels::matmul::Into;
use crate::model::{ExpertsPlaces, ModelError};

/// The weights of the block.
#[derive(Debug)]
pub(super) struct Experts {
    router: Projection,
    blocks: Vec<Feed>,
    chosen: usize,
    adds_up_to_one: bool,
}

impl Experts {
    pub(super) fn read(reader: &WeightReader<'_>, places: &ExpertsPlaces) -> Result<Self, ModelError> {
        Ok(Self {
            router: reader.projection(&places.router)?,
            blocks: places
                .experts
                .iter()
                .map(|expert| Feed::read(reader, expert))
                .collect::<Result<_, _>>()?,
            chosen: places.chosen,
            adds_up_to_one: places.adds_up_to_one,
        })
    }

    /// Adds the block's output to the stream `x`.
    pub(super) fn add(&self, pass: &Pass<'_>, normed: &[f32], x: &mut [f32], scratch: &mut Scratch) {
        let (rows, hidden) = (pass.positions.len(), pass.hidden);
        let mut scores = vec![0.0; rows * self.blocks.len()];
        self.router.apply(&mut scores, normed, Into::Replace);
        // The rows of every expert, with its weight for each.
        let mut rows_of = vec![Vec::new(); self.blocks.len()];
        for (row, scores) in scores.chunks_exact(self.blocks.len()).enumerate() {
            for (expert, weight) in self.choose(scores) {
                rows_of[expert].push((row, weight));
            }
        }
        let (mut read, mut written) = (Vec::new(), Vec::new());
        for (expert, rows) in self.blocks.iter().zip(&rows_of).filter(|(_, rows)| !rows.is_empty()) {
            read.clear();
            for &(row, _) in rows {
                read.extend_from_slice(&normed[row * hidden..][..hidden]);
            }
            written.clear();
            written.resize(read.len(), 0.0);
            expert.add_rows(rows.len(), &read, &mut written, scratch);
            for (&(row, weight), written) in rows.iter().zip(written.chunks_exact(hidden)) {
                for (x, written) in x[row * hidden..][..hidden].iter_mut().zip(written) {
                    *x = written.mul_add(weight, *x);
                }
            }
        }
    }

    /// The experts of a token and their weights: the softmax of the scores, the largest first, of equal ones the first.
    fn choose(&self, scores: &[f32]) -> Vec<(usize, f32)> {
        let largest = max(scores);
        let mut weights: Vec<(usize, f32)> =
            scores.iter().map(|score| exp(score - largest)).enumerate().collect();
        let total: f32 = weights.iter().map(|(_, weight)| weight).sum();
        weights.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        weights.truncate(self.chosen);
        let kept: f32 = weights.iter().map(|(_, weight)| weight).sum();
        let divisor = if self.adds_up_to_one { kept } else { total };
        for (_, weight) in &mut weights {
            *weight /= divisor;
        }
        weights
    }
}
