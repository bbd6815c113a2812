//! The numbers of a report: one summary for each arm and benchmark, and the paired differences of arms.
use std::collections::BTreeMap;

use serde::Serialize;

use super::gather::{Arm, Gathered};
use crate::evaluate::score::{Graded, Item, Tokens};
use crate::stats::{self, Bootstrap, Difference, Interval, Mean};

/// Enough that the ends of an interval move by less than is shown.
const DRAWS: usize = 10_000;
/// The resampling is part of the report's definition, so its seed is fixed.
const BOOTSTRAP_SEED: u64 = 20_251_124;

/// What a report says about accuracy and length.
#[derive(Debug, Serialize)]
pub(super) struct Findings {
    /// The k of pass@k: the samples that every item of every result has.
    pub(super) k: usize,
    pub(super) cells: Vec<Cell>,
    /// Between trained arms.
    pub(super) comparisons: Vec<Comparison>,
    /// Of each trained arm with the untrained base; corrected among themselves.
    pub(super) against_base: Vec<Comparison>,
}

/// One arm on one benchmark.
#[derive(Debug, Serialize)]
pub(super) struct Cell {
    pub(super) arm: String,
    pub(super) is_base: bool,
    pub(super) benchmark: String,
    pub(super) items: usize,
    pub(super) ungradable_items: usize,
    pub(super) replicates: usize,
    pub(super) failed_samples: usize,
    pub(super) pass_at_1: Score,
    pub(super) pass_at_k: Score,
    pub(super) majority_at_k: Score,
    pub(super) tokens: Option<Tokens>,
    pub(super) truncated: f64,
    pub(super) no_answer: f64,
}

/// A mean over items with a 95 % interval inside 0 and 1.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Score {
    pub(super) mean: f64,
    pub(super) standard_error: Option<f64>,
    pub(super) interval: Option<Interval>,
}

/// Arm `a` minus arm `b` on one benchmark.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) benchmark: String,
    pub(super) a: String,
    pub(super) b: String,
    /// Of pass@1, paired by item.
    pub(super) pass_at_1: Difference,
    pub(super) bootstrap: Option<Bootstrap>,
    /// The p of the bootstrap, corrected by Holm over the comparisons of the same family.
    pub(super) holm_p: f64,
    /// Items that only one arm solves in any of k, and the exact McNemar p; for single replicates.
    pub(super) any_of_k: Option<AnyOfK>,
    /// Tokens of `a` over tokens of `b`: the geometric mean over items.
    pub(super) token_ratio: Option<f64>,
    /// Whether truncation hides the true length, so that the ratio is a bound.
    pub(super) censored: bool,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct AnyOfK {
    pub(super) only_a: usize,
    pub(super) only_b: usize,
    pub(super) mcnemar_p: f64,
}

impl Comparison {
    /// Whether the difference stands at 5 % after Holm's correction.
    pub(super) fn stands(&self) -> bool {
        self.holm_p < 0.05
    }
}

pub(super) fn find(gathered: &Gathered) -> Findings {
    let results = gathered.arms.iter().flat_map(|arm| arm.results.values().flatten());
    let k = results.map(Graded::samples_per_item).filter(|samples| *samples > 0).min().unwrap_or(1);
    let mut cells = Vec::new();
    for benchmark in &gathered.benchmarks {
        for arm in &gathered.arms {
            cells.extend(cell(arm, benchmark, k));
        }
    }
    let (base, trained): (Vec<&Arm>, Vec<&Arm>) = gathered.arms.iter().partition(|arm| arm.is_base);
    let mut pairs = Vec::new();
    for (index, a) in trained.iter().enumerate() {
        pairs.extend(trained[index + 1..].iter().map(|b| (*a, *b)));
    }
    let with_base = trained.iter().flat_map(|a| base.iter().map(|b| (*a, *b))).collect::<Vec<_>>();
    let family = |pairs: &[(&Arm, &Arm)]| {
        let each = gathered
            .benchmarks
            .iter()
            .flat_map(|benchmark| pairs.iter().filter_map(move |(a, b)| compare(a, b, benchmark, k)));
        corrected(each.collect())
    };
    Findings { k, cells, comparisons: family(&pairs), against_base: family(&with_base) }
}

