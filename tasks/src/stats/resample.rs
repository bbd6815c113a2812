//! Resampling: the paired bootstrap over items, clusters and pooled benchmarks, and sign flips.
use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use super::Interval;
use super::mean::percentile;
use super::paired::subtract;

/// Sums of the same terms in another order may miss each other by a rounding.
const ROUNDING: f64 = 1e-12;

/// What resampling the items gives for a difference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// 95 % percentile interval of the mean difference.
    pub interval: Interval,
    /// Two-sided p: twice the smaller share of draws on one side of zero, never 0.
    pub p: f64,
}

/// Paired cluster bootstrap (Efron and Tibshirani 1993, chapter 13): items are drawn with
/// replacement, each with both arms' scores, so that samples of an item stay together. The same seed gives
/// the same draws. `None` for fewer than two items.
///
/// # Panics
/// If the arms have different numbers of items.
pub fn bootstrap(a: &[f64], b: &[f64], draws: usize, seed: u64) -> Option<Bootstrap> {
    let units = subtract(a, b).into_iter().map(|difference| (difference, 1.0)).collect();
    resampled(&[units], draws, seed)
}

/// The same with whole clusters of items drawn, for items that are not independent.
///
/// # Panics
/// If the arms and the names are not equally many.
pub fn bootstrap_clustered(
    a: &[f64],
    b: &[f64],
    clusters: &[&str],
    draws: usize,
    seed: u64,
) -> Option<Bootstrap> {
    let differences = subtract(a, b);
    assert_eq!(differences.len(), clusters.len(), "every item is in a cluster");
    let mut units: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for (difference, cluster) in differences.iter().zip(clusters) {
        let unit = units.entry(cluster).or_default();
        *unit = (unit.0 + difference, unit.1 + 1.0);
    }
    resampled(&[units.into_values().collect()], draws, seed)
}

/// The scores of two arms on one benchmark of several, in one order.
#[derive(Debug, Clone, Copy)]
pub struct Stratum<'a> {
    /// Of the first arm.
    pub a: &'a [f64],
    /// Of the second.
    pub b: &'a [f64],
}

/// Stratified bootstrap over pooled benchmarks (Efron and Tibshirani 1993, section 8.3): the items of each are drawn among
/// themselves, so that every draw has as many of each as there are, and the statistic is the plain mean of the benchmarks'
/// mean differences, in which a benchmark of 30 counts as much as one of 1,319. `None` without benchmarks or where one has
/// fewer than two items.
///
/// # Panics
/// If the arms have different numbers of items.
pub fn bootstrap_stratified(strata: &[Stratum<'_>], draws: usize, seed: u64) -> Option<Bootstrap> {
    let units = |stratum: &Stratum<'_>| {
        subtract(stratum.a, stratum.b).into_iter().map(|difference| (difference, 1.0)).collect()
    };
    resampled(&strata.iter().map(units).collect::<Vec<_>>(), draws, seed)
}

