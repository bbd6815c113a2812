//! Attention: of samples laid end to end, forward and backward, and of new tokens over the pages of their sequences.
//!
//! A block has rows of one head, a few strips of 16 for each of its warps, and goes through rows of the same sequence in steps.

mod packed;
mod paged;

use std::f32::consts::LOG2_E;
use std::sync::Arc;

use super::driver::{Argument, Gpu, GpuError, Kernels, Launch};
use super::sources::Source;
use super::{Buffer, View};
use crate::kernels::attention::Heads;

pub(crate) use packed::{Attention, Samples};
pub(crate) use paged::{PagedAttention, Pages, Turn};

/// Tokens of a page of keys and values.
pub(crate) const PAGE: usize = 64;

/// Rows of a strip: those of a product on tensor cores.
const STRIP: usize = 16;

/// Places that a row in shared memory has beyond its elements, so that neighbouring rows lie in different banks.
const PADDING: usize = 8;

/// What a block of a kernel has and goes through.
#[derive(Clone, Copy, Debug)]
struct Block {
    warps: usize,
    /// Strips of each warp.
    strips: usize,
    /// Warps that have the same strips and share out their columns.
    parts: usize,
    /// Rows of a step.
    step: usize,
}

impl Block {
    /// Rows that the block has.
    fn rows(self) -> usize {
        self.warps / self.parts * self.strips * STRIP
    }
}

/// A source compiled for a model's heads and for the shape of a block.
#[derive(Debug)]
struct Kernel {
    kernels: Arc<dyn Kernels>,
    block: Block,
    /// Bytes of shared memory.
    shared: usize,
}

impl Kernel {
    /// Compiles a source for blocks that hold so many rows in shared memory, and so many floats.
    fn new(
        gpu: &Gpu,
        source: Source,
        heads: Heads,
        block: Block,
        rows: usize,
        floats: usize,
    ) -> Result<Self, GpuError> {
        let defines = [
            ("HEAD_DIM", heads.dim),
            ("HEADS", heads.queries),
            ("KEY_HEADS", heads.keys),
            ("PAGE", PAGE),
            ("WARPS", block.warps),
            ("STRIPS", block.strips),
            ("PARTS", block.parts),
            ("STEP", block.step),
        ];
        let shared = rows * (heads.dim + PADDING) * gpu.element_bytes() + floats * size_of::<f32>();
        Ok(Self { kernels: gpu.compile(source, &defines)?, block, shared })
    }

    /// Runs a kernel with `heads` blocks for every tile.
    fn launch(
        &self,
        kernel: &'static str,
        tiles: &Tiles,
        heads: usize,
        arguments: &[Argument],
    ) -> Result<(), GpuError> {
        if tiles.count == 0 {
            return Ok(());
        }
        let launch = Launch::new([tiles.count * heads, 1, 1], self.block.warps * 32).sharing(self.shared);
        self.kernels.launch(kernel, launch, arguments)
    }
}

/// Rows of one sequence among others.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// The first.
    row: usize,
    rows: usize,
    /// Where it stands in its sequence.
    position: usize,
    /// What names the sequence: its first row, or its seat.
    sequence: usize,
}

impl Part {
    /// The part without its first rows, by that many rows for each block.
    fn tiles(self, rows: usize) -> impl Iterator<Item = Self> {
        (0..self.rows).step_by(rows).map(move |first| Self {
            row: self.row + first,
            rows: self.rows - first,
            position: self.position + first,
            ..self
        })
    }
}

/// What each block begins with, on the GPU: the most work first, so that none is left to the end.
#[derive(Debug)]
struct Tiles {
    on_gpu: Buffer<u32>,
    count: usize,
}

impl Tiles {
    /// Tiles of queries, that go through the keys up to their own.
    fn of_queries(gpu: &Gpu, parts: &[Part], block: Block) -> Result<Self, GpuError> {
        Self::new(gpu, parts, block, |tile| tile.position + tile.rows.min(block.rows()))
    }

    /// Tiles of keys, that go through the queries from their own on.
    fn of_keys(gpu: &Gpu, parts: &[Part], block: Block) -> Result<Self, GpuError> {
        Self::new(gpu, parts, block, |tile| tile.rows)
    }

    fn new(gpu: &Gpu, parts: &[Part], block: Block, work: impl Fn(&Part) -> usize) -> Result<Self, GpuError> {
        let mut tiles: Vec<Part> = parts.iter().flat_map(|part| part.tiles(block.rows())).collect();
        tiles.sort_by_key(|tile| std::cmp::Reverse(work(tile)));
        let numbers: Vec<u32> = tiles
            .iter()
            .flat_map(|tile| [tile.row, tile.rows, tile.position, tile.sequence])
            .map(|number| u32::try_from(number).expect("rows fit 32 bits"))
            .collect();
        Ok(Self { on_gpu: Buffer::from(gpu, &numbers)?, count: tiles.len() })
    }

    fn all(&self) -> View<u32> {
        self.on_gpu.all()
    }
}

/// The scale of scores, for powers of 2.
fn scale(heads: Heads) -> f32 {
    LOG2_E / (heads.dim as f32).sqrt()
}

/// Whether there are kernels for such heads.
pub(crate) fn check(heads: Heads) -> Result<(), GpuError> {
    if heads.dim == 0 || heads.dim > 256 || !heads.dim.is_multiple_of(STRIP) {
        let Heads { dim, .. } = heads;
        return Err(GpuError::Unsupported(format!(
            "attention with heads of {dim} elements (multiples of {STRIP} up to 256 are)"
        )));
    }
    if heads.keys == 0 || !heads.queries.is_multiple_of(heads.keys) {
        let Heads { queries, keys, .. } = heads;
        return Err(GpuError::Unsupported(format!("attention of {queries} heads over {keys} key heads")));
    }
    Ok(())
}

/// Blocks of `attend`: two strips share every read of a key where there are registers for that; larger heads have those and
/// shared memory for smaller tiles only.
fn attend_block(heads: Heads) -> Block {
    match heads.dim {
        0..=64 => Block { warps: 4, strips: 2, parts: 1, step: 64 },
        65..=128 => Block { warps: 8, strips: 1, parts: 1, step: 64 },
        _ => Block { warps: 4, strips: 1, parts: 1, step: 32 },
    }
}

/// The kernel of `attention.cu`, which both kinds of attention use.
fn attend_kernel(gpu: &Gpu, heads: Heads) -> Result<Kernel, GpuError> {
    check(heads)?;
    let block = attend_block(heads);
    // Two stages of keys and values.
    Kernel::new(gpu, super::sources::ATTENTION, heads, block, 4 * block.step, 0)
}
