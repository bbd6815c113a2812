//! Two arms on the same items: difference, exact test, correction for many comparisons.
use serde::{Deserialize, Serialize};

use super::cluster::clustered_mean;
use super::mean::{Mean, mean, variance};
use super::power::minimum_detectable;
use super::{Interval, t_two_sided};

/// The difference of two arms' item scores, item by item.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Items that both arms have.
    pub items: usize,
    /// Mean of a − b.
    pub mean: f64,
    /// sd(a − b) / √N (Miller 2024, arXiv 2411.00640, section 4).
    pub standard_error: Option<f64>,
    /// 95 % interval by Student's t.
    pub interval: Option<Interval>,
    /// Two-sided p of the t test; 1 where no item differs, so that it never stands out.
    pub p: Option<f64>,
    /// Pearson correlation of the two arms' scores: how much the pairing gains. Absent where an arm's
    /// scores are all the same.
    pub correlation: Option<f64>,
    /// The least true difference that would be found four times in five (see `minimum_detectable`).
    pub detectable: Option<f64>,
}

/// Compares the scores of two arms on the same items, given in the same order. `None` without items.
///
/// # Panics
/// If the arms have different numbers of items.
pub fn paired_difference(a: &[f64], b: &[f64]) -> Option<Difference> {
    let summary = mean(&subtract(a, b))?;
    Some(of_summary(a, b, summary, summary.items))
}

/// The same where items that share a name in `clusters` may not be independent, such as questions on one passage: the
/// error is that of `clustered_mean`, on as many degrees of freedom as there are clusters less one.
///
/// # Panics
/// If the arms and the names are not equally many.
pub fn paired_difference_clustered(a: &[f64], b: &[f64], clusters: &[&str]) -> Option<Difference> {
    let (summary, count) = clustered_mean(&subtract(a, b), clusters)?;
    Some(of_summary(a, b, summary, count))
}

/// `units` are what the error is over: items or clusters of them.
fn of_summary(a: &[f64], b: &[f64], summary: Mean, units: usize) -> Difference {
    let p = summary.standard_error.map(|error| {
        if error > 0.0 {
            t_two_sided(summary.mean / error, (units - 1) as f64)
        } else if summary.mean == 0.0 {
            1.0
        } else {
            // Every item differs by the same amount. The t test would say 0; the sign test is honest.
            0.5_f64.powf((units - 1) as f64)
        }
    });
    Difference {
        items: summary.items,
        mean: summary.mean,
        standard_error: summary.standard_error,
        interval: summary.interval,
        p,
        correlation: correlation(a, b),
        detectable: summary.standard_error.map(minimum_detectable),
    }
}

pub(super) fn subtract(a: &[f64], b: &[f64]) -> Vec<f64> {
    assert_eq!(a.len(), b.len(), "paired arms have the same items");
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let spread = (variance(a)? * variance(b)?).sqrt();
    let [mean_a, mean_b] = [a, b].map(|scores| scores.iter().sum::<f64>() / scores.len() as f64);
    let together: f64 = a.iter().zip(b).map(|(a, b)| (a - mean_a) * (b - mean_b)).sum();
    (spread > 0.0).then(|| together / (a.len() - 1) as f64 / spread)
}

/// McNemar's test in its exact form: two-sided binomial on the items that one arm alone got right
/// (McNemar 1947; Dietterich 1998). For one sample an item, or for any-of-n.
///
/// There is no mid-p here: it is a little more powerful and may exceed its level, and where the power matters there are
/// several samples of an item, and the bootstrap and the sign flips over all of them.
pub fn mcnemar_exact(only_a: usize, only_b: usize) -> f64 {
    let discordant = only_a + only_b;
    // The sum of C(n, i) / 2ⁿ for i up to the smaller count, each term from the one before. Logarithms,
    // because 2⁻ⁿ underflows.
    let mut ln_term = -(discordant as f64) * std::f64::consts::LN_2;
    let mut tail = ln_term.exp();
    for i in 0..only_a.min(only_b) {
        ln_term += ((discordant - i) as f64 / (i + 1) as f64).ln();
        tail += ln_term.exp();
    }
    (2.0 * tail).min(1.0)
}

