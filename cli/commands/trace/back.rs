//! From records of a table back to the responses and source rows behind them.
//!
//! The tables upstream are searched from the nearest to the farthest. A record belongs to the trail if its
//! `record_key` is among the `parents` or the record keys of a record found before, or, in a table without any such,
//! if its `id` is the same. Rows that a node dropped are in another output of it, and are searched as well:
//! that is what explains why a record is *not* in a table. A model is made of all that it was trained on, so no record
//! leads through it: that is what the lineage tells.

use std::collections::{BTreeMap, BTreeSet};

use dag_engine::artifact::ArtifactType;
use dag_engine::graph::{Graph, NodeId};
use dag_engine::plan::Plan;
use dag_tasks::table::{Row, TableReader};
use serde_json::Value;

use super::keys::{self, Keys};
use super::step::{self, Step};
use crate::artifact::{Artifact, Condition};
use crate::context::Context;
use crate::experiment::Compiled;
use crate::failure::{Failure, Outcome};
use crate::text::Text;

/// Follows `seeds`, records of node `id`. Where there are none, the first `head` further up for which the condition holds.
pub fn run(
    seeds: Vec<(&Artifact, Row)>,
    id: NodeId,
    condition: &Condition,
    head: usize,
    (compiled, plan, context): (&Compiled, &Plan, &Context),
) -> Outcome {
    let name = &compiled.graph.node(id).name;
    let upstream = upstream_tables(compiled, plan, id, context)?;
    let mut trails = trails(&compiled.graph, id, seeds, &upstream)?;
    if trails.is_empty() {
        // Not in the table, so look further up: what is not there was lost on the way.
        if let Some((at, rows)) = first_upstream(condition, &upstream, head)? {
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
    let text = trails.iter().fold(Text::new(), |text, steps| text.then(step::render(steps, "←")).line());
    context.printer.data(&text)
}

/// The nodes whose rows may have gone into those of `id`: what is upstream, but not by way of a model.
fn rows_upstream(graph: &Graph, id: NodeId) -> Vec<NodeId> {
    let mut wanted = BTreeSet::new();
    let mut stack = vec![id];
    while let Some(id) = stack.pop() {
        if wanted.insert(id) {
            let rows = graph.node(id).inputs.iter().filter(|input| {
                let outputs = graph.node(input.source).step.ports().outputs();
                !outputs.iter().any(|port| port.name == *input.output && port.gives == ArtifactType::Model)
            });
            stack.extend(rows.map(|input| input.source));
        }
    }
    wanted.into_iter().collect()
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
        let Keys { own, made_from, ids } = Keys::of(row);
        self.keys.extend(own.into_iter().chain(made_from));
        self.ids.extend(ids);
    }

    fn knows_key(&self, keys: &Keys) -> bool {
        keys.own.iter().any(|key| self.keys.contains(key))
    }

    fn knows_id(&self, keys: &Keys) -> bool {
        keys.ids.iter().any(|id| self.ids.contains(id))
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
        for source in rows_upstream(graph, from) {
            self.marks.entry(source).or_default().learn(&row);
        }
        self.steps.push(Step::of(graph, from, artifact, row).with_log(artifact)?);
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

/// The numbers of the rows that each of `marks` means: by their key, and if none has such a key by their id. Only the columns
/// with these are read.
fn find(table: &TableReader, marks: &[Option<&Marks>]) -> Result<Vec<Vec<u64>>, Failure> {
    let mut found = vec![(Vec::new(), Vec::new()); marks.len()];
    for (row, number) in table.rows_of(&keys::columns(table))?.zip(0..) {
        let keys = Keys::of(&row?);
        for (marks, (by_key, by_id)) in marks.iter().zip(&mut found) {
            let Some(marks) = marks else { continue };
            if marks.knows_key(&keys) {
                by_key.push(number);
            } else if by_key.is_empty() && marks.knows_id(&keys) {
                by_id.push(number);
            }
        }
    }
    Ok(found.into_iter().map(|(by_key, by_id)| if by_key.is_empty() { by_id } else { by_key }).collect())
}
