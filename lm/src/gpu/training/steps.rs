//! The way back through the small steps between products: normalisation, activations, the embedding.

use std::sync::Arc;

use crate::gpu::driver::{Gpu, GpuError, Kernels, Launch};
use crate::gpu::sources::BACKWARD;
use crate::gpu::stream::threads;
use crate::gpu::{Element, View};
use crate::kernels::activation::Activation;

const THREADS: usize = 256;
/// The most blocks whose sums are added up.
const MOST_PARTS: usize = 512;
/// The fewest rows that a block adds up.
const FEWEST_ROWS: usize = 4;
/// Columns of a block of `sum_columns`.
const COLUMNS: usize = 32;
/// Columns of a block of `embed_backward`.
const EMBEDDED: usize = 256;

/// In a map of rows: none.
pub(crate) const NO_ROW: u32 = u32::MAX;

/// The kernels of `backward.cu`.
#[derive(Clone, Debug)]
pub(crate) struct Steps {
    kernels: Arc<dyn Kernels>,
    hidden: usize,
}

/// Where the sum of a gradient over rows goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sum {
    pub(crate) to: View<f32>,
    /// Whether it is added to what is there.
    pub(crate) adds: bool,
    /// Room for the blocks' sums: [`partial_len`] numbers.
    pub(crate) partial: View<f32>,
}

/// One way back through a normalisation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NormBackward {
    /// What was normalised.
    pub(crate) x: View<f32>,
    pub(crate) weight: View<Element>,
    /// What rows were multiplied by.
    pub(crate) scales: View<f32>,
    /// Which row of `scales` and `gradient` each row of `x` has, if not all have one in order: [`NO_ROW`] for those that have none.
    pub(crate) places: Option<View<u32>>,
    /// The gradient of what the normalisation gave.
    pub(crate) gradient: View<Element>,
    /// Whether `gradient` becomes what the normalisation gave.
    pub(crate) again: bool,
    /// The gradient of `x`; may be `x` itself.
    pub(crate) stream: View<f32>,
    /// Whether it is added to what is there.
    pub(crate) adds: bool,
    /// Gets the same as elements.
    pub(crate) rounded: View<Element>,
}

/// Numbers that the blocks' sums of rows of such a width take.
pub(crate) fn partial_len(rows: usize, width: usize) -> usize {
    parts(rows).0 * width
}

/// Blocks that rows are shared out to, and the rows of each.
pub(crate) fn parts(rows: usize) -> (usize, usize) {
    let each = rows.div_ceil(MOST_PARTS).max(FEWEST_ROWS);
    (rows.div_ceil(each), each)
}

impl Steps {
    /// Kernels for a stream of this width, a multiple of 8.
    pub(crate) fn new(gpu: &Gpu, hidden: usize) -> Result<Self, GpuError> {
        assert!(hidden.is_multiple_of(8));
        Ok(Self { kernels: gpu.compile(BACKWARD, &[("HIDDEN", hidden)])?, hidden })
    }

    /// The way back; `weight_sum` gets the gradient of the weight, where it is trained.
    pub(crate) fn norm_backward(&self, back: NormBackward, weight_sum: Option<Sum>) -> Result<(), GpuError> {
        let NormBackward { x, weight, scales, places, gradient, again, stream, adds, rounded } = back;
        let rows = x.len() / self.hidden;
        assert!(weight.len() == self.hidden && gradient.len() == scales.len() * self.hidden);
        assert!(places.map_or(scales.len(), View::len) == rows);
        assert!(stream.len() == x.len() && rounded.len() == x.len());
        let (blocks, each) = parts(rows);
        let partial = weight_sum.map(|sum| sum.partial.at(0..blocks * self.hidden));
        let arguments = [
            x.into(),
            weight.into(),
            scales.into(),
            places.into(),
            gradient.into(),
            stream.into(),
            rounded.into(),
            partial.into(),
            rows.into(),
            each.into(),
            u32::from(adds).into(),
            u32::from(again).into(),
        ];
        self.kernels.launch(
            "norm_backward",
            Launch::new([blocks, 1, 1], threads(self.hidden)),
            &arguments,
        )?;
        weight_sum.map_or(Ok(()), |sum| self.sum_columns(blocks, sum))
    }

