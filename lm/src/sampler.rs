//! One row of logits to one token, from an explicit seed and position.
//!
//! The draw is a pure function of the logits, the sampling parameters, the seed of the sample and the position of the
//! token in its response. Nothing is carried from token to token, so neither the batch nor an interruption can shift it.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::kernels::{math, vectorised};

/// How a token is drawn from the model's distribution.
///
/// The parts apply in the order repetition penalty, temperature, `min_p`, `top_k`, `top_p`; what is left is renormalised.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy: the most probable token, the lowest id among equals.
    pub temperature: f64,
    /// Keeps the fewest most probable tokens whose probability reaches this sum; 1 keeps all.
    pub top_p: f64,
    /// Keeps so many most probable tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps tokens at least this fraction as probable as the most probable one; 0 keeps all.
    pub min_p: f64,
    /// Makes tokens of the prompt and the response so far less probable: divides their logits that are above 0 and multiplies
    /// the others, once however often a token was there ([CTRL](https://arxiv.org/abs/1909.05858), as transformers
    /// implements it); 1 changes nothing.
    pub repetition_penalty: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0, repetition_penalty: 1.0 }
    }
}

impl Sampling {
    /// The most probable token, always.
    pub const GREEDY: Self =
        Self { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0, repetition_penalty: 1.0 };

    /// Says which parameter is out of its range.
    pub fn check(&self) -> Result<(), SamplerError> {
        let faults = [
            ("temperature", self.temperature, self.temperature >= 0.0 && self.temperature.is_finite()),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p)),
            (
                "repetition_penalty",
                self.repetition_penalty,
                self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite(),
            ),
        ];
        match faults.into_iter().find(|(.., good)| !good) {
            Some((parameter, value, _)) => Err(SamplerError::Parameter { parameter, value }),
            None => Ok(()),
        }
    }
}

/// Why no token could be drawn.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SamplerError {
    /// The model's output is not a distribution.
    #[error("the logit of token {token} is {value}")]
    NonFinite {
        /// The first token with such a logit.
        token: u32,
        /// What stands there.
        value: f32,
    },
    /// The model has no tokens.
    #[error("there are no logits to draw from")]
    Empty,
    /// A sampling parameter is out of its range.
    #[error("`{parameter}` cannot be {value}")]
    Parameter {
        /// Its name.
        parameter: &'static str,
        /// What was given.
        value: f64,
    },
}

/// A drawn token and how probable the model held it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// The token.
    pub token: u32,
    /// Its natural log-probability in the model's own distribution, before penalty, temperature and truncation.
    pub logprob: f64,
}

/// A candidate's weight relative to the most probable token (whose weight is 1), and its id.
type Candidate = (f32, u32);

/// Draws tokens; keeps its working memory from one draw to the next.
#[derive(Debug, Default)]
pub struct Sampler {
    weights: Vec<f32>,
    penalised: Vec<f32>,
    candidates: Vec<Candidate>,
}

/// So many candidates are sorted at first; the head of the distribution is nearly always enough.
const FIRST_SORTED: usize = 32;

impl Sampler {
    /// Draws the token at `position` (counted from 0 in the response) of the sample with this `seed`; `seen` are the tokens
    /// before it, in any order and number.
    pub fn draw(
        &mut self,
        logits: &[f32],
        sampling: &Sampling,
        seen: impl Iterator<Item = u32>,
        seed: u64,
        position: u64,
    ) -> Result<Drawn, SamplerError> {
        let peak = most_probable(logits)?;
        let log_mass = self.log_mass(logits, peak);
        let token = if sampling.repetition_penalty.total_cmp(&1.0).is_eq() {
            self.choose(logits, peak, sampling, seed, position)
        } else {
            let mut penalised = std::mem::take(&mut self.penalised);
            penalise(logits, seen, sampling.repetition_penalty as f32, &mut penalised);
            let peak = most_probable(&penalised)?;
            let token = self.choose(&penalised, peak, sampling, seed, position);
            self.penalised = penalised;
            token
        };
        Ok(Drawn { token, logprob: f64::from(logits[token as usize]) - log_mass })
    }

