//! The element types of GGUF tensors.

use candle_core::quantized::GgmlDType;
use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::{DType, Device};

/// How the elements of a tensor are stored: as they are, or quantised in blocks along a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(non_camel_case_types, reason = "the names of the format")]
pub enum ElementType {
    /// 32-bit numbers.
    F32,
    /// 16-bit numbers of IEEE 754.
    F16,
    /// The upper halves of 32-bit numbers.
    BF16,
    /// 4 bits and a scale.
    Q4_0,
    /// 4 bits, a scale and a minimum.
    Q4_1,
    /// 5 bits and a scale.
    Q5_0,
    /// 5 bits, a scale and a minimum.
    Q5_1,
    /// 8 bits and a scale.
    Q8_0,
    /// 2 bits in blocks of blocks.
    Q2_K,
    /// 3 bits in blocks of blocks.
    Q3_K,
    /// 4 bits in blocks of blocks.
    Q4_K,
    /// 5 bits in blocks of blocks.
    Q5_K,
    /// 6 bits in blocks of blocks.
    Q6_K,
}

impl ElementType {
    /// Every type with its number in the format and its counterpart in candle.
    const TABLE: [(Self, u32, GgmlDType); 13] = [
        (Self::F32, 0, GgmlDType::F32),
        (Self::F16, 1, GgmlDType::F16),
        (Self::Q4_0, 2, GgmlDType::Q4_0),
        (Self::Q4_1, 3, GgmlDType::Q4_1),
        (Self::Q5_0, 6, GgmlDType::Q5_0),
        (Self::Q5_1, 7, GgmlDType::Q5_1),
        (Self::Q8_0, 8, GgmlDType::Q8_0),
        (Self::Q2_K, 10, GgmlDType::Q2K),
        (Self::Q3_K, 11, GgmlDType::Q3K),
        (Self::Q4_K, 12, GgmlDType::Q4K),
        (Self::Q5_K, 13, GgmlDType::Q5K),
        (Self::Q6_K, 14, GgmlDType::Q6K),
        (Self::BF16, 30, GgmlDType::BF16),
    ];

    /// The type with this number in the format.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::TABLE.iter().find(|(_, number, _)| *number == id).map(|(element, ..)| *element)
    }

    /// Elements of a block, and its bytes.
    pub fn block(self) -> (usize, usize) {
        let kind = self.candle();
        (kind.block_size(), kind.type_size())
    }

    fn candle(self) -> GgmlDType {
        Self::TABLE.iter().find(|(element, ..)| *element == self).map_or(GgmlDType::F32, |(.., kind)| *kind)
    }

    /// The elements of whole blocks as 32-bit numbers. `bytes` lie at a multiple of four.
    pub(crate) fn dequantise(self, bytes: &[u8]) -> candle_core::Result<Vec<f32>> {
        let (elements, size) = self.block();
        let count = bytes.len() / size * elements;
        qtensor_from_ggml(self.candle(), bytes, vec![count], &Device::Cpu)?
            .dequantize(&Device::Cpu)?
            .to_dtype(DType::F32)?
            .to_vec1()
    }
}
