//! `Failure`: why a command did not succeed, in words, with the next step; and the documented exit codes.

use dag_engine::CacheError;
use serde_json::{Value, json};

use crate::text::Text;

/// What kind of failure it is; each has its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A node failed, or the machine refused something.
    Failed,
    /// The file or the command line is wrong, or something that a node needs is missing. Nothing was run.
    User,
    /// A mistake in this program.
    Internal,
    /// The user asked to stop.
    Interrupted,
}

impl Kind {
    /// The exit code of the process.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::User => 2,
            Self::Internal => 4,
            Self::Interrupted => 130,
        }
    }
}

/// Why a command did not succeed.
#[derive(Debug)]
pub struct Failure {
    /// What kind it is.
    pub kind: Kind,
    /// What went wrong: complete sentences of their own are not needed, it stands after `error: `. Empty where
    /// everything has been said already.
    pub error: String,
    /// What to say before the error, such as the faults of a file with their source lines.
    pub details: Text,
    /// Next steps.
    pub hints: Vec<String>,
    /// The faults of a file, for `--json`; null where there are none.
    pub faults: Value,
}

/// The result of a command.
pub type Outcome = Result<(), Failure>;

impl Failure {
    /// A failure of `kind`.
    pub fn new(kind: Kind, error: impl Into<String>) -> Self {
        Self { kind, error: error.into(), details: Text::new(), hints: Vec::new(), faults: Value::Null }
    }

    /// The user can put it right.
    pub fn user(error: impl Into<String>) -> Self {
        Self::new(Kind::User, error)
    }

    /// A node or the machine failed.
    pub fn failed(error: impl Into<String>) -> Self {
        Self::new(Kind::Failed, error)
    }

    /// Adds a next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Puts `details` before the error.
    #[must_use]
    pub fn details(mut self, details: Text) -> Self {
        self.details = details;
        self
    }

    /// As a program reads it.
    pub fn to_json(&self) -> Value {
        json!({ "error": self.error, "hints": self.hints, "faults": self.faults, "exit_code": self.kind.exit_code() })
    }

    /// As it is shown.
    pub fn render(&self) -> Text {
        let mut text = self.details.clone();
        if !self.error.is_empty() {
            text = text.bad("error: ").plain(&self.error).line();
        }
        for hint in &self.hints {
            text = text.accent("hint: ").plain(hint).line();
        }
        text
    }
}

impl From<CacheError> for Failure {
    fn from(error: CacheError) -> Self {
        let failure = Self::failed(error.to_string());
        match error {
            CacheError::CorruptBlob { .. } => failure.hint("run again: a damaged artifact is made anew"),
            CacheError::MissingBlob { .. } => failure.hint("run the node again: its artifact was collected"),
            CacheError::Version { .. } => Self::user(failure.error)
                .hint("use the version of dag that made the store, or another `--store`"),
            _ => failure,
        }
    }
}
