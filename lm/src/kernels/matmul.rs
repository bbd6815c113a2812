//! Matrix products: `C = A·B` or `C += A·B`, for operands in any orientation.
//!
//! Each element of `C` is one chain of fused multiply-adds over the inner dimension in increasing order, starting from zero or
//! from what `C` held. Blocking and threads only choose which elements are computed when, so a row of `C` has the same bytes
//! whether it is computed alone (decoding) or among thousands (training), and a product accumulated in pieces of the inner
//! dimension has the same bytes as the product computed at once.
//!
//! `B` is copied into [`Panels`] of [`WIDTH`] columns, so that the innermost loop reads it in order; `A` is read in place.

use std::cell::RefCell;
use std::ops::Range;

use super::share::{Shared, share};

/// Columns in a panel of `B`.
pub const WIDTH: usize = 16;
/// Inner dimension covered before moving on: a block of a panel (16 KiB) stays in the first-level cache.
const DEPTH: usize = 256;
/// Rows of `A` up to which a panel is read from one end to the other: it is used too seldom to be kept, and memory is read
/// fastest in order.
const FEW_ROWS: usize = 32;
/// Rows of `A` multiplied with one panel before the next panel: a block of `A` stays in the second-level cache.
const ROWS: usize = 96;
/// Multiply-adds that are worth handing to another thread.
const WORTH_SHARING: usize = 1 << 17;

/// A matrix inside a slice: an element lies at `row · row_stride + column · column_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix stored row after row without gaps.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// A matrix whose rows start `row_stride` apart: some columns of a wider one.
    ///
    /// # Panics
    /// If an element would lie outside `data`.
    pub fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        let needed = if rows == 0 || columns == 0 { 0 } else { (rows - 1) * row_stride + columns };
        assert!(
            needed <= data.len(),
            "a {rows}×{columns} matrix with stride {row_stride} needs {needed} places, not {}",
            data.len()
        );
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// The same elements with rows and columns exchanged.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }
}

/// The right-hand side of a product, ready for the innermost loop: per panel of [`WIDTH`] columns, row after row.
///
/// A missing column at the right edge is zero. Panels may be longer than the matrix, so that rows can be appended.
#[derive(Clone, Debug, Default)]
pub struct Panels {
    data: Vec<f32>,
    depth: usize,
    columns: usize,
}

impl Panels {
    /// Copies a matrix into panels.
    pub fn new(matrix: Matrix<'_>) -> Self {
        let mut panels = Self::default();
        panels.fill(matrix);
        panels
    }

    /// Replaces the contents, keeping the allocation, on the threads of the current pool.
    pub fn fill(&mut self, matrix: Matrix<'_>) {
        let stride = self.reshape(matrix);
        let shared = Shared::new(&mut self.data);
        let grain = (WORTH_SHARING / 4 / stride.max(1)).max(1);
        share(self.columns.div_ceil(WIDTH), grain, |panels| {
            for panel in panels {
                // SAFETY: every panel is written by one call.
                let target = unsafe { shared.slice(panel * stride..(panel + 1) * stride) };
                let columns = panel * WIDTH..((panel + 1) * WIDTH).min(matrix.columns);
                fill_panel(target, matrix, columns);
            }
        });
    }

    /// [`Panels::fill`] on this thread only.
    pub(crate) fn fill_alone(&mut self, matrix: Matrix<'_>) {
        let stride = self.reshape(matrix);
        for (panel, target) in self.data.chunks_exact_mut(stride.max(1)).enumerate() {
            fill_panel(target, matrix, panel * WIDTH..((panel + 1) * WIDTH).min(matrix.columns));
        }
    }

    /// Room for a matrix, zero where no column will be written; returns the places per panel.
    fn reshape(&mut self, matrix: Matrix<'_>) -> usize {
        self.depth = matrix.rows;
        self.columns = matrix.columns;
        let (stride, panels) = (self.depth * WIDTH, self.columns.div_ceil(WIDTH));
        self.data.resize(panels * stride, 0.0);
        if !self.columns.is_multiple_of(WIDTH) {
            self.data[(panels - 1) * stride..].fill(0.0);
        }
        stride
    }

    /// The inner dimension.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Number of columns of the matrix.
    pub fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn view(&self) -> PanelView<'_> {
        PanelView { data: &self.data, stride: self.depth * WIDTH, depth: self.depth, columns: self.columns }
    }
}

