//! AdamW with clipping by the global norm, and the learning rate over a run.

use serde::{Deserialize, Serialize};

use crate::kernels::math::dot;
use crate::kernels::share::{Shared, share};
use crate::kernels::vectorised;
use crate::model::Parameter;

/// The learning rate: from `initial` up to `peak` along a line, then down to `minimum` along half a cosine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Steps of the whole run.
    pub steps: u64,
    /// Steps on the line.
    pub warmup_steps: u64,
    /// At step 0.
    pub initial: f64,
    /// After the line.
    pub peak: f64,
    /// After `steps` steps.
    pub minimum: f64,
}

impl Schedule {
    /// The learning rate of the step after `done` steps.
    pub fn rate(&self, done: u64) -> f64 {
        let Self { steps, warmup_steps, initial, peak, minimum } = *self;
        if done < warmup_steps {
            return initial + (peak - initial) * done as f64 / warmup_steps as f64;
        }
        if steps <= warmup_steps {
            return peak;
        }
        let progress = (done.min(steps) - warmup_steps) as f64 / (steps - warmup_steps) as f64;
        minimum + 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()) * (peak - minimum)
    }
}

/// Constants of AdamW.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    /// Share of the old mean kept per step.
    pub beta1: f64,
    /// Share of the old mean square kept per step.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub epsilon: f64,
    /// Share of a matrix that decays per unit of learning rate; normalisation scales never decay.
    pub weight_decay: f64,
}

/// The moments of every weight.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Moments {
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
}

impl Moments {
    pub(crate) fn new(weights: usize) -> Self {
        // Written here, and not handed out as zero pages by the system: those are read before they are written, and each then costs
        // a copy that all threads wait for, which made a first step take half as long again.
        let zeros = || {
            let mut zeros = Vec::with_capacity(weights);
            zeros.resize(weights, 0.0);
            zeros
        };
        Self { first: zeros(), second: zeros() }
    }
}

/// Weights that are worth handing to another thread, and the length of one partial sum of the norm.
const GRAIN: usize = 1 << 13;

/// The Euclidean norm of all gradients together.
pub(crate) fn global_norm(gradients: &[f32]) -> f64 {
    let mut partial = vec![0.0; gradients.len().div_ceil(GRAIN)];
    let shared = Shared::new(&mut partial);
    share(gradients.len().div_ceil(GRAIN), 4, |blocks| {
        for block in blocks {
            // SAFETY: every partial sum is written by one call.
            let to = unsafe { shared.slice(block..block + 1) };
            to[0] = square(&gradients[block * GRAIN..((block + 1) * GRAIN).min(gradients.len())]);
        }
    });
    partial.iter().map(|&sum| f64::from(sum)).sum::<f64>().sqrt()
}

/// One step of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// Counted from 1.
    pub(crate) number: u64,
    /// The learning rate.
    pub(crate) rate: f64,
    /// What gradients are multiplied by: clipping.
    pub(crate) scale: f64,
}

/// One update of all weights.
pub(crate) fn update(
    constants: &AdamW,
    step: Step,
    parameters: &[Parameter],
    weights: &mut [f32],
    gradients: &[f32],
    moments: &mut Moments,
) {
    let of_matrices = Factors::new(constants, step);
    let (weights, first, second) =
        (Shared::new(weights), Shared::new(&mut moments.first), Shared::new(&mut moments.second));
    for parameter in parameters {
        let decay = if parameter.is_matrix() { of_matrices.decay } else { 1.0 };
        let factors = Factors { decay, ..of_matrices };
        share(parameter.places.len(), GRAIN, |range| {
            let places = parameter.places.start + range.start..parameter.places.start + range.end;
            // SAFETY: every weight is written by one call.
            unsafe {
                let (weights, first, second) = (
                    weights.slice(places.clone()),
                    first.slice(places.clone()),
                    second.slice(places.clone()),
                );
                update_range(factors, weights, &gradients[places], first, second);
            }
        });
    }
}

/// The numbers of one update.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factors {
    /// What gradients are multiplied by.
    pub(crate) scale: f32,
    pub(crate) beta1: f32,
    pub(crate) beta2: f32,
    /// The share of a matrix that is left.
    pub(crate) decay: f32,
    pub(crate) rate: f32,
    pub(crate) epsilon: f32,
}

