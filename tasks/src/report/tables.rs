//! The tables of a report, built once and rendered as HTML, Markdown, CSV and plain text.
use std::collections::BTreeMap;

use serde_json::Value;

use super::findings::{Cell, Comparison, Findings, Score};
use super::gather::{Gathered, Judged};
use super::{fairness, precision, published};
use crate::judge::quality::Share;
use crate::stats::{Bound, Interval, LengthRatio, Needed};

/// A table of texts. The first columns name the row; the others hold numbers.
pub(super) struct Table {
    pub(super) title: &'static str,
    /// What the reader must know to read it; may be empty.
    pub(super) note: String,
    pub(super) headers: Vec<String>,
    /// How many leading columns are names: the row's, or its group's and its own.
    pub(super) names: usize,
    pub(super) rows: Vec<TableRow>,
}

pub(super) struct TableRow {
    pub(super) cells: Vec<String>,
    /// Whether the row begins a group; its name is then not repeated below.
    pub(super) starts_group: bool,
}

pub(super) fn tables(gathered: &Gathered, findings: &Findings) -> Vec<Table> {
    let arms =
        "A difference is the first arm minus the second in percentage points of pass@1, paired by problem; ";
    let mut all = vec![
        results(findings),
        comparisons("Arms compared", arms, &findings.comparisons, findings.k),
        comparisons(
            "Gain over the untrained base",
            "Paired by problem as above; ",
            &findings.against_base,
            findings.k,
        ),
    ];
    all.extend(precision::tables(findings));
    all.extend([trained_on(gathered), funnel(gathered), verdicts(gathered), judge(gathered)]);
    all.extend(findings.published.iter().flat_map(published::tables));
    all.into_iter().filter(|table| !table.rows.is_empty()).collect()
}

fn results(findings: &Findings) -> Table {
    let k = findings.k;
    // What a single sample says is in pass@1 already.
    let of_several = |columns: [String; 2]| columns.into_iter().filter(move |_| k > 1);
    let mut headers = ["Benchmark", "Arm", "pass@1 %"].map(str::to_owned).to_vec();
    headers.extend(of_several([format!("pass@{k} %"), format!("majority@{k} %")]));
    headers.extend(["Mean tokens", "Median"].map(str::to_owned));
    // What occurs nowhere has no column.
    let optional: Vec<_> =
        OCCURRING.iter().filter(|(_, of)| findings.cells.iter().any(|cell| of(cell).is_some())).collect();
    headers.extend(["Truncated %", "No answer %"].map(str::to_owned));
    headers.extend(optional.iter().map(|(header, _)| (*header).to_owned()));
    headers.push("Problems".to_owned());
    let rows = grouped(findings.cells.iter().map(|cell| {
        let tokens = |value: fn(&crate::evaluate::score::Tokens) -> f64| {
            cell.tokens.as_ref().map_or_else(dash, |tokens| count(value(tokens).round()))
        };
        let mut cells = vec![cell.benchmark.clone(), cell.arm.clone(), with_interval(&cell.pass_at_1)];
        cells.extend(of_several([with_interval(&cell.pass_at_k), with_interval(&cell.majority_at_k)]));
        cells.extend([
            tokens(|tokens| tokens.mean),
            tokens(|tokens| tokens.median),
            percent(cell.truncated),
            percent(cell.no_answer),
        ]);
        cells.extend(optional.iter().map(|(_, of)| of(cell).unwrap_or_else(dash)));
        cells.push(problems(cell));
        cells
    }));
    let several = if k > 1 {
        format!("average over all samples, pass@{k} the unbiased chance that one of {k} is right")
    } else {
        "share of problems whose one sample is right".to_owned()
    };
    let note = format!(
        "Brackets are 95 % intervals over problems like these. pass@1 is the {several}. Shares are of responses: cut off, without \
         an answer, going round in circles at the end, with thinking that never ends, with nothing after it."
    );
    Table { title: "Results", note, headers, names: 2, rows }
}

type OfCell = fn(&Cell) -> Option<String>;

