//! Training on a GPU: weights of 32 bits, products of 16.

use std::borrow::Cow;
use std::path::PathBuf;

use super::TrainError;
use super::engine::{Engine, State};
use crate::gpu::training::trained::{Copies, Trained};
use crate::gpu::{Buffer, Element, Gpu};
use crate::model::on_gpu::tape::{self, AdaptersThere, Gradients, Tape};
use crate::model::{Adapters, Batch, Config, ModelError, Parameter, Places, Recompute, Source};
use crate::optimizer::{AdamW, Factors, Step};
use crate::weights::bytes;

/// Tokens computed at once.
const PASS: usize = 16_384;

/// Where the weights of a model come from.
#[derive(Debug)]
pub(super) enum Base {
    /// A model directory or a GGUF file.
    Stored(PathBuf),
    /// Nowhere: numbers without meaning, for measurements.
    Random,
}

impl Base {
    /// Hands out every weight in turn.
    fn each(
        &self,
        places: &Places,
        mut take: impl FnMut(&Parameter, Vec<f32>) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let source = match self {
            Self::Stored(path) => Some(Source::open(path)?.1),
            Self::Random => None,
        };
        for parameter in &places.parameters {
            let numbers =
                source.as_ref().map_or_else(|| Ok(random(parameter)), |source| source.read(parameter))?;
            take(parameter, numbers)?;
        }
        Ok(())
    }
}

