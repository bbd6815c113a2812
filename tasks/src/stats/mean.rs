//! A mean over items with its error, intervals of proportions, percentiles.
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

/// Wilson's 95 % score interval of a proportion (Wilson 1927), which stays within 0 and 1 and keeps its
/// coverage where the normal one collapses. `None` without trials.
pub fn wilson(successes: usize, trials: usize) -> Option<Interval> {
    const Z: f64 = 1.959_963_984_540_054;
    if trials == 0 {
        return None;
    }
    let n = trials as f64;
    let share = successes as f64 / n;
    let centre = (share + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let reach = Z / (1.0 + Z * Z / n) * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    Some(Interval { low: (centre - reach).max(0.0), high: (centre + reach).min(1.0) })
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
    fn percentiles_fall_between_neighbours() {
        let sorted = [1.0, 2.0, 3.0, 10.0];
        assert_eq!([0.0, 0.5, 1.0].map(|rank| percentile(&sorted, rank)), [Some(1.0), Some(2.5), Some(10.0)]);
        assert!((percentile(&sorted, 0.9).unwrap() - 7.9).abs() < 1e-12);
        assert_eq!(percentile(&[], 0.5), None);
    }
}
