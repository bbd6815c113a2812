//! `Queue`: the contract of a scheduler, as little of it as `drive` needs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::folder::{Generation, Part, Submission};

/// A scheduler of jobs.
pub(crate) trait Queue {
    /// Hands a job over; gives the scheduler's own id of it.
    fn submit(&self, generation: &Generation, submission: &Submission) -> Result<String, Refused>;

    /// The id of the job with this name, where the scheduler knows one.
    fn find(&self, name: &str) -> Result<Option<String>, Trouble>;

    /// Where the tasks of these jobs stand, by job and part. One that is not listed is not known (any more).
    fn standings(&self, jobs: &[Handle]) -> Result<Standings, Trouble>;

    /// Takes jobs back.
    fn cancel(&self, jobs: &[Handle]) -> Result<(), Trouble>;

    /// Nobody waits for these jobs any more.
    fn forget(&self, jobs: &[Handle]);

    /// Where what a task of a job prints is.
    fn log(&self, generation: &Generation, job: &Handle, part: Part) -> PathBuf;

    /// In one word, for messages.
    fn name(&self) -> &'static str;
}

/// A job that was handed over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Handle {
    /// Our name for it, which nothing else bears.
    pub(crate) name: String,
    /// The scheduler's id.
    pub(crate) id: String,
}

/// Standings by the name of the job and the part.
pub(crate) type Standings = BTreeMap<(String, Part), Standing>;

/// Where a task of a job stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It waits; why, in the scheduler's words.
    Waiting(String),
    /// It runs; where.
    Running(String),
    /// It is over.
    Over(Ending),
}

/// How a task of a job ended, in the scheduler's eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    /// Its program ended well.
    Completed,
    /// Its program ended badly, or could not be started.
    Failed,
    /// It reached its time limit.
    TimedOut,
    /// It was killed for its memory.
    OutOfMemory,
    /// Its machine was lost.
    NodeLost,
    /// It had to make room.
    Preempted,
    /// Somebody took it back.
    Cancelled,
}

impl Ending {
    /// In words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Completed => "ended",
            Self::Failed => "failed",
            Self::TimedOut => "reached its time limit",
            Self::OutOfMemory => "ran out of memory",
            Self::NodeLost => "lost its machine",
            Self::Preempted => "was preempted",
            Self::Cancelled => "was cancelled",
        }
    }
}

/// Why a job was not taken.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It never will be as it is.
    Wrong(String),
    /// The scheduler could not be spoken to; whether it has the job is not known.
    Trouble(Trouble),
}

/// The scheduler could not be spoken to; says what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble(pub(crate) String);