/// Uniform numbers of the size usual for a weight, made faster than they are copied.
fn random(parameter: &Parameter) -> Vec<f32> {
    let (mean, reach) = match parameter.shape.as_slice() {
        [_, inputs] => (0.0, 1.0 / (*inputs as f32).sqrt()),
        _ if parameter.is_bias() => (0.0, 0.0),
        _ => (1.0, 0.0),
    };
    let mut state = parameter.places.start as u64 + 1;
    let number = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        mean + reach * ((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
    };
    parameter.places.clone().map(number).collect()
}

/// A model on a GPU.
#[derive(Debug)]
pub(super) struct OnGpu {
    gpu: Gpu,
    places: Places,
    base: Base,
    copies: Copies,
    /// The model's weights, or its adapters' values.
    trained: Trained,
    frozen: Option<Frozen>,
    tape: Tape,
    losses: Buffer<f32>,
}

/// What adapters are trained beside.
#[derive(Debug)]
struct Frozen {
    weights: Buffer<Element>,
    adapters: Adapters,
}

impl OnGpu {
    /// Whether there are kernels for a model.
    pub(super) fn check(model: &Config, places: &Places) -> Result<(), ModelError> {
        tape::check(model, places)
    }

    /// A model that [`OnGpu::check`] has passed; the adapters, if there are any, are trained instead of its weights.
    pub(super) fn new(
        gpu: &Gpu,
        model: &Config,
        places: &Places,
        base: Base,
        adapters: Option<Adapters>,
    ) -> Result<Self, TrainError> {
        let copies = Copies::new(gpu)?;
        let rank = adapters.as_ref().map_or(0, Adapters::rank);
        let (mut exact, mut exact_places) = (Vec::new(), tape::exact(places).peekable());
        let (trained, frozen) = if let Some(adapters) = adapters {
            let weights = Buffer::new(gpu, places.total())?;
            base.each(places, |parameter, numbers| {
                let there = parameter.places.clone();
                copies.upload(&bytes(&numbers), weights.at(there.clone()), None)?;
                if exact_places.peek().is_some_and(|places| places.contains(&there.start)) {
                    exact.extend(numbers);
                    exact_places.next_if(|places| places.end == there.end);
                }
                Ok(())
            })?;
            let trained = Trained::new(gpu, &adapters.parameters)?;
            trained.set(&copies, 0..adapters.values.len(), &bytes(&adapters.values))?;
            (trained, Some(Frozen { weights, adapters }))
        } else {
            let trained = Trained::new(gpu, &places.parameters)?;
            base.each(places, |parameter, numbers| {
                Ok(trained.set(&copies, parameter.places.clone(), &bytes(&numbers))?)
            })?;
            (trained, None)
        };
        let tape = Tape::new(gpu, model, places, rank)?;
        gpu.upload(&bytes(&exact), tape.exact().address())?;
        Ok(Self {
            gpu: gpu.clone(),
            places: places.clone(),
            base,
            copies,
            trained,
            frozen,
            tape,
            losses: Buffer::new(gpu, 0)?,
        })
    }

    /// What a pass needs.
    fn parts(&mut self) -> Result<(&mut Tape, tape::Weights<'_>, &Trained, &Buffer<f32>), TrainError> {
        let Self { tape, trained, frozen, losses, copies, places, .. } = self;
        if frozen.is_none() {
            let mut first = 0;
            for places in tape::exact(places) {
                let end = first + places.len();
                trained.exact(copies, places, tape.exact().at(first..end))?;
                first = end;
            }
        }
        let weights = match frozen {
            Some(Frozen { weights, adapters }) => tape::Weights {
                values: weights.all(),
                adapters: Some(AdaptersThere { shape: adapters, values: trained.elements() }),
            },
            None => tape::Weights { values: trained.elements(), adapters: None },
        };
        Ok((tape, weights, trained, losses))
    }
}

impl Engine for OnGpu {
    fn pass(&self) -> usize {
        PASS
    }

    fn set_recompute(&mut self, recompute: Recompute) {
        self.tape.recompute = recompute;
    }

    fn gpu_bytes(&self) -> Option<usize> {
        let frozen = self.frozen.as_ref().map_or(0, |frozen| frozen.weights.all().bytes());
        Some(self.trained.bytes() + frozen + self.tape.bytes() + self.losses.all().bytes())
    }

    fn compute_gradients(&mut self, batches: &[Batch], scale: f32) -> Result<f64, TrainError> {
        let labels = batches.iter().map(|batch| batch.labels.len()).sum();
        self.losses.fit(labels)?;
        let (tape, weights, trained, losses) = self.parts()?;
        let mut first = 0;
        // A batch without a label has no gradient.
        for batch in batches.iter().filter(|batch| !batch.labels.is_empty()) {
            let places = first..first + batch.labels.len();
            let to = Gradients { to: trained.gradients(), adds: first > 0, scale };
            tape.gradients(weights, batch, losses.at(places.clone()), to)?;
            first = places.end;
        }
        let losses = losses.download(0..labels)?;
        Ok(losses.into_iter().map(f64::from).sum())
    }

    fn gradient_norm(&mut self) -> Result<f64, TrainError> {
        Ok(self.trained.gradient_norm(&self.copies)?)
    }

    fn update(&mut self, constants: &AdamW, step: Step) -> Result<(), TrainError> {
        Ok(self.trained.update(&self.copies, &Factors::new(constants, step))?)
    }

    fn losses(&mut self, batch: &Batch) -> Result<Vec<f32>, TrainError> {
        let labels = batch.labels.len();
        if labels == 0 {
            return Ok(Vec::new());
        }
        self.losses.fit(labels)?;
        let (tape, weights, _, losses) = self.parts()?;
        tape.losses(weights, batch, losses.at(0..labels))?;
        Ok(losses.download(0..labels)?)
    }

    fn state(&self) -> Result<State<'_>, TrainError> {
        let [first, second] = self.trained.moments()?.map(Cow::Owned);
        Ok(State { trained: self.trained()?, first, second })
    }

    fn trained(&self) -> Result<Cow<'_, [f32]>, TrainError> {
        Ok(Cow::Owned(self.trained.weights(&self.copies)?))
    }

    fn restore(&mut self, trained: &[u8], first: &[u8], second: &[u8]) -> Result<(), TrainError> {
        self.trained.set(&self.copies, 0..self.trained.len(), trained)?;
        Ok(self.trained.set_moments(&self.gpu, [first, second])?)
    }

    fn weights(&self) -> Result<Cow<'_, [f32]>, TrainError> {
        if self.frozen.is_none() {
            return self.trained();
        }
        // Those on the GPU are rounded.
        let mut weights = Vec::with_capacity(self.places.total());
        self.base.each(&self.places, |_, numbers| {
            weights.extend(numbers);
            Ok(())
        })?;
        Ok(Cow::Owned(weights))
    }

    #[cfg(test)]
    fn gradients(&self) -> Result<Vec<f32>, TrainError> {
        Ok(self.trained.all_gradients()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::tests::gpus;
    use crate::model::{self, Family, Lora, of_family, varied};

    /// Whether weights are trained or adapters on them: the few numbers that decide how fast states decay are not rounded.
    #[test]
    fn vectors_of_state_spaces_are_read_exactly() {
        let mut config = of_family(Config::small(23, 40, 6, 16, 128), Family::NemotronH);
        config.other.insert("mamba_num_heads".to_owned(), 8.into());
        config.intermediate_size = 72;
        let dir = tempfile::tempdir().unwrap();
        varied(&config, 11, dir.path());
        let (config, places, weights) = model::load(dir.path()).unwrap();
        let expected: Vec<f32> = tape::exact(&places).flat_map(|places| weights[places].to_vec()).collect();
        assert_eq!(expected.len(), 3 * 3 * 8);
        for tested in gpus() {
            let lora = Lora { rank: 2, alpha: 4.0, targets: vec!["in_proj".to_owned()], seed: 1 };
            for adapters in [None, Some(Adapters::new(&places, &lora).unwrap())] {
                let base = Base::Stored(dir.path().to_owned());
                let mut on_gpu = OnGpu::new(&tested.gpu, &config, &places, base, adapters).unwrap();
                let exact = on_gpu.parts().unwrap().0.exact();
                let mut bytes = vec![0; exact.bytes()];
                tested.gpu.download(exact.address(), &mut bytes).unwrap();
                assert_eq!(bytes, &*super::bytes(&expected));
            }
        }
    }
}
