//! What one pass has on the GPU, and where it lies: what is never in use together shares memory.
//!
//! The gradients of the weights are written from the last block to the first, and unless they are added to those of an earlier
//! pass, nobody needs their memory before. So what a block keeps lies, as far as it fits, where the gradients of the blocks before
//! it will be written, and what all blocks use where that of the embedding will. A pass of 4,096 tokens of a model with a billion
//! weights then needs hardly any memory of its own.

use crate::gpu::arena::{Lent, Plan};
use crate::gpu::training::loss::Head;
use crate::gpu::training::steps::partial_len;
use crate::gpu::{Element, View};
use crate::kernels::attention::Heads;
use crate::model::{BlockPlaces, MixerPlaces};

/// Blocks computed again together: a layer of the Llama family.
pub(super) const SEGMENT: usize = 2;

/// The sizes of a model.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) hidden: usize,
    pub(super) heads: Heads,
    /// Whether heads are normalised.
    pub(super) has_head_norms: bool,
    /// Elements between the projections of a feed-forward block, at most.
    pub(super) inner: usize,
    /// The largest rank of adapters; 0 without.
    pub(super) rank: usize,
    pub(super) blocks: Vec<BlockPlaces>,
    /// Where the gradients of the blocks end, in bytes.
    pub(super) blocks_end: usize,
}

/// What is kept for the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// What all blocks keep.
    All,
    /// The stream before every segment, whose blocks are then computed again.
    Starts,
    /// Nothing: there is no way back.
    Nothing,
}

/// The size of a pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) labels: usize,
    pub(super) keep: Keep,
}

/// What a block keeps for the way back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    /// What the rows of the stream were multiplied by.
    pub(super) scales: View<f32>,
    pub(super) mixer: KeptMixer,
}

/// What the mixer of a block keeps.
#[derive(Clone, Copy, Debug)]
pub(super) enum KeptMixer {
    Attention {
        /// Queries, keys and values as attention reads them; where heads are normalised, as they were before.
        qkv: View<Element>,
        attended: View<Element>,
        log_sums: View<f32>,
    },
    Feed {
        /// What the activation reads.
        input: View<Element>,
    },
}

/// The memory of a pass.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) keep: Keep,
    /// The residual stream before every block and after the last one. Where blocks are computed again, those inside a segment
    /// are the same for all segments; and the first is the embedding, which is looked up again and lies where the second segment
    /// starts. The last becomes the stream's gradient.
    pub(super) streams: Vec<View<f32>>,
    pub(super) kept: Vec<Kept>,
    /// What a mixer reads; on the way back its gradient, and then what it read again.
    pub(super) normed: View<Element>,
    /// The stream's gradient as elements.
    pub(super) rounded: View<Element>,
    /// What an activation gave; on the way back its gradient, and then what it gave again.
    pub(super) active: View<Element>,
    /// The gradient of what attention gave.
    pub(super) attended_gradient: View<Element>,
    pub(super) qkv_gradient: View<Element>,
    /// A number per head and row for attention.
    pub(super) means: View<f32>,
    /// Queries, keys and values as attention reads them, where heads are normalised.
    pub(super) prepared: View<Element>,
    pub(super) head_scales: View<f32>,
    /// Sums of blocks.
    pub(super) partial: View<f32>,
    /// What the rows that the head reads were multiplied by.
    pub(super) read_scales: View<f32>,
    pub(super) logits: View<f32>,
    /// What an adapter has between A and B.
    pub(super) narrow_sums: View<f32>,
    pub(super) narrow: View<Element>,
}

impl Shape {
    /// Where the gradients of a block start, in bytes.
    fn limit(&self, block: usize) -> usize {
        self.blocks.get(block).map_or(0, |block| block.norm.start * size_of::<f32>())
    }

    /// Memory of gradients, until they are written; `is_tied` where that of the embedding is the head's, and written first.
    pub(super) fn lend(&self, gradients: View<f32>, is_tied: bool) -> Lent {
        Lent { start: gradients.address(), used: if is_tied { self.limit(0) } else { 0 } }
    }

    /// Lays out a pass.
    pub(super) fn lay(&self, head: &Head, size: Size, plan: &mut Plan) -> Pass {
        let Size { rows, labels, keep } = size;
        let Self { hidden, heads, .. } = self;
        // The stream's gradient is the last that is read, when all others have been written.
        let last = plan.take(rows * hidden);
        let (streams, kept) = match keep {
            Keep::All => self.all(rows, last, plan),
            Keep::Starts | Keep::Nothing => {
                let kept = self.shared(rows, plan);
                (self.streams(rows, keep, last, plan), kept)
            }
        };
        // What all blocks use is needed until the first has been gone back through.
        let end = self.limit(0);
        let turned = heads.queries + heads.keys;
        let widest = (*hidden).max(heads.row()).max(2 * heads.dim);
        let partial = plan.take_below(partial_len(rows, widest), end);
        let read_scales = plan.take_below(labels, end);
        let normed = plan.take_below(rows * hidden, end);
        let narrow_sums = plan.take_below(rows * self.rank, end);
        let narrow = plan.take_below(rows * self.rank, end);

        // From here on what blocks need, and then what the head needs in its place.
        let mark = plan.mark();
        let rounded: View<Element> = plan.take_below(rows * hidden, end);
        let inside = plan.mark();
        let active: View<Element> = plan.take_below(rows * self.inner, end);
        plan.go_back(inside);
        let attended_gradient = plan.take_below(rows * heads.out(), end);
        let qkv_gradient = plan.take_below(rows * heads.row(), end);
        let means = plan.take_below(rows * heads.queries, end);
        let normalised = if self.has_head_norms { rows } else { 0 };
        let prepared = plan.take_below(normalised * heads.row(), end);
        let head_scales = plan.take_below(normalised * turned, end);
        plan.go_back(mark);
        // The blocks' gradients are written when the head is done.
        let logits = plan.take_below(head.room(labels), self.blocks_end);
        Pass {
            keep,
            streams,
            kept,
            normed,
            rounded,
            active,
            attended_gradient,
            qkv_gradient,
            means,
            prepared,
            head_scales,
            partial,
            read_scales,
            logits,
            narrow_sums,
            narrow,
        }
    }

