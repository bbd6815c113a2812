//! All that a number or an artifact was made from: for every node upstream, which of its rows, and what is known of it.
//!
//! What is needed of an artifact flows from the nodes that read it. Rows need the rows whose keys they carry; a model needs
//! all the packs that its steps took and all of its base; what holds no keys needs the whole of what it was made from.

use std::collections::{BTreeMap, BTreeSet};

use dag_engine::artifact::ArtifactType;
use dag_engine::graph::NodeId;
use dag_engine::plan::Plan;
use dag_tasks::table::TableReader;
use serde::Serialize;
use serde_json::{Map, Value};

use super::facts;
use super::keys::{self, Keys};
use super::visits::Training;
use crate::artifact::Artifact;
use crate::context::Context;
use crate::experiment::Compiled;
use crate::failure::{Failure, Outcome};
use crate::text::Text;
use crate::words::grouped;

/// The port of `dataset` through which problems are kept out. No row comes from what enters it.
const EXCLUDE: &str = "exclude";

/// An artifact that something was made from.
#[derive(Serialize)]
struct Source {
    node: String,
    port: String,
    task: &'static str,
    digest: String,
    /// Which of its rows, where it is a table.
    rows: Option<Rows>,
    facts: Map<String, Value>,
}

/// Rows of a table.
#[derive(Serialize)]
struct Rows {
    count: u64,
    of: u64,
    /// Whether these are known to be the rows, by their keys. Otherwise any of the table may have been used.
    exact: bool,
    /// What they are called; in the order of the table.
    ids: Vec<String>,
}

/// What is needed of an artifact.
#[derive(Default)]
struct Need {
    whole: bool,
    rows: BTreeSet<u64>,
    keys: BTreeSet<String>,
    ids: BTreeSet<String>,
    /// Whether it is no fault if no row is meant.
    may_be_none: bool,
}

/// What the chosen rows of a table say of those they were made from.
#[derive(Default)]
struct Learned {
    keys: BTreeSet<String>,
    ids: BTreeSet<String>,
}

/// Tells all that `id` was made from.
pub fn run(id: NodeId, compiled: &Compiled, plan: &Plan, context: &Context) -> Outcome {
    let sources = sources(id, compiled, plan, context)?;
    if context.json {
        return context.printer.json(&sources);
    }
    let mut text = Text::new();
    for (depth, source) in sources.iter().enumerate() {
        if depth > 0 {
            text = text.plain("  ← ");
        }
        text = text.bold(format!("{}.{}", source.node, source.port)).faint(format!("  {}", source.task));
        if let Some(rows) = &source.rows {
            let maybe = if rows.exact { "" } else { "any of " };
            let counts = format!("  {maybe}{} of {} rows", grouped(rows.count), grouped(rows.of));
            text = text.plain(counts);
        }
        text = text.line();
        let facts = facts::line(&source.facts);
        if !facts.is_empty() {
            text = text.plain("      ").accent(facts).line();
        }
    }
    context.printer.data(&text)
}

/// The artifacts behind those of `id`, which come first, from the nearest to the farthest.
fn sources(id: NodeId, compiled: &Compiled, plan: &Plan, context: &Context) -> Result<Vec<Source>, Failure> {
    let graph = &compiled.graph;
    let mut needs: BTreeMap<(NodeId, &str), Need> = BTreeMap::new();
    for port in graph.node(id).step.ports().outputs() {
        needs.insert((id, &port.name), Need { whole: true, ..Need::default() });
    }
    let mut found = Vec::new();
    for node_id in graph.closure(&[id]).into_iter().rev() {
        let node = graph.node(node_id);
        for artifact in compiled.artifacts_of(node_id, plan, context)?.into_iter().flatten() {
            let Some(need) = needs.get(&(node_id, artifact.port.as_str())) else { continue };
            let table = if artifact.is_present() { artifact.table()? } else { None };
            let chosen = table.as_ref().map(|table| choose(table, need)).transpose()?;
            if let Some((rows, _)) = &chosen
                && rows.count == 0
                && need.may_be_none
            {
                continue;
            }
            let (rows, learned) = chosen.map_or((None, None), |(rows, learned)| (Some(rows), learned));
            let visited = packs_taken(node_id, &artifact, compiled, plan, context)?;
            for input in &node.inputs {
                let need = needs.entry((input.source, &input.output)).or_default();
                need.may_be_none |= &*input.port == EXCLUDE;
                let outputs = graph.node(input.source).step.ports().outputs();
                let gives = outputs.iter().find(|port| port.name == *input.output).map(|port| port.gives);
                match (&learned, &visited, gives) {
                    (_, Some(packs), Some(ArtifactType::Packs)) => need.rows.extend(packs.iter().copied()),
                    (Some(learned), _, Some(ArtifactType::Table | ArtifactType::Packs)) => {
                        need.keys.extend(learned.keys.iter().cloned());
                        need.ids.extend(learned.ids.iter().cloned());
                    }
                    _ => need.whole = true,
                }
            }
            found.push(Source {
                node: artifact.node.clone(),
                port: artifact.port.clone(),
                task: node.step.kind(),
                digest: artifact.output.digest.to_string(),
                rows,
                facts: facts::facts(&artifact)?,
            });
        }
    }
    Ok(found)
}

/// The packs that the training of a model took; `None` for what is no trained model.
fn packs_taken(
    id: NodeId,
    model: &Artifact,
    compiled: &Compiled,
    plan: &Plan,
    context: &Context,
) -> Result<Option<Vec<u64>>, Failure> {
    let node = compiled.graph.node(id);
    let Some(input) = node.inputs.iter().find(|input| &*input.port == "packs") else { return Ok(None) };
    let Some(training) = Training::of(node, model)? else { return Ok(None) };
    let packs = compiled.artifacts_of(input.source, plan, context)?.into_iter().flatten().next();
    let count = packs.and_then(|packs| packs.metrics.get("packs").and_then(Value::as_u64));
    Ok(count.map(|count| training.packs_taken(count as usize)))
}

/// The rows that are meant: all, those with a number, by their key, and if no row has such a key by their id. Says what they
/// were made from, unless no row has a key.
fn choose(table: &TableReader, need: &Need) -> Result<(Rows, Option<Learned>), Failure> {
    let columns = keys::columns(table);
    let of = table.len();
    if columns.is_empty() {
        return Ok((Rows { count: of, of, exact: need.whole, ids: Vec::new() }, None));
    }
    let (mut by_key, mut by_id) = (Vec::new(), Vec::new());
    for (row, number) in table.rows_of(&columns)?.zip(0..) {
        let keys = Keys::of(&row?);
        if need.whole || need.rows.contains(&number) || keys.own.iter().any(|key| need.keys.contains(key)) {
            by_key.push(keys);
        } else if by_key.is_empty() && keys.ids.iter().any(|id| need.ids.contains(id)) {
            by_id.push(keys);
        }
    }
    let chosen = if by_key.is_empty() { by_id } else { by_key };
    if chosen.is_empty() && !need.may_be_none {
        // Rows were made from this table, and none of their keys is in it: whichever they were, they are among all.
        return Ok((Rows { count: of, of, exact: false, ids: Vec::new() }, None));
    }
    let ids = chosen.iter().filter_map(|keys| keys.id().map(str::to_owned)).collect();
    let rows = Rows { count: chosen.len() as u64, of, exact: true, ids };
    let mut learned = Learned::default();
    for keys in chosen {
        learned.keys.extend(keys.own.into_iter().chain(keys.made_from));
        learned.ids.extend(keys.ids);
    }
    Ok((rows, Some(learned)))
}
