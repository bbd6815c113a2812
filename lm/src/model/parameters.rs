//! The weights of a model in one flat slice, in an order that makes neighbouring projections one matrix.
//!
//! Query, key and value projections follow one another, and so do gate and up projections: either group is one product. Gradients
//! and optimiser moments have the same layout, so clipping, updating and saving are loops over flat slices.

use std::collections::BTreeMap;
use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::{BlockKind, Config, Experts, Family};
use crate::kernels::activation::Activation;
use crate::kernels::mamba::MambaShape;
use crate::kernels::math::ln;
use crate::weights::Saved;

/// One weight: its name in the file, its shape and its places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Name as transformers has it.
    pub name: String,
    /// Rows and columns, or just the length.
    pub shape: Vec<usize>,
    /// Places in the flat slice.
    pub places: Range<usize>,
}

impl Parameter {
    /// Whether this is a matrix: the others are biases and the scales of normalisations.
    pub fn is_matrix(&self) -> bool {
        self.shape.len() > 1
    }

    /// Whether this is added rather than multiplied.
    pub fn is_bias(&self) -> bool {
        self.name.rsplit('.').next() == Some("bias")
    }
}

/// Places of the weights of one residual block, which adds `mixer(norm(x))` to the stream `x`. A layer of the Llama family is
/// two of them: attention, then the feed-forward block.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockPlaces {
    /// Scale of the normalisation.
    pub norm: Range<usize>,
    /// What the block does.
    pub mixer: MixerPlaces,
}

/// Places of the weights between a block's normalisation and its sum.
#[derive(Clone, Debug, PartialEq)]
pub enum MixerPlaces {
    /// Attention over the sequence.
    Attention(AttentionPlaces),
    /// A feed-forward block.
    Feed(FeedPlaces),
    /// A mixture of feed-forward blocks.
    Experts(ExpertsPlaces),
    /// A selective state space.
    Mamba(MambaPlaces),
}

/// Places of the weights of attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionPlaces {
    /// Query, key and value projections.
    pub qkv: Range<usize>,
    /// Their biases, if they have any.
    pub bias: Option<Range<usize>>,
    /// Scales of the normalisation of every query head and of every key head, if they are normalised.
    pub head_norms: Option<[Range<usize>; 2]>,
    /// Projection out of attention.
    pub output: Range<usize>,
}

/// Places of the weights of a feed-forward block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedPlaces {
    /// Between the projections.
    pub activation: Activation,
    /// The projection into the block: gate and up, where it is gated.
    pub inward: Range<usize>,
    /// Projection out of the block.
    pub down: Range<usize>,
}

/// Places of the weights of a mixture of experts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpertsPlaces {
    /// Projection to a score per expert.
    pub router: Range<usize>,
    /// The experts.
    pub experts: Vec<FeedPlaces>,
    /// Experts that compute a token.
    pub chosen: usize,
    /// Whether their weights are made to add up to 1.
    pub adds_up_to_one: bool,
}

/// Places of the weights of a Mamba-2 block.
#[derive(Clone, Debug, PartialEq)]
pub struct MambaPlaces {
    /// The block's shape.
    pub shape: MambaShape,
    /// Projection into the block.
    pub inward: Range<usize>,
    /// The convolution, a row per channel.
    pub convolution: Range<usize>,
    /// Its bias, if it has one.
    pub convolution_bias: Option<Range<usize>>,
    /// What is added to the raw steps.
    pub step_bias: Range<usize>,
    /// ln(-A) of every head.
    pub a_log: Range<usize>,
    /// The share of its input that every head passes on.
    pub d: Range<usize>,
    /// Scale of the normalisation of the output.
    pub norm: Range<usize>,
    /// Projection out of the block.
    pub output: Range<usize>,
}

/// Where every weight lies.
#[derive(Clone, Debug, PartialEq)]
pub struct Places {
    /// All weights, in order of their places.
    pub parameters: Vec<Parameter>,
    /// The embedding.
    pub embedding: Range<usize>,
    /// The residual blocks.
    pub blocks: Vec<BlockPlaces>,
    /// Scale after the last block.
    pub norm: Range<usize>,
    /// The output projection: the embedding's places if the two are tied.
    pub head: Range<usize>,
}

/// The parameters named so far.
#[derive(Default)]
struct Layout(Vec<Parameter>);

