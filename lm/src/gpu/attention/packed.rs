//! Attention of samples laid end to end, without padding.

use super::{Kernel, NONE, Part, Tiles, attend_kernel, scale};
use crate::gpu::driver::{Gpu, GpuError};
use crate::gpu::{Element, View};
use crate::kernels::attention::Heads;

/// Attention in training: causal, and every sample for itself.
#[derive(Debug)]
pub(crate) struct Attention {
    gpu: Gpu,
    heads: Heads,
    attend: Kernel,
}

/// Which rows make up each sample of a batch.
#[derive(Debug)]
pub(crate) struct Samples {
    rows: usize,
    queries: Tiles,
}

impl Attention {
    /// Compiles the kernels for a model's heads.
    pub(crate) fn new(gpu: &Gpu, heads: Heads) -> Result<Self, GpuError> {
        Ok(Self { gpu: gpu.clone(), heads, attend: attend_kernel(gpu, heads)? })
    }

    /// Samples that end at `bounds`, the first one starting at 0.
    pub(crate) fn samples(&self, bounds: &[usize]) -> Result<Samples, GpuError> {
        let mut start = 0;
        let mut parts = Vec::with_capacity(bounds.len());
        for &end in bounds {
            let row = std::mem::replace(&mut start, end);
            parts.push(Part { row, rows: end - row, position: 0, sequence: row });
        }
        Ok(Samples { rows: start, queries: Tiles::of_queries(&self.gpu, &parts, self.attend.block)? })
    }

    /// Attention of every row of `qkv`; `log_sums` gets, per head and row, the base-2 logarithm of the sum that its weights were
    /// divided by.
    pub(crate) fn forward(
        &self,
        qkv: View<Element>,
        samples: &Samples,
        out: View<Element>,
        log_sums: View<f32>,
    ) -> Result<(), GpuError> {
        let (heads, rows) = (self.heads, samples.rows);
        assert!(qkv.len() == rows * heads.row() && out.len() == rows * heads.out());
        assert!(log_sums.len() == rows * heads.queries);
        if rows == 0 {
            return Ok(());
        }
        let (keys, values) = (qkv.at(heads.key(0)..qkv.len()), qkv.at(heads.value(0)..qkv.len()));
        let arguments = [
            qkv.into(),
            heads.row().into(),
            keys.into(),
            values.into(),
            NONE,
            0_u32.into(),
            samples.queries.all().into(),
            out.into(),
            log_sums.into(),
            rows.into(),
            scale(heads).into(),
        ];
        self.attend.launch("attend", &samples.queries, heads.queries, &arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Buffer;
    use crate::gpu::tests::{Tested, assert_close, gpus, noise};
    use crate::kernels::attention::{KEPT, attention, kept_len};

    /// Attention of a batch on the CPU: what it gives, and the base-2 logarithms of its sums.
    fn on_cpu(heads: Heads, qkv: &[f32], bounds: &[usize]) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let rows = qkv.len() / heads.row();
        let (mut out, mut kept) = (vec![0.0; rows * heads.out()], vec![0.0; kept_len(heads, rows)]);
        attention(heads, qkv, bounds, &mut out, &mut kept);
        let log_sum = |kept: &[f32]| kept[0] * scale(heads) - kept[1].log2();
        let log_sums = kept.chunks_exact(KEPT).map(log_sum).collect();
        (out, log_sums, kept)
    }

    /// Queries, keys and values with scores large enough to tell.
    fn rows(tested: &Tested, heads: Heads, rows: usize) -> Vec<f32> {
        let noise = noise(rows * heads.row(), 7);
        tested.rounded(&noise.into_iter().map(|x| 2.0 * x).collect::<Vec<_>>())
    }

    /// Holds the way there against the CPU's; twice, as the emulator does not run a kernel in the same order twice.
    fn forward(heads: Heads, bounds: &[usize]) {
        for tested in gpus() {
            let gpu = &tested.gpu;
            let attention = Attention::new(gpu, heads).unwrap();
            let samples = attention.samples(bounds).unwrap();
            let count = *bounds.last().unwrap();
            let qkv = rows(&tested, heads, count);
            let (expected, expected_sums, _) = on_cpu(heads, &qkv, bounds);
            let qkv = Buffer::rounded(gpu, &qkv).unwrap();
            let mut before = None;
            for _ in 0..2 {
                let out = Buffer::<Element>::new(gpu, expected.len()).unwrap();
                let log_sums = Buffer::<f32>::new(gpu, expected_sums.len()).unwrap();
                attention.forward(qkv.all(), &samples, out.all(), log_sums.all()).unwrap();
                let out = out.download(0..expected.len()).unwrap();
                let log_sums = log_sums.download(0..expected_sums.len()).unwrap();
                assert_close(&out, &expected, tested.bound(1e-5, 3e-2));
                assert_close(&log_sums, &expected_sums, 2e-5);
                let got = (out, log_sums);
                assert!(before.is_none_or(|before| before == got), "other bits in another run");
                before = Some(got);
            }
        }
    }

    #[test]
    fn the_way_there_is_that_of_the_cpu() {
        forward(Heads { queries: 4, keys: 2, dim: 64 }, &[1, 140, 143, 208]);
    }

    #[test]
    fn the_way_there_is_that_of_the_cpu_for_small_heads() {
        forward(Heads { queries: 3, keys: 3, dim: 16 }, &[129, 130, 194]);
        forward(Heads { queries: 2, keys: 1, dim: 48 }, &[70]);
    }

    #[test]
    fn the_way_there_is_that_of_the_cpu_for_large_heads() {
        forward(Heads { queries: 2, keys: 1, dim: 128 }, &[1, 132]);
        forward(Heads { queries: 1, keys: 1, dim: 256 }, &[65]);
    }

    #[test]
    fn heads_without_kernels_are_named() {
        for tested in gpus() {
            let error = Attention::new(&tested.gpu, Heads { queries: 2, keys: 1, dim: 20 }).unwrap_err();
            assert!(error.to_string().contains("heads of 20 elements"), "{error}");
        }
    }
}
