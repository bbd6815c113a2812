//! Cross entropy of the next token at labelled places, with its gradient, in chunks: logits never exist for a whole batch.

use std::sync::Arc;

use super::products::{self, Matrix, To};
use crate::gpu::driver::{Gpu, GpuError, Kernels, Launch};
use crate::gpu::sources::LOSS;
use crate::gpu::{Element, View};

/// The most bytes of logits held at once.
const MOST: usize = 256 << 20;
/// The most rows of a chunk: with fewer the gradient of the head's weight is read and written too often, with more little is gained.
const ROWS: usize = 1024;
/// Logits of a row that a thread has at once.
const EACH: usize = 4;
const MOST_THREADS: usize = 1024;

/// The head and how its logits are laid out.
#[derive(Debug)]
pub(crate) struct Head {
    gpu: Gpu,
    kernels: Arc<dyn Kernels>,
    hidden: usize,
    vocabulary: usize,
    /// Floats from one row of logits to the next.
    stride: usize,
}

/// The labels of a pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Labels {
    /// What the head reads, a row per label. On the way back it becomes its own gradient.
    pub(crate) read: View<Element>,
    /// The tokens to be predicted.
    pub(crate) tokens: View<u32>,
    /// Gets the negative log-probability of each.
    pub(crate) losses: View<f32>,
    /// Room for a chunk of logits: [`Head::room`] floats.
    pub(crate) logits: View<f32>,
}

/// The way back through the head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadBackward {
    /// What the sum of losses is multiplied by.
    pub(crate) scale: f32,
    /// Where the gradient of the head's weight goes, if it is trained, and whether it is added to what is there.
    pub(crate) weight_gradient: Option<(View<f32>, bool)>,
}

impl Head {
    pub(crate) fn new(gpu: &Gpu, hidden: usize, vocabulary: usize) -> Result<Self, GpuError> {
        let kernels = gpu.compile(LOSS, &[])?;
        Ok(Self { gpu: gpu.clone(), kernels, hidden, vocabulary, stride: vocabulary.next_multiple_of(8) })
    }

    /// Rows of a chunk. They depend on the vocabulary alone: the gradient of the head's weight is summed chunk by chunk.
    fn rows(&self) -> usize {
        (MOST / (self.stride * size_of::<f32>())).clamp(1, ROWS)
    }

    /// Floats of a chunk of logits, of so many labels.
    pub(crate) fn room(&self, labels: usize) -> usize {
        self.rows().min(labels) * self.stride
    }