    /// The sum of rows of elements: the gradient of a bias, given that of what it was added to.
    pub(crate) fn sum_rows(&self, gradient: View<Element>, sum: Sum) -> Result<(), GpuError> {
        let width = sum.to.len();
        let rows = gradient.len() / width;
        assert!(gradient.len() == rows * width && width.is_multiple_of(8));
        let (blocks, each) = parts(rows);
        let partial = sum.partial.at(0..blocks * width);
        let arguments = [gradient.into(), partial.into(), width.into(), rows.into(), each.into()];
        let threads = threads(width);
        let launch = Launch::new([blocks, width.div_ceil(8 * threads), 1], threads);
        self.kernels.launch("sum_rows", launch, &arguments)?;
        self.sum_columns(blocks, sum)
    }

    /// Adds up what so many blocks have left in `sum.partial`.
    pub(crate) fn sum_columns(&self, blocks: usize, sum: Sum) -> Result<(), GpuError> {
        let Sum { to, adds, partial } = sum;
        assert!(partial.len() >= blocks * to.len());
        let arguments = [partial.into(), to.into(), to.len().into(), blocks.into(), u32::from(adds).into()];
        let launch = Launch::new([to.len().div_ceil(COLUMNS), 1, 1], 256);
        self.kernels.launch("sum_columns", launch, &arguments)
    }

    /// The way back through an activation of rows that gave `width` elements each: `input` becomes its gradient, and `gradient`,
    /// that of what the activation gave, becomes what it gave.
    pub(crate) fn activate_backward(
        &self,
        activation: Activation,
        input: View<Element>,
        width: usize,
        gradient: View<Element>,
    ) -> Result<(), GpuError> {
        let rows = gradient.len() / width;
        assert!(gradient.len() == rows * width && width.is_multiple_of(8));
        assert!(input.len() == rows * activation.inputs() * width);
        let kernel = match activation {
            Activation::SwiGlu => "swiglu_backward",
            Activation::SquaredRelu => "squared_relu_backward",
        };
        let threads = threads(width);
        let launch = Launch::new([rows, width.div_ceil(8 * threads), 1], threads);
        self.kernels.launch(kernel, launch, &[input.into(), gradient.into(), width.into()])
    }

    /// Adds the rows of the stream's gradient to those of the embedding's: row `tokens[i]` gets the rows `places` from `ends[i - 1]`
    /// to `ends[i]`.
    pub(crate) fn embed_backward(
        &self,
        stream: View<f32>,
        tokens: View<u32>,
        ends: View<u32>,
        places: View<u32>,
        gradient: View<f32>,
    ) -> Result<(), GpuError> {
        assert!(tokens.len() == ends.len() && stream.len() == places.len() * self.hidden);
        assert!(gradient.len().is_multiple_of(self.hidden));
        let launch = Launch::new([tokens.len(), self.hidden.div_ceil(EMBEDDED), 1], EMBEDDED / 4);
        let arguments = [stream.into(), tokens.into(), ends.into(), places.into(), gradient.into()];
        self.kernels.launch("embed_backward", launch, &arguments)
    }