fn cell(arm: &Arm, benchmark: &str, k: usize) -> Option<Cell> {
    let replicates = arm.results.get(benchmark)?;
    let score =
        |of: &dyn Fn(&Item) -> Option<f64>| score(&by_item(replicates, of).into_values().collect::<Vec<_>>());
    let over_replicates =
        |of: &dyn Fn(&Graded) -> f64| replicates.iter().map(of).sum::<f64>() / replicates.len() as f64;
    let mut tokens: Vec<f64> = replicates.iter().flat_map(Graded::sorted_tokens).collect();
    tokens.sort_by(f64::total_cmp);
    Some(Cell {
        arm: arm.label.clone(),
        is_base: arm.is_base,
        benchmark: benchmark.to_owned(),
        items: replicates.iter().map(|graded| graded.items.len()).max().unwrap_or(0),
        ungradable_items: replicates.iter().map(|graded| graded.ungradable_items).max().unwrap_or(0),
        replicates: replicates.len(),
        failed_samples: replicates.iter().map(|graded| graded.failed_samples).sum(),
        pass_at_1: score(&|item| item.pass_at(1))?,
        pass_at_k: score(&|item| item.pass_at(k))?,
        majority_at_k: score(&|item| item.majority_at(k))?,
        tokens: Tokens::of(&tokens),
        truncated: over_replicates(&|graded| graded.share(|sample| sample.truncated)),
        no_answer: over_replicates(&|graded| graded.share(|sample| sample.vote.is_none())),
    })
}

/// Each item's score, averaged over the replicates that have it.
fn by_item<'a>(replicates: &'a [Graded], of: &dyn Fn(&Item) -> Option<f64>) -> BTreeMap<&'a str, f64> {
    let mut sums: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    for item in replicates.iter().flat_map(|graded| &graded.items) {
        if let Some(score) = of(item) {
            let sum = sums.entry(&item.id).or_default();
            *sum = (sum.0 + score, sum.1 + 1);
        }
    }
    sums.into_iter().map(|(id, (sum, count))| (id, sum / count as f64)).collect()
}

fn score(scores: &[f64]) -> Option<Score> {
    let Mean { mean, standard_error, interval, .. } = stats::score_mean(scores)?;
    Some(Score { mean, standard_error, interval })
}

fn compare(a: &Arm, b: &Arm, benchmark: &str, k: usize) -> Option<Comparison> {
    let (of_a, of_b) = (a.results.get(benchmark)?, b.results.get(benchmark)?);
    let pass = |item: &Item| item.pass_at(1);
    let (left, right) = paired(&by_item(of_a, &pass), &by_item(of_b, &pass));
    let pass_at_1 = stats::paired_difference(&left, &right)?;
    let bootstrap = stats::bootstrap(&left, &right, DRAWS, BOOTSTRAP_SEED);
    let any_of_k = (of_a.len() == 1 && of_b.len() == 1).then(|| {
        let any = |item: &Item| item.pass_at(k);
        let (left, right) = paired(&by_item(of_a, &any), &by_item(of_b, &any));
        let count =
            |holds: fn(f64, f64) -> bool| left.iter().zip(&right).filter(|(a, b)| holds(**a, **b)).count();
        let (only_a, only_b) = (count(|a, b| a > 0.5 && b <= 0.5), count(|a, b| b > 0.5 && a <= 0.5));
        AnyOfK { only_a, only_b, mcnemar_p: stats::mcnemar_exact(only_a, only_b) }
    });
    let tokens = |item: &Item| item.mean_tokens().filter(|tokens| *tokens > 0.0).map(f64::ln);
    let (left_tokens, right_tokens) = paired(&by_item(of_a, &tokens), &by_item(of_b, &tokens));
    Some(Comparison {
        benchmark: benchmark.to_owned(),
        a: a.label.clone(),
        b: b.label.clone(),
        pass_at_1,
        bootstrap,
        holm_p: bootstrap.map_or(1.0, |bootstrap| bootstrap.p),
        any_of_k,
        token_ratio: stats::paired_difference(&left_tokens, &right_tokens)
            .map(|difference| difference.mean.exp()),
        censored: of_a.iter().chain(of_b).any(|graded| graded.share(|sample| sample.truncated) > 0.0),
    })
}

/// The scores of the items that both have, in one order.
fn paired(a: &BTreeMap<&str, f64>, b: &BTreeMap<&str, f64>) -> (Vec<f64>, Vec<f64>) {
    a.iter().filter_map(|(id, score)| Some((*score, *b.get(id)?))).unzip()
}

fn corrected(mut comparisons: Vec<Comparison>) -> Vec<Comparison> {
    let p: Vec<f64> = comparisons.iter().map(|comparison| comparison.holm_p).collect();
    for (comparison, holm_p) in comparisons.iter_mut().zip(stats::holm(&p)) {
        comparison.holm_p = holm_p;
    }
    comparisons
}
