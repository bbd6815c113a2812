//! The small steps between products, forward: embedding, normalisation, activations.

use std::sync::Arc;

use super::driver::{Argument, Gpu, GpuError, Kernels, Launch};
use super::sources::STREAM;
use super::{Element, View};
use crate::kernels::activation::Activation;

const THREADS: usize = 256;
/// The most rows of one launch: a limit of grids.
const MOST_ROWS: usize = 65_535;

/// The kernels of `stream.cu`.
#[derive(Clone, Debug)]
pub(crate) struct Steps(Arc<dyn Kernels>);

impl Steps {
    pub(crate) fn new(gpu: &Gpu) -> Result<Self, GpuError> {
        gpu.compile(STREAM, &[]).map(Self)
    }

    /// The rows of the embedding that `tokens` name, as floats.
    pub(crate) fn embed(
        &self,
        embedding: View<Element>,
        tokens: View<u32>,
        x: View<f32>,
    ) -> Result<(), GpuError> {
        let hidden = x.len() / tokens.len();
        assert!(x.len() == tokens.len() * hidden && embedding.len().is_multiple_of(hidden));
        let arguments = [embedding.into(), tokens.into(), x.into(), hidden.into()];
        self.0.launch("embed", Launch::new([tokens.len(), 1, 1], THREADS), &arguments)
    }

    /// Rows divided by their root mean square and scaled by `weight`; `scales` gets what they were multiplied by.
    pub(crate) fn rms_norm(
        &self,
        x: View<f32>,
        weight: View<Element>,
        epsilon: f32,
        out: View<Element>,
        scales: Option<View<f32>>,
    ) -> Result<(), GpuError> {
        let (hidden, rows) = (weight.len(), x.len() / weight.len());
        assert!(x.len() == rows * hidden && out.len() == x.len());
        assert!(scales.is_none_or(|scales| scales.len() == rows));
        let scales = scales.map_or(Argument::Address(0), Argument::from);
        let arguments = [x.into(), weight.into(), out.into(), scales, hidden.into(), epsilon.into()];
        self.0.launch("rms_norm", Launch::new([rows, 1, 1], THREADS), &arguments)
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
        for first in (0..rows).step_by(MOST_ROWS) {
            let last = (first + MOST_ROWS).min(rows);
            let arguments = [
                input.at(first * inputs..last * inputs).into(),
                out.at(first * width..last * width).into(),
                width.into(),
            ];
            let blocks = width.div_ceil(8 * THREADS);
            self.0.launch(kernel, Launch::new([blocks, last - first, 1], THREADS), &arguments)?;
        }
        Ok(())
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
            let steps = Steps::new(gpu).unwrap();
            let (rows, hidden) = (5, 72);
            let (x, weight) = (noise(rows * hidden, 1), tested.rounded(&noise(hidden, 2)));
            let out = Buffer::<Element>::new(gpu, rows * hidden).unwrap();
            let scales = Buffer::<f32>::new(gpu, rows).unwrap();
            let (on_gpu, weight_on_gpu) =
                (Buffer::from(gpu, &x).unwrap(), Buffer::rounded(gpu, &weight).unwrap());
            steps.rms_norm(on_gpu.all(), weight_on_gpu.all(), 1e-5, out.all(), Some(scales.all())).unwrap();
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
