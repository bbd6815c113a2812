//! `RunState`: what a run looks like by now, as a fold of its events.
//!
//! The live console and `dag status` use this one fold, so that a replayed journal shows what was seen live (E1).

use std::collections::BTreeMap;

use dag_cache::{Digest, RemoteReport};
use indexmap::IndexMap;
use serde::Serialize;
use serde_json::Value;

use crate::event::{Counts, End, Ends, Event, NodeEstimate, Point, RunResult, Stamped};
use crate::key::ActionKey;
use crate::plan::Reason;

/// A run by now.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RunState {
    /// Its id.
    pub run: String,
    /// The experiment.
    pub experiment: String,
    /// The chosen profile.
    pub profile: Option<String>,
    /// The experiment file as the user named it.
    pub file: String,
    /// When it began, in milliseconds since 1970.
    pub began: u64,
    /// When its latest event was.
    pub latest: u64,
    /// How many nodes it is about.
    pub total: u64,
    /// How many nodes ended how by now; those reused from the start are counted here and are not in `nodes`.
    pub ends: Ends,
    /// The other nodes, in the order they were planned.
    pub nodes: IndexMap<String, NodeState>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// What went between the store and the shared cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<RemoteReport>,
    /// How it ended, if it has.
    pub result: Option<RunResult>,
    /// Seconds it took, if it has ended.
    pub seconds: Option<f64>,
}

/// Where a node is in its run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It waits for inputs or for a slot.
    #[default]
    Planned,
    /// Another process computes the same action.
    Waiting,
    /// Its task runs.
    Running,
    /// It has ended.
    Ended(End),
}

/// A node by now.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct NodeState {
    /// What it does.
    pub kind: String,
    /// Where it is.
    pub phase: Phase,
    /// Why it runs; empty if that is not known yet.
    pub reasons: Vec<Reason>,
    /// What it was thought to take.
    pub estimate: NodeEstimate,
    /// What is or was computed.
    pub action: Option<ActionKey>,
    /// When its task began, in milliseconds since 1970.
    pub began: Option<u64>,
    /// When it ended.
    pub ended: Option<u64>,
    /// Seconds its task ran.
    pub seconds: f64,
    /// Its records and tokens.
    pub counts: Counts,
    /// What it is doing, or who else computes it.
    pub message: Option<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// The latest point of each curve.
    pub curves: BTreeMap<String, Point>,
    /// The GPUs that are or were its own.
    pub gpus: Vec<u32>,
    /// How many attempts failed and were followed by another.
    pub retries: u32,
    /// Output port → digest of the artifact.
    pub outputs: BTreeMap<String, Digest>,
    /// What its task measured.
    pub metrics: BTreeMap<String, Value>,
    /// Records that failed and that the next run owes.
    pub owed: u64,
    /// What went wrong, at last or in the latest attempt.
    pub error: Option<String>,
}

impl RunState {
    /// The state after `events`.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Stamped>) -> Self {
        let mut state = Self::default();
        events.into_iter().for_each(|event| state.apply(event));
        state
    }

    /// How many nodes are in this phase.
    pub fn count(&self, phase: Phase) -> usize {
        self.nodes.values().filter(|node| node.phase == phase).count()
    }

    /// Takes note of one more event.
    pub fn apply(&mut self, stamped: &Stamped) {
        self.latest = stamped.at;
        match &stamped.event {
            Event::RunStarted { run, experiment, profile, file, nodes, hits } => {
                *self = Self {
                    run: run.clone(),
                    experiment: experiment.clone(),
                    profile: profile.clone(),
                    file: file.clone(),
                    began: stamped.at,
                    latest: stamped.at,
                    total: *nodes,
                    ends: Ends { hit: *hits, ..Ends::default() },
                    ..Self::default()
                };
            }
            Event::NodePlanned { node, kind, was_hit, reasons, estimate } => {
                if *was_hit {
                    self.ends.remove(End::Hit);
                }
                let planned = NodeState {
                    kind: kind.clone(),
                    reasons: reasons.clone(),
                    estimate: *estimate,
                    ..NodeState::default()
                };
                self.nodes.insert(node.clone(), planned);
            }
            Event::NodeWaiting { node, holder } => {
                let node = self.node(node);
                node.phase = Phase::Waiting;
                node.message = Some(holder.clone());
            }
            Event::NodeStarted { node, kind, action, reasons, gpus } => {
                let node = self.node(node);
                node.phase = Phase::Running;
                node.kind.clone_from(kind);
                node.action = Some(*action);
                node.reasons.clone_from(reasons);
                node.gpus.clone_from(gpus);
                node.began = Some(stamped.at);
                node.message = None;
            }
            Event::NodeRetried { node, error, .. } => {
                let node = self.node(node);
                node.retries += 1;
                node.error = Some(error.clone());
            }
            Event::NodeProgress { node, counts, message, points, warnings } => {
                let node = self.node(node);
                node.counts = counts.clone();
                if message.is_some() {
                    node.message.clone_from(message);
                }
                node.warnings.extend_from_slice(warnings);
                for point in points {
                    node.curves.insert(point.series.clone(), point.clone());
                }
            }
            Event::NodeFinished {
                node,
                kind,
                end,
                action,
                outputs,
                metrics,
                counts,
                owed,
                seconds,
                error,
            } => {
                self.ends.add(*end);
                let node = self.node(node);
                node.phase = Phase::Ended(*end);
                node.kind.clone_from(kind);
                node.action = *action;
                node.outputs.clone_from(outputs);
                node.metrics.clone_from(metrics);
                node.counts = counts.clone();
                node.owed = *owed;
                node.seconds = *seconds;
                node.error.clone_from(error);
                node.ended = Some(stamped.at);
                node.message = None;
            }
            Event::Warning { text } => self.warnings.push(text.clone()),
            Event::Shared(shared) => self.shared = Some(shared.clone()),
            Event::RunFinished { result, ends, seconds } => {
                self.result = Some(*result);
                self.ends = *ends;
                self.seconds = Some(*seconds);
            }
        }
    }

    fn node(&mut self, name: &str) -> &mut NodeState {
        if !self.nodes.contains_key(name) {
            self.nodes.insert(name.to_owned(), NodeState::default());
        }
        &mut self.nodes[name]
    }
}