impl Layout {
    fn add(&mut self, name: String, shape: &[usize]) -> Range<usize> {
        let start = self.0.last().map_or(0, |last| last.places.end);
        let places = start..start + shape.iter().product::<usize>();
        self.0.push(Parameter { name, shape: shape.to_vec(), places: places.clone() });
        places
    }

    /// A projection to `outputs` elements.
    fn matrix(&mut self, prefix: &str, name: &str, outputs: usize, inputs: usize) -> Range<usize> {
        self.add(format!("{prefix}.{name}.weight"), &[outputs, inputs])
    }

    /// The scale of a normalisation.
    fn norm(&mut self, prefix: &str, name: &str, length: usize) -> Range<usize> {
        self.add(format!("{prefix}.{name}.weight"), &[length])
    }

    fn attention(&mut self, config: &Config, prefix: &str) -> MixerPlaces {
        let (hidden, heads) = (config.hidden_size, config.heads());
        let widths = [("q_proj", heads.queries), ("k_proj", heads.keys), ("v_proj", heads.keys)]
            .map(|(name, count)| (name, count * heads.dim));
        let [query, _, value] = widths.map(|(name, width)| self.matrix(prefix, name, width, hidden));
        let bias = config.has_qkv_bias().then(|| {
            let [query, _, value] =
                widths.map(|(name, width)| self.add(format!("{prefix}.{name}.bias"), &[width]));
            query.start..value.end
        });
        let head_norms = config
            .has_head_norms()
            .then(|| ["q_norm", "k_norm"].map(|name| self.norm(prefix, name, heads.dim)));
        let output = self.matrix(prefix, "o_proj", hidden, heads.out());
        MixerPlaces::Attention(AttentionPlaces { qkv: query.start..value.end, bias, head_norms, output })
    }

    fn feed(&mut self, config: &Config, inner: usize, prefix: &str) -> FeedPlaces {
        let hidden = config.hidden_size;
        let (activation, names) = match config.family() {
            Some(Family::NemotronH) => (Activation::SquaredRelu, ["up_proj", "up_proj"]),
            _ => (Activation::SwiGlu, ["gate_proj", "up_proj"]),
        };
        let first = self.matrix(prefix, names[0], inner, hidden);
        let last = match activation {
            Activation::SwiGlu => self.matrix(prefix, names[1], inner, hidden),
            Activation::SquaredRelu => first.clone(),
        };
        let down = self.matrix(prefix, "down_proj", hidden, inner);
        FeedPlaces { activation, inward: first.start..last.end, down }
    }

    fn experts(&mut self, config: &Config, options: &Experts, prefix: &str) -> MixerPlaces {
        let router = self.matrix(prefix, "gate", options.num_experts, config.hidden_size);
        let inner = options.moe_intermediate_size;
        let experts = 0..options.num_experts;
        MixerPlaces::Experts(ExpertsPlaces {
            router,
            experts: experts
                .map(|expert| self.feed(config, inner, &format!("{prefix}.experts.{expert}")))
                .collect(),
            chosen: options.num_experts_per_tok,
            adds_up_to_one: options.norm_topk_prob,
        })
    }

    fn mamba(&mut self, hidden: usize, shape: MambaShape, has_bias: bool, prefix: &str) -> MixerPlaces {
        let (heads, channels) = (&[shape.heads], shape.channels());
        MixerPlaces::Mamba(MambaPlaces {
            shape,
            inward: self.matrix(prefix, "in_proj", shape.row(), hidden),
            convolution: self.add(format!("{prefix}.conv1d.weight"), &[channels, 1, shape.kernel]),
            convolution_bias: has_bias.then(|| self.add(format!("{prefix}.conv1d.bias"), &[channels])),
            step_bias: self.add(format!("{prefix}.dt_bias"), heads),
            a_log: self.add(format!("{prefix}.A_log"), heads),
            d: self.add(format!("{prefix}.D"), heads),
            norm: self.norm(prefix, "norm", shape.inner()),
            output: self.matrix(prefix, "out_proj", hidden, shape.inner()),
        })
    }
}

/// What a family calls its parts.
struct Names {
    /// All but the head.
    model: &'static str,
    embedding: &'static str,
    norm: &'static str,
    /// The normalisation and the mixer of the blocks of a layer.
    blocks: &'static [[&'static str; 2]],
}

