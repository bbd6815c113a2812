//! Causal attention over packed samples, forward and backward, with grouped key heads.
//!
//! A row of `qkv` is the queries of all heads, then the keys, then the values. Segments are attended separately, so nothing
//! crosses from one sample into another. Scores exist for [`STRIP`] queries at a time: memory grows with the length of a
//! sample, not with its square. A query's result depends on its own segment up to its own position and on nothing else, so
//! decoding one token against a cache gives the bytes that training on the whole sample gives.

use std::cell::RefCell;
use std::ops::Range;

use super::math::{dot, exp, max, sum};
use super::matmul::{Into, Matrix, PanelView, Panels, multiply, multiply_at};
use super::norm::HeadPart;
use super::share::{Shared, share};
use super::vectorised;

/// Queries whose scores are held at once.
pub(crate) const STRIP: usize = 32;

/// Heads of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key and value heads; each serves `queries / keys` query heads.
    pub keys: usize,
    /// Elements per head.
    pub dim: usize,
}

impl Heads {
    /// Places from one row of queries, keys and values to the next.
    pub fn row(&self) -> usize {
        (self.queries + 2 * self.keys) * self.dim
    }

    /// Places of a row of attention output.
    pub fn out(&self) -> usize {
        self.queries * self.dim
    }

    /// The queries and the keys inside a row: what is turned by its position.
    pub(crate) fn turned(&self) -> [HeadPart; 2] {
        let stride = self.row();
        [
            HeadPart { stride, first: self.query(0), count: self.queries },
            HeadPart { stride, first: self.key(0), count: self.keys },
        ]
    }

    fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    /// Where in a row the queries of a head start.
    fn query(&self, head: usize) -> usize {
        head * self.dim
    }

    /// Where in a row the keys of a key head start.
    pub(crate) fn key(&self, head: usize) -> usize {
        (self.queries + head) * self.dim
    }

    /// Where in a row the values of a key head start.
    pub(crate) fn value(&self, head: usize) -> usize {
        (self.queries + self.keys + head) * self.dim
    }

    /// The query heads that a key head serves.
    pub(crate) fn group(&self, key_head: usize) -> Range<usize> {
        let size = self.queries / self.keys;
        key_head * size..(key_head + 1) * size
    }
}

/// What the softmax of a query was, kept for the way back: the largest score and one over the sum.
pub(crate) const KEPT: usize = 2;

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    gradients: Vec<f32>,
    key_gradient: Vec<f32>,
    value_gradient: Vec<f32>,
    keys: Panels,
    values: Panels,
    keys_across: Panels,
    strip: Panels,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Lends this thread's buffers; nothing inside `work` may wait for other threads.
fn with_scratch(work: impl FnOnce(&mut Scratch)) {
    SCRATCH.with_borrow_mut(work);
}

/// How far queries look back.
#[derive(Clone, Copy)]
pub(crate) struct Reach {
    /// The position of the first query.
    pub(crate) first: usize,
    /// By how much each query's position exceeds that of the one before: 1 for the tokens of one head, 0 for the heads of one
    /// token, which read the same keys.
    pub(crate) step: usize,
}

impl Reach {
    /// Keys that a query sees: those up to its own position.
    fn of(self, query: usize) -> usize {
        self.first + query * self.step + 1
    }
}

/// Attention of every row of `qkv` within its segment; `bounds` are the segments' ends, the first one starting at 0.
///
/// `kept` holds [`kept_len`] numbers for [`attention_backward`].
pub fn attention(heads: Heads, qkv: &[f32], bounds: &[usize], out: &mut [f32], kept: &mut [f32]) {
    let (out, kept) = (Shared::new(out), Shared::new(kept));
    share(bounds.len() * heads.keys, 1, |tasks| {
        for task in tasks {
            let (segment, key_head) = (task / heads.keys, task % heads.keys);
            let rows = start(bounds, segment)..bounds[segment];
            with_scratch(|scratch| {
                let Scratch { scores, keys, values, .. } = scratch;
                keys.fill_alone(part(heads, qkv, &rows, heads.key(key_head)).transposed());
                values.fill_alone(part(heads, qkv, &rows, heads.value(key_head)));
                for head in heads.group(key_head) {
                    for first in (0..rows.len()).step_by(STRIP) {
                        let strip = rows.start + first..rows.start + (first + STRIP).min(rows.len());
                        let queries = part(heads, qkv, &strip, heads.query(head));
                        let place = (head * kept_rows(qkv, heads) + strip.start) * KEPT;
                        // SAFETY: each task writes the rows of its segment in the columns of its heads.
                        unsafe {
                            let kept = kept.slice(place..place + strip.len() * KEPT);
                            let out = out.pointer().add(strip.start * heads.out() + head * heads.dim);
                            attend(
                                heads,
                                queries,
                                Reach { first, step: 1 },
                                keys.view(),
                                values.view(),
                                scores,
                                kept,
                                out,
                                heads.out(),
                            );
                        }
                    }
                }
            });
        }
    });
}