    /// Takes `token`, whatever the model holds of it.
    ///
    /// # Panics
    /// If the model has no such token.
    pub fn force(&mut self, logits: &[f32], token: u32) -> Result<Drawn, SamplerError> {
        let peak = most_probable(logits)?;
        Ok(Drawn { token, logprob: f64::from(logits[token as usize]) - self.log_mass(logits, peak) })
    }

    /// The logarithm of the sum of all exponentials: what a logit exceeds its log-probability by.
    fn log_mass(&mut self, logits: &[f32], (_, maximum): (u32, f32)) -> f64 {
        self.weights.resize(logits.len(), 0.0);
        relative_weights(logits, maximum, 1.0, &mut self.weights);
        let mass: f64 = self.weights.iter().copied().map(f64::from).sum();
        f64::from(maximum) + math::ln(mass)
    }

    fn choose(
        &mut self,
        logits: &[f32],
        (best, maximum): (u32, f32),
        sampling: &Sampling,
        seed: u64,
        position: u64,
    ) -> u32 {
        if sampling.temperature == 0.0 {
            return best;
        }
        relative_weights(logits, maximum, sampling.temperature, &mut self.weights);
        self.draw_weighted(sampling, uniform(seed, position))
    }

    fn draw_weighted(&mut self, sampling: &Sampling, uniform: f64) -> u32 {
        let candidates = &mut self.candidates;
        candidates.clear();
        let weighted = self.weights.iter().copied().zip(0..);
        candidates.extend(weighted.filter(|&(weight, _)| f64::from(weight) >= sampling.min_p));
        let kept = sampling.top_k as usize;
        if kept > 0 && kept < candidates.len() {
            candidates.select_nth_unstable_by(kept - 1, by_weight);
            candidates.truncate(kept);
            // The sum below must not depend on the order in which the selection left them.
            candidates.sort_unstable_by_key(|&(_, token)| token);
        }
        let mut total: f64 = candidates.iter().map(|&(weight, _)| f64::from(weight)).sum();
        let mut ranked = Ranked { candidates, sorted: 0 };
        if sampling.top_p < 1.0 {
            let (last, reached) = ranked.reach(|sum| sum >= sampling.top_p * total);
            ranked.candidates.truncate(last + 1);
            total = reached;
        }
        let (chosen, _) = ranked.reach(|sum| sum > uniform * total);
        ranked.candidates[chosen].1
    }
}

/// The logits with those of `seen` tokens made less probable.
fn penalise(logits: &[f32], seen: impl Iterator<Item = u32>, penalty: f32, penalised: &mut Vec<f32>) {
    penalised.clear();
    penalised.extend_from_slice(logits);
    // From the untouched logit, so that a token seen twice is penalised once. A prompt may hold ids that cannot be drawn.
    for (token, &logit) in seen.filter_map(|token| Some((token, logits.get(token as usize)?))) {
        penalised[token as usize] = if logit < 0.0 { logit * penalty } else { logit / penalty };
    }
}

vectorised! {
    /// The probabilities at a temperature, divided by that of the most probable token.
    fn relative_weights(logits: &[f32], maximum: f32, temperature: f64, weights: &mut [f32]) {
        for (weight, logit) in weights.iter_mut().zip(logits) {
            // Divided in 64 bits, where no temperature above 0 turns the difference 0 into something else.
            *weight = math::exp((f64::from(logit - maximum) / temperature) as f32);
        }
    }
}

/// More probable first, then the lower id: a total order, so every selection has one outcome.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "as sorting passes its elements")]
fn by_weight(left: &Candidate, right: &Candidate) -> Ordering {
    right.0.total_cmp(&left.0).then(left.1.cmp(&right.1))
}

/// Candidates of which the most probable are sorted, as many as were needed so far.
struct Ranked<'a> {
    candidates: &'a mut Vec<Candidate>,
    sorted: usize,
}

