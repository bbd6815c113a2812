//! The state space of a Mamba-2 block in training. Every sample starts from a state of zero.
//!
//! Kept are what the projection gave and what the state space gave; the convolution, the steps and the states before the chunks are
//! computed again on the way back.

use std::sync::Arc;

use super::steps::{Steps, Sum, partial_len, parts};
use crate::gpu::arena::Plan;
use crate::gpu::driver::{Gpu, GpuError, Kernels, Launch};
use crate::gpu::mamba::defines;
use crate::gpu::sources::MAMBA_TRAINING;
use crate::gpu::{Buffer, Element, View};
use crate::kernels::mamba::{CHUNK, MambaShape};

const THREADS: usize = 256;
/// Threads of a block that passes states on or has a chunk's outputs.
const WARPS: usize = 128;
/// Columns of the states that a block passes on.
const PART: usize = 64;
/// Places that a row in shared memory has beyond its elements.
const PADDING: usize = 8;

/// Numbers that a head has beside its matrices: the bias of its steps, ln(-A) and D.
pub(crate) const VECTORS: usize = 3;

/// Whether there are kernels for a shape; if not, what there are none for.
pub(crate) fn check(shape: MambaShape) -> Result<(), String> {
    let MambaShape { heads, dim, groups, state, kernel, .. } = shape;
    if dim > 128 || state > 128 || !dim.is_multiple_of(2) || !state.is_multiple_of(2) {
        return Err(format!(
            "Mamba heads of {dim} elements with states of {state}, not even numbers up to 128,"
        ));
    }
    if kernel > 8 {
        return Err(format!("Mamba blocks that convolve {kernel} tokens, more than 8,"));
    }
    // Weights that follow those of the heads, and rows of elements, start at multiples of 16 bytes.
    if !heads.is_multiple_of(8) || !shape.channels().is_multiple_of(8) {
        return Err(format!(
            "{heads} Mamba heads with {groups} groups of {state} elements, whose numbers are no multiples of 8,"
        ));
    }
    Ok(())
}

/// The kernels of `mamba_training.cu`.
#[derive(Debug)]
pub(crate) struct MambaSteps {
    kernels: Arc<dyn Kernels>,
    shape: MambaShape,
    epsilon: f32,
    /// Elements of a head and of a state in whole tiles.
    tiles: [usize; 2],
    element_bytes: usize,
}

/// The samples of a batch in chunks, on the GPU.
#[derive(Debug)]
pub(crate) struct Chunks {
    numbers: Buffer<u32>,
    count: usize,
    samples: usize,
}

impl Chunks {
    /// How many chunks samples with these bounds have.
    pub(crate) fn count(bounds: &[usize]) -> usize {
        sample_rows(bounds).map(|(start, end)| (end - start).div_ceil(CHUNK)).sum()
    }

    pub(crate) fn new(gpu: &Gpu, bounds: &[usize]) -> Result<Self, GpuError> {
        let (mut chunks, mut samples) = (Vec::new(), Vec::new());
        for (start, end) in sample_rows(bounds) {
            samples.push(chunks.len() / 4);
            for row in (start..end).step_by(CHUNK) {
                chunks.extend([row, CHUNK.min(end - row), start, end]);
            }
            samples.push(chunks.len() / 4);
        }
        let (count, sample_count) = (chunks.len() / 4, samples.len() / 2);
        chunks.extend(samples);
        let numbers: Vec<u32> =
            chunks.into_iter().map(|number| u32::try_from(number).expect("rows fit 32 bits")).collect();
        Ok(Self { numbers: Buffer::from(gpu, &numbers)?, count, samples: sample_count })
    }

    fn chunks(&self) -> View<u32> {
        self.numbers.at(0..4 * self.count)
    }

    fn samples(&self) -> View<u32> {
        self.numbers.at(4 * self.count..self.numbers.len())
    }
}

fn sample_rows(bounds: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    let starts = std::iter::once(0).chain(bounds.iter().copied());
    starts.zip(bounds.iter().copied()).filter(|(start, end)| start < end)
}

