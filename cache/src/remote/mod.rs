//! The shared cache: what one machine has made, others take instead of making it again.
//!
//! [`Objects`] is the place, which knows names and bytes and nothing else; [`Remote`] is what the store makes of it. The
//! place is not trusted: a blob is its digest or it is not taken, records and segments carry a signature, and whatever is
//! missing, damaged or not signed is a miss that is counted and told. Names and bytes are in `docs/cache-format.md`.

mod bring;
mod give;
mod known;
mod parallel;
mod sign;
mod tally;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::guard::lock;
use crate::{Digest, Record};

pub(crate) use give::{Gift, Uploads};
pub use sign::{KeyError, SigningKey};
use tally::Tally;
pub use tally::{RemoteReport, Trouble, TroubleKind};

/// So many failures in a row, and the place is left alone for the rest of the process.
const GIVE_UP_AFTER: u32 = 3;

/// A place that keeps objects under names: a bucket, or a folder. Names are relative and have `/` between their parts.
pub trait Objects: Send + Sync {
    /// What the place is called in messages; it holds no secret.
    fn url(&self) -> &str;

    /// An object's bytes; `None` when there is none. One of more than `most` bytes is an error.
    fn get(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>, RemoteError>;

    /// The size of an object; `None` when there is none.
    fn size(&self, name: &str) -> Result<Option<u64>, RemoteError>;

    /// Hands over the bytes of an object of `bytes` bytes, in order and piece by piece; false when there is none, or one of
    /// another size. However large it is, few pieces are in memory.
    fn read(&self, name: &str, bytes: u64, piece: &mut Piece<'_>) -> Result<bool, RemoteError>;

    /// Keeps an object; unless `replace` is set, one that is there stays as it is. Gives whether it was written.
    fn put(&self, name: &str, body: Body<'_>, replace: bool) -> Result<bool, RemoteError>;

    /// The names and sizes of all objects directly in a folder; names without it.
    fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, RemoteError>;
}

/// Takes a piece of an object.
pub type Piece<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

/// What is to be kept.
pub enum Body<'a> {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A file of so many bytes, read from its beginning.
    File(&'a File, u64),
}

/// Why the place did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// It could not be asked, or refused.
    #[error("`{name}`: {what}")]
    Failed {
        /// The object.
        name: String,
        /// What went wrong.
        what: String,
    },
    /// What it gave could not be kept here, or what it was to get could not be read.
    #[error("{0}")]
    Here(#[from] io::Error),
}

/// How a shared cache is used.
#[derive(Debug, Clone)]
pub struct RemoteOptions {
    /// Signs what is written, and must have signed what is taken. `None` where signatures are neither made nor asked for.
    pub key: Option<SigningKey>,
    /// Whether what is made here goes there.
    pub write: bool,
}

/// A shared cache as this process sees it. Clones share what they found out.
#[derive(Clone)]
pub struct Remote(Arc<Inner>);

struct Inner {
    objects: Box<dyn Objects>,
    options: RemoteOptions,
    /// Every action asked for, with the record that can be used. Nothing is asked twice.
    asked: Mutex<BTreeMap<Digest, Option<Arc<Record>>>>,
    /// Blobs asked for, and whether they are there.
    present: Mutex<BTreeMap<Digest, bool>>,
    /// Names of objects that are there and wrong: they are replaced when what is right is written.
    broken: Mutex<BTreeSet<String>>,
    /// Blobs on their way here, so that two nodes which need one do not fetch it twice.
    fetching: Mutex<BTreeMap<Digest, Arc<Mutex<()>>>>,
    /// Streams whose segments were looked for.
    streams: Mutex<BTreeSet<Digest>>,
    failed_in_a_row: AtomicU32,
    tally: Tally,
}

impl Remote {
    /// The shared cache that `objects` is.
    pub fn new(objects: Box<dyn Objects>, options: RemoteOptions) -> Self {
        Self(Arc::new(Inner {
            objects,
            options,
            asked: Mutex::default(),
            present: Mutex::default(),
            broken: Mutex::default(),
            fetching: Mutex::default(),
            streams: Mutex::default(),
            failed_in_a_row: AtomicU32::new(0),
            tally: Tally::default(),
        }))
    }

    /// What it is called in messages.
    pub fn url(&self) -> &str {
        self.0.objects.url()
    }

    /// Whether what is made here goes there.
    pub fn is_written(&self) -> bool {
        self.0.options.write
    }

    /// What was taken from it and given to it so far, and what was wrong.
    pub fn report(&self) -> RemoteReport {
        self.0.tally.report(self.url())
    }

    /// Asks the place, unless it has failed too often; `None`, counted, when there is no answer.
    fn ask<T>(
        &self,
        kind: TroubleKind,
        name: &str,
        ask: impl FnOnce(&dyn Objects) -> Result<T, RemoteError>,
    ) -> Option<T> {
        if self.0.failed_in_a_row.load(Ordering::Relaxed) >= GIVE_UP_AFTER {
            self.0.tally.count(kind, || format!("`{name}`: it was not asked any more"));
            return None;
        }
        match ask(&*self.0.objects) {
            Ok(answer) => {
                self.0.failed_in_a_row.store(0, Ordering::Relaxed);
                Some(answer)
            }
            Err(error) => {
                if matches!(error, RemoteError::Failed { .. }) {
                    self.0.failed_in_a_row.fetch_add(1, Ordering::Relaxed);
                }
                self.0.tally.count(kind, || error.to_string());
                None
            }
        }
    }

    /// Takes note of an object that is there and wrong.
    fn refuse(&self, kind: TroubleKind, name: &str, what: &str) {
        lock(&self.0.broken).insert(name.to_owned());
        self.0.tally.count(kind, || format!("`{name}`: {what}"));
    }

    fn is_broken(&self, name: &str) -> bool {
        lock(&self.0.broken).contains(name)
    }
}

/// The object of a blob.
fn blob_name(digest: &Digest) -> String {
    let text = digest.to_string();
    format!("blobs/{}/{text}", &text[..2])
}

/// The object of a record.
fn record_name(action: &Digest) -> String {
    let text = action.to_string();
    format!("records/{}/{text}", &text[..2])
}

/// The folder of a stream's segments.
fn stream_folder(stream: &Digest) -> String {
    format!("logs/{stream}")
}
