//! Products of rows with the weights of a projection.

use std::sync::Arc;

use super::driver::{Argument, Gpu, GpuError, Kernels, Launch, Product};
use super::sources::FEW;
use super::stream::Steps;
use super::{Buffer, Element, View};
use crate::kernels::activation::Activation;

/// Up to so many rows a product is bound by reading the weights, and our kernel reads them faster than the library's.
const FEW_ROWS: usize = 8;
/// Outputs of one block of the kernel.
const OUTPUTS: usize = 4;
const THREADS: usize = 128;

/// What is multiplied.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    /// Elements as they are.
    Elements(View<Element>),
    /// Rows divided by their root mean square and scaled by a weight.
    Normed {
        x: View<f32>,
        weight: View<Element>,
        /// Room for them.
        room: View<Element>,
    },
    /// What an activation makes of rows.
    Active {
        activation: Activation,
        x: View<Element>,
        /// Room for that.
        room: View<Element>,
    },
}

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

/// Multiplies.
#[derive(Clone, Debug)]
pub(crate) struct Products {
    gpu: Gpu,
    few: Arc<dyn Kernels>,
    steps: Steps,
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

    /// Elements of a row that it takes.
    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// The weights.
    pub(crate) fn weights(&self) -> View<Element> {
        self.weights.all()
    }
}

impl From {
    /// The rows, of which a projection takes `inputs` elements each.
    fn rows(self, inputs: usize) -> usize {
        let rows = match self {
            Self::Elements(x) => x.len() / inputs,
            Self::Normed { x, .. } => x.len() / inputs,
            Self::Active { room, .. } => room.len() / inputs,
        };
        let is_whole = match self {
            Self::Elements(x) => x.len() == rows * inputs,
            Self::Normed { x, weight, room, .. } => {
                (x.len(), weight.len(), room.len()) == (rows * inputs, inputs, rows * inputs)
            }
            Self::Active { activation, x, room } => {
                (x.len(), room.len()) == (rows * inputs * activation.inputs(), rows * inputs)
            }
        };
        assert!(is_whole, "rows of {inputs} elements");
        rows
    }
}

impl To {
    fn len(self) -> usize {
        match self {
            Self::Elements(view) => view.len(),
            Self::Floats(view) | Self::Added(view) => view.len(),
        }
    }
}

impl Products {
    /// Products of a model with these steps.
    pub(crate) fn new(gpu: &Gpu, steps: Steps) -> Result<Self, GpuError> {
        Ok(Self { gpu: gpu.clone(), few: gpu.compile(FEW, &[])?, steps })
    }

