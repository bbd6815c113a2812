//! Merging: many small segments become one, so that a thousand runs do not leave a thousand files.
//!
//! The merged segment is written like any other; only when it is sealed are the old ones removed. A crash in between
//! leaves entries twice, which readers do not mind and the next merge repairs.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::path::Path;

use super::frame::{self, Kind};
use super::segment::{self, Appender, Segment};
use crate::{CacheError, Digest, Fault, atomic, crash};

/// Merge when this many small segments have no writer.
const MERGE_FROM: usize = 8;
/// Larger segments are left alone, so that an entry is copied a bounded number of times.
const SMALL_BYTES: u64 = 32 << 20;

/// Merges the small segments of a stream that nobody writes, if there are enough. Damaged entries are left behind and
/// reported.
pub(crate) fn merge(directory: &Path, stream: &Digest) -> Result<Vec<Fault>, CacheError> {
    let gate_path = directory.join("merge.lock");
    if atomic::list(directory)?.iter().filter(|path| segment::number_of(path).is_some()).count() < MERGE_FROM
    {
        return Ok(Vec::new());
    }
    let gate = OpenOptions::new().create(true).truncate(false).write(true).open(&gate_path);
    let gate = gate.map_err(CacheError::io("create", &gate_path))?;
    // One process merges a stream at a time; the others need not wait for it.
    if !segment::lock_exclusively(&gate, &gate_path).map_err(CacheError::io("lock", &gate_path))? {
        return Ok(Vec::new());
    }
    let victims = lock_small(directory)?;
    let mut faults = Vec::new();
    if victims.len() < MERGE_FROM {
        return Ok(faults);
    }
    let mut merged = Appender::create(directory, stream)?;
    let mut intents = BTreeSet::new();
    let mut copied = Vec::new();
    for (path, _lock) in &victims {
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
        atomic::remove(path)?;
        crash::point("log.removed");
    }
    atomic::sync_dir(directory)?;
    Ok(faults)
}

/// The small segments without a writer, locked so that no other merge takes them.
fn lock_small(directory: &Path) -> Result<Vec<(std::path::PathBuf, File)>, CacheError> {
    let mut locked = Vec::new();
    for path in atomic::list(directory)? {
        if segment::number_of(&path).is_none() {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        let metadata = file.metadata().map_err(CacheError::io("inspect", &path))?;
        if metadata.len() < SMALL_BYTES
            && segment::lock_exclusively(&file, &path).map_err(CacheError::io("lock", &path))?
        {
            locked.push((path, file));
        }
    }
    Ok(locked)
}
