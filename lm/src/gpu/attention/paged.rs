//! Attention of new tokens over the pages of keys and values of their sequences.

use std::sync::Arc;

use super::{Kernel, PADDING, PAGE, Part, STRIP, Tiles, attend_kernel, scale};
use crate::gpu::driver::{Argument, Gpu, GpuError, Kernels, Launch};
use crate::gpu::sources::ATTENTION_DECODE;
use crate::gpu::{Buffer, Element, View};
use crate::kernels::attention::Heads;

/// The most blocks that share out the keys of a sequence: a warp joins what they find.
const MOST_PARTS: usize = 32;
/// Blocks per multiprocessor from which on keys are not shared out.
const ENOUGH: usize = 2;
/// Bytes of shared memory that a block has on every GPU that is meant.
const SHARED: usize = 99 << 10;

/// Attention in generation: the keys and values of new tokens are in their pages already.
#[derive(Debug)]
pub(crate) struct PagedAttention {
    gpu: Gpu,
    heads: Heads,
    attend: Kernel,
    decode: Arc<dyn Kernels>,
    warps: usize,
    shared: usize,
    /// What blocks that share out a sequence have found.
    parts: Buffer<f32>,
}

/// Keys and values of all sequences in one layer.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "pages are what a seat has")]
pub(crate) struct Pages {
    /// `[page][key head][token][element]`.
    pub(crate) keys: View<Element>,
    /// The same of values.
    pub(crate) values: View<Element>,
    /// The pages of every seat, in order.
    pub(crate) tables: View<u32>,
    /// Pages that a seat may have.
    pub(crate) pages_per_seat: usize,
}

/// New tokens of a sequence: rows one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// The sequence's seat.
    pub(crate) seat: usize,
    /// The first row.
    pub(crate) row: usize,
    /// The tokens.
    pub(crate) rows: usize,
    /// Where the first of them stands: the tokens that the sequence had before.
    pub(crate) position: usize,
}

/// Turns of a pass.
#[derive(Debug)]
pub(crate) struct Turns {
    queries: Tiles,
    /// Rows, seats and tokens of a sequence that there must be.
    rows: usize,
    seats: usize,
    longest: usize,
}

impl Pages {
    fn check(&self, heads: Heads, seats: usize) {
        let page = heads.keys * PAGE * heads.dim;
        assert!(self.keys.len() == self.values.len() && self.keys.len().is_multiple_of(page));
        assert!(self.tables.len() >= seats * self.pages_per_seat);
    }
}

impl PagedAttention {
    /// Compiles the kernels for a model's heads.
    pub(crate) fn new(gpu: &Gpu, heads: Heads) -> Result<Self, GpuError> {
        let attend = attend_kernel(gpu, heads)?;
        let warps = if heads.dim <= 128 { 4 } else { 2 };
        // A step of keys and of values for each warp.
        let stage = warps * 2 * STRIP * (heads.dim + PADDING);
        let stages = (SHARED / (stage * 2)).clamp(2, 3);
        let defines = [
            ("HEAD_DIM", heads.dim),
            ("HEADS", heads.queries),
            ("KEY_HEADS", heads.keys),
            ("PAGE", PAGE),
            ("WARPS", warps),
            ("STAGES", stages),
        ];
        // Rows that are shared out have no more blocks than are enough.
        let blocks = ENOUGH * gpu.processors();
        Ok(Self {
            gpu: gpu.clone(),
            heads,
            attend,
            decode: gpu.compile(ATTENTION_DECODE, &defines)?,
            warps,
            shared: stages * stage * gpu.element_bytes(),
            parts: Buffer::new(gpu, parts_len(heads, blocks.div_ceil(blocks_of_row(heads))))?,
        })
    }

    /// What [`PagedAttention::extend`] needs to know of turns.
    pub(crate) fn turns(&self, turns: &[Turn]) -> Result<Turns, GpuError> {
        let parts: Vec<Part> = turns
            .iter()
            .map(|&Turn { seat, row, rows, position }| Part { row, rows, position, sequence: seat })
            .collect();
        let most = |of: fn(&Turn) -> usize| turns.iter().map(of).max().unwrap_or(0);
        Ok(Turns {
            queries: Tiles::of_queries(&self.gpu, &parts, self.attend.block)?,
            rows: most(|turn| turn.row + turn.rows),
            seats: most(|turn| turn.seat + 1),
            longest: most(|turn| turn.position + turn.rows),
        })
    }

