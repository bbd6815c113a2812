//! Drawing tokens where the logits are: only tokens and their log-probabilities leave the GPU.
//!
//! The parts of [`Sampling`] apply as [`crate::sampler`] says. Two things differ from the CPU: tokens as probable as the last that
//! `top_k` or `top_p` keeps are kept too, and the draw walks the tokens by id and not by probability, so the same number
//! draws another token of the same distribution.

use std::collections::VecDeque;
use std::sync::Arc;

use super::buffer::Plain;
use super::driver::{Gpu, GpuError, Kernels, Landing, Launch};
use super::sources::DRAW;
use super::stream::NO_TOKEN;
use super::{Buffer, View};
use crate::sampler::{Drawn, SamplerError, Sampling};

/// Words of a [`Draw`] as the kernel reads it.
pub(crate) const DRAW_WORDS: usize = 10;
/// Words of a result.
const DRAWN_WORDS: usize = 3;
const THREADS: usize = 1024;
/// Draws whose results may be on their way at once: those of a pass, and of the one after it.
pub(crate) const AHEAD: usize = 2;

/// How one row is drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw {
    /// Where the tokens are noted that its sequence has seen.
    pub(crate) slot: usize,
    /// The token that has to come.
    pub(crate) forced: Option<u32>,
    /// A number in [0, 1).
    pub(crate) uniform: f64,
    /// How it is drawn otherwise.
    pub(crate) sampling: Sampling,
}

impl Draw {
    /// As the kernel reads it.
    pub(crate) fn words(&self) -> [u32; DRAW_WORDS] {
        let Sampling { temperature, top_p, top_k, min_p, repetition_penalty } = self.sampling;
        // Exact: a 53-bit fraction scaled by a power of two.
        let uniform = (self.uniform * 2_f64.powi(64)) as u64;
        let float = |number: f64| (number as f32).to_bits();
        [
            self.slot as u32,
            self.forced.unwrap_or(NO_TOKEN),
            uniform as u32,
            (uniform >> 32) as u32,
            float(temperature),
            float(top_p),
            float(min_p),
            float(repetition_penalty),
            top_k,
            1,
        ]
    }

    /// A row that is not drawn.
    pub(crate) const UNUSED: [u32; DRAW_WORDS] = [0; DRAW_WORDS];
}

/// Draws rows of logits, and knows which tokens every slot has seen.
#[derive(Debug)]
pub(crate) struct Drawing {
    kernels: Arc<dyn Kernels>,
    /// Ids that may be drawn.
    vocabulary: usize,
    /// A bit per token, for every slot.
    seen: Buffer<u32>,
    /// The token that was drawn last, for every slot.
    last: Buffer<u32>,
    results: Buffer<u32>,
    /// Results on their way, the oldest first, and landings that none are on their way to.
    fetched: VecDeque<Box<dyn Landing>>,
    idle: Vec<Box<dyn Landing>>,
}

impl Drawing {
    /// For so many slots, of which each has at most one row.
    pub(crate) fn new(gpu: &Gpu, vocabulary: usize, slots: usize) -> Result<Self, GpuError> {
        Ok(Self {
            kernels: gpu.compile(DRAW, &[])?,
            vocabulary,
            seen: Buffer::zeros(gpu, slots * vocabulary.div_ceil(32))?,
            last: Buffer::zeros(gpu, slots)?,
            results: Buffer::zeros(gpu, slots * DRAWN_WORDS)?,
            fetched: VecDeque::new(),
            idle: (0..AHEAD).map(|_| gpu.landing(4 * slots * DRAWN_WORDS)).collect::<Result<_, _>>()?,
        })
    }

    /// Notes that a slot's sequence begins with these tokens.
    pub(crate) fn begin(&self, slot: usize, seen: impl Iterator<Item = u32>) -> Result<(), GpuError> {
        let words = self.vocabulary.div_ceil(32);
        let mut bits = vec![0_u32; words];
        // A prompt may hold ids that cannot be drawn.
        for token in seen.filter(|&token| (token as usize) < self.vocabulary) {
            bits[token as usize / 32] |= 1 << (token % 32);
        }
        self.seen.upload(slot * words, &bits)
    }

