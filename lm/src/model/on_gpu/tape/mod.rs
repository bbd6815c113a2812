//! Running a model for training on a GPU: forward, keeping what the way back needs, and backward, making gradients.
//!
//! As on the CPU, but that weights and activations are elements; the residual stream, its gradient and all sums are 32-bit floats.
//! What one product on the way back overwrites, the next step makes again where it has all it needs in registers: what a mixer read
//! from its normalisation, what an activation gave from its input. So neither is kept. Where memory is short, whole blocks are
//! computed again ([`Recompute`]); it is the same computation on the same numbers, so it changes no bit.

mod adapters;
mod batch;
mod mamba;
mod pass;

use std::ops::Range;

pub(crate) use adapters::AdaptersThere;

use self::batch::Laid;
use self::pass::{Keep, Kept, KeptMixer, Pass, SEGMENT, Shape, Size};
use crate::gpu::arena::Arena;
use crate::gpu::attention::{Attention, Samples};
use crate::gpu::driver::{Gpu, GpuError};
use crate::gpu::training::heads::HeadSteps;
use crate::gpu::training::loss::{Head, HeadBackward, Labels};
use crate::gpu::training::mamba::{self as kernels, Chunks, MambaSteps, VECTORS};
use crate::gpu::training::products::{self, Matrix, To};
use crate::gpu::training::steps::{NormBackward, Steps, Sum};
use crate::gpu::{Buffer, Element, View, stream};
use crate::kernels::rope::Turn;
use crate::model::{
    AttentionPlaces, Batch, BlockPlaces, Config, FeedPlaces, MixerPlaces, ModelError, Places, Recompute,
};

/// Refuses a model for which kernels are missing.
pub(crate) fn check(config: &Config, places: &Places) -> Result<(), ModelError> {
    let refuse = |what: String| Err(ModelError::Unsupported { what: format!("training of {what} on a GPU") });
    for block in &places.blocks {
        match block.mixer {
            MixerPlaces::Experts(_) => return refuse("mixtures of experts".to_owned()),
            MixerPlaces::Mamba(ref places) => kernels::check(places.shape).or_else(refuse)?,
            MixerPlaces::Attention(_) | MixerPlaces::Feed(_) => {}
        }
    }
    let heads = config.heads();
    if !heads.dim.is_multiple_of(16) || heads.dim > 256 {
        return refuse(format!("heads of {} elements, not of a multiple of 16 up to 256,", heads.dim));
    }
    let widths = [config.hidden_size, config.intermediate_size];
    match widths.into_iter().find(|width| !width.is_multiple_of(8)) {
        Some(width) => refuse(format!("a width of {width}, which is no multiple of 8,")),
        None => Ok(()),
    }
}

/// Places of the weights that are read with all their bits: of every Mamba block the bias of its steps, ln(-A) and D, which are
/// neighbours.
pub(crate) fn exact(places: &Places) -> impl Iterator<Item = Range<usize>> {
    places.blocks.iter().filter_map(|block| match &block.mixer {
        MixerPlaces::Mamba(places) => Some(places.step_bias.start..places.d.end),
        _ => None,
    })
}

/// The weights that a pass reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights<'a> {
    /// Those of the model.
    pub(crate) values: View<Element>,
    /// What is trained beside them, if they themselves are not.
    pub(crate) adapters: Option<AdaptersThere<'a>>,
}

/// Where gradients go: at the places of the weights, or at those of the adapters where there are any.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gradients {
    pub(crate) to: View<f32>,
    /// Whether they are added to what is there.
    pub(crate) adds: bool,
    /// What the sum of losses is multiplied by.
    pub(crate) scale: f32,
}

