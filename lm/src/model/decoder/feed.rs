//! A feed-forward block.

use super::{Pass, Scratch, WeightReader};
use crate::kernels::Panels;
use crate::kernels::activation::Activation;
use crate::kernels::matmul::{Into, Matrix, matmul_packed};
use crate::model::{FeedPlaces, ModelError, room};

/// The weights of the block, packed for products.
#[derive(Debug)]
pub(super) struct Feed {
    activation: Activation,
    inward: Panels,
    down: Panels,
}

impl Feed {
    pub(super) fn read(reader: &WeightReader<'_>, places: &FeedPlaces) -> Result<Self, ModelError> {
        Ok(Self {
            activation: places.activation,
            inward: reader.panels(&places.inward)?,
            down: reader.panels(&places.down)?,
        })
    }

    /// Adds the block's output to the stream `x`.
    pub(super) fn add(&self, pass: &Pass<'_>, normed: &[f32], x: &mut [f32], scratch: &mut Scratch) {
        self.add_rows(pass.positions.len(), pass.hidden, normed, x, scratch);
    }

    /// [`Feed::add`] for some of the rows of a pass.
    pub(super) fn add_rows(
        &self,
        rows: usize,
        hidden: usize,
        normed: &[f32],
        x: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let inner = self.down.depth();
        let input = room(&mut scratch.inner, rows * self.activation.inputs() * inner);
        matmul_packed(input, Matrix::new(normed, rows, hidden), &self.inward, Into::Replace);
        let active = room(&mut scratch.outer, rows * inner);
        self.activation.forward(input, inner, active);
        matmul_packed(x, Matrix::new(active, rows, inner), &self.down, Into::Accumulate);
    }
}