/// What a block keeps for the way back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MambaKept {
    pub(crate) projected: View<Element>,
    /// What the state space gave; on the way back its gradient.
    y: View<Element>,
}

/// The memory of one pass through a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MambaRoom {
    /// What the output's projection reads; on the way back its gradient, and then what it read again.
    pub(crate) gated: View<Element>,
    /// What the convolution gave; on the way back its gradient.
    active: View<Element>,
    steps: View<f32>,
    /// The states before the chunks, and on the way back the gradients of those after them.
    states: View<Element>,
    ends: View<Element>,
    pub(crate) projected_gradient: View<Element>,
    /// Sums of blocks and of chunks.
    pub(crate) partial: View<f32>,
}

/// The weights of a block that its steps read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockWeights {
    pub(crate) taps: View<Element>,
    pub(crate) convolution_bias: Option<View<Element>>,
    /// [`VECTORS`] exact numbers per head.
    pub(crate) vectors: View<f32>,
    pub(crate) norm: View<Element>,
}

impl MambaKept {
    pub(crate) fn lay(shape: MambaShape, rows: usize, limit: usize, plan: &mut Plan) -> Self {
        Self {
            projected: plan.take_below(rows * shape.row(), limit),
            y: plan.take_below(rows * shape.inner(), limit),
        }
    }
}

impl MambaRoom {
    /// Room for no block.
    pub(crate) fn none(plan: &mut Plan) -> Self {
        let none = plan.take(0);
        let floats = plan.take(0);
        Self {
            gated: none,
            active: none,
            steps: floats,
            states: none,
            ends: none,
            projected_gradient: none,
            partial: floats,
        }
    }

    pub(crate) fn lay(shape: MambaShape, rows: usize, chunks: usize, limit: usize, plan: &mut Plan) -> Self {
        let states = chunks * shape.heads * tiles(shape).iter().product::<usize>();
        let of_convolution = chunks * shape.channels() * (shape.kernel + 1);
        let partial =
            of_convolution.max(chunks * VECTORS * shape.heads).max(partial_len(rows, shape.inner()));
        Self {
            gated: plan.take_below(rows * shape.inner(), limit),
            active: plan.take_below(rows * shape.channels(), limit),
            steps: plan.take_below(chunks * shape.heads * 2 * CHUNK, limit),
            states: plan.take_below(states, limit),
            ends: plan.take_below(states, limit),
            projected_gradient: plan.take_below(rows * shape.row(), limit),
            partial: plan.take_below(partial, limit),
        }
    }
}

/// Elements of a head and of a state in whole tiles.
fn tiles(shape: MambaShape) -> [usize; 2] {
    [shape.dim, shape.state].map(|size| size.next_multiple_of(16))
}

impl MambaSteps {
    /// Kernels for a shape that [`check`] has passed.
    pub(crate) fn new(gpu: &Gpu, shape: MambaShape, epsilon: f32) -> Result<Self, GpuError> {
        Ok(Self {
            kernels: gpu.compile(MAMBA_TRAINING, &defines(shape))?,
            shape,
            epsilon,
            tiles: tiles(shape),
            element_bytes: gpu.element_bytes(),
        })
    }

    /// Bytes of so many rows of heads and of states in shared memory.
    fn shared(&self, head_rows: usize, state_rows: usize) -> usize {
        let [dim, wide] = self.tiles.map(|size| size + PADDING);
        (head_rows * dim + state_rows * wide) * self.element_bytes
    }

