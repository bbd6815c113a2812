//! Running a model: sequences of any lengths advance together, each with its own cache.

mod attention;
mod cache;
mod experts;
mod feed;
mod mamba;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rayon::ThreadPool;

use super::{BlockPlaces, Config, MixerPlaces, ModelError, Places, Source, room};
use crate::device::Device;
use crate::kernels::attention::Heads;
use crate::kernels::matmul::{Into, Matrix, Panels, WIDTH, matmul_packed};
use crate::kernels::norm::rms_norm;
use crate::kernels::rope::Rotation;
use attention::Attention;
pub use cache::Cache;
use experts::Experts;
use feed::Feed;
use mamba::Mamba;

/// A model ready to run on the CPU. Cheap to share between threads by reference.
#[derive(Debug)]
pub struct Model {
    config: Config,
    embedding: Vec<f32>,
    blocks: Vec<Block>,
    norm: Vec<f32>,
    head: Panels,
    rotation: Option<Rotation>,
    pool: Arc<ThreadPool>,
}

/// A residual block: the mixer reads the normalised stream and adds to it.
#[derive(Debug)]
struct Block {
    norm: Vec<f32>,
    mixer: Mixer,
}

/// What a block does.
#[derive(Debug)]
enum Mixer {
    Attention(Attention),
    Feed(Feed),
    Experts(Experts),
    Mamba(Mamba),
}

/// New tokens of one sequence.
#[derive(Debug)]
pub struct Turn<'a> {
    /// What the sequence holds already; grows by the tokens.
    pub cache: &'a mut Cache,
    /// At least one token.
    pub tokens: &'a [u32],
}

/// One pass of tokens through all blocks.
struct Pass<'a> {
    hidden: usize,
    heads: Heads,
    epsilon: f32,
    rotation: Option<&'a Rotation>,
    /// The position of every row in its sequence.
    positions: &'a [u32],
    /// Where the rows of each turn end.
    ends: &'a [usize],
}

/// The memory of passes, kept from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    positions: Vec<u32>,
    ends: Vec<usize>,
    /// The stream, a row per token.
    x: Vec<f32>,
    normed: Vec<f32>,
    scales: Vec<f32>,
    scratch: Scratch,
    last: Vec<f32>,
    logits: Vec<f32>,
}

/// Buffers that the blocks of a pass use one after the other.
#[derive(Debug, Default)]
struct Scratch {
    inner: Vec<f32>,
    outer: Vec<f32>,
    scales: Vec<f32>,
}

/// Weights on their way from a file into a model: one at a time, so that loading takes little more memory than the model.
struct WeightReader<'a> {
    source: &'a Source,
    places: &'a Places,
}

impl WeightReader<'_> {
    /// The weights at `places`, one parameter after the other.
    fn vector(&self, places: &Range<usize>) -> Result<Vec<f32>, ModelError> {
        let mut weights = Vec::with_capacity(places.len());
        for parameter in self.places.within(places) {
            weights.extend(self.source.read(parameter)?);
        }
        Ok(weights)
    }

    /// Projections from the same input, packed as one.
    fn panels(&self, places: &Range<usize>) -> Result<Panels, ModelError> {
        let weights = self.vector(places)?;
        let inputs = self.places.within(places).first().map_or(1, |parameter| parameter.shape[1]);
        // A stored projection has a row per output: transposed it is the right-hand side of a product.
        Ok(Panels::new(Matrix::new(&weights, weights.len() / inputs, inputs).transposed()))
    }
}

impl Model {
    /// Loads a model directory, or a GGUF file, whose weights are widened to 32 bits.
    pub fn load(path: &Path, device: &Device) -> Result<Self, ModelError> {
        if let Device::Cuda(ordinal) = device {
            return Err(ModelError::Device(format!("generation on CUDA device {ordinal}")));
        }
        let (config, source) = Source::open(path)?;
        let places = Places::new(&config);
        source.check(&places)?;
        let pool = device.pool()?;
        let reader = WeightReader { source: &source, places: &places };
        pool.install(|| Self::read(config, &reader, Arc::clone(&pool)))
    }

