//! From graded samples to the numbers of a benchmark: read once here, by `evaluate` and by `report`.
use std::collections::BTreeMap;
use std::path::Path;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::account::{Account, Tokenizers};
use crate::stats::{self, Length, Mean, VarianceSplit};
use crate::table::{Row, TableError, TableReader};

/// One graded response.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// Whether its answer equals the gold one.
    pub correct: bool,
    /// A text that equal answers share; none where there is no answer.
    pub vote: Option<String>,
    /// Tokens of the response, thinking included.
    pub tokens: Option<u64>,
    /// Whether it was cut off at the longest length.
    pub truncated: bool,
    /// What its tokens went to, and how it ended.
    pub account: Account,
}

/// One problem of a benchmark and its responses.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Item {
    /// The problem's id.
    pub id: String,
    /// What it shares with other problems, where the reader asked for a column that says so.
    pub cluster: Option<String>,
    /// Its responses, in the order of their repeats.
    pub samples: Vec<Sample>,
}

impl Item {
    /// Samples with the right answer.
    pub fn correct(&self) -> usize {
        self.samples.iter().filter(|sample| sample.correct).count()
    }

    /// The unbiased pass@k of this item; `None` where it has fewer than k samples.
    pub fn pass_at(&self, k: usize) -> Option<f64> {
        stats::pass_at_k(self.samples.len(), self.correct(), k)
    }

    /// The expected score of the majority of k samples; `None` where there are fewer.
    pub fn majority_at(&self, k: usize) -> Option<f64> {
        let mut wrong: BTreeMap<&str, usize> = BTreeMap::new();
        for sample in self.samples.iter().filter(|sample| !sample.correct) {
            if let Some(vote) = &sample.vote {
                *wrong.entry(vote).or_default() += 1;
            }
        }
        let wrong: Vec<usize> = wrong.into_values().collect();
        let silent = self.samples.len() - self.correct() - wrong.iter().sum::<usize>();
        stats::majority_at_k(self.correct(), &wrong, silent, k)
    }

    /// The expected score of the shortest of k samples; `None` where there are fewer, or one of unknown length.
    pub fn shortest_at(&self, k: usize) -> Option<f64> {
        let samples: Option<Vec<(f64, bool)>> =
            self.samples.iter().map(|sample| Some((-(sample.tokens? as f64), sample.correct))).collect();
        stats::best_at_k(&samples?, k)
    }

    /// Whether each sample is right, as 1 and 0.
    pub fn grades(&self) -> Vec<f64> {
        self.samples.iter().map(|sample| f64::from(u8::from(sample.correct))).collect()
    }

    /// The mean tokens of its responses.
    pub fn mean_tokens(&self) -> Option<f64> {
        let tokens: Vec<f64> = self.tokens().collect();
        Some(stats::mean(&tokens)?.mean)
    }

    fn tokens(&self) -> impl Iterator<Item = f64> {
        self.samples.iter().filter_map(|sample| sample.tokens).map(|tokens| tokens as f64)
    }
}

/// The graded responses of one model to one benchmark.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Graded {
    /// The problems whose gold answer the grader understands.
    pub items: Vec<Item>,
    /// Problems left out because it does not; the same for every model.
    pub ungradable_items: usize,
    /// Responses that could not be had.
    pub failed_samples: usize,
}

impl Graded {
    /// Reads the table that `evaluate` writes.
    pub fn read(path: &Path) -> Result<Self, TableError> {
        Self::read_clustered(path, None)
    }

    /// The same, with the column that says which problems belong together.
    pub fn read_clustered(path: &Path, cluster: Option<&str>) -> Result<Self, TableError> {
        let table = TableReader::open(path)?;
        let mut columns = vec!["id", "correct", "vote", "output_tokens", "finish_reason", "verdict"];
        // Tables of before these were counted do not have them.
        let has = |name: &&str| table.schema().kind(name).is_some() && !columns.contains(name);
        let more: Vec<&str> = ACCOUNT.into_iter().chain(cluster).filter(has).collect();
        columns.extend(more);
        let mut items: IndexMap<String, Item> = IndexMap::new();
        let mut ungradable: IndexMap<String, ()> = IndexMap::new();
        let mut failed_samples = 0;
        for row in table.rows_of(&columns)? {
            let row = row?;
            let id = text(&row, "id").unwrap_or_default().to_owned();
            if text(&row, "verdict") == Some("error") {
                failed_samples += 1;
                continue;
            }
            let Some(correct) = row["correct"].as_bool() else {
                ungradable.insert(id, ());
                continue;
            };
            let item = items.entry(id).or_insert_with_key(|id| Item {
                id: id.clone(),
                cluster: cluster.and_then(|column| named(row.get(column)?)),
                samples: Vec::new(),
            });
            item.samples.push(Sample {
                correct,
                vote: text(&row, "vote").map(str::to_owned),
                tokens: row["output_tokens"].as_u64(),
                truncated: text(&row, "finish_reason") == Some("length"),
                account: account(&row),
            });
        }
        let items = items.into_values().collect();
        Ok(Self { items, ungradable_items: ungradable.len(), failed_samples })
    }

