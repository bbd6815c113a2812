//! Estimators and intervals for benchmarks of N items with n samples each; every one with its source.
//!
//! Items are the unit of inference: samples of one item are correlated, so every error here is computed
//! over item scores (Miller 2024, "Adding Error Bars to Evals", arXiv 2411.00640). Comparisons between
//! arms are paired by item, since both arms answer the same items.
mod agreement;
mod distribution;
mod mean;
mod paired;
mod pass;

pub use agreement::cohens_kappa;
pub use distribution::{normal_upper_tail, t_quantile, t_two_sided};
pub use mean::{Interval, Mean, mean, percentile, wilson, within_item_error};
pub use paired::{Bootstrap, Difference, bootstrap, holm, mcnemar_exact, paired_difference};
pub use pass::{avg_of_k, majority_at_k, pass_at_k};