    fn read(config: Config, reader: &WeightReader<'_>, pool: Arc<ThreadPool>) -> Result<Self, ModelError> {
        let places = reader.places;
        let (mut attention_layers, mut mamba_layers) = (0.., 0..);
        let block = |block: &BlockPlaces| {
            let mixer = match &block.mixer {
                MixerPlaces::Attention(places) => {
                    let layer = attention_layers.next().unwrap_or_default();
                    Mixer::Attention(Attention::read(reader, places, layer)?)
                }
                MixerPlaces::Feed(places) => Mixer::Feed(Feed::read(reader, places)?),
                MixerPlaces::Experts(places) => Mixer::Experts(Experts::read(reader, places)?),
                MixerPlaces::Mamba(places) => {
                    let layer = mamba_layers.next().unwrap_or_default();
                    Mixer::Mamba(Mamba::read(reader, places, layer)?)
                }
            };
            Ok(Block { norm: reader.vector(&block.norm)?, mixer })
        };
        Ok(Self {
            blocks: places.blocks.iter().map(block).collect::<Result<_, ModelError>>()?,
            embedding: reader.vector(&places.embedding)?,
            norm: reader.vector(&places.norm)?,
            head: reader.panels(&places.head)?,
            rotation: config.rotation(),
            config,
            pool,
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// An empty cache for one sequence.
    pub fn cache(&self) -> Cache {
        let cache = Cache::new(self.attention_layers(), self.config.heads());
        match self.config.mamba() {
            Some((shape, _)) => cache.with_states(self.mamba_layers(), shape),
            None => cache,
        }
    }

    /// Bytes of all weights.
    pub(crate) fn weight_bytes(&self) -> usize {
        Places::new(&self.config).total() * size_of::<f32>()
    }

    fn mamba_layers(&self) -> usize {
        self.blocks.iter().filter(|block| matches!(block.mixer, Mixer::Mamba(_))).count()
    }

    fn attention_layers(&self) -> usize {
        self.blocks.iter().filter(|block| matches!(block.mixer, Mixer::Attention(_))).count()
    }

    /// Bytes that the cache of a sequence takes with room for so many tokens.
    pub fn cache_bytes(&self, tokens: usize) -> usize {
        let heads = self.config.heads();
        // Keys are panels of tokens, values panels of elements: both are rounded up.
        let tokens = tokens.next_multiple_of(WIDTH);
        let per_token =
            self.attention_layers() * heads.keys * (heads.dim + heads.dim.next_multiple_of(WIDTH));
        let mamba = self.config.mamba();
        let states = mamba.map_or(0, |(shape, _)| self.mamba_layers() * (shape.states() + shape.history()));
        (tokens * per_token + states) * size_of::<f32>()
    }

    /// Appends each turn's tokens to its sequence and returns the logits after its last token, one row of the vocabulary per turn.
    ///
    /// A row depends on its own sequence only: the other turns, the split of a sequence into turns and the number of threads
    /// leave its bytes as they are.
    ///
    /// # Panics
    /// If a turn has no token, a token is not in the vocabulary, or a sequence outgrows [`Config::context`].
    pub fn forward(&self, turns: &mut [Turn<'_>]) -> Vec<f32> {
        let mut workspace = Workspace::default();
        self.pool.install(|| self.forward_here(turns, &mut workspace));
        workspace.logits
    }

    /// [`Model::forward`] on the current pool and in memory that is kept, for a caller that runs one model on threads of its own.
    pub(crate) fn forward_here<'a>(&self, turns: &mut [Turn<'_>], workspace: &'a mut Workspace) -> &'a [f32] {
        let hidden = self.config.hidden_size;
        let Workspace { positions, ends, x, normed, scales, scratch, last, logits } = workspace;
        positions.clear();
        ends.clear();
        x.clear();
        for turn in turns.iter_mut() {
            assert!(!turn.tokens.is_empty(), "a turn has at least one token");
            let end = turn.cache.len() + turn.tokens.len();
            assert!(end <= self.config.context(), "the sequence outgrows the model's context");
            turn.cache.reserve_more(turn.tokens.len());
            positions.extend((turn.cache.len()..end).map(|position| position as u32));
            for &token in turn.tokens {
                x.extend_from_slice(&self.embedding[token as usize * hidden..][..hidden]);
            }
            ends.push(positions.len());
        }
        let pass = Pass {
            hidden,
            heads: self.config.heads(),
            epsilon: self.config.rms_norm_eps as f32,
            rotation: self.rotation.as_ref(),
            positions,
            ends,
        };
        let scales = room(scales, positions.len());
        for Block { norm, mixer } in &self.blocks {
            let normed = room(normed, x.len());
            rms_norm(x, norm, pass.epsilon, normed, scales);
            match mixer {
                Mixer::Attention(attention) => attention.add(&pass, turns, normed, x, scratch),
                Mixer::Feed(feed) => feed.add(&pass, normed, x, scratch),
                Mixer::Experts(experts) => experts.add(&pass, normed, x, scratch),
                Mixer::Mamba(mamba) => mamba.add(&pass, turns, normed, x, scratch),
            }
        }
        for turn in turns.iter_mut() {
            turn.cache.grow(turn.tokens.len());
        }
        last.clear();
        for end in &*ends {
            last.extend_from_slice(&x[(end - 1) * hidden..end * hidden]);
        }
        let normed = room(normed, last.len());
        rms_norm(last, &self.norm, pass.epsilon, normed, &mut scales[..turns.len()]);
        let logits = room(logits, turns.len() * self.config.vocab_size);
        matmul_packed(logits, Matrix::new(normed, turns.len(), hidden), &self.head, Into::Replace);
        logits
    }
}

#[cfg(test)]
mod tests;
