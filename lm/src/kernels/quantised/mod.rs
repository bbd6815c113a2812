//! Products with a matrix whose elements are stored in blocks of a few bits each, computed on them as they are.
//!
//! A block of [`BLOCK`] elements of a column has a scale, or one for each half, and for some formats a minimum: element =
//! scale · (quant − zero) + minimum. The other operand is quantised to 8 bits in blocks as well, every row by itself. The product of two blocks is then
//! an integer, and exact; an element of the result is one chain of fused multiply-adds over the blocks, in order. So a row has
//! the same bytes in any company, on any number of threads and with any instruction set, as in [`super::matmul`].
//!
//! What differs from the product with the widened matrix is the rounding of the other operand: about 0.4 % of its largest
//! element in the block, as in llama.cpp, whose formats these are.

mod rows;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::cell::RefCell;
use std::ops::Range;

use super::matmul::{Into, WIDTH};
use super::share::{Shared, share};
use rows::QuantisedRows;

/// Elements of a block: of a row they share a scale, of a column they or their halves do.
pub const BLOCK: usize = 32;
/// Multiply-adds that are worth handing to another thread.
const WORTH_SHARING: usize = 1 << 18;

/// One block of a column, unpacked.
#[derive(Clone, Copy, Debug)]
pub struct Unpacked {
    /// The elements.
    pub quants: [u8; BLOCK],
    /// The scales of the halves; of the whole block both, where the format does not tell them apart.
    pub scales: [f32; 2],
    /// The minimum; zero for formats that have none.
    pub minimum: f32,
}

/// The formats of llama.cpp that are computed with as they are, by their names there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(non_camel_case_types, reason = "the names of the formats")]
pub enum Format {
    /// 4 bits around 8.
    Q4_0,
    /// 4 bits and a minimum.
    Q4_1,
    /// 5 bits around 16.
    Q5_0,
    /// 5 bits and a minimum.
    Q5_1,
    /// 8 bits, signed there and around 128 here.
    Q8_0,
    /// 4 bits and a minimum, in blocks of blocks.
    Q4_K,
    /// 5 bits and a minimum, in blocks of blocks.
    Q5_K,
    /// 6 bits around 32, in blocks of blocks, with a scale for each half of a block.
    Q6_K,
}

impl Format {
    /// Whether the quants are at most 15, so that two share a byte.
    fn is_narrow(self) -> bool {
        matches!(self, Self::Q4_0 | Self::Q4_1 | Self::Q4_K)
    }

    /// The quant that stands for zero; zero, where blocks have a minimum instead.
    pub fn zero(self) -> u8 {
        match self {
            Self::Q4_0 => 8,
            Self::Q5_0 => 16,
            Self::Q6_K => 32,
            Self::Q8_0 => 128,
            Self::Q4_1 | Self::Q5_1 | Self::Q4_K | Self::Q5_K => 0,
        }
    }

    /// Whether blocks have a minimum.
    pub fn has_minimum(self) -> bool {
        matches!(self, Self::Q4_1 | Self::Q5_1 | Self::Q4_K | Self::Q5_K)
    }

    /// What the scales and minima of blocks are.
    fn scales(self) -> Scales {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => Scales::Half,
            Self::Q4_K | Self::Q5_K => Scales::Single,
            Self::Q6_K => Scales::SinglePerHalf,
        }
    }

    /// Bytes of a block of a panel.
    fn block_bytes(self) -> usize {
        if self.is_narrow() { BLOCK / 2 * WIDTH } else { BLOCK * WIDTH }
    }
}

/// The numbers of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scales {
    /// 16-bit numbers of IEEE 754, one for the block.
    Half,
    /// Numbers that need 32 bits, one for the block: products of a scale and a scale of scales.
    Single,
    /// The same, one for each half of a block.
    SinglePerHalf,
}

impl Scales {
    /// Scales of a block.
    fn per_block(self) -> usize {
        if self == Self::SinglePerHalf { 2 } else { 1 }
    }
}