/// The kernels of a model, and the memory of its passes.
#[derive(Debug)]
pub(crate) struct Tape {
    gpu: Gpu,
    places: Places,
    shape: Shape,
    epsilon: f32,
    pub(crate) recompute: Recompute,
    /// The most bytes that [`Recompute::Auto`] lets a pass take in which nothing is computed again.
    spare: usize,
    forward: stream::Steps,
    steps: Steps,
    heads: HeadSteps,
    attention: Attention,
    mamba: Option<MambaSteps>,
    /// The weights at the places that [`exact`] names, in order.
    exact: Buffer<f32>,
    head: Head,
    arena: Arena,
    numbers: Buffer<u32>,
}

/// One pass.
struct Run<'a> {
    tape: &'a Tape,
    weights: Weights<'a>,
    pass: Pass,
    batch: Laid,
    samples: Samples,
    chunks: Option<Chunks>,
}

/// Why a block is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// On the way there.
    There,
    /// On the way back, for the next block to be computed again too.
    Again,
    /// On the way back, for itself.
    LastAgain,
}

impl Tape {
    /// Kernels for a model that [`check`] has passed, with adapters of at most this rank; 0 without. Called when the weights have
    /// been allocated: what is free then decides whether activations are kept.
    pub(crate) fn new(gpu: &Gpu, config: &Config, places: &Places, rank: usize) -> Result<Self, GpuError> {
        let (hidden, heads, epsilon) = (config.hidden_size, config.heads(), config.rms_norm_eps as f32);
        let mamba = places.blocks.iter().find_map(|block| match &block.mixer {
            MixerPlaces::Mamba(places) => Some(places.shape),
            _ => None,
        });
        // Heads without positions are turned nowhere.
        let frequencies = config.frequencies().unwrap_or_else(|| vec![0.0; heads.dim / 2]);
        Ok(Self {
            gpu: gpu.clone(),
            shape: Shape {
                hidden,
                heads,
                has_head_norms: config.has_head_norms(),
                has_positions: config.has_rotation(),
                inner: config.intermediate_size,
                rank,
                mamba,
                blocks: places.blocks.clone(),
                blocks_end: places.norm.start * size_of::<f32>(),
            },
            epsilon,
            recompute: Recompute::default(),
            spare: gpu.free_bytes()? / 4,
            forward: stream::Steps::new(gpu, hidden, epsilon)?,
            steps: Steps::new(gpu, hidden)?,
            heads: HeadSteps::new(gpu, heads, &frequencies)?,
            attention: Attention::new(gpu, heads)?,
            mamba: mamba.map(|shape| MambaSteps::new(gpu, shape, epsilon)).transpose()?,
            exact: Buffer::new(gpu, exact(places).map(|places| places.len()).sum())?,
            head: Head::new(gpu, hidden, config.vocab_size)?,
            arena: Arena::new(gpu)?,
            numbers: Buffer::new(gpu, 0)?,
            places: places.clone(),
        })
    }

    /// Bytes that the memory of passes takes.
    pub(crate) fn bytes(&self) -> usize {
        self.arena.bytes() + self.numbers.all().bytes() + self.exact.all().bytes()
    }

    /// Room for the weights at the places that [`exact`] names, in order.
    pub(crate) fn exact(&self) -> View<f32> {
        self.exact.all()
    }

    /// Those of a block.
    fn vectors_of(&self, index: usize) -> View<f32> {
        let is_mamba = |block: &&BlockPlaces| matches!(block.mixer, MixerPlaces::Mamba(_));
        let before = self.places.blocks[..index].iter().filter(is_mamba).count();
        let len = self.shape.mamba.map_or(0, |shape| VECTORS * shape.heads);
        self.exact.at(before * len..(before + 1) * len)
    }

    /// The negative log-probability of every label, in order.
    pub(crate) fn losses(
        &mut self,
        weights: Weights<'_>,
        batch: &Batch,
        losses: View<f32>,
    ) -> Result<(), GpuError> {
        let run = self.run(weights, batch, None)?;
        run.forward()?;
        run.losses(losses, None)
    }

