//! `dag trace`: from records of a table back to the responses and source rows behind them.
//!
//! The tables upstream are searched from the nearest to the farthest. A record belongs to the trail if its
//! `record_key` is among the `parents` or the record keys of a record found before, or, in a table without any such,
//! if its `id` is the same. Rows that a node dropped are in another output of it, and are searched as well:
//! that is what explains why a record is *not* in a table.

use std::collections::{BTreeMap, BTreeSet};

use dag_engine::graph::{Graph, NodeId};
use dag_engine::plan::Plan;
use dag_tasks::table::{Row, TableReader};
use serde_json::{Map, Value, json};

use crate::args::Trace;
use crate::artifact::{Artifact, Condition};
use crate::context::Context;
use crate::experiment::{Compiled, compiled};
use crate::failure::{Failure, Outcome};
use crate::grid::cell;
use crate::text::{Text, clip};

/// Fields that say how a record fared come first, and are what a line shows.
const VERDICTS: [&str; 8] =
    ["verdict", "match", "correct", "rule", "reason", "extracted", "finish_reason", "error"];
/// Fields with the words of a record, shown on lines of their own.
const WORDS: [&str; 5] = ["problem", "answer", "response", "answer_text", "messages"];
/// A long text is cut here; `--json` has the whole of it.
const LONGEST: usize = 300;
/// More records of one table than this are counted and not shown.
const SHOWN: usize = 8;

/// A record on the trail.
struct Step {
    node: String,
    port: String,
    task: &'static str,
    row: Row,
    logged: Option<Value>,
}

pub fn run(arguments: &Trace, context: &Context) -> Outcome {
    let compiled = compiled(&arguments.experiment, &context.registry())?;
    let plan = compiled.plan(context)?;
    let starts = compiled.artifacts(&arguments.node, &plan, context)?;
    let condition = Condition::parse(arguments.condition.as_deref())?;
    let name = starts.first().map_or(arguments.node.as_str(), |artifact| &artifact.node).to_owned();
    let id = compiled.node(&name)?;
    let mut seeds: Vec<(&Artifact, Row)> = Vec::new();
    let mut tables = 0;
    for artifact in &starts {
        let Some(table) = artifact.table()? else { continue };
        tables += 1;
        let wanted = arguments.head.saturating_sub(seeds.len());
        seeds.extend(
            crate::artifact::rows(&table, &condition, wanted)?.into_iter().map(|row| (artifact, row)),
        );
    }
    let upstream = upstream_tables(compiled, &plan, id, context)?;
    if tables == 0 {
        let inputs: Vec<String> =
            upstream.iter().take(6).map(|(_, artifact)| format!("`{}`", artifact.node)).collect();
        return Err(Failure::user(format!("`{name}` holds no table to trace"))
            .hint(format!("trace one of its inputs: {}", inputs.join(", "))));
    }
    let mut trails = trails(&compiled.graph, id, seeds, &upstream)?;
    if trails.is_empty() {
        // Not in the table, so look further up: what is not there was lost on the way.
        if let Some((at, rows)) = first_upstream(&condition, &upstream, arguments.head)? {
            let (source, artifact) = &upstream[at];
            let seeds = rows.into_iter().map(|row| (artifact, row)).collect();
            trails = self::trails(&compiled.graph, *source, seeds, &upstream[at + 1..])?;
        }
        if trails.is_empty() {
            return Err(Failure::failed(format!(
                "no record of `{name}` or of what is upstream of it is meant"
            ))
            .hint(format!("`dag show FILE {name}` shows what its columns hold")));
        }
        context.printer.note(
            &Text::new().warn("note: ").plain(format!("`{name}` has no such record; found upstream")).line(),
        );
    }
    if context.json {
        let listed: Vec<Value> =
            trails.iter().map(|steps| steps.iter().map(Step::to_json).collect()).collect();
        return context.printer.json(&listed);
    }
    let text = trails.iter().fold(Text::new(), |text, steps| text.then(render(steps)).line());
    context.printer.data(&text)
}

