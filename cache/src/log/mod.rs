//! Record logs: one entry per response or verdict, in append-only segments that many processes share.
//!
//! A stream is a directory. Every process appends to a segment of its own, whose kernel lock it holds while it lives,
//! and reads all of them. A segment that is finished is sealed with a sorted list of its keys, so that opening it reads
//! only that list; many small segments are merged into one. Bytes are laid out in [`frame`] and [`segment`].

mod frame;
mod merge;
mod reader;
mod segment;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::guard::lock;
use crate::layout::named;
use crate::{CacheError, Digest, Fault, Layout, atomic};

use frame::Kind;
pub(crate) use reader::Reader;
use segment::Appender;
pub(crate) use segment::{is_at, is_living, lock_exclusively};

/// Entries that may be unsynced, and for how long: what a power cut can cost.
const SYNC_EVERY: u32 = 64;
const SYNC_WITHIN: Duration = Duration::from_secs(1);
/// A segment is sealed and another begun when it gets larger than this.
const SEGMENT_BYTES: u64 = 256 << 20;

/// The records of one stream: one model with its sampling parameters, or one judge.
///
/// Entries are never changed or removed. Looking up and appending are safe from many threads, and from many processes
/// on one stream: each sees what the others appended.
pub struct RecordLog {
    reader: Reader,
    own: Mutex<Option<Own>>,
    claims: Mutex<BTreeSet<Digest>>,
    released: Condvar,
    sealed: Option<Sealed>,
}

/// Hears of every segment that this process has sealed, and gets it open for reading.
pub(crate) type Sealed = Box<dyn Fn(fs::File) + Send + Sync>;

/// The segment this process appends to; made by the first entry.
struct Own {
    appender: Appender,
    unsynced: u32,
    first_unsynced: Instant,
}

impl RecordLog {
    pub(crate) fn open(layout: &Layout, stream: &Digest) -> Result<Self, CacheError> {
        Ok(Self {
            reader: Reader::open(layout, stream)?,
            own: Mutex::new(None),
            claims: Mutex::default(),
            released: Condvar::new(),
            sealed: None,
        })
    }

    /// Has `sealed` hear of what is sealed from now on.
    pub(crate) fn on_sealed(mut self, sealed: Sealed) -> Self {
        self.sealed = Some(sealed);
        self
    }

    /// The payload stored under `key` by any process. A damaged entry is missing and a fault.
    pub fn get(&self, key: &Digest) -> Result<Option<Vec<u8>>, CacheError> {
        let place = lock(&self.own).as_ref().and_then(|own| own.appender.find(key));
        if let Some(place) = place {
            match place.read(&self.reader.stream(), key)? {
                Ok(payload) => return Ok(Some(payload)),
                Err(fault) => {
                    self.reader.report(fault);
                    if let Some(own) = lock(&self.own).as_mut() {
                        own.appender.forget(key);
                    }
                }
            }
        }
        self.reader.get(key)
    }

    /// Stores `payload` under `key`. It is in the file on return, and so survives the death of this process; a power cut
    /// may take the last 64 entries or the last second. A key that is there already keeps its first payload.
    pub fn put(&self, key: &Digest, payload: &[u8]) -> Result<(), CacheError> {
        if self.has(key) {
            return Ok(());
        }
        // Compressed before the lock is taken, so that threads do it side by side.
        let frame = frame::encode(&self.reader.stream(), Kind::Value, key, payload);
        self.append(Kind::Value, key, &frame)
    }

    /// Notes that a request for `key` is about to be sent: if no outcome follows, it may have been paid for in vain.
    pub fn intent(&self, key: &Digest) -> Result<(), CacheError> {
        if self.has(key) {
            return Ok(());
        }
        let frame = frame::encode(&self.reader.stream(), Kind::Intent, key, &[]);
        self.append(Kind::Intent, key, &frame)
    }

    /// Notes that a request came to nothing, as far as its server tells: its intent is then of no unknown state.
    pub fn void(&self, key: &Digest) -> Result<(), CacheError> {
        let is_open = lock(&self.own).as_ref().is_some_and(|own| own.appender.intends(key));
        if !is_open {
            return Ok(());
        }
        let frame = frame::encode(&self.reader.stream(), Kind::Void, key, &[]);
        self.append(Kind::Void, key, &frame)
    }