    /// Draws every row of `logits`, `stride` apart, as `draws` says.
    pub(crate) fn draw(&self, logits: View<f32>, stride: usize, draws: View<u32>) -> Result<(), GpuError> {
        let rows = draws.len() / DRAW_WORDS;
        assert!(
            logits.len() == rows * stride
                && stride >= self.vocabulary
                && rows * DRAWN_WORDS <= self.results.len()
        );
        let arguments = [
            logits.into(),
            stride.into(),
            self.vocabulary.into(),
            draws.into(),
            self.seen.all().into(),
            self.last.all().into(),
            self.results.all().into(),
        ];
        self.kernels.launch("draw", Launch::new([rows, 1, 1], THREADS), &arguments)
    }

    /// The token that was drawn last, for every slot.
    pub(crate) fn last(&self) -> View<u32> {
        self.last.all()
    }

    /// Begins to fetch what the first `rows` rows of the last draw gave.
    ///
    /// # Panics
    /// If the results of [`AHEAD`] draws were not asked for yet.
    pub(crate) fn fetch(&mut self, rows: usize) -> Result<(), GpuError> {
        let mut landing = self.idle.pop().expect("so many draws are ahead at most");
        let results = self.results.at(0..rows * DRAWN_WORDS);
        landing.fetch(results.address(), results.bytes())?;
        self.fetched.push_back(landing);
        Ok(())
    }

    /// How many were fetched and not asked for.
    pub(crate) fn ahead(&self) -> usize {
        self.fetched.len()
    }

