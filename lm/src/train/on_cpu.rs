//! Training on the threads of the current pool.

use std::borrow::Cow;

use super::TrainError;
use super::engine::{Engine, State};
use crate::loss::{CrossEntropy, Head};
use crate::model::{Adapters, Batch, Config, Gradients, Places, Recompute, Tape, Weights};
use crate::optimizer::{AdamW, Moments, Step, global_norm, update};

/// Tokens computed at once.
const PASS: usize = 4096;

/// A model in 32-bit numbers.
#[derive(Debug)]
pub(super) struct OnCpu {
    hidden: usize,
    places: Places,
    /// The model's weights: what is trained, if there are no adapters.
    pub(super) weights: Vec<f32>,
    pub(super) adapters: Option<Adapters>,
    /// Of what is trained, like the moments.
    gradients: Vec<f32>,
    moments: Moments,
    tape: Tape,
    pub(super) loss: CrossEntropy,
}

impl OnCpu {
    /// A model with these weights; the adapters, if there are any, are trained instead of them.
    pub(super) fn new(
        model: &Config,
        places: &Places,
        weights: Vec<f32>,
        adapters: Option<Adapters>,
    ) -> Result<Self, TrainError> {
        let total = adapters.as_ref().map_or(weights.len(), |adapters| adapters.values.len());
        Ok(Self {
            tape: Tape::new(model, places)?,
            loss: CrossEntropy::default(),
            gradients: vec![0.0; total],
            moments: Moments::new(total),
            hidden: model.hidden_size,
            places: places.clone(),
            weights,
            adapters,
        })
    }

    fn values(&self) -> &[f32] {
        self.adapters.as_ref().map_or(&self.weights, |adapters| &adapters.values)
    }
}

impl Engine for OnCpu {
    fn pass(&self) -> usize {
        PASS
    }

    fn set_recompute(&mut self, recompute: Recompute) {
        self.tape.recompute = recompute;
    }

    fn compute_gradients(&mut self, batches: &[Batch], scale: f32) -> Result<f64, TrainError> {
        let Self { hidden, places, weights, adapters, gradients, tape, loss, .. } = self;
        gradients.fill(0.0);
        let weights = Weights { values: weights, adapters: adapters.as_ref() };
        let mut gradients = match adapters {
            Some(_) => Gradients::Adapters { to: gradients, unused: Vec::new() },
            None => Gradients::All(gradients),
        };
        let head = Head { weight: &weights.values[places.head.clone()], hidden: *hidden };
        let mut total = 0.0;
        for batch in batches {
            tape.forward(weights, batch);
            let Tape { normed, normed_gradient, .. } = tape;
            let to = gradients.of_matrix(&places.head);
            total += loss.backward(head, normed, &batch.labels, scale, normed_gradient, to);
            tape.backward(weights, batch, &mut gradients);
        }
        Ok(total)
    }

    fn gradient_norm(&mut self) -> Result<f64, TrainError> {
        Ok(global_norm(&self.gradients))
    }

    fn update(&mut self, constants: &AdamW, step: Step) -> Result<(), TrainError> {
        let Self { places, weights, adapters, gradients, moments, .. } = self;
        let (parameters, trained) = match adapters {
            Some(adapters) => (&adapters.parameters, &mut adapters.values),
            None => (&places.parameters, weights),
        };
        update(constants, step, parameters, trained, gradients, moments);
        Ok(())
    }

    fn losses(&mut self, batch: &Batch) -> Result<Vec<f32>, TrainError> {
        let Self { hidden, places, weights, adapters, tape, loss, .. } = self;
        let weights = Weights { values: weights, adapters: adapters.as_ref() };
        let head = Head { weight: &weights.values[places.head.clone()], hidden: *hidden };
        tape.forward(weights, batch);
        Ok(loss.losses(head, &tape.normed, &batch.labels))
    }

    fn state(&self) -> Result<State<'_>, TrainError> {
        Ok(State {
            trained: Cow::Borrowed(self.values()),
            first: Cow::Borrowed(&self.moments.first),
            second: Cow::Borrowed(&self.moments.second),
        })
    }

    fn trained(&self) -> Result<Cow<'_, [f32]>, TrainError> {
        Ok(Cow::Borrowed(self.values()))
    }

    fn restore(&mut self, trained: &[u8], first: &[u8], second: &[u8]) -> Result<(), TrainError> {
        let values = match &mut self.adapters {
            Some(adapters) => &mut adapters.values,
            None => &mut self.weights,
        };
        fill(values, trained);
        fill(&mut self.moments.first, first);
        fill(&mut self.moments.second, second);
        Ok(())
    }

    fn weights(&self) -> Result<Cow<'_, [f32]>, TrainError> {
        Ok(Cow::Borrowed(&self.weights))
    }

    #[cfg(test)]
    fn gradients(&self) -> Result<Vec<f32>, TrainError> {
        Ok(self.gradients.clone())
    }
}

fn fill(to: &mut [f32], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from.chunks_exact(size_of::<f32>())) {
        *to = f32::from_le_bytes([from[0], from[1], from[2], from[3]]);
    }
}
