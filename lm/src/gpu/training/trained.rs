//! What is trained: 32-bit weights as their nearest elements and the rest, gradients and moments, each in one flat array.

use std::ops::Range;
use std::sync::Arc;

use crate::gpu::driver::{Gpu, GpuError, Kernels, Launch};
use crate::gpu::sources::UPDATE;
use crate::gpu::{Buffer, Element, View};
use crate::model::Parameter;
use crate::optimizer::Factors;

const THREADS: usize = 256;
/// Weights that a thread takes at once.
const EACH: usize = 4;
/// Weights of a block of the update.
const PART: usize = 8192;
/// The most blocks whose sums of squares are added up on the CPU.
const SUMS: usize = 1024;
/// Floats that are copied from or to the GPU at once.
const STAGED: usize = 8 << 20;

/// The kernels of `update.cu`, and copies of floats through them.
#[derive(Debug)]
pub(crate) struct Copies {
    gpu: Gpu,
    kernels: Arc<dyn Kernels>,
    /// Floats that are on their way at once.
    staged: usize,
}

/// All weights of a model, or all values of its adapters: 16 bytes for each.
#[derive(Debug)]
pub(crate) struct Trained {
    /// The nearest elements, which products read.
    high: Buffer<Element>,
    low: Buffer<i16>,
    gradients: Buffer<f32>,
    first: Buffer<f32>,
    second: Buffer<f32>,
    /// Of every block of the update its weights and whether they decay.
    parts: Buffer<u32>,
    sums: Buffer<f32>,
}

/// Weights of one array that are updated alike.
fn parts(parameters: &[Parameter]) -> Vec<u32> {
    let mut ranges: Vec<(Range<usize>, bool)> = Vec::new();
    for parameter in parameters {
        let decays = parameter.is_matrix();
        match ranges.last_mut() {
            Some((places, same)) if *same == decays && places.end == parameter.places.start => {
                places.end = parameter.places.end;
            }
            _ => ranges.push((parameter.places.clone(), decays)),
        }
    }
    let number = |places: usize| {
        assert!(places.is_multiple_of(EACH), "weights come in groups of {EACH}");
        u32::try_from(places / EACH).expect("there are fewer than 2^34 weights")
    };
    ranges
        .into_iter()
        .flat_map(|(places, decays)| {
            places.clone().step_by(PART).flat_map(move |start| {
                let count = PART.min(places.end - start);
                [number(start), number(count), u32::from(decays)]
            })
        })
        .collect()
}

impl Copies {
    pub(crate) fn new(gpu: &Gpu) -> Result<Self, GpuError> {
        Ok(Self { gpu: gpu.clone(), kernels: gpu.compile(UPDATE, &[])?, staged: STAGED })
    }

    /// Room for floats of an array on their way; it is given back when they are there.
    fn staging(&self, longest: usize) -> Result<Buffer<f32>, GpuError> {
        Buffer::new(&self.gpu, longest.min(self.staged))
    }

    /// Writes the elements nearest to floats, and what is beyond them where there is room for it. `floats` are their bytes.
    pub(crate) fn upload(
        &self,
        floats: &[u8],
        high: View<Element>,
        low: Option<View<i16>>,
    ) -> Result<(), GpuError> {
        assert!(floats.len() == high.len() * size_of::<f32>() && high.len().is_multiple_of(EACH));
        let staging = self.staging(high.len())?;
        let staged = staging.len();
        for (piece, floats) in floats.chunks(staged * size_of::<f32>()).enumerate() {
            let places = piece * staged..piece * staged + floats.len() / size_of::<f32>();
            self.gpu.upload(floats, staging.all().address())?;
            let count = places.len() / EACH;
            let arguments = [
                staging.all().into(),
                high.at(places.clone()).into(),
                low.map(|low| low.at(places)).into(),
                count.into(),
            ];
            let launch = Launch::new([count.div_ceil(THREADS), 1, 1], THREADS);
            self.kernels.launch("split", launch, &arguments)?;
        }
        Ok(())
    }