/// Draws the units of each stratum, which are sums and the number of their terms, with replacement.
fn resampled(strata: &[Vec<(f64, f64)>], draws: usize, seed: u64) -> Option<Bootstrap> {
    if strata.is_empty() || strata.iter().any(|units| units.len() < 2) || draws == 0 {
        return None;
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // The high half of a 64 by 64 bit product: uniform up to a bias of units / 2⁶⁴.
    let mut pick = |units: usize| ((u128::from(random.next_u64()) * units as u128) >> 64) as usize;
    let mut drawn = |units: &[(f64, f64)]| {
        let (mut sum, mut terms) = (0.0, 0.0);
        for _ in 0..units.len() {
            let unit = units[pick(units.len())];
            (sum, terms) = (sum + unit.0, terms + unit.1);
        }
        sum / terms
    };
    let mut means: Vec<f64> = (0..draws)
        .map(|_| strata.iter().map(|units| drawn(units)).sum::<f64>() / strata.len() as f64)
        .collect();
    means.sort_by(f64::total_cmp);
    let share = |count: usize| (count + 1) as f64 / (draws + 1) as f64;
    let not_above = means.iter().filter(|mean| **mean <= ROUNDING).count();
    let not_below = means.iter().filter(|mean| **mean >= -ROUNDING).count();
    let end = |rank| percentile(&means, rank).expect("there is at least one draw");
    Some(Bootstrap {
        interval: Interval { low: end(0.025), high: end(0.975) },
        p: (2.0 * share(not_above.min(not_below))).min(1.0),
    })
}

/// Items that differ up to which every pattern of signs is counted.
const COUNTED: usize = 16;

/// Two-sided p of the sign-flip permutation test (Fisher 1935; Dror et al. 2018, "The Hitchhiker's Guide to Testing Statistical
/// Significance in NLP"): if the arms did not differ, each item's difference could as well have the other sign. Exact where
/// at most 16 items differ; else by so many random patterns, with the observed one among them, so that p is never 0. It needs
/// no normality, which 30 items do not give. `None` without items.
///
/// # Panics
/// If the arms have different numbers of items.
pub fn sign_flips(a: &[f64], b: &[f64], draws: usize, seed: u64) -> Option<f64> {
    let all = subtract(a, b);
    if all.is_empty() {
        return None;
    }
    let differing: Vec<f64> = all.into_iter().filter(|difference| *difference != 0.0).collect();
    let observed = differing.iter().sum::<f64>().abs() - ROUNDING * (1.0 + differing.len() as f64);
    let extreme = |sign: &mut dyn FnMut(usize) -> bool| {
        let signed = differing.iter().enumerate().map(|(at, value)| if sign(at) { -value } else { *value });
        signed.sum::<f64>().abs() >= observed
    };
    if differing.len() <= COUNTED {
        let patterns = 1_u32 << differing.len();
        let count = (0..patterns).filter(|pattern| extreme(&mut |at| pattern >> at & 1 == 1)).count();
        return Some(count as f64 / f64::from(patterns));
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut bits = (0_u64, 0_u32);
    let mut flip = |_: usize| {
        if bits.1 == 0 {
            bits = (random.next_u64(), 64);
        }
        let bit = bits.0 & 1 == 1;
        bits = (bits.0 >> 1, bits.1 - 1);
        bit
    };
    let count = (0..draws).filter(|_| extreme(&mut flip)).count();
    Some((count + 1) as f64 / (draws + 1) as f64)
}

#[cfg(test)]
mod tests {
    use super::super::paired_difference;
    use super::*;
    use proptest::prelude::*;

    fn arms(items: i32) -> (Vec<f64>, Vec<f64>) {
        let of = |modulus: i32| (0..items).map(|i| f64::from(i % modulus) / f64::from(modulus - 1)).collect();
        (of(5), of(7))
    }

    #[test]
    fn the_bootstrap_repeats_itself_and_agrees_with_the_t_interval() {
        let (a, b) = arms(200);
        let found = bootstrap(&a, &b, 10_000, 17).unwrap();
        assert_eq!(Some(found), bootstrap(&a, &b, 10_000, 17));
        assert_ne!(Some(found), bootstrap(&a, &b, 10_000, 18));
        let exact = paired_difference(&a, &b).unwrap();
        let interval = exact.interval.unwrap();
        assert!((found.interval.low - interval.low).abs() < 0.01, "{found:?} {interval:?}");
        assert!((found.interval.high - interval.high).abs() < 0.01);
        assert!((found.p - exact.p.unwrap()).abs() < 0.03);
        assert!(bootstrap(&a, &a, 100, 1).unwrap().p > 0.999);
        assert_eq!(bootstrap(&[1.0], &[0.0], 100, 1), None);
    }

    #[test]
    fn clusters_are_drawn_whole() {
        let (a, b) = arms(60);
        let names: Vec<String> = (0..60).map(|item| format!("{}", item / 20)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let own: Vec<String> = (0..60).map(|item| format!("{item:02}")).collect();
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        // Every item a cluster of its own is no cluster.
        assert_eq!(bootstrap_clustered(&a, &b, &own, 500, 3), bootstrap(&a, &b, 500, 3));
        // Three clusters whose items differ by as much in each: the spread is between them alone.
        let shifted: Vec<f64> = (0..60).map(|item| f64::from(item / 20)).collect();
        let width = |found: Bootstrap| found.interval.high - found.interval.low;
        let clustered = bootstrap_clustered(&shifted, &[0.0; 60], &names, 2_000, 3).unwrap();
        let plain = bootstrap(&shifted, &[0.0; 60], 2_000, 3).unwrap();
        assert!(width(clustered) > 3.0 * width(plain), "{clustered:?} {plain:?}");
    }

    #[test]
    fn benchmarks_are_pooled_as_equals() {
        let (a, b) = arms(90);
        let one = Stratum { a: &a, b: &b };
        assert_eq!(bootstrap_stratified(&[one], 400, 5), bootstrap(&a, &b, 400, 5));
        // One of 2 items with a gain of 1, one of 90 without any: the mean of the two is one half, not 2/92.
        let few = Stratum { a: &[1.0, 1.0], b: &[0.0, 0.0] };
        let many = Stratum { a: &a, b: &a };
        let found = bootstrap_stratified(&[few, many], 400, 5).unwrap();
        assert!((found.interval.low - 0.5).abs() < 1e-12 && (found.interval.high - 0.5).abs() < 1e-12);
        assert_eq!(bootstrap_stratified(&[], 400, 5), None);
        assert_eq!(bootstrap_stratified(&[few, Stratum { a: &[1.0], b: &[0.0] }], 400, 5), None);
    }

    #[test]
    fn signs_are_flipped() {
        // Three differences of one sign: 2 of 8 patterns are as extreme.
        assert_eq!(sign_flips(&[1.0, 1.0, 0.5], &[0.0; 3], 100, 1), Some(0.25));
        // 3 − 1 = 2 of four equal ones: those of |sum| ≥ 2 are 2 · (1 + 4) of 16.
        assert_eq!(sign_flips(&[1.0, 1.0, 1.0, 0.0], &[0.0, 0.0, 0.0, 1.0], 100, 1), Some(0.625));
        assert_eq!(sign_flips(&[0.5; 4], &[0.5; 4], 100, 1), Some(1.0));
        assert_eq!(sign_flips(&[], &[], 100, 1), None);
        // Of right and wrong it is McNemar's exact test: 5 against 1.
        let [a, b] = [[1., 1., 1., 1., 1., 0., 1.], [0., 0., 0., 0., 0., 1., 1.]];
        let exact = super::super::mcnemar_exact(5, 1);
        assert!((sign_flips(&a, &b, 100, 1).unwrap() - exact).abs() < 1e-12);
        // Beyond those counted it agrees with the t test.
        let (a, b) = arms(200);
        let found = sign_flips(&a, &b, 10_000, 17).unwrap();
        assert!((found - paired_difference(&a, &b).unwrap().p.unwrap()).abs() < 0.02, "{found}");
        assert_eq!(Some(found), sign_flips(&a, &b, 10_000, 17));
    }

    proptest! {
        #[test]
        fn sign_flips_do_not_know_the_order_of_the_arms(pairs in prop::collection::vec((0..=4_u8, 0..=4_u8), 1..12)) {
            let (a, b): (Vec<f64>, Vec<f64>) =
                pairs.into_iter().map(|(a, b)| (f64::from(a) / 4.0, f64::from(b) / 4.0)).unzip();
            let p = sign_flips(&a, &b, 100, 1).unwrap();
            prop_assert!(p > 0.0 && p <= 1.0);
            prop_assert!((p - sign_flips(&b, &a, 100, 1).unwrap()).abs() < 1e-12);
        }
    }
}