/// Numbers that [`attention`] keeps for `rows` rows.
pub fn kept_len(heads: Heads, rows: usize) -> usize {
    rows * heads.queries * KEPT
}

fn kept_rows(qkv: &[f32], heads: Heads) -> usize {
    qkv.len() / heads.row()
}

fn start(bounds: &[usize], segment: usize) -> usize {
    if segment == 0 { 0 } else { bounds[segment - 1] }
}

/// One head's columns, from place `offset` of each row on.
fn part<'a>(heads: Heads, qkv: &'a [f32], rows: &Range<usize>, offset: usize) -> Matrix<'a> {
    Matrix::strided(&qkv[rows.start * heads.row() + offset..], rows.len(), heads.dim, heads.row())
}

/// Attention of queries over the keys and values of one key head that they reach.
///
/// `keys` has the keys in its columns, `values` in its rows. Rows of the result start `stride` apart.
///
/// # Safety
/// `out` points to as many rows as there are queries, whose first `heads.dim` places are valid and touched by nobody else.
#[expect(clippy::too_many_arguments, reason = "the operands of one kernel")]
pub(crate) unsafe fn attend(
    heads: Heads,
    queries: Matrix<'_>,
    reach: Reach,
    keys: PanelView<'_>,
    values: PanelView<'_>,
    scores: &mut Vec<f32>,
    kept: &mut [f32],
    out: *mut f32,
    stride: usize,
) {
    let count = reach.of(queries.rows() - 1);
    scores.resize(queries.rows() * count, 0.0);
    multiply(scores, count, queries, PanelView { columns: count, ..keys }, Into::Replace);
    soften(scores, reach, count, heads.scale(), kept);
    let values = PanelView { depth: count, ..values };
    // SAFETY: the caller's promise.
    unsafe { multiply_at(out, stride, Matrix::new(scores, queries.rows(), count), values, Into::Replace) };
    for (row, kept) in kept.chunks_exact(KEPT).enumerate() {
        // SAFETY: the caller's promise.
        let out = unsafe { std::slice::from_raw_parts_mut(out.add(row * stride), heads.dim) };
        for out in out {
            *out *= kept[1];
        }
    }
}

