//! A matrix that rows are multiplied with, in the form that its weights came in.

use crate::kernels::Panels;
use crate::kernels::matmul::{Into, Matrix, matmul_packed};
use crate::kernels::quantised::{QuantisedPanels, matmul_quantised};

/// Weights ready for products.
#[derive(Debug)]
pub(super) enum Projection {
    /// 32-bit numbers.
    Floats(Panels),
    /// Blocks of few bits per element; what they are multiplied with is rounded to 8 bits.
    Blocks(QuantisedPanels),
}

impl Projection {
    /// Elements of a row that enters.
    pub(super) fn inputs(&self) -> usize {
        match self {
            Self::Floats(panels) => panels.depth(),
            Self::Blocks(panels) => panels.depth(),
        }
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Floats(panels) => panels.depth() * panels.columns() * size_of::<f32>(),
            Self::Blocks(panels) => panels.bytes(),
        }
    }

    /// Projects rows of `input` that follow one another without gaps. A row of the output depends on its own input only.
    pub(super) fn apply(&self, output: &mut [f32], input: &[f32], into: Into) {
        match self {
            Self::Floats(panels) => {
                let rows = input.len() / panels.depth().max(1);
                matmul_packed(output, Matrix::new(input, rows, panels.depth()), panels, into);
            }
            Self::Blocks(panels) => matmul_quantised(output, input, panels, into),
        }
    }
}
