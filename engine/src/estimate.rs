//! Estimates of what a node will take, before it runs.
//!
//! How many records and tokens: the task says so from its params and the metrics of its inputs, or else the last run of
//! the node of that name. How long that takes: the pace of earlier runs of the same node, or else of the same kind.
//! What cannot be known is unknown, and shown as such.

use std::collections::BTreeMap;

use dag_cache::{Digest, Layout};
use serde_json::Value;

use crate::event::{End, Event, NodeEstimate};
use crate::glob;
use crate::graph::{Graph, NodeId};
use crate::journal;
use crate::plan::Planner;
use crate::task::{EstimateInput, EstimateInputs, FileKind};

/// How many of the latest journals are read.
const JOURNALS: usize = 16;

/// What one node, or all nodes of one kind, took in earlier runs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Experience {
    runs: u64,
    seconds: f64,
    /// Records made; those taken from the store took no time.
    records: u64,
    input_tokens: u64,
    output_tokens: u64,
}

impl Experience {
    fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.seconds += other.seconds;
        self.records += other.records;
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
    }

    /// Seconds for so much work at this pace: by tokens where they are counted, else by records, else per run.
    fn seconds_for(&self, estimate: &NodeEstimate) -> Option<f64> {
        let paced = |work: Option<u64>, done: u64| {
            Some(work? as f64 * self.seconds / (done > 0).then_some(done as f64)?)
        };
        match self.runs {
            0 => None,
            _ if self.output_tokens > 0 && estimate.output_tokens.is_some() => {
                paced(estimate.output_tokens, self.output_tokens)
            }
            _ if self.records > 0 => paced(estimate.calls.or(estimate.records), self.records),
            runs => Some(self.seconds / runs as f64),
        }
    }
}

/// What earlier runs took, read from the latest journals.
///
/// Of one profile each: a laptop's pace says nothing about a cluster's, nor that of a tiny model about a large one's.
#[derive(Debug, Default)]
pub struct History {
    nodes: BTreeMap<(Profile, String), Experience>,
    kinds: BTreeMap<(Profile, String), Experience>,
}

/// The name of a profile, if a run had one.
type Profile = Option<String>;

impl History {
    /// Reads the latest journals of the store.
    pub fn load(layout: &Layout) -> Self {
        let mut history = Self::default();
        for run in journal::list(layout).into_iter().rev().take(JOURNALS) {
            let mut profile = None;
            for stamped in journal::read(&layout.journal(&run)).unwrap_or_default() {
                if let Event::RunStarted { profile: of_run, .. } = &stamped.event {
                    profile.clone_from(of_run);
                }
                history.learn(&profile, &stamped.event);
            }
        }
        history
    }

    fn learn(&mut self, profile: &Profile, event: &Event) {
        if let Event::NodeFinished { node, kind, end: End::Ran, counts, seconds, .. } = event {
            let experience = Experience {
                runs: 1,
                seconds: *seconds,
                records: counts.done,
                input_tokens: counts.input_tokens,
                output_tokens: counts.output_tokens,
            };
            self.nodes.entry((profile.clone(), node.clone())).or_default().add(&experience);
            self.kinds.entry((profile.clone(), kind.clone())).or_default().add(&experience);
        }
    }

