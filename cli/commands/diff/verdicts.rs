//! Which responses two results of one node judge otherwise, by which rules, and which of its numbers that moves.

use std::collections::{BTreeMap, BTreeSet};

use dag_tasks::table::{Row, TableReader};
use serde::Serialize;
use serde_json::Value;

use crate::artifact::Artifact;
use crate::failure::Failure;
use crate::grid::cell;
use crate::text::{Text, clip};
use crate::words::{count, grouped};

/// The columns that say how a response was judged.
const VERDICT: [&str; 2] = ["verdict", "rule"];
/// The columns that say what was judged.
const SUBJECT: [&str; 6] = ["id", "repeat", "record_key", "answer", "reference", "extracted"];
/// More responses than this are counted and not shown.
const SHOWN: usize = 40;
/// An answer is cut here.
const LONGEST: usize = 60;

/// What changed between two results of one node.
#[derive(Serialize)]
pub(super) struct Regraded {
    /// The node.
    node: String,
    /// Responses that both have.
    compared: u64,
    /// Responses that only one has, on the left and on the right.
    unpaired: [u64; 2],
    /// The numbers that moved: name, before, after.
    numbers: Vec<(String, f64, f64)>,
    /// The responses that are judged otherwise.
    responses: Vec<Response>,
}

/// A response that is judged otherwise.
#[derive(Serialize)]
struct Response {
    id: String,
    repeat: u64,
    /// The right answer.
    reference: Option<String>,
    /// What each found in the response.
    extracted: [Option<String>; 2],
    verdict: [Option<String>; 2],
    rule: [Option<String>; 2],
}

/// Compares the results of one node; `None` where they hold no verdicts, or the same.
pub(super) fn between(before: &[Artifact], after: &[Artifact]) -> Result<Option<Regraded>, Failure> {
    let (mut compared, mut unpaired, mut responses) = (0, [0, 0], Vec::new());
    let mut has_verdicts = false;
    for left in before {
        let right = after.iter().find(|right| right.port == left.port);
        let Some(right) = right.filter(|right| right.output.digest != left.output.digest) else { continue };
        if !left.is_present() || !right.is_present() {
            continue;
        }
        let (Some(left), Some(right)) = (left.table()?, right.table()?) else { continue };
        if [&left, &right].iter().any(|table| table.schema().kind(VERDICT[0]).is_none()) {
            continue;
        }
        has_verdicts = true;
        let mut others: BTreeMap<String, Row> = rows(&right)?.into_iter().collect();
        for (key, row) in rows(&left)? {
            let Some(other) = others.remove(&key) else {
                unpaired[0] += 1;
                continue;
            };
            compared += 1;
            if VERDICT.iter().any(|name| row.get(*name) != other.get(*name)) {
                responses.push(response(&row, &other));
            }
        }
        unpaired[1] += others.len() as u64;
    }
    let (Some(left), Some(right)) = (before.first(), after.first()) else { return Ok(None) };
    let numbers = numbers(left, right);
    let is_news = !responses.is_empty() || !numbers.is_empty();
    Ok((has_verdicts && is_news).then(|| Regraded {
        node: left.node.clone(),
        compared,
        unpaired,
        numbers,
        responses,
    }))
}

/// The judged rows in their order, each with what it judges: the record of the response, or its problem and repeat.
fn rows(table: &TableReader) -> Result<Vec<(String, Row)>, Failure> {
    let present = |name: &&str| table.schema().kind(name).is_some();
    let columns: Vec<&str> = SUBJECT.into_iter().chain(VERDICT).filter(present).collect();
    let mut rows = Vec::new();
    for row in table.rows_of(&columns)? {
        let row = row?;
        let key = match text(&row, "record_key") {
            Some(key) => key,
            None => format!("{}#{}", cell(row.get("id")), cell(row.get("repeat"))),
        };
        rows.push((key, row));
    }
    Ok(rows)
}

fn response(before: &Row, after: &Row) -> Response {
    let both = |name: &str| [text(before, name), text(after, name)];
    Response {
        id: cell(before.get("id")),
        repeat: before.get("repeat").and_then(Value::as_u64).unwrap_or(0),
        reference: text(before, "reference").or_else(|| text(before, "answer")),
        extracted: both("extracted"),
        verdict: both("verdict"),
        rule: both("rule"),
    }
}

fn text(row: &Row, name: &str) -> Option<String> {
    row.get(name).filter(|value| !value.is_null()).map(|value| cell(Some(value)))
}

/// The metrics that moved.
fn numbers(left: &Artifact, right: &Artifact) -> Vec<(String, f64, f64)> {
    let moved = |(name, before): (&String, &Value)| {
        let (before, after) = (before.as_f64()?, right.metrics.get(name)?.as_f64()?);
        (before.to_bits() != after.to_bits()).then(|| (name.clone(), before, after))
    };
    left.metrics.iter().filter_map(moved).collect()
}

impl Regraded {
    /// The numbers, and a line for each response.
    pub(super) fn render(&self, mut text: Text) -> Text {
        text = text.accent("  ≠ ").bold(&self.node);
        let items: BTreeSet<&str> = self.responses.iter().map(|response| response.id.as_str()).collect();
        let counts = format!(
            ": {} of {} judged otherwise, of {}",
            grouped(self.responses.len() as u64),
            count(self.compared, "response"),
            count(items.len() as u64, "item")
        );
        text = text.plain(counts).line();
        for (name, before, after) in &self.numbers {
            text = text.plain(format!("      {name} {} → {}", number(*before), number(*after))).line();
        }
        if self.unpaired != [0, 0] {
            let [left, right] = self.unpaired.map(grouped);
            text = text
                .plain(format!("      not the same responses: {left} only before, {right} only after"))
                .line();
        }
        for response in self.responses.iter().take(SHOWN) {
            text = text.plain("      ").plain(&response.id).plain(format!(" #{}  ", response.repeat));
            text = response.render(text).line();
        }
        if self.responses.len() > SHOWN {
            let more = grouped((self.responses.len() - SHOWN) as u64);
            text = text.faint(format!("      … and {more} more; `--json` has all")).line();
        }
        text
    }
}

impl Response {
    fn render(&self, text: Text) -> Text {
        let judged = |side: usize| {
            let verdict = self.verdict[side].as_deref().unwrap_or("none");
            self.rule[side]
                .as_deref()
                .map_or_else(|| verdict.to_owned(), |rule| format!("{verdict} ({rule})"))
        };
        let text = text.accent(format!("{} → {}", judged(0), judged(1)));
        let quoted = |answer: &Option<String>| match answer {
            Some(answer) => format!("`{}`", clip(answer, LONGEST)),
            None => "none".to_owned(),
        };
        let [before, after] = &self.extracted;
        let found = if before == after {
            quoted(before)
        } else {
            format!("{} → {}", quoted(before), quoted(after))
        };
        text.faint(format!("  answer {found}, reference {}", quoted(&self.reference)))
    }
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.4}") }
}
