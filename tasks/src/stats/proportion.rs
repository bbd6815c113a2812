//! Proportions: Wilson's interval, two of them compared, none at all, and the counts behind published percentages.
use serde::{Deserialize, Serialize};

use super::{Interval, normal_upper_tail};

/// Wilson's 95 % score interval of a proportion (Wilson 1927), which stays within 0 and 1 and keeps its
/// coverage where the normal one collapses. `None` without trials.
pub fn wilson(successes: usize, trials: usize) -> Option<Interval> {
    const Z: f64 = 1.959_963_984_540_054;
    (trials > 0).then(|| wilson_of(successes as f64 / trials as f64, trials as f64, Z))
}

/// Wilson's interval of a share of `size` trials, which need be no whole number, `z` standard errors wide.
pub(super) fn wilson_of(share: f64, size: f64, z: f64) -> Interval {
    let centre = (share + z * z / (2.0 * size)) / (1.0 + z * z / size);
    let reach =
        z / (1.0 + z * z / size) * (share * (1.0 - share) / size + z * z / (4.0 * size * size)).sqrt();
    Interval { low: (centre - reach).max(0.0), high: (centre + reach).min(1.0) }
}

/// Two proportions of different items, or of items whose pairing is not known.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TwoProportions {
    /// The first less the second.
    pub difference: f64,
    /// The difference in standard errors, each proportion with its own variance (Wald); 0 where there is no difference.
    pub z: f64,
    /// Two-sided p of the normal test.
    pub p: f64,
}

/// Compares two proportions without pairing, each a number of successes among its trials. `None` without trials.
///
/// The pairing, where it is known, gains much; this is for published tables, which do not tell it.
pub fn two_proportions(a: (usize, usize), b: (usize, usize)) -> Option<TwoProportions> {
    if a.1 == 0 || b.1 == 0 {
        return None;
    }
    let [share_a, share_b] = [a, b].map(|(successes, trials)| successes as f64 / trials as f64);
    let variance = |share: f64, trials: usize| share * (1.0 - share) / trials as f64;
    let error = (variance(share_a, a.1) + variance(share_b, b.1)).sqrt();
    let difference = share_a - share_b;
    let z = if difference == 0.0 { 0.0 } else { difference / error };
    Some(TwoProportions { difference, z, p: (2.0 * normal_upper_tail(z.abs())).min(1.0) })
}

/// The rule of three: where none of so many trials failed, the 95 % upper bound of the chance of failing is about 3/n
/// (Hanley and Lippman-Hand 1983). `None` without trials.
pub fn rule_of_three(trials: usize) -> Option<f64> {
    (trials > 0).then(|| (3.0 / trials as f64).min(1.0))
}

