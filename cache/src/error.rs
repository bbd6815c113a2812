//! What can go wrong in the store, with the path it happened at.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::Digest;

/// A failed operation on the store.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The operating system refused an operation on a path.
    #[error("failed to {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried, as a verb: `read`, `sync`.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A blob's bytes are not what its name says. It was moved to `quarantine/`, so that it is now a miss.
    #[error("blob {} is corrupt: `{}`", digest.short(), path.display())]
    CorruptBlob {
        /// The name of the blob.
        digest: Digest,
        /// Where it was found.
        path: PathBuf,
    },
    /// A blob is not in the store: never made, collected, or quarantined.
    #[error("blob {} is missing: `{}`", digest.short(), path.display())]
    MissingBlob {
        /// The name of the blob.
        digest: Digest,
        /// Where it should be.
        path: PathBuf,
    },
    /// Something that cannot be kept as an output: a socket, a link that leads outside, a name that is not UTF-8.
    #[error("`{}` cannot be stored: {what}", path.display())]
    Refused {
        /// The offending path.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// A record that contradicts itself, offered for commit.
    #[error("record {} cannot be committed: {what}", action.short())]
    BadRecord {
        /// The action it claims to be of.
        action: Digest,
        /// Why.
        what: String,
    },
    /// The store was written by another version of the layout.
    #[error("`{}` says `{found}`, which this version does not know", path.display())]
    Version {
        /// The version file.
        path: PathBuf,
        /// Its first line.
        found: String,
    },
}

impl CacheError {
    /// An [`Self::Io`] at `path`; `action` is a verb.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// Something wrong that was found and worked around: reported, never fatal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Fault {
    /// Where.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

impl Fault {
    pub(crate) fn new(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self { path: path.into(), what: what.into() }
    }
}