impl Ranked<'_> {
    /// The rank at which the running sum of weights is `enough`, and that sum; the last rank where it never is.
    fn reach(&mut self, enough: impl Fn(f64) -> bool) -> (usize, f64) {
        let mut sum = 0.0;
        let mut rank = 0;
        loop {
            if rank == self.sorted {
                self.sort_more();
            }
            sum += f64::from(self.candidates[rank].0);
            if enough(sum) || rank + 1 == self.candidates.len() {
                return (rank, sum);
            }
            rank += 1;
        }
    }

    fn sort_more(&mut self) {
        let rest = &mut self.candidates[self.sorted..];
        let more = self.sorted.max(FIRST_SORTED).min(rest.len());
        if more < rest.len() {
            rest.select_nth_unstable_by(more - 1, by_weight);
        }
        rest[..more].sort_unstable_by(by_weight);
        self.sorted += more;
    }
}

/// The most probable token, the lowest id among equals; refuses logits that are not numbers.
fn most_probable(logits: &[f32]) -> Result<(u32, f32), SamplerError> {
    let mut best: Option<(u32, f32)> = None;
    for (&value, token) in logits.iter().zip(0..) {
        if !value.is_finite() {
            return Err(SamplerError::NonFinite { token, value });
        }
        if best.is_none_or(|(_, maximum)| value > maximum) {
            best = Some((token, value));
        }
    }
    best.ok_or(SamplerError::Empty)
}

