//! Lengths of responses: two arms compared, and the middle of lengths of which some were cut off.
use serde::{Deserialize, Serialize};

use super::{Interval, paired_difference};

/// The length of a response, or of as much of it as was let through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Length {
    /// In tokens.
    pub tokens: f64,
    /// Whether it was cut off there: the true length is at least this.
    pub censored: bool,
}

/// The median of lengths of which some were cut off (Kaplan and Meier 1958): the least length that at most half of all
/// responses would exceed, each cut one taken to be as those that got as far as it. `None` without lengths, and where so
/// many are cut off that half is never reached: the median is then above the longest.
pub fn kaplan_meier_median(lengths: &[Length]) -> Option<f64> {
    let mut sorted = lengths.to_vec();
    // Of equal lengths those that ended come first: the cut ones were longer.
    sorted.sort_by(|a, b| a.tokens.total_cmp(&b.tokens).then(a.censored.cmp(&b.censored)));
    let mut longer = 1.0;
    for (at, length) in sorted.iter().enumerate() {
        if !length.censored {
            longer *= 1.0 - 1.0 / (sorted.len() - at) as f64;
            // A product of n factors may miss one half by so many roundings.
            if longer <= 0.5 + 1e-12 * sorted.len() as f64 {
                return Some(length.tokens);
            }
        }
    }
    None
}

/// What a ratio of lengths says of the true one where responses were cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Nothing was cut off.
    Exact,
    /// The longer side alone was cut off: the true ratio is at least this.
    AtLeast,
    /// The side below the line alone was: it is at most this.
    AtMost,
    /// Both were: it may be either.
    Unknown,
}

/// Tokens of one arm over tokens of the other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LengthRatio {
    /// The geometric mean over items.
    pub ratio: f64,
    /// 95 % interval by Student's t on the logarithms, paired by item.
    pub interval: Option<Interval>,
    /// How truncation bounds it.
    pub bound: Bound,
}

/// The ratio of the mean lengths of two arms' responses to the same items, given in one order; lengths of zero are the
/// caller's to leave out. The mean is of logarithms, so that a over b is one over b over a and no single long item decides.
/// `is_cut` says of which arm any response was cut off. `None` without items.
///
/// # Panics
/// If the arms have different numbers of items.
pub fn length_ratio(a: &[f64], b: &[f64], is_cut: (bool, bool)) -> Option<LengthRatio> {
    let logarithms = |lengths: &[f64]| lengths.iter().map(|length| length.ln()).collect::<Vec<f64>>();
    let found = paired_difference(&logarithms(a), &logarithms(b))?;
    let bound = match is_cut {
        (false, false) => Bound::Exact,
        (true, false) => Bound::AtLeast,
        (false, true) => Bound::AtMost,
        (true, true) => Bound::Unknown,
    };
    let interval = found.interval.map(|ends| Interval { low: ends.low.exp(), high: ends.high.exp() });
    Some(LengthRatio { ratio: found.mean.exp(), interval, bound })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lengths(of: &[(u32, bool)]) -> Vec<Length> {
        of.iter().map(|&(tokens, censored)| Length { tokens: f64::from(tokens), censored }).collect()
    }

    #[test]
    fn medians_of_lengths_cut_off() {
        let median = |of: &[(u32, bool)]| kaplan_meier_median(&lengths(of));
        assert_eq!(median(&[(3, false), (1, false), (2, false)]), Some(2.0));
        assert_eq!(median(&[(4, false), (1, false), (2, false), (3, false)]), Some(2.0));
        // 4/5, then one leaves uncounted, 4/5 · 2/3 = 0.53, then 0.53 · 1/2 = 0.27.
        assert_eq!(median(&[(1, false), (2, true), (3, false), (4, false), (5, true)]), Some(4.0));
        // Ended and cut off at the same length: the ended one is the shorter.
        assert_eq!(median(&[(5, true), (5, false)]), Some(5.0));
        assert_eq!(median(&[(1, false), (5, true), (5, true)]), None);
        assert_eq!(median(&[]), None);
        // A textbook's: remission of 21 patients under 6-MP, in weeks (Freireich et al. 1963); the median is 23.
        let ended = [6, 6, 6, 7, 10, 13, 16, 22, 23].map(|week| (week, false));
        let cut = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35].map(|week| (week, true));
        assert_eq!(median(&[ended.as_slice(), &cut].concat()), Some(23.0));
    }

    #[test]
    fn ratios_by_hand() {
        let found = length_ratio(&[400.0, 900.0], &[100.0, 100.0], (true, false)).unwrap();
        assert!((found.ratio - 6.0).abs() < 1e-12);
        assert_eq!(found.bound, Bound::AtLeast);
        let one = length_ratio(&[200.0], &[100.0], (false, false)).unwrap();
        assert_eq!((one.interval, one.bound), (None, Bound::Exact));
        assert_eq!(length_ratio(&[2.0], &[1.0], (false, true)).unwrap().bound, Bound::AtMost);
        assert_eq!(length_ratio(&[2.0], &[1.0], (true, true)).unwrap().bound, Bound::Unknown);
        assert_eq!(length_ratio(&[], &[], (false, false)), None);
    }

    proptest! {
        #[test]
        fn the_other_way_round_is_one_over_it(pairs in prop::collection::vec((1.0..1e5_f64, 1.0..1e5_f64), 2..30)) {
            let (a, b): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            let (one, two) = (length_ratio(&a, &b, (false, false)).unwrap(), length_ratio(&b, &a, (false, false)).unwrap());
            prop_assert!((one.ratio * two.ratio - 1.0).abs() < 1e-9);
            prop_assert!((one.interval.unwrap().low * two.interval.unwrap().high - 1.0).abs() < 1e-6);
        }

        #[test]
        fn cutting_off_never_lowers_the_median(of in prop::collection::vec((1..50_u32, any::<bool>()), 1..40)) {
            let of = lengths(&of);
            let ended: Vec<Length> = of.iter().map(|length| Length { censored: false, ..*length }).collect();
            let plain = kaplan_meier_median(&ended).unwrap();
            prop_assert!(kaplan_meier_median(&of).is_none_or(|median| median >= plain));
            // Without any it is the lower median.
            let mut tokens: Vec<f64> = ended.iter().map(|length| length.tokens).collect();
            tokens.sort_by(f64::total_cmp);
            prop_assert!((plain - tokens[(tokens.len() - 1) / 2]).abs() < 1e-12);
        }
    }
}