    /// The product of rows with a projection.
    pub(crate) fn apply(&self, projection: &Projection, from: From, to: To) -> Result<(), GpuError> {
        let (inputs, outputs) = (projection.inputs, projection.outputs());
        let rows = from.rows(inputs);
        assert!(to.len() == rows * outputs, "a product of {rows} rows");
        if rows <= FEW_ROWS && inputs.is_multiple_of(8) {
            return self.few(projection, from, rows, to);
        }
        let x = match from {
            From::Elements(x) => x,
            From::Normed { x, weight, room } => {
                self.steps.norm(x, None, weight, room, None, None)?;
                room
            }
            From::Active { activation, x, room } => {
                self.steps.activate(activation, x, inputs, room)?;
                room
            }
        };
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

    fn few(&self, projection: &Projection, from: From, rows: usize, to: To) -> Result<(), GpuError> {
        let outputs = projection.outputs();
        let size = match rows {
            1 => 0,
            2 => 1,
            3..=4 => 2,
            _ => 3,
        };
        let (kernels, mut arguments): (_, Vec<Argument>) = match from {
            From::Elements(x) => (["few_1", "few_2", "few_4", "few_8"], vec![x.into()]),
            From::Normed { x, weight, .. } => (
                ["few_normed_1", "few_normed_2", "few_normed_4", "few_normed_8"],
                vec![x.into(), weight.into(), self.steps.epsilon().into()],
            ),
            From::Active { activation: Activation::SwiGlu, x, .. } => {
                (["few_gated_1", "few_gated_2", "few_gated_4", "few_gated_8"], vec![x.into()])
            }
            From::Active { activation, x, room } => {
                self.steps.activate(activation, x, projection.inputs, room)?;
                return self.few(projection, From::Elements(room), rows, to);
            }
        };
        let (elements, floats, kind) = match to {
            To::Elements(view) => (view.into(), Argument::NONE, 0_u32),
            To::Floats(view) => (Argument::NONE, view.into(), 1),
            To::Added(view) => (Argument::NONE, view.into(), 2),
        };
        arguments.extend([
            projection.weights().into(),
            elements,
            floats,
            rows.into(),
            outputs.into(),
            projection.inputs.into(),
            kind.into(),
        ]);
        self.few.launch(kernels[size], Launch::new([outputs.div_ceil(OUTPUTS), 1, 1], THREADS), &arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::tests::{assert_close, gpus, noise};
    use crate::kernels::matmul::{Into, Matrix, matmul};
    use crate::kernels::norm::rms_norm;

    /// What the CPU makes of the same rows.
    fn product(x: &[f32], weights: &[f32], inputs: usize) -> Vec<f32> {
        let (rows, outputs) = (x.len() / inputs, weights.len() / inputs);
        let mut product = vec![0.0; rows * outputs];
        let right = Matrix::new(weights, outputs, inputs).transposed();
        matmul(&mut product, Matrix::new(x, rows, inputs), right, Into::Replace);
        product
    }

    #[test]
    fn products_are_those_of_the_cpu_for_any_number_of_rows() {
        for tested in gpus() {
            let steps = Steps::new(&tested.gpu, 8, 1e-5).unwrap();
            let products = Products::new(&tested.gpu, steps).unwrap();
            for (rows, inputs, outputs) in
                [(1, 40, 7), (2, 1096, 5), (3, 64, 12), (8, 520, 9), (11, 48, 6), (2, 12, 3)]
            {
                let x = tested.rounded(&noise(rows * inputs, 1));
                let weights = tested.rounded(&noise(outputs * inputs, 2));
                let before = noise(rows * outputs, 3);
                let mut expected = product(&x, &weights, inputs);
                let projection = Projection::new(Buffer::rounded(&tested.gpu, &weights).unwrap(), inputs);
                let x = Buffer::rounded(&tested.gpu, &x).unwrap();
                let (elements, floats, added) = (
                    Buffer::<Element>::new(&tested.gpu, expected.len()).unwrap(),
                    Buffer::<f32>::new(&tested.gpu, expected.len()).unwrap(),
                    Buffer::from(&tested.gpu, &before).unwrap(),
                );
                let from = From::Elements(x.all());
                products.apply(&projection, from, To::Elements(elements.all())).unwrap();
                products.apply(&projection, from, To::Floats(floats.all())).unwrap();
                products.apply(&projection, from, To::Added(added.all())).unwrap();
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

    #[test]
    fn what_is_multiplied_may_be_made_on_the_way() {
        for tested in gpus() {
            let gpu = &tested.gpu;
            let products = Products::new(gpu, Steps::new(gpu, 72, 1e-2).unwrap()).unwrap();
            for rows in [1, 2, 4, 7, 9] {
                let (inputs, outputs) = (72, 10);
                let weights = tested.rounded(&noise(outputs * inputs, 2));
                let projection = Projection::new(Buffer::rounded(gpu, &weights).unwrap(), inputs);
                let room = Buffer::<Element>::new(gpu, rows * inputs).unwrap();
                let floats = Buffer::<f32>::new(gpu, rows * outputs).unwrap();
                let check = |from, x: &[f32]| {
                    products.apply(&projection, from, To::Floats(floats.all())).unwrap();
                    let got = floats.download(0..rows * outputs).unwrap();
                    assert_close(&got, &product(x, &weights, inputs), tested.bound(1e-5, 5e-2));
                };
                let (x, weight) = (noise(rows * inputs, 3), tested.rounded(&noise(inputs, 4)));
                let mut normed = vec![0.0; x.len()];
                rms_norm(&x, &weight, 1e-2, &mut normed, &mut vec![0.0; rows]);
                let (x, weight) = (Buffer::from(gpu, &x).unwrap(), Buffer::rounded(gpu, &weight).unwrap());
                let room = room.all();
                let from = From::Normed { x: x.all(), weight: weight.all(), room };
                check(from, &normed);
                for activation in [Activation::SwiGlu, Activation::SquaredRelu] {
                    let x = tested.rounded(&noise(rows * inputs * activation.inputs(), 5));
                    let mut active = vec![0.0; rows * inputs];
                    activation.forward(&x, inputs, &mut active);
                    let x = Buffer::rounded(gpu, &x).unwrap();
                    check(From::Active { activation, x: x.all(), room }, &active);
                }
            }
        }
    }
}
