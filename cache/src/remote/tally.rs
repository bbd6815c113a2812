//! What went between a store and its shared cache, and what was wrong, for the summary of a run and its journal.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::guard::lock;

/// What can be wrong with an object, or with asking for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TroubleKind {
    /// A record or a segment has no signature, and one is asked for.
    Unsigned,
    /// Its signature is that of another key, or of something else: changed, or moved here from another name.
    WronglySigned,
    /// A record or a segment is not what its name says.
    Damaged,
    /// A record names a blob that is not there.
    MissingBlob,
    /// A blob's bytes are not what its name says.
    WrongBytes,
    /// The place could not be read.
    Unreadable,
    /// Something could not be written there.
    Unwritten,
}

impl TroubleKind {
    /// What so many objects are, after their count: `2 objects are not signed`.
    pub fn words(self, count: u64) -> String {
        let one = count == 1;
        let (are, have) = if one { ("is", "has") } else { ("are", "have") };
        match self {
            Self::Unsigned => format!("{are} not signed"),
            Self::WronglySigned => format!("{are} wrongly signed"),
            Self::Damaged => format!("{are} damaged"),
            Self::MissingBlob => format!("{} a blob that is missing", if one { "names" } else { "name" }),
            Self::WrongBytes => format!("{have} wrong bytes"),
            Self::Unreadable => "could not be read".to_owned(),
            Self::Unwritten => "could not be written".to_owned(),
        }
    }
}

/// One kind of trouble.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What was wrong.
    pub kind: TroubleKind,
    /// With how many objects.
    pub count: u64,
    /// The first of them.
    pub example: String,
}

/// What went between a store and its shared cache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteReport {
    /// The shared cache.
    pub url: String,
    /// Records taken from it.
    pub records: u64,
    /// Blobs taken.
    pub blobs: u64,
    /// Segments of responses taken.
    pub segments: u64,
    /// The size of all that was taken.
    pub bytes: u64,
    /// Records given to it.
    pub given_records: u64,
    /// Blobs given.
    pub given_blobs: u64,
    /// Segments given.
    pub given_segments: u64,
    /// The size of all that was given.
    pub given_bytes: u64,
    /// What was wrong; all of it counts as missing.
    pub troubles: Vec<Trouble>,
}

impl RemoteReport {
    /// Whether nothing went either way and nothing was wrong.
    pub fn is_empty(&self) -> bool {
        *self == Self { url: self.url.clone(), ..Self::default() }
    }
}

/// Counts, from any thread.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) records: AtomicU64,
    pub(super) blobs: AtomicU64,
    pub(super) segments: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) given_records: AtomicU64,
    pub(super) given_blobs: AtomicU64,
    pub(super) given_segments: AtomicU64,
    pub(super) given_bytes: AtomicU64,
    troubles: Mutex<BTreeMap<TroubleKind, (u64, String)>>,
}

impl Tally {
    /// One more of a kind of trouble; the first tells what it was.
    pub(super) fn count(&self, kind: TroubleKind, example: impl FnOnce() -> String) {
        lock(&self.troubles).entry(kind).or_insert_with(|| (0, example())).0 += 1;
    }

    pub(super) fn report(&self, url: &str) -> RemoteReport {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let troubles = lock(&self.troubles);
        let troubles = troubles.iter().map(|(&kind, (count, example))| Trouble {
            kind,
            count: *count,
            example: example.clone(),
        });
        RemoteReport {
            url: url.to_owned(),
            records: of(&self.records),
            blobs: of(&self.blobs),
            segments: of(&self.segments),
            bytes: of(&self.bytes),
            given_records: of(&self.given_records),
            given_blobs: of(&self.given_blobs),
            given_segments: of(&self.given_segments),
            given_bytes: of(&self.given_bytes),
            troubles: troubles.collect(),
        }
    }
}

/// Adds to a count.
pub(super) fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}
