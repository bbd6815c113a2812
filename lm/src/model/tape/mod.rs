//! Running a model for training: forward, keeping what the way back needs, and backward, accumulating gradients.
//!
//! A block keeps the residual stream before it and what its mixer computed, some fifteen times as much. For long packs that is
//! too much: then only the stream before every [`SEGMENT`] blocks is kept, and on the way back a segment is computed again from
//! there ([`Recompute`]). It is the same computation on the same numbers, so it changes no bit.
//!
//! The gradient of a weight continues one chain of additions over the tokens, so cutting a batch into passes does not change
//! what a projection's gradient is.

mod attention;
mod feed;
mod mamba;

use std::ops::Range;

use super::{Adapters, BlockPlaces, Config, MixerPlaces, ModelError, Places, room};
use crate::kernels::attention::Heads;
use crate::kernels::matmul::{Into, Matrix, matmul};
use crate::kernels::norm::{rms_norm, rms_norm_backward};
use crate::kernels::rope::Rotation;
use attention::AttentionTape;
use feed::FeedTape;
use mamba::MambaTape;

/// Samples laid end to end, without padding.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    /// The tokens that are read.
    pub(crate) inputs: Vec<u32>,
    /// Where each stands in its sample.
    pub(crate) positions: Vec<u32>,
    /// The end of each sample.
    pub(crate) bounds: Vec<usize>,
    /// Rows whose next token is learned, and that token.
    pub(crate) labels: Vec<(usize, u32)>,
}

/// Blocks computed again together: a layer of the Llama family.
const SEGMENT: usize = 2;

/// Activations of one pass that [`Recompute::Auto`] keeps, in bytes; above that it computes them again.
const KEPT: usize = 2 << 30;

/// Whether activations are kept for the way back or computed again there: less memory for about a quarter more time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recompute {
    /// All are kept.
    Never,
    /// All but the last segment's are computed again.
    Always,
    /// They are kept where they are few.
    #[default]
    Auto,
}

/// Everything that one pass keeps; its buffers are used again by the next.
#[derive(Debug)]
pub(crate) struct Tape {
    places: Places,
    shape: Shape,
    pub(crate) recompute: Recompute,
    /// What the blocks of one segment keep: the last one's after [`Tape::forward`].
    blocks: Vec<BlockTape>,
    /// The residual stream before every segment but the last.
    starts: Vec<Vec<f32>>,
    /// The residual stream after the last block.
    last: Vec<f32>,
    scales: Vec<f32>,
    /// The same, normalised: what the head reads.
    pub(crate) normed: Vec<f32>,
    /// The gradient of `normed`, for the caller to fill.
    pub(crate) normed_gradient: Vec<f32>,
    /// The gradient of the residual stream on the way back.
    stream: Vec<f32>,
    /// The gradient of what a mixer reads.
    narrow: Vec<f32>,
    scratch: Scratch,
}

/// What the mixers of all blocks need to know.
#[derive(Debug)]
struct Shape {
    hidden: usize,
    heads: Heads,
    epsilon: f32,
    /// Of queries and keys by their positions, if they are turned.
    rotation: Option<Rotation>,
}

/// What one block keeps. Blocks of several kinds may take turns in one of these; each uses the part of its kind.
#[derive(Debug, Default)]
struct BlockTape {
    /// The residual stream before the block.
    before: Vec<f32>,
    scales: Vec<f32>,
    normed: Vec<f32>,
    attention: AttentionTape,
    feed: FeedTape,
    mamba: MambaTape,
}

impl BlockTape {
    /// Computes the block up to what it adds to the stream.
    fn forward(&mut self, block: &BlockPlaces, shape: &Shape, weights: Weights<'_>, batch: &Batch) {
        let rows = batch.inputs.len();
        let normed = room(&mut self.normed, rows * shape.hidden);
        let scales = room(&mut self.scales, rows);
        rms_norm(&self.before, weights.at(&block.norm), shape.epsilon, normed, scales);
        match &block.mixer {
            MixerPlaces::Attention(places) => self.attention.forward(places, shape, weights, batch, normed),
            MixerPlaces::Feed(places) => self.feed.forward(places, weights, normed, rows),
            MixerPlaces::Mamba(places) => self.mamba.forward(places, weights, batch, shape.epsilon, normed),
            MixerPlaces::Experts(_) => unreachable!("`Tape::new` refuses mixtures of experts"),
        }
    }

    /// Adds what the block gave to the stream.
    fn add(&self, block: &BlockPlaces, weights: Weights<'_>, rows: usize, stream: &mut [f32]) {
        match &block.mixer {
            MixerPlaces::Attention(places) => self.attention.add(places, weights, rows, stream),
            MixerPlaces::Feed(places) => self.feed.add(places, weights, rows, stream),
            MixerPlaces::Mamba(places) => self.mamba.add(places, weights, rows, stream),
            MixerPlaces::Experts(_) => unreachable!("`Tape::new` refuses mixtures of experts"),
        }
    }
}

