//! Running a model: sequences of any lengths advance together, each with its own cache.

mod attention;
mod cache;
mod embedding;
mod experts;
mod feed;
mod mamba;
mod projection;

use std::cell::Cell;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rayon::ThreadPool;

use super::{BlockPlaces, Config, MixerPlaces, ModelError, Places, Source, room};
use crate::device;
use crate::gguf::Blocks;
use crate::kernels::attention::Heads;
use crate::kernels::matmul::{Into, Matrix, Panels, WIDTH};
use crate::kernels::norm::rms_norm;
use crate::kernels::quantised::{Format, QuantisedPanels};
use crate::kernels::rope::Rotation;
use attention::Attention;
pub use cache::Cache;
use embedding::Embedding;
use experts::Experts;
use feed::Feed;
use mamba::Mamba;
use projection::Projection;

/// In which precision a model computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Weights that are stored in blocks of 4, 5 or 8 bits are computed with as they are, and what they are multiplied with is
    /// rounded to 8 bits, as llama.cpp does it; all else is 32-bit numbers.
    AsStored,
    /// All weights become 32-bit numbers.
    Float32,
}

/// A model on the CPU. Cheap to share between threads by reference.
#[derive(Debug)]
pub struct Decoder {
    config: Config,
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: Vec<f32>,
    head: Projection,
    rotation: Option<Rotation>,
    weight_bytes: usize,
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
    precision: Precision,
    /// Bytes that the weights read so far take in the model.
    bytes: Cell<usize>,
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

    /// Projections from the same input, packed as one: in the form they are stored in, if they all are stored in one that
    /// can be computed with, and else as 32-bit numbers.
    fn projection(&self, places: &Range<usize>) -> Result<Projection, ModelError> {
        let projection = if let Some(panels) = self.quantised(places)? {
            Projection::Blocks(panels)
        } else {
            let weights = self.vector(places)?;
            let inputs = self.places.within(places).first().map_or(1, |parameter| parameter.shape[1]);
            // A stored projection has a row per output: transposed it is the right-hand side of a product.
            let matrix = Matrix::new(&weights, weights.len() / inputs, inputs).transposed();
            Projection::Floats(Panels::new(matrix))
        };
        self.bytes.set(self.bytes.get() + projection.bytes());
        Ok(projection)
    }

    fn quantised(&self, places: &Range<usize>) -> Result<Option<QuantisedPanels>, ModelError> {
        let Some((format, blocks)) = self.blocks(places)? else { return Ok(None) };
        let rows: Vec<_> = blocks.iter().flat_map(|blocks| blocks.unpacked(format)).collect();
        Ok(Some(QuantisedPanels::new(format, blocks[0].columns, rows.into_iter())))
    }

    fn embedding(&self, places: &Range<usize>) -> Result<Embedding, ModelError> {
        let stored = self.blocks(places)?.and_then(|(_, mut blocks)| blocks.pop());
        let embedding = match stored {
            Some(Blocks { element, rows, bytes, .. }) => {
                Embedding::Blocks { element, row: bytes.len() / rows.max(1), bytes: bytes.into_owned() }
            }
            None => Embedding::Floats(self.vector(places)?),
        };
        self.bytes.set(self.bytes.get() + embedding.bytes());
        Ok(embedding)
    }

    /// The weights at `places` as they are stored, if they are to be computed with as they are and all have one format that
    /// the kernels know.
    fn blocks(&self, places: &Range<usize>) -> Result<Option<(Format, Vec<Blocks<'_>>)>, ModelError> {
        let (Source::Gguf(gguf), Precision::AsStored) = (self.source, self.precision) else {
            return Ok(None);
        };
        let parameters = self.places.within(places);
        let blocks: Vec<_> =
            parameters.iter().map(|parameter| gguf.blocks(parameter)).collect::<Result<_, _>>()?;
        let formats = || blocks.iter().map(|blocks| blocks.element.kernel_format());
        let Some(format) = formats().next().flatten() else { return Ok(None) };
        if formats().any(|other| other != Some(format)) {
            return Ok(None);
        }
        for parameter in parameters {
            // For its check alone: a scale that is no number would spoil every product.
            gguf.floats(parameter)?;
        }
        Ok(Some((format, blocks)))
    }
}

impl Decoder {
    /// Loads a model directory or a GGUF file, to compute with so many threads.
    pub fn load(path: &Path, precision: Precision, threads: usize) -> Result<Self, ModelError> {
        let (config, source) = Source::open(path)?;
        let places = Places::new(&config);
        source.check(&places)?;
        let pool = device::pool(threads)?;
        let reader = WeightReader { source: &source, places: &places, precision, bytes: Cell::new(0) };
        let own = Arc::clone(&pool);
        pool.install(move || Self::read(config, &reader, own))
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
            embedding: reader.embedding(&places.embedding)?,
            norm: reader.vector(&places.norm)?,
            head: reader.projection(&places.head)?,
            rotation: config.rotation(),
            weight_bytes: reader.bytes.get(),
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

    /// Bytes of the matrices, which are nearly all that the weights take.
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
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

    /// [`Decoder::forward`] on the current pool and in memory that is kept, for a caller that runs one model on threads of its own.
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
                self.embedding.append(token, hidden, x);
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
        self.head.apply(logits, normed, Into::Replace);
        logits
    }
}

#[cfg(test)]
mod tests;
