//! How small a difference can be found, and what it would take to find this one.
use serde::{Deserialize, Serialize};

use super::mean::{mean, variance};
use super::paired::subtract;

/// z of the two-sided 5 % level and of a power of 80 %.
const LEVEL_AND_POWER: f64 = 1.959_963_984_540_054 + 0.841_621_233_572_914_4;

/// The least true difference that a comparison with this standard error finds four times in five at the two-sided 5 % level:
/// 2.8 standard errors (Miller 2024, arXiv 2411.00640, section 5).
pub fn minimum_detectable(standard_error: f64) -> f64 {
    LEVEL_AND_POWER * standard_error
}

/// What would settle a difference as large as the one observed, at 5 % and with a power of 80 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Needed {
    /// So many items, with as many samples each as now. None where the arms are equal: no number would.
    pub items: Option<u64>,
    /// So many samples of each of the items there are. None where no number of them would: then only more items help.
    pub samples: Option<u64>,
}

/// Items or samples that would settle the observed difference of two arms (Miller 2024, section 5):
/// N = (z_α/2 + z_β)² (ω² + σ²_A / n_A + σ²_B / n_B) / δ², where δ is the difference, σ² the mean variance of the samples of an
/// item and ω² the variance of the items' true differences, which is what the samples leave of the variance of the observed
/// ones. `a` and `b` hold the samples of each item, in one order. With one sample of an item the two cannot be told apart,
/// and only items are given. `None` for fewer than two items.
///
/// The difference is itself uncertain, so this is a size to plan with and no verdict on the data at hand.
///
/// # Panics
/// If the arms have different numbers of items.
pub fn needed(a: &[Vec<f64>], b: &[Vec<f64>]) -> Option<Needed> {
    let scores =
        |arm: &[Vec<f64>]| arm.iter().map(|item| Some(mean(item)?.mean)).collect::<Option<Vec<f64>>>();
    let differences = subtract(&scores(a)?, &scores(b)?);
    let (delta, total) = (mean(&differences)?.mean, variance(&differences)?);
    // In units of the variance that a mean over one item may have.
    let allowed = (delta / LEVEL_AND_POWER).powi(2);
    if allowed < 1e-18 {
        return Some(Needed { items: None, samples: None });
    }
    let items = Some(whole(total / allowed).max(2));
    let samples = noise(a).zip(noise(b)).and_then(|(of_a, of_b)| {
        let true_differences = (total - of_a.left - of_b.left).max(0.0);
        let room = differences.len() as f64 * allowed - true_differences;
        (room > 0.0).then(|| whole((of_a.each + of_b.each) / room).max(1))
    });
    Some(Needed { items, samples })
}

/// Rounded up, but not for an error in the last digits.
fn whole(value: f64) -> u64 {
    (value - 1e-9).ceil().max(0.0) as u64
}

/// Variance within items: of one sample, and what is left of it in the mean of an item's samples.
struct Noise {
    each: f64,
    left: f64,
}

fn noise(arm: &[Vec<f64>]) -> Option<Noise> {
    let each: Vec<f64> = arm.iter().map(|item| variance(item)).collect::<Option<_>>()?;
    let left: Vec<f64> = each.iter().zip(arm).map(|(each, item)| each / item.len() as f64).collect();
    Some(Noise { each: mean(&each)?.mean, left: mean(&left)?.mean })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn arm(items: [[u8; 4]; 5]) -> Vec<Vec<f64>> {
        items.map(|item| item.map(f64::from).to_vec()).into()
    }

    #[test]
    fn worked_by_hand() {
        assert!((minimum_detectable(0.05) - 0.140_079).abs() < 1e-6);
        let a = arm([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 1], [0, 0, 1, 0]]);
        let b = arm([[1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1], [0, 1, 1, 0]]);
        // δ = −0.2, variance of the differences 1/80: 7.849 · 0.0125 / 0.04 = 2.45 items; the samples explain all of it
        // (1/24 + 1/24 > 1/80), and 7.849 · (1/6 + 1/6) / (5 · 0.04) = 10.5 samples in all, were ω nothing.
        let found = needed(&a, &b).unwrap();
        let within = (0.0 + 0.25 + 0.25 + 0.0 + 1.0 / 3.0) / 5.0;
        let samples = (7.848_88 * (1.0 / 6.0 + within) / 0.2_f64).ceil() as u64;
        assert_eq!(found, Needed { items: Some(3), samples: Some(samples) });
        assert_eq!(needed(&a, &a), Some(Needed { items: None, samples: None }));

        // Items that differ for good: no number of samples settles what their choice leaves open.
        let always = |right: [u8; 5]| arm(right.map(|right| [right; 4]));
        let found = needed(&always([1, 1, 0, 1, 0]), &always([0, 1, 1, 0, 0])).unwrap();
        // δ = 0.2, variance 0.7: 7.849 · 0.7 / 0.04 = 137.4.
        assert_eq!(found, Needed { items: Some(138), samples: None });
        // One sample each: what is noise cannot be told.
        let single = |right: [f64; 3]| right.map(|right| vec![right]).to_vec();
        assert_eq!(needed(&single([1.0, 1.0, 0.0]), &single([0.0, 1.0, 0.0])).unwrap().samples, None);
        assert_eq!(needed(&[], &[]), None);
    }

    proptest! {
        /// With the number of items it asks for, the difference is just detectable.
        #[test]
        fn so_many_items_make_the_difference_detectable(seed in prop::collection::vec((0..=4_u8, 0..=4_u8), 3..40)) {
            let arm = |pick: fn(&(u8, u8)) -> u8| -> Vec<Vec<f64>> {
                seed.iter().map(|pair| (0..4).map(|at| f64::from(u8::from(at < pick(pair)))).collect()).collect()
            };
            let (a, b) = (arm(|pair| pair.0), arm(|pair| pair.1));
            let scores = |arm: &[Vec<f64>]| arm.iter().map(|item| mean(item).unwrap().mean).collect::<Vec<_>>();
            let differences = subtract(&scores(&a), &scores(&b));
            let delta = mean(&differences).unwrap().mean;
            if let Some(items) = needed(&a, &b).unwrap().items {
                let error = (variance(&differences).unwrap() / items as f64).sqrt();
                prop_assert!(minimum_detectable(error) <= delta.abs() + 1e-9);
                if items > 2 {
                    let fewer = (variance(&differences).unwrap() / (items - 1) as f64).sqrt();
                    prop_assert!(minimum_detectable(fewer) >= delta.abs() - 1e-6);
                }
            }
        }
    }
}
