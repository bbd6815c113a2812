//! Blocks of a file as the kernels take them.

use super::{Blocks, ElementType};
use crate::kernels::quantised::{BLOCK, Format, Unpacked};

impl ElementType {
    /// The format in which the kernels compute on such elements; `None` if they have to be widened.
    pub fn kernel_format(self) -> Option<Format> {
        Some(match self {
            Self::Q4_0 => Format::Q4_0,
            Self::Q4_1 => Format::Q4_1,
            Self::Q5_0 => Format::Q5_0,
            Self::Q5_1 => Format::Q5_1,
            Self::Q8_0 => Format::Q8_0,
            Self::Q4_K => Format::Q4_K,
            Self::Q5_K => Format::Q5_K,
            Self::Q6_K => Format::Q6_K,
            Self::F32 | Self::F16 | Self::BF16 | Self::Q2_K | Self::Q3_K => return None,
        })
    }
}

impl Blocks<'_> {
    /// The rows one after the other, each as its blocks. `format` is that of the elements.
    pub(crate) fn unpacked(&self, format: Format) -> impl Iterator<Item = impl Iterator<Item = Unpacked>> {
        let (elements, size) = self.element.block();
        let row = self.columns / elements * size;
        let rows = (0..self.rows).map(move |index| &self.bytes[index * row..(index + 1) * row]);
        rows.map(move |row| {
            let blocks = row.chunks_exact(size);
            blocks.flat_map(move |block| (0..elements / BLOCK).map(move |index| unpack(format, block, index)))
        })
    }
}

/// Block `index` of a block of the file, which for some formats is several.
fn unpack(format: Format, block: &[u8], index: usize) -> Unpacked {
    match format {
        Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 => few_bits(format, block),
        Format::Q8_0 => {
            let scale = half(block, 0);
            Unpacked {
                quants: std::array::from_fn(|at| block[2 + at] ^ 0x80),
                scales: [scale; 2],
                minimum: 0.0,
            }
        }
        Format::Q4_K => {
            let [scale, minimum] = scale_and_minimum(block, index);
            let quants = std::array::from_fn(|at| nibble(&block[16..], index, at));
            Unpacked { quants, scales: [scale; 2], minimum }
        }
        Format::Q5_K => {
            let [scale, minimum] = scale_and_minimum(block, index);
            let quants = std::array::from_fn(|at| {
                nibble(&block[48..], index, at) | (block[16 + at] >> index & 1) << 4
            });
            Unpacked { quants, scales: [scale; 2], minimum }
        }
        Format::Q6_K => six_bits(block, index),
    }
}

/// The 16-bit number at `at`.
fn half(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The scale, the minimum if there is one, the fifth bits if there are any, then 4 bits of elements `i` and `i + 16` in a byte.
fn few_bits(format: Format, block: &[u8]) -> Unpacked {
    let has_fifth_bits = matches!(format, Format::Q5_0 | Format::Q5_1);
    let mut at = if format.has_minimum() { 4 } else { 2 };
    let mut fifth = 0;
    if has_fifth_bits {
        fifth = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        at += 4;
    }
    let mut quants = [0; BLOCK];
    for (index, byte) in block[at..].iter().enumerate() {
        for (quant, four) in [(index, byte & 15), (index + BLOCK / 2, byte >> 4)] {
            quants[quant] = four | ((fifth >> quant & 1) as u8) << 4;
        }
    }
    let minimum = if format.has_minimum() { half(block, 2) } else { 0.0 };
    Unpacked { quants, scales: [half(block, 0); 2], minimum }
}

/// Blocks `2i` and `2i + 1` lie in the lower and upper halves of the same 32 bytes.
fn nibble(bytes: &[u8], index: usize, at: usize) -> u8 {
    bytes[index / 2 * BLOCK + at] >> (4 * (index % 2)) & 15
}

/// Of block `index` of eight in Q4_K and Q5_K: a scale and a minimum of 6 bits each, in 12 bytes behind what multiplies them.
/// The first four have a byte each, whose two upper bits are upper bits of the other four.
fn scale_and_minimum(block: &[u8], index: usize) -> [f32; 2] {
    let packed = &block[4..16];
    let [scale, minimum] = if index < 4 {
        [packed[index] & 63, packed[index + 4] & 63]
    } else {
        let low = packed[index + 4];
        [low & 15 | packed[index - 4] >> 6 << 4, low >> 4 | packed[index] >> 6 << 4]
    };
    [half(block, 0) * f32::from(scale), -(half(block, 2) * f32::from(minimum))]
}

/// Block `index` of eight in Q6_K: 4 lower bits of each element in 128 bytes, 2 upper bits in 64, 16 signed scales and what
/// multiplies them. Elements go by groups of 128, whose four blocks share bytes.
fn six_bits(block: &[u8], index: usize) -> Unpacked {
    let (group, part) = (index / 4, index % 4);
    let quants = std::array::from_fn(|at| {
        let low = block[group * 64 + part % 2 * 32 + at] >> (4 * (part / 2)) & 15;
        low | (block[128 + group * 32 + at] >> (2 * part) & 3) << 4
    });
    let whole = half(block, 208);
    let scales = [0, 1].map(|half| whole * f32::from(block[192 + index * 2 + half].cast_signed()));
    Unpacked { quants, scales, minimum: 0.0 }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;

    const ELEMENTS: [ElementType; 8] = [
        ElementType::Q4_0,
        ElementType::Q4_1,
        ElementType::Q5_0,
        ElementType::Q5_1,
        ElementType::Q8_0,
        ElementType::Q4_K,
        ElementType::Q5_K,
        ElementType::Q6_K,
    ];

    proptest! {
        #[test]
        fn unpacked_blocks_are_the_elements(bytes in proptest::collection::vec(any::<u8>(), 210 * 6), kind in 0_usize..8) {
            let element = ELEMENTS[kind];
            let (elements, size) = element.block();
            let mut bytes = bytes[..6 * size].to_vec();
            let format = element.kernel_format().unwrap();
            for block in bytes.chunks_exact_mut(size) {
                // Scales that are numbers.
                for upper in if element == ElementType::Q6_K { vec![209] } else { vec![1, 3] } {
                    block[upper] &= 0x3b;
                }
            }
            let wide = element.dequantise(&bytes).unwrap();
            let blocks = Blocks { element, rows: 3, columns: 2 * elements, bytes: Cow::Borrowed(&bytes) };
            let found: Vec<Unpacked> = blocks.unpacked(format).flatten().collect();
            prop_assert_eq!(found.len() * BLOCK, wide.len());
            for (wide, block) in wide.chunks_exact(BLOCK).zip(found) {
                for (place, (wide, quant)) in wide.iter().zip(block.quants).enumerate() {
                    let steps = (i32::from(quant) - i32::from(format.zero())) as f32;
                    let found = steps * block.scales[place / 16] + block.minimum;
                    prop_assert!((wide - found).abs() <= 0.0, "{:?}: {} for {}", element, found, wide);
                }
            }
        }
    }
}