    /// Takes the right to ask for `key` in this process, so that two nodes which want one response ask for it once. False
    /// while another holds it.
    pub fn claim(&self, key: &Digest) -> bool {
        lock(&self.claims).insert(*key)
    }

    /// Gives the right back, and wakes those who wait for it.
    pub fn release(&self, key: &Digest) {
        lock(&self.claims).remove(key);
        self.released.notify_all();
    }

    /// Waits until nobody holds the right to `key`, at most for `longest`; whether that is so.
    pub fn wait(&self, key: &Digest, longest: Duration) -> bool {
        let claims = lock(&self.claims);
        let waited = self.released.wait_timeout_while(claims, longest, |claims| claims.contains(key));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// The intents without an outcome that processes left which are not running any more, sorted.
    pub fn unknown(&self) -> Vec<Digest> {
        let mut unknown = self.reader.unknown();
        let own = lock(&self.own);
        unknown.retain(|key| own.as_ref().is_none_or(|own| own.appender.find(key).is_none()));
        unknown
    }

    /// Makes everything appended by this process durable.
    pub fn sync(&self) -> Result<(), CacheError> {
        match lock(&self.own).as_mut() {
            Some(own) if own.unsynced > 0 => {
                own.appender.sync()?;
                own.unsynced = 0;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Finishes this process's segment, so that looking up in it is fast from now on, and merges small segments when
    /// there are many. A later entry begins a new segment.
    pub fn seal(&self) -> Result<(), CacheError> {
        self.finish().map(drop)
    }

    /// As [`Self::seal`]; gives how many entries were sealed.
    pub(crate) fn finish(&self) -> Result<usize, CacheError> {
        let mut own = lock(&self.own);
        let Some(finished) = own.take() else { return Ok(0) };
        let sealed = self.seal_one(finished.appender);
        self.reader.set_own(None);
        drop(own);
        let count = sealed?;
        self.merge()?;
        Ok(count)
    }

    /// Seals a segment and tells of it before a merge may take it.
    fn seal_one(&self, appender: Appender) -> Result<usize, CacheError> {
        let path = appender.path().to_owned();
        let count = appender.seal()?;
        if let Some(sealed) = &self.sealed
            && count > 0
        {
            sealed(fs::File::open(&path).map_err(CacheError::io("open", &path))?);
        }
        Ok(count)
    }

    /// What was found damaged in the stream so far.
    pub fn faults(&self) -> Vec<Fault> {
        self.reader.faults()
    }

    /// Merges small segments of processes that are done when there are many of them.
    fn merge(&self) -> Result<(), CacheError> {
        let faults = merge::merge(self.reader.directory(), &self.reader.stream(), self.reader.is_shared())?;
        for fault in faults {
            self.reader.report(fault);
        }
        Ok(())
    }

    fn has(&self, key: &Digest) -> bool {
        lock(&self.own).as_ref().is_some_and(|own| own.appender.find(key).is_some()) || self.reader.has(key)
    }

    fn append(&self, kind: Kind, key: &Digest, frame: &[u8]) -> Result<(), CacheError> {
        let mut guard = lock(&self.own);
        if guard.as_ref().is_some_and(|own| own.appender.bytes() > SEGMENT_BYTES)
            && let Some(full) = guard.take()
        {
            self.seal_one(full.appender)?;
            self.reader.set_own(None);
        }
        let own = match &mut *guard {
            Some(own) if own.appender.find(key).is_some() => return Ok(()),
            Some(own) => own,
            none => {
                let appender = Appender::create(
                    self.reader.directory(),
                    &self.reader.stream(),
                    self.reader.is_shared(),
                )?;
                self.reader.set_own(Some(appender.number()));
                none.insert(Own { appender, unsynced: 0, first_unsynced: Instant::now() })
            }
        };
        if let Err(error) = own.appender.append(kind, key, frame) {
            if own.appender.is_broken() {
                // What is whole in the segment stays readable; the next entry begins another one.
                *guard = None;
                self.reader.set_own(None);
            }
            return Err(error);
        }
        if own.unsynced == 0 {
            own.first_unsynced = Instant::now();
        }
        own.unsynced += 1;
        if own.unsynced >= SYNC_EVERY || own.first_unsynced.elapsed() >= SYNC_WITHIN {
            own.appender.sync()?;
            own.unsynced = 0;
        }
        Ok(())
    }
}

impl Drop for RecordLog {
    fn drop(&mut self) {
        // Best effort: an unsealed segment is read by scanning it, and merged by a later run.
        let _ = self.seal();
    }
}

/// The statement of what a stream is, beside its segments.
pub(crate) fn about_file(directory: &Path) -> PathBuf {
    directory.join("about.json")
}

/// Checks every entry of a segment; gives how many there are. A torn end is a fault unless somebody is writing there.
pub(crate) fn verify_segment(
    path: &Path,
    stream: &Digest,
    faults: &mut Vec<Fault>,
) -> Result<u64, CacheError> {
    let Some(segment) = segment::Segment::open(path, stream, faults)? else { return Ok(0) };
    let values = segment.values();
    for (key, at) in &values {
        if segment.frame(stream, *at)?.is_none() {
            faults.push(Fault::new(path, format!("the entry of {} at byte {at} is damaged", key.short())));
        }
    }
    if let Some(at) = segment.torn().map_err(CacheError::io("inspect", path))?
        && !is_living(path)
    {
        faults.push(Fault::new(path, format!("it is torn at byte {at}")));
    }
    Ok(values.len() as u64)
}

/// A segment file, before it is opened.
pub(crate) struct SegmentFile {
    pub(crate) stream: Digest,
    pub(crate) number: u32,
    pub(crate) inode: u64,
    path: PathBuf,
}

/// The sealed segments of every stream.
pub(crate) fn sealed(layout: &Layout) -> Result<Vec<(Digest, PathBuf)>, CacheError> {
    let mut sealed = Vec::new();
    for file in segments(layout)? {
        let segment = segment::Segment::open(&file.path, &file.stream, &mut Vec::new())?;
        if segment.is_some_and(|segment| segment.is_sealed()) {
            sealed.push((file.stream, file.path));
        }
    }
    Ok(sealed)
}

/// Makes a segment that came from elsewhere one of the stream's own; else says what is wrong with it.
pub(crate) fn take_in(
    layout: &Layout,
    stream: &Digest,
    mut staged: atomic::Staged,
) -> Result<Result<(), String>, CacheError> {
    let mut faults = Vec::new();
    let segment = segment::Segment::open(staged.path(), stream, &mut faults)?;
    if let Some(fault) = faults.first() {
        return Ok(Err(fault.what.clone()));
    }
    if !segment.is_some_and(|segment| segment.is_sealed()) {
        return Ok(Err("it is not a whole segment".to_owned()));
    }
    staged.file().sync_all().map_err(CacheError::io("sync", staged.path()))?;
    segment::link(&layout.log(stream), staged.path()).map(Ok)
}

/// Where an entry was found once.
pub(crate) struct Position {
    pub(crate) stream: Digest,
    pub(crate) number: u32,
    pub(crate) at: u64,
}

/// Every segment of every stream.
pub(crate) fn segments(layout: &Layout) -> Result<Vec<SegmentFile>, CacheError> {
    let mut segments = Vec::new();
    for directory in atomic::list(&layout.logs())? {
        let Some(stream) = directory.file_name().and_then(named) else { continue };
        for path in atomic::list(&directory)? {
            let Some(number) = segment::number_of(&path) else { continue };
            let Ok(metadata) = fs::metadata(&path) else { continue };
            segments.push(SegmentFile { stream, number, inode: metadata.ino(), path });
        }
    }
    Ok(segments)
}

impl SegmentFile {
    /// The keys and places in its footer; `None` while it has none.
    pub(crate) fn sealed_entries(&self) -> Result<Option<Vec<(Digest, u64)>>, CacheError> {
        let segment = segment::Segment::open(&self.path, &self.stream, &mut Vec::new())?;
        Ok(segment.filter(segment::Segment::is_sealed).map(|segment| segment.values()))
    }
}

impl Position {
    /// The payload, when the entry is still where it was.
    pub(crate) fn read(&self, layout: &Layout, key: &Digest) -> Option<Vec<u8>> {
        let path = segment::path_of(&layout.log(&self.stream), self.number);
        let file = fs::File::open(path).ok()?;
        let (header, body) = segment::read_frame(&file, &self.stream, self.at).ok()??;
        (header.key == *key && header.kind == Kind::Value)
            .then(|| header.payload(&self.stream, body))
            .flatten()
    }
}