/// Holm's step-down correction (Holm 1979): p values to compare with 0.05 as they are, in the order given.
/// The chance of any false finding among all of them stays below 0.05.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut highest = 0.0_f64;
    for (rank, &index) in order.iter().enumerate() {
        highest = highest.max((p[index] * (p.len() - rank) as f64).min(1.0));
        adjusted[index] = highest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: [f64; 5] = [1.0, 0.5, 0.0, 0.75, 0.25];
    const B: [f64; 5] = [1.0, 0.75, 0.25, 1.0, 0.5];

    #[test]
    fn pairing_gains_what_the_arms_share() {
        let found = paired_difference(&B, &A).unwrap();
        assert!((found.mean - 0.2).abs() < 1e-12);
        assert!((found.standard_error.unwrap() - 0.05).abs() < 1e-12);
        assert!((found.p.unwrap() - t_two_sided(4.0, 4.0)).abs() < 1e-12);
        assert!((found.correlation.unwrap() - 0.970_143).abs() < 1e-6);
        assert!((found.detectable.unwrap() - 0.140_079).abs() < 1e-6);
        let interval = found.interval.unwrap();
        assert!(
            interval.low > 0.06 && interval.low < 0.0612 && interval.high > 0.3388 && interval.high < 0.34
        );

        let same = paired_difference(&A, &A).unwrap();
        assert_eq!((same.mean, same.p), (0.0, Some(1.0)));
        let constant = paired_difference(&[1.0; 6], &[0.0; 6]).unwrap();
        assert_eq!((constant.p, constant.correlation), (Some(0.031_25), None));
        assert_eq!(paired_difference(&[], &[]), None);
    }

    #[test]
    fn exact_mcnemar_of_small_counts() {
        for (only_a, only_b, expected) in
            [(2, 0, 0.5), (5, 1, 0.218_75), (10, 2, 0.038_574), (11, 0, 0.000_977), (0, 0, 1.0), (6, 6, 1.0)]
        {
            let found = mcnemar_exact(only_a, only_b);
            assert!((found - expected).abs() < 5e-7, "{only_a}, {only_b}: {found}");
        }
        assert!(mcnemar_exact(4000, 3000) < 1e-30);
    }

    #[test]
    fn items_of_one_cluster_count_once() {
        // Every item twice, under one name: the error is that of the items once.
        let twice = |scores: &[f64]| scores.iter().flat_map(|score| [*score, *score]).collect::<Vec<f64>>();
        let names = ["p", "p", "q", "q", "r", "r", "s", "s", "t", "t"];
        let once = paired_difference(&B, &A).unwrap();
        let found = paired_difference_clustered(&twice(&B), &twice(&A), &names).unwrap();
        assert!((found.standard_error.unwrap() - once.standard_error.unwrap()).abs() < 1e-12);
        assert!((found.p.unwrap() - once.p.unwrap()).abs() < 1e-12);
        assert_eq!(found.items, 10);
    }

    #[test]
    fn holm_steps_down() {
        assert_eq!(holm(&[0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02]);
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
        assert_eq!(holm(&[]), Vec::<f64>::new());
    }

    proptest! {
        #[test]
        fn the_difference_changes_sign_with_the_order(pairs in prop::collection::vec((0.0..1.0_f64, 0.0..1.0_f64), 2..40)) {
            let (a, b): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            let (one, two) = (paired_difference(&a, &b).unwrap(), paired_difference(&b, &a).unwrap());
            prop_assert!((one.mean + two.mean).abs() < 1e-12);
            prop_assert_eq!(one.standard_error, two.standard_error);
            prop_assert!((one.p.unwrap() - two.p.unwrap()).abs() < 1e-9);
        }

        #[test]
        fn holm_never_lowers_a_p_value_and_keeps_their_order(p in prop::collection::vec(0.0..=1.0_f64, 0..20)) {
            let adjusted = holm(&p);
            for i in 0..p.len() {
                prop_assert!(adjusted[i] >= p[i] && adjusted[i] <= 1.0);
                for j in 0..p.len() {
                    prop_assert!(p[i] > p[j] || adjusted[i] <= adjusted[j]);
                }
            }
        }
    }
}
