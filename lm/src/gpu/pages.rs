//! Keys and values of all sequences, in pages that are handed out as sequences grow.
//!
//! A sequence sits on a *seat*: a row of a table that names its pages in order. Sequences that begin alike share the pages that
//! are full; a page is free again when the last of them has left.

use std::sync::Arc;

use super::attention::{PAGE, Pages};
use super::driver::{Gpu, GpuError, Kernels, Launch};
use super::sources::PAGES;
use super::{Buffer, Element, View};
use crate::kernels::attention::Heads;

/// The memory of keys and values.
#[derive(Debug)]
pub(crate) struct Cache {
    kernels: Arc<dyn Kernels>,
    heads: Heads,
    layers: usize,
    /// Per layer the keys of all pages, then the values.
    pool: Buffer<Element>,
    pages: usize,
    /// The pages of every seat, in order.
    tables: Buffer<u32>,
    pages_per_seat: usize,
    /// Copies to be made.
    copies: [Buffer<u32>; 2],
    most_copies: usize,
}

/// What happens to queries, keys and values before attention.
#[derive(Debug)]
pub(crate) struct Placing<'a> {
    /// Added to every row.
    pub(crate) bias: Option<View<Element>>,
    /// Scales of the normalisation of query heads and of key heads.
    pub(crate) norms: Option<[View<Element>; 2]>,
    /// Radians per position of every pair of a head.
    pub(crate) frequencies: Option<&'a Buffer<f32>>,
    /// Added to mean squares.
    pub(crate) epsilon: f32,
}

/// Whose token each row is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    /// The seat of its sequence.
    pub(crate) seats: View<u32>,
    /// Tokens of the sequence up to and with this one; 0 for a row that is not used.
    pub(crate) lengths: View<u32>,
}

/// What a model's attention has, for the kernels to be compiled for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheShape {
    /// Its heads.
    pub(crate) heads: Heads,
    /// Attention layers.
    pub(crate) layers: usize,
    /// Whether projections have biases.
    pub(crate) has_bias: bool,
    /// Whether heads are normalised.
    pub(crate) has_norms: bool,
    /// Whether queries and keys are turned.
    pub(crate) has_rotation: bool,
}

impl CacheShape {
    /// Elements of a page, in one layer and of the keys alone.
    fn page(&self) -> usize {
        self.heads.keys * PAGE * self.heads.dim
    }

    /// Bytes that a page takes over all layers.
    pub(crate) fn page_bytes(&self, gpu: &Gpu) -> usize {
        2 * self.layers * self.page() * gpu.element_bytes()
    }
}

impl Cache {
    /// So many pages for sequences of at most `longest` tokens on so many seats.
    pub(crate) fn new(
        gpu: &Gpu,
        shape: &CacheShape,
        pages: usize,
        seats: usize,
        longest: usize,
    ) -> Result<Self, GpuError> {
        let CacheShape { heads, layers, has_bias, has_norms, has_rotation } = *shape;
        let defines = [
            ("HEAD_DIM", heads.dim),
            ("HEADS", heads.queries),
            ("KEY_HEADS", heads.keys),
            ("PAGE", PAGE),
            ("HAS_BIAS", usize::from(has_bias)),
            ("HAS_NORMS", usize::from(has_norms)),
            ("HAS_ROTATION", usize::from(has_rotation)),
        ];
        let pages_per_seat = longest.div_ceil(PAGE);
        Ok(Self {
            kernels: gpu.compile(PAGES, &defines)?,
            heads,
            layers,
            pool: Buffer::new(gpu, 2 * layers * pages * shape.page())?,
            pages,
            // Rows that no sequence uses name page 0, which is there.
            tables: Buffer::zeros(gpu, seats * pages_per_seat)?,
            pages_per_seat,
            copies: [Buffer::new(gpu, seats)?, Buffer::new(gpu, seats)?],
            most_copies: seats,
        })
    }

    /// A layer's pages, as attention reads them.
    pub(crate) fn layer(&self, layer: usize) -> Pages {
        let length = self.pool.len() / (2 * self.layers);
        let part = |index: usize| self.pool.at(index * length..(index + 1) * length);
        Pages {
            keys: part(2 * layer),
            values: part(2 * layer + 1),
            tables: self.tables.all(),
            pages_per_seat: self.pages_per_seat,
        }
    }

    /// Names pages of a seat, from its page `first` on.
    pub(crate) fn seat(&self, seat: usize, first: usize, pages: &[u32]) -> Result<(), GpuError> {
        assert!(first + pages.len() <= self.pages_per_seat, "a sequence outgrows its seat");
        self.tables.upload(seat * self.pages_per_seat + first, pages)
    }

    /// Copies whole pages, in all layers: each of the first to the one beside it.
    pub(crate) fn copy(&self, pairs: &[(u32, u32)]) -> Result<(), GpuError> {
        for pairs in pairs.chunks(self.most_copies) {
            let (from, to): (Vec<u32>, Vec<u32>) = pairs.iter().copied().unzip();
            self.copies[0].upload(0, &from)?;
            self.copies[1].upload(0, &to)?;
            let arguments = [
                self.pool.all().into(),
                self.copies[0].all().into(),
                self.copies[1].all().into(),
                self.pages.into(),
            ];
            let launch = Launch::new([pairs.len(), 2 * self.layers, 1], 256);
            self.kernels.launch("copy_pages", launch, &arguments)?;
        }
        Ok(())
    }