/// All tables that `id` was made from, nearest first, each output of a node by itself.
fn upstream_tables(
    compiled: &Compiled,
    plan: &Plan,
    id: NodeId,
    context: &Context,
) -> Result<Vec<(NodeId, Artifact)>, Failure> {
    let mut found = Vec::new();
    for source in compiled.graph.closure(&[id]).into_iter().rev().filter(|source| *source != id) {
        for artifact in compiled.artifacts_of(source, plan, context)?.into_iter().flatten() {
            if artifact.is_present() && artifact.table()?.is_some() {
                found.push((source, artifact));
            }
        }
    }
    Ok(found)
}

/// The nearest upstream table that has records that are meant, and these.
fn first_upstream(
    condition: &Condition,
    upstream: &[(NodeId, Artifact)],
    head: usize,
) -> Result<Option<(usize, Vec<Row>)>, Failure> {
    for (at, (_, artifact)) in upstream.iter().enumerate() {
        let Some(table) = artifact.table()? else { continue };
        let rows = crate::artifact::rows(&table, condition, head)?;
        if !rows.is_empty() {
            return Ok(Some((at, rows)));
        }
    }
    Ok(None)
}

/// What a record is known by upstream.
#[derive(Default)]
struct Marks {
    keys: BTreeSet<String>,
    ids: BTreeSet<String>,
}

impl Marks {
    fn learn(&mut self, row: &Row) {
        for (name, value) in row {
            let last = name.rsplit('.').next().unwrap_or(name);
            match (last, value) {
                ("record_key" | "judge_record_key", Value::String(key)) => {
                    self.keys.insert(key.clone());
                }
                ("parents", Value::Array(parents)) => {
                    self.keys.extend(parents.iter().filter_map(Value::as_str).map(str::to_owned));
                }
                ("id", Value::String(id)) => {
                    self.ids.insert(id.clone());
                }
                _ => {}
            }
        }
    }

    fn knows_key(&self, row: &Row) -> bool {
        row.get("record_key").and_then(Value::as_str).is_some_and(|key| self.keys.contains(key))
    }

    fn knows_id(&self, row: &Row) -> bool {
        row.get("id").and_then(Value::as_str).is_some_and(|id| self.ids.contains(id))
    }
}

/// A record and what was found behind it so far.
struct Trail {
    steps: Vec<Step>,
    /// What a record is known by flows from each node to its inputs only, so that one arm's keys find nothing in the other.
    marks: BTreeMap<NodeId, Marks>,
}

impl Trail {
    fn learn(&mut self, graph: &Graph, from: NodeId, artifact: &Artifact, row: Row) -> Result<(), Failure> {
        for source in graph.closure(&[from]) {
            self.marks.entry(source).or_default().learn(&row);
        }
        self.steps.push(Step::of(graph, from, artifact, row)?);
        Ok(())
    }
}

/// The trails of some records of one node. Every table upstream is looked through once for all of them.
fn trails(
    graph: &Graph,
    id: NodeId,
    seeds: Vec<(&Artifact, Row)>,
    upstream: &[(NodeId, Artifact)],
) -> Result<Vec<Vec<Step>>, Failure> {
    let mut trails = Vec::new();
    for (artifact, row) in seeds {
        let mut trail = Trail { steps: Vec::new(), marks: BTreeMap::new() };
        trail.learn(graph, id, artifact, row)?;
        trails.push(trail);
    }
    for (source, artifact) in upstream {
        if trails.iter().all(|trail| !trail.marks.contains_key(source)) {
            continue;
        }
        let Some(table) = artifact.table()? else { continue };
        let marks: Vec<Option<&Marks>> = trails.iter().map(|trail| trail.marks.get(source)).collect();
        let found = find(&table, &marks)?;
        let all: BTreeSet<u64> = found.iter().flatten().copied().collect();
        let all: Vec<u64> = all.into_iter().collect();
        for (row, number) in table.rows_at(&all)?.zip(&all) {
            let row = row?;
            for (trail, found) in trails.iter_mut().zip(&found) {
                if found.binary_search(number).is_ok() {
                    trail.learn(graph, *source, artifact, row.clone())?;
                }
            }
        }
    }
    Ok(trails.into_iter().map(|trail| trail.steps).collect())
}