/// Scales or minima in memory, [`WIDTH`] columns of a panel side by side.
#[derive(Clone, Debug)]
enum Numbers {
    Half(Vec<u16>),
    Single(Vec<f32>),
}

impl Numbers {
    fn zeros(scales: Scales, count: usize) -> Self {
        if scales == Scales::Half { Self::Half(vec![0; count]) } else { Self::Single(vec![0.0; count]) }
    }

    fn put(&mut self, place: usize, number: f32) {
        match self {
            Self::Half(numbers) => numbers[place] = half::f16::from_f32(number).to_bits(),
            Self::Single(numbers) => numbers[place] = number,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Half(numbers) => size_of_val(&numbers[..]),
            Self::Single(numbers) => size_of_val(&numbers[..]),
        }
    }

    fn slice(&self, range: Range<usize>) -> NumbersView<'_> {
        match self {
            Self::Half(numbers) => NumbersView::Half(&numbers[range]),
            Self::Single(numbers) => NumbersView::Single(&numbers[range]),
        }
    }
}

/// [`Numbers`], borrowed.
#[derive(Clone, Copy)]
enum NumbersView<'a> {
    Half(&'a [u16]),
    Single(&'a [f32]),
}

impl NumbersView<'_> {
    fn len(self) -> usize {
        match self {
            Self::Half(numbers) => numbers.len(),
            Self::Single(numbers) => numbers.len(),
        }
    }

    fn at(self, place: usize) -> f32 {
        match self {
            Self::Half(numbers) => half::f16::from_bits(numbers[place]).to_f32(),
            Self::Single(numbers) => numbers[place],
        }
    }
}

/// A matrix ready for the innermost loop: per panel of [`WIDTH`] columns, block after block.
///
/// In a block, four consecutive elements of each column lie together, as the instructions take them: 64 bytes for the panel.
/// Narrow quants have elements `i` and `i + 16` in the lower and upper half of a byte.
#[derive(Clone, Debug)]
pub struct QuantisedPanels {
    format: Format,
    quants: Vec<u8>,
    /// Of the columns of a panel in one block or half, then in the next.
    scales: Numbers,
    minima: Numbers,
    blocks: usize,
    columns: usize,
}

impl QuantisedPanels {
    /// Packs columns given one after the other, each as its blocks in order.
    ///
    /// # Panics
    /// If `columns` gives another number of columns or blocks.
    pub fn new<C: Iterator<Item = Unpacked>>(
        format: Format,
        depth: usize,
        columns: impl ExactSizeIterator<Item = C>,
    ) -> Self {
        let (blocks, count) = (depth / BLOCK, columns.len());
        let panels = count.div_ceil(WIDTH);
        let numbers = panels * blocks * WIDTH;
        let mut packed = Self {
            format,
            quants: vec![0; panels * blocks * format.block_bytes()],
            scales: Numbers::zeros(format.scales(), numbers * format.scales().per_block()),
            minima: Numbers::zeros(format.scales(), if format.has_minimum() { numbers } else { 0 }),
            blocks,
            columns: count,
        };
        for (column, of_column) in columns.enumerate() {
            let mut found = 0;
            for block in of_column {
                packed.put(column, found, &block);
                found += 1;
            }
            assert_eq!(found, blocks, "blocks of column {column}");
        }
        packed
    }

    fn put(&mut self, column: usize, block: usize, unpacked: &Unpacked) {
        let (place, lane) = (column / WIDTH * self.blocks + block, column % WIDTH);
        let per_block = self.format.scales().per_block();
        for (part, scale) in unpacked.scales.into_iter().take(per_block).enumerate() {
            self.scales.put((place * per_block + part) * WIDTH + lane, scale);
        }
        if self.format.has_minimum() {
            self.minima.put(place * WIDTH + lane, unpacked.minimum);
        }
        let bytes = self.format.block_bytes();
        let target = &mut self.quants[place * bytes..(place + 1) * bytes];
        let half = if self.format.is_narrow() { BLOCK / 2 } else { BLOCK };
        for (index, &quant) in unpacked.quants.iter().enumerate() {
            let (upper, index) = (index / half, index % half);
            target[(index / 4 * WIDTH + lane) * 4 + index % 4] |= quant << (4 * upper);
        }
    }