impl Names {
    fn of(family: Option<Family>) -> Self {
        match family {
            Some(Family::NemotronH) => Self {
                model: "backbone",
                embedding: "embeddings",
                norm: "norm_f",
                blocks: &[["norm", "mixer"]],
            },
            _ => Self {
                model: "model",
                embedding: "embed_tokens",
                norm: "norm",
                blocks: &[["input_layernorm", "self_attn"], ["post_attention_layernorm", "mlp"]],
            },
        }
    }
}

impl Places {
    /// The layout for a configuration that was checked.
    pub fn new(config: &Config) -> Self {
        let (mut layout, hidden) = (Layout::default(), config.hidden_size);
        let names = Names::of(config.family());
        let (mamba, experts) = (config.mamba(), config.experts());
        let embedding = layout.matrix(names.model, names.embedding, config.vocab_size, hidden);
        let mut blocks = Vec::new();
        for (layer, kinds) in config.layers().into_iter().enumerate() {
            for (kind, [norm, mixer]) in kinds.into_iter().zip(names.blocks) {
                let prefix = format!("{}.layers.{layer}", names.model);
                let norm = layout.norm(&prefix, norm, hidden);
                let prefix = format!("{prefix}.{mixer}");
                let mixer = match (kind, mamba, &experts) {
                    (BlockKind::Mamba, Some((shape, has_bias)), _) => {
                        layout.mamba(hidden, shape, has_bias, &prefix)
                    }
                    (BlockKind::Experts, _, Some(options)) => layout.experts(config, options, &prefix),
                    (BlockKind::Attention, ..) => layout.attention(config, &prefix),
                    _ => MixerPlaces::Feed(layout.feed(config, config.intermediate_size, &prefix)),
                };
                blocks.push(BlockPlaces { norm, mixer });
            }
        }
        let norm = layout.norm(names.model, names.norm, hidden);
        let head = if config.tie_word_embeddings {
            embedding.clone()
        } else {
            layout.add("lm_head.weight".to_owned(), &[config.vocab_size, hidden])
        };
        Self { parameters: layout.0, embedding, blocks, norm, head }
    }

    /// Number of weights.
    pub fn total(&self) -> usize {
        self.parameters.last().map_or(0, |last| last.places.end)
    }

    /// The parameters that fill `places`, which is one of this layout's ranges.
    pub fn within(&self, places: &Range<usize>) -> &[Parameter] {
        let at = |place| self.parameters.partition_point(|parameter| parameter.places.start < place);
        &self.parameters[at(places.start)..at(places.end)]
    }
}

/// Random weights: normal with the deviation usual for the family, smaller where a layer adds to the residual stream.
pub(crate) fn random(config: &Config, places: &Places, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut weights = vec![1.0; places.total()];
    for bias in places.parameters.iter().filter(|parameter| parameter.is_bias()) {
        weights[bias.places.clone()].fill(0.0);
    }
    for decay in places.parameters.iter().filter(|parameter| parameter.name.ends_with(".A_log")) {
        for (head, weight) in weights[decay.places.clone()].iter_mut().enumerate() {
            *weight = ln((head + 1) as f64) as f32;
        }
    }
    let deviation = 1.0 / (config.hidden_size as f64).sqrt();
    let residual = deviation / (2.0 * config.num_hidden_layers as f64).sqrt();
    for parameter in places.parameters.iter().filter(|parameter| parameter.is_matrix()) {
        let adds = ["o_proj.weight", "down_proj.weight", "out_proj.weight"]
            .into_iter()
            .any(|name| parameter.name.ends_with(name));
        let deviation = match parameter.shape.as_slice() {
            _ if adds => residual,
            _ if parameter.places == places.embedding => 0.02_f64.max(deviation / 4.0),
            // A convolution: few inputs for each output.
            [_, 1, kernel] => 1.0 / (*kernel as f64).sqrt(),
            _ => deviation,
        };
        for weight in &mut weights[parameter.places.clone()] {
            *weight = (normal(&mut random) * deviation) as f32;
        }
    }
    weights
}

/// A standard normal number: a sum of twelve uniform ones, which needs no library function and is exact on every machine.
fn normal(random: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| f64::from(random.next_u32()) / 4_294_967_296.0).sum::<f64>() - 6.0
}

/// The weights by name.
pub(crate) fn named<'a>(places: &Places, weights: &'a [f32]) -> BTreeMap<String, Saved<'a>> {
    let saved = |parameter: &Parameter| Saved {
        shape: parameter.shape.clone(),
        elements: &weights[parameter.places.clone()],
    };
    places.parameters.iter().map(|parameter| (parameter.name.clone(), saved(parameter))).collect()
}