    /// Prepares queries in place, and puts keys and values where the rows' sequences have them.
    pub(crate) fn place(
        &self,
        layer: usize,
        placing: &Placing<'_>,
        qkv: View<Element>,
        rows: Rows,
    ) -> Result<(), GpuError> {
        let count = rows.seats.len();
        assert!(qkv.len() == count * self.heads.row() && rows.lengths.len() == count);
        let [query_norm, key_norm] = placing.norms.map_or([None; 2], |norms| norms.map(Some));
        let pages = self.layer(layer);
        let arguments = [
            qkv.into(),
            placing.bias.into(),
            query_norm.into(),
            key_norm.into(),
            placing.frequencies.map(Buffer::all).into(),
            placing.epsilon.into(),
            rows.seats.into(),
            rows.lengths.into(),
            pages.tables.into(),
            self.pages_per_seat.into(),
            pages.keys.into(),
            pages.values.into(),
        ];
        self.kernels.launch("place", Launch::new([count, 1, 1], 256), &arguments)
    }
}

/// Which pages are free, and how many sequences hold each of the others.
#[derive(Debug)]
pub(crate) struct Ledger {
    free: Vec<u32>,
    holders: Vec<u32>,
}

impl Ledger {
    /// So many pages, all free.
    pub(crate) fn new(pages: usize) -> Self {
        Self { free: (0..pages as u32).rev().collect(), holders: vec![0; pages] }
    }

    /// Pages that nobody holds.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// Takes a free page.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.holders[page as usize] = 1;
        Some(page)
    }

    /// One more sequence holds these pages.
    pub(crate) fn share(&mut self, pages: &[u32]) {
        for &page in pages {
            debug_assert!(self.holders[page as usize] > 0);
            self.holders[page as usize] += 1;
        }
    }

    /// A sequence leaves these pages.
    pub(crate) fn leave(&mut self, pages: &[u32]) {
        for &page in pages {
            let holders = &mut self.holders[page as usize];
            *holders -= 1;
            if *holders == 0 {
                self.free.push(page);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::tests::{assert_close, gpus, noise};

    #[test]
    fn rows_lie_where_their_tables_say_and_pages_are_copied_in_all_layers() {
        let Some(tested) = gpus().into_iter().next() else { return };
        let gpu = &tested.gpu;
        let heads = Heads { queries: 4, keys: 2, dim: 16 };
        let shape = CacheShape { heads, layers: 2, has_bias: false, has_norms: false, has_rotation: false };
        let cache = Cache::new(gpu, &shape, 5, 3, 130).unwrap();
        cache.seat(2, 0, &[4, 1]).unwrap();
        cache.seat(0, 0, &[3]).unwrap();
        // A token on the second page of one sequence, the first of another, and a row that nobody uses.
        let (rows, numbers) = (3, noise(3 * heads.row(), 4));
        let qkv = Buffer::rounded(gpu, &numbers).unwrap();
        let (seats, lengths) =
            (Buffer::from(gpu, &[2_u32, 0, 1]).unwrap(), Buffer::from(gpu, &[67_u32, 1, 0]).unwrap());
        let at = Rows { seats: seats.all(), lengths: lengths.all() };
        let placing = Placing { bias: None, norms: None, frequencies: None, epsilon: 0.0 };
        for layer in 0..2 {
            cache.place(layer, &placing, qkv.all(), at).unwrap();
        }
        assert_close(&qkv.download(0..rows * heads.row()).unwrap(), &numbers, 0.0);
        cache.copy(&[(1, 0)]).unwrap();
        let pool = cache.pool.download(0..cache.pool.len()).unwrap();
        for (layer, head) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for (row, page, place) in [(0, 1, 66 % PAGE), (0, 0, 66 % PAGE), (1, 3, 0)] {
                for (part, column) in [(0, heads.key(head)), (1, heads.value(head))] {
                    let page = (2 * layer + part) * 5 + page;
                    let start = ((page * heads.keys + head) * PAGE + place) * heads.dim;
                    let expected = &numbers[row * heads.row() + column..][..heads.dim];
                    assert_close(&pool[start..start + heads.dim], expected, 0.0);
                }
            }
        }
    }

    #[test]
    fn a_page_is_free_when_its_last_holder_leaves() {
        let mut ledger = Ledger::new(2);
        let pages = [ledger.take().unwrap(), ledger.take().unwrap()];
        assert_eq!((pages, ledger.take()), ([0, 1], None));
        ledger.share(&pages[..1]);
        ledger.leave(&pages);
        assert_eq!((ledger.free(), ledger.take(), ledger.take()), (1, Some(1), None));
        ledger.leave(&pages[..1]);
        assert_eq!(ledger.take(), Some(0));
    }
}
