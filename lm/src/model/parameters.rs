//! The weights of a model in one flat slice, in an order that makes neighbouring projections one matrix.
//!
//! Query, key and value projections follow one another, and so do gate and up projections: either group is one product. Gradients
//! and optimiser moments have the same layout, so clipping, updating and saving are loops over flat slices.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::{Config, ModelError};
use crate::weights::{Saved, Weights};

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
    /// Whether this is a matrix: the others are the scales of normalisations.
    pub fn is_matrix(&self) -> bool {
        self.shape.len() > 1
    }
}

/// Places of the weights of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerPlaces {
    /// Scale before attention.
    pub attention_norm: Range<usize>,
    /// Query, key and value projections.
    pub qkv: Range<usize>,
    /// Projection out of attention.
    pub output: Range<usize>,
    /// Scale before the feed-forward block.
    pub feed_norm: Range<usize>,
    /// Gate and up projections.
    pub gate_up: Range<usize>,
    /// Projection out of the feed-forward block.
    pub down: Range<usize>,
}

/// Where every weight lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// All weights, in order of their places.
    pub parameters: Vec<Parameter>,
    /// The embedding.
    pub embedding: Range<usize>,
    /// The layers.
    pub layers: Vec<LayerPlaces>,
    /// Scale after the last layer.
    pub norm: Range<usize>,
    /// The output projection: the embedding's places if the two are tied.
    pub head: Range<usize>,
}

impl Places {
    /// The layout for a configuration.
    pub fn new(config: &Config) -> Self {
        let heads = config.heads();
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let mut parameters: Vec<Parameter> = Vec::new();
        let mut add = |name: String, shape: &[usize]| {
            let start = parameters.last().map_or(0, |last| last.places.end);
            let places = start..start + shape.iter().product::<usize>();
            parameters.push(Parameter { name, shape: shape.to_vec(), places: places.clone() });
            places
        };
        let embedding = add("model.embed_tokens.weight".to_owned(), &[config.vocab_size, hidden]);
        let layers = (0..config.num_hidden_layers)
            .map(|layer| {
                let mut add =
                    |name: &str, shape: &[usize]| add(format!("model.layers.{layer}.{name}.weight"), shape);
                let attention_norm = add("input_layernorm", &[hidden]);
                let query = add("self_attn.q_proj", &[heads.out(), hidden]);
                add("self_attn.k_proj", &[heads.keys * heads.dim, hidden]);
                let value = add("self_attn.v_proj", &[heads.keys * heads.dim, hidden]);
                let output = add("self_attn.o_proj", &[hidden, heads.out()]);
                let feed_norm = add("post_attention_layernorm", &[hidden]);
                let gate = add("mlp.gate_proj", &[inner, hidden]);
                let up = add("mlp.up_proj", &[inner, hidden]);
                let down = add("mlp.down_proj", &[hidden, inner]);
                LayerPlaces {
                    attention_norm,
                    qkv: query.start..value.end,
                    output,
                    feed_norm,
                    gate_up: gate.start..up.end,
                    down,
                }
            })
            .collect();
        let norm = add("model.norm.weight".to_owned(), &[hidden]);
        let head = if config.tie_word_embeddings {
            embedding.clone()
        } else {
            add("lm_head.weight".to_owned(), &[config.vocab_size, hidden])
        };
        Self { parameters, embedding, layers, norm, head }
    }

    /// Number of weights.
    pub fn total(&self) -> usize {
        self.parameters.last().map_or(0, |last| last.places.end)
    }
}

/// Random weights: normal with the deviation usual for the family, smaller where a layer adds to the residual stream.
pub(crate) fn random(config: &Config, places: &Places, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut weights = vec![1.0; places.total()];
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

/// Reads the weights of a model directory, of any floating-point type, in one file or several.
pub(crate) fn load(dir: &Path, places: &Places) -> Result<Vec<f32>, ModelError> {
    let stored = Weights::open(dir)?;
    let mut weights = Vec::with_capacity(places.total());
    for parameter in &places.parameters {
        weights.extend(stored.floats(&parameter.name, &parameter.shape)?);
    }
    Ok(weights)
}

/// The weights by name.
pub(crate) fn named<'a>(places: &Places, weights: &'a [f32]) -> BTreeMap<String, Saved<'a>> {
    let saved = |parameter: &Parameter| Saved {
        shape: parameter.shape.clone(),
        elements: &weights[parameter.places.clone()],
    };
    places.parameters.iter().map(|parameter| (parameter.name.clone(), saved(parameter))).collect()
}
