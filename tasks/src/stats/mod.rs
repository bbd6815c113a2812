//! Estimators and intervals for benchmarks of N items with n samples each; every one with its source.
//!
//! Items are the unit of inference: samples of one item are correlated, so every error here is computed
//! over item scores (Miller 2024, "Adding Error Bars to Evals", arXiv 2411.00640). Comparisons between
//! arms are paired by item, since both arms answer the same items.
mod agreement;
mod cluster;
#[cfg(test)]
mod coverage;
mod distribution;
mod lengths;
mod mean;
mod paired;
mod pass;
mod power;
mod proportion;
mod resample;

pub use agreement::cohens_kappa;
pub use cluster::{VarianceSplit, clustered_mean, variance_split};
pub use distribution::{normal_upper_tail, t_quantile, t_two_sided};
pub use lengths::{Bound, Length, LengthRatio, kaplan_meier_median, length_ratio};
pub use mean::{Interval, Mean, mean, percentile, score_mean, score_mean_clustered, within_item_error};
pub use paired::{Difference, holm, mcnemar_exact, paired_difference, paired_difference_clustered};
pub use pass::{avg_of_k, best_at_k, majority_at_k, pass_at_k};
pub use power::{Needed, minimum_detectable, needed};
pub use proportion::{TwoProportions, counts_of_percentage, rule_of_three, two_proportions, wilson};
pub use resample::{Bootstrap, Stratum, bootstrap, bootstrap_clustered, bootstrap_stratified, sign_flips};
