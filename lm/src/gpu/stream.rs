//! The small steps between products, forward: embedding, normalisation, activations.

use std::sync::Arc;

use super::driver::{Argument, Gpu, GpuError, Kernels, Launch};
use super::sources::STREAM;
use super::{Element, View};
use crate::kernels::activation::Activation;

/// The most threads of a block.
const THREADS: usize = 256;

/// What stands for a token that only the GPU knows yet.
pub(crate) const NO_TOKEN: u32 = u32::MAX;

/// Tokens that lie on the GPU, one for every seat.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seated {
    /// The seat of each row.
    pub(crate) seats: View<u32>,
    /// The token of each seat.
    pub(crate) tokens: View<u32>,
}

/// The kernels of `stream.cu`.
#[derive(Clone, Debug)]
pub(crate) struct Steps {
    kernels: Arc<dyn Kernels>,
    hidden: usize,
    /// Added to mean squares.
    epsilon: f32,
}

/// The threads that share a row of so many elements, eight each and as often as it takes.
pub(crate) fn threads(width: usize) -> usize {
    (width / 8).next_multiple_of(32).min(THREADS)
}

impl Steps {
    /// Kernels for a stream of this width, a multiple of 8.
    pub(crate) fn new(gpu: &Gpu, hidden: usize, epsilon: f32) -> Result<Self, GpuError> {
        assert!(hidden.is_multiple_of(8));
        Ok(Self { kernels: gpu.compile(STREAM, &[("HIDDEN", hidden)])?, hidden, epsilon })
    }

    /// What is added to mean squares.
    pub(crate) fn epsilon(&self) -> f32 {
        self.epsilon
    }

    /// The rows of the embedding that `tokens` name, as floats. A row whose token is [`NO_TOKEN`] has the one that lies where its
    /// seat is.
    pub(crate) fn embed(
        &self,
        embedding: View<Element>,
        tokens: View<u32>,
        seated: Option<Seated>,
        x: View<f32>,
    ) -> Result<(), GpuError> {
        let hidden = self.hidden;
        assert!(x.len() == tokens.len() * hidden && embedding.len().is_multiple_of(hidden));
        assert!(seated.is_none_or(|seated| seated.seats.len() == tokens.len()));
        let [seats, tokens_seated] =
            [seated.map(|seated| seated.seats), seated.map(|seated| seated.tokens)].map(Argument::from);
        let arguments = [embedding.into(), tokens.into(), seats, tokens_seated, x.into(), hidden.into()];
        self.kernels.launch("embed", Launch::new([tokens.len(), 1, 1], THREADS), &arguments)
    }

    /// Divides the rows of x, or of it those that `rows` names, by their root mean square and scales them by a weight. `scales` gets
    /// what they were multiplied by, and `copy` what they were.
    pub(crate) fn norm(
        &self,
        x: View<f32>,
        rows: Option<View<u32>>,
        weight: View<Element>,
        out: View<Element>,
        scales: Option<View<f32>>,
        copy: Option<View<f32>>,
    ) -> Result<(), GpuError> {
        let count = out.len() / self.hidden;
        assert!(weight.len() == self.hidden && out.len() == count * self.hidden);
        assert!(rows.map_or(x.len() / self.hidden, View::len) == count);
        assert!(scales.is_none_or(|scales| scales.len() == count));
        assert!(copy.is_none_or(|copy| copy.len() == out.len()));
        let arguments = [
            x.into(),
            rows.into(),
            weight.into(),
            out.into(),
            scales.into(),
            copy.into(),
            self.epsilon.into(),
        ];
        self.kernels.launch("rms_norm", Launch::new([count, 1, 1], threads(self.hidden)), &arguments)
    }

    /// An activation of rows that give `width` elements each, a multiple of 8.
    pub(crate) fn activate(
        &self,
        activation: Activation,
        input: View<Element>,
        width: usize,
        out: View<Element>,
    ) -> Result<(), GpuError> {
        let rows = out.len() / width;
        let inputs = activation.inputs() * width;
        assert!(out.len() == rows * width && input.len() == rows * inputs && width.is_multiple_of(8));
        let kernel = match activation {
            Activation::SwiGlu => "swiglu",
            Activation::SquaredRelu => "squared_relu",
        };
        let launch = Launch::new([rows, width.div_ceil(8 * threads(width)), 1], threads(width));
        self.kernels.launch(kernel, launch, &[input.into(), out.into(), width.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Buffer;
    use crate::gpu::tests::{assert_close, gpus, noise};
    use crate::kernels::norm;

    #[test]
    fn normalisation_and_activations_are_those_of_the_cpu() {
        for tested in gpus() {
            let gpu = &tested.gpu;
            let (rows, hidden) = (5, 72);
            let steps = Steps::new(gpu, hidden, 1e-5).unwrap();
            let (x, weight) = (noise(rows * hidden, 1), tested.rounded(&noise(hidden, 2)));
            let out = Buffer::<Element>::new(gpu, rows * hidden).unwrap();
            let scales = Buffer::<f32>::new(gpu, rows).unwrap();
            let (on_gpu, weight_on_gpu) =
                (Buffer::from(gpu, &x).unwrap(), Buffer::rounded(gpu, &weight).unwrap());
            steps.norm(on_gpu.all(), None, weight_on_gpu.all(), out.all(), Some(scales.all()), None).unwrap();
            let (mut expected, mut expected_scales) = (vec![0.0; rows * hidden], vec![0.0; rows]);
            norm::rms_norm(&x, &weight, 1e-5, &mut expected, &mut expected_scales);
            assert_close(&out.download(0..rows * hidden).unwrap(), &expected, tested.bound(1e-6, 1e-2));
            assert_close(&scales.download(0..rows).unwrap(), &expected_scales, 1e-6);

            for activation in [Activation::SwiGlu, Activation::SquaredRelu] {
                let width = 2064;
                let input = tested.rounded(&noise(3 * activation.inputs() * width, 5));
                let mut expected = vec![0.0; 3 * width];
                activation.forward(&input, width, &mut expected);
                let out = Buffer::<Element>::new(gpu, expected.len()).unwrap();
                let input = Buffer::rounded(gpu, &input).unwrap();
                steps.activate(activation, input.all(), width, out.all()).unwrap();
                let got = out.download(0..expected.len()).unwrap();
                assert_close(&got, &expected, tested.bound(1e-6, 5e-3));
            }
        }
    }
}