    /// All that the blocks keep, each before its own gradients.
    fn all(&self, rows: usize, last: View<f32>, plan: &mut Plan) -> (Vec<View<f32>>, Vec<Kept>) {
        let each = self.blocks.iter().enumerate().map(|(index, block)| {
            let limit = self.limit(index);
            let stream = plan.take_below(rows * self.hidden, limit);
            (stream, self.kept(block, rows, limit, plan))
        });
        let (mut streams, kept): (Vec<_>, Vec<_>) = each.unzip();
        streams.push(last);
        (streams, kept)
    }

    /// What the blocks of a segment keep, in the same memory for all segments.
    fn shared(&self, rows: usize, plan: &mut Plan) -> Vec<Kept> {
        let mut kept = vec![None; self.blocks.len()];
        for slot in 0..SEGMENT.min(self.blocks.len()) {
            let mark = plan.mark();
            for block in (slot..self.blocks.len()).step_by(SEGMENT) {
                plan.go_back(mark);
                kept[block] = Some(self.kept(&self.blocks[block], rows, self.limit(0), plan));
            }
            plan.go_on();
        }
        kept.into_iter().flatten().collect()
    }

    /// The streams where only the segments' are kept, or none is.
    fn streams(&self, rows: usize, keep: Keep, last: View<f32>, plan: &mut Plan) -> Vec<View<f32>> {
        let (count, length) = (self.blocks.len(), rows * self.hidden);
        let inside: Vec<View<f32>> = (1..SEGMENT).map(|_| plan.take_below(length, self.limit(0))).collect();
        let mut starts: Vec<View<f32>> = Vec::new();
        for segment in 0..count.div_ceil(SEGMENT) {
            let start = match (keep, starts.first()) {
                (Keep::Nothing, Some(&same)) => same,
                // The embedding is looked up again; it lies where the second segment starts.
                (_, Some(&first)) if segment == 1 => first,
                (_, None) => plan.take_below(length, self.limit(0)),
                _ => plan.take_below(length, self.limit(segment * SEGMENT)),
            };
            starts.push(start);
        }
        let stream = |block: usize| match block % SEGMENT {
            0 => starts[block / SEGMENT],
            slot => inside[slot - 1],
        };
        (0..count).map(stream).chain([last]).collect()
    }

    fn kept(&self, block: &BlockPlaces, rows: usize, limit: usize, plan: &mut Plan) -> Kept {
        let heads = self.heads;
        let mixer = match &block.mixer {
            MixerPlaces::Attention(_) => KeptMixer::Attention {
                qkv: plan.take_below(rows * heads.row(), limit),
                attended: plan.take_below(rows * heads.out(), limit),
                log_sums: plan.take_below(rows * heads.queries, limit),
            },
            MixerPlaces::Feed(places) => {
                let inner = places.down.len() / self.hidden;
                KeptMixer::Feed { input: plan.take_below(rows * places.activation.inputs() * inner, limit) }
            }
            MixerPlaces::Experts(_) | MixerPlaces::Mamba(_) => unreachable!("`check` refuses these"),
        };
        Kept { scales: plan.take_below(rows, limit), mixer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::arena::Arena;
    use crate::gpu::tests::gpus;
    use crate::model::{Config, Places};

    /// Beside 16.5 GiB of weights, gradients and moments.
    #[test]
    fn a_pass_of_a_model_of_a_billion_weights_takes_hardly_any_memory_of_its_own() {
        let Some(tested) = gpus().into_iter().find(|tested| !tested.exact) else { return };
        let mut config = Config::small(32_768, 2048, 16, 64, 65_536);
        config.num_key_value_heads = Some(8);
        config.intermediate_size = 8192;
        config.tie_word_embeddings = false;
        let places = Places::new(&config);
        assert_eq!(places.total(), 1_107_363_840);
        let shape = Shape {
            hidden: 2048,
            heads: config.heads(),
            has_head_norms: false,
            inner: 8192,
            rank: 0,
            blocks_end: places.norm.start * size_of::<f32>(),
            blocks: places.blocks,
        };
        let head = Head::new(&tested.gpu, 2048, 32_768).unwrap();
        let arena = Arena::new(&tested.gpu).unwrap();
        let lent = Some(Lent { start: 1 << 40, used: 0 });
        let mebibytes = |lent, rows, keep| {
            let size = Size { rows, labels: rows, keep };
            arena.bytes_of(lent, |plan| shape.lay(&head, size, plan)) >> 20
        };
        assert_eq!(
            [Keep::All, Keep::Starts, Keep::Nothing].map(|keep| mebibytes(None, 4096, keep)),
            [3902, 862, 414]
        );
        // What is kept lies where gradients will be written, and fits there.
        assert_eq!([Keep::All, Keep::Starts].map(|keep| mebibytes(lent, 4096, keep)), [134, 134]);
        assert_eq!([None, lent].map(|lent| mebibytes(lent, 16_384, Keep::All)), [15_400, 11_718]);
        // A pack of 60,000 tokens leaves room on a GPU of 80 GB.
        assert_eq!([None, lent].map(|lent| mebibytes(lent, 60_000, Keep::Starts)), [11_849, 8326]);
    }
}