    /// What `id` will take, with the metrics of what is settled by now.
    pub fn estimate(
        &self,
        graph: &Graph,
        planner: &Planner<'_>,
        id: NodeId,
        metrics: &mut Metrics,
        survey: Survey,
    ) -> NodeEstimate {
        let node = graph.node(id);
        let view = planner.view();
        let mut inputs = EstimateInputs {
            seed: node.seed.unwrap_or_default(),
            run: node.run.task.clone(),
            gpus: node.resources().gpus,
            view: (survey == Survey::Records).then(|| view.clone()),
            ..EstimateInputs::default()
        };
        for input in &node.inputs {
            let settled = planner.settled(input.source);
            let output = planner.artifact(input);
            let output = output.filter(|output| survey == Survey::Records && view.has_output(output));
            let known = EstimateInput {
                artifact: output.map(|output| (view.blob_path(&output.digest), output.digest)),
                metrics: settled.and_then(|settled| metrics.of(planner, &settled.action.0)),
                at_most: metrics.records.get(&input.source).copied(),
            };
            inputs.inputs.entry(input.port.to_string()).or_default().push(known);
        }
        let files = node.files.iter().filter(|file| survey == Survey::Records && file.kind != FileKind::Tree);
        for file in files {
            let found = match file.kind {
                FileKind::Glob => glob::find(&file.path).unwrap_or_default(),
                _ => vec![file.path.clone()],
            };
            inputs.files.insert(file.pointer.clone(), found);
        }
        let told = node.step.estimate(&inputs);
        if let Some(records) = told.records {
            metrics.records.insert(id, records);
        }
        let mut estimate = NodeEstimate {
            records: told.records,
            calls: told.calls,
            at_most: told.at_most,
            input_tokens: told.input_tokens,
            output_tokens: told.output_tokens,
            usd: told.usd.map(|(usd, _)| usd),
            usd_spread: told.usd.map(|(_, spread)| spread),
            seconds: None,
        };
        let of = |name: &str| (graph.profile.clone(), name.to_owned());
        let own = self.nodes.get(&of(&node.name)).copied();
        if let (true, Some(own)) = (estimate.is_unknown(), own) {
            let per_run = |count: u64| (count > 0).then(|| count / own.runs.max(1));
            estimate.records = per_run(own.records);
            estimate.input_tokens = per_run(own.input_tokens);
            estimate.output_tokens = per_run(own.output_tokens);
        }
        let pace = own.or_else(|| self.kinds.get(&of(node.step.kind())).copied());
        estimate.seconds = pace.and_then(|pace| pace.seconds_for(&estimate));
        estimate
    }
}

/// Of so many records it is looked up whether they are stored, before a service begins for them: some tenths of a second.
const MOST_SURVEYED: u64 = 20_000;

/// Whether a node will ask nobody for anything, as far as can be seen soon enough.
pub fn owes_nothing(graph: &Graph, planner: &Planner<'_>, id: NodeId) -> bool {
    let estimate = |survey| History::default().estimate(graph, planner, id, &mut Metrics::default(), survey);
    let records = estimate(Survey::Metrics).records;
    records.is_some_and(|records| records <= MOST_SURVEYED) && estimate(Survey::Records).calls == Some(0)
}

/// How closely an estimate looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survey {
    /// At metrics alone: quick, for a run that is about to begin anyway.
    Metrics,
    /// At the inputs and the stored records too, so that it knows what is owed.
    Records,
}

/// The metrics of records, each read once, and what was estimated of nodes that have none yet.
#[derive(Debug, Default)]
pub struct Metrics {
    known: BTreeMap<Digest, Option<BTreeMap<String, Value>>>,
    /// The most records that a node can give.
    records: BTreeMap<NodeId, u64>,
}

impl Metrics {
    fn of(&mut self, planner: &Planner<'_>, action: &Digest) -> Option<BTreeMap<String, Value>> {
        let read = || planner.view().record(action).ok().flatten().map(|record| record.metrics);
        self.known.entry(*action).or_insert_with(read).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn experience(runs: u64, seconds: f64, records: u64, output_tokens: u64) -> Experience {
        Experience { runs, seconds, records, output_tokens, input_tokens: 0 }
    }

    #[test]
    fn the_pace_is_that_of_tokens_then_records_then_runs() {
        let work = NodeEstimate { records: Some(10), output_tokens: Some(500), ..NodeEstimate::default() };
        assert_eq!(experience(1, 8.0, 4, 1000).seconds_for(&work), Some(4.0));
        assert_eq!(experience(1, 8.0, 4, 0).seconds_for(&work), Some(20.0));
        assert_eq!(experience(2, 8.0, 0, 0).seconds_for(&work), Some(4.0));
        assert_eq!(experience(0, 0.0, 0, 0).seconds_for(&work), None);
        assert_eq!(experience(1, 8.0, 4, 0).seconds_for(&NodeEstimate::default()), None);
    }
}
