//! Cross entropy of the next token at labelled places, with its gradient, in chunks: logits never exist for a whole batch.

use crate::kernels::math::{exp, ln, max, sum};
use crate::kernels::matmul::{Into, Matrix, matmul};
use crate::kernels::share::{Shared, share};
use crate::kernels::vectorised;

/// Logits held at once, 64 MiB of them. Fewer would save little and read the head's weight more often: its gradient is one chain of
/// additions over the labels, so how they are cut changes no bit.
const LOGITS: usize = 1 << 24;

/// The head and what it reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    /// A row per token of the vocabulary.
    pub(crate) weight: &'a [f32],
    /// Elements per row.
    pub(crate) hidden: usize,
}

/// Buffers of the loss, used again by the next pass.
#[derive(Debug)]
pub(crate) struct CrossEntropy {
    /// Logits held at once.
    most: usize,
    read: Vec<f32>,
    logits: Vec<f32>,
    losses: Vec<f32>,
    read_gradient: Vec<f32>,
}

impl Default for CrossEntropy {
    fn default() -> Self {
        Self::holding(LOGITS)
    }
}

impl CrossEntropy {
    /// A loss that holds about so many logits at once.
    pub(crate) fn holding(most: usize) -> Self {
        Self { most, read: Vec::new(), logits: Vec::new(), losses: Vec::new(), read_gradient: Vec::new() }
    }

    /// The negative log-probability of every label, in order; `normed` has a row per token of the batch.
    pub(crate) fn losses(&mut self, head: Head<'_>, normed: &[f32], labels: &[(usize, u32)]) -> Vec<f32> {
        let mut all = Vec::with_capacity(labels.len());
        for labels in labels.chunks(self.chunk(head)) {
            self.forward(head, normed, labels);
            all.extend_from_slice(&self.losses);
        }
        all
    }

    /// The sum of the losses; writes the gradient of `scale · sum` by `normed` and adds that by the head's weight, if it is
    /// trained.
    pub(crate) fn backward(
        &mut self,
        head: Head<'_>,
        normed: &[f32],
        labels: &[(usize, u32)],
        scale: f32,
        normed_gradient: &mut Vec<f32>,
        mut weight_gradient: Option<&mut [f32]>,
    ) -> f64 {
        normed_gradient.clear();
        normed_gradient.resize(normed.len(), 0.0);
        let mut total = 0.0;
        for labels in labels.chunks(self.chunk(head)) {
            self.forward(head, normed, labels);
            // One chain over all labels, like the gradient's.
            total = self.losses.iter().fold(total, |total, &loss| total + f64::from(loss));
            let vocabulary = head.weight.len() / head.hidden;
            self.logits.iter_mut().for_each(|probability| *probability *= scale);
            for (row, &(_, label)) in self.logits.chunks_exact_mut(vocabulary).zip(labels) {
                row[label as usize] -= scale;
            }
            self.read_gradient.resize(self.read.len(), 0.0);
            let gradient = Matrix::new(&self.logits, labels.len(), vocabulary);
            let (read, weight) = (
                Matrix::new(&self.read, labels.len(), head.hidden),
                Matrix::new(head.weight, vocabulary, head.hidden),
            );
            if let Some(weight_gradient) = weight_gradient.as_deref_mut() {
                matmul(weight_gradient, gradient.transposed(), read, Into::Accumulate);
            }
            matmul(&mut self.read_gradient, gradient, weight, Into::Replace);
            for (from, &(row, _)) in self.read_gradient.chunks_exact(head.hidden).zip(labels) {
                normed_gradient[row * head.hidden..][..head.hidden].copy_from_slice(from);
            }
        }
        total
    }

    /// Labels whose logits are held at once.
    fn chunk(&self, head: Head<'_>) -> usize {
        (self.most * head.hidden / head.weight.len().max(1)).clamp(16, 4096)
    }

    /// Leaves the probabilities in `logits` and the losses in `losses`.
    fn forward(&mut self, head: Head<'_>, normed: &[f32], labels: &[(usize, u32)]) {
        let vocabulary = head.weight.len() / head.hidden;
        self.read.clear();
        for &(row, _) in labels {
            self.read.extend_from_slice(&normed[row * head.hidden..][..head.hidden]);
        }
        self.logits.resize(labels.len() * vocabulary, 0.0);
        self.losses.resize(labels.len(), 0.0);
        let weight = Matrix::new(head.weight, vocabulary, head.hidden).transposed();
        matmul(&mut self.logits, Matrix::new(&self.read, labels.len(), head.hidden), weight, Into::Replace);
        let (logits, losses) = (Shared::new(&mut self.logits), Shared::new(&mut self.losses));
        share(labels.len(), ((1 << 13) / vocabulary).max(1), |rows| {
            // SAFETY: every row is written by one call.
            let (logits, losses) = unsafe {
                (logits.slice(rows.start * vocabulary..rows.end * vocabulary), losses.slice(rows.clone()))
            };
            soften(logits, vocabulary, &labels[rows], losses);
        });
    }
}

vectorised! {
    /// Logits to probabilities; the loss of each row's label.
    fn soften(logits: &mut [f32], vocabulary: usize, labels: &[(usize, u32)], losses: &mut [f32]) {
        for ((row, &(_, label)), loss) in logits.chunks_exact_mut(vocabulary).zip(labels).zip(losses) {
            let largest = max(row);
            let right = row[label as usize] - largest;
            for logit in row.iter_mut() {
                *logit = exp(*logit - largest);
            }
            let total = sum(row);
            *loss = (ln(f64::from(total)) - f64::from(right)) as f32;
            let share = 1.0 / total;
            for weight in row.iter_mut() {
                *weight *= share;
            }
        }
    }
}
