//! What came of records: the rows made from them, the steps that were trained on them, and the numbers these stand behind.
//!
//! Nodes are visited in the order in which they ran. A row comes of a record if it is, or was made from, a row that does; in a
//! table where no key says so, if its id is the same. A model comes of the records in the packs that its steps took, and all
//! that a model answers comes of what it was trained on.

use std::collections::{BTreeMap, BTreeSet};

use dag_engine::artifact::ArtifactType;
use dag_engine::graph::{Graph, NodeId};
use dag_engine::plan::Plan;
use dag_tasks::table::{Row, TableReader};
use serde_json::{Map, Value, json};

use super::facts;
use super::keys::{self, Keys};
use super::step::{self, Step};
use super::visits::Training;
use crate::artifact::Artifact;
use crate::context::Context;
use crate::experiment::Compiled;
use crate::failure::{Failure, Outcome};
use crate::text::Text;
use crate::words::grouped;

/// More steps of a training than this are counted and not shown.
const SHOWN: usize = 8;

/// A record, and what came of it.
struct Trail {
    rows: Vec<Step>,
    influenced: Vec<Influenced>,
}

/// An artifact that the record had a part in as a whole.
struct Influenced {
    node: String,
    task: &'static str,
    /// In what way.
    how: String,
    /// The steps of a training that took it.
    steps: Vec<u64>,
    facts: Map<String, Value>,
}

/// The records that are followed, by number.
type Records = BTreeSet<usize>;

/// Follows `seeds`, records of node `id`.
pub fn run(
    seeds: Vec<(&Artifact, Row)>,
    id: NodeId,
    (compiled, plan, context): (&Compiled, &Plan, &Context),
) -> Outcome {
    let name = &compiled.graph.node(id).name;
    let mut walk = Walk::new(&compiled.graph);
    for (artifact, row) in seeds {
        walk.begin(id, artifact, row);
    }
    if walk.trails.is_empty() {
        return Err(Failure::failed(format!("no record of `{name}` is meant"))
            .hint(format!("`dag show FILE {name}` shows what its columns hold")));
    }
    for &reader in compiled.graph.order() {
        if walk.is_reached(reader) {
            let artifacts = compiled.artifacts_of(reader, plan, context)?.unwrap_or_default();
            walk.visit(reader, &artifacts)?;
        }
    }
    if context.json {
        let listed: Vec<Value> = walk.trails.iter().map(Trail::to_json).collect();
        return context.printer.json(&listed);
    }
    context
        .printer
        .data(&walk.trails.iter().fold(Text::new(), |text, trail| text.then(trail.render()).line()))
}

/// How far all records have been followed.
struct Walk<'g> {
    graph: &'g Graph,
    trails: Vec<Trail>,
    /// Key of a row → the records it comes of.
    keys: BTreeMap<String, Records>,
    /// Id of a record → the records.
    ids: BTreeMap<String, Records>,
    /// An output → the records with rows in it.
    rows: BTreeMap<(NodeId, String), Records>,
    /// A node → the records that have a part in all that it gives.
    whole: BTreeMap<NodeId, Records>,
    /// A table of packs → where each record is: the packs.
    packs: BTreeMap<NodeId, BTreeMap<usize, Vec<u64>>>,
    /// How many packs there are in it.
    pack_counts: BTreeMap<NodeId, usize>,
}

impl<'g> Walk<'g> {
    fn new(graph: &'g Graph) -> Self {
        Self {
            graph,
            trails: Vec::new(),
            keys: BTreeMap::new(),
            ids: BTreeMap::new(),
            rows: BTreeMap::new(),
            whole: BTreeMap::new(),
            packs: BTreeMap::new(),
            pack_counts: BTreeMap::new(),
        }
    }