fn fill_panel(target: &mut [f32], matrix: Matrix<'_>, columns: Range<usize>) {
    if matrix.column_stride == 1 {
        for (row, to) in target.chunks_exact_mut(WIDTH).enumerate() {
            let start = row * matrix.row_stride;
            to[..columns.len()].copy_from_slice(&matrix.data[start + columns.start..start + columns.end]);
        }
    } else {
        for (lane, column) in columns.enumerate() {
            let from = &matrix.data[column * matrix.column_stride..];
            for (row, to) in target.chunks_exact_mut(WIDTH).enumerate() {
                to[lane] = from[row * matrix.row_stride];
            }
        }
    }
}

/// Panels that live in a slice of somebody else's.
#[derive(Clone, Copy)]
pub(crate) struct PanelView<'a> {
    /// All panels, the first one first.
    pub(crate) data: &'a [f32],
    /// Places from one panel to the next.
    pub(crate) stride: usize,
    /// Rows in use of every panel.
    pub(crate) depth: usize,
    /// Columns of the matrix.
    pub(crate) columns: usize,
}

/// What a product does with the contents of `C`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// `C = A·B`.
    Replace,
    /// `C += A·B`, as a continuation of the chain that gave `C`.
    Accumulate,
}

/// `C = A·B` or `C += A·B`, with `C` stored row after row, on the threads of the current pool.
///
/// # Panics
/// If the shapes do not fit.
pub fn matmul(c: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, into: Into) {
    thread_local! {
        static PANELS: RefCell<Panels> = RefCell::default();
    }
    // Taken out, not borrowed: while this thread waits for others it may be given another product to do.
    let mut panels = PANELS.take();
    panels.fill(b);
    matmul_packed(c, a, &panels, into);
    PANELS.set(panels);
}

/// [`matmul`] with a right-hand side packed before, as weights are for decoding.
///
/// # Panics
/// If the shapes do not fit.
pub fn matmul_packed(c: &mut [f32], a: Matrix<'_>, b: &Panels, into: Into) {
    let (rows, columns) = (a.rows, b.columns);
    assert_eq!(c.len(), rows * columns, "the result of {rows}×{} by {}×{columns}", a.columns, b.depth);
    let cost = (a.columns * columns).max(1);
    let shared = Shared::new(c);
    if rows * 4 >= columns || rows >= 2 * ROWS {
        share(rows, (WORTH_SHARING / cost).next_multiple_of(8).max(8), |rows| {
            // SAFETY: every row of `C` is written by one call.
            let c = unsafe { shared.slice(rows.start * columns..rows.end * columns) };
            multiply(c, columns, slice_rows(a, rows), b.view(), into);
        });
    } else {
        // Few rows, as in decoding: share out the panels instead.
        let view = b.view();
        let grain = (WORTH_SHARING / (rows * view.stride).max(1)).next_multiple_of(4).max(4);
        share(columns.div_ceil(WIDTH), grain, |panels| {
            if panels.is_empty() {
                return;
            }
            let part = panels.start * WIDTH..(panels.end * WIDTH).min(columns);
            let b = PanelView { data: &view.data[panels.start * view.stride..], columns: part.len(), ..view };
            // SAFETY: every column of `C` is written by one call, and `multiply_at` writes only the columns of `b`.
            unsafe { multiply_at(shared.pointer().add(part.start), columns, a, b, into) };
        });
    }
}

fn slice_rows(matrix: Matrix<'_>, rows: Range<usize>) -> Matrix<'_> {
    let start = (rows.start * matrix.row_stride).min(matrix.data.len());
    Matrix { data: &matrix.data[start..], rows: rows.len(), ..matrix }
}

/// A product on this thread; rows of `C` start `c_stride` apart.
pub(crate) fn multiply(c: &mut [f32], c_stride: usize, a: Matrix<'_>, b: PanelView<'_>, into: Into) {
    let needed = if a.rows == 0 || b.columns == 0 { 0 } else { (a.rows - 1) * c_stride + b.columns };
    assert!(needed <= c.len(), "the result needs {needed} places, not {}", c.len());
    // SAFETY: `c` has room for all rows, just checked, and is borrowed exclusively.
    unsafe { multiply_at(c.as_mut_ptr(), c_stride, a, b, into) }
}

/// A product into memory that may be interleaved with that of other threads.
///
/// # Safety
/// `c` points to `a.rows` rows, `c_stride` apart, whose first `b.columns` places are valid and touched by nobody else.
pub(crate) unsafe fn multiply_at(c: *mut f32, c_stride: usize, a: Matrix<'_>, b: PanelView<'_>, into: Into) {
    assert_eq!(a.columns, b.depth, "the inner dimensions differ");
    if a.rows == 0 || b.columns == 0 {
        return;
    }
    assert!(
        (b.columns.div_ceil(WIDTH) - 1) * b.stride + b.depth * WIDTH <= b.data.len(),
        "the panels are too short"
    );
    let product = Product { c, c_stride, a, b, into };
    #[cfg(target_arch = "x86_64")]
    match super::level() {
        // SAFETY: `level` saw the features; the operands were checked above and by the caller.
        super::Level::Avx512 => return unsafe { product.run_avx512() },
        // SAFETY: as above.
        super::Level::Avx2 => return unsafe { product.run_avx2() },
        super::Level::Baseline => {}
    }
    // SAFETY: the operands were checked above and by the caller.
    unsafe { product.run::<4, 1>() }
}

/// One product on one thread, its operands checked.
#[derive(Clone, Copy)]
struct Product<'a> {
    c: *mut f32,
    c_stride: usize,
    a: Matrix<'a>,
    b: PanelView<'a>,
    into: Into,
}

