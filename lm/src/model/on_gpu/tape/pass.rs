//! What one pass has on the GPU, and where it lies: what is never in use together shares memory.
//!
//! The gradients of the weights are written from the last block to the first, and unless they are added to those of an earlier
//! pass, nobody needs their memory before. So what a block keeps lies, as far as it fits, where the gradients of the blocks before
//! it will be written, and what all blocks use where that of the embedding will. A pass of 4,096 tokens of a model with a billion
//! weights then needs hardly any memory of its own.

use crate::gpu::arena::{Lent, Plan};
use crate::gpu::training::loss::Head;
use crate::gpu::training::mamba::{MambaKept, MambaRoom};
use crate::gpu::training::steps::partial_len;
use crate::gpu::{Element, View};
use crate::kernels::attention::Heads;
use crate::kernels::mamba::MambaShape;
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
    /// Whether queries and keys are turned by their positions.
    pub(super) has_positions: bool,
    /// Elements between the projections of a feed-forward block, at most.
    pub(super) inner: usize,
    /// The largest rank of adapters; 0 without.
    pub(super) rank: usize,
    /// That of the Mamba blocks, if there are any.
    pub(super) mamba: Option<MambaShape>,
    pub(super) blocks: Vec<BlockPlaces>,
    /// Where the gradients of the blocks end, in bytes.
    pub(super) blocks_end: usize,
}

/// What is kept for the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// What all blocks keep.
    All,
    /// The stream before every segment, whose blocks are then computed again, but for attention: what it gave is small, and takes
    /// long where samples are.
    Starts,
    /// Nothing: there is no way back.
    Nothing,
}