/// Writes the gradient of `qkv`, given that of the attention's output.
pub fn attention_backward(
    heads: Heads,
    qkv: &[f32],
    bounds: &[usize],
    out: &[f32],
    kept: &[f32],
    gradient: &[f32],
    qkv_gradient: &mut [f32],
) {
    let to = Shared::new(qkv_gradient);
    share(bounds.len() * heads.keys, 1, |tasks| {
        for task in tasks {
            let (segment, key_head) = (task / heads.keys, task % heads.keys);
            let rows = start(bounds, segment)..bounds[segment];
            with_scratch(|scratch| {
                let Scratch {
                    scores,
                    gradients,
                    key_gradient,
                    value_gradient,
                    keys,
                    values,
                    keys_across,
                    strip,
                    ..
                } = scratch;
                keys.fill_alone(part(heads, qkv, &rows, heads.key(key_head)).transposed());
                values.fill_alone(part(heads, qkv, &rows, heads.value(key_head)).transposed());
                keys_across.fill_alone(part(heads, qkv, &rows, heads.key(key_head)));
                for sum in [&mut *key_gradient, &mut *value_gradient] {
                    sum.clear();
                    sum.resize(rows.len() * heads.dim, 0.0);
                }
                for head in heads.group(key_head) {
                    for first in (0..rows.len()).step_by(STRIP) {
                        let at = rows.start + first..rows.start + (first + STRIP).min(rows.len());
                        let count = first + at.len();
                        let queries = part(heads, qkv, &at, heads.query(head));
                        let place = at.start * heads.out() + head * heads.dim;
                        let outer = Matrix::strided(&gradient[place..], at.len(), heads.dim, heads.out());
                        scores.resize(at.len() * count, 0.0);
                        gradients.resize(at.len() * count, 0.0);
                        multiply(
                            scores,
                            count,
                            queries,
                            PanelView { columns: count, ..keys.view() },
                            Into::Replace,
                        );
                        multiply(
                            gradients,
                            count,
                            outer,
                            PanelView { columns: count, ..values.view() },
                            Into::Replace,
                        );
                        let kept =
                            &kept[(head * kept_rows(qkv, heads) + at.start) * KEPT..][..at.len() * KEPT];
                        let means = &mut [0.0; STRIP][..at.len()];
                        dot_rows(&out[place..], &gradient[place..], heads.out(), heads.dim, means);
                        soften_backward(scores, gradients, first, heads.scale(), kept, means);
                        let (scores, gradients) =
                            (Matrix::new(scores, at.len(), count), Matrix::new(gradients, at.len(), count));
                        // SAFETY: each task writes the rows of its segment in the columns of its heads.
                        unsafe {
                            let to = to.pointer().add(at.start * heads.row() + heads.query(head));
                            multiply_at(
                                to,
                                heads.row(),
                                gradients,
                                PanelView { depth: count, ..keys_across.view() },
                                Into::Replace,
                            );
                        }
                        strip.fill_alone(queries);
                        multiply(
                            key_gradient,
                            heads.dim,
                            gradients.transposed(),
                            strip.view(),
                            Into::Accumulate,
                        );
                        strip.fill_alone(outer);
                        multiply(
                            value_gradient,
                            heads.dim,
                            scores.transposed(),
                            strip.view(),
                            Into::Accumulate,
                        );
                    }
                }
                for (offset, sum) in
                    [(heads.key(key_head), key_gradient), (heads.value(key_head), value_gradient)]
                {
                    for (row, sum) in rows.clone().zip(sum.chunks_exact(heads.dim)) {
                        let place = row * heads.row() + offset;
                        // SAFETY: as above.
                        unsafe { to.slice(place..place + heads.dim) }.copy_from_slice(sum);
                    }
                }
            });
        }
    });
}

vectorised! {
    /// Turns scores into weights that still have to be divided by their sum; `kept` gets the largest score and one over the sum.
    fn soften(scores: &mut [f32], reach: Reach, count: usize, scale: f32, kept: &mut [f32]) {
        for (row, (scores, kept)) in scores.chunks_exact_mut(count).zip(kept.chunks_exact_mut(KEPT)).enumerate() {
            let (seen, unseen) = scores.split_at_mut(reach.of(row));
            let largest = max(seen);
            for score in seen.iter_mut() {
                *score = exp((*score - largest) * scale);
            }
            unseen.fill(0.0);
            kept[0] = largest;
            kept[1] = 1.0 / sum(seen);
        }
    }

    /// The product of each row of one matrix with that row of another; rows of `dim` start `stride` apart.
    fn dot_rows(left: &[f32], right: &[f32], stride: usize, dim: usize, products: &mut [f32]) {
        for (row, product) in products.iter_mut().enumerate() {
            *product = dot(&left[row * stride..][..dim], &right[row * stride..][..dim]);
        }
    }

    /// Turns scores into weights, and the weights' gradients, whose weighted means are `means`, into the scores'.
    fn soften_backward(scores: &mut [f32], gradients: &mut [f32], first: usize, scale: f32, kept: &[f32], means: &[f32]) {
        let count = scores.len() / means.len();
        let rows = scores.chunks_exact_mut(count).zip(gradients.chunks_exact_mut(count)).zip(kept.chunks_exact(KEPT));
        for (row, (((scores, gradients), kept), mean)) in rows.zip(means).enumerate() {
            let (largest, share) = (kept[0], kept[1]);
            let seen = first + row + 1;
            for (score, gradient) in scores[..seen].iter_mut().zip(&mut gradients[..seen]) {
                let weight = exp((*score - largest) * scale) * share;
                *score = weight;
                *gradient = weight * (*gradient - mean) * scale;
            }
            scores[seen..].fill(0.0);
            gradients[seen..].fill(0.0);
        }
    }
}
