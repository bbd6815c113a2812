//! Running a model for training: forward, keeping what the way back needs, and backward, accumulating gradients.
//!
//! The gradient of a weight continues one chain of additions over the tokens, so cutting a batch into passes does not change
//! what a projection's gradient is.

mod attention;
mod feed;
mod mamba;

use std::ops::Range;

use super::{BlockPlaces, Config, MixerPlaces, ModelError, Places, room};
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

/// Everything that one pass keeps; its buffers are used again by the next.
#[derive(Debug)]
pub(crate) struct Tape {
    places: Places,
    shape: Shape,
    blocks: Vec<BlockTape>,
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

/// What one block keeps.
#[derive(Debug)]
struct BlockTape {
    norm: Range<usize>,
    /// The residual stream before the block.
    before: Vec<f32>,
    scales: Vec<f32>,
    normed: Vec<f32>,
    mixer: MixerTape,
}

/// What a mixer keeps.
#[derive(Debug)]
enum MixerTape {
    Attention(AttentionTape),
    Feed(FeedTape),
    Mamba(MambaTape),
}

/// Gradients inside a mixer on the way back.
#[derive(Debug, Default)]
struct Scratch {
    inner: Vec<f32>,
    outer: Vec<f32>,
}

/// One way back through a mixer.
struct Backward<'a> {
    weights: &'a [f32],
    /// What the mixer read.
    normed: &'a [f32],
    /// The gradient of what it added to the stream.
    gradient: &'a [f32],
    /// The gradient of `normed`, to be written.
    normed_gradient: &'a mut [f32],
    /// The gradients of all weights, to be added to.
    gradients: &'a mut [f32],
    scratch: &'a mut Scratch,
}

/// `to = x · weightᵀ`, the weight stored with a row per output.
fn project(to: &mut [f32], x: &[f32], weight: &[f32], rows: usize, into: Into) {
    let (inputs, outputs) = (x.len() / rows, to.len() / rows);
    matmul(to, Matrix::new(x, rows, inputs), Matrix::new(weight, outputs, inputs).transposed(), into);
}

/// The way back through [`project`]: the gradient of `x`, and that of the weight added to what is there.
pub(crate) fn project_backward(
    x_gradient: &mut [f32],
    weight_gradient: &mut [f32],
    gradient: &[f32],
    x: &[f32],
    weight: &[f32],
    rows: usize,
) {
    let (inputs, outputs) = (x.len() / rows, gradient.len() / rows);
    let gradient = Matrix::new(gradient, rows, outputs);
    matmul(weight_gradient, gradient.transposed(), Matrix::new(x, rows, inputs), Into::Accumulate);
    matmul(x_gradient, gradient, Matrix::new(weight, outputs, inputs), Into::Replace);
}

impl Tape {
    /// A tape for a model all of whose blocks can be trained.
    pub(crate) fn new(config: &Config, places: &Places) -> Result<Self, ModelError> {
        let block = |block: &BlockPlaces| {
            let mixer = match &block.mixer {
                MixerPlaces::Attention(places) => MixerTape::Attention(AttentionTape::new(places)),
                MixerPlaces::Feed(places) => MixerTape::Feed(FeedTape::new(places)),
                MixerPlaces::Mamba(places) => MixerTape::Mamba(MambaTape::new(places)),
                MixerPlaces::Experts(_) => {
                    return Err(ModelError::Unsupported {
                        what: "training of mixtures of experts".to_owned(),
                    });
                }
            };
            let norm = block.norm.clone();
            Ok(BlockTape { norm, before: Vec::new(), scales: Vec::new(), normed: Vec::new(), mixer })
        };
        Ok(Self {
            blocks: places.blocks.iter().map(block).collect::<Result<_, _>>()?,
            places: places.clone(),
            shape: Shape {
                hidden: config.hidden_size,
                heads: config.heads(),
                epsilon: config.rms_norm_eps as f32,
                rotation: config.rotation(),
            },
            last: Vec::new(),
            scales: Vec::new(),
            normed: Vec::new(),
            normed_gradient: Vec::new(),
            stream: Vec::new(),
            narrow: Vec::new(),
            scratch: Scratch::default(),
        })
    }

    /// Fills [`Tape::normed`] and everything that [`Tape::backward`] needs.
    pub(crate) fn forward(&mut self, weights: &[f32], batch: &Batch) {
        let Self { places, shape, last, .. } = self;
        let (rows, hidden) = (batch.inputs.len(), shape.hidden);
        let embedding = &weights[places.embedding.clone()];
        for (row, &token) in room(last, rows * hidden).chunks_exact_mut(hidden).zip(&batch.inputs) {
            row.copy_from_slice(&embedding[token as usize * hidden..][..hidden]);
        }
        for tape in &mut self.blocks {
            std::mem::swap(&mut tape.before, last);
            last.clone_from(&tape.before);
            let normed = room(&mut tape.normed, rows * hidden);
            let scales = room(&mut tape.scales, rows);
            rms_norm(&tape.before, at(weights, &tape.norm), shape.epsilon, normed, scales);
            match &mut tape.mixer {
                MixerTape::Attention(tape) => tape.forward(shape, weights, batch, normed, last),
                MixerTape::Feed(tape) => tape.forward(weights, normed, rows, last),
                MixerTape::Mamba(tape) => tape.forward(weights, batch, shape.epsilon, normed, last),
            }
        }
        let normed = room(&mut self.normed, rows * hidden);
        let scales = room(&mut self.scales, rows);
        rms_norm(last, at(weights, &places.norm), shape.epsilon, normed, scales);
    }

    /// Adds the gradients of all weights below the head, given [`Tape::normed_gradient`]. Undoes the activations on the way.
    pub(crate) fn backward(&mut self, weights: &[f32], batch: &Batch, gradients: &mut [f32]) {
        let Self { places, shape, blocks, stream, narrow, scratch, .. } = self;
        let (rows, hidden) = (batch.inputs.len(), shape.hidden);
        stream.clear();
        stream.resize(rows * hidden, 0.0);
        let norm = places.norm.clone();
        let to = &mut gradients[norm.clone()];
        rms_norm_backward(&self.last, &weights[norm], &self.scales, &self.normed_gradient, stream, to);
        for tape in blocks.iter_mut().rev() {
            let back = Backward {
                weights,
                normed: &tape.normed,
                gradient: stream,
                normed_gradient: room(narrow, rows * hidden),
                gradients,
                scratch,
            };
            match &mut tape.mixer {
                MixerTape::Attention(tape) => tape.backward(shape, batch, back),
                MixerTape::Feed(tape) => tape.backward(rows, back),
                MixerTape::Mamba(tape) => tape.backward(batch, back),
            }
            let to = &mut gradients[tape.norm.clone()];
            rms_norm_backward(&tape.before, at(weights, &tape.norm), &tape.scales, narrow, stream, to);
        }
        let to = &mut gradients[places.embedding.clone()];
        for (row, &token) in stream.chunks_exact(hidden).zip(&batch.inputs) {
            for (to, gradient) in to[token as usize * hidden..][..hidden].iter_mut().zip(row) {
                *to += gradient;
            }
        }
    }
}

/// The weights at `places`.
fn at<'a>(weights: &'a [f32], places: &Range<usize>) -> &'a [f32] {
    &weights[places.clone()]
}
