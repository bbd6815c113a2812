//! A mean over items with its error and interval, percentiles.
use serde::{Deserialize, Serialize};

use super::t_quantile;

/// The two ends of a confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// A mean over items and how far it may be from that of all items like these.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// The number of items.
    pub items: usize,
    /// The mean of their scores.
    pub mean: f64,
    /// Standard error over items: sd(scores) / √N. With the mean of its samples as an item's score this
    /// is the clustered standard error with the item as cluster (Miller 2024, arXiv 2411.00640).
    /// Absent for fewer than two items.
    pub standard_error: Option<f64>,
    /// 95 % interval by Student's t on N − 1 degrees of freedom.
    pub interval: Option<Interval>,
}

/// Mean, standard error and interval of item scores; `None` without items.
pub fn mean(scores: &[f64]) -> Option<Mean> {
    let items = scores.len();
    if items == 0 {
        return None;
    }
    let mean = scores.iter().sum::<f64>() / items as f64;
    let standard_error = variance(scores).map(|variance| (variance / items as f64).sqrt());
    let interval = standard_error.map(|error| {
        let reach = t_quantile(0.95, (items - 1) as f64) * error;
        Interval { low: mean - reach, high: mean + reach }
    });
    Some(Mean { items, mean, standard_error, interval })
}

/// The variance with N − 1 below; `None` for fewer than two values.
pub(super) fn variance(values: &[f64]) -> Option<f64> {
    let count = values.len();
    if count < 2 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / count as f64;
    Some(values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1) as f64)
}

/// The standard error that sampling alone leaves, for these very items: √(Σᵢ sᵢ²/nᵢ) / N with sᵢ² the
/// variance within item i. The rest of the error over items comes from which items they are.
/// `None` unless every item has at least two samples.
pub fn within_item_error(samples: &[Vec<f64>]) -> Option<f64> {
    if samples.is_empty() {
        return None;
    }
    let terms: Option<Vec<f64>> =
        samples.iter().map(|item| variance(item).map(|variance| variance / item.len() as f64)).collect();
    Some(terms?.iter().sum::<f64>().sqrt() / samples.len() as f64)
}

/// A mean of scores between 0 and 1, such as pass@k by item, with an interval that keeps within them. Where every item is
/// either right or wrong, as with one sample each, it is Wilson's; else Wilson's with Student's t and the effective number of
/// items, m (1 − m) / SE², which is what such a mean would need of plain ones for the same error (Dean and Pagano 2015,
/// "Evaluating confidence interval methods for binomial proportions in clustered surveys"). Near 0 and 1, where benchmarks are,
/// m ± t SE misses the true mean too often: docs/statistics.md has the measurement. `None` without items.
pub fn score_mean(scores: &[f64]) -> Option<Mean> {
    let summary = mean(scores)?;
    let right = scores.iter().filter(|score| **score > 1.0 - 1e-12).count();
    let wrong = scores.iter().filter(|score| **score < 1e-12).count();
    if right + wrong == summary.items {
        return Some(Mean { interval: super::wilson(right, summary.items), ..summary });
    }
    Some(Mean { interval: share_interval(&summary, summary.items), ..summary })
}

/// The same where items that share a name in `clusters` may not be independent (see `clustered_mean`).
///
/// # Panics
/// If scores and names are not equally many.
pub fn score_mean_clustered(scores: &[f64], clusters: &[&str]) -> Option<Mean> {
    let (summary, units) = super::clustered_mean(scores, clusters)?;
    Some(Mean { interval: share_interval(&summary, units), ..summary })
}

/// The interval of a mean of scores between 0 and 1 whose error is over so many units: items, or clusters of them.
fn share_interval(summary: &Mean, units: usize) -> Option<Interval> {
    let error = summary.standard_error?;
    // Equal scores tell nothing of their spread; that of right and wrong ones is the most it can be.
    let size = if error > 0.0 { summary.mean * (1.0 - summary.mean) / (error * error) } else { units as f64 };
    Some(super::proportion::wilson_of(summary.mean, size, t_quantile(0.95, (units - 1) as f64)))
}

impl Interval {
    /// Whether `value` is in it.
    pub fn holds(self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// The value below which a share `rank` of `sorted` lies, interpolated between neighbours (type 7 of
/// Hyndman and Fan 1996): `rank` 0.5 is the median. `None` without values.
pub fn percentile(sorted: &[f64], rank: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = rank.clamp(0.0, 1.0) * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    Some(sorted[below] + (position - below as f64) * (sorted[above] - sorted[below]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five items, four samples each.
    const SAMPLES: [[f64; 4]; 5] =
        [[1., 1., 1., 1.], [1., 0., 1., 0.], [0., 0., 0., 0.], [1., 1., 0., 1.], [0., 0., 1., 0.]];

    #[test]
    fn the_error_of_a_mean_is_over_items() {
        let scores = SAMPLES.map(|item| item.iter().sum::<f64>() / 4.0);
        let found = mean(&scores).unwrap();
        assert_eq!((found.items, found.mean), (5, 0.5));
        assert!((found.standard_error.unwrap() - 0.176_777).abs() < 1e-6);
        let interval = found.interval.unwrap();
        assert!((interval.low - (0.5 - 2.776_445 * 0.176_777)).abs() < 1e-5);
        assert!((interval.high - (0.5 + 2.776_445 * 0.176_777)).abs() < 1e-5);

        let alone = mean(&[0.25]).unwrap();
        assert_eq!((alone.mean, alone.standard_error, alone.interval), (0.25, None, None));
        assert_eq!(mean(&[]), None);
    }

    #[test]
    fn sampling_alone_leaves_less() {
        let samples: Vec<Vec<f64>> = SAMPLES.map(Vec::from).into();
        // Variances within items: 0, 1/3, 0, 1/4, 1/4; their sum over 4 samples is 5/24.
        let expected = (5.0_f64 / 24.0).sqrt() / 5.0;
        assert!((within_item_error(&samples).unwrap() - expected).abs() < 1e-12);
        assert_eq!(within_item_error(&[vec![1.0]]), None);
    }

    #[test]
    fn scores_of_right_and_wrong_get_the_interval_of_a_proportion() {
        let binary = score_mean(&[1.0, 1.0, 0.0]).unwrap();
        assert_eq!(binary.interval, super::super::wilson(2, 3));
        let graded = score_mean(&[1.0, 0.5, 0.0]).unwrap();
        // SE² = 1/12, so the effective number is 3; t of two degrees of freedom is 4.3027.
        let interval = graded.interval.unwrap();
        let reach = 4.302_653 / (3.0 + 18.512_82) * (3.0_f64 / 4.0 + 18.512_82 / 4.0).sqrt();
        assert!((interval.low - (0.5 - reach)).abs() < 1e-6 && (interval.high - (0.5 + reach)).abs() < 1e-6);
        let equal = score_mean(&[0.5; 4]).unwrap().interval.unwrap();
        assert!(equal.low > 0.0 && equal.low < 0.3, "{equal:?}");
        assert_eq!((score_mean(&[]), score_mean(&[0.5]).unwrap().interval), (None, None));
    }

    #[test]
    fn percentiles_fall_between_neighbours() {
        let sorted = [1.0, 2.0, 3.0, 10.0];
        assert_eq!([0.0, 0.5, 1.0].map(|rank| percentile(&sorted, rank)), [Some(1.0), Some(2.5), Some(10.0)]);
        assert!((percentile(&sorted, 0.9).unwrap() - 7.9).abs() < 1e-12);
        assert_eq!(percentile(&[], 0.5), None);
    }
}
