//! What one pass has on the GPU, and where it lies: what is never in use together shares memory.

use super::loss::Head;
use super::mamba::{MambaKept, MambaRoom};
use super::steps::partial_len;
use crate::gpu::arena::Plan;
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
}

/// The size of a pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) labels: usize,
    /// Chunks that Mamba blocks cut the samples into.
    pub(super) chunks: usize,
    /// Whether blocks are computed again on the way back.
    pub(super) again: bool,
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
    /// Whether blocks are computed again, by segments.
    pub(super) again: bool,
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
    /// Lays out a pass.
    pub(super) fn lay(&self, head: &Head, size: Size, plan: &mut Plan) -> Pass {
        let Size { rows, labels, chunks, again } = size;
        let Self { hidden, heads, blocks, .. } = self;
        let streams = self.streams(size, plan);
        let kept = if again {
            let mut kept = vec![None; blocks.len()];
            for slot in 0..SEGMENT.min(blocks.len()) {
                let mark = plan.mark();
                for block in (slot..blocks.len()).step_by(SEGMENT) {
                    plan.go_back(mark);
                    kept[block] = Some(self.kept(&blocks[block], rows, plan));
                }
                plan.go_on();
            }
            kept.into_iter().flatten().collect()
        } else {
            blocks.iter().map(|block| self.kept(block, rows, plan)).collect()
        };
        let turned = heads.queries + heads.keys;
        let widest = (*hidden).max(heads.row()).max(2 * heads.dim);
        let partial = plan.take(partial_len(rows, widest));
        let read_scales = plan.take(labels);
        let normed = plan.take(rows * hidden);
        let (narrow_sums, narrow) = (plan.take(rows * self.rank), plan.take(rows * self.rank));

        // From here on what blocks need, and then what the head needs in its place.
        let mark = plan.mark();
        let rounded: View<Element> = plan.take(rows * hidden);
        let inside = plan.mark();
        let active: View<Element> = plan.take(rows * self.inner);
        let bytes = rounded.bytes() + active.bytes();
        plan.go_back(inside);
        let attended_gradient = plan.take(rows * heads.out());
        let qkv_gradient = plan.take(rows * heads.row());
        let means = plan.take(rows * heads.queries);
        let normalised = if self.has_head_norms { rows } else { 0 };
        let (prepared, head_scales) = (plan.take(normalised * heads.row()), plan.take(normalised * turned));
        plan.go_back(inside);
        let mamba = match self.mamba {
            Some(shape) => MambaRoom::lay(shape, rows, chunks, plan),
            None => MambaRoom::none(plan),
        };
        plan.go_back(mark);
        let logits = plan.take(head.room(labels, bytes));
        Pass {
            again,
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

    fn streams(&self, size: Size, plan: &mut Plan) -> Vec<View<f32>> {
        let count = self.blocks.len() + 1;
        let mut take = || plan.take(size.rows * self.hidden);
        if !size.again {
            return (0..count).map(|_| take()).collect();
        }
        let inside: Vec<View<f32>> = (1..SEGMENT).map(|_| take()).collect();
        // The first place is filled when the second segment's is there.
        let mut streams = vec![inside[0]];
        for block in 1..count {
            let starts_or_ends = block % SEGMENT == 0 || block + 1 == count;
            streams.push(if starts_or_ends { take() } else { inside[block % SEGMENT - 1] });
        }
        streams[0] = streams[SEGMENT];
        streams
    }

    fn kept(&self, block: &BlockPlaces, rows: usize, plan: &mut Plan) -> Kept {
        let heads = self.heads;
        let mixer = match &block.mixer {
            MixerPlaces::Attention(_) => KeptMixer::Attention {
                qkv: plan.take(rows * heads.row()),
                attended: plan.take(rows * heads.out()),
                log_sums: plan.take(rows * heads.queries),
            },
            MixerPlaces::Feed(places) => {
                let inner = places.down.len() / self.hidden;
                KeptMixer::Feed { input: plan.take(rows * places.activation.inputs() * inner) }
            }
            MixerPlaces::Mamba(places) => KeptMixer::Mamba(MambaKept::lay(places.shape, rows, plan)),
            MixerPlaces::Experts(_) => unreachable!("`check` refuses these"),
        };
        Kept { scales: plan.take(rows), mixer }
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
    fn a_pass_of_a_model_of_a_billion_weights_takes_little_when_it_is_computed_again() {
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
            blocks: places.blocks,
        };
        let head = Head::new(&tested.gpu, 2048, 32_768).unwrap();
        let arena = Arena::new(&tested.gpu).unwrap();
        let mebibytes = |rows, again| {
            let size = Size { rows, labels: rows, chunks: 0, again };
            arena.bytes_of(|plan| shape.lay(&head, size, plan)) >> 20
        };
        assert_eq!([mebibytes(4096, true), mebibytes(4096, false)], [814, 3854]);
        // A pack of 60,000 tokens leaves room on a GPU of 80 GB.
        assert_eq!(mebibytes(60_000, true) >> 10, 11);
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
            blocks: places.blocks,
        };
        let head = Head::new(&tested.gpu, 5120, 131_072).unwrap();
        let arena = Arena::new(&tested.gpu).unwrap();
        let mebibytes = |rows, again| {
            let size = Size { rows, labels: rows, chunks: rows / 64, again };
            arena.bytes_of(|plan| shape.lay(&head, size, plan)) >> 20
        };
        assert_eq!([mebibytes(4096, true), mebibytes(4096, false)], [3865, 18_088]);
        assert_eq!(mebibytes(16_384, true), 15_399);
    }
}
