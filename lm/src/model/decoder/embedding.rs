//! The rows of the embedding, in the form that they came in.

use crate::gguf::ElementType;

/// A row per token.
#[derive(Debug)]
pub(super) enum Embedding {
    /// 32-bit numbers.
    Floats(Vec<f32>),
    /// Blocks, widened when a token is looked up.
    Blocks { element: ElementType, bytes: Vec<u8>, row: usize },
}

impl Embedding {
    /// Appends the `width` elements of a token's row.
    ///
    /// # Panics
    /// If the token has none.
    pub(super) fn append(&self, token: u32, width: usize, to: &mut Vec<f32>) {
        match self {
            Self::Floats(rows) => to.extend_from_slice(&rows[token as usize * width..][..width]),
            Self::Blocks { element, bytes, row } => {
                let bytes = &bytes[token as usize * row..][..*row];
                to.extend(element.dequantise(bytes).expect("the rows were read when the model was loaded"));
            }
        }
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Floats(rows) => size_of_val(&rows[..]),
            Self::Blocks { bytes, .. } => bytes.len(),
        }
    }
}
