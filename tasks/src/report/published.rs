//! Published numbers beside what is measured: percentages without results by problem, and what can be said of them.
//!
//! From a percentage and a number of problems follow the counts that it may stand for, and from these an interval. Two arms
//! can be compared only as if they had answered different problems; how much the pairing would gain nobody can tell who
//! does not have it, so the best case stands beside: that every problem on which the arms differ went one way.
use dag_engine::task::Fault;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tables::{Table, TableRow, count, dash, grouped, p_value, percent, points};
use crate::stats::{self, Interval, TwoProportions};

/// A published table.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Where it stands.
    pub source: String,
    /// What its percentages are of, such as `pass@8`.
    pub metric: String,
    /// The arms, in the order of the numbers.
    pub arms: Vec<String>,
    /// The decimals with which its percentages are shown.
    #[serde(default = "one")]
    pub decimals: u32,
    /// Its rows.
    pub rows: Vec<PublishedRow>,
}

fn one() -> u32 {
    1
}

/// The numbers of all arms on one benchmark.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishedRow {
    /// The benchmark; where there are several models, the model too.
    pub benchmark: String,
    /// Its problems.
    pub items: usize,
    /// A percentage for each arm.
    pub percent: Vec<f64>,
    /// Mean tokens of a response for each arm; none if they are not told.
    #[serde(default)]
    pub tokens: Vec<f64>,
}

impl Published {
    /// What is wrong with it.
    pub(super) fn check(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let at = |index: usize, field: &str| format!("/published/rows/{index}/{field}");
        let arms = self.arms.len();
        for (index, row) in self.rows.iter().enumerate() {
            if row.percent.len() != arms {
                let what = format!("{} percentages of {arms} arms", row.percent.len());
                faults.push(Fault::new(at(index, "percent"), what));
            }
            if !row.percent.iter().all(|share| (0.0..=100.0).contains(share)) {
                faults.push(Fault::new(at(index, "percent"), "a percentage is from 0 to 100"));
            }
            if !row.tokens.is_empty() && row.tokens.len() != arms {
                faults.push(Fault::new(
                    at(index, "tokens"),
                    format!("{} numbers of {arms} arms", row.tokens.len()),
                ));
            }
            if !row.tokens.iter().all(|tokens| tokens.is_finite() && *tokens > 0.0) {
                faults.push(Fault::new(at(index, "tokens"), "tokens are above zero"));
            }
            if row.items == 0 {
                faults.push(Fault::new(at(index, "items"), "a percentage is of at least one problem"));
            }
        }
        if self.decimals > 6 {
            faults.push(Fault::new("/published/decimals", "percentages have at most six decimals"));
        }
        faults
    }
}

/// What a published table says.
#[derive(Debug, Serialize)]
pub(super) struct PublishedFindings {
    pub(super) source: String,
    pub(super) metric: String,
    pub(super) cells: Vec<PublishedCell>,
    pub(super) comparisons: Vec<PublishedComparison>,
}

/// One arm on one benchmark.
#[derive(Debug, Serialize)]
pub(super) struct PublishedCell {
    pub(super) benchmark: String,
    pub(super) arm: String,
    pub(super) items: usize,
    pub(super) percent: f64,
    /// The numbers of problems that the percentage may stand for; none where it is no share of so many.
    pub(super) counts: Vec<usize>,
    /// Wilson's 95 % interval, from the least of them to the most.
    pub(super) interval: Option<Interval>,
    pub(super) tokens: Option<f64>,
}

/// Two arms on one benchmark, at the counts furthest apart that the percentages allow.
#[derive(Debug, Serialize)]
pub(super) struct PublishedComparison {
    pub(super) benchmark: String,
    pub(super) a: String,
    pub(super) b: String,
    /// As if of different problems.
    pub(super) unpaired: TwoProportions,
    /// The least p that McNemar's exact test could give: every problem on which they differ goes one way.
    pub(super) best_paired_p: f64,
    /// Mean tokens of `a` over those of `b`.
    pub(super) token_ratio: Option<f64>,
}