    /// The same, and the gradients of their sum, scaled.
    pub(crate) fn gradients(
        &mut self,
        weights: Weights<'_>,
        batch: &Batch,
        losses: View<f32>,
        to: Gradients,
    ) -> Result<(), GpuError> {
        let run = self.run(weights, batch, Some(to))?;
        run.forward()?;
        run.losses(losses, Some(to))?;
        run.backward(to)
    }

    /// Lays out a pass, with a way back to these gradients or without.
    fn run<'a>(
        &'a mut self,
        weights: Weights<'a>,
        batch: &Batch,
        to: Option<Gradients>,
    ) -> Result<Run<'a>, GpuError> {
        let (rows, labels) = (batch.inputs.len(), batch.labels.len());
        let Self { places, shape, head, arena, .. } = self;
        let lent = to
            .filter(|to| !to.adds && weights.adapters.is_none())
            .map(|to| shape.lend(to.to, places.head == places.embedding));
        let chunks = shape.mamba.map_or(0, |_| Chunks::count(&batch.bounds));
        let size = |keep| Size { rows, labels, chunks, keep };
        let bytes = |keep| arena.bytes_of(lent, |plan| shape.lay(head, size(keep), plan));
        let keep = match self.recompute {
            _ if to.is_none() => Keep::Nothing,
            Recompute::Always => Keep::Starts,
            Recompute::Auto if bytes(Keep::All) > self.spare => Keep::Starts,
            Recompute::Never | Recompute::Auto => Keep::All,
        };
        let pass = arena.lay(lent, |plan| shape.lay(head, size(keep), plan))?;
        let batch_there = Laid::new(batch, &mut self.numbers)?;
        let samples = self.attention.samples(&batch.bounds)?;
        let chunks = shape.mamba.map(|_| Chunks::new(&self.gpu, &batch.bounds)).transpose()?;
        Ok(Run { tape: self, weights, pass, batch: batch_there, samples, chunks })
    }
}

