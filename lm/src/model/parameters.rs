//! The weights of a model in one flat slice, in an order that makes neighbouring projections one matrix.
//!
//! Query, key and value projections follow one another, and so do gate and up projections: either group is one product. Gradients
//! and optimiser moments have the same layout, so clipping, updating and saving are loops over flat slices.

use std::collections::BTreeMap;
use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::Config;
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockPlaces {
    /// Scale of the normalisation.
    pub norm: Range<usize>,
    /// What the block does.
    pub mixer: MixerPlaces,
}

/// Places of the weights between a block's normalisation and its sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MixerPlaces {
    /// Attention over the sequence.
    Attention(AttentionPlaces),
    /// A gated feed-forward block.
    Gated(GatedPlaces),
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

/// Places of the weights of a gated feed-forward block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatedPlaces {
    /// Gate and up projections.
    pub gate_up: Range<usize>,
    /// Projection out of the block.
    pub down: Range<usize>,
}

/// Where every weight lies.
#[derive(Clone, Debug, PartialEq, Eq)]
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

    fn gated(&mut self, config: &Config, prefix: &str) -> MixerPlaces {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let gate = self.matrix(prefix, "gate_proj", inner, hidden);
        let up = self.matrix(prefix, "up_proj", inner, hidden);
        let down = self.matrix(prefix, "down_proj", hidden, inner);
        MixerPlaces::Gated(GatedPlaces { gate_up: gate.start..up.end, down })
    }
}

impl Places {
    /// The layout for a configuration that was checked.
    pub fn new(config: &Config) -> Self {
        let (mut layout, hidden) = (Layout::default(), config.hidden_size);
        let embedding = layout.matrix("model", "embed_tokens", config.vocab_size, hidden);
        let mut blocks = Vec::new();
        for layer in 0..config.num_hidden_layers {
            let prefix = format!("model.layers.{layer}");
            let norm = layout.norm(&prefix, "input_layernorm", hidden);
            let mixer = layout.attention(config, &format!("{prefix}.self_attn"));
            blocks.push(BlockPlaces { norm, mixer });
            let norm = layout.norm(&prefix, "post_attention_layernorm", hidden);
            let mixer = layout.gated(config, &format!("{prefix}.mlp"));
            blocks.push(BlockPlaces { norm, mixer });
        }
        let norm = layout.norm("model", "norm", hidden);
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
    let deviation = 1.0 / (config.hidden_size as f64).sqrt();
    let residual = deviation / (2.0 * config.num_hidden_layers as f64).sqrt();
    for parameter in places.parameters.iter().filter(|parameter| parameter.is_matrix()) {
        let adds = parameter.name.ends_with("o_proj.weight") || parameter.name.ends_with("down_proj.weight");
        let deviation =
            if parameter.places == places.embedding { 0.02_f64.max(deviation / 4.0) } else { deviation };
        let deviation = if adds { residual } else { deviation };
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