pub(super) fn find(published: &Published) -> PublishedFindings {
    let (mut cells, mut comparisons) = (Vec::new(), Vec::new());
    for row in &published.rows {
        let of_row: Vec<PublishedCell> = published
            .arms
            .iter()
            .zip(&row.percent)
            .enumerate()
            .map(|(index, (arm, percent))| {
                let counts = stats::counts_of_percentage(*percent, published.decimals, row.items);
                let interval = |count: &usize| stats::wilson(*count, row.items);
                let ends = counts.first().and_then(interval).zip(counts.last().and_then(interval));
                PublishedCell {
                    benchmark: row.benchmark.clone(),
                    arm: arm.clone(),
                    items: row.items,
                    percent: *percent,
                    interval: ends.map(|(first, last)| Interval { low: first.low, high: last.high }),
                    counts,
                    tokens: row.tokens.get(index).copied(),
                }
            })
            .collect();
        for (index, a) in of_row.iter().enumerate() {
            comparisons.extend(of_row[index + 1..].iter().filter_map(|b| compare(a, b)));
        }
        cells.extend(of_row);
    }
    PublishedFindings {
        source: published.source.clone(),
        metric: published.metric.clone(),
        cells,
        comparisons,
    }
}

fn compare(a: &PublishedCell, b: &PublishedCell) -> Option<PublishedComparison> {
    let ends = [(a.counts.first()?, b.counts.last()?), (a.counts.last()?, b.counts.first()?)];
    let (of_a, of_b) = ends.into_iter().max_by_key(|(a, b)| a.abs_diff(**b))?;
    Some(PublishedComparison {
        benchmark: a.benchmark.clone(),
        a: a.arm.clone(),
        b: b.arm.clone(),
        unpaired: stats::two_proportions((*of_a, a.items), (*of_b, b.items))?,
        best_paired_p: stats::mcnemar_exact(of_a.abs_diff(*of_b), 0),
        token_ratio: a.tokens.zip(b.tokens).map(|(a, b)| a / b),
    })
}

/// Percentages that are no share of their problems.
pub(super) fn warnings(found: &PublishedFindings) -> Vec<String> {
    let odd = found.cells.iter().filter(|cell| cell.counts.is_empty());
    odd.map(|cell| {
        format!(
            "{} % of {} problems is no whole number of them ({}, {}): it is no share of problems, or of other ones",
            cell.percent, cell.items, cell.benchmark, cell.arm
        )
    })
    .collect()
}

/// What the comparisons come to, in a sentence.
pub(super) fn sentence(found: &PublishedFindings) -> Option<String> {
    let all = found.comparisons.len();
    let unpaired = found.comparisons.iter().filter(|one| one.unpaired.p < 0.05).count();
    let at_best = found.comparisons.iter().filter(|one| one.best_paired_p < 0.05).count();
    (all > 0).then(|| {
        format!(
            "{}: of {all} differences of {}, {unpaired} are significant at 5 % unpaired, and {at_best} could be paired, at best; \
             results by problem are not published.",
            found.source, found.metric
        )
    })
}

