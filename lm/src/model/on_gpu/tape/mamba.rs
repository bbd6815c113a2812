//! A Mamba-2 block in training.

use std::ops::Range;

use super::{Gradients, Run};
use crate::gpu::driver::GpuError;
use crate::gpu::training::mamba::{BlockWeights, Chunks, MambaKept, MambaSteps};
use crate::gpu::training::products::{Matrix, To};
use crate::gpu::training::steps::Sum;
use crate::model::MambaPlaces;

impl Run<'_> {
    /// The kernels and chunks of a model that has Mamba blocks.
    fn mamba(&self) -> (&MambaSteps, &Chunks) {
        let steps = self.tape.mamba.as_ref().expect("a model with Mamba blocks has their kernels");
        (steps, self.chunks.as_ref().expect("and its passes are cut into chunks"))
    }

    fn mamba_weights(&self, index: usize, places: &MambaPlaces) -> BlockWeights {
        BlockWeights {
            taps: self.weight(&places.convolution),
            convolution_bias: places.convolution_bias.as_ref().map(|bias| self.weight(bias)),
            vectors: self.tape.vectors_of(index),
            norm: self.weight(&places.norm),
        }
    }

    pub(super) fn mamba_forward(
        &self,
        index: usize,
        places: &MambaPlaces,
        kept: MambaKept,
        normed: Matrix,
    ) -> Result<(), GpuError> {
        let (steps, chunks) = self.mamba();
        let projected = Matrix::new(kept.projected, places.shape.row());
        self.project(&places.inward, normed, To::elements(projected))?;
        steps.forward(kept, self.mamba_weights(index, places), chunks, &self.pass.mamba)
    }

    pub(super) fn mamba_add(
        &self,
        index: usize,
        places: &MambaPlaces,
        kept: MambaKept,
        to: To,
    ) -> Result<(), GpuError> {
        let gated = self.pass.mamba.gated;
        self.mamba().0.gate(kept, self.mamba_weights(index, places), gated)?;
        self.project(&places.output, Matrix::new(gated, places.shape.inner()), to)
    }

    pub(super) fn mamba_backward(
        &self,
        index: usize,
        places: &MambaPlaces,
        kept: MambaKept,
        norm_back: impl FnOnce() -> Result<(), GpuError>,
        to: Gradients,
    ) -> Result<(), GpuError> {
        let ((steps, chunks), room) = (self.mamba(), &self.pass.mamba);
        let (hidden, weights) = (self.tape.shape.hidden, self.mamba_weights(index, places));
        let (gradient, normed) =
            (Matrix::new(self.pass.rounded, hidden), Matrix::new(self.pass.normed, hidden));
        let gated = Matrix::new(room.gated, places.shape.inner());
        let sum = |places: &Range<usize>| Some(Sum { partial: room.partial, ..self.sum(places, to)? });
        self.input_gradient(&places.output, gradient, gated)?;
        steps.gate_backward(&self.tape.steps, kept, weights, room, sum(&places.norm))?;
        self.weight_gradient(&places.output, gradient, gated, to)?;
        // Neighbours among the weights get their gradients together.
        let convolution_end = places.convolution_bias.as_ref().unwrap_or(&places.convolution).end;
        let sums = [places.step_bias.start..places.d.end, places.convolution.start..convolution_end]
            .map(|places| sum(&places));
        steps.backward(&self.tape.steps, kept, weights, chunks, room, sums)?;
        let projected = Matrix::new(room.projected_gradient, places.shape.row());
        self.input_gradient(&places.inward, projected, normed)?;
        norm_back()?;
        self.weight_gradient(&places.inward, projected, normed, to)
    }
}