/// Gradients inside a mixer on the way back.
#[derive(Debug, Default)]
struct Scratch {
    inner: Vec<f32>,
    outer: Vec<f32>,
}

/// One way back through a mixer.
struct Backward<'a, 'g> {
    weights: Weights<'a>,
    /// What the mixer read.
    normed: &'a [f32],
    /// The gradient of what it added to the stream.
    gradient: &'a [f32],
    /// The gradient of `normed`, to be written.
    normed_gradient: &'a mut [f32],
    /// The gradients of all weights, to be added to.
    gradients: &'a mut Gradients<'g>,
    scratch: &'a mut Scratch,
}

/// The weights that a pass reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights<'a> {
    /// Those of the model.
    pub(crate) values: &'a [f32],
    /// What is trained beside them, if they themselves are not.
    pub(crate) adapters: Option<&'a Adapters>,
}

impl<'a> Weights<'a> {
    /// The weights at `places`.
    fn at(self, places: &Range<usize>) -> &'a [f32] {
        &self.values[places.clone()]
    }

    /// `to = x · weightᵀ`, the weight stored with a row per output; and what its adapters add.
    fn project(self, to: &mut [f32], x: &[f32], places: &Range<usize>, rows: usize, into: Into) {
        let (inputs, outputs) = (x.len() / rows, to.len() / rows);
        let weight = Matrix::new(self.at(places), outputs, inputs);
        matmul(to, Matrix::new(x, rows, inputs), weight.transposed(), into);
        if let Some(adapters) = self.adapters {
            adapters.forward(places, to, x, rows);
        }
    }
}

/// Where a pass adds the gradients of what is trained.
#[derive(Debug)]
pub(crate) enum Gradients<'a> {
    /// All weights, at the places of the weights.
    All(&'a mut [f32]),
    /// Adapters only, at the places of the adapters' values.
    Adapters {
        to: &'a mut [f32],
        /// For gradients of frozen vectors: kernels that give one give it with that of their input. Nobody reads it.
        unused: Vec<f32>,
    },
}

impl Gradients<'_> {
    /// Where to add the gradient of the weights at `places`: vectors and convolutions, which have no adapters.
    fn of(&mut self, places: &Range<usize>) -> &mut [f32] {
        match self {
            Self::All(all) => &mut all[places.clone()],
            Self::Adapters { unused, .. } => room(unused, places.len()),
        }
    }

    /// Where to add the gradient of a matrix that has no adapter, if it is trained.
    pub(crate) fn of_matrix(&mut self, places: &Range<usize>) -> Option<&mut [f32]> {
        match self {
            Self::All(all) => Some(&mut all[places.clone()]),
            Self::Adapters { .. } => None,
        }
    }

    /// The way back through [`Weights::project`]: the gradient of `x`, and that of what is trained added to what is there.
    fn project_backward(
        &mut self,
        weights: Weights<'_>,
        places: &Range<usize>,
        x_gradient: &mut [f32],
        gradient: &[f32],
        x: &[f32],
        rows: usize,
    ) {
        let (inputs, outputs) = (x.len() / rows, gradient.len() / rows);
        let of_output = Matrix::new(gradient, rows, outputs);
        if let Self::All(all) = self {
            let to = &mut all[places.clone()];
            matmul(to, of_output.transposed(), Matrix::new(x, rows, inputs), Into::Accumulate);
        }
        matmul(x_gradient, of_output, Matrix::new(weights.at(places), outputs, inputs), Into::Replace);
        if let (Self::Adapters { to, .. }, Some(adapters)) = (self, weights.adapters) {
            adapters.backward(places, x_gradient, gradient, x, rows, to);
        }
    }
}

impl Tape {
    /// A tape for a model all of whose blocks can be trained.
    pub(crate) fn new(config: &Config, places: &Places) -> Result<Self, ModelError> {
        if places.blocks.iter().any(|block| matches!(block.mixer, MixerPlaces::Experts(_))) {
            return Err(ModelError::Unsupported { what: "training of mixtures of experts".to_owned() });
        }
        Ok(Self {
            places: places.clone(),
            shape: Shape {
                hidden: config.hidden_size,
                heads: config.heads(),
                epsilon: config.rms_norm_eps as f32,
                rotation: config.rotation(),
            },
            recompute: Recompute::default(),
            blocks: Vec::new(),
            starts: Vec::new(),
            last: Vec::new(),
            scales: Vec::new(),
            normed: Vec::new(),
            normed_gradient: Vec::new(),
            stream: Vec::new(),
            narrow: Vec::new(),
            scratch: Scratch::default(),
        })
    }

    /// Numbers that all blocks keep per token, if all are kept.
    fn width(&self) -> usize {
        let Self { shape, .. } = self;
        let mixer = |block: &BlockPlaces| match &block.mixer {
            MixerPlaces::Attention(places) => AttentionTape::width(places, shape.heads),
            MixerPlaces::Feed(places) => FeedTape::width(places, shape.hidden),
            MixerPlaces::Mamba(places) => MambaTape::width(places),
            MixerPlaces::Experts(_) => 0,
        };
        self.places.blocks.iter().map(|block| 2 * shape.hidden + 1 + mixer(block)).sum()
    }

