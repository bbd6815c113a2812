//! Mamba-2 blocks in generation: tokens advance the states of their sequences.

use std::sync::Arc;

use super::attention::Turn;
use super::driver::{Argument, Gpu, GpuError, Kernels, Launch};
use super::pages::Rows;
use super::products::{From, Products, Projection, To};
use super::sources::MAMBA;
use super::{Buffer, Element, View};
use crate::kernels::mamba::MambaShape;

const THREADS: usize = 256;
/// Rows of one thread of the convolution.
const STRETCH: usize = 64;

/// A Mamba-2 block.
#[derive(Debug)]
pub(crate) struct Mamba {
    /// Which of the Mamba layers this is.
    pub(crate) layer: usize,
    pub(crate) inward: Projection,
    /// The convolution, a row per channel.
    pub(crate) taps: Buffer<Element>,
    pub(crate) convolution_bias: Option<Buffer<Element>>,
    pub(crate) step_bias: Buffer<f32>,
    pub(crate) a_log: Buffer<f32>,
    pub(crate) d: Buffer<f32>,
    pub(crate) norm: Buffer<Element>,
    pub(crate) output: Projection,
}

/// The kernels of a model's Mamba blocks.
#[derive(Debug)]
pub(crate) struct MambaKernels {
    kernels: Arc<dyn Kernels>,
    shape: MambaShape,
    layers: usize,
    epsilon: f32,
    products: Products,
}

/// What sequences leave behind, on every seat and in every layer, and the memory of a pass.
#[derive(Debug)]
pub(crate) struct MambaRoom {
    gpu: Gpu,
    states: Buffer<f32>,
    history: Buffer<Element>,
    layers: usize,
    seats: usize,
    projected: Buffer<Element>,
    active: Buffer<Element>,
    y: Buffer<f32>,
    gated: Buffer<Element>,
}

/// Turns of several tokens, on the GPU.
#[derive(Debug)]
pub(crate) struct MambaTurns {
    on_gpu: Buffer<u32>,
    count: usize,
    longest: usize,
}

/// Which rows of a pass a launch is for.
#[derive(Clone, Copy)]
enum Part<'a> {
    /// Rows of one token each.
    Single(Rows),
    /// Rows of turns.
    Turns(&'a MambaTurns),
}

