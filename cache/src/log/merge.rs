//! Merging: many small segments become one, so that a thousand runs do not leave a thousand files.
//!
//! The merged segment is written like any other; only when it is sealed are the old ones removed. A crash in between
//! leaves entries twice, which readers do not mind and the next merge repairs.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use super::frame::{self, Kind};
use super::segment::{self, Appender, Segment};
use crate::presence::{self, Attempt, Presence};
use crate::{CacheError, Digest, Fault, atomic, crash};

/// Merge when this many small segments have no writer.
const MERGE_FROM: usize = 8;
/// Larger segments are left alone, so that an entry is copied a bounded number of times.
const SMALL_BYTES: u64 = 32 << 20;

/// Merges the small segments of a stream that nobody writes, if there are enough. Damaged entries are left behind and
/// reported.
pub(crate) fn merge(directory: &Path, stream: &Digest, shared: bool) -> Result<Vec<Fault>, CacheError> {
    if atomic::list(directory)?.iter().filter(|path| segment::number_of(path).is_some()).count() < MERGE_FROM
    {
        return Ok(Vec::new());
    }
    // One process merges a stream at a time; the others need not wait for it.
    let Some(_gate) = gate(directory, shared)? else { return Ok(Vec::new()) };
    let victims = lock_small(directory, stream, shared)?;
    let mut faults = Vec::new();
    if victims.len() < MERGE_FROM {
        return Ok(faults);
    }
    let mut merged = Appender::create(directory, stream, shared)?;
    let mut intents = BTreeSet::new();
    let mut copied = Vec::new();
    for Victim { path, .. } in &victims {
        // One of another version is not ours to remove.
        let Some(victim) = Segment::open(path, stream, &mut faults)? else { continue };
        copied.push(path);
        intents.extend(victim.intents().iter().copied());
        for (key, at) in victim.values() {
            if merged.find(&key).is_some() {
                continue;
            }
            match victim.frame(stream, at)? {
                Some(frame) => merged.append(Kind::Value, &key, &frame)?,
                None => faults.push(Fault::new(path, format!("the entry of {} is damaged", key.short()))),
            }
        }
    }
    for key in intents.into_iter().filter(|key| merged.find(key).is_none()).collect::<Vec<_>>() {
        let frame = frame::encode(stream, Kind::Intent, &key, &[]);
        merged.append(Kind::Intent, &key, &frame)?;
    }
    merged.seal()?;
    crash::point("log.merged");
    for path in copied {
        segment::remove(path)?;
        crash::point("log.removed");
    }
    atomic::sync_dir(directory)?;
    Ok(faults)
}

/// The right to merge a stream.
enum Gate {
    Lock(#[expect(dead_code, reason = "it holds the lock while it is open")] File),
    Presence(#[expect(dead_code, reason = "it is given back when it is dropped")] Presence),
}

fn gate(directory: &Path, shared: bool) -> Result<Option<Gate>, CacheError> {
    if shared {
        return Ok(match presence::take(&directory.join("merge.presence"), "a merge")? {
            Attempt::Held(presence) => Some(Gate::Presence(presence)),
            Attempt::Busy(_) => None,
        });
    }
    let path = directory.join("merge.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(CacheError::io("create", &path))?;
    let ours = segment::lock_exclusively(&file, &path).map_err(CacheError::io("lock", &path))?;
    Ok(ours.then_some(Gate::Lock(file)))
}

/// A segment that is going to be merged.
struct Victim {
    path: PathBuf,
    /// Open, and so locked, while it is merged.
    _file: File,
}

/// The small segments without a writer, locked so that no other merge takes them. On a `shared` file system no lock says
/// so: there it is those that are sealed, or whose writer is known to be dead.
fn lock_small(directory: &Path, stream: &Digest, shared: bool) -> Result<Vec<Victim>, CacheError> {
    let mut locked = Vec::new();
    for path in atomic::list(directory)? {
        if segment::number_of(&path).is_none() {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        let metadata = file.metadata().map_err(CacheError::io("inspect", &path))?;
        if metadata.len() >= SMALL_BYTES {
            continue;
        }
        let free = if shared {
            let sealed =
                Segment::open(&path, stream, &mut Vec::new())?.is_some_and(|segment| segment.is_sealed());
            sealed || segment::is_signed_by_the_dead(&path)
        } else {
            segment::lock_exclusively(&file, &path).map_err(CacheError::io("lock", &path))?
        };
        if free {
            locked.push(Victim { path, _file: file });
        }
    }
    Ok(locked)
}
