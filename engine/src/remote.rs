//! Data that lies elsewhere: what it is, for keys, and who finds that out.
//!
//! The engine speaks no protocol. A task names an address ([`FileKind::Remote`](crate::task::FileKind::Remote)), the
//! command line hands in a [`Resolver`], and what that answers enters the key where the content of a local file would.

use std::fmt;

use dag_cache::Digest;

use crate::task::Missing;

/// What stands in a key for the content of one file, tree or address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The digest of bytes.
    Digest(Digest),
    /// A text that means the same bytes for ever, such as `hf://datasets/openai/gsm8k@` with a commit.
    Identity(String),
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(digest) => digest.fmt(f),
            Self::Identity(text) => f.write_str(text),
        }
    }
}

/// An address that cannot come to mean other bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// What the task is told to read.
    pub address: String,
    /// What enters the key.
    pub content: Content,
    /// What the user should know of how it was found.
    pub warning: Option<String>,
}

/// Finds out what an address means now.
pub trait Resolver: Send + Sync {
    /// Pins `address` down. It is asked once per address and process, so that a plan and its run mean the same.
    fn resolve(&self, address: &str) -> Result<Pinned, Missing>;
}

/// Knows no address.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, address: &str) -> Result<Pinned, Missing> {
        Err(Missing {
            what: format!("`{address}` is not on this machine, and nothing here can ask for it"),
            help: "fetch it and give the path of the file".to_owned(),
        })
    }
}