    /// Makes room for the segments of a pass: one of all blocks, where nothing is computed again.
    fn cut(&mut self, rows: usize) {
        let blocks = self.places.blocks.len();
        let again = match self.recompute {
            Recompute::Never => false,
            Recompute::Always => true,
            Recompute::Auto => rows * self.width() * size_of::<f32>() > KEPT,
        };
        let segment = if again { SEGMENT.min(blocks) } else { blocks };
        self.blocks.resize_with(segment, BlockTape::default);
        self.starts.resize_with(blocks.div_ceil(segment.max(1)).saturating_sub(1), Vec::new);
    }

    /// Fills [`Tape::normed`] and everything that [`Tape::backward`] needs.
    pub(crate) fn forward(&mut self, weights: Weights<'_>, batch: &Batch) {
        self.cut(batch.inputs.len());
        let Self { places, shape, blocks: tapes, starts, last, .. } = self;
        let (rows, hidden) = (batch.inputs.len(), shape.hidden);
        let embedding = weights.at(&places.embedding);
        for (row, &token) in room(last, rows * hidden).chunks_exact_mut(hidden).zip(&batch.inputs) {
            row.copy_from_slice(&embedding[token as usize * hidden..][..hidden]);
        }
        for (segment, blocks) in places.blocks.chunks(tapes.len().max(1)).enumerate() {
            if segment > 0 {
                std::mem::swap(&mut starts[segment - 1], &mut tapes[0].before);
            }
            for (block, tape) in blocks.iter().zip(tapes.iter_mut()) {
                std::mem::swap(&mut tape.before, last);
                last.clone_from(&tape.before);
                tape.forward(block, shape, weights, batch);
                tape.add(block, weights, rows, last);
            }
        }
        let normed = room(&mut self.normed, rows * hidden);
        let scales = room(&mut self.scales, rows);
        rms_norm(last, weights.at(&places.norm), shape.epsilon, normed, scales);
    }

    /// Adds the gradients of all weights below the head, given [`Tape::normed_gradient`]. Undoes the activations on the way.
    pub(crate) fn backward(&mut self, weights: Weights<'_>, batch: &Batch, gradients: &mut Gradients<'_>) {
        let Self { places, shape, blocks: tapes, starts, stream, narrow, scratch, .. } = self;
        let (rows, hidden) = (batch.inputs.len(), shape.hidden);
        stream.clear();
        stream.resize(rows * hidden, 0.0);
        let (norm, to) = (weights.at(&places.norm), gradients.of(&places.norm));
        rms_norm_backward(&self.last, norm, &self.scales, &self.normed_gradient, stream, to);
        for (segment, blocks) in places.blocks.chunks(tapes.len().max(1)).enumerate().rev() {
            if let Some(start) = starts.get_mut(segment) {
                std::mem::swap(start, &mut tapes[0].before);
                again(blocks, tapes, shape, weights, batch);
            }
            for (block, tape) in blocks.iter().zip(tapes.iter_mut()).rev() {
                let back = Backward {
                    weights,
                    normed: &tape.normed,
                    gradient: stream,
                    normed_gradient: room(narrow, rows * hidden),
                    gradients,
                    scratch,
                };
                match &block.mixer {
                    MixerPlaces::Attention(places) => tape.attention.backward(places, shape, batch, back),
                    MixerPlaces::Feed(places) => tape.feed.backward(places, rows, back),
                    MixerPlaces::Mamba(places) => tape.mamba.backward(places, batch, back),
                    MixerPlaces::Experts(_) => unreachable!("`Tape::new` refuses mixtures of experts"),
                }
                let to = gradients.of(&block.norm);
                rms_norm_backward(&tape.before, weights.at(&block.norm), &tape.scales, narrow, stream, to);
            }
        }
        let Some(to) = gradients.of_matrix(&places.embedding) else { return };
        for (row, &token) in stream.chunks_exact(hidden).zip(&batch.inputs) {
            for (to, gradient) in to[token as usize * hidden..][..hidden].iter_mut().zip(row) {
                *to += gradient;
            }
        }
    }
}

/// Computes a segment again, from the stream before its first block.
fn again(
    blocks: &[BlockPlaces],
    tapes: &mut [BlockTape],
    shape: &Shape,
    weights: Weights<'_>,
    batch: &Batch,
) {
    for (index, block) in blocks.iter().enumerate() {
        let (done, left) = tapes.split_at_mut(index + 1);
        let tape = &mut done[index];
        tape.forward(block, shape, weights, batch);
        if let Some(next) = left.first_mut().filter(|_| index + 1 < blocks.len()) {
            next.before.clone_from(&tape.before);
            tape.add(block, weights, batch.inputs.len(), &mut next.before);
        }
    }
}
