//! Attention of samples laid end to end, without padding.

use super::{Block, Kernel, Part, Tiles, attend_kernel, scale};
use crate::gpu::driver::{Argument, Gpu, GpuError};
use crate::gpu::sources::{ATTENTION_KEY_GRADIENT, ATTENTION_QUERY_GRADIENT};
use crate::gpu::{Element, View};
use crate::kernels::attention::Heads;

/// Attention in training: causal, and every sample for itself.
#[derive(Debug)]
pub(crate) struct Attention {
    gpu: Gpu,
    heads: Heads,
    attend: Kernel,
    query_gradient: Kernel,
    key_gradient: Kernel,
}

/// Which rows make up each sample of a batch.
#[derive(Debug)]
pub(crate) struct Samples {
    rows: usize,
    queries: Tiles,
    /// The same tiles for the way back, where they may be smaller.
    queries_back: Tiles,
    keys_back: Tiles,
}

impl Attention {
    /// Compiles the kernels for a model's heads.
    pub(crate) fn new(gpu: &Gpu, heads: Heads) -> Result<Self, GpuError> {
        let attend = attend_kernel(gpu, heads)?;
        let block = query_gradient_block(heads);
        // The block's queries and gradients, and two stages of keys and values.
        let rows = 2 * block.rows() + 4 * block.step;
        let query_gradient = Kernel::new(gpu, ATTENTION_QUERY_GRADIENT, heads, block, rows, 0)?;
        let block = key_gradient_block(heads);
        // The block's keys and values, two stages of queries and gradients, and two numbers of each query.
        let rows = 2 * block.rows() + 4 * block.step;
        let key_gradient = Kernel::new(gpu, ATTENTION_KEY_GRADIENT, heads, block, rows, 4 * block.step)?;
        Ok(Self { gpu: gpu.clone(), heads, attend, query_gradient, key_gradient })
    }

    /// Samples that end at `bounds`, the first one starting at 0.
    pub(crate) fn samples(&self, bounds: &[usize]) -> Result<Samples, GpuError> {
        let mut start = 0;
        let mut parts = Vec::with_capacity(bounds.len());
        for &end in bounds {
            let row = std::mem::replace(&mut start, end);
            parts.push(Part { row, rows: end - row, position: 0, sequence: row });
        }
        Ok(Samples {
            rows: start,
            queries: Tiles::of_queries(&self.gpu, &parts, self.attend.block)?,
            queries_back: Tiles::of_queries(&self.gpu, &parts, self.query_gradient.block)?,
            keys_back: Tiles::of_keys(&self.gpu, &parts, self.key_gradient.block)?,
        })
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
            Argument::NONE,
            0_u32.into(),
            samples.queries.all().into(),
            out.into(),
            log_sums.into(),
            rows.into(),
            scale(heads).into(),
        ];
        self.attend.launch("attend", &samples.queries, heads.queries, &arguments)
    }

    /// Writes the gradient of `qkv`, given that of `out`. `means`, a number per head and row, is room to work in.
    #[expect(clippy::too_many_arguments, reason = "what the way there had, and its gradients")]
    pub(crate) fn backward(
        &self,
        qkv: View<Element>,
        samples: &Samples,
        out: View<Element>,
        log_sums: View<f32>,
        gradient: View<Element>,
        means: View<f32>,
        qkv_gradient: View<Element>,
    ) -> Result<(), GpuError> {
        let (heads, rows) = (self.heads, samples.rows);
        assert!(qkv.len() == rows * heads.row() && qkv_gradient.len() == qkv.len());
        assert!(out.len() == rows * heads.out() && gradient.len() == out.len());
        assert!(log_sums.len() == rows * heads.queries && means.len() == log_sums.len());
        let arguments = [
            qkv.into(),
            out.into(),
            gradient.into(),
            log_sums.into(),
            means.into(),
            samples.queries_back.all().into(),
            qkv_gradient.into(),
            rows.into(),
            scale(heads).into(),
        ];
        self.query_gradient.launch("query_gradient", &samples.queries_back, heads.queries, &arguments)?;
        let arguments = [
            qkv.into(),
            gradient.into(),
            log_sums.into(),
            means.into(),
            samples.keys_back.all().into(),
            qkv_gradient.into(),
            rows.into(),
            scale(heads).into(),
        ];
        self.key_gradient.launch("key_gradient", &samples.keys_back, heads.keys, &arguments)
    }
}

/// Blocks of `query_gradient`, as those of `attend`.
fn query_gradient_block(heads: Heads) -> Block {
    match heads.dim {
        0..=64 => Block { warps: 4, strips: 2, parts: 1, step: 64 },
        65..=128 => Block { warps: 4, strips: 1, parts: 1, step: 32 },
        _ => Block { warps: 4, strips: 1, parts: 1, step: 16 },
    }
}