impl Run<'_> {
    fn rows(&self) -> usize {
        self.batch.inputs.len()
    }

    /// The weights at `places`.
    fn weight(&self, places: &Range<usize>) -> View<Element> {
        self.weights.values.at(places.clone())
    }

    fn matrix(&self, places: &Range<usize>, inputs: usize) -> Matrix {
        Matrix::new(self.weight(places), inputs)
    }

    /// The rows of x times a weight that has a row per output, and what its adapters add.
    fn project(&self, places: &Range<usize>, x: Matrix, to: To) -> Result<(), GpuError> {
        products::project(&self.tape.gpu, x, self.matrix(places, x.width()), to)?;
        self.weights.adapters.map_or(Ok(()), |adapters| adapters.forward(self, places, x, to))
    }

    /// The gradient of x.
    fn input_gradient(
        &self,
        places: &Range<usize>,
        gradient: Matrix,
        x_gradient: Matrix,
    ) -> Result<(), GpuError> {
        let weight = self.matrix(places, x_gradient.width());
        products::of_input(&self.tape.gpu, gradient, weight, To::elements(x_gradient))?;
        let adapters = self.weights.adapters;
        adapters.map_or(Ok(()), |adapters| adapters.input_gradient(self, places, gradient, x_gradient))
    }

    /// The gradient of the weight, or those of its adapters.
    fn weight_gradient(
        &self,
        places: &Range<usize>,
        gradient: Matrix,
        x: Matrix,
        to: Gradients,
    ) -> Result<(), GpuError> {
        if let Some(adapters) = self.weights.adapters {
            return adapters.weight_gradient(self, places, gradient, x, to.to, to.adds);
        }
        let there = To::floats(to.to.at(places.clone()), x.width(), x.width()).adding(to.adds);
        products::of_weight(&self.tape.gpu, gradient, x, there)
    }

    /// Where the gradient of a vector goes, if it is trained.
    fn sum(&self, places: &Range<usize>, to: Gradients) -> Option<Sum> {
        let Gradients { to, adds, .. } = to;
        let trained = self.weights.adapters.is_none();
        trained.then(|| Sum { to: to.at(places.clone()), adds, partial: self.pass.partial })
    }

    /// Fills the streams and everything that the way back needs.
    fn forward(&self) -> Result<(), GpuError> {
        self.embed()?;
        for (index, block) in self.tape.shape.blocks.iter().enumerate() {
            self.block(index, block, Why::There)?;
            self.add(index, block)?;
        }
        Ok(())
    }

    fn embed(&self) -> Result<(), GpuError> {
        let embedding = self.weight(&self.tape.places.embedding);
        self.tape.forward.embed(embedding, self.batch.inputs, None, self.pass.streams[0])
    }

    /// Computes a block up to what it adds to the stream.
    fn block(&self, index: usize, block: &BlockPlaces, why: Why) -> Result<(), GpuError> {
        let Self { tape, pass, .. } = self;
        let Kept { scales, mixer } = pass.kept[index];
        let (x, next) = (pass.streams[index], pass.streams[index + 1]);
        let weight = self.weight(&block.norm);
        let goes_on = why != Why::LastAgain;
        tape.forward.norm(x, None, weight, pass.normed, Some(scales), goes_on.then_some(next))?;
        let normed = Matrix::new(pass.normed, tape.shape.hidden);
        let rows_of = |view: View<Element>| Matrix::new(view, view.len() / self.rows());
        match (&block.mixer, mixer) {
            (MixerPlaces::Attention(places), KeptMixer::Attention { qkv, attended, log_sums }) => {
                self.project(&places.qkv, normed, To::elements(rows_of(qkv)))?;
                match (why, &places.head_norms) {
                    (Why::There, _) => {
                        let prepared = self.prepare(places, qkv)?;
                        tape.attention.forward(prepared, &self.samples, attended, log_sums)
                    }
                    // What attention gave is there still.
                    (_, None) => self.prepare(places, qkv).map(|_| ()),
                    // The way back prepares what it needs.
                    (_, Some(_)) => Ok(()),
                }
            }
            (MixerPlaces::Feed(places), KeptMixer::Feed { input }) => {
                self.project(&places.inward, normed, To::elements(rows_of(input)))
            }
            (MixerPlaces::Mamba(places), KeptMixer::Mamba(kept)) => {
                self.mamba_forward(index, places, kept, normed)
            }
            _ => unreachable!("a pass is laid out for its model"),
        }
    }

    /// Queries, keys and values as attention reads them: in place, but where heads are normalised, as the way back needs what they
    /// were before.
    fn prepare(&self, places: &AttentionPlaces, qkv: View<Element>) -> Result<View<Element>, GpuError> {
        let Self { tape, pass, batch, .. } = self;
        let prepared = if let Some(norms) = &places.head_norms {
            let weights = norms.each_ref().map(|norm| self.weight(norm));
            tape.heads.norm(qkv, pass.prepared, weights, pass.head_scales, tape.epsilon)?;
            pass.prepared
        } else {
            qkv
        };
        let bias = places.bias.as_ref().map(|bias| self.weight(bias));
        if tape.shape.has_positions || bias.is_some() {
            tape.heads.turn(prepared, bias, batch.positions, Turn::Forward)?;
        }
        Ok(prepared)
    }

    /// Adds what a block gave to the stream.
    fn add(&self, index: usize, block: &BlockPlaces) -> Result<(), GpuError> {
        let Self { tape, pass, .. } = self;
        let hidden = tape.shape.hidden;
        let to = To::floats(pass.streams[index + 1], hidden, hidden).adding(true);
        match (&block.mixer, pass.kept[index].mixer) {
            (MixerPlaces::Attention(places), KeptMixer::Attention { attended, .. }) => {
                self.project(&places.output, Matrix::new(attended, tape.shape.heads.out()), to)
            }
            (MixerPlaces::Feed(places), KeptMixer::Feed { input }) => {
                let (inner, active) = self.active(places);
                tape.forward.activate(places.activation, input, inner, active)?;
                self.project(&places.down, Matrix::new(active, inner), to)
            }
            (MixerPlaces::Mamba(places), KeptMixer::Mamba(kept)) => self.mamba_add(index, places, kept, to),
            _ => unreachable!("a pass is laid out for its model"),
        }
    }

    /// The elements between the projections of a feed-forward block, and room for them.
    fn active(&self, places: &FeedPlaces) -> (usize, View<Element>) {
        let inner = places.down.len() / self.tape.shape.hidden;
        (inner, self.pass.active.at(0..self.rows() * inner))
    }

    /// Computes the losses; on the way back leaves the gradient of the last stream in its place.
    fn losses(&self, losses: View<f32>, back: Option<Gradients>) -> Result<(), GpuError> {
        let Self { tape, pass, batch, .. } = self;
        let places = &tape.places;
        let last = pass.streams[pass.streams.len() - 1];
        let read = pass.normed.at(0..batch.label_rows.len() * tape.shape.hidden);
        let weight = self.weight(&places.norm);
        let rows = Some(batch.label_rows);
        tape.forward.norm(last, rows, weight, read, Some(pass.read_scales), None)?;
        let labels = Labels { read, tokens: batch.label_tokens, losses, logits: pass.logits };
        let trained = back.filter(|_| self.weights.adapters.is_none());
        let head_back = back.map(|back| HeadBackward {
            scale: back.scale,
            weight_gradient: trained.map(|to| (to.to.at(places.head.clone()), to.adds)),
        });
        tape.head.losses(self.weight(&places.head), labels, head_back)?;
        let Some(to) = back else { return Ok(()) };
        let norm = NormBackward {
            x: last,
            weight,
            scales: pass.read_scales,
            places: Some(batch.label_of),
            gradient: read,
            again: false,
            stream: last,
            adds: false,
            rounded: pass.rounded,
        };
        tape.steps.norm_backward(norm, self.sum(&places.norm, to))
    }

    /// Makes the gradients of all weights below the head.
    fn backward(&self, to: Gradients) -> Result<(), GpuError> {
        let Self { tape, pass, batch, .. } = self;
        let (shape, places) = (&tape.shape, &tape.places);
        let gradient = pass.streams[shape.blocks.len()];
        let length = if pass.keep == Keep::All { shape.blocks.len() } else { SEGMENT };
        for start in (0..shape.blocks.len()).step_by(length).rev() {
            let segment = start..(start + length).min(shape.blocks.len());
            // The last one's blocks are as the way there has left them.
            if segment.end < shape.blocks.len() {
                self.again(segment.clone())?;
            }
            for index in segment.rev() {
                let block = &shape.blocks[index];
                let Kept { scales, mixer } = pass.kept[index];
                let norm = NormBackward {
                    x: pass.streams[index],
                    weight: self.weight(&block.norm),
                    scales,
                    places: None,
                    gradient: pass.normed,
                    again: true,
                    stream: gradient,
                    adds: true,
                    rounded: pass.rounded,
                };
                let norm_back = || tape.steps.norm_backward(norm, self.sum(&block.norm, to));
                match (&block.mixer, mixer) {
                    (MixerPlaces::Attention(places), KeptMixer::Attention { qkv, attended, log_sums }) => {
                        self.attention_backward(places, qkv, attended, log_sums, norm_back, to)?;
                    }
                    (MixerPlaces::Feed(places), KeptMixer::Feed { input }) => {
                        self.feed_backward(places, input, norm_back, to)?;
                    }
                    (MixerPlaces::Mamba(places), KeptMixer::Mamba(kept)) => {
                        self.mamba_backward(index, places, kept, norm_back, to)?;
                    }
                    _ => unreachable!("a pass is laid out for its model"),
                }
            }
        }
        if self.weights.adapters.is_some() {
            return Ok(());
        }
        let embedding = to.to.at(places.embedding.clone());
        if !to.adds && places.head != places.embedding {
            self.tape.gpu.clear(embedding.address(), embedding.bytes())?;
        }
        tape.steps.embed_backward(gradient, batch.tokens, batch.ends, batch.places, embedding)
    }

    /// Computes a segment again, from the stream before its first block.
    fn again(&self, segment: Range<usize>) -> Result<(), GpuError> {
        if segment.start == 0 {
            self.embed()?;
        }
        for index in segment.clone() {
            let block = &self.tape.shape.blocks[index];
            if index + 1 < segment.end {
                self.block(index, block, Why::Again)?;
                self.add(index, block)?;
            } else {
                self.block(index, block, Why::LastAgain)?;
            }
        }
        Ok(())
    }

    /// The way back through a feed-forward block; `norm_back` goes back through its normalisation.
    fn feed_backward(
        &self,
        places: &FeedPlaces,
        input: View<Element>,
        norm_back: impl FnOnce() -> Result<(), GpuError>,
        to: Gradients,
    ) -> Result<(), GpuError> {
        let Self { tape, pass, .. } = self;
        let (inner, active_view) = self.active(places);
        let hidden = tape.shape.hidden;
        let (gradient, normed) = (Matrix::new(pass.rounded, hidden), Matrix::new(pass.normed, hidden));
        let active = Matrix::new(active_view, inner);
        self.input_gradient(&places.down, gradient, active)?;
        tape.steps.activate_backward(places.activation, input, inner, active_view)?;
        self.weight_gradient(&places.down, gradient, active, to)?;
        let input = Matrix::new(input, places.activation.inputs() * inner);
        self.input_gradient(&places.inward, input, normed)?;
        norm_back()?;
        self.weight_gradient(&places.inward, input, normed, to)
    }

    /// The way back through attention.
    fn attention_backward(
        &self,
        places: &AttentionPlaces,
        qkv: View<Element>,
        attended: View<Element>,
        log_sums: View<f32>,
        norm_back: impl FnOnce() -> Result<(), GpuError>,
        to: Gradients,
    ) -> Result<(), GpuError> {
        let Self { tape, pass, batch, samples, .. } = self;
        let Shape { hidden, heads, .. } = tape.shape;
        let (gradient, normed) = (Matrix::new(pass.rounded, hidden), Matrix::new(pass.normed, hidden));
        let attended_gradient = Matrix::new(pass.attended_gradient, heads.out());
        self.input_gradient(&places.output, gradient, attended_gradient)?;
        self.weight_gradient(&places.output, gradient, Matrix::new(attended, heads.out()), to)?;
        // Another block may have used that room since.
        let prepared = if places.head_norms.is_some() { self.prepare(places, qkv)? } else { qkv };
        let qkv_gradient = pass.qkv_gradient;
        let attended_gradient = pass.attended_gradient;
        tape.attention.backward(
            prepared,
            samples,
            attended,
            log_sums,
            attended_gradient,
            pass.means,
            qkv_gradient,
        )?;
        if tape.shape.has_positions {
            tape.heads.turn(qkv_gradient, None, batch.positions, Turn::Backward)?;
        }
        if let Some(norms) = &places.head_norms {
            let weights = norms.each_ref().map(|norm| self.weight(norm));
            // The two weights lie one after the other.
            let sum = self.sum(&(norms[0].start..norms[1].end), to);
            tape.heads.norm_backward(&tape.steps, qkv, weights, pass.head_scales, qkv_gradient, sum)?;
        }
        if let Some(sum) = places.bias.as_ref().and_then(|bias| self.sum(bias, to)) {
            tape.steps.sum_rows(qkv_gradient, sum)?;
        }
        let qkv_gradient = Matrix::new(qkv_gradient, heads.row());
        self.input_gradient(&places.qkv, qkv_gradient, normed)?;
        norm_back()?;
        self.weight_gradient(&places.qkv, qkv_gradient, normed, to)
    }
}