    /// The inner dimension.
    pub fn depth(&self) -> usize {
        self.blocks * BLOCK
    }

    /// Number of columns of the matrix.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.quants.len() + self.scales.bytes() + self.minima.bytes()
    }

    fn panel(&self, panel: usize) -> Panel<'_> {
        let bytes = self.blocks * self.format.block_bytes();
        let numbers = |per_block: usize| {
            let each = self.blocks * per_block * WIDTH;
            panel * each..(panel + 1) * each
        };
        Panel {
            format: self.format,
            quants: &self.quants[panel * bytes..(panel + 1) * bytes],
            scales: self.scales.slice(numbers(self.format.scales().per_block())),
            minima: self.minima.slice(if self.format.has_minimum() { numbers(1) } else { 0..0 }),
        }
    }
}

/// `C = A·B` or `C += A·B`, with `A` and `C` stored row after row, on the threads of the current pool.
///
/// # Panics
/// If the shapes do not fit.
pub fn matmul_quantised(c: &mut [f32], a: &[f32], b: &QuantisedPanels, into: Into) {
    thread_local! {
        static ROWS: RefCell<QuantisedRows> = RefCell::default();
    }
    let rows = a.len() / b.depth().max(1);
    assert_eq!(a.len(), rows * b.depth(), "whole rows of {} elements", b.depth());
    assert_eq!(
        c.len(),
        rows * b.columns,
        "the result of {rows}×{} by {}×{}",
        b.depth(),
        b.depth(),
        b.columns
    );
    // Taken out, not borrowed: while this thread waits for others it may be given another product to do.
    let mut quantised = ROWS.take();
    quantised.fill(a, b.blocks);
    let shared = Shared::new(c);
    let grain = (WORTH_SHARING / (a.len() * WIDTH).max(1)).max(1);
    share(b.columns.div_ceil(WIDTH), grain, |panels| {
        for panel in panels {
            let valid = (b.columns - panel * WIDTH).min(WIDTH);
            // SAFETY: every column of `C` is written by one call.
            let target =
                unsafe { Target { c: shared.pointer().add(panel * WIDTH), stride: b.columns, valid, into } };
            // SAFETY: the rows of the target are inside `C`, whose length was checked.
            unsafe { multiply(best(), target, quantised.view(), b.panel(panel)) };
        }
    });
    ROWS.set(quantised);
}

/// The scale of a block with this largest magnitude, and what its elements are multiplied with.
fn scale(largest: f32) -> (f32, f32) {
    (largest / 127.0, if largest > 0.0 { 127.0 / largest } else { 0.0 })
}

/// [`QuantisedRows`], borrowed.
#[derive(Clone, Copy)]
struct Rows<'a> {
    quants: &'a [i8],
    scales: &'a [f32],
    sums: &'a [[i32; 2]],
    /// Of every row.
    blocks: usize,
}

/// One panel of a matrix.
#[derive(Clone, Copy)]
struct Panel<'a> {
    format: Format,
    quants: &'a [u8],
    scales: NumbersView<'a>,
    minima: NumbersView<'a>,
}

/// Where the products with one panel go.
#[derive(Clone, Copy)]
struct Target {
    c: *mut f32,
    stride: usize,
    /// Columns of the panel that the matrix has.
    valid: usize,
    into: Into,
}

impl Target {
    /// Ends a row.
    ///
    /// # Safety
    /// The row lies inside `C`, and nobody else touches its columns of this panel.
    #[inline]
    unsafe fn put(self, row: usize, sums: &[f32; WIDTH]) {
        // SAFETY: the caller's.
        unsafe {
            let c = self.c.add(row * self.stride);
            for (lane, sum) in sums.iter().enumerate().take(self.valid) {
                *c.add(lane) = if self.into == Into::Accumulate { *c.add(lane) + sum } else { *sum };
            }
        }
    }
}