    fn begin(&mut self, id: NodeId, artifact: &Artifact, row: Row) {
        let record = self.trails.len();
        let keys = Keys::of(&row);
        for id in keys.ids {
            self.ids.entry(id).or_default().insert(record);
        }
        for key in keys.own {
            self.keys.entry(key).or_default().insert(record);
        }
        self.rows.entry((id, artifact.port.clone())).or_default().insert(record);
        let rows = vec![Step::of(self.graph, id, artifact, row)];
        self.trails.push(Trail { rows, influenced: Vec::new() });
    }

    /// Whether anything that enters a node comes of some record.
    fn is_reached(&self, id: NodeId) -> bool {
        self.graph.node(id).inputs.iter().any(|input| {
            self.whole.contains_key(&input.source)
                || self.rows.contains_key(&(input.source, input.output.to_string()))
        })
    }

    /// Looks for what came of the records in what a node gave.
    fn visit(&mut self, id: NodeId, artifacts: &[Artifact]) -> Result<(), Failure> {
        let node = self.graph.node(id);
        let mut candidates = Records::new();
        for input in &node.inputs {
            candidates.extend(self.rows.get(&(input.source, input.output.to_string())).into_iter().flatten());
        }
        for artifact in artifacts.iter().filter(|artifact| artifact.is_present()) {
            if let Some(table) = artifact.table()? {
                self.visit_table(id, artifact, &table, &candidates)?;
            }
        }
        let Some(artifact) = artifacts.first() else { return Ok(()) };
        let mut whole: BTreeMap<usize, (String, Vec<u64>)> = BTreeMap::new();
        for input in &node.inputs {
            let how = match artifact.gives {
                ArtifactType::Model => "starts from it",
                ArtifactType::Report => "shows it",
                _ => "answers by a model trained on it",
            };
            for record in self.whole.get(&input.source).into_iter().flatten() {
                whole.entry(*record).or_insert_with(|| (how.to_owned(), Vec::new()));
            }
        }
        if artifact.gives == ArtifactType::Report {
            for &record in &candidates {
                whole.entry(record).or_insert_with(|| ("shows it".to_owned(), Vec::new()));
            }
        }
        for (record, steps) in self.training(id, artifact)? {
            whole.insert(record, (taken(&steps), steps));
        }
        if whole.is_empty() {
            return Ok(());
        }
        let facts = facts::facts(artifact)?;
        for (&record, (how, steps)) in &whole {
            self.trails[record].influenced.push(Influenced {
                node: artifact.node.clone(),
                task: node.step.kind(),
                how: how.clone(),
                steps: steps.clone(),
                facts: facts.clone(),
            });
        }
        self.whole.entry(id).or_default().extend(whole.into_keys());
        Ok(())
    }

    fn visit_table(
        &mut self,
        id: NodeId,
        artifact: &Artifact,
        table: &TableReader,
        candidates: &Records,
    ) -> Result<(), Failure> {
        let (mut by_key, mut by_id): (Found, Found) = (BTreeMap::new(), BTreeMap::new());
        let mut learned: Vec<(String, usize)> = Vec::new();
        for (row, number) in table.rows_of(&keys::columns(table))?.zip(0..) {
            let Keys { own, made_from, ids } = Keys::of(&row?);
            let known = own.iter().chain(&made_from).filter_map(|key| self.keys.get(key)).flatten();
            let meant: Records = known.filter(|record| candidates.contains(record)).copied().collect();
            for &record in &meant {
                by_key.entry(record).or_default().push(number);
                learned.extend(own.iter().map(|key| (key.clone(), record)));
            }
            let called = ids.iter().filter_map(|id| self.ids.get(id)).flatten();
            for &record in called.filter(|record| candidates.contains(record) && !meant.contains(record)) {
                by_id.entry(record).or_default().push(number);
            }
        }
        for (key, record) in learned {
            self.keys.entry(key).or_default().insert(record);
        }
        by_id.retain(|record, _| !by_key.contains_key(record));
        by_key.extend(by_id);
        let numbers: BTreeSet<u64> = by_key.values().flatten().copied().collect();
        let numbers: Vec<u64> = numbers.into_iter().collect();
        let mut read: BTreeMap<u64, Row> = BTreeMap::new();
        for (row, number) in table.rows_at(&numbers)?.zip(&numbers) {
            read.insert(*number, row?);
        }
        let is_packs = artifact.gives == ArtifactType::Packs;
        if is_packs {
            self.pack_counts.insert(id, table.len() as usize);
        }
        for (record, numbers) in by_key {
            for number in &numbers {
                let row = &read[number];
                let note = is_packs.then(|| self.span(row, record)).flatten();
                // A pack holds other examples too, and thousands of tokens.
                let shown =
                    if is_packs { Row::from_iter([("pack".to_owned(), json!(number))]) } else { row.clone() };
                self.trails[record].rows.push(Step::of(self.graph, id, artifact, shown).with_note(note));
            }
            self.rows.entry((id, artifact.port.clone())).or_default().insert(record);
            if is_packs {
                self.packs.entry(id).or_default().insert(record, numbers);
            }
        }
        Ok(())
    }

