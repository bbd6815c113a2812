//! `Event`: every observable fact of a run, in one vocabulary for the journal, the console and `--json`.
//!
//! Events carry telemetry (times, counts, reuse); none of it enters an artifact. Counts in [`Event::NodeProgress`] and
//! [`Event::NodeFinished`] are totals of the node so far, so that a lost line loses no count.

use std::collections::BTreeMap;

use dag_cache::{Digest, RemoteReport};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::key::ActionKey;
use crate::plan::Reason;

/// What a node will take. `None` is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeEstimate {
    /// Records (responses, verdicts, examples).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
    /// Calls of a model: those of the records that are not stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls: Option<u64>,
    /// Whether `calls` is only the most there can be, because not everything that decides it is settled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_most: bool,
    /// Tokens read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// Tokens written, or trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// Dollars that the calls cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd: Option<f64>,
    /// By how many dollars that may be off, either way, with 95 % confidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd_spread: Option<f64>,
    /// Seconds of its task alone, if no record of it is there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

impl NodeEstimate {
    /// Whether nothing is known.
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// A fact of a run, and when the run loop learned of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stamped {
    /// Milliseconds since 1970, by the clock the run was given.
    pub at: u64,
    /// The fact.
    #[serde(flatten)]
    pub event: Event,
}

/// A fact of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first event: what is run.
    RunStarted {
        /// The id of the run, which names its folder in the store.
        run: String,
        /// The experiment.
        experiment: String,
        /// The chosen profile.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        profile: Option<String>,
        /// The experiment file as the user named it.
        file: String,
        /// How many nodes the run is about: the targets and all they need.
        nodes: u64,
        /// How many of them are reused as they are. They get no event of their own.
        hits: u64,
    },
    /// A node that is not simply reused; before anything runs, and again if that changes.
    NodePlanned {
        /// The node.
        node: String,
        /// What it does.
        kind: String,
        /// Whether it counted as reused until now.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        was_hit: bool,
        /// Why it runs; empty while an input is not known yet.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        reasons: Vec<Reason>,
        /// What it will take, as far as known.
        #[serde(default, skip_serializing_if = "NodeEstimate::is_unknown")]
        estimate: NodeEstimate,
    },
    /// A node could run, but another process is computing the same action; the run does other work meanwhile.
    NodeWaiting {
        /// The node.
        node: String,
        /// What the other process says of itself.
        holder: String,
    },
    /// A node's task was started.
    NodeStarted {
        /// The node.
        node: String,
        /// What it does.
        kind: String,
        /// What is computed.
        action: ActionKey,
        /// Why; what was not known when it was planned is known now.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        reasons: Vec<Reason>,
        /// The GPUs that are its own.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        gpus: Vec<u32>,
    },
    /// An attempt failed in a way that may pass, and another one follows.
    NodeRetried {
        /// The node.
        node: String,
        /// Which attempt failed, from one.
        attempt: u32,
        /// How.
        error: String,
        /// Seconds until the next one.
        wait: f64,
    },
    /// What a running node has told since its last event.
    NodeProgress {
        /// The node.
        node: String,
        /// Totals so far.
        #[serde(flatten)]
        counts: Counts,
        /// What it is doing, if it said something new.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        /// New points of curves.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        points: Vec<Point>,
        /// New warnings.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
    },
    /// A node has reached its end in this run.
    NodeFinished {
        /// The node.
        node: String,
        /// What it does.
        kind: String,
        /// How it ended.
        end: End,
        /// What was computed or reused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        action: Option<ActionKey>,
        /// Output port → digest of the artifact.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        outputs: BTreeMap<String, Digest>,
        /// What the task measured, from the record.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        metrics: BTreeMap<String, Value>,
        /// Totals.
        #[serde(flatten)]
        counts: Counts,
        /// Records that failed and that the next run owes.
        #[serde(default, skip_serializing_if = "is_zero")]
        owed: u64,
        /// Seconds its task ran, all attempts together.
        #[serde(default)]
        seconds: f64,
        /// What went wrong.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// Something the user should know that is not about one node.
    Warning {
        /// In words.
        text: String,
    },
    /// What went between the store and the shared cache, and what was wrong with it.
    Shared(RemoteReport),
    /// The last event.
    RunFinished {
        /// How the run ended.
        result: RunResult,
        /// How many nodes ended how.
        ends: Ends,
        /// Seconds the run took.
        seconds: f64,
    },
}

