//! Where the error of a mean comes from: clusters of items, items, and samples of an item.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::mean::{mean, variance};
use super::{Interval, Mean, t_quantile};

/// The mean of scores whose errors are shared within clusters, and the number of clusters: items of one passage, of one
/// template, of one seed problem; or samples of one item. The error is √(Σ_c (Σ_j (x_cj − x̄))²) / total · √(C / (C − 1)) over
/// the C clusters, the last factor the finite correction (Miller 2024, arXiv 2411.00640, section 2.2; Cameron and Miller 2015),
/// and the interval is by Student's t on C − 1 degrees of freedom. With every score a cluster of its own it is `mean`.
/// `None` without scores.
///
/// # Panics
/// If scores and names are not equally many.
pub fn clustered_mean(scores: &[f64], clusters: &[&str]) -> Option<(Mean, usize)> {
    assert_eq!(scores.len(), clusters.len(), "every score is in a cluster");
    let plain = mean(scores)?;
    let mut residuals: BTreeMap<&str, f64> = BTreeMap::new();
    for (score, cluster) in scores.iter().zip(clusters) {
        *residuals.entry(cluster).or_default() += score - plain.mean;
    }
    let count = residuals.len();
    let standard_error = (count > 1).then(|| {
        let sum: f64 = residuals.values().map(|residual| residual * residual).sum();
        (sum * count as f64 / (count - 1) as f64).sqrt() / scores.len() as f64
    });
    let interval = standard_error.map(|error| {
        let reach = t_quantile(0.95, (count - 1) as f64) * error;
        Interval { low: plain.mean - reach, high: plain.mean + reach }
    });
    Some((Mean { standard_error, interval, ..plain }, count))
}

/// What the variance of a benchmark's mean is made of: Var = between / N + within / (N n).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct VarianceSplit {
    /// Variance of the items' true scores; more items would help against it, more samples would not.
    pub between: f64,
    /// Mean variance of the samples of an item.
    pub within: f64,
    /// What is left of `within` with so many samples of each item: the part that more samples would remove.
    pub within_of_mean: f64,
}

impl VarianceSplit {
    /// The share of the variance of the mean that more samples would remove.
    pub fn share_within(&self) -> Option<f64> {
        let total = self.between + self.within_of_mean;
        (total > 0.0).then(|| self.within_of_mean / total)
    }

    /// The standard error of the mean that so many items with so many samples each would have.
    pub fn error_with(&self, items: usize, samples: usize) -> f64 {
        ((self.between + self.within / samples as f64) / items as f64).sqrt()
    }
}

/// Splits the variance over items into that between and that within them (one-way analysis of variance by moments; Miller
/// 2024, section 3.1). Between is not below zero, though its estimate may be. `None` for fewer than two items or where an
/// item has fewer than two samples.
pub fn variance_split(samples: &[Vec<f64>]) -> Option<VarianceSplit> {
    let means: Vec<f64> = samples.iter().map(|item| Some(mean(item)?.mean)).collect::<Option<_>>()?;
    let of_means = variance(&means)?;
    let within: Vec<f64> = samples.iter().map(|item| variance(item)).collect::<Option<_>>()?;
    let left: Vec<f64> =
        within.iter().zip(samples).map(|(within, item)| within / item.len() as f64).collect();
    let within_of_mean = mean(&left)?.mean;
    let between = (of_means - within_of_mean).max(0.0);
    Some(VarianceSplit { between, within: mean(&within)?.mean, within_of_mean })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Five items, four samples each.
    const SAMPLES: [[f64; 4]; 5] =
        [[1., 1., 1., 1.], [1., 0., 1., 0.], [0., 0., 0., 0.], [1., 1., 0., 1.], [0., 0., 1., 0.]];

    fn samples() -> Vec<Vec<f64>> {
        SAMPLES.map(Vec::from).into()
    }

    #[test]
    fn samples_of_an_item_are_a_cluster() {
        let names = ["a", "b", "c", "d", "e"].map(|name| [name; 4]).concat();
        let (found, clusters) = clustered_mean(&SAMPLES.concat(), &names).unwrap();
        assert_eq!((found.mean, clusters, found.items), (0.5, 5, 20));
        assert!((found.standard_error.unwrap() - 0.176_777).abs() < 1e-6);
        // As if the twenty were independent it would be 0.1147.
        assert!((mean(&SAMPLES.concat()).unwrap().standard_error.unwrap() - 0.114_708).abs() < 1e-6);
        let (alone, _) = clustered_mean(&[0.0, 1.0], &["a", "a"]).unwrap();
        assert_eq!((alone.mean, alone.standard_error, alone.interval), (0.5, None, None));
        assert_eq!(clustered_mean(&[], &[]), None);
    }

    #[test]
    fn the_split_of_five_items() {
        // Variances within: 0, 1/3, 0, 1/4, 1/4, mean 1/6, a quarter of it left; variance of the item means 5/32.
        let found = variance_split(&samples()).unwrap();
        assert!((found.within - 1.0 / 6.0).abs() < 1e-12);
        assert!((found.within_of_mean - 1.0 / 24.0).abs() < 1e-12);
        assert!((found.between - (5.0 / 32.0 - 1.0 / 24.0)).abs() < 1e-12);
        assert!((found.share_within().unwrap() - (1.0 / 24.0) / (5.0 / 32.0)).abs() < 1e-12);
        assert!((found.error_with(5, 4) - 0.176_777).abs() < 1e-6);
        assert_eq!(variance_split(&[vec![1.0, 0.0]]), None);
        assert_eq!(variance_split(&[vec![1.0], vec![0.0]]), None);
        // Thirty problems like AIME's at 0.7, each always or never solved: 8.4 points, however many samples.
        let aime = VarianceSplit { between: 0.21, within: 0.0, within_of_mean: 0.0 };
        assert!((aime.error_with(30, 1_000_000) - 0.0837).abs() < 1e-4);
    }

    proptest! {
        #[test]
        fn clusters_of_one_are_no_clusters(scores in prop::collection::vec(0.0..=1.0_f64, 2..30)) {
            let names: Vec<String> = (0..scores.len()).map(|index| index.to_string()).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let (found, plain) = (clustered_mean(&scores, &names).unwrap().0, mean(&scores).unwrap());
            prop_assert!((found.standard_error.unwrap() - plain.standard_error.unwrap()).abs() < 1e-9);
        }

        #[test]
        fn the_parts_make_the_variance_of_the_mean(seed in prop::collection::vec(prop::collection::vec(any::<bool>(), 4), 2..20)) {
            let samples: Vec<Vec<f64>> =
                seed.iter().map(|item| item.iter().map(|right| f64::from(u8::from(*right))).collect()).collect();
            let split = variance_split(&samples).unwrap();
            let means: Vec<f64> = samples.iter().map(|item| mean(item).unwrap().mean).collect();
            let error = mean(&means).unwrap().standard_error.unwrap();
            prop_assert!(split.error_with(samples.len(), 4) >= error - 1e-9);
            if split.between > 0.0 {
                prop_assert!((split.error_with(samples.len(), 4) - error).abs() < 1e-9);
            }
        }
    }
}