    /// The floats that were taken apart.
    fn download(&self, high: View<Element>, low: View<i16>) -> Result<Vec<f32>, GpuError> {
        let mut floats = Vec::with_capacity(high.len());
        let staging = self.staging(high.len())?;
        for start in (0..high.len()).step_by(staging.len()) {
            let places = start..(start + staging.len()).min(high.len());
            let staged = staging.at(0..places.len());
            self.join(high.at(places.clone()), low.at(places.clone()), staged)?;
            floats.extend(staging.download(0..places.len())?);
        }
        Ok(floats)
    }

    /// Puts floats together that were taken apart.
    fn join(&self, high: View<Element>, low: View<i16>, to: View<f32>) -> Result<(), GpuError> {
        assert!(high.len() == to.len() && low.len() == to.len() && to.len().is_multiple_of(EACH));
        let count = to.len() / EACH;
        let launch = Launch::new([count.div_ceil(THREADS), 1, 1], THREADS);
        self.kernels.launch("join", launch, &[high.into(), low.into(), to.into(), count.into()])
    }
}

impl Trained {
    /// Room for these parameters, whose numbers of places are multiples of 4. All is zero but the weights, which are to be written.
    pub(crate) fn new(gpu: &Gpu, parameters: &[Parameter]) -> Result<Self, GpuError> {
        let total = parameters.last().map_or(0, |last| last.places.end);
        Ok(Self {
            high: Buffer::new(gpu, total)?,
            low: Buffer::new(gpu, total)?,
            gradients: Buffer::zeros(gpu, total)?,
            first: Buffer::zeros(gpu, total)?,
            second: Buffer::zeros(gpu, total)?,
            parts: Buffer::from(gpu, &parts(parameters))?,
            sums: Buffer::new(gpu, SUMS)?,
        })
    }

    /// Numbers that are trained.
    pub(crate) fn len(&self) -> usize {
        self.high.len()
    }

    /// The weights as products read them.
    pub(crate) fn elements(&self) -> View<Element> {
        self.high.all()
    }

    pub(crate) fn gradients(&self) -> View<f32> {
        self.gradients.all()
    }

    #[cfg(test)]
    pub(crate) fn all_gradients(&self) -> Result<Vec<f32>, GpuError> {
        self.gradients.download(0..self.len())
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        let Self { high, low, gradients, first, second, parts, sums } = self;
        let floats = [gradients, first, second, sums].map(|buffer| buffer.all().bytes());
        high.all().bytes() + low.all().bytes() + parts.all().bytes() + floats.iter().sum::<usize>()
    }

    /// Writes the weights at `places`.
    pub(crate) fn set(&self, copies: &Copies, places: Range<usize>, floats: &[u8]) -> Result<(), GpuError> {
        copies.upload(floats, self.high.at(places.clone()), Some(self.low.at(places)))
    }

    /// The weights, exactly.
    pub(crate) fn weights(&self, copies: &Copies) -> Result<Vec<f32>, GpuError> {
        copies.download(self.high.all(), self.low.all())
    }

    /// The weights at `places`, a multiple of 4 of them, exactly.
    pub(crate) fn exact(&self, copies: &Copies, places: Range<usize>, to: View<f32>) -> Result<(), GpuError> {
        copies.join(self.high.at(places.clone()), self.low.at(places), to)
    }

    /// The moments.
    pub(crate) fn moments(&self) -> Result<[Vec<f32>; 2], GpuError> {
        Ok([self.first.download(0..self.len())?, self.second.download(0..self.len())?])
    }

    /// Writes the moments, given as the bytes of their numbers.
    pub(crate) fn set_moments(&self, gpu: &Gpu, moments: [&[u8]; 2]) -> Result<(), GpuError> {
        for (to, bytes) in [&self.first, &self.second].into_iter().zip(moments) {
            assert_eq!(bytes.len(), to.all().bytes());
            gpu.upload(bytes, to.all().address())?;
        }
        Ok(())
    }