    /// The losses of all labels; on the way back also the gradients.
    pub(crate) fn losses(
        &self,
        weight: View<Element>,
        labels: Labels,
        back: Option<HeadBackward>,
    ) -> Result<(), GpuError> {
        let Labels { read, tokens, losses, logits } = labels;
        let (count, hidden) = (tokens.len(), self.hidden);
        assert!(read.len() == count * hidden && losses.len() == count);
        let weight = Matrix::new(weight, hidden);
        let at_once = logits.len() / self.stride;
        for first in (0..count).step_by(at_once) {
            let last = (first + at_once).min(count);
            let read = Matrix::new(read.at(first * hidden..last * hidden), hidden);
            let logits = logits.at(0..(last - first) * self.stride);
            products::project(&self.gpu, read, weight, To::floats(logits, self.vocabulary, self.stride))?;
            // In the same memory, where elements are smaller than floats with gaps between the rows.
            let gradient = logits.as_elements(&self.gpu);
            let stride = gradient.len() / (last - first);
            let threads = self.vocabulary.div_ceil(EACH).next_multiple_of(32).min(MOST_THREADS);
            let arguments = [
                logits.into(),
                tokens.at(first..last).into(),
                losses.at(first..last).into(),
                back.map(|_| gradient).into(),
                self.vocabulary.into(),
                self.stride.into(),
                stride.into(),
                back.map_or(0.0, |back| back.scale).into(),
            ];
            let launch = Launch::new([last - first, 1, 1], threads);
            self.kernels.launch("cross_entropy", launch, &arguments)?;
            let Some(HeadBackward { weight_gradient, .. }) = back else { continue };
            let gradient = Matrix::new(gradient, stride).columns(0, self.vocabulary);
            if let Some((to, adds)) = weight_gradient {
                let to = To::floats(to, hidden, hidden).adding(adds || first > 0);
                products::of_weight(&self.gpu, gradient, read, to)?;
            }
            products::of_input(&self.gpu, gradient, weight, To::elements(read))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Buffer;
    use crate::gpu::tests::{assert_close, gpus, noise};
    use crate::loss::{self, CrossEntropy};

    /// In one chunk and in several, for vocabularies that are no multiples of anything and one that a block goes through twice.
    #[test]
    fn losses_and_gradients_are_those_of_the_cpu() {
        for tested in gpus() {
            for (count, vocabulary, at_once) in [(7, 23, 3), (3, 4107, 3)] {
                let (gpu, hidden) = (&tested.gpu, 24);
                let head = Head::new(gpu, hidden, vocabulary).unwrap();
                let weight = tested.rounded(&noise(vocabulary * hidden, 1));
                // As large as those of a trained model.
                let read: Vec<f32> = noise(count * hidden, 2).iter().map(|number| 4.0 * number).collect();
                let read = tested.rounded(&read);
                let before = noise(vocabulary * hidden, 3);
                let tokens: Vec<u32> =
                    (0..count as u32).map(|row| (row * 997 + 5) % vocabulary as u32).collect();
                let labels: Vec<(usize, u32)> = tokens.iter().copied().enumerate().collect();
                let (mut to, mut weight_gradient) = (Vec::new(), before.clone());
                let cpu_head = loss::Head { weight: &weight, hidden };
                let mut cpu = CrossEntropy::holding(1 << 20);
                let losses = cpu.losses(cpu_head, &read, &labels);
                cpu.backward(cpu_head, &read, &labels, 0.5, &mut to, Some(&mut weight_gradient));

                let (weight, read) =
                    (Buffer::rounded(gpu, &weight).unwrap(), Buffer::rounded(gpu, &read).unwrap());
                let (tokens, sums) =
                    (Buffer::from(gpu, &tokens).unwrap(), Buffer::from(gpu, &before).unwrap());
                let got = Buffer::<f32>::new(gpu, count).unwrap();
                let logits = Buffer::<f32>::new(gpu, at_once * head.stride).unwrap();
                let labels = Labels {
                    read: read.all(),
                    tokens: tokens.all(),
                    losses: got.all(),
                    logits: logits.all(),
                };
                head.losses(weight.all(), labels, None).unwrap();
                assert_close(&got.download(0..count).unwrap(), &losses, 1e-4);
                got.clear().unwrap();
                let back = HeadBackward { scale: 0.5, weight_gradient: Some((sums.all(), true)) };
                head.losses(weight.all(), labels, Some(back)).unwrap();
                assert_close(&got.download(0..count).unwrap(), &losses, 1e-4);
                let whole = 0..weight_gradient.len();
                assert_close(
                    &sums.download(whole.clone()).unwrap(),
                    &weight_gradient,
                    tested.bound(1e-5, 2e-2),
                );
                assert_close(&read.download(0..to.len()).unwrap(), &to, tested.bound(1e-5, 1e-2));
            }
        }
    }

    #[test]
    fn chunks_are_bounded_in_bytes_and_in_rows() {
        let Some(tested) = gpus().into_iter().next() else { return };
        let head = |vocabulary| Head::new(&tested.gpu, 8, vocabulary).unwrap();
        assert_eq!([32_768, 262_144, 1 << 24].map(|vocabulary| head(vocabulary).rows()), [1024, 256, 4]);
        assert_eq!([100_000, 10].map(|labels| head(32_766).room(labels)), [1024 * 32_768, 10 * 32_768]);
    }
}
