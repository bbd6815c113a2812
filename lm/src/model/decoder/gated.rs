//! The gated feed-forward block.

use super::{Pass, Scratch, WeightReader};
use crate::kernels::Panels;
use crate::kernels::activation::swiglu;
use crate::kernels::matmul::{Into, Matrix, matmul_packed};
use crate::model::{GatedPlaces, ModelError, room};

/// The weights of the block, packed for products.
#[derive(Debug)]
pub(super) struct Gated {
    gate_up: Panels,
    down: Panels,
}

impl Gated {
    pub(super) fn read(reader: &WeightReader<'_>, places: &GatedPlaces) -> Result<Self, ModelError> {
        Ok(Self { gate_up: reader.panels(&places.gate_up)?, down: reader.panels(&places.down)? })
    }

    /// Adds the block's output to the stream `x`.
    pub(super) fn add(&self, pass: &Pass<'_>, normed: &[f32], x: &mut [f32], scratch: &mut Scratch) {
        let (rows, inner) = (pass.positions.len(), self.down.depth());
        let gate_up = room(&mut scratch.inner, rows * 2 * inner);
        matmul_packed(gate_up, Matrix::new(normed, rows, pass.hidden), &self.gate_up, Into::Replace);
        let active = room(&mut scratch.outer, rows * inner);
        swiglu(gate_up, inner, active);
        matmul_packed(x, Matrix::new(active, rows, inner), &self.down, Into::Accumulate);
    }
}