    /// Attention of the tokens of every turn, whose rows of `queries` are `stride` elements apart.
    pub(crate) fn extend(
        &self,
        queries: View<Element>,
        stride: usize,
        pages: Pages,
        turns: &Turns,
        out: View<Element>,
    ) -> Result<(), GpuError> {
        let heads = self.heads;
        if turns.rows == 0 {
            return Ok(());
        }
        assert!(queries.len() >= (turns.rows - 1) * stride + heads.out());
        assert!(out.len() >= turns.rows * heads.out() && turns.longest <= pages.pages_per_seat * PAGE);
        pages.check(heads, turns.seats);
        let arguments = [
            queries.into(),
            stride.into(),
            pages.keys.into(),
            pages.values.into(),
            pages.tables.into(),
            pages.pages_per_seat.into(),
            turns.queries.all().into(),
            out.into(),
            Argument::NONE,
            turns.rows.into(),
            scale(heads).into(),
        ];
        self.attend.launch("attend", &turns.queries, heads.queries, &arguments)
    }

    /// Attention of one token each of many sequences: of the last of the first `lengths[row]` tokens of seat `seats[row]`, whose
    /// rows of `queries` are `stride` elements apart. A row of length 0 gets zeros.
    ///
    /// Only the number of rows decides what is launched, so a recording of it holds for other lengths.
    pub(crate) fn decode(
        &self,
        queries: View<Element>,
        stride: usize,
        pages: Pages,
        seats: View<u32>,
        lengths: View<u32>,
        out: View<Element>,
    ) -> Result<(), GpuError> {
        let blocks = seats.len().max(1) * blocks_of_row(self.heads);
        let each = (ENOUGH * self.gpu.processors() / blocks).clamp(1, MOST_PARTS);
        let parts = (each > 1).then(|| self.parts.all());
        self.decode_in_parts(queries, stride, pages, [seats, lengths], each, parts, out)
    }

    #[expect(clippy::too_many_arguments, reason = "the operands of one kernel")]
    fn decode_in_parts(
        &self,
        queries: View<Element>,
        stride: usize,
        pages: Pages,
        [seats, lengths]: [View<u32>; 2],
        each: usize,
        parts: Option<View<f32>>,
        out: View<Element>,
    ) -> Result<(), GpuError> {
        let (heads, rows) = (self.heads, seats.len());
        if rows == 0 {
            return Ok(());
        }
        assert!(queries.len() >= (rows - 1) * stride + heads.out());
        assert!(out.len() == rows * heads.out() && lengths.len() == rows);
        assert!(parts.is_none_or(|parts| parts.len() >= parts_len(heads, rows * each)));
        pages.check(heads, 0);
        let parts = Argument::from(parts);
        let arguments = [
            queries.into(),
            stride.into(),
            pages.keys.into(),
            pages.values.into(),
            pages.tables.into(),
            pages.pages_per_seat.into(),
            seats.into(),
            lengths.into(),
            out.into(),
            parts,
            scale(heads).into(),
        ];
        let launch = Launch::new([blocks_of_row(heads), rows, each], self.warps * 32).sharing(self.shared);
        self.decode.launch("decode", launch, &arguments)?;
        if each > 1 {
            let places = rows * heads.queries;
            let arguments = [parts, out.into(), places.into(), each.into(), scale(heads).into()];
            let launch = Launch::new([places.div_ceil(self.warps), 1, 1], self.warps * 32);
            self.decode.launch("join", launch, &arguments)?;
        }
        Ok(())
    }
}

/// Blocks that a row has if its keys are not shared out: each has up to 16 query heads of a key head.
fn blocks_of_row(heads: Heads) -> usize {
    heads.keys * (heads.queries / heads.keys).div_ceil(STRIP)
}

