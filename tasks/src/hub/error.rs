//! What can go wrong with a hub, each with its next step.

use std::io;
use std::path::PathBuf;

use dag_engine::task::Missing;

use super::address::Address;

/// Why something on a hub cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The address cannot be read.
    #[error("{0}")]
    Address(String),
    /// `HF_ENDPOINT` cannot be used.
    #[error("`HF_ENDPOINT`: {0}")]
    Endpoint(String),
    /// There is no folder for files.
    #[error("there is no folder for files from a hub: neither `HF_HOME` nor `HOME` is set")]
    NoHome,
    /// The client cannot start.
    #[error("the HTTP client cannot start: {0}")]
    Client(String),
    /// Files are asked of an address that may change.
    #[error("`{0}` names no commit")]
    Unpinned(Address),
    /// No answer came.
    #[error("{what}: {endpoint} cannot be reached ({why})")]
    Unreachable {
        /// What was asked for.
        what: String,
        /// Whom.
        endpoint: String,
        /// What happened.
        why: String,
        /// Where it could lie already.
        cache: PathBuf,
    },
    /// It is not there.
    #[error("{what}: there is no such {noun} on {endpoint}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// What it is.
        noun: String,
        /// Whom.
        endpoint: String,
    },
    /// The hub wants to know who asks.
    #[error("{what}: {endpoint} answers {status}{}", if *has_token { ": the token does not open it" } else { ", and no token was given" })]
    Refused {
        /// What was asked for.
        what: String,
        /// The page of the repository.
        page: String,
        /// Whom.
        endpoint: String,
        /// The status.
        status: u16,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// Too many requests.
    #[error("{what}: {endpoint} answers 429, too many requests, after {attempts} attempts")]
    Limited {
        /// What was asked for.
        what: String,
        /// Whom.
        endpoint: String,
        /// How often it was asked.
        attempts: u32,
    },
    /// The server failed, or answered in a way that is not understood.
    #[error("{what}: {why}")]
    Strange {
        /// What was asked for.
        what: String,
        /// What happened.
        why: String,
    },
    /// The server failed in a way that may pass.
    #[error("{what}: {why}")]
    Failing {
        /// What was asked for.
        what: String,
        /// What happened.
        why: String,
    },
    /// The bytes are not those that were promised.
    #[error("{what}: the digest is {found} and should be {expected}")]
    Damaged {
        /// What was fetched.
        what: String,
        /// What was promised.
        expected: String,
        /// What came.
        found: String,
    },
    /// The disk is too small.
    #[error("{what} need {needed} on the disk of `{}`, and {free} are free", path.display())]
    NoSpace {
        /// What was to be fetched.
        what: String,
        /// How much that is.
        needed: String,
        /// How much there is.
        free: String,
        /// Where.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The run is stopping; what has come so far is kept.
    #[error("interrupted")]
    Cancelled,
}

impl HubError {
    pub(super) fn io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// Whether it may go better later, or where there is a connection.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Limited { .. } | Self::Failing { .. })
    }

    /// The reason alone, of one that is passing.
    pub(super) fn why(&self) -> String {
        match self {
            Self::Unreachable { why, .. } | Self::Failing { why, .. } => why.clone(),
            Self::Limited { .. } => "it answers 429, too many requests".to_owned(),
            other => other.to_string(),
        }
    }

    /// The same for a preflight: what is missing, and the next step.
    pub fn missing(&self) -> Missing {
        Missing { what: self.to_string(), help: self.help() }
    }

    fn help(&self) -> String {
        match self {
            Self::Address(_) => "for example `hf://openai/gsm8k`".to_owned(),
            Self::Endpoint(_) => "unset it, or name a hub as `https://…`".to_owned(),
            Self::NoHome => "set `HF_HOME` to a folder".to_owned(),
            Self::Client(_) | Self::Unpinned(_) | Self::Strange { .. } | Self::Cancelled => {
                "see whether `HF_ENDPOINT` names a hub".to_owned()
            }
            Self::Unreachable { cache, .. } => format!(
                "try again where there is a connection, name a mirror by `HF_ENDPOINT`, or fetch it with `hf download` \
                 elsewhere and bring it to `{}`",
                cache.display()
            ),
            Self::NotFound { .. } => "look at its page for the right name and revision".to_owned(),
            Self::Refused { page, has_token: false, .. } => format!(
                "it does not exist, is private, or has conditions: look at {page}, accept them, and set `HF_TOKEN` \
                 (or `hf auth login`)"
            ),
            Self::Refused { page, .. } => {
                format!("accept its conditions at {page} with the account that the token belongs to")
            }
            Self::Limited { .. } => "wait some minutes; with `HF_TOKEN` set the limits are higher".to_owned(),
            Self::Failing { .. } => "try again later; what has come so far is kept".to_owned(),
            Self::Damaged { .. } => {
                "the file at the address was changed or damaged on its way: look which of the two is right"
                    .to_owned()
            }
            Self::NoSpace { .. } => "make room, or name another disk by `HF_HOME`".to_owned(),
            Self::Io { .. } => "name a folder that can be written by `HF_HOME`".to_owned(),
        }
    }

    /// `hf://…` in words, for messages.
    pub(super) fn named(address: &Address) -> String {
        format!("the {} `{}` at `{}`", address.kind().noun(), address.repository(), address.revision())
    }
}

/// Bytes for people.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)];
    match UNITS.iter().find(|(_, size)| count >= *size) {
        Some((unit, size)) => format!("{:.1} {unit}", count as f64 / *size as f64),
        None => format!("{count} bytes"),
    }
}