/// What is told beside every accuracy where it occurs: the parts of a response, and how it ended.
const OCCURRING: [(&str, OfCell); 6] = [
    ("Thinking tokens", |cell| {
        // Without any thinking the answer is all of it, which stands there already.
        cell.thinking_tokens.filter(|tokens| *tokens > 0.0).map(|tokens| count(tokens.round()))
    }),
    ("Answer tokens", |cell| {
        let has_thinking = cell.thinking_tokens.is_some_and(|tokens| tokens > 0.0);
        cell.answer_tokens.filter(|_| has_thinking).map(|tokens| count(tokens.round()))
    }),
    ("Reference tokens", |cell| cell.reference_tokens.map(|tokens| count(tokens.round()))),
    ("Looped %", |cell| occurring(cell.looped)),
    ("Unclosed %", |cell| occurring(cell.unclosed)),
    ("Nothing after thinking %", |cell| occurring(cell.empty_final)),
];

fn occurring(share: f64) -> Option<String> {
    (share > 0.0).then(|| percent(share))
}

fn problems(cell: &Cell) -> String {
    match cell.ungradable_items {
        0 => cell.items.to_string(),
        left_out => format!("{} ({left_out} left out)", cell.items),
    }
}

fn comparisons(title: &'static str, lead: &str, comparisons: &[Comparison], k: usize) -> Table {
    let headers = [
        "Benchmark",
        "Arms",
        "Difference",
        "95 % interval",
        "Bootstrap 95 %",
        "p",
        "p (Holm)",
        &format!("Only one solves in {k}"),
        "McNemar p",
        "p (sign flips)",
        "Token ratio",
        "Least detectable",
        "Would settle it",
    ];
    let rows = grouped(comparisons.iter().map(|one| {
        let difference = &one.pass_at_1;
        let mark = if one.stands() { " *" } else { "" };
        vec![
            one.benchmark.clone(),
            format!("{} − {}", one.a, one.b),
            format!("{}{mark}", points(difference.mean)),
            difference.interval.map_or_else(dash, signed_interval),
            one.bootstrap.map_or_else(dash, |bootstrap| signed_interval(bootstrap.interval)),
            one.bootstrap.map_or_else(dash, |bootstrap| p_value(bootstrap.p)),
            p_value(one.holm_p),
            one.any_of_k.map_or_else(dash, |any| format!("{} : {}", any.only_a, any.only_b)),
            one.any_of_k.map_or_else(dash, |any| p_value(any.mcnemar_p)),
            one.sign_flips_p.map_or_else(dash, p_value),
            one.token_ratio.map_or_else(dash, length_ratio),
            difference.detectable.map_or_else(dash, |effect| format!("{:.1}", 100.0 * effect)),
            one.needed.filter(|_| !one.stands()).map_or_else(dash, needed),
        ]
    }));
    let note = format!(
        "{lead}* marks one that stands at 5 % after Holm's correction over this table (p by paired bootstrap over problems, \
         10,000 draws). Token ratio is the geometric mean over problems with its 95 % interval; where responses were cut off the \
         true one is at least (≥) or at most (≤) that, or either (~). Least detectable is the true difference that so many problems \
         would show four times in five. Would settle it, where it does not stand: so many \
         problems, or so many samples of each of these, would show a difference as large as this one four times in five."
    );
    Table { title, note, headers: headers.map(str::to_owned).into(), names: 2, rows }
}

/// A ratio with how truncation bounds it.
fn length_ratio(found: LengthRatio) -> String {
    let sign = match found.bound {
        Bound::Exact => "",
        Bound::AtLeast => "≥ ",
        Bound::AtMost => "≤ ",
        Bound::Unknown => "~ ",
    };
    let interval =
        found.interval.map_or_else(String::new, |ends| format!(" [{:.2}, {:.2}]", ends.low, ends.high));
    format!("{sign}{:.2}×{interval}", found.ratio)
}

fn needed(needed: Needed) -> String {
    match (needed.items, needed.samples) {
        (None, _) => dash(),
        (Some(items), None) => counted(items, "problem"),
        (Some(items), Some(samples)) => {
            let samples = counted(samples, "sample");
            format!("{} or {samples}", counted(items, "problem"))
        }
    }
}

fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number as f64), if number == 1 { "" } else { "s" })
}

/// The facts shown, those that some arm tells, in this order; the names are those of the files.
const FACTS: [(&str, &str); 15] = [
    ("steps", "Steps"),
    ("epochs", "Epochs"),
    ("packs", "Packs"),
    ("packing.packs", "Packs"),
    ("unique_problems", "Unique problems"),
    ("exposures", "Exposures"),
    ("exposures_per_problem", "Of each problem"),
    ("tokens", "Tokens"),
    ("loss_tokens", "Loss tokens"),
    ("final_loss", "Final loss"),
    ("packing.examples", "Examples packed"),
    ("packing.tokens", "Tokens packed"),
    ("packing.mean_length", "Mean length"),
    ("packing.efficiency", "Pack fill"),
    ("packing.dropped", "Dropped"),
];

/// What differs between the arms beside the traces. Facts come from training summaries and pack statistics.
fn trained_on(gathered: &Gathered) -> Table {
    let facts = fairness::facts(gathered);
    let told: Vec<_> =
        FACTS.iter().filter(|(name, _)| facts.iter().any(|(_, known)| known.contains_key(*name))).collect();
    let headers =
        std::iter::once("Arm".to_owned()).chain(told.iter().map(|(_, header)| (*header).to_owned()));
    let rows = facts.iter().map(|(label, known)| TableRow {
        cells: std::iter::once(label.clone())
            .chain(told.iter().map(|(name, _)| known.get(*name).map_or_else(dash, fact)))
            .collect(),
        starts_group: false,
    });
    Table {
        title: "What each arm was trained on",
        note: "Equal steps and tokens are not equal epochs: where one arm's traces are shorter, it sees each problem more often.".to_owned(),
        headers: headers.collect(),
        names: 1,
        rows: if told.is_empty() { Vec::new() } else { rows.collect() },
    }
}

fn fact(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_u64() => count(number.as_f64().unwrap_or_default()),
        Value::Number(number) => format!("{:.3}", number.as_f64().unwrap_or_default()),
        Value::String(text) => text.clone(),
        // Counts by reason: `dropped: {too_long: 3, gate: 1}`.
        Value::Object(counts) => {
            let each: Vec<String> = counts.iter().map(|(name, value)| format!("{name} {value}")).collect();
            if each.is_empty() { "0".to_owned() } else { each.join(", ") }
        }
        other => other.to_string(),
    }
}

fn funnel(gathered: &Gathered) -> Table {
    let first = gathered.funnel.first().map_or(0, |step| step.rows);
    let rows = gathered.funnel.iter().map(|step| {
        let reasons: Vec<String> =
            step.reasons.iter().map(|(reason, rows)| format!("{reason} {rows}")).collect();
        let share = if first > 0 { percent(step.rows as f64 / first as f64) } else { dash() };
        TableRow {
            cells: vec![step.label.clone(), count(step.rows as f64), share, reasons.join(", ")],
            starts_group: false,
        }
    });
    let headers = ["Table", "Rows", "% of the first", "Reasons"];
    Table {
        title: "Data",
        note: String::new(),
        headers: headers.map(str::to_owned).into(),
        names: 1,
        rows: rows.collect(),
    }
}

fn verdicts(gathered: &Gathered) -> Table {
    let judged = || gathered.judged.iter().filter(|judged| !judged.verdicts.is_empty());
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for (verdict, rows) in judged().flat_map(|judged| &judged.verdicts) {
        *kinds.entry(verdict).or_default() += rows;
    }
    let rows = judged().map(|Judged { arm, verdicts, .. }| {
        let total: u64 = verdicts.values().sum();
        let each = kinds.keys().map(|verdict| {
            let rows = verdicts.get(*verdict).copied().unwrap_or(0);
            format!("{} ({} %)", count(rows as f64), percent(rows as f64 / total.max(1) as f64))
        });
        TableRow { cells: std::iter::once(arm.clone()).chain(each).collect(), starts_group: false }
    });
    let headers = std::iter::once("Arm").chain(kinds.keys().copied()).map(str::to_owned).collect();
    Table { title: "Verdicts of the judge", note: String::new(), headers, names: 1, rows: rows.collect() }
}

