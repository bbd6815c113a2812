//! Low-rank adapters: `y += scale · x·Aᵀ·Bᵀ` beside a projection whose weight stays what it is.

use std::ops::Range;

use super::Run;
use crate::gpu::driver::GpuError;
use crate::gpu::training::products::{self, Matrix, To};
use crate::gpu::{Element, View};
use crate::model::{Adapter, Adapters};

/// The adapters of a model, with their values on the GPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdaptersThere<'a> {
    /// Where they lie; its own values are not read.
    pub(crate) shape: &'a Adapters,
    pub(crate) values: View<Element>,
}

impl AdaptersThere<'_> {
    fn a(&self, adapter: &Adapter) -> Matrix {
        Matrix::new(self.values.at(adapter.a.clone()), adapter.inputs)
    }

    fn b(&self, adapter: &Adapter) -> Matrix {
        Matrix::new(self.values.at(adapter.b.clone()), adapter.rank)
    }

    /// A product with as many columns as the adapter has ranks, times the scale.
    fn narrow(
        &self,
        run: &Run<'_>,
        adapter: &Adapter,
        rows: usize,
        product: impl FnOnce(To) -> Result<(), GpuError>,
    ) -> Result<Matrix, GpuError> {
        let places = 0..rows * adapter.rank;
        let (sums, narrow) = (run.pass.narrow_sums.at(places.clone()), run.pass.narrow.at(places));
        product(To::floats(sums, adapter.rank, adapter.rank))?;
        run.tape.steps.scaled(sums, narrow, self.shape.scale())?;
        Ok(Matrix::new(narrow, adapter.rank))
    }

    /// Adds what the adapters of the weights at `places` give for the rows of `x`.
    pub(super) fn forward(
        &self,
        run: &Run<'_>,
        places: &Range<usize>,
        x: Matrix,
        to: To,
    ) -> Result<(), GpuError> {
        let gpu = &run.tape.gpu;
        for (adapter, first) in self.shape.within(places) {
            let narrow =
                self.narrow(run, adapter, x.rows(), |to| products::project(gpu, x, self.a(adapter), to))?;
            products::project(gpu, narrow, self.b(adapter), to.columns(first, adapter.outputs).adding(true))?;
        }
        Ok(())
    }

    /// Adds to the gradient of x, given that of the projection's output.
    pub(super) fn input_gradient(
        &self,
        run: &Run<'_>,
        places: &Range<usize>,
        gradient: Matrix,
        x_gradient: Matrix,
    ) -> Result<(), GpuError> {
        let gpu = &run.tape.gpu;
        for (adapter, first) in self.shape.within(places) {
            let narrow = self.narrow_gradient(run, adapter, gradient.columns(first, adapter.outputs))?;
            products::of_input(gpu, narrow, self.a(adapter), To::elements(x_gradient).adding(true))?;
        }
        Ok(())
    }

    /// The gradients of A and B, at their places in `to`; they are added to what is there, if `adds`.
    pub(super) fn weight_gradient(
        &self,
        run: &Run<'_>,
        places: &Range<usize>,
        gradient: Matrix,
        x: Matrix,
        to: View<f32>,
        adds: bool,
    ) -> Result<(), GpuError> {
        let gpu = &run.tape.gpu;
        for (adapter, first) in self.shape.within(places) {
            let gradient = gradient.columns(first, adapter.outputs);
            let at = |places: &Range<usize>, columns| {
                To::floats(to.at(places.clone()), columns, columns).adding(adds)
            };
            let narrow =
                self.narrow(run, adapter, x.rows(), |to| products::project(gpu, x, self.a(adapter), to))?;
            products::of_weight(gpu, gradient, narrow, at(&adapter.b, adapter.rank))?;
            let narrow = self.narrow_gradient(run, adapter, gradient)?;
            products::of_weight(gpu, narrow, x, at(&adapter.a, adapter.inputs))?;
        }
        Ok(())
    }

    fn narrow_gradient(
        &self,
        run: &Run<'_>,
        adapter: &Adapter,
        gradient: Matrix,
    ) -> Result<Matrix, GpuError> {
        let product = |to| products::of_input(&run.tape.gpu, gradient, self.b(adapter), to);
        self.narrow(run, adapter, gradient.rows(), product)
    }
}
