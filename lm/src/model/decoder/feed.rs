//! A feed-forward block.

use super::projection::Projection;
use super::{Pass, Scratch, WeightReader};
use crate::kernels::activation::Activation;
use crate::kernels::matmul::Into;
use crate::model::{FeedPlaces, ModelError, room};

/// The weights of the block.
#[derive(Debug)]
pub(super) struct Feed {
    activation: Activation,
    inward: Projection,
    down: Projection,
}

impl Feed {
    pub(super) fn read(reader: &WeightReader<'_>, places: &FeedPlaces) -> Result<Self, ModelError> {
        Ok(Self {
            activation: places.activation,
            inward: reader.projection(&places.inward)?,
            down: reader.projection(&places.down)?,
        })
    }

    /// Adds the block's output to the stream `x`.
    pub(super) fn add(&self, pass: &Pass<'_>, normed: &[f32], x: &mut [f32], scratch: &mut Scratch) {
        self.add_rows(pass.positions.len(), normed, x, scratch);
    }

    /// [`Feed::add`] for some of the rows of a pass.
    pub(super) fn add_rows(&self, rows: usize, normed: &[f32], x: &mut [f32], scratch: &mut Scratch) {
        let inner = self.down.inputs();
        let input = room(&mut scratch.inner, rows * self.activation.inputs() * inner);
        self.inward.apply(input, normed, Into::Replace);
        let active = room(&mut scratch.outer, rows * inner);
        self.activation.forward(input, inner, active);
        self.down.apply(x, active, Into::Accumulate);
    }
}