#[expect(
    clippy::inline_always,
    reason = "the loops must be compiled inside each wrapper to use its instruction set"
)]
impl Product<'_> {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn run_avx2(self) {
        // SAFETY: the caller's.
        unsafe { if self.a.rows < 4 { self.run::<1, 4>() } else { self.run::<6, 1>() } }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx2,fma")]
    unsafe fn run_avx512(self) {
        // SAFETY: the caller's.
        // More panels at once than four are streams of memory that get into each other's way: a third of the speed.
        unsafe { if self.a.rows < 4 { self.run::<1, 4>() } else { self.run::<8, 2>() } }
    }

    /// Walks over blocks in tiles of `M` rows and `P` panels, which fill the vector registers.
    #[inline(always)]
    unsafe fn run<const M: usize, const P: usize>(self) {
        let panels = self.b.columns.div_ceil(WIDTH);
        let deepest = if self.a.rows <= FEW_ROWS { self.b.depth } else { DEPTH };
        let mut start = 0;
        // At least one round, so that an empty inner dimension still gives zeros.
        loop {
            let depth = (self.b.depth - start).min(deepest);
            let resume = start > 0 || self.into == Into::Accumulate;
            for first in (0..self.a.rows).step_by(ROWS) {
                let rows = first..(first + ROWS).min(self.a.rows);
                let mut panel = 0;
                while panel < panels {
                    let wide = P.min(panels - panel);
                    let mut row = rows.start;
                    while row < rows.end {
                        let block = Block { row, panel, start, depth, resume };
                        // SAFETY: the block lies inside the operands. Few rows take more panels at once, or they would wait for each other's additions.
                        row += unsafe {
                            match (rows.end - row, wide == P) {
                                (left, true) if left >= M => self.tile::<M, P>(block),
                                (left, true) if left >= 4 => self.tile::<4, P>(block),
                                (2 | 3, true) => self.tile::<2, P>(block),
                                (_, true) => self.tile::<1, P>(block),
                                (left, false) if left >= M => self.tile::<M, 1>(block),
                                (left, false) if left >= 4 => self.tile::<4, 1>(block),
                                (2 | 3, false) => self.tile::<2, 1>(block),
                                (_, false) => self.tile::<1, 1>(block),
                            }
                        };
                    }
                    panel += if wide == P { P } else { 1 };
                }
            }
            start += depth;
            if start >= self.b.depth {
                break;
            }
        }
    }

    /// `M` rows of `C` in `P` panels over one block of the inner dimension; returns `M`.
    #[inline(always)]
    unsafe fn tile<const M: usize, const P: usize>(self, block: Block) -> usize {
        let Self { a, b, .. } = self;
        let valid = (b.columns - block.panel * WIDTH).min(P * WIDTH);
        // SAFETY: rows and panels of the block lie inside the operands, which `multiply_at` checked.
        unsafe {
            let c = self.c.add(block.row * self.c_stride + block.panel * WIDTH);
            let mut sums = [[[0.0_f32; WIDTH]; P]; M];
            if block.resume {
                for (row, sums) in sums.iter_mut().enumerate() {
                    let mut padded = [[0.0_f32; WIDTH]; P];
                    let to = padded.as_flattened_mut().as_mut_ptr();
                    if valid == P * WIDTH {
                        to.copy_from_nonoverlapping(c.add(row * self.c_stride), P * WIDTH);
                    } else {
                        to.copy_from_nonoverlapping(c.add(row * self.c_stride), valid);
                    }
                    *sums = padded;
                }
            }
            let mut left = a.data.as_ptr().add(block.row * a.row_stride + block.start * a.column_stride);
            let mut right = b.data.as_ptr().add(block.panel * b.stride + block.start * WIDTH);
            for _ in 0..block.depth {
                let mut columns = [[0.0_f32; WIDTH]; P];
                for (panel, columns) in columns.iter_mut().enumerate() {
                    *columns = *right.add(panel * b.stride).cast::<[f32; WIDTH]>();
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let factor = *left.add(row * a.row_stride);
                    for (sums, columns) in sums.iter_mut().zip(&columns) {
                        for (sum, column) in sums.iter_mut().zip(columns) {
                            *sum = factor.mul_add(*column, *sum);
                        }
                    }
                }
                left = left.wrapping_add(a.column_stride);
                right = right.wrapping_add(WIDTH);
            }
            for (row, sums) in sums.iter().enumerate() {
                let padded = *sums;
                let from = padded.as_flattened().as_ptr();
                if valid == P * WIDTH {
                    c.add(row * self.c_stride).copy_from_nonoverlapping(from, P * WIDTH);
                } else {
                    c.add(row * self.c_stride).copy_from_nonoverlapping(from, valid);
                }
            }
        }
        M
    }
}