/// A number in [0, 1) that depends on the seed and the position and on nothing else.
pub(crate) fn uniform(seed: u64, position: u64) -> f64 {
    let mut input = [0; 16];
    input[..8].copy_from_slice(&seed.to_le_bytes());
    input[8..].copy_from_slice(&position.to_le_bytes());
    let hash = blake3::hash(&input);
    let (head, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
    // The 53 bits that a 64-bit float holds exactly.
    (u64::from_le_bytes(*head) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn draw(logits: &[f32], sampling: &Sampling, seed: u64, position: u64) -> u32 {
        Sampler::default().draw(logits, sampling, [].into_iter(), seed, position).unwrap().token
    }

    /// The plain way: sort all, cut, walk.
    fn reference(logits: &[f32], sampling: &Sampling, uniform: f64) -> u32 {
        let maximum = logits.iter().copied().fold(f32::MIN, f32::max);
        let mut ranked: Vec<Candidate> = logits
            .iter()
            .zip(0..)
            .map(|(&logit, token)| {
                (math::exp((f64::from(logit - maximum) / sampling.temperature) as f32), token)
            })
            .filter(|(weight, _)| f64::from(*weight) >= sampling.min_p)
            .collect();
        ranked.sort_by(by_weight);
        if sampling.top_k > 0 {
            ranked.truncate(sampling.top_k as usize);
        }
        let mut by_id = ranked.clone();
        by_id.sort_by_key(|candidate| candidate.1);
        let mut total: f64 = by_id.iter().map(|candidate| f64::from(candidate.0)).sum();
        if sampling.top_p < 1.0 {
            let mut sum = 0.0;
            let kept = ranked.iter().position(|candidate| {
                sum += f64::from(candidate.0);
                sum >= sampling.top_p * total
            });
            if let Some(last) = kept {
                ranked.truncate(last + 1);
            }
            total = sum;
        }
        let mut sum = 0.0;
        let chosen = ranked.iter().find(|candidate| {
            sum += f64::from(candidate.0);
            sum > uniform * total
        });
        chosen.or(ranked.last()).unwrap().1
    }

    #[test]
    fn greedy_takes_the_lowest_id_among_equals() {
        let drawn =
            Sampler::default().draw(&[1.0, 3.0, 3.0, 2.0], &Sampling::GREEDY, [].into_iter(), 7, 0).unwrap();
        assert_eq!(drawn.token, 1);
        let expected = -(2.0 + (-1f64).exp() + (-2f64).exp()).ln();
        assert!((drawn.logprob - expected).abs() < 1e-6);
    }

    #[test]
    fn non_finite_logits_are_an_error() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let result =
                Sampler::default().draw(&[0.0, bad, bad], &Sampling::default(), [].into_iter(), 0, 0);
            assert!(matches!(result, Err(SamplerError::NonFinite { token: 1, .. })));
        }
    }

    #[test]
    fn the_stream_of_a_seed_is_fixed() {
        // A change of these values changes every sampled response there is.
        let drawn: Vec<u32> =
            (0..12).map(|position| draw(&[0.0; 10], &Sampling::default(), 17, position)).collect();
        assert_eq!(drawn, [4, 9, 0, 5, 4, 8, 7, 3, 5, 3, 2, 7]);
    }

    #[test]
    fn frequencies_follow_the_distribution() {
        let logits = [0.0, 1.0, 2.0, -1.0];
        let sampling = Sampling { temperature: 0.7, ..Sampling::default() };
        let draws = 20_000;
        let mut counts = [0u32; 4];
        for seed in 0..draws {
            counts[draw(&logits, &sampling, seed, 3) as usize] += 1;
        }
        let weights = logits.map(|logit: f32| (f64::from(logit) / 0.7).exp());
        let total: f64 = weights.iter().sum();
        for (count, weight) in counts.into_iter().zip(weights) {
            let expected = weight / total;
            let error = (expected * (1.0 - expected) / draws as f64).sqrt();
            assert!((f64::from(count) / draws as f64 - expected).abs() < 5.0 * error);
        }
    }

    #[test]
    fn tokens_that_were_there_are_penalised_once() {
        // The worked example: 4 / 2 = 2 falls below 3, and -1 · 2 = -2 below -1.5; a second time changes nothing.
        let logits = [4.0, 3.0, -1.0, -1.5];
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::GREEDY };
        let mut penalised = Vec::new();
        penalise(&logits, [0, 2, 0, 2, 77].into_iter(), 2.0, &mut penalised);
        assert_eq!(penalised, [2.0, 3.0, -2.0, -1.5]);
        let drawn = Sampler::default().draw(&logits, &sampling, [0, 2, 0].into_iter(), 1, 0).unwrap();
        let plain = Sampler::default().force(&logits, 1).unwrap();
        assert_eq!(drawn, plain, "token 1, with the log-probability that the model itself gives it");
        // Seen tokens are still drawn where the seed says so, and another distribution is drawn from.
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        let count = |seen: &[u32]| {
            let drawn = |seed| {
                Sampler::default().draw(&logits, &sampling, seen.iter().copied(), seed, 0).unwrap().token
            };
            (0..2000).filter(|&seed| drawn(seed) == 0).count()
        };
        let share = |logits: [f64; 4]| logits[0].exp() / logits.map(f64::exp).iter().sum::<f64>();
        assert!((count(&[]) as f64 / 2000.0 - share([4.0, 3.0, -1.0, -1.5])).abs() < 0.05);
        assert!((count(&[0, 2]) as f64 / 2000.0 - share([2.0, 3.0, -2.0, -1.5])).abs() < 0.05);
    }

    #[test]
    fn parameters_out_of_range_are_named() {
        let fault = |sampling: Sampling| sampling.check().unwrap_err().to_string();
        assert_eq!(fault(Sampling { top_p: 0.0, ..Sampling::GREEDY }), "`top_p` cannot be 0");
        assert_eq!(fault(Sampling { temperature: -1.0, ..Sampling::GREEDY }), "`temperature` cannot be -1");
        assert_eq!(fault(Sampling { min_p: f64::NAN, ..Sampling::GREEDY }), "`min_p` cannot be NaN");
        let penalty = Sampling { repetition_penalty: 0.0, ..Sampling::GREEDY };
        assert_eq!(fault(penalty), "`repetition_penalty` cannot be 0");
        Sampling::default().check().unwrap();
    }

    proptest! {
        #[test]
        fn partial_selection_equals_full_sorting(
            // Few distinct values, so that ties are common.
            logits in prop::collection::vec((-12i32..12).prop_map(|value| value as f32 / 4.0), 1..400),
            temperature in 0.1f64..3.0,
            top_p in prop_oneof![Just(1.0), 0.01f64..1.0],
            top_k in prop_oneof![Just(0u32), 1u32..500],
            min_p in prop_oneof![Just(0.0), 0.0f64..1.0],
            seed: u64,
        ) {
            let sampling = Sampling { temperature, top_p, top_k, min_p, ..Sampling::default() };
            prop_assert_eq!(draw(&logits, &sampling, seed, 5), reference(&logits, &sampling, uniform(seed, 5)));
        }
    }
}
