//! `NodeKey` and `ActionKey`: the two digests of a node.

use std::fmt;

use dag_cache::Digest;
use serde::{Deserialize, Serialize};

/// Digest of a node's recipe: its manifest with the node keys of its inputs in place of their artifacts.
///
/// Known before anything runs; two graphs are compared by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeKey(pub Digest);

/// Digest of a node's [`Manifest`](crate::manifest::Manifest), with the digests of the artifacts that enter it.
///
/// Decides reuse. An upstream node that runs again to equal bytes leaves it as it was (early cutoff).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ActionKey(pub Digest);

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ActionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