    /// The same responses with those of more than so many tokens graded as wrong and without an answer: what a shorter limit
    /// would have given, but for what a model does on seeing it.
    #[must_use]
    pub fn within(&self, tokens: u64) -> Self {
        let mut graded = self.clone();
        let samples = graded.items.iter_mut().flat_map(|item| &mut item.samples);
        for sample in samples.filter(|sample| sample.tokens.is_some_and(|length| length > tokens)) {
            *sample = Sample { correct: false, vote: None, ..sample.clone() };
        }
        graded
    }

    /// The length of every response, and whether it was cut off there.
    pub fn lengths(&self) -> Vec<Length> {
        let samples = self.items.iter().flat_map(|item| &item.samples);
        let length =
            |sample: &Sample| Some(Length { tokens: sample.tokens? as f64, censored: sample.truncated });
        samples.filter_map(length).collect()
    }

    /// The mean of what is known of samples; `None` where it is known of none.
    pub fn mean_of(&self, of: impl Fn(&Sample) -> Option<u64>) -> Option<f64> {
        let values: Vec<f64> = self
            .items
            .iter()
            .flat_map(|item| &item.samples)
            .filter_map(of)
            .map(|value| value as f64)
            .collect();
        Some(stats::mean(&values)?.mean)
    }

    /// The samples that every item has.
    pub fn samples_per_item(&self) -> usize {
        self.items.iter().map(|item| item.samples.len()).min().unwrap_or(0)
    }

    /// The tokens of every response, ascending.
    pub fn sorted_tokens(&self) -> Vec<f64> {
        let mut tokens: Vec<f64> = self.items.iter().flat_map(Item::tokens).collect();
        tokens.sort_by(f64::total_cmp);
        tokens
    }

    /// The share of responses for which `holds`.
    pub fn share(&self, holds: impl Fn(&Sample) -> bool) -> f64 {
        let samples = self.items.iter().flat_map(|item| &item.samples);
        let (mut held, mut total) = (0_u64, 0_u64);
        for sample in samples {
            held += u64::from(holds(sample));
            total += 1;
        }
        held as f64 / total.max(1) as f64
    }

    /// The numbers of the benchmark.
    pub fn metrics(&self) -> Metrics {
        let most = self.samples_per_item();
        let over_items = |score: &dyn Fn(&Item) -> Option<f64>| {
            stats::score_mean(&self.items.iter().filter_map(score).collect::<Vec<f64>>())
        };
        let at_each = |score: &dyn Fn(&Item, usize) -> Option<f64>| {
            (1..=most).filter_map(|k| Some((k, over_items(&|item| score(item, k))?))).collect()
        };
        let scores: Vec<Vec<f64>> = self.items.iter().map(Item::grades).collect();
        Metrics {
            grader: crate::math::VERSION,
            items: self.items.len(),
            ungradable_items: self.ungradable_items,
            samples_per_item: most,
            failed_samples: self.failed_samples,
            pass_at: at_each(&Item::pass_at),
            majority_at: at_each(&Item::majority_at),
            shortest_at: at_each(&Item::shortest_at),
            within_item_error: stats::within_item_error(&scores),
            variance: stats::variance_split(&scores),
            tokens: Tokens::of(&self.sorted_tokens()),
            uncensored_median: stats::kaplan_meier_median(&self.lengths()),
            reference_tokens: self.mean_of(|sample| sample.account.reference),
            thinking_tokens: self.mean_of(|sample| sample.account.thinking),
            answer_tokens: self.mean_of(|sample| sample.account.answer),
            tokenizers: Tokenizers::default(),
            truncated: self.share(|sample| sample.truncated),
            looped: self.share(|sample| sample.account.looped),
            unclosed: self.share(|sample| sample.account.unclosed),
            empty_final: self.share(|sample| sample.account.empty_final),
            no_answer: self.share(|sample| sample.vote.is_none()),
        }
    }
}

/// The columns of an account, in the order in which `evaluate` writes them.
pub(super) const ACCOUNT: [&str; 6] =
    ["thinking_tokens", "answer_tokens", "reference_tokens", "looped", "unclosed", "empty_final"];

fn account(row: &Row) -> Account {
    let count = |column: &str| row.get(column).and_then(serde_json::Value::as_u64);
    let holds = |column: &str| row.get(column).and_then(serde_json::Value::as_bool) == Some(true);
    Account {
        thinking: count("thinking_tokens"),
        answer: count("answer_tokens"),
        reference: count("reference_tokens"),
        looped: holds("looped"),
        unclosed: holds("unclosed"),
        empty_final: holds("empty_final"),
    }
}

/// A value that names a cluster; nothing where there is none.
fn named(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn text<'a>(row: &'a Row, column: &str) -> Option<&'a str> {
    row.get(column)?.as_str()
}

