//! A response that was not had, and what kind of failure that is.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A response that was not had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {detail}")]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// What was seen, without secrets.
    pub detail: String,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

/// The kinds of [`Failure`]. They name rows of tables and counts of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The prompt could not be put to the model.
    Prompt,
    /// No connection could be made.
    Connection,
    /// The connection broke off after the request was sent.
    Broken,
    /// No answer in time.
    Timeout,
    /// The server asks to slow down (429).
    RateLimit,
    /// The server has too much to do (503, 529).
    Overloaded,
    /// The server has a fault of its own (5xx).
    Server,
    /// The server refuses the request (4xx).
    Refused,
    /// The server sends us elsewhere, where the key must not go.
    Redirect,
    /// The body is not what the protocol says.
    Malformed,
    /// The body is larger than any response.
    TooLarge,
    /// A response without a text.
    Empty,
    /// A response of a thinking model without its thinking.
    NoThinking,
    /// The server withholds the response.
    Filtered,
    /// The batch ran out of time before the request's turn came.
    Expired,
    /// The batch was cancelled before the request's turn came.
    Cancelled,
}

impl FailureKind {
    /// Those after which the same request may well be answered.
    pub const TRANSIENT: [Self; 6] =
        [Self::Connection, Self::Broken, Self::Timeout, Self::RateLimit, Self::Overloaded, Self::Server];

    /// What helps against it, where that is not plain.
    pub fn help(self) -> Option<&'static str> {
        Some(match self {
            Self::Timeout => "`run: { request_timeout }` is how long one may take",
            Self::RateLimit => {
                "`run: { requests_per_minute, tokens_per_minute, concurrency }` ask less of it"
            }
            Self::Malformed => {
                "is this a server of OpenAI's protocol? `run: { retry_on }` tries such answers again"
            }
            Self::TooLarge => "`run: { largest_response }` is the most bytes of one",
            Self::NoThinking => "does the server run with the parser of this model's reasoning?",
            Self::Redirect => "give the address it ends at as `run: { base_url }`",
            _ => return None,
        })
    }

    /// Whether the server may have billed what ended so.
    pub fn may_be_billed(self) -> bool {
        !matches!(
            self,
            Self::Prompt
                | Self::Connection
                | Self::RateLimit
                | Self::Overloaded
                | Self::Server
                | Self::Refused
                | Self::Redirect
                | Self::Expired
                | Self::Cancelled
        )
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prompt => "prompt",
            Self::Connection => "connection",
            Self::Broken => "broken",
            Self::Timeout => "timeout",
            Self::RateLimit => "rate_limit",
            Self::Overloaded => "overloaded",
            Self::Server => "server",
            Self::Refused => "refused",
            Self::Redirect => "redirect",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Empty => "empty",
            Self::NoThinking => "no_thinking",
            Self::Filtered => "filtered",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        })
    }
}