    /// The Euclidean norm of all gradients together.
    pub(crate) fn gradient_norm(&self, copies: &Copies) -> Result<f64, GpuError> {
        let count = self.len() / EACH;
        // Cut by the number of weights alone, so that a sum is the same on every GPU.
        let each = count.div_ceil(SUMS).max(THREADS);
        let blocks = count.div_ceil(each);
        let arguments = [self.gradients.all().into(), self.sums.all().into(), count.into(), each.into()];
        copies.kernels.launch("squares", Launch::new([blocks, 1, 1], THREADS), &arguments)?;
        let sums = self.sums.download(0..blocks)?;
        Ok(sums.into_iter().map(f64::from).sum::<f64>().sqrt())
    }

    /// One update of all weights by the gradients.
    pub(crate) fn update(&self, copies: &Copies, factors: &Factors) -> Result<(), GpuError> {
        let Factors { scale, beta1, beta2, decay, rate, epsilon } = *factors;
        let arguments = [
            self.high.all().into(),
            self.low.all().into(),
            self.gradients.all().into(),
            self.first.all().into(),
            self.second.all().into(),
            self.parts.all().into(),
            scale.into(),
            beta1.into(),
            beta2.into(),
            decay.into(),
            rate.into(),
            epsilon.into(),
        ];
        copies.kernels.launch("adamw", Launch::new([self.parts.len() / 3, 1, 1], THREADS), &arguments)
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::gpu::tests::{assert_close, gpus, noise};
    use crate::model::{Config, Places};
    use crate::optimizer::{AdamW, Moments, Step, global_norm, update};
    use crate::weights::bytes;

    /// Larger than a part, with vectors that do not decay between matrices that do.
    fn places() -> Places {
        Places::new(&Config::small(300, 32, 1, 16, 8))
    }

    #[test]
    fn weights_come_back_to_the_last_bit() {
        for tested in gpus() {
            let places = places();
            let mut weights = noise(places.total(), 1);
            // Half way between two elements, next to zero, as large as can be, and exact.
            let half_way = 1.0 + 1.0 / 256.0;
            let odd = [half_way, -half_way, 1.0 + 3.0 / 256.0, 1e-41, f32::MAX, -f32::MAX, 1.5, -0.0, 0.0];
            weights[..odd.len()].copy_from_slice(&odd);
            let copies = Copies { staged: 1000, ..Copies::new(&tested.gpu).unwrap() };
            let trained = Trained::new(&tested.gpu, &places.parameters).unwrap();
            trained.set(&copies, 0..places.total(), &bytes(&weights)).unwrap();
            let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&trained.weights(&copies).unwrap()), bits(&weights));
            let elements = trained.high.download(0..places.total()).unwrap();
            for (element, &weight) in elements.iter().zip(&weights).skip(odd.len()) {
                let expected = if tested.exact { weight } else { bf16::from_f32(weight).to_f32() };
                assert_eq!(element.to_bits(), expected.to_bits());
            }
        }
    }

    #[test]
    fn updates_and_norms_are_those_of_the_cpu() {
        for tested in gpus() {
            let (gpu, places) = (&tested.gpu, places());
            let total = places.total();
            let (mut weights, mut moments) = (noise(total, 1), Moments::new(total));
            let copies = Copies::new(gpu).unwrap();
            let trained = Trained::new(gpu, &places.parameters).unwrap();
            trained.set(&copies, 0..total, &bytes(&weights)).unwrap();
            let constants = AdamW { beta1: 0.9, beta2: 0.98, epsilon: 1e-8, weight_decay: 0.1 };
            for number in 1..=3 {
                let gradients = noise(total, 10 + number as u32);
                trained.gradients.upload(0, &gradients).unwrap();
                let norm = global_norm(&gradients);
                assert!((trained.gradient_norm(&copies).unwrap() / norm - 1.0).abs() < 1e-6);
                let step = Step { number, rate: 0.01, scale: 0.5 };
                trained.update(&copies, &Factors::new(&constants, step)).unwrap();
                update(&constants, step, &places.parameters, &mut weights, &gradients, &mut moments);
            }
            // The masters are 32-bit numbers whatever elements are.
            assert_close(&trained.weights(&copies).unwrap(), &weights, 1e-6);
            let [first, second] = trained.moments().unwrap();
            assert_close(&first, &moments.first, 1e-6);
            assert_close(&second, &moments.second, 1e-6);
        }
    }
}