/// The size of a pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) labels: usize,
    /// Chunks that Mamba blocks cut the samples into.
    pub(super) chunks: usize,
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
    Mamba(MambaKept),
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
    /// What a Mamba block needs.
    pub(super) mamba: MambaRoom,
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
        let Size { rows, labels, chunks, keep } = size;
        let Self { hidden, heads, .. } = self;
        // The stream's gradient is the last that is read, when all others have been written.
        let last = plan.take(rows * hidden);
        let (streams, kept) = match keep {
            Keep::All => self.all(rows, last, plan),
            Keep::Starts => self.starts(rows, last, plan),
            Keep::Nothing => self.nothing(rows, last, plan),
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
        plan.go_back(inside);
        let mamba = match self.mamba {
            Some(shape) => MambaRoom::lay(shape, rows, chunks, end, plan),
            None => MambaRoom::none(plan),
        };
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
            mamba,
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
            let stream = self.stream(rows, limit, plan);
            (stream, self.kept(block, [rows, rows], limit, plan))
        });
        let (mut streams, kept): (Vec<_>, Vec<_>) = each.unzip();
        streams.push(last);
        (streams, kept)
    }

    /// The stream before every segment and what attention gave; all else is in the same memory for all segments.
    fn starts(&self, rows: usize, last: View<f32>, plan: &mut Plan) -> (Vec<View<f32>>, Vec<Kept>) {
        let mut kept = self.shared(rows, 0, plan);
        let (inside, first) = (self.inside(rows, plan), self.stream(rows, self.limit(0), plan));
        let mut streams = Vec::with_capacity(self.blocks.len() + 1);
        for (block, kept) in kept.iter_mut().enumerate() {
            streams.push(match block % SEGMENT {
                // The embedding is looked up again; it lies where the second segment starts.
                0 if block <= SEGMENT => first,
                0 => self.stream(rows, self.limit(block), plan),
                slot => inside[slot - 1],
            });
            if let KeptMixer::Attention { attended, log_sums, .. } = &mut kept.mixer {
                (*attended, *log_sums) = self.attended(rows, self.limit(block), plan);
            }
        }
        streams.push(last);
        (streams, kept)
    }

    /// Everything in the same memory for all segments.
    fn nothing(&self, rows: usize, last: View<f32>, plan: &mut Plan) -> (Vec<View<f32>>, Vec<Kept>) {
        let kept = self.shared(rows, rows, plan);
        let (inside, start) = (self.inside(rows, plan), self.stream(rows, self.limit(0), plan));
        let of_segment = [start].into_iter().chain(inside).cycle();
        (of_segment.take(self.blocks.len()).chain([last]).collect(), kept)
    }

    /// What the blocks of a segment keep, in the same memory for all segments; `attended` rows of it are what attention gave.
    fn shared(&self, rows: usize, attended: usize, plan: &mut Plan) -> Vec<Kept> {
        let mut kept = vec![None; self.blocks.len()];
        for slot in 0..SEGMENT.min(self.blocks.len()) {
            let mark = plan.mark();
            for block in (slot..self.blocks.len()).step_by(SEGMENT) {
                plan.go_back(mark);
                kept[block] = Some(self.kept(&self.blocks[block], [rows, attended], self.limit(0), plan));
            }
            plan.go_on();
        }
        kept.into_iter().flatten().collect()
    }

    /// The streams between the blocks of a segment.
    fn inside(&self, rows: usize, plan: &mut Plan) -> Vec<View<f32>> {
        (1..SEGMENT).map(|_| self.stream(rows, self.limit(0), plan)).collect()
    }

    fn stream(&self, rows: usize, limit: usize, plan: &mut Plan) -> View<f32> {
        plan.take_below(rows * self.hidden, limit)
    }

    fn attended(&self, rows: usize, limit: usize, plan: &mut Plan) -> (View<Element>, View<f32>) {
        let out = plan.take_below(rows * self.heads.out(), limit);
        (out, plan.take_below(rows * self.heads.queries, limit))
    }

    /// What a block keeps of so many rows, and of as many that attention gave.
    fn kept(&self, block: &BlockPlaces, rows: [usize; 2], limit: usize, plan: &mut Plan) -> Kept {
        let [rows, attended] = rows;
        let mixer = match &block.mixer {
            MixerPlaces::Attention(_) => {
                let qkv = plan.take_below(rows * self.heads.row(), limit);
                let (attended, log_sums) = self.attended(attended, limit, plan);
                KeptMixer::Attention { qkv, attended, log_sums }
            }
            MixerPlaces::Feed(places) => {
                let inner = places.down.len() / self.hidden;
                KeptMixer::Feed { input: plan.take_below(rows * places.activation.inputs() * inner, limit) }
            }
            MixerPlaces::Mamba(places) => KeptMixer::Mamba(MambaKept::lay(places.shape, rows, limit, plan)),
            MixerPlaces::Experts(_) => unreachable!("`check` refuses these"),
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
            has_positions: true,
            inner: 8192,
            rank: 0,
            mamba: None,
            blocks_end: places.norm.start * size_of::<f32>(),
            blocks: places.blocks,
        };
        let head = Head::new(&tested.gpu, 2048, 32_768).unwrap();
        let arena = Arena::new(&tested.gpu).unwrap();
        let lent = Some(Lent { start: 1 << 40, used: 0 });
        let mebibytes = |lent, rows, keep| {
            let size = Size { rows, labels: rows, chunks: 0, keep };
            arena.bytes_of(lent, |plan| shape.lay(&head, size, plan)) >> 20
        };
        assert_eq!(
            [Keep::All, Keep::Starts, Keep::Nothing].map(|keep| mebibytes(None, 4096, keep)),
            [3902, 1110, 414]
        );
        // What is kept lies where gradients will be written, and fits there.
        assert_eq!([Keep::All, Keep::Starts].map(|keep| mebibytes(lent, 4096, keep)), [134, 134]);
        assert_eq!([None, lent].map(|lent| mebibytes(lent, 16_384, Keep::All)), [15_400, 11_718]);
        assert_eq!(mebibytes(lent, 16_384, Keep::Starts), 1222);
        // A pack of 60,000 tokens leaves room on a GPU of 80 GB.
        assert_eq!([None, lent].map(|lent| mebibytes(lent, 60_000, Keep::Starts)), [15_475, 11_849]);
    }

    /// The shape of Nemotron-Nano-12B-v2, beside 23 GiB of weights that adapters are trained on.
    #[test]
    fn a_pass_of_a_hybrid_takes_a_few_gibibytes_when_it_is_computed_again() {
        let Some(tested) = gpus().into_iter().find(|tested| !tested.exact) else { return };
        let mut config = Config::small(131_072, 5120, 62, 128, 131_072);
        config.architectures = vec!["NemotronHForCausalLM".to_owned()];
        config.num_attention_heads = 40;
        config.num_key_value_heads = Some(8);
        config.intermediate_size = 20_480;
        config.tie_word_embeddings = false;
        let options = serde_json::json!({
            "hybrid_override_pattern": "M-M-M-M*-".repeat(6) + "M-M-M-M-", "mamba_num_heads": 128, "mamba_head_dim": 80,
            "ssm_state_size": 128, "n_groups": 8, "conv_kernel": 4
        });
        config.other = options.as_object().cloned().unwrap_or_default();
        config.check().unwrap();
        let places = Places::new(&config);
        let shape = Shape {
            hidden: 5120,
            heads: config.heads(),
            has_head_norms: false,
            has_positions: false,
            inner: 20_480,
            rank: 16,
            mamba: config.mamba().map(|(shape, _)| shape),
            blocks_end: places.norm.start * size_of::<f32>(),
            blocks: places.blocks,
        };
        let head = Head::new(&tested.gpu, 5120, 131_072).unwrap();
        let arena = Arena::new(&tested.gpu).unwrap();
        let mebibytes = |rows, keep| {
            let size = Size { rows, labels: rows, chunks: rows / 64, keep };
            arena.bytes_of(None, |plan| shape.lay(&head, size, plan)) >> 20
        };
        assert_eq!([Keep::All, Keep::Starts].map(|keep| mebibytes(4096, keep)), [18_088, 4109]);
        assert_eq!(mebibytes(16_384, Keep::Starts), 16_374);
    }
}
