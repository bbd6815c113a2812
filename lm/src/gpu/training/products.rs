//! The three products of a projection in training, each of some columns of wider matrices.

use crate::gpu::driver::{Address, Gpu, GpuError, Product};
use crate::gpu::{Element, View};

/// A matrix of elements: some columns of rows that start `stride` apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    view: View<Element>,
    rows: usize,
    columns: usize,
    stride: usize,
}

impl Matrix {
    /// Rows without gaps.
    pub(crate) fn new(view: View<Element>, columns: usize) -> Self {
        assert!(view.len().is_multiple_of(columns), "{} elements in rows of {columns}", view.len());
        Self { view, rows: view.len() / columns, columns, stride: columns }
    }

    /// So many columns from `first` on.
    pub(crate) fn columns(self, first: usize, columns: usize) -> Self {
        assert!(first + columns <= self.columns);
        let end = (self.rows - 1) * self.stride + first + columns;
        Self { view: self.view.at(first..end), columns, ..self }
    }

    pub(crate) fn rows(self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub(crate) fn width(self) -> usize {
        self.columns
    }
}

/// Where a product goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct To {
    address: Address,
    unit_bytes: usize,
    stride: usize,
    /// Rows and columns there.
    shape: [usize; 2],
    floats: bool,
    adds: bool,
}

impl To {
    /// Replaces elements.
    pub(crate) fn elements(matrix: Matrix) -> Self {
        Self {
            address: matrix.view.address(),
            unit_bytes: matrix.view.bytes() / matrix.view.len(),
            stride: matrix.stride,
            shape: [matrix.rows, matrix.columns],
            floats: false,
            adds: false,
        }
    }

    /// Replaces floats: rows of `columns`, which start `stride` apart.
    pub(crate) fn floats(view: View<f32>, columns: usize, stride: usize) -> Self {
        assert!(columns <= stride && view.len().is_multiple_of(stride));
        Self {
            address: view.address(),
            unit_bytes: size_of::<f32>(),
            stride,
            shape: [view.len() / stride, columns],
            floats: true,
            adds: false,
        }
    }

    /// So many columns from `first` on.
    pub(crate) fn columns(self, first: usize, columns: usize) -> Self {
        assert!(first + columns <= self.shape[1]);
        let address = self.address + (first * self.unit_bytes) as Address;
        Self { address, shape: [self.shape[0], columns], ..self }
    }

    /// Adds to what is there, if `adds`.
    pub(crate) fn adding(self, adds: bool) -> Self {
        Self { adds, ..self }
    }
}

/// x · weightᵀ, the weight with a row per output.
pub(crate) fn project(gpu: &Gpu, x: Matrix, weight: Matrix, to: To) -> Result<(), GpuError> {
    assert_eq!((to.shape, x.columns), ([x.rows, weight.rows], weight.columns));
    multiply(gpu, x.columns, (x, false), (weight, true), to)
}

/// gradient · weight: the gradient of x, given that of the projection.
pub(crate) fn of_input(gpu: &Gpu, gradient: Matrix, weight: Matrix, to: To) -> Result<(), GpuError> {
    assert_eq!((to.shape, gradient.columns), ([gradient.rows, weight.columns], weight.rows));
    multiply(gpu, gradient.columns, (gradient, false), (weight, false), to)
}

/// gradientᵀ · x: the gradient of the weight.
pub(crate) fn of_weight(gpu: &Gpu, gradient: Matrix, x: Matrix, to: To) -> Result<(), GpuError> {
    assert_eq!((to.shape, gradient.rows), ([gradient.columns, x.columns], x.rows));
    multiply(gpu, x.rows, (gradient, true), (x, false), to)
}

fn multiply(
    gpu: &Gpu,
    inner: usize,
    left: (Matrix, bool),
    right: (Matrix, bool),
    to: To,
) -> Result<(), GpuError> {
    let operand = |(Matrix { view, stride, .. }, transposed): (Matrix, bool)| {
        if transposed { view.columns(stride) } else { view.rows(stride) }
    };
    let [rows, columns] = to.shape;
    gpu.multiply(&Product {
        rows,
        columns,
        inner,
        left: operand(left),
        right: operand(right),
        to: to.address,
        stride: to.stride,
        to_floats: to.floats,
        accumulate: to.adds,
    })
}