/// The numbers of the rows that each of `marks` means: by their key, and if none has such a key by their id. Only these two
/// columns are read.
fn find(table: &TableReader, marks: &[Option<&Marks>]) -> Result<Vec<Vec<u64>>, Failure> {
    let columns: Vec<&str> =
        table.schema().names().filter(|name| matches!(*name, "record_key" | "id")).collect();
    let mut found = vec![(Vec::new(), Vec::new()); marks.len()];
    for (row, number) in table.rows_of(&columns)?.zip(0..) {
        let row = row?;
        for (marks, (by_key, by_id)) in marks.iter().zip(&mut found) {
            let Some(marks) = marks else { continue };
            if marks.knows_key(&row) {
                by_key.push(number);
            } else if by_key.is_empty() && marks.knows_id(&row) {
                by_id.push(number);
            }
        }
    }
    Ok(found.into_iter().map(|(by_key, by_id)| if by_key.is_empty() { by_id } else { by_key }).collect())
}

impl Step {
    fn of(graph: &Graph, id: NodeId, artifact: &Artifact, row: Row) -> Result<Self, Failure> {
        let mut logged = None;
        for field in ["judge_record_key", "record_key"] {
            let key = row.get(field).and_then(Value::as_str).and_then(|key| key.parse().ok());
            if let Some(key) = key
                && let Some(payload) = artifact.view.find_logged(&key)?
            {
                logged = Some(
                    serde_json::from_slice(&payload).unwrap_or_else(|_| json!({ "bytes": payload.len() })),
                );
                break;
            }
        }
        let task = graph.node(id).step.kind();
        Ok(Self { node: artifact.node.clone(), port: artifact.port.clone(), task, row, logged })
    }

    fn to_json(&self) -> Value {
        json!({ "node": self.node, "port": self.port, "task": self.task, "record": self.row, "logged": self.logged })
    }
}

fn render(steps: &[Step]) -> Text {
    let mut text = Text::new();
    let mut shown: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (depth, step) in steps.iter().enumerate() {
        let times = shown.entry((&step.node, &step.port)).or_insert(0);
        *times += 1;
        if *times > SHOWN {
            continue;
        }
        let arrow = if depth == 0 { "" } else { "  ← " };
        text =
            text.plain(arrow).bold(format!("{}.{}", step.node, step.port)).faint(format!("  {}", step.task));
        if let Some(Value::String(id)) = step.row.get("id") {
            text = text.plain(format!("  {id}"));
        }
        if let Some(repeat) = step.row.get("repeat").filter(|repeat| !repeat.is_null()) {
            text = text.plain(format!(" #{}", cell(Some(repeat))));
        }
        text = text.line();
        text = fields(text, &step.row);
        if let Some(logged) = &step.logged {
            text = text.faint("      as it was recorded: ").plain(clip(&cell(Some(logged)), LONGEST)).line();
        }
    }
    for ((node, port), times) in shown {
        if times > SHOWN {
            text = text.faint(format!("  … and {} more of {node}.{port}", times - SHOWN)).line();
        }
    }
    text
}

fn fields(mut text: Text, row: &Map<String, Value>) -> Text {
    let last = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
    let present = |value: &Value| !value.is_null();
    let verdicts: Vec<String> = row
        .iter()
        .filter(|(name, value)| VERDICTS.contains(&last(name).as_str()) && present(value))
        .map(|(name, value)| format!("{name}={}", clip(&cell(Some(value)), 80)))
        .collect();
    if !verdicts.is_empty() {
        text = text.plain("      ").accent(verdicts.join("  ")).line();
    }
    for (name, value) in
        row.iter().filter(|(name, value)| WORDS.contains(&last(name).as_str()) && present(value))
    {
        text = text.faint(format!("      {name}: ")).plain(clip(&cell(Some(value)), LONGEST)).line();
    }
    text
}