    /// What was fetched first of that which was not asked for; `None` if that is nothing.
    pub(crate) fn results(&mut self) -> Result<Option<Vec<Result<Drawn, SamplerError>>>, GpuError> {
        let Some(mut landing) = self.fetched.pop_front() else { return Ok(None) };
        let words = u32::from_bytes(landing.wait()?);
        self.idle.push(landing);
        let (results, _) = words.as_chunks();
        let read = |&[token, logprob, broken]: &[u32; DRAWN_WORDS]| {
            if broken == NO_TOKEN {
                Ok(Drawn { token, logprob: f64::from(f32::from_bits(logprob)) })
            } else {
                Err(SamplerError::NonFinite { token: broken, value: f32::NAN })
            }
        };
        Ok(Some(results.iter().map(read).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::tests::{gpus, noise};
    use crate::sampler::Sampler;

    const VOCABULARY: usize = 333;
    /// Rows that pad the vocabulary hold what would always win.
    const STRIDE: usize = 340;

    fn logits(seed: u32) -> Vec<f32> {
        let mut row: Vec<f32> = noise(STRIDE, seed).iter().map(|x| 6.0 * x).collect();
        row[VOCABULARY..].fill(50.0);
        row
    }

    fn all(
        gpu: &Gpu,
        rows: &[Vec<f32>],
        draws: &[Draw],
        seen: &[Vec<u32>],
    ) -> Vec<Result<Drawn, SamplerError>> {
        let mut drawing = Drawing::new(gpu, VOCABULARY, rows.len()).unwrap();
        for (slot, seen) in seen.iter().enumerate() {
            drawing.begin(slot, seen.iter().copied()).unwrap();
        }
        let words: Vec<u32> = draws.iter().flat_map(Draw::words).collect();
        let (logits, words) =
            (Buffer::from(gpu, &rows.concat()).unwrap(), Buffer::from(gpu, &words).unwrap());
        drawing.draw(logits.all(), STRIDE, words.all()).unwrap();
        drawing.fetch(rows.len()).unwrap();
        drawing.results().unwrap().unwrap()
    }

    /// The tokens that may be drawn, and their probabilities, by the plain way.
    fn kept(logits: &[f32], sampling: &Sampling, seen: &[u32]) -> Vec<(u32, f64)> {
        let mut logits = logits[..VOCABULARY].to_vec();
        let penalty = sampling.repetition_penalty as f32;
        for &token in seen {
            let logit = &mut logits[token as usize];
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
        let largest = logits.iter().copied().fold(f32::MIN, f32::max);
        let weight = |logit: f32| (f64::from(logit - largest) / sampling.temperature).exp();
        let mut ranked: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|&logit| weight(logit))).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked.retain(|&(_, weight)| weight >= sampling.min_p);
        if sampling.top_k > 0 {
            ranked.truncate(sampling.top_k as usize);
        }
        let total: f64 = ranked.iter().map(|(_, weight)| weight).sum();
        let mut sum = 0.0;
        let enough = ranked.iter().position(|(_, weight)| {
            sum += weight;
            sum >= sampling.top_p * total
        });
        ranked.truncate(enough.map_or(ranked.len(), |last| last + 1));
        let total: f64 = ranked.iter().map(|(_, weight)| weight).sum();
        ranked.sort_by_key(|&(token, _)| token);
        ranked.into_iter().map(|(token, weight)| (token, weight / total)).collect()
    }

    #[test]
    fn what_is_kept_is_walked_by_id() {
        let Some(tested) = gpus().into_iter().next() else { return };
        let samplings = [
            Sampling::default(),
            Sampling { temperature: 0.6, top_p: 0.9, ..Sampling::default() },
            Sampling { top_k: 5, ..Sampling::default() },
            Sampling { min_p: 0.2, temperature: 1.5, ..Sampling::default() },
            Sampling { top_k: 20, top_p: 0.7, min_p: 0.01, repetition_penalty: 1.7, ..Sampling::default() },
        ];
        let seen: Vec<u32> = (0..VOCABULARY as u32).filter(|token| token % 3 == 0).collect();
        for (index, sampling) in samplings.into_iter().enumerate() {
            let row = logits(index as u32 + 1);
            let penalised: &[u32] = if sampling.repetition_penalty > 1.0 { &seen } else { &[] };
            let kept = kept(&row, &sampling, penalised);
            let uniforms = [0.0, 0.1, 0.35, 0.5, 0.77, 0.999_999_9];
            let draw = |uniform| Draw { slot: 0, forced: None, uniform, sampling };
            let rows = vec![row.clone(); uniforms.len()];
            let draws: Vec<Draw> = (0..).zip(uniforms).map(|(slot, u)| Draw { slot, ..draw(u) }).collect();
            let got = all(&tested.gpu, &rows, &draws, &vec![seen.clone(); uniforms.len()]);
            for (uniform, drawn) in uniforms.into_iter().zip(got) {
                let drawn = drawn.unwrap();
                let mut sum = 0.0;
                let passes = |&&(_, share): &&(u32, f64)| {
                    sum += share;
                    sum > uniform
                };
                let expected = kept.iter().find(passes).or(kept.last()).unwrap().0;
                assert_eq!(drawn.token, expected, "{sampling:?} at {uniform}");
                let of_cpu = Sampler::default().force(&row[..VOCABULARY], expected).unwrap();
                assert!((drawn.logprob - of_cpu.logprob).abs() < 1e-5, "{drawn:?} {of_cpu:?}");
            }
        }
    }

    #[test]
    fn greedy_and_forced_tokens_and_what_is_no_distribution() {
        let Some(tested) = gpus().into_iter().next() else { return };
        let mut tied = logits(9);
        (tied[200], tied[31]) = (20.0, 20.0);
        let mut broken = logits(10);
        broken[77] = f32::NAN;
        broken[300] = f32::INFINITY;
        let greedy = |slot, forced| Draw { slot, forced, uniform: 0.5, sampling: Sampling::GREEDY };
        let draws = [greedy(0, None), greedy(1, Some(5)), greedy(2, None)];
        let got = all(&tested.gpu, &[tied.clone(), tied.clone(), broken], &draws, &[vec![], vec![], vec![]]);
        assert_eq!(got[0].as_ref().unwrap().token, 31);
        let forced = got[1].as_ref().unwrap();
        let of_cpu = Sampler::default().force(&tied[..VOCABULARY], 5).unwrap();
        assert!(forced.token == 5 && (forced.logprob - of_cpu.logprob).abs() < 1e-5);
        assert!(matches!(got[2], Err(SamplerError::NonFinite { token: 77, .. })), "{:?}", got[2]);
    }

    #[test]
    fn what_is_drawn_counts_as_seen() {
        let Some(tested) = gpus().into_iter().next() else { return };
        let gpu = &tested.gpu;
        let mut row = vec![0.0; STRIDE];
        (row[40], row[41]) = (3.0, 2.0);
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::GREEDY };
        let words = Draw { slot: 1, forced: None, uniform: 0.0, sampling }.words();
        let mut drawing = Drawing::new(gpu, VOCABULARY, 2).unwrap();
        drawing.begin(1, std::iter::empty()).unwrap();
        let (logits, words) = (Buffer::from(gpu, &row).unwrap(), Buffer::from(gpu, &words).unwrap());
        // The second draw is done before the first one's result is looked at.
        let mut draw = || {
            drawing.draw(logits.all(), STRIDE, words.all()).unwrap();
            drawing.fetch(1).unwrap();
        };
        draw();
        draw();
        let mut drawn = || drawing.results().unwrap().unwrap()[0].as_ref().unwrap().token;
        assert_eq!([drawn(), drawn()], [40, 41]);
        assert_eq!(drawing.last.download(0..2).unwrap(), [0, 41]);
    }
}