    /// The convolution, the steps, and the states before the chunks.
    fn prepare(
        &self,
        projected: View<Element>,
        weights: BlockWeights,
        chunks: &Chunks,
        room: &MambaRoom,
    ) -> Result<(), GpuError> {
        let Self { shape, kernels, .. } = self;
        let rows = projected.len() / shape.row();
        assert!(projected.len() == rows * shape.row() && room.active.len() == rows * shape.channels());
        assert!(weights.taps.len() == shape.channels() * shape.kernel);
        assert!(weights.convolution_bias.is_none_or(|bias| bias.len() == shape.channels()));
        assert!(weights.vectors.len() == VECTORS * shape.heads);
        assert!(room.steps.len() == chunks.count * shape.heads * 2 * CHUNK);
        let convolve = [
            projected.into(),
            weights.taps.into(),
            weights.convolution_bias.into(),
            chunks.chunks().into(),
            room.active.into(),
        ];
        let blocks = [shape.channels().div_ceil(THREADS), chunks.count, 1];
        kernels.launch("convolve", Launch::new(blocks, THREADS), &convolve)?;
        let decays = [
            projected.into(),
            weights.vectors.into(),
            chunks.chunks().into(),
            room.steps.into(),
            shape.limit.0.into(),
            shape.limit.1.into(),
        ];
        let blocks = [chunks.count, shape.heads.div_ceil(WARPS), 1];
        kernels.launch("decays", Launch::new(blocks, WARPS), &decays)?;
        self.pass_states((room.active, shape.channels()), chunks, room, room.states, false)
    }

    /// The states before the chunks, or the gradients of those after them.
    fn pass_states(
        &self,
        (left, stride): (View<Element>, usize),
        chunks: &Chunks,
        room: &MambaRoom,
        to: View<Element>,
        backward: bool,
    ) -> Result<(), GpuError> {
        let [dim, wide] = self.tiles;
        assert!(to.len() == chunks.count * self.shape.heads * dim * wide);
        let arguments = [
            left.into(),
            stride.into(),
            room.active.into(),
            room.steps.into(),
            chunks.chunks().into(),
            chunks.samples().into(),
            to.into(),
            u32::from(backward).into(),
        ];
        let blocks = [self.shape.heads, chunks.samples, wide.div_ceil(PART)];
        let shared = 2 * CHUNK * (dim + PART + 2 * PADDING) * self.element_bytes;
        self.kernels.launch("pass_states", Launch::new(blocks, WARPS).sharing(shared), &arguments)
    }

    /// What the state space gives, and that with its gates, normalised.
    pub(crate) fn forward(
        &self,
        kept: MambaKept,
        weights: BlockWeights,
        chunks: &Chunks,
        room: &MambaRoom,
    ) -> Result<(), GpuError> {
        let (shape, [dim, _]) = (self.shape, self.tiles);
        self.prepare(kept.projected, weights, chunks, room)?;
        assert!(kept.y.len() == room.active.len() / shape.channels() * shape.inner());
        let arguments = [
            room.active.into(),
            room.steps.into(),
            weights.vectors.into(),
            room.states.into(),
            chunks.chunks().into(),
            kept.y.into(),
        ];
        let shared = self.shared(CHUNK, 2 * CHUNK + dim);
        let launch = Launch::new([chunks.count, shape.groups, 1], WARPS).sharing(shared);
        self.kernels.launch("scan", launch, &arguments)
    }

    /// What the output's projection reads.
    pub(crate) fn gate(
        &self,
        kept: MambaKept,
        weights: BlockWeights,
        gated: View<Element>,
    ) -> Result<(), GpuError> {
        let shape = self.shape;
        assert!(kept.y.len() == gated.len() && weights.norm.len() == shape.inner());
        let rows = gated.len() / shape.inner();
        let arguments =
            [kept.y.into(), kept.projected.into(), weights.norm.into(), gated.into(), self.epsilon.into()];
        self.kernels.launch("gate", Launch::new([rows, shape.groups, 1], THREADS), &arguments)
    }