/// How a node ended in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// Its record was there already.
    Hit,
    /// It was computed and committed.
    Ran,
    /// Its task, or keeping what it made, failed.
    Failed,
    /// Something it needs failed or was skipped.
    Skipped,
    /// The run was stopped before it ended.
    Cancelled,
}

/// How many nodes ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// Reused.
    pub hit: u64,
    /// Computed.
    pub ran: u64,
    /// Failed.
    pub failed: u64,
    /// Skipped, because of a failure above.
    pub skipped: u64,
    /// Not run, because the run was stopped.
    pub cancelled: u64,
}

impl Ends {
    /// Counts one more.
    pub fn add(&mut self, end: End) {
        *self.of_mut(end) += 1;
    }

    /// Takes one back: a node that was reused has to be made again.
    pub fn remove(&mut self, end: End) {
        *self.of_mut(end) -= 1;
    }

    fn of_mut(&mut self, end: End) -> &mut u64 {
        match end {
            End::Hit => &mut self.hit,
            End::Ran => &mut self.ran,
            End::Failed => &mut self.failed,
            End::Skipped => &mut self.skipped,
            End::Cancelled => &mut self.cancelled,
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunResult {
    /// Every node is a hit or ran.
    Done,
    /// At least one node failed.
    Failed,
    /// It was asked to stop.
    Cancelled,
    /// It went as far as it was allowed: its budget is used up, or it was a pilot.
    Paused,
}

/// Totals of what a node has told of its records and tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// How many records there will be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Records made.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub done: u64,
    /// Records taken from the store instead of made.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reused: u64,
    /// Records that failed, by the kind of failure.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<String, u64>,
    /// Tokens read.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub input_tokens: u64,
    /// Tokens written, or trained on.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub output_tokens: u64,
    /// Millionths of a dollar that the records cost.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub spent: u64,
    /// The sum of the squares of what each of them cost, from which the spread of the rest follows.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub spent_squares: u64,
    /// Millionths of a dollar that the reused records would have cost.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub saved: u64,
}

impl Counts {
    /// Adds those of another part of the same node.
    pub fn add(&mut self, other: &Self) {
        self.total = match (self.total, other.total) {
            (Some(one), Some(two)) => Some(one + two),
            (one, two) => one.or(two),
        };
        self.done += other.done;
        self.reused += other.reused;
        for (kind, count) in &other.failures {
            *self.failures.entry(kind.clone()).or_default() += count;
        }
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.spent += other.spent;
        self.spent_squares = self.spent_squares.saturating_add(other.spent_squares);
        self.saved += other.saved;
    }

    /// Records that failed, of any kind.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Records that are over with, one way or another.
    pub fn over(&self) -> u64 {
        self.done + self.reused + self.failed()
    }
}

/// A point of a curve, such as the training loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The curve.
    pub series: String,
    /// Where; a number that JSON cannot hold reads back as absent.
    pub x: Option<f64>,
    /// How high.
    pub y: Option<f64>,
}

/// What is new about a task since it was last asked. Telemetry: it goes to the journal and the console.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct News {
    /// Totals, not only of what is new.
    #[serde(flatten)]
    pub counts: Counts,
    /// What it is doing, if it said something new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// New points of curves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<Point>,
    /// New warnings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Reads the events of a run as they happen.
pub trait Reporter {
    /// One more event, in order.
    fn report(&mut self, event: &Stamped);

    /// Some time has passed without an event, for what moves on a screen. Called a few times a second.
    fn tick(&mut self) {}
}

/// Reports to several readers, in order.
impl<R: Reporter + ?Sized> Reporter for Vec<&mut R> {
    fn report(&mut self, event: &Stamped) {
        for reader in self {
            reader.report(event);
        }
    }

    fn tick(&mut self) {
        for reader in self {
            reader.tick();
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
