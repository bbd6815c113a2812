//! The numbers of a report: one summary for each arm and benchmark, and the paired differences of arms.
use std::collections::BTreeMap;

use serde::Serialize;

use super::gather::{Arm, Gathered};
use super::published::PublishedFindings;
use super::{Params, fairness, published};
use crate::evaluate::score::{Graded, Item, Sample, Tokens};
use crate::stats::{
    self, Bootstrap, Difference, Interval, LengthRatio, Mean, Needed, Stratum, VarianceSplit,
};

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
    /// Between trained arms, over all benchmarks that both have.
    pub(super) pooled: Vec<Pooled>,
    /// pass@1 within the budgets that were asked for.
    pub(super) budgets: Vec<BudgetCell>,
    /// What the reader of the comparisons must be told first.
    pub(super) warnings: Vec<String>,
    /// What follows from published numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) published: Option<PublishedFindings>,
}

/// Arm `a` minus arm `b` over all benchmarks, each counting the same.
#[derive(Debug, Serialize)]
pub(super) struct Pooled {
    pub(super) a: String,
    pub(super) b: String,
    pub(super) benchmarks: usize,
    pub(super) mean: f64,
    pub(super) bootstrap: Option<Bootstrap>,
}

/// pass@1 of one arm on one benchmark with responses of more than so many tokens wrong.
#[derive(Debug, Serialize)]
pub(super) struct BudgetCell {
    pub(super) benchmark: String,
    pub(super) arm: String,
    pub(super) at: BTreeMap<u64, Score>,
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
    /// The standard error of pass@1 for these very problems; for a single replicate.
    pub(super) these_problems: Option<f64>,
    pub(super) variance: Option<VarianceSplit>,
    pub(super) tokens: Option<Tokens>,
    /// The median with those cut off taken to be longer than they got; none where half were.
    pub(super) uncensored_median: Option<f64>,
    pub(super) reference_tokens: Option<f64>,
    pub(super) thinking_tokens: Option<f64>,
    pub(super) answer_tokens: Option<f64>,
    pub(super) truncated: f64,
    pub(super) looped: f64,
    pub(super) unclosed: f64,
    pub(super) empty_final: f64,
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
    /// Two-sided p of sign flips over the items, which assumes no distribution.
    pub(super) sign_flips_p: Option<f64>,
    /// What would settle a difference as large as this one.
    pub(super) needed: Option<Needed>,
    /// Tokens of `a` over tokens of `b`.
    pub(super) token_ratio: Option<LengthRatio>,
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

pub(super) fn find(params: &Params, gathered: &Gathered) -> Findings {
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
    let published = params.published.as_ref().map(published::find);
    let mut warnings = if pairs.is_empty() { Vec::new() } else { fairness::warnings(gathered) };
    warnings.extend(published.iter().flat_map(published::warnings));
    Findings {
        k,
        cells,
        comparisons: family(&pairs),
        against_base: family(&with_base),
        pooled: pairs.iter().filter_map(|(a, b)| pooled(a, b, &gathered.benchmarks)).collect(),
        budgets: budgets(gathered, &params.budgets),
        warnings,
        published,
    }
}

fn pass_at_1(item: &Item) -> Option<f64> {
    item.pass_at(1)
}

fn pooled(a: &Arm, b: &Arm, benchmarks: &[String]) -> Option<Pooled> {
    let both = benchmarks.iter().filter_map(|benchmark| {
        let (of_a, of_b) = (a.results.get(benchmark)?, b.results.get(benchmark)?);
        Some(paired(&by_item(of_a, &pass_at_1), &by_item(of_b, &pass_at_1)))
    });
    let both: Vec<(Vec<f64>, Vec<f64>)> = both.collect();
    if both.len() < 2 {
        return None;
    }
    let differences: Option<Vec<f64>> =
        both.iter().map(|(a, b)| Some(stats::paired_difference(a, b)?.mean)).collect();
    let strata: Vec<Stratum<'_>> = both.iter().map(|(a, b)| Stratum { a, b }).collect();
    Some(Pooled {
        a: a.label.clone(),
        b: b.label.clone(),
        benchmarks: both.len(),
        mean: stats::mean(&differences?)?.mean,
        bootstrap: stats::bootstrap_stratified(&strata, DRAWS, BOOTSTRAP_SEED),
    })
}

fn budgets(gathered: &Gathered, budgets: &[u64]) -> Vec<BudgetCell> {
    let mut cells = Vec::new();
    for benchmark in gathered.benchmarks.iter().filter(|_| !budgets.is_empty()) {
        for arm in &gathered.arms {
            let Some(replicates) = arm.results.get(benchmark) else { continue };
            let at = budgets.iter().filter_map(|budget| {
                let within: Vec<Graded> = replicates.iter().map(|graded| graded.within(*budget)).collect();
                Some((*budget, score(&within, &pass_at_1)?))
            });
            cells.push(BudgetCell { benchmark: benchmark.clone(), arm: arm.label.clone(), at: at.collect() });
        }
    }
    cells
}

fn cell(arm: &Arm, benchmark: &str, k: usize) -> Option<Cell> {
    let replicates = arm.results.get(benchmark)?;
    let score = |of: &dyn Fn(&Item) -> Option<f64>| score(replicates, of);
    let over_replicates =
        |of: &dyn Fn(&Graded) -> f64| replicates.iter().map(of).sum::<f64>() / replicates.len() as f64;
    let share = |of: fn(&Sample) -> bool| over_replicates(&|graded| graded.share(of));
    let mean_tokens = |of: fn(&Sample) -> Option<u64>| {
        let each: Option<Vec<f64>> = replicates.iter().map(|graded| graded.mean_of(of)).collect();
        Some(stats::mean(&each?)?.mean)
    };
    let mut tokens: Vec<f64> = replicates.iter().flat_map(Graded::sorted_tokens).collect();
    tokens.sort_by(f64::total_cmp);
    let lengths: Vec<stats::Length> = replicates.iter().flat_map(Graded::lengths).collect();
    let grades: Vec<Vec<f64>> = match replicates.as_slice() {
        [single] => single.items.iter().map(Item::grades).collect(),
        // The samples of another replicate are those of another model.
        _ => Vec::new(),
    };
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
        these_problems: stats::within_item_error(&grades),
        variance: stats::variance_split(&grades),
        tokens: Tokens::of(&tokens),
        uncensored_median: stats::kaplan_meier_median(&lengths),
        reference_tokens: mean_tokens(|sample| sample.account.reference),
        thinking_tokens: mean_tokens(|sample| sample.account.thinking),
        answer_tokens: mean_tokens(|sample| sample.account.answer),
        truncated: share(|sample| sample.truncated),
        looped: share(|sample| sample.account.looped),
        unclosed: share(|sample| sample.account.unclosed),
        empty_final: share(|sample| sample.account.empty_final),
        no_answer: share(|sample| sample.vote.is_none()),
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

fn score(replicates: &[Graded], of: &dyn Fn(&Item) -> Option<f64>) -> Option<Score> {
    let scores = by_item(replicates, of);
    let values: Vec<f64> = scores.values().copied().collect();
    let summary = match clusters_of(replicates, scores.keys().copied()) {
        Some(clusters) => stats::score_mean_clustered(&values, &clusters)?,
        None => stats::score_mean(&values)?,
    };
    let Mean { mean, standard_error, interval, .. } = summary;
    Some(Score { mean, standard_error, interval })
}

/// The cluster of each item, where the report asks for clusters; an item without one is a cluster of its own.
fn clusters_of<'a>(replicates: &'a [Graded], ids: impl Iterator<Item = &'a str>) -> Option<Vec<&'a str>> {
    let items = replicates.iter().flat_map(|graded| &graded.items);
    let named: BTreeMap<&str, &str> =
        items.filter_map(|item| Some((item.id.as_str(), item.cluster.as_deref()?))).collect();
    (!named.is_empty()).then(|| ids.map(|id| named.get(id).copied().unwrap_or(id)).collect())
}

fn compare(a: &Arm, b: &Arm, benchmark: &str, k: usize) -> Option<Comparison> {
    let (of_a, of_b) = (a.results.get(benchmark)?, b.results.get(benchmark)?);
    let (scores_a, scores_b) = (by_item(of_a, &pass_at_1), by_item(of_b, &pass_at_1));
    let (left, right) = paired(&scores_a, &scores_b);
    let both = || scores_a.keys().copied().filter(|id| scores_b.contains_key(id));
    let (difference, bootstrap) = match clusters_of(of_a, both()) {
        Some(clusters) => (
            stats::paired_difference_clustered(&left, &right, &clusters)?,
            stats::bootstrap_clustered(&left, &right, &clusters, DRAWS, BOOTSTRAP_SEED),
        ),
        None => {
            (stats::paired_difference(&left, &right)?, stats::bootstrap(&left, &right, DRAWS, BOOTSTRAP_SEED))
        }
    };
    let single = of_a.len() == 1 && of_b.len() == 1;
    let any_of_k = single.then(|| {
        let any = |item: &Item| item.pass_at(k);
        let (left, right) = paired(&by_item(of_a, &any), &by_item(of_b, &any));
        let count =
            |holds: fn(f64, f64) -> bool| left.iter().zip(&right).filter(|(a, b)| holds(**a, **b)).count();
        let (only_a, only_b) = (count(|a, b| a > 0.5 && b <= 0.5), count(|a, b| b > 0.5 && a <= 0.5));
        AnyOfK { only_a, only_b, mcnemar_p: stats::mcnemar_exact(only_a, only_b) }
    });
    // Samples of several replicates are of several models: what more of them would do is not what more samples would.
    let samples = |replicates: &[Graded], scores: &[f64]| -> Vec<Vec<f64>> {
        if !single {
            return scores.iter().map(|score| vec![*score]).collect();
        }
        let items = replicates.iter().flat_map(|graded| &graded.items);
        let grades: BTreeMap<&str, Vec<f64>> = items.map(|item| (item.id.as_str(), item.grades())).collect();
        both().filter_map(|id| grades.get(id).cloned()).collect()
    };
    // The mean of logarithms over replicates, which is a logarithm of a length again.
    let tokens = |item: &Item| item.mean_tokens().filter(|tokens| *tokens > 0.0).map(f64::ln);
    let (left_tokens, right_tokens) = paired(&by_item(of_a, &tokens), &by_item(of_b, &tokens));
    let lengths = |logarithms: Vec<f64>| logarithms.into_iter().map(f64::exp).collect::<Vec<f64>>();
    let is_cut =
        |replicates: &[Graded]| replicates.iter().any(|graded| graded.share(|sample| sample.truncated) > 0.0);
    Some(Comparison {
        benchmark: benchmark.to_owned(),
        a: a.label.clone(),
        b: b.label.clone(),
        pass_at_1: difference,
        bootstrap,
        holm_p: bootstrap.map_or(1.0, |bootstrap| bootstrap.p),
        any_of_k,
        sign_flips_p: stats::sign_flips(&left, &right, DRAWS, BOOTSTRAP_SEED),
        needed: stats::needed(&samples(of_a, &left), &samples(of_b, &right)),
        token_ratio: stats::length_ratio(
            &lengths(left_tokens),
            &lengths(right_tokens),
            (is_cut(of_a), is_cut(of_b)),
        ),
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