/// What kernels are compiled for.
pub(crate) fn defines(shape: MambaShape) -> [(&'static str, usize); 5] {
    [
        ("MAMBA_HEADS", shape.heads),
        ("MAMBA_DIM", shape.dim),
        ("GROUPS", shape.groups),
        ("STATE", shape.state),
        ("TAPS", shape.kernel),
    ]
}

impl MambaTurns {
    pub(crate) fn new(gpu: &Gpu, turns: &[Turn]) -> Result<Self, GpuError> {
        let numbers: Vec<u32> = turns
            .iter()
            .flat_map(|turn| [turn.row, turn.rows, turn.position, turn.seat].map(|number| number as u32))
            .collect();
        let longest = turns.iter().map(|turn| turn.rows).max().unwrap_or(0);
        Ok(Self { on_gpu: Buffer::from(gpu, &numbers)?, count: turns.len(), longest })
    }
}

impl MambaKernels {
    /// Compiles the kernels for so many layers of a shape.
    pub(crate) fn new(
        gpu: &Gpu,
        shape: MambaShape,
        layers: usize,
        epsilon: f32,
        products: Products,
    ) -> Result<Self, GpuError> {
        Ok(Self { kernels: gpu.compile(MAMBA, &defines(shape))?, shape, layers, epsilon, products })
    }

    /// Bytes that a sequence's states take, over all layers.
    pub(crate) fn state_bytes(&self, gpu: &Gpu) -> usize {
        self.layers * (4 * self.shape.states() + gpu.element_bytes() * self.shape.history())
    }

    /// Bytes that a pass of so many rows takes.
    pub(crate) fn pass_bytes(&self, gpu: &Gpu, rows: usize) -> usize {
        let shape = &self.shape;
        rows * (gpu.element_bytes() * (shape.row() + shape.channels() + shape.inner()) + 4 * shape.inner())
    }

    /// Room for so many seats and rows.
    pub(crate) fn room(&self, gpu: &Gpu, seats: usize, rows: usize) -> Result<MambaRoom, GpuError> {
        let Self { shape, layers, .. } = self;
        Ok(MambaRoom {
            gpu: gpu.clone(),
            states: Buffer::new(gpu, layers * seats * shape.states())?,
            history: Buffer::new(gpu, layers * seats * shape.history())?,
            layers: *layers,
            seats,
            projected: Buffer::new(gpu, rows * shape.row())?,
            active: Buffer::new(gpu, rows * shape.channels())?,
            y: Buffer::new(gpu, rows * shape.inner())?,
            gated: Buffer::new(gpu, rows * shape.inner())?,
        })
    }

    /// Adds the output of a block to the stream of a pass, which `from` gives normalised: first rows of one token each, as `single`
    /// says, then the rows of `turns`.
    pub(crate) fn add(
        &self,
        block: &Mamba,
        from: From,
        room: &MambaRoom,
        single: Rows,
        turns: Option<&MambaTurns>,
        x: View<f32>,
    ) -> Result<(), GpuError> {
        let shape = &self.shape;
        let rows = x.len() / block.inward.inputs();
        let projected = room.projected.at(0..rows * shape.row());
        self.products.apply(&block.inward, from, To::Elements(projected))?;
        if single.seats.len() > 0 {
            self.recur(block, room, Part::Single(single))?;
        }
        if let Some(turns) = turns {
            self.recur(block, room, Part::Turns(turns))?;
        }
        let gated = room.gated.at(0..rows * shape.inner());
        let arguments = [
            room.y.all().into(),
            projected.into(),
            block.norm.all().into(),
            gated.into(),
            self.epsilon.into(),
        ];
        self.kernels.launch("gate_groups", Launch::new([rows, shape.groups, 1], THREADS), &arguments)?;
        self.products.apply(&block.output, From::Elements(gated), To::Added(x))
    }

    /// The convolution and the recurrence of some rows.
    fn recur(&self, block: &Mamba, room: &MambaRoom, part: Part<'_>) -> Result<(), GpuError> {
        let shape = &self.shape;
        let none = Argument::NONE;
        let ([turns, seats, lengths], count, longest): ([Argument; 3], _, _) = match part {
            Part::Single(rows) => ([none, rows.seats.into(), rows.lengths.into()], rows.seats.len(), 1),
            Part::Turns(turns) => ([turns.on_gpu.all().into(), none, none], turns.count, turns.longest),
        };
        let per_seats = room.seats * block.layer;
        let states = room.states.at(per_seats * shape.states()..(per_seats + room.seats) * shape.states());
        let history =
            room.history.at(per_seats * shape.history()..(per_seats + room.seats) * shape.history());
        let (projected, active) = (room.projected.all(), room.active.all());
        let channels = shape.channels().div_ceil(THREADS);
        let stretches = longest.div_ceil(STRETCH);
        let convolve = [
            projected.into(),
            block.taps.all().into(),
            block.convolution_bias.as_ref().map(Buffer::all).into(),
            active.into(),
            history.into(),
            turns,
            seats,
            lengths,
            u32::from(stretches == 1).into(),
        ];
        self.kernels.launch("convolve", Launch::new([channels, count, stretches], THREADS), &convolve)?;
        if stretches > 1 {
            let remember = [projected.into(), history.into(), turns, seats, lengths];
            self.kernels.launch("remember", Launch::new([channels, count, 1], THREADS), &remember)?;
        }
        let scan = [
            projected.into(),
            active.into(),
            block.step_bias.all().into(),
            block.a_log.all().into(),
            block.d.all().into(),
            states.into(),
            room.y.all().into(),
            turns,
            seats,
            lengths,
            shape.limit.0.into(),
            shape.limit.1.into(),
        ];
        self.kernels.launch("scan", Launch::new([shape.heads, count, 1], THREADS), &scan)
    }
}

impl MambaRoom {
    /// Gives the sequence on one seat the states of that on another.
    pub(crate) fn copy(&self, from: usize, to: usize) -> Result<(), GpuError> {
        let states = self.states.len() / (self.layers * self.seats);
        let history = self.history.len() / (self.layers * self.seats);
        for layer in 0..self.layers {
            let [from, to] = [from, to].map(|seat| layer * self.seats + seat);
            let part = |seat: usize| self.states.at(seat * states..(seat + 1) * states);
            self.gpu.copy(part(from).address(), part(to).address(), part(from).bytes())?;
            let part = |seat: usize| self.history.at(seat * history..(seat + 1) * history);
            self.gpu.copy(part(from).address(), part(to).address(), part(from).bytes())?;
        }
        Ok(())
    }
}