/// Floats that so many parts leave, each of all heads of a row: sums, the largest score, the sum of exponentials.
fn parts_len(heads: Heads, parts: usize) -> usize {
    parts * heads.queries * (heads.dim + 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::tests::{Tested, assert_close, gpus, noise};
    use crate::kernels::attention::{attention, kept_len};

    /// Sequences on the CPU, and their keys and values in pages that are in no order.
    struct Sequences {
        heads: Heads,
        /// Queries, keys and values of every token.
        qkv: Vec<Vec<f32>>,
        /// What attention gives for every token.
        expected: Vec<Vec<f32>>,
        buffers: (Buffer<Element>, Buffer<Element>, Buffer<u32>),
        pages_per_seat: usize,
    }

    impl Sequences {
        fn new(tested: &Tested, heads: Heads, lengths: &[usize]) -> Self {
            let pages_per_seat = lengths.iter().max().unwrap().div_ceil(PAGE) + 1;
            let (pages, page) = (lengths.len() * pages_per_seat, heads.keys * PAGE * heads.dim);
            // Where nobody has written is what must not be used.
            let (mut keys, mut values) = (vec![f32::NAN; pages * page], vec![f32::NAN; pages * page]);
            // 7 has no common divisor with the number of pages: every page comes once.
            assert!(!pages.is_multiple_of(7));
            let tables: Vec<u32> = (0..pages).map(|place| ((place * 7 + 3) % pages) as u32).collect();
            let (mut qkv, mut expected) = (Vec::new(), Vec::new());
            for (seat, &length) in lengths.iter().enumerate() {
                let noise = noise(length * heads.row(), 11 + seat as u32);
                let rows = tested.rounded(&noise.into_iter().map(|x| 2.0 * x).collect::<Vec<_>>());
                for (token, row) in rows.chunks_exact(heads.row()).enumerate() {
                    let page = tables[seat * pages_per_seat + token / PAGE] as usize;
                    for head in 0..heads.keys {
                        let at = ((page * heads.keys + head) * PAGE + token % PAGE) * heads.dim;
                        keys[at..][..heads.dim].copy_from_slice(&row[heads.key(head)..][..heads.dim]);
                        values[at..][..heads.dim].copy_from_slice(&row[heads.value(head)..][..heads.dim]);
                    }
                }
                let (mut out, mut kept) =
                    (vec![0.0; length * heads.out()], vec![0.0; kept_len(heads, length)]);
                attention(heads, &rows, &[length], &mut out, &mut kept);
                qkv.push(rows);
                expected.push(out);
            }
            let buffers = (
                Buffer::rounded(&tested.gpu, &keys).unwrap(),
                Buffer::rounded(&tested.gpu, &values).unwrap(),
                Buffer::from(&tested.gpu, &tables).unwrap(),
            );
            Self { heads, qkv, expected, buffers, pages_per_seat }
        }

        fn pages(&self) -> Pages {
            let (keys, values, tables) = &self.buffers;
            Pages {
                keys: keys.all(),
                values: values.all(),
                tables: tables.all(),
                pages_per_seat: self.pages_per_seat,
            }
        }

        /// Rows of queries, whose keys and values nobody may read, and what is expected for them.
        fn rows(&self, tokens: impl Iterator<Item = (usize, usize)>) -> (Vec<f32>, Vec<f32>) {
            let heads = self.heads;
            let (mut queries, mut expected) = (Vec::new(), Vec::new());
            for (seat, token) in tokens {
                queries.extend_from_slice(&self.qkv[seat][token * heads.row()..][..heads.out()]);
                queries.resize(queries.len() + heads.row() - heads.out(), f32::NAN);
                expected.extend_from_slice(&self.expected[seat][token * heads.out()..][..heads.out()]);
            }
            (queries, expected)
        }
    }

    /// Decodes some tokens (a seat and a length each) with every sequence in one part, and in several.
    fn decode(heads: Heads, rows: &[(u32, u32)], parts: &[usize]) {
        let lengths: Vec<usize> = (0..=rows.iter().map(|row| row.0).max().unwrap())
            .map(|seat| rows.iter().filter(|row| row.0 == seat).map(|row| row.1 as usize).max().unwrap())
            .collect();
        for tested in gpus() {
            let gpu = &tested.gpu;
            let attention = PagedAttention::new(gpu, heads).unwrap();
            let sequences = Sequences::new(&tested, heads, &lengths);
            let used = |&(seat, length): &(u32, u32)| (seat as usize, (length as usize).saturating_sub(1));
            let (queries, mut expected) = sequences.rows(rows.iter().map(used));
            for (expected, row) in expected.chunks_exact_mut(heads.out()).zip(rows) {
                if row.1 == 0 {
                    expected.fill(0.0);
                }
            }
            let queries = Buffer::rounded(gpu, &queries).unwrap();
            let column = |of: fn(&(u32, u32)) -> u32| {
                Buffer::from(gpu, &rows.iter().map(of).collect::<Vec<_>>()).unwrap()
            };
            let (seats, lengths) = (column(|row| row.0), column(|row| row.1));
            // As many parts as it chooses itself, and as many as we say.
            for &parts in [0].iter().chain(parts) {
                // The emulator does not run a kernel in the same order twice.
                for _ in 0..2 {
                    let out = Buffer::<Element>::new(gpu, expected.len()).unwrap();
                    let room = Buffer::<f32>::new(gpu, parts_len(heads, rows.len() * parts)).unwrap();
                    let pages = sequences.pages();
                    let rows = [seats.all(), lengths.all()];
                    let (queries, row) = (queries.all(), heads.row());
                    if parts == 0 {
                        attention.decode(queries, row, pages, rows[0], rows[1], out.all()).unwrap();
                    } else {
                        let room = (parts > 1).then(|| room.all());
                        attention.decode_in_parts(queries, row, pages, rows, parts, room, out.all()).unwrap();
                    }
                    let got = out.download(0..expected.len()).unwrap();
                    assert_close(&got, &expected, tested.bound(2e-6, 1.5e-2));
                }
            }
        }
    }

    /// Extends sequences from every one of some places on, in two turns, at once.
    fn extend(heads: Heads, length: usize, cuts: &[usize]) {
        for tested in gpus() {
            let gpu = &tested.gpu;
            let attention = PagedAttention::new(gpu, heads).unwrap();
            let sequences = Sequences::new(&tested, heads, &[length, length - 1, length + 1]);
            for &cut in cuts {
                let (mut turns, mut tokens) = (Vec::new(), Vec::new());
                for (seat, positions) in [(1, cut..length - 1), (2, 0..cut)] {
                    let turn =
                        Turn { seat, row: tokens.len(), rows: positions.len(), position: positions.start };
                    turns.push(turn);
                    tokens.extend(positions.map(|token| (seat, token)));
                }
                let (queries, expected) = sequences.rows(tokens.into_iter());
                let queries = Buffer::rounded(gpu, &queries).unwrap();
                let turns = attention.turns(&turns).unwrap();
                let out = Buffer::<Element>::new(gpu, expected.len()).unwrap();
                attention.extend(queries.all(), heads.row(), sequences.pages(), &turns, out.all()).unwrap();
                let got = out.download(0..expected.len()).unwrap();
                assert_close(&got, &expected, tested.bound(2e-6, 1.5e-2));
            }
        }
    }

    #[test]
    fn a_token_sees_its_sequence_through_the_pages() {
        let rows = [(0, 1), (1, 200), (2, 0), (3, 64), (3, 65), (4, 130), (2, 15), (1, 193)];
        decode(Heads { queries: 4, keys: 2, dim: 64 }, &rows, &[1, 3]);
    }

    #[test]
    fn a_token_sees_its_sequence_whatever_the_heads() {
        decode(Heads { queries: 3, keys: 3, dim: 16 }, &[(0, 700)], &[3]);
        decode(Heads { queries: 18, keys: 1, dim: 48 }, &[(0, 33), (1, 129)], &[2]);
    }

    #[test]
    fn a_token_sees_its_sequence_with_large_heads() {
        decode(Heads { queries: 2, keys: 1, dim: 128 }, &[(0, 0), (0, 77)], &[1]);
        decode(Heads { queries: 1, keys: 1, dim: 256 }, &[(0, 70)], &[1, 3]);
    }

    #[test]
    fn turns_see_what_was_there_before() {
        extend(Heads { queries: 4, keys: 2, dim: 64 }, 140, &[1, 62, 128]);
    }

    #[test]
    fn turns_see_what_was_there_before_with_large_heads() {
        extend(Heads { queries: 2, keys: 1, dim: 128 }, 90, &[70]);
        extend(Heads { queries: 1, keys: 1, dim: 256 }, 72, &[33]);
    }
}