/// How far the verdicts can be trusted: what is known of it of any arm.
fn judge(gathered: &Gathered) -> Table {
    type Fact = fn(&Judged) -> Option<String>;
    let facts: [(&str, Fact); 6] = [
        ("Agrees with the rules %", |judged| share(judged.agreement.agreed())),
        ("Kappa", |judged| judged.agreement.kappa().map(|kappa| format!("{kappa:.2}"))),
        ("Precision %", |judged| share(judged.labels.precision())),
        ("Recall %", |judged| share(judged.labels.recall())),
        ("Match beside another reference %", |judged| share(judged.controls?.false_match)),
        ("Match of the reference itself %", |judged| share(judged.controls?.true_match)),
    ];
    let told: Vec<_> = facts
        .iter()
        .filter(|(_, fact)| gathered.judged.iter().any(|judged| fact(judged).is_some()))
        .collect();
    let rows = gathered.judged.iter().map(|judged| TableRow {
        cells: std::iter::once(judged.arm.clone())
            .chain(told.iter().map(|(_, fact)| fact(judged).unwrap_or_else(dash)))
            .collect(),
        starts_group: false,
    });
    Table {
        title: "How good the judge is",
        note: "Brackets are 95 % intervals (Wilson). Agreement is over what both the model and the rules decide; precision and \
               recall are those of a match against the labels. Beside the reference of another row a match is an error, and \
               of the reference itself it must be one."
            .to_owned(),
        headers: std::iter::once("Arm").chain(told.iter().map(|(header, _)| *header)).map(str::to_owned).collect(),
        names: 1,
        rows: if told.is_empty() { Vec::new() } else { rows.collect() },
    }
}

/// A share in percent with its interval; `None` of nothing.
fn share(share: Share) -> Option<String> {
    let interval = share.interval()?;
    Some(format!("{} [{}, {}]", percent(share.value()?), percent(interval.low), percent(interval.high)))
}

/// Rows whose first cell is left empty where it repeats the one above.
pub(super) fn grouped(rows: impl Iterator<Item = Vec<String>>) -> Vec<TableRow> {
    let mut last = None;
    rows.map(|mut cells| {
        let starts_group = last.as_ref() != Some(&cells[0]);
        if starts_group {
            last = Some(cells[0].clone());
        } else {
            cells[0].clear();
        }
        TableRow { cells, starts_group }
    })
    .collect()
}

pub(super) fn with_interval(score: &Score) -> String {
    let interval = score
        .interval
        .map_or_else(String::new, |ends| format!(" [{}, {}]", percent(ends.low), percent(ends.high)));
    format!("{}{interval}", percent(score.mean))
}

pub(super) fn signed_interval(ends: Interval) -> String {
    format!("[{}, {}]", points(ends.low), points(ends.high))
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

/// A signed number of percentage points, with a true minus.
pub(super) fn points(share: f64) -> String {
    let text = format!("{:+.1}", 100.0 * share);
    if text == "-0.0" { "0.0".to_owned() } else { text.replace('-', "−").replace("+0.0", "0.0") }
}

pub(super) fn p_value(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") }
}

/// A whole number with separated thousands.
pub(super) fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(super) fn dash() -> String {
    "–".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_people_do() {
        assert_eq!(
            [0.0, 999.0, 1000.0, 11_520_000_000.0].map(count),
            ["0", "999", "1,000", "11,520,000,000"]
        );
        assert_eq!([0.0321, -0.0321, 0.0001, -0.0001].map(points), ["+3.2", "−3.2", "0.0", "0.0"]);
        assert_eq!([0.04, 0.0004].map(p_value), ["0.040", "< 0.001"]);
        assert_eq!(fact(&serde_json::json!({"too_long": 3})), "too_long 3");
        assert_eq!(fact(&serde_json::json!(13.6)), "13.600");
    }
}