/// The numbers of one model on one benchmark. Shares are from 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Version of the grader.
    pub grader: u32,
    /// Problems that count.
    pub items: usize,
    /// Problems left out because their gold answer is beyond the grader.
    pub ungradable_items: usize,
    /// Responses that every problem has.
    pub samples_per_item: usize,
    /// Responses that could not be had.
    pub failed_samples: usize,
    /// Unbiased pass@k for every k; pass@1 is the average over all samples.
    pub pass_at: BTreeMap<usize, Mean>,
    /// Expected score of the majority answer of k, ties broken at random.
    pub majority_at: BTreeMap<usize, Mean>,
    /// Expected score of the shortest of k, which costs no more than the shortest takes where the others are stopped.
    pub shortest_at: BTreeMap<usize, Mean>,
    /// The error of pass@1 for these very problems: the part that more samples would remove.
    pub within_item_error: Option<f64>,
    /// What the error of pass@1 for problems like these is made of.
    pub variance: Option<VarianceSplit>,
    /// Lengths of the responses, thinking included, as whoever answered counts them.
    pub tokens: Option<Tokens>,
    /// The median length with those cut off taken to be longer than they got; none where half were.
    pub uncensored_median: Option<f64>,
    /// Mean length by the reference tokenizer.
    pub reference_tokens: Option<f64>,
    /// Mean tokens of the thinking.
    pub thinking_tokens: Option<f64>,
    /// Mean tokens of what is said after it.
    pub answer_tokens: Option<f64>,
    /// Whose counts these are.
    pub tokenizers: Tokenizers,
    /// Share of responses cut off at the longest length.
    pub truncated: f64,
    /// Share of responses that go round in circles at their end.
    pub looped: f64,
    /// Share of responses whose thinking never ends.
    pub unclosed: f64,
    /// Share of responses that say nothing after their thinking.
    pub empty_final: f64,
    /// Share of responses without an answer.
    pub no_answer: f64,
}

/// How long responses are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Tokens {
    /// Mean over responses.
    pub mean: f64,
    /// Half of the responses are no longer.
    pub median: f64,
    /// Nine in ten are no longer.
    pub p90: f64,
    /// The longest.
    pub longest: f64,
}

impl Tokens {
    /// Of lengths in ascending order; `None` without any.
    pub fn of(sorted: &[f64]) -> Option<Self> {
        let at = |rank| stats::percentile(sorted, rank);
        Some(Self { mean: stats::mean(sorted)?.mean, median: at(0.5)?, p90: at(0.9)?, longest: at(1.0)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: &str, answers: &[(&str, bool)]) -> Item {
        let samples = answers.iter().zip(1..).map(|(&(vote, correct), n)| Sample {
            correct,
            vote: (!vote.is_empty()).then(|| vote.to_owned()),
            tokens: Some(100 * n),
            truncated: vote.is_empty(),
            account: Account::default(),
        });
        Item { id: id.to_owned(), cluster: None, samples: samples.collect() }
    }

    #[test]
    fn metrics_of_two_items() {
        let graded = Graded {
            items: vec![
                item("a", &[("70", true), ("70", true), ("71", false), ("", false)]),
                item("b", &[("2", false), ("2", false), ("1/2", true), ("", false)]),
            ],
            ungradable_items: 1,
            failed_samples: 0,
        };
        let metrics = graded.metrics();
        assert_eq!((metrics.items, metrics.samples_per_item), (2, 4));
        assert!((metrics.pass_at[&1].mean - 0.375).abs() < 1e-12);
        assert!((metrics.pass_at[&4].mean - 1.0).abs() < 1e-12);
        assert!((metrics.majority_at[&4].mean - 0.5).abs() < 1e-12);
        assert!((metrics.majority_at[&1].mean - metrics.pass_at[&1].mean).abs() < 1e-12);
        assert!((metrics.truncated - 0.25).abs() < 1e-12 && (metrics.no_answer - 0.25).abs() < 1e-12);
        let tokens = metrics.tokens.unwrap();
        assert!((tokens.mean - 250.0).abs() < 1e-9 && (tokens.median - 250.0).abs() < 1e-9);
        let json = serde_json::to_string(&metrics).unwrap();
        assert_eq!(serde_json::from_str::<Metrics>(&json).unwrap(), metrics);
        assert_eq!(Graded::default().metrics().tokens, None);
    }

    #[test]
    fn a_shorter_limit_is_graded_from_the_same_responses() {
        let graded = Graded {
            items: vec![item("a", &[("70", true), ("71", false)]), item("b", &[("2", false), ("1", true)])],
            ..Graded::default()
        };
        let pass = |graded: &Graded| graded.metrics().pass_at[&1].mean;
        assert!((pass(&graded) - 0.5).abs() < 1e-12);
        // Of 100 and 200 tokens: the right one of `b` is too long.
        let short = graded.within(100);
        assert!((pass(&short) - 0.25).abs() < 1e-12);
        assert!((short.metrics().no_answer - 0.5).abs() < 1e-12);
        assert_eq!(graded.within(200), graded);
        // The shortest of two is right for `a` alone.
        assert!((graded.metrics().shortest_at[&2].mean - 0.5).abs() < 1e-12);
        assert_eq!(graded.metrics().uncensored_median, Some(100.0));
    }
}
