//! Blocks of a file as the kernels take them.

use super::{Blocks, ElementType};
use crate::kernels::quantised::{BLOCK, Format, Unpacked};

/// How a block lies in a file: the scale, the minimum if there is one, the fifth bits if there are any, the quants.
#[derive(Clone, Copy)]
struct Layout {
    format: Format,
    has_fifth_bits: bool,
}

impl ElementType {
    /// The formats whose blocks have one scale for [`BLOCK`] elements.
    fn layout(self) -> Option<Layout> {
        let layout = |is_narrow, zero, has_minimum, has_fifth_bits| {
            Some(Layout { format: Format { is_narrow, zero, has_minimum }, has_fifth_bits })
        };
        match self {
            Self::Q4_0 => layout(true, 8, false, false),
            Self::Q4_1 => layout(true, 0, true, false),
            Self::Q5_0 => layout(false, 16, false, true),
            Self::Q5_1 => layout(false, 0, true, true),
            // Signed in the file; the sign bit is turned.
            Self::Q8_0 => layout(false, 128, false, false),
            _ => None,
        }
    }

    /// The format in which the kernels compute on such elements; `None` if they have to be widened.
    pub fn kernel_format(self) -> Option<Format> {
        self.layout().map(|layout| layout.format)
    }
}

impl Blocks<'_> {
    /// The rows one after the other, each as its blocks; `None` if the kernels do not compute on them.
    pub fn unpacked(&self) -> Option<impl ExactSizeIterator<Item = impl Iterator<Item = Unpacked>>> {
        let layout = self.element.layout().filter(|_| self.columns.is_multiple_of(BLOCK))?;
        let (_, size) = self.element.block();
        let row = self.columns / BLOCK * size;
        let rows = (0..self.rows).map(move |index| &self.bytes[index * row..(index + 1) * row]);
        Some(rows.map(move |row| row.chunks_exact(size).map(move |block| unpack(layout, block))))
    }
}

fn unpack(layout: Layout, block: &[u8]) -> Unpacked {
    let half = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
    let Layout { format, has_fifth_bits } = layout;
    let mut at = if format.has_minimum { 4 } else { 2 };
    let mut quants = [0; BLOCK];
    if format.zero == 128 {
        for (quant, byte) in quants.iter_mut().zip(&block[at..]) {
            *quant = byte ^ 0x80;
        }
    } else {
        let mut fifth = 0;
        if has_fifth_bits {
            fifth = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
            at += 4;
        }
        for (index, byte) in block[at..].iter().enumerate() {
            for (quant, four) in [(index, byte & 15), (index + BLOCK / 2, byte >> 4)] {
                quants[quant] = four | ((fifth >> quant & 1) as u8) << 4;
            }
        }
    }
    Unpacked { quants, scale: half(0), minimum: if format.has_minimum { half(2) } else { 0 } }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn unpacked_blocks_are_the_elements(bytes in proptest::collection::vec(any::<u8>(), 34 * 6), kind in 0_usize..5) {
            let element = [ElementType::Q4_0, ElementType::Q4_1, ElementType::Q5_0, ElementType::Q5_1, ElementType::Q8_0][kind];
            let (_, size) = element.block();
            let mut bytes = bytes[..6 * size].to_vec();
            let format = element.kernel_format().unwrap();
            for block in bytes.chunks_exact_mut(size) {
                // Scales that are numbers.
                block[1] &= 0x3b;
                if format.has_minimum {
                    block[3] &= 0x3b;
                }
            }
            let wide = element.dequantise(&bytes).unwrap();
            let blocks = Blocks { element, rows: 3, columns: 2 * BLOCK, bytes: Cow::Borrowed(&bytes) };
            let found: Vec<Unpacked> = blocks.unpacked().unwrap().flatten().collect();
            prop_assert_eq!(found.len(), 6);
            for (wide, block) in wide.chunks_exact(BLOCK).zip(found) {
                let widened = |bits| half::f16::from_bits(bits).to_f32();
                for (wide, quant) in wide.iter().zip(block.quants) {
                    let zero = if format.has_minimum { 0 } else { i32::from(format.zero) };
                    let steps = (i32::from(quant) - zero) as f32;
                    prop_assert_eq!(*wide, steps * widened(block.scale) + widened(block.minimum));
                }
            }
        }
    }
}