    /// Floats, multiplied, as elements.
    pub(crate) fn scaled(&self, from: View<f32>, to: View<Element>, factor: f32) -> Result<(), GpuError> {
        assert!(from.len() == to.len());
        let launch = Launch::new([to.len().div_ceil(THREADS), 1, 1], THREADS);
        self.kernels.launch("scaled", launch, &[from.into(), to.into(), factor.into(), to.len().into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::tests::{assert_close, gpus, noise};
    use crate::gpu::{Buffer, stream};
    use crate::kernels::{bias, norm};

    /// More rows than blocks add up at once, and a width that no block divides.
    #[test]
    fn normalisation_forward_and_back_is_that_of_the_cpu() {
        for tested in gpus() {
            for (rows, hidden) in [(11, 72), (3, 2120)] {
                normalise(&tested, rows, hidden);
            }
        }
    }

    fn normalise(tested: &crate::gpu::tests::Tested, rows: usize, hidden: usize) {
        let gpu = &tested.gpu;
        let (forward, steps) =
            (stream::Steps::new(gpu, hidden, 1e-5).unwrap(), Steps::new(gpu, hidden).unwrap());
        let (x, weight) = (noise(rows * hidden, 1), tested.rounded(&noise(hidden, 2)));
        let (before, before_weight) = (noise(rows * hidden, 3), noise(hidden, 4));
        let gradient = tested.rounded(&noise(rows * hidden, 5));
        let (mut normed, mut scales) = (vec![0.0; rows * hidden], vec![0.0; rows]);
        norm::rms_norm(&x, &weight, 1e-5, &mut normed, &mut scales);
        let (mut stream, mut weight_gradient) = (before.clone(), before_weight.clone());
        norm::rms_norm_backward(&x, &weight, &scales, &gradient, &mut stream, &mut weight_gradient);

        let whole = 0..rows * hidden;
        let floats = |numbers: &[f32]| Buffer::from(gpu, numbers).unwrap();
        let (x, on_stream, copy) = (floats(&x), floats(&before), floats(&before));
        let (weight_sum, kept) = (floats(&before_weight), floats(&scales));
        let partial = Buffer::<f32>::new(gpu, partial_len(rows, hidden)).unwrap();
        let weight = Buffer::rounded(gpu, &weight).unwrap();
        let out = Buffer::<Element>::new(gpu, rows * hidden).unwrap();
        let rounded = Buffer::<Element>::new(gpu, rows * hidden).unwrap();
        forward.norm(x.all(), None, weight.all(), out.all(), Some(kept.all()), Some(copy.all())).unwrap();
        assert_close(&out.download(whole.clone()).unwrap(), &normed, tested.bound(1e-6, 2e-2));
        assert_close(&kept.download(0..rows).unwrap(), &scales, 1e-6);
        assert_eq!(copy.download(whole.clone()).unwrap(), x.download(whole.clone()).unwrap());

        let out_before = out.download(whole.clone()).unwrap();
        out.upload(0, &gradient).unwrap();
        let back = NormBackward {
            x: x.all(),
            weight: weight.all(),
            scales: kept.all(),
            places: None,
            gradient: out.all(),
            again: true,
            stream: on_stream.all(),
            adds: true,
            rounded: rounded.all(),
        };
        let sum = Sum { to: weight_sum.all(), adds: true, partial: partial.all() };
        steps.norm_backward(back, Some(sum)).unwrap();
        let stream_there = on_stream.download(whole.clone()).unwrap();
        assert_close(&stream_there, &stream, 1e-5);
        assert_close(&rounded.download(whole.clone()).unwrap(), &stream, tested.bound(1e-5, 3e-2));
        assert_close(&weight_sum.download(0..hidden).unwrap(), &weight_gradient, 1e-4);
        // The products of the way back read the very bits that those of the way there read.
        assert_eq!(out.download(whole.clone()).unwrap(), out_before);

        // The last row and the first one alone, in that order; the gradient of the stream in the place of the stream.
        let read = vec![rows as u32 - 1, 0];
        let mut places = vec![NO_ROW; rows];
        for (place, &row) in read.iter().enumerate() {
            places[row as usize] = place as u32;
        }
        let read_rows = Buffer::from(gpu, &read).unwrap();
        let places = Buffer::from(gpu, &places).unwrap();
        let two = 0..2 * hidden;
        let read_out = out.at(two.clone());
        forward
            .norm(x.all(), Some(read_rows.all()), weight.all(), read_out, Some(kept.at(0..2)), None)
            .unwrap();
        let got = out.download(two.clone()).unwrap();
        assert_eq!(got[..hidden], out_before[(rows - 1) * hidden..]);
        assert_eq!(got[hidden..], out_before[..hidden]);
        out.upload(0, &gradient[..2 * hidden]).unwrap();
        let back = NormBackward {
            scales: kept.at(0..2),
            places: Some(places.all()),
            gradient: out.at(two.clone()),
            again: false,
            stream: x.all(),
            adds: false,
            ..back
        };
        let numbers = x.download(whole.clone()).unwrap();
        steps.norm_backward(back, Some(Sum { adds: false, ..sum })).unwrap();
        let mut expected = vec![0.0; rows * hidden];
        let mut weight_gradient = vec![0.0; hidden];
        let weight = weight.download(0..hidden).unwrap();
        for (place, &row) in read.iter().enumerate() {
            let at = row as usize * hidden..(row as usize + 1) * hidden;
            let from = place * hidden..(place + 1) * hidden;
            norm::rms_norm_backward(
                &numbers[at.clone()],
                &weight,
                &scales[row as usize..=row as usize],
                &gradient[from],
                &mut expected[at],
                &mut weight_gradient,
            );
        }
        assert_close(&x.download(whole).unwrap(), &expected, 1e-5);
        assert_close(&weight_sum.download(0..hidden).unwrap(), &weight_gradient, 1e-5);
        assert_eq!(out.download(two).unwrap(), tested.rounded(&gradient[..2 * hidden]));
    }

    #[test]
    fn activations_back_are_those_of_the_cpu() {
        for tested in gpus() {
            let steps = Steps::new(&tested.gpu, 8).unwrap();
            for activation in [Activation::SwiGlu, Activation::SquaredRelu] {
                let (rows, width) = (3, 2064);
                let input = tested.rounded(&noise(rows * activation.inputs() * width, 5));
                let gradient = tested.rounded(&noise(rows * width, 6));
                let (mut active, mut expected) = (vec![0.0; rows * width], input.clone());
                activation.forward(&input, width, &mut active);
                activation.backward(&mut expected, width, &gradient);
                let input = Buffer::rounded(&tested.gpu, &input).unwrap();
                let gradient = Buffer::rounded(&tested.gpu, &gradient).unwrap();
                steps.activate_backward(activation, input.all(), width, gradient.all()).unwrap();
                let bound = tested.bound(1e-6, 1e-2);
                assert_close(&input.download(0..expected.len()).unwrap(), &expected, bound);
                assert_close(&gradient.download(0..active.len()).unwrap(), &active, bound);
            }
        }
    }

    #[test]
    fn sums_of_rows_are_those_of_the_cpu() {
        for tested in gpus() {
            let steps = Steps::new(&tested.gpu, 8).unwrap();
            let (rows, width) = (23, 2088);
            let gradient = tested.rounded(&noise(rows * width, 5));
            let before = noise(width, 6);
            let mut expected = before.clone();
            bias::add_bias_backward(&gradient, &mut expected);
            let gradient = Buffer::rounded(&tested.gpu, &gradient).unwrap();
            let to = Buffer::from(&tested.gpu, &before).unwrap();
            let partial = Buffer::<f32>::new(&tested.gpu, partial_len(rows, width)).unwrap();
            let sum = Sum { to: to.all(), adds: true, partial: partial.all() };
            steps.sum_rows(gradient.all(), sum).unwrap();
            assert_close(&to.download(0..width).unwrap(), &expected, 1e-5);
            steps.sum_rows(gradient.all(), Sum { adds: false, ..sum }).unwrap();
            for (expected, before) in expected.iter_mut().zip(before) {
                *expected -= before;
            }
            assert_close(&to.download(0..width).unwrap(), &expected, 1e-5);
        }
    }

    #[test]
    fn the_gradient_of_the_embedding_has_every_place_of_a_token() {
        for tested in gpus() {
            let (gpu, hidden, vocabulary) = (&tested.gpu, 264, 7);
            let steps = Steps::new(gpu, hidden).unwrap();
            let (stream, before) = (noise(5 * hidden, 1), noise(vocabulary * hidden, 2));
            let buffer = |numbers: &[u32]| Buffer::from(gpu, numbers).unwrap();
            // Of five rows three have token 6, one has 0 and one 3.
            let (tokens, ends, places) = (buffer(&[0, 3, 6]), buffer(&[1, 2, 5]), buffer(&[2, 4, 0, 1, 3]));
            let mut expected = before.clone();
            for (row, token) in [6, 6, 0, 6, 3].into_iter().enumerate() {
                for column in 0..hidden {
                    expected[token * hidden + column] += stream[row * hidden + column];
                }
            }
            let stream = Buffer::from(gpu, &stream).unwrap();
            let gradient = Buffer::from(gpu, &before).unwrap();
            steps
                .embed_backward(stream.all(), tokens.all(), ends.all(), places.all(), gradient.all())
                .unwrap();
            assert_close(&gradient.download(0..expected.len()).unwrap(), &expected, 1e-6);
        }
    }
}