    /// The way back through [`MambaSteps::gate`], given the gradient in `room.gated`, which becomes what was gated.
    pub(crate) fn gate_backward(
        &self,
        steps: &Steps,
        kept: MambaKept,
        weights: BlockWeights,
        room: &MambaRoom,
        sum: Option<Sum>,
    ) -> Result<(), GpuError> {
        let shape = self.shape;
        let rows = room.gated.len() / shape.inner();
        assert!(kept.y.len() == room.gated.len() && room.projected_gradient.len() == rows * shape.row());
        assert!(sum.is_none_or(|sum| sum.to.len() == shape.inner()));
        let (blocks, each) = parts(rows);
        let partial = sum.map(|sum| sum.partial.at(0..blocks * shape.inner()));
        let arguments = [
            kept.y.into(),
            kept.projected.into(),
            weights.norm.into(),
            room.gated.into(),
            room.projected_gradient.into(),
            partial.into(),
            rows.into(),
            each.into(),
            self.epsilon.into(),
        ];
        let launch = Launch::new([blocks, shape.groups, 1], THREADS);
        self.kernels.launch("gate_backward", launch, &arguments)?;
        sum.map_or(Ok(()), |sum| steps.sum_columns(blocks, sum))
    }

    /// The way back to the gradient of the projection, given that of what the state space gave, in `kept.y`. `vectors` gets the
    /// gradients of the bias of the steps, ln(-A) and D; `convolution` those of its weight and then of its bias.
    pub(crate) fn backward(
        &self,
        steps: &Steps,
        kept: MambaKept,
        weights: BlockWeights,
        chunks: &Chunks,
        room: &MambaRoom,
        [vectors, convolution]: [Option<Sum>; 2],
    ) -> Result<(), GpuError> {
        let (shape, [dim, _]) = (self.shape, self.tiles);
        self.prepare(kept.projected, weights, chunks, room)?;
        self.pass_states((kept.y, shape.inner()), chunks, room, room.ends, true)?;
        assert!(vectors.is_none_or(|sum| sum.to.len() == VECTORS * shape.heads));
        let arguments = [
            room.active.into(),
            kept.y.into(),
            room.steps.into(),
            weights.vectors.into(),
            room.states.into(),
            room.ends.into(),
            chunks.chunks().into(),
            kept.projected.into(),
            room.projected_gradient.into(),
            vectors.map(|sum| sum.partial).into(),
            shape.limit.0.into(),
            shape.limit.1.into(),
        ];
        let shared = self.shared(2 * CHUNK, 2 * CHUNK + 2 * dim);
        let launch = Launch::new([chunks.count, shape.groups, 1], THREADS).sharing(shared);
        self.kernels.launch("scan_backward", launch, &arguments)?;
        if let Some(sum) = vectors {
            steps.sum_columns(chunks.count, sum)?;
        }
        let sums = shape.kernel + usize::from(weights.convolution_bias.is_some());
        assert!(convolution.is_none_or(|sum| sum.to.len() == sums * shape.channels()));
        let arguments = [
            kept.projected.into(),
            weights.taps.into(),
            weights.convolution_bias.into(),
            room.active.into(),
            chunks.chunks().into(),
            room.projected_gradient.into(),
            convolution.map(|sum| sum.partial).into(),
        ];
        let blocks = [shape.channels().div_ceil(THREADS), chunks.count, 1];
        self.kernels.launch("convolve_backward", Launch::new(blocks, THREADS), &arguments)?;
        convolution.map_or(Ok(()), |sum| steps.sum_columns(chunks.count, sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::arena::Arena;
    use crate::gpu::tests::{Tested, gpus, noise};
    use crate::kernels::activation::{Gates, gate, gate_backward, silu, silu_backward};
    use crate::kernels::mamba::{
        Recurrence, ScanGradients, Scanned, convolve, convolve_backward, scan, scan_backward, steps,
        steps_backward, taps,
    };
    use crate::kernels::norm::{HeadPart, head_norm, head_norm_backward};

    /// One chunk, one token, several chunks, and whole ones.
    const BOUNDS: [usize; 4] = [5, 6, 140, 204];

    /// What the way there and back gives.
    struct Results {
        gated: Vec<f32>,
        projected: Vec<f32>,
        norm: Vec<f32>,
        vectors: Vec<f32>,
        convolution: Vec<f32>,
    }

    /// Numbers to compute with.
    struct Inputs {
        projected: Vec<f32>,
        taps: Vec<f32>,
        bias: Option<Vec<f32>>,
        vectors: Vec<f32>,
        norm: Vec<f32>,
        gradient: Vec<f32>,
    }

    fn inputs(tested: &Tested, shape: MambaShape, has_bias: bool, rows: usize) -> Inputs {
        let rounded = |count, seed| tested.rounded(&noise(count, seed));
        Inputs {
            projected: rounded(rows * shape.row(), 1),
            taps: rounded(shape.channels() * shape.kernel, 2),
            bias: has_bias.then(|| rounded(shape.channels(), 3)),
            vectors: noise(VECTORS * shape.heads, 4),
            norm: rounded(shape.inner(), 5),
            gradient: rounded(rows * shape.inner(), 6),
        }
    }

    fn on_cpu(shape: MambaShape, bounds: &[usize], from: &Inputs) -> Results {
        let rows = from.projected.len() / shape.row();
        let (inner, channels, heads) = (shape.inner(), shape.channels(), shape.heads);
        let history = vec![0.0; shape.history()];
        let weights = taps(shape, &from.taps);
        let [bias, a_log, d] = [0, 1, 2].map(|which| &from.vectors[which * heads..(which + 1) * heads]);
        let recurrence = Recurrence { a_log, d };
        let (mut convolved, mut y) = (vec![0.0; rows * channels], vec![0.0; rows * inner]);
        let (mut active, mut step) = (convolved.clone(), vec![0.0; rows * heads]);
        steps(shape, &from.projected, bias, &mut step);
        for (start, end) in sample_rows(bounds) {
            let projected = &from.projected[start * shape.row()..end * shape.row()];
            let out = &mut convolved[start * channels..end * channels];
            convolve(shape, projected, &history, &weights, from.bias.as_deref(), out);
        }
        silu(&convolved, &mut active);
        let part = |numbers: &[f32], start: usize, end: usize, width: usize| {
            numbers[start * width..end * width].to_vec()
        };
        let mut states = Vec::new();
        for (start, end) in sample_rows(bounds) {
            let (mut state, mut kept) = (vec![0.0; shape.states()], Vec::new());
            for first in (start..end).step_by(CHUNK) {
                if first > start {
                    kept.extend_from_slice(&state);
                }
                let last = end.min(first + CHUNK);
                let (active, step) = (part(&active, first, last, channels), part(&step, first, last, heads));
                scan(shape, &active, &step, recurrence, &mut state, &mut y[first * inner..last * inner]);
            }
            states.push(kept);
        }
        let gates = Gates { rows: &from.projected, stride: shape.row(), width: inner };
        let mut before = vec![0.0; rows * inner];
        gate(&y, gates, &mut before);
        let (mut gated, mut slopes, mut norm) = (before.clone(), from.gradient.clone(), vec![0.0; inner]);
        let width = inner / shape.groups;
        for group in 0..shape.groups {
            let places = group * width..(group + 1) * width;
            let part = HeadPart { stride: inner, first: places.start, count: 1 };
            let mut scales = vec![0.0; rows];
            head_norm(&mut gated, part, &from.norm[places.clone()], 1e-5, &mut scales);
            let weight = &from.norm[places.clone()];
            head_norm_backward(&before, part, weight, &scales, &mut slopes, &mut norm[places]);
        }
        let mut projected = vec![0.0; rows * shape.row()];
        gate_backward(&y, gates, &mut slopes, &mut projected);
        let (mut to_active, mut to_steps) = (vec![0.0; rows * channels], vec![0.0; rows * heads]);
        let mut vectors = vec![0.0; VECTORS * heads];
        let (to_bias, others) = vectors.split_at_mut(heads);
        let (to_a, to_d) = others.split_at_mut(heads);
        for ((start, end), states) in sample_rows(bounds).zip(&states) {
            let scanned = Scanned {
                active: &part(&active, start, end, channels),
                steps: &part(&step, start, end, heads),
                states,
                gradient: &part(&slopes, start, end, inner),
            };
            let to = ScanGradients {
                active: &mut to_active[start * channels..end * channels],
                steps: &mut to_steps[start * heads..end * heads],
                a_log: to_a,
                d: to_d,
            };
            scan_backward(shape, scanned, recurrence, to);
        }
        steps_backward(shape, &from.projected, bias, &to_steps, &mut projected, to_bias);
        silu_backward(&mut convolved, &to_active);
        let mut convolution = vec![0.0; channels * shape.kernel];
        let mut bias_gradient = from.bias.as_ref().map(|_| vec![0.0; channels]);
        for (start, end) in sample_rows(bounds) {
            convolve_backward(
                shape,
                &part(&from.projected, start, end, shape.row()),
                &weights,
                &part(&convolved, start, end, channels),
                &mut projected[start * shape.row()..end * shape.row()],
                &mut convolution,
                bias_gradient.as_deref_mut(),
            );
        }
        convolution.extend(bias_gradient.into_iter().flatten());
        Results { gated, projected, norm, vectors, convolution }
    }

    fn on_gpu(tested: &Tested, shape: MambaShape, bounds: &[usize], from: &Inputs) -> Results {
        let (gpu, rows) = (&tested.gpu, from.projected.len() / shape.row());
        let kernels = MambaSteps::new(gpu, shape, 1e-5).unwrap();
        let sums = Steps::new(gpu, 8).unwrap();
        let chunks = Chunks::new(gpu, bounds).unwrap();
        let mut arena = Arena::new(gpu).unwrap();
        let lay = |plan: &mut Plan| {
            let kept = MambaKept::lay(shape, rows, 0, plan);
            (kept, MambaRoom::lay(shape, rows, chunks.count, 0, plan))
        };
        let (kept, room) = arena.lay(None, lay).unwrap();
        let elements = |numbers: &[f32]| Buffer::rounded(gpu, numbers).unwrap();
        let projected = elements(&from.projected);
        gpu.copy(projected.all().address(), kept.projected.address(), kept.projected.bytes()).unwrap();
        let (taps, norm) = (elements(&from.taps), elements(&from.norm));
        let (bias, vectors) = (from.bias.as_deref().map(elements), Buffer::from(gpu, &from.vectors).unwrap());
        let weights = BlockWeights {
            taps: taps.all(),
            convolution_bias: bias.as_ref().map(Buffer::all),
            vectors: vectors.all(),
            norm: norm.all(),
        };
        let download = |view: View<Element>| {
            let copy = Buffer::<Element>::new(gpu, view.len()).unwrap();
            gpu.copy(view.address(), copy.all().address(), view.bytes()).unwrap();
            copy.download(0..view.len()).unwrap()
        };
        kernels.forward(kept, weights, &chunks, &room).unwrap();
        kernels.gate(kept, weights, room.gated).unwrap();
        let gated = download(room.gated);
        let gradient = elements(&from.gradient);
        gpu.copy(gradient.all().address(), room.gated.address(), room.gated.bytes()).unwrap();
        let floats = |len: usize| Buffer::from(gpu, &vec![1.0; len]).unwrap();
        let (to_norm, to_vectors) = (floats(shape.inner()), floats(VECTORS * shape.heads));
        let to_convolution = floats(shape.channels() * (shape.kernel + usize::from(bias.is_some())));
        let sum = |to: &Buffer<f32>, adds| Some(Sum { to: to.all(), adds, partial: room.partial });
        kernels.gate_backward(&sums, kept, weights, &room, sum(&to_norm, false)).unwrap();
        // The product that made the gradient is done with it, and the weight's gradient needs what was gated.
        assert!(download(room.gated) == gated);
        let both = [sum(&to_vectors, true), sum(&to_convolution, true)];
        kernels.backward(&sums, kept, weights, &chunks, &room, both).unwrap();
        let added = |buffer: Buffer<f32>| {
            let numbers = buffer.download(0..buffer.len()).unwrap();
            numbers.into_iter().map(|number| number - 1.0).collect()
        };
        Results {
            gated,
            projected: download(room.projected_gradient),
            norm: to_norm.download(0..shape.inner()).unwrap(),
            vectors: added(to_vectors),
            convolution: added(to_convolution),
        }
    }

    /// The distance in parts of the length.
    fn difference(got: &[f32], expected: &[f32]) -> f32 {
        assert_eq!(got.len(), expected.len());
        let square = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| x * x).sum::<f32>();
        let apart = square(&mut got.iter().zip(expected).map(|(got, expected)| got - expected));
        (apart / square(&mut expected.iter().copied())).sqrt()
    }

    #[test]
    fn heads_and_states_that_fill_no_tile_are_those_of_the_cpu() {
        compare(MambaShape { heads: 4, dim: 12, groups: 2, state: 10, kernel: 4, limit: (0.5, 1.0) }, true);
    }

    #[test]
    fn heads_and_states_that_fill_tiles_are_those_of_the_cpu() {
        let limit = (0.0, f32::INFINITY);
        compare(MambaShape { heads: 6, dim: 16, groups: 3, state: 32, kernel: 2, limit }, false);
    }

    /// States that are passed on in two parts: both whole, as in Nemotron-H, and not.
    #[test]
    fn large_states_are_those_of_the_cpu() {
        let limit = (0.0, f32::INFINITY);
        compare(MambaShape { heads: 2, dim: 80, groups: 1, state: 128, kernel: 4, limit }, true);
    }

    #[test]
    fn states_of_a_part_and_a_piece_are_those_of_the_cpu() {
        let limit = (0.001, 1.2);
        compare(MambaShape { heads: 2, dim: 40, groups: 1, state: 88, kernel: 3, limit }, true);
    }

    /// The way there and back on every GPU against that on the CPU.
    fn compare(shape: MambaShape, has_bias: bool) {
        for tested in gpus() {
            let from = inputs(&tested, shape, has_bias, BOUNDS[3]);
            let got = on_gpu(&tested, shape, &BOUNDS, &from);
            let expected = on_cpu(shape, &BOUNDS, &from);
            let bound = tested.bound(1e-5, 2e-2);
            // Rows of the projection by their parts: gates, x, B, C, steps.
            let (inner, states) = (shape.inner(), shape.groups * shape.state);
            let mut first = 0;
            for width in [inner, inner, states, states, shape.heads] {
                let part = |numbers: &[f32]| {
                    let rows = numbers.chunks_exact(shape.row());
                    rows.flat_map(|row| &row[first..first + width]).copied().collect::<Vec<_>>()
                };
                let apart = difference(&part(&got.projected), &part(&expected.projected));
                assert!(apart < bound, "columns from {first}: {apart}");
                first += width;
            }
            for which in 0..VECTORS {
                let places = which * shape.heads..(which + 1) * shape.heads;
                let apart = difference(&got.vectors[places.clone()], &expected.vectors[places]);
                assert!(apart < bound, "vector {which}: {apart}");
            }
            let others = [
                (&got.gated, &expected.gated),
                (&got.norm, &expected.norm),
                (&got.convolution, &expected.convolution),
            ];
            for (which, (got, expected)) in others.into_iter().enumerate() {
                let apart = difference(got, expected);
                assert!(apart < bound, "{which}: {apart}");
            }
            // What comes out depends on no other sample: those apart are the same to the bit.
            let alone = &BOUNDS[1..3];
            let rows = alone[0]..alone[1];
            let part = |numbers: &[f32], width: usize| numbers[rows.start * width..rows.end * width].to_vec();
            let from = Inputs {
                projected: part(&from.projected, shape.row()),
                gradient: part(&from.gradient, shape.inner()),
                ..from
            };
            let apart = on_gpu(&tested, shape, &[rows.len()], &from);
            assert!(apart.gated == part(&got.gated, shape.inner()));
            assert!(apart.projected == part(&got.projected, shape.row()));
        }
    }
}
