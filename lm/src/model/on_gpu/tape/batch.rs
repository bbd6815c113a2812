//! A batch of samples as the kernels read it.

use crate::gpu::driver::GpuError;
use crate::gpu::training::steps::NO_ROW;
use crate::gpu::{Buffer, View};
use crate::model::Batch;

/// A batch on the GPU: numbers in one buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Laid {
    /// The tokens that are read, and where each stands in its sample.
    pub(super) inputs: View<u32>,
    pub(super) positions: View<u32>,
    /// The rows whose next token is learned, and that token.
    pub(super) label_rows: View<u32>,
    pub(super) label_tokens: View<u32>,
    /// The label of every row, [`NO_ROW`] without.
    pub(super) label_of: View<u32>,
    /// The different tokens, for each where its places end, and the rows of all by token.
    pub(super) tokens: View<u32>,
    pub(super) ends: View<u32>,
    pub(super) places: View<u32>,
}

impl Laid {
    /// Copies a batch to the GPU, in place of what was there.
    pub(super) fn new(batch: &Batch, to: &mut Buffer<u32>) -> Result<Self, GpuError> {
        let rows = batch.inputs.len();
        let label_rows: Vec<u32> = batch.labels.iter().map(|&(row, _)| row as u32).collect();
        let label_tokens: Vec<u32> = batch.labels.iter().map(|&(_, token)| token).collect();
        let mut label_of = vec![NO_ROW; rows];
        for (label, &row) in label_rows.iter().enumerate() {
            label_of[row as usize] = label as u32;
        }
        let mut places: Vec<u32> = (0..rows as u32).collect();
        // Stable: the places of a token stay in order, and so does the sum of its gradients.
        places.sort_by_key(|&place| batch.inputs[place as usize]);
        let (mut tokens, mut ends) = (Vec::new(), Vec::new());
        for (index, &place) in places.iter().enumerate() {
            let token = batch.inputs[place as usize];
            if tokens.last() != Some(&token) {
                tokens.push(token);
                ends.push(0);
            }
            if let Some(end) = ends.last_mut() {
                *end = index as u32 + 1;
            }
        }
        let parts: [&[u32]; 8] =
            [&batch.inputs, &batch.positions, &label_rows, &label_tokens, &label_of, &tokens, &ends, &places];
        let all = parts.concat();
        to.fit(all.len())?;
        to.upload(0, &all)?;
        let mut start = 0;
        let [inputs, positions, label_rows, label_tokens, label_of, tokens, ends, places] =
            parts.map(|part| {
                let first = start;
                start += part.len();
                to.at(first..start)
            });
        Ok(Self { inputs, positions, label_rows, label_tokens, label_of, tokens, ends, places })
    }
}
