//! Attention of new tokens over the caches of their sequences.

use super::projection::Projection;
use super::{Pass, Scratch, Turn, WeightReader};
use crate::kernels::attention::{Heads, KEPT, Reach, STRIP, attend};
use crate::kernels::bias::add_bias;
use crate::kernels::matmul::{Into, Matrix};
use crate::kernels::norm::head_norm;
use crate::kernels::rope;
use crate::kernels::share::{Shared, share};
use crate::model::{AttentionPlaces, ModelError, room};

/// The weights of attention.
#[derive(Debug)]
pub(super) struct Attention {
    /// Its number among the model's attention layers, for the cache.
    layer: usize,
    qkv: Projection,
    bias: Option<Vec<f32>>,
    head_norms: Option<[Vec<f32>; 2]>,
    output: Projection,
}

impl Attention {
    pub(super) fn read(
        reader: &WeightReader<'_>,
        places: &AttentionPlaces,
        layer: usize,
    ) -> Result<Self, ModelError> {
        let head_norms = match &places.head_norms {
            Some([query, key]) => Some([reader.vector(query)?, reader.vector(key)?]),
            None => None,
        };
        Ok(Self {
            layer,
            qkv: reader.projection(&places.qkv)?,
            bias: places.bias.as_ref().map(|bias| reader.vector(bias)).transpose()?,
            head_norms,
            output: reader.projection(&places.output)?,
        })
    }

    /// Adds the block's output to the stream `x`.
    pub(super) fn add(
        &self,
        pass: &Pass<'_>,
        turns: &mut [Turn<'_>],
        normed: &[f32],
        x: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let (rows, heads) = (pass.positions.len(), pass.heads);
        let qkv = room(&mut scratch.inner, rows * heads.row());
        self.qkv.apply(qkv, normed, Into::Replace);
        if let Some(bias) = &self.bias {
            add_bias(qkv, bias);
        }
        if let Some(norms) = &self.head_norms {
            for (part, norm) in heads.turned().into_iter().zip(norms) {
                let scales = room(&mut scratch.scales, rows * part.count);
                head_norm(qkv, part, norm, pass.epsilon, scales);
            }
        }
        if let Some(rotation) = pass.rotation {
            let turning = heads.queries + heads.keys;
            rotation.apply(qkv, heads.row(), turning, pass.positions, rope::Turn::Forward);
        }
        for (turn, &end) in turns.iter_mut().zip(pass.ends) {
            let first = end - turn.tokens.len();
            turn.cache.put(self.layer, &qkv[first * heads.row()..end * heads.row()]);
        }
        let attended = room(&mut scratch.outer, rows * heads.out());
        attend_turns(heads, self.layer, turns, pass.ends, qkv, attended);
        self.output.apply(x, attended, Into::Accumulate);
    }
}

/// Attention of every turn's new tokens over its cache, which holds them already.
fn attend_turns(
    heads: Heads,
    layer: usize,
    turns: &[Turn<'_>],
    ends: &[usize],
    qkv: &[f32],
    out: &mut [f32],
) {
    let out = Shared::new(out);
    share(turns.len() * heads.keys, 1, |tasks| {
        let (mut scores, mut kept) = (Vec::new(), [0.0; STRIP * KEPT]);
        for task in tasks {
            let (turn, key_head) = (task / heads.keys, task % heads.keys);
            let (start, end) = (ends[turn] - turns[turn].tokens.len(), ends[turn]);
            let cache = &*turns[turn].cache;
            let (keys, values) = cache.views(layer, key_head, cache.len() + (end - start));
            let mut run = |head: usize, row: usize, count: usize, reach: Reach| {
                let (from, to) = match reach.step {
                    // The heads of one token lie side by side.
                    0 => (heads.dim, heads.dim),
                    _ => (heads.row(), heads.out()),
                };
                let queries =
                    Matrix::strided(&qkv[row * heads.row() + head * heads.dim..], count, heads.dim, from);
                let kept = &mut kept[..count * KEPT];
                // SAFETY: each task writes the rows of its turn in the columns of its heads.
                unsafe {
                    let out = out.pointer().add(row * heads.out() + head * heads.dim);
                    attend(heads, queries, reach, keys, values, &mut scores, kept, out, to);
                }
            };
            let group = heads.group(key_head);
            if end - start == 1 {
                // Decoding: all heads of the group at once, so that keys and values are read once.
                for head in group.clone().step_by(STRIP) {
                    let count = (group.end - head).min(STRIP);
                    run(head, start, count, Reach { first: cache.len(), step: 0 });
                }
            } else {
                for head in group {
                    for first in (start..end).step_by(STRIP) {
                        let reach = Reach { first: cache.len() + first - start, step: 1 };
                        run(head, first, (end - first).min(STRIP), reach);
                    }
                }
            }
        }
    });
}