/// Blocks of `key_gradient`: a warp has the sums of keys and of values, so one strip is all that it has registers for.
fn key_gradient_block(heads: Heads) -> Block {
    match heads.dim {
        0..=64 => Block { warps: 4, strips: 1, parts: 1, step: 64 },
        65..=128 => Block { warps: 4, strips: 1, parts: 1, step: 32 },
        _ => Block { warps: 4, strips: 1, parts: 2, step: 16 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Buffer;
    use crate::gpu::tests::{Tested, assert_close, gpus, noise};
    use crate::kernels::attention::{KEPT, attention, attention_backward, kept_len};

    /// One batch on a GPU, and what the way there and the way back give.
    struct Pass {
        out: Vec<f32>,
        log_sums: Vec<f32>,
        gradient: Vec<f32>,
    }

    /// Queries, keys and values with scores large enough to tell.
    fn rows(tested: &Tested, heads: Heads, count: usize) -> Vec<f32> {
        let noise = noise(count * heads.row(), 7);
        tested.rounded(&noise.into_iter().map(|x| 2.0 * x).collect::<Vec<_>>())
    }

    fn on_cpu(heads: Heads, qkv: &[f32], bounds: &[usize], outer: &[f32]) -> Pass {
        let count = qkv.len() / heads.row();
        let (mut out, mut kept) = (vec![0.0; count * heads.out()], vec![0.0; kept_len(heads, count)]);
        attention(heads, qkv, bounds, &mut out, &mut kept);
        let log_sum = |kept: &[f32]| kept[0] * scale(heads) - kept[1].log2();
        let log_sums = kept.chunks_exact(KEPT).map(log_sum).collect();
        let mut gradient = vec![0.0; qkv.len()];
        attention_backward(heads, qkv, bounds, &out, &kept, outer, &mut gradient);
        Pass { out, log_sums, gradient }
    }

    fn on_gpu(attention: &Attention, qkv: &[f32], bounds: &[usize], outer: &[f32]) -> Pass {
        let Attention { gpu, heads, .. } = attention;
        let samples = attention.samples(bounds).unwrap();
        let qkv = Buffer::rounded(gpu, qkv).unwrap();
        let outer = Buffer::rounded(gpu, outer).unwrap();
        let out = Buffer::<Element>::new(gpu, outer.len()).unwrap();
        let count = samples.rows * heads.queries;
        let (log_sums, means) = (Buffer::new(gpu, count).unwrap(), Buffer::new(gpu, count).unwrap());
        let gradient = Buffer::<Element>::new(gpu, qkv.len()).unwrap();
        attention.forward(qkv.all(), &samples, out.all(), log_sums.all()).unwrap();
        attention
            .backward(
                qkv.all(),
                &samples,
                out.all(),
                log_sums.all(),
                outer.all(),
                means.all(),
                gradient.all(),
            )
            .unwrap();
        Pass {
            out: out.download(0..out.len()).unwrap(),
            log_sums: log_sums.download(0..count).unwrap(),
            gradient: gradient.download(0..gradient.len()).unwrap(),
        }
    }

    /// Holds both ways against the CPU's.
    fn hold(heads: Heads, bounds: &[usize]) {
        for tested in gpus() {
            let attention = Attention::new(&tested.gpu, heads).unwrap();
            let count = *bounds.last().unwrap();
            let (qkv, outer) = (rows(&tested, heads, count), tested.rounded(&noise(count * heads.out(), 8)));
            let expected = on_cpu(heads, &qkv, bounds, &outer);
            let first = on_gpu(&attention, &qkv, bounds, &outer);
            // The emulator does not run a kernel in the same order twice.
            let second = on_gpu(&attention, &qkv, bounds, &outer);
            for got in [&first, &second] {
                assert_close(&got.out, &expected.out, tested.bound(2e-6, 1.5e-2));
                assert_close(&got.log_sums, &expected.log_sums, tested.bound(4e-6, 2e-5));
                assert_close(&got.gradient, &expected.gradient, tested.bound(4e-6, 2e-2));
            }
            assert!(
                first.out == second.out && first.gradient == second.gradient,
                "other bits in another run"
            );
        }
    }

    #[test]
    fn both_ways_are_those_of_the_cpu() {
        hold(Heads { queries: 4, keys: 2, dim: 64 }, &[1, 140, 143, 172]);
    }

    #[test]
    fn both_ways_are_those_of_the_cpu_for_small_heads() {
        hold(Heads { queries: 3, keys: 3, dim: 16 }, &[129, 130, 194]);
        hold(Heads { queries: 2, keys: 1, dim: 48 }, &[70]);
    }

    #[test]
    fn both_ways_are_those_of_the_cpu_for_heads_of_128() {
        hold(Heads { queries: 2, keys: 1, dim: 128 }, &[1, 80]);
    }

    #[test]
    fn both_ways_are_those_of_the_cpu_for_large_heads() {
        hold(Heads { queries: 1, keys: 1, dim: 144 }, &[35]);
        hold(Heads { queries: 1, keys: 1, dim: 256 }, &[40]);
    }

    /// The way back is the slope of the way there.
    #[test]
    fn gradients_are_slopes() {
        let heads = Heads { queries: 2, keys: 1, dim: 16 };
        let bounds = [3, 8];
        for tested in gpus().into_iter().filter(|tested| tested.exact) {
            let attention = Attention::new(&tested.gpu, heads).unwrap();
            let (qkv, outer) = (rows(&tested, heads, 8), noise(8 * heads.out(), 8));
            let pass = on_gpu(&attention, &qkv, &bounds, &outer);
            let loss = |qkv: &[f32]| -> f64 {
                let out = on_gpu(&attention, qkv, &bounds, &outer).out;
                out.iter().zip(&outer).map(|(out, outer)| f64::from(*out) * f64::from(*outer)).sum()
            };
            for place in (0..qkv.len()).step_by(7) {
                let [mut more, mut less] = [qkv.clone(), qkv.clone()];
                more[place] += 1e-2;
                less[place] -= 1e-2;
                let slope = (loss(&more) - loss(&less)) / 2e-2;
                let got = f64::from(pass.gradient[place]);
                assert!((slope - got).abs() < 1e-3, "place {place}: {got}, the slope is {slope}");
            }
        }
    }

    #[test]
    fn heads_without_kernels_are_named() {
        for tested in gpus() {
            let error = Attention::new(&tested.gpu, Heads { queries: 2, keys: 1, dim: 20 }).unwrap_err();
            assert!(error.to_string().contains("heads of 20 elements"), "{error}");
        }
    }
}