/// Where a tile starts.
#[derive(Clone, Copy)]
struct Block {
    row: usize,
    panel: usize,
    start: usize,
    depth: usize,
    resume: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(seed: u32, count: usize) -> Vec<f32> {
        let mut state = u64::from(seed) * 2 + 1;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    /// The definition: one chain per element.
    fn chain(c: &mut [f32], a: Matrix<'_>, b: Matrix<'_>) {
        for row in 0..a.rows {
            for column in 0..b.columns {
                let sum = &mut c[row * b.columns + column];
                for k in 0..a.columns {
                    let left = a.data[row * a.row_stride + k * a.column_stride];
                    *sum = left.mul_add(b.data[k * b.row_stride + column * b.column_stride], *sum);
                }
            }
        }
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_element_is_one_chain(m in 0_usize..40, k in 0_usize..600, n in 0_usize..70, seed: u32, left: bool, right: bool, add: bool, threads in 1_usize..4) {
            let (a, b) = (numbers(seed, m * k), numbers(!seed, k * n));
            let a = if left { Matrix::new(&a, k, m).transposed() } else { Matrix::new(&a, m, k) };
            let b = if right { Matrix::new(&b, n, k).transposed() } else { Matrix::new(&b, k, n) };
            let mut expected = if add { numbers(seed ^ 0x4d, m * n) } else { vec![0.0; m * n] };
            let mut found = if add { expected.clone() } else { vec![f32::NAN; m * n] };
            chain(&mut expected, a, b);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| matmul(&mut found, a, b, if add { Into::Accumulate } else { Into::Replace }));
            prop_assert_eq!(bits(&expected), bits(&found));
        }
    }

    #[test]
    fn rows_do_not_depend_on_the_batch() {
        let (m, k, n) = (37, 300, 129);
        let (a, b) = (numbers(1, m * k), numbers(2, k * n));
        let panels = Panels::new(Matrix::new(&b, n, k).transposed());
        let mut together = vec![0.0; m * n];
        matmul_packed(&mut together, Matrix::new(&a, m, k), &panels, Into::Replace);
        for row in 0..m {
            let mut alone = vec![0.0; n];
            matmul_packed(&mut alone, Matrix::new(&a[row * k..(row + 1) * k], 1, k), &panels, Into::Replace);
            assert_eq!(bits(&alone), bits(&together[row * n..(row + 1) * n]));
        }
    }

    #[test]
    fn the_inner_dimension_can_be_cut() {
        let (m, k, n) = (19, 500, 33);
        let (a, b) = (numbers(3, k * m), numbers(4, k * n));
        let (mut whole, mut pieces) = (vec![0.0; m * n], vec![0.0; m * n]);
        matmul(&mut whole, Matrix::new(&a, k, m).transposed(), Matrix::new(&b, k, n), Into::Replace);
        for (a, b) in a.chunks(123 * m).zip(b.chunks(123 * n)) {
            let k = a.len() / m;
            matmul(&mut pieces, Matrix::new(a, k, m).transposed(), Matrix::new(b, k, n), Into::Accumulate);
        }
        assert_eq!(bits(&whole), bits(&pieces));
    }
}
