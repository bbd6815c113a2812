//! The left operand: rows of 32-bit numbers, quantised to 8 bits.

use rayon::prelude::*;

use super::{BLOCK, Rows, scale};

/// Elements whose quantisation is worth handing to another thread.
const WORTH_QUANTISING: usize = 1 << 15;

/// Rows of `A`, every block of them with a scale of its own.
#[derive(Default)]
pub(super) struct QuantisedRows {
    quants: Vec<i8>,
    scales: Vec<f32>,
    /// The sums of the quants of each block's halves.
    sums: Vec<[i32; 2]>,
    blocks: usize,
}

impl QuantisedRows {
    /// Replaces the contents by rows of `blocks` blocks, keeping the allocation.
    pub(super) fn fill(&mut self, a: &[f32], blocks: usize) {
        let total = a.len() / BLOCK;
        self.blocks = blocks;
        self.quants.resize(a.len(), 0);
        self.scales.resize(total, 0.0);
        self.sums.resize(total, [0; 2]);
        let each = if rayon::current_num_threads() > 1 { WORTH_QUANTISING } else { a.len().max(BLOCK) };
        if a.len() <= each {
            return quantise(a, &mut self.quants, &mut self.scales, &mut self.sums);
        }
        let parts = (
            a.par_chunks(each),
            self.quants.par_chunks_mut(each),
            self.scales.par_chunks_mut(each / BLOCK),
            self.sums.par_chunks_mut(each / BLOCK),
        );
        parts.into_par_iter().for_each(|(a, quants, scales, sums)| quantise(a, quants, scales, sums));
    }

    pub(super) fn view(&self) -> Rows<'_> {
        Rows { quants: &self.quants, scales: &self.scales, sums: &self.sums, blocks: self.blocks }
    }
}

/// The nearest multiples of a scale that makes the largest element of a block 127.
fn quantise(a: &[f32], quants: &mut [i8], scales: &mut [f32], sums: &mut [[i32; 2]]) {
    let blocks = a.as_chunks().0.iter().zip(quants.as_chunks_mut().0);
    let blocks = blocks.zip(scales.iter_mut().zip(sums));
    #[cfg(target_arch = "x86_64")]
    if super::best() != super::Instructions::Plain {
        for ((block, quants), (scale, sum)) in blocks {
            // SAFETY: both other sets of instructions include those of 256-bit vectors.
            (*scale, *sum) = unsafe { super::x86::quantise_block(block, quants) };
        }
        return;
    }
    for ((block, quants), (scale, sum)) in blocks {
        (*scale, *sum) = quantise_block(block, quants);
    }
}

/// The scale of a block and the sums of the quants of its halves. Not left to the compiler to vectorise: it takes several blocks at once, and
/// spends its time on gathering them.
pub(super) fn quantise_block(block: &[f32; BLOCK], quants: &mut [i8; BLOCK]) -> (f32, [i32; 2]) {
    // The bits of magnitudes are in their order. What is no number is above them all, and spoils the scale as it should.
    let largest = block.iter().fold(0, |largest, value| value.abs().to_bits().max(largest));
    let (scale, inverse) = scale(f32::from_bits(largest));
    for (quant, value) in quants.iter_mut().zip(block) {
        *quant = (value * inverse).round_ties_even() as i8;
    }
    let sum = |half: &[i8]| half.iter().copied().map(i32::from).sum();
    (scale, [sum(&quants[..BLOCK / 2]), sum(&quants[BLOCK / 2..])])
}