    /// Where in a pack a record is: its tokens.
    fn span(&self, pack: &Row, record: usize) -> Option<String> {
        let list = |name: &str| pack.get(name).and_then(Value::as_array);
        let (examples, starts, tokens) = (list("examples")?, list("starts")?, list("tokens")?);
        let place = examples.iter().position(|example| {
            let key = example.as_str().unwrap_or_default();
            self.keys.get(key).or_else(|| self.ids.get(key)).is_some_and(|of| of.contains(&record))
        })?;
        let start = starts.get(place)?.as_u64()?;
        let end = starts.get(place + 1).and_then(Value::as_u64).unwrap_or(tokens.len() as u64);
        let number = pack.get("pack").and_then(Value::as_u64)?;
        Some(format!("pack {number}, tokens {start} to {end} of {}", tokens.len()))
    }

    /// The records that a training took, each with the steps.
    fn training(&self, id: NodeId, model: &Artifact) -> Result<Vec<(usize, Vec<u64>)>, Failure> {
        let node = self.graph.node(id);
        let Some(input) = node.inputs.iter().find(|input| self.packs.contains_key(&input.source)) else {
            return Ok(Vec::new());
        };
        let Some(training) = Training::of(node, model)? else { return Ok(Vec::new()) };
        let steps = training.steps_of(self.pack_counts[&input.source]);
        let mut found = Vec::new();
        for (&record, packs) in &self.packs[&input.source] {
            let mut taken: Vec<u64> =
                packs.iter().filter_map(|pack| steps.get(*pack as usize)).flatten().copied().collect();
            taken.sort_unstable();
            if !taken.is_empty() {
                found.push((record, taken));
            }
        }
        Ok(found)
    }
}

/// Record → numbers of its rows.
type Found = BTreeMap<usize, Vec<u64>>;

fn taken(steps: &[u64]) -> String {
    let mut first: Vec<String> = steps.iter().take(SHOWN).map(|step| grouped(*step)).collect();
    if steps.len() > SHOWN {
        first.push(format!("… ({} in all)", steps.len()));
    }
    format!("trained on it at step {}", first.join(", "))
}

impl Trail {
    fn to_json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(Step::to_json).collect();
        let influenced: Vec<Value> = self.influenced.iter().map(Influenced::to_json).collect();
        json!({ "rows": rows, "influenced": influenced })
    }

    fn render(&self) -> Text {
        self.influenced.iter().fold(step::render(&self.rows, "→"), |text, one| {
            let text =
                text.plain("  → ").bold(&one.node).faint(format!("  {}  ", one.task)).plain(&one.how).line();
            text.plain("      ").accent(facts::line(&one.facts)).line()
        })
    }
}

impl Influenced {
    fn to_json(&self) -> Value {
        let Self { node, task, how, steps, facts } = self;
        json!({ "node": node, "task": task, "how": how, "steps": steps, "facts": facts })
    }
}