impl Factors {
    /// Those of matrices.
    pub(crate) fn new(constants: &AdamW, step: Step) -> Self {
        let Step { number, rate, scale } = step;
        let step = i32::try_from(number).unwrap_or(i32::MAX);
        let corrected = (1.0 - constants.beta2.powi(step)).sqrt();
        Self {
            scale: scale as f32,
            beta1: constants.beta1 as f32,
            beta2: constants.beta2 as f32,
            decay: (1.0 - rate * constants.weight_decay) as f32,
            // The corrections of both means, moved out of the loop: rate · m/c₁ / (√(v/c₂) + ε) = rate √c₂/c₁ · m / (√v + ε √c₂).
            rate: (rate * corrected / (1.0 - constants.beta1.powi(step))) as f32,
            epsilon: (constants.epsilon * corrected) as f32,
        }
    }
}

vectorised! {
    fn square(values: &[f32]) -> f32 {
        dot(values, values)
    }

    fn update_range(factors: Factors, weights: &mut [f32], gradients: &[f32], first: &mut [f32], second: &mut [f32]) {
        for (((weight, gradient), first), second) in weights.iter_mut().zip(gradients).zip(first).zip(second) {
            let gradient = gradient * factors.scale;
            *first = factors.beta1.mul_add(*first, (1.0 - factors.beta1) * gradient);
            *second = factors.beta2.mul_add(*second, (1.0 - factors.beta2) * gradient * gradient);
            *weight = *weight * factors.decay - factors.rate * *first / (second.sqrt() + factors.epsilon);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Config, Places};

    #[test]
    fn the_rate_follows_the_paper() {
        let schedule = Schedule { steps: 3000, warmup_steps: 90, initial: 5e-7, peak: 5e-6, minimum: 5e-8 };
        for (step, rate) in [
            (0, 5e-7),
            (1, 5.5e-7),
            (45, 2.75e-6),
            (90, 5e-6),
            (1000, 3.89865e-6),
            (1545, 2.525e-6),
            (2000, 1.35756e-6),
            (3000, 5e-8),
        ] {
            assert!((schedule.rate(step) - rate).abs() < 1e-11, "{step}: {}", schedule.rate(step));
        }
    }

    /// Two steps by the textbook formula, in double precision.
    #[test]
    fn updates_are_those_of_the_textbook() {
        let places = Places::new(&Config::small(4, 4, 1, 4, 8));
        let total = places.total();
        let constants = AdamW { beta1: 0.9, beta2: 0.98, epsilon: 1e-8, weight_decay: 0.1 };
        let (mut weights, mut moments) = (vec![0.5; total], Moments::new(total));
        let is_matrix = |place| places.parameters.iter().any(|p| p.is_matrix() && p.places.contains(&place));
        let gradient = |place: usize, step: u64| (place % 7) as f32 - 3.0 + step as f32;
        let mut expected = vec![(0.5_f64, 0.0_f64, 0.0_f64); total];
        for step in 1..=2 {
            let gradients: Vec<f32> = (0..total).map(|place| gradient(place, step)).collect();
            update(
                &constants,
                Step { number: step, rate: 0.01, scale: 0.5 },
                &places.parameters,
                &mut weights,
                &gradients,
                &mut moments,
            );
            for (place, (weight, first, second)) in expected.iter_mut().enumerate() {
                let gradient = f64::from(gradients[place]) * 0.5;
                *first = 0.9 * *first + 0.1 * gradient;
                *second = 0.98 * *second + 0.02 * gradient * gradient;
                let (mean, square) = (
                    *first / (1.0 - 0.9_f64.powi(step as i32)),
                    *second / (1.0 - 0.98_f64.powi(step as i32)),
                );
                *weight -= if is_matrix(place) { 0.01 * 0.1 * *weight } else { 0.0 };
                *weight -= 0.01 * mean / (square.sqrt() + 1e-8);
            }
        }
        for (weight, (expected, ..)) in weights.iter().zip(&expected) {
            assert!((f64::from(*weight) - expected).abs() < 1e-6, "{weight} {expected}");
        }
        assert!((global_norm(&vec![2.0; 40_000]) - 400.0).abs() < 1e-3);
    }
}