/// Instructions for products of small integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instructions {
    /// Whatever the target guarantees.
    Plain,
    /// 256-bit vectors; sums of pairs of products.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 512-bit vectors; sums of four products in one instruction.
    #[cfg(target_arch = "x86_64")]
    Vnni,
}

/// The fastest that this machine has; the standard library caches the answer.
fn best() -> Instructions {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni")
        {
            return Instructions::Vnni;
        }
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            return Instructions::Avx2;
        }
    }
    Instructions::Plain
}

/// All rows times one panel.
///
/// # Safety
/// This machine has the instructions; the rows lie inside `C`, and nobody else touches the columns of this panel.
unsafe fn multiply(instructions: Instructions, target: Target, rows: Rows<'_>, panel: Panel<'_>) {
    let count = rows.scales.len() / rows.blocks.max(1);
    let bytes = panel.format.block_bytes();
    assert!(
        panel.quants.len() == rows.blocks * bytes
            && panel.scales.len() == rows.blocks * panel.format.scales().per_block() * WIDTH
            && rows.quants.len() == count * rows.blocks * BLOCK
            && rows.sums.len() == rows.scales.len(),
        "a panel of {} blocks",
        rows.blocks
    );
    let minima = if panel.format.has_minimum() { rows.blocks * WIDTH } else { 0 };
    assert!(panel.minima.len() == minima, "{minima} minima");
    assert!(
        matches!(panel.scales, NumbersView::Half(_)) == (panel.format.scales() == Scales::Half)
            && matches!(panel.minima, NumbersView::Half(_)) == (panel.format.scales() == Scales::Half),
        "numbers of the format"
    );
    // SAFETY: the caller's, and the lengths just checked.
    unsafe {
        match instructions {
            #[cfg(target_arch = "x86_64")]
            Instructions::Vnni => x86::multiply_vnni(target, rows, panel, count),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => x86::multiply_avx2(target, rows, panel, count),
            Instructions::Plain => plain(target, rows, panel, count),
        }
    }
}

/// The definition, which the others equal to the bit.
unsafe fn plain(target: Target, rows: Rows<'_>, panel: Panel<'_>, count: usize) {
    let (is_narrow, has_minimum) = (panel.format.is_narrow(), panel.format.has_minimum());
    let (parts, half) = (panel.format.scales().per_block(), if is_narrow { BLOCK / 2 } else { BLOCK });
    for row in 0..count {
        let mut totals = [0.0_f32; WIDTH];
        for block in 0..rows.blocks {
            let at = row * rows.blocks + block;
            let (left, scale) = (&rows.quants[at * BLOCK..][..BLOCK], rows.scales[at]);
            let right = &panel.quants[block * panel.format.block_bytes()..];
            for part in 0..parts {
                let sum = if parts == 1 { rows.sums[at].iter().sum() } else { rows.sums[at][part] };
                for (lane, total) in totals.iter_mut().enumerate() {
                    let mut dot = if has_minimum { 0 } else { -i32::from(panel.format.zero()) * sum };
                    let places = part * BLOCK / parts..(part + 1) * BLOCK / parts;
                    for (place, &left) in places.clone().zip(&left[places]) {
                        let (upper, index) = (place / half, place % half);
                        let byte = right[(index / 4 * WIDTH + lane) * 4 + index % 4];
                        let quant = if is_narrow { byte >> (4 * upper) & 15 } else { byte };
                        dot += i32::from(left) * i32::from(quant);
                    }
                    let both = panel.scales.at((block * parts + part) * WIDTH + lane) * scale;
                    *total = (dot as f32).mul_add(both, *total);
                    if has_minimum {
                        *total = panel.minima.at(block * WIDTH + lane).mul_add(sum as f32 * scale, *total);
                    }
                }
            }
        }
        // SAFETY: the caller's.
        unsafe { target.put(row, &totals) };
    }
}

#[cfg(test)]
mod tests;