/// The numbers of successes among `trials` that a percentage shown with so many decimals may stand for, ascending: several
/// where trials are many and decimals few, none where it is no share of so many trials (the GRIM test, Brown and Heathers
/// 2017).
pub fn counts_of_percentage(percentage: f64, decimals: u32, trials: usize) -> Vec<usize> {
    let half = 0.5 * 0.1_f64.powf(f64::from(decimals));
    // A tie may have been rounded either way, and binary fractions miss it by a little.
    let allowed = half + 1e-9;
    let around = percentage / 100.0 * trials as f64;
    let reach = allowed / 100.0 * trials as f64 + 1.0;
    let first = (around - reach).max(0.0).floor() as usize;
    let last = ((around + reach).max(0.0).ceil() as usize).min(trials);
    let fits = |count: &usize| (100.0 * *count as f64 / trials as f64 - percentage).abs() <= allowed;
    if trials == 0 { Vec::new() } else { (first..=last).filter(fits).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn proportions_of_thirty_items() {
        for (successes, low, high) in [(9, 16.7, 47.9), (7, 11.8, 40.9), (25, 66.4, 92.7)] {
            let found = wilson(successes, 30).unwrap();
            assert!(
                (100.0 * found.low - low).abs() < 0.05 && (100.0 * found.high - high).abs() < 0.05,
                "{found:?}"
            );
        }
        assert!(wilson(0, 10).unwrap().low < 1e-12 && wilson(10, 10).unwrap().high > 1.0 - 1e-12);
        assert_eq!(wilson(0, 0), None);
    }

    #[test]
    fn two_proportions_by_hand() {
        for (a, b, expected) in [
            ((9, 30), (7, 30), 0.59),
            ((1271, 1319), (1282, 1319), -1.21),
            ((444, 500), (440, 500), 0.40),
            ((25, 30), (25, 30), 0.00),
            ((1279, 1319), (1289, 1319), -1.21),
            ((490, 500), (495, 500), -1.30),
        ] {
            let found = two_proportions(a, b).unwrap();
            assert!((found.z - expected).abs() <= 0.005, "{a:?} {b:?}: {found:?}");
        }
        let certain = two_proportions((30, 30), (0, 30)).unwrap();
        assert!(certain.z.is_infinite() && certain.p == 0.0, "{certain:?}");
        assert!(two_proportions((5, 5), (9, 9)).unwrap().p > 1.0 - 1e-12);
        assert_eq!(two_proportions((0, 0), (1, 2)), None);
    }

    #[test]
    fn nothing_in_thirty_may_be_one_in_ten() {
        assert_eq!([0, 2, 30].map(rule_of_three), [None, Some(1.0), Some(0.1)]);
        // The exact bound is 1 − 0.05^(1/n).
        assert!((rule_of_three(300).unwrap() - (1.0 - 0.05_f64.powf(1.0 / 300.0))).abs() < 1e-4);
    }

    #[test]
    fn counts_behind_a_published_table() {
        let counts = |percentage, trials| counts_of_percentage(percentage, 1, trials);
        assert_eq!([30.0, 23.3, 83.3].map(|share| counts(share, 30)), [[9], [7], [25]]);
        assert_eq!([96.4, 97.2].map(|share| counts(share, 1319)), [vec![1271, 1272], vec![1282]]);
        assert_eq!([97.0, 97.7].map(|share| counts(share, 1319)), [vec![1279, 1280], vec![1289]]);
        assert_eq!([88.8, 88.0, 98.0, 99.0].map(|share| counts(share, 500)), [[444], [440], [490], [495]]);
        assert_eq!(counts(23.4, 30), Vec::<usize>::new());
        assert_eq!(counts(0.0, 30), [0]);
        assert_eq!(counts(100.0, 30), [30]);
        assert_eq!(counts(50.0, 0), Vec::<usize>::new());
        assert_eq!(counts_of_percentage(12.0, 0, 8), [1], "12.5 may be shown as 12");
        assert_eq!(counts_of_percentage(13.0, 0, 8), [1], "or as 13");
    }

    proptest! {
        #[test]
        fn a_count_is_among_those_its_percentage_stands_for(trials in 1..3000_usize, share in 0.0..=1.0_f64, decimals in 0..4_u32) {
            let count = (share * trials as f64).round() as usize;
            let scale = 10_f64.powf(f64::from(decimals));
            let shown = (100.0 * count as f64 / trials as f64 * scale).round() / scale;
            prop_assert!(counts_of_percentage(shown, decimals, trials).contains(&count));
        }

        #[test]
        fn the_comparison_changes_sign_with_the_order(a in 0..=50_usize, b in 0..=80_usize) {
            let (one, two) = (two_proportions((a, 50), (b, 80)).unwrap(), two_proportions((b, 80), (a, 50)).unwrap());
            prop_assert!((one.z + two.z).abs() < 1e-9 || one.z.is_infinite());
            prop_assert!((0.0..=1.0).contains(&one.p) && (one.p - two.p).abs() < 1e-9);
        }

        #[test]
        fn the_interval_is_around_the_share(successes in 0..=60_usize) {
            let found = wilson(successes, 60).unwrap();
            prop_assert!(found.low >= 0.0 && found.high <= 1.0);
            prop_assert!(found.low <= successes as f64 / 60.0 + 1e-12 && found.high >= successes as f64 / 60.0 - 1e-12);
        }
    }
}