pub(super) fn tables(found: &PublishedFindings) -> [Table; 2] {
    let metric = format!("{} %", found.metric);
    let headers = ["Benchmark", "Arm", &metric, "95 % interval", "Problems", "Mean tokens"];
    let rows = grouped(found.cells.iter().map(|cell| {
        let solved = match cell.counts.as_slice() {
            [] => format!("? of {}", count(cell.items as f64)),
            [one] => format!("{} of {}", count(*one as f64), count(cell.items as f64)),
            [first, .., last] => {
                format!("{} to {} of {}", count(*first as f64), count(*last as f64), count(cell.items as f64))
            }
        };
        vec![
            cell.benchmark.clone(),
            cell.arm.clone(),
            percent(cell.percent / 100.0),
            cell.interval
                .map_or_else(dash, |ends| format!("[{}, {}]", percent(ends.low), percent(ends.high))),
            solved,
            cell.tokens.map_or_else(dash, count),
        ]
    }));
    let cells = Table {
        title: "Published",
        note: format!(
            "{}. Problems solved are those that the percentage may stand for; intervals are Wilson's.",
            found.source
        ),
        headers: headers.map(str::to_owned).into(),
        names: 2,
        rows,
    };
    let headers = ["Benchmark", "Arms", "Difference", "z", "p", "McNemar p at best", "Token ratio"];
    let rows = found.comparisons.iter().map(|one| TableRow {
        cells: vec![
            one.benchmark.clone(),
            format!("{} − {}", one.a, one.b),
            points(one.unpaired.difference),
            format!("{:.2}", one.unpaired.z).replace('-', "−"),
            p_value(one.unpaired.p),
            p_value(one.best_paired_p),
            one.token_ratio.map_or_else(dash, |ratio| format!("{ratio:.2}×")),
        ],
        starts_group: true,
    });
    let comparisons = Table {
        title: "Published arms compared",
        note: "As if the arms had answered different problems, at the counts furthest apart that the percentages allow. McNemar at \
               best is the least p that pairing could give: all problems on which the arms differ go one way."
            .to_owned(),
        headers: headers.map(str::to_owned).into(),
        names: 2,
        rows: rows.collect(),
    };
    [cells, comparisons]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published() -> Published {
        let row = |benchmark: &str, items, percent: [f64; 2], tokens: [f64; 2]| PublishedRow {
            benchmark: benchmark.into(),
            items,
            percent: percent.into(),
            tokens: tokens.into(),
        };
        Published {
            source: "a paper".into(),
            metric: "pass@8".into(),
            arms: ["gpt-oss", "r1"].map(str::to_owned).into(),
            decimals: 1,
            rows: vec![
                row("aime", 30, [30.0, 23.3], [12_951.0, 29_328.0]),
                row("gsm8k", 1319, [96.4, 97.2], [609.0, 3_883.0]),
                row("math", 500, [98.0, 99.0], [1_350.0, 5_931.0]),
            ],
        }
    }

    #[test]
    fn counts_intervals_and_tests_of_a_table() {
        let found = find(&published());
        assert_eq!(published().check(), []);
        let counts: Vec<&[usize]> = found.cells.iter().map(|cell| cell.counts.as_slice()).collect();
        assert_eq!(counts, [&[9][..], &[7], &[1271, 1272], &[1282], &[490], &[495]]);
        let interval = found.cells[0].interval.unwrap();
        assert_eq!((percent(interval.low), percent(interval.high)), ("16.7".into(), "47.9".into()));
        let z: Vec<String> = found.comparisons.iter().map(|one| format!("{:.2}", one.unpaired.z)).collect();
        assert_eq!(z, ["0.59", "-1.21", "-1.30"]);
        let best: Vec<f64> = found.comparisons.iter().map(|one| one.best_paired_p).collect();
        assert!(
            (best[0] - 0.5).abs() < 1e-9
                && (best[1] - 0.000_977).abs() < 1e-6
                && (best[2] - 0.0625).abs() < 1e-9
        );
        assert!(sentence(&found).unwrap().contains("of 3 differences of pass@8, 0 are significant"));
        assert_eq!(warnings(&found), Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_is_said() {
        let mut odd = published();
        odd.rows[0].percent[0] = 31.0;
        let found = find(&odd);
        assert_eq!((found.cells[0].interval, found.comparisons.len()), (None, 2));
        assert!(warnings(&found)[0].starts_with("31 % of 30 problems"), "{:?}", warnings(&found));
        assert!(tables(&found)[0].rows[0].cells.contains(&"? of 30".to_owned()));

        odd.rows[0] =
            PublishedRow { benchmark: "x".into(), items: 0, percent: vec![101.0], tokens: vec![0.0] };
        let pointers: Vec<String> = odd.check().into_iter().map(|fault| fault.pointer).collect();
        let expected = ["percent", "percent", "tokens", "tokens", "items"];
        assert_eq!(pointers, expected.map(|field| format!("/published/rows/0/{field}")));
    }
}
