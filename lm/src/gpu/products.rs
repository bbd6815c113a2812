//! Products of rows with the weights of a projection.

use std::sync::Arc;

use super::driver::{Argument, Gpu, GpuError, Kernels, Launch, Product};
use super::sources::FEW;
use super::{Buffer, Element, View};

/// Up to so many rows a product is bound by reading the weights, and our kernel reads them faster than the library's.
const FEW_ROWS: usize = 8;
/// Outputs of one block of the kernel.
const OUTPUTS: usize = 4;
const THREADS: usize = 128;

/// Where a product goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum To {
    /// Elements are written.
    Elements(View<Element>),
    /// Floats are written.
    Floats(View<f32>),
    /// Floats are added to.
    Added(View<f32>),
}

/// The kernels for few rows.
#[derive(Clone, Debug)]
pub(crate) struct Products {
    gpu: Gpu,
    few: Arc<dyn Kernels>,
}

/// The weights of one projection or of several from the same input: a row per output.
#[derive(Debug)]
pub(crate) struct Projection {
    weights: Buffer<Element>,
    inputs: usize,
}

impl Projection {
    /// Takes weights that are a row per output.
    pub(crate) fn new(weights: Buffer<Element>, inputs: usize) -> Self {
        assert!(weights.len().is_multiple_of(inputs), "{} weights in rows of {inputs}", weights.len());
        Self { weights, inputs }
    }

    /// Elements of a row of what it gives.
    pub(crate) fn outputs(&self) -> usize {
        self.weights.len() / self.inputs
    }

    /// The weights.
    pub(crate) fn weights(&self) -> View<Element> {
        self.weights.all()
    }
}

impl Products {
    pub(crate) fn new(gpu: &Gpu) -> Result<Self, GpuError> {
        Ok(Self { gpu: gpu.clone(), few: gpu.compile(FEW, &[])? })
    }

    /// The product of the rows of `x` with a projection.
    pub(crate) fn apply(&self, projection: &Projection, x: View<Element>, to: To) -> Result<(), GpuError> {
        let (inputs, outputs) = (projection.inputs, projection.outputs());
        let rows = x.len() / inputs;
        let room = match to {
            To::Elements(view) => view.len(),
            To::Floats(view) | To::Added(view) => view.len(),
        };
        assert!(x.len() == rows * inputs && room == rows * outputs, "a product of {rows} rows");
        if rows <= FEW_ROWS && inputs.is_multiple_of(8) {
            return self.few(projection, x, rows, to);
        }
        let (to, to_floats, accumulate) = match to {
            To::Elements(view) => (view.address(), false, false),
            To::Floats(view) => (view.address(), true, false),
            To::Added(view) => (view.address(), true, true),
        };
        self.gpu.multiply(&Product {
            rows,
            columns: outputs,
            inner: inputs,
            left: x.rows(inputs),
            right: projection.weights().columns(inputs),
            to,
            stride: outputs,
            to_floats,
            accumulate,
        })
    }

    fn few(&self, projection: &Projection, x: View<Element>, rows: usize, to: To) -> Result<(), GpuError> {
        let outputs = projection.outputs();
        let kernel = match rows {
            1 => "few_1",
            2 => "few_2",
            3..=4 => "few_4",
            _ => "few_8",
        };
        let none = Argument::Address(0);
        let (elements, floats, kind) = match to {
            To::Elements(view) => (view.into(), none, 0_u32),
            To::Floats(view) => (none, view.into(), 1),
            To::Added(view) => (none, view.into(), 2),
        };
        let arguments = [
            x.into(),
            projection.weights().into(),
            elements,
            floats,
            rows.into(),
            outputs.into(),
            projection.inputs.into(),
            outputs.into(),
            kind.into(),
        ];
        self.few.launch(kernel, Launch::new([outputs.div_ceil(OUTPUTS), 1, 1], THREADS), &arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::tests::{assert_close, gpus, noise};
    use crate::kernels::matmul::{Into, Matrix, matmul};

    #[test]
    fn products_are_those_of_the_cpu_for_any_number_of_rows() {
        for tested in gpus() {
            let products = Products::new(&tested.gpu).unwrap();
            for (rows, inputs, outputs) in
                [(1, 40, 7), (2, 1096, 5), (3, 64, 12), (8, 520, 9), (11, 48, 6), (2, 12, 3)]
            {
                let x = tested.rounded(&noise(rows * inputs, 1));
                let weights = tested.rounded(&noise(outputs * inputs, 2));
                let before = noise(rows * outputs, 3);
                let mut expected = vec![0.0; rows * outputs];
                let right = Matrix::new(&weights, outputs, inputs).transposed();
                matmul(&mut expected, Matrix::new(&x, rows, inputs), right, Into::Replace);

                let projection = Projection::new(Buffer::rounded(&tested.gpu, &weights).unwrap(), inputs);
                let x = Buffer::rounded(&tested.gpu, &x).unwrap();
                let (elements, floats, added) = (
                    Buffer::<Element>::new(&tested.gpu, expected.len()).unwrap(),
                    Buffer::<f32>::new(&tested.gpu, expected.len()).unwrap(),
                    Buffer::from(&tested.gpu, &before).unwrap(),
                );
                products.apply(&projection, x.all(), To::Elements(elements.all())).unwrap();
                products.apply(&projection, x.all(), To::Floats(floats.all())).unwrap();
                products.apply(&projection, x.all(), To::Added(added.all())).unwrap();
                let whole = 0..expected.len();
                let scale = (inputs as f32).sqrt();
                let got = elements.download(whole.clone()).unwrap();
                assert_close(&got, &expected, tested.bound(1e-6, 1e-2) * scale);
                assert_close(&floats.download(whole.clone()).unwrap(), &expected, 1e-6 * scale);
                for (expected, before) in expected.iter_mut().zip(before) {
                    *expected += before;
                }
                assert_close(&added.download(whole).unwrap(), &expected, 1e-6 * scale);
            }
        }
    }
}
