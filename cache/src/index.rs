//! The index: sled over what files say, so that collection and tracing need not read them all.
//!
//! | tree | key | value |
//! | --- | --- | --- |
//! | `actions` | action | last use, size of the outputs, owed |
//! | `entries` | key of a log entry | stream, segment, place |
//! | `segments` | stream, segment | inode: which sealed segments are in `entries` |
//!
//! It is disposable (C3). sled has an exclusive process lock, so it is opened for short moments only and whoever does not
//! get it goes by path; its flush does not sync, so we do; it may panic on damaged files, so it is opened and used under
//! `catch_unwind`, and put aside and made anew when it fails. Rows carry a version and a checksum of their own.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime};

use crate::log::{self, Position, lock_exclusively};
use crate::{CacheError, Digest, Fault, Layout, atomic, crash, summary, touch};

const SCHEMA: &[u8] = b"dag-index 1";
const ROW_VERSION: u8 = 1;
const CHECKSUM: usize = 8;
/// sled's own memory; the index is small.
const CACHE_BYTES: u64 = 16 << 20;

/// The open index. Dropping it lets others have it.
pub(crate) struct Index {
    database: sled::Db,
    actions: sled::Tree,
    entries: sled::Tree,
    segments: sled::Tree,
    _lock: File,
}

/// What the index knows of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    /// When a run used it last.
    pub(crate) used: SystemTime,
    /// Size of its outputs.
    pub(crate) bytes: u64,
    pub(crate) owed: u64,
}

/// Runs `work` with the index, up to date with the files. `None` when another process has it, or when it cannot be
/// used, which is a fault and not an error; one that is damaged is made anew once.
pub(crate) fn with<T>(
    layout: &Layout,
    faults: &mut Vec<Fault>,
    work: impl Fn(&Index) -> sled::Result<T>,
) -> Result<Option<T>, CacheError> {
    // Its lock is one of the kernel's, and its memory is not the other machines'.
    if layout.is_shared() {
        return Ok(None);
    }
    let lock = match lock(layout) {
        Ok(Some(lock)) => lock,
        Ok(None) => return Ok(None),
        // A read-only store, or a full disk.
        Err(error) => {
            faults.push(Fault::new(layout.index(), error.to_string()));
            return Ok(None);
        }
    };
    for attempt in 0..2 {
        let lock = lock.try_clone().map_err(CacheError::io("lock", &layout.index()))?;
        // Everything sled owns is dropped on the way out, so nothing half-done is seen afterwards.
        let result = catch_unwind(AssertUnwindSafe(|| -> Result<T, String> {
            let index = Index::open(layout, lock)?;
            index.update(layout)?;
            work(&index).map_err(text)
        }));
        let what = match result {
            Ok(Ok(done)) => return Ok(Some(done)),
            Ok(Err(what)) => what,
            Err(_panic) => "it made sled panic".to_owned(),
        };
        faults.push(Fault::new(layout.index(), what));
        if attempt == 0 && set_aside(layout).is_err() {
            break;
        }
    }
    Ok(None)
}

/// Whether there is an index that could be asked.
pub(crate) fn exists(layout: &Layout) -> bool {
    layout.index().join("db").exists()
}

/// Puts a damaged or outdated index where it is out of the way.
pub(crate) fn set_aside(layout: &Layout) -> Result<(), CacheError> {
    let index = layout.index();
    let aside = layout.quarantine().join("index");
    match fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(CacheError::io("remove", &aside)(error));
        }
        _ => atomic::make_parent(&aside)?,
    }
    match fs::rename(&index, &aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(CacheError::io("move", &index)(error))
        }
        _ => Ok(()),
    }
}

/// Our own lock, because sled's tells a busy index and a broken one apart only by its message.
fn lock(layout: &Layout) -> Result<Option<File>, CacheError> {
    let path = layout.index_lock();
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(CacheError::io("open", &path))?;
    Ok(lock_exclusively(&file, &path).map_err(CacheError::io("lock", &path))?.then_some(file))
}

impl Index {
    fn open(layout: &Layout, lock: File) -> Result<Self, String> {
        let path = layout.index();
        let fresh = !exists(layout);
        let config = sled::Config::new().path(&path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let database = config.open().map_err(text)?;
        if fresh {
            database.insert("schema", SCHEMA).map_err(text)?;
        } else if database.get("schema").map_err(text)?.is_none_or(|found| found != SCHEMA) {
            return Err("it is of another version".to_owned());
        }
        // sled never syncs what it puts there, and cannot open after a power cut that took it.
        if fs::read_dir(path.join("blobs")).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err("it holds a value that is too large".to_owned());
        }
        let tree = |name: &str| database.open_tree(name).map_err(text);
        Ok(Self {
            actions: tree("actions")?,
            entries: tree("entries")?,
            segments: tree("segments")?,
            database,
            _lock: lock,
        })
    }

    /// Takes in what the files say and the index does not: new records, last uses, sealed segments.
    fn update(&self, layout: &Layout) -> Result<(), String> {
        let explain = |error: CacheError| error.to_string();
        summary::refresh(layout).map_err(explain)?;
        let lists = touch::lists(layout).map_err(explain)?;
        let mut uses: BTreeMap<Digest, SystemTime> = BTreeMap::new();
        for list in &lists {
            for action in &list.actions {
                let used = uses.entry(*action).or_insert(list.used);
                *used = list.used.max(*used);
            }
        }
        self.update_actions(layout, &uses).map_err(text)?;
        self.update_entries(layout)?;
        crash::point("index.inserted");
        self.sync(layout)?;
        crash::point("index.flushed");
        // Only now: what the lists said is in the index, durably.
        lists.iter().try_for_each(|list| atomic::remove(&list.path)).map_err(explain)
    }

    /// Makes the rows of actions those of the summary, with their last uses.
    fn update_actions(&self, layout: &Layout, uses: &BTreeMap<Digest, SystemTime>) -> sled::Result<()> {
        let Ok(Some(snapshot)) = summary::Snapshot::load(layout) else { return Ok(()) };
        let mut batch = sled::Batch::default();
        for (action, modified, summary) in snapshot.all() {
            let old = self.row(&action)?;
            let used = [Some(modified), uses.get(&action).copied(), old.map(|old| old.used)]
                .into_iter()
                .flatten()
                .max();
            let row = Row {
                used: used.unwrap_or(modified),
                bytes: summary.outputs.values().map(|output| output.bytes).sum(),
                owed: summary.owed,
            };
            if old != Some(row) {
                batch.insert(action.as_bytes(), row.encode());
            }
        }
        for key in self.actions.iter().keys() {
            let key = key?;
            if Digest::from_slice(&key).is_none_or(|action| snapshot.find(&action).is_none()) {
                batch.remove(key);
            }
        }
        self.actions.apply_batch(batch)
    }

    /// Adds the entries of sealed segments that are not in yet, opening no others.
    fn update_entries(&self, layout: &Layout) -> Result<(), String> {
        for segment in log::segments(layout).map_err(|error| error.to_string())? {
            let key = [segment.stream.as_bytes().as_slice(), &segment.number.to_be_bytes()].concat();
            let inode = segment.inode.to_le_bytes();
            if self.segments.get(&key).map_err(text)?.is_some_and(|known| known == inode) {
                continue;
            }
            let Some(entries) = segment.sealed_entries().map_err(|error| error.to_string())? else {
                continue;
            };
            for chunk in entries.chunks(1000) {
                let mut batch = sled::Batch::default();
                for (entry, at) in chunk {
                    let mut value = segment.stream.as_bytes().to_vec();
                    value.extend_from_slice(&segment.number.to_le_bytes());
                    value.extend_from_slice(&at.to_le_bytes());
                    batch.insert(entry.as_bytes(), sealed(value));
                }
                self.entries.apply_batch(batch).map_err(text)?;
            }
            self.segments.insert(key, &inode).map_err(text)?;
        }
        Ok(())
    }

    /// What is known of an action.
    pub(crate) fn row(&self, action: &Digest) -> sled::Result<Option<Row>> {
        Ok(self.actions.get(action.as_bytes())?.and_then(|value| Row::decode(&value)))
    }

    /// The actions used at or after `since`.
    pub(crate) fn used_since(&self, since: SystemTime) -> sled::Result<Vec<Digest>> {
        let mut actions = Vec::new();
        for pair in &self.actions {
            let (key, value) = pair?;
            if let Some(action) = Digest::from_slice(&key)
                && Row::decode(&value).is_some_and(|row| row.used >= since)
            {
                actions.push(action);
            }
        }
        Ok(actions)
    }

    /// Where a log entry was when its segment was indexed; the segment may have been merged since.
    pub(crate) fn position(&self, key: &Digest) -> sled::Result<Option<Position>> {
        Ok(self.entries.get(key.as_bytes())?.and_then(|value| {
            let value = unsealed(&value)?;
            Some(Position {
                stream: Digest::from_slice(value.get(..32)?)?,
                number: u32::from_le_bytes(value.get(32..36)?.try_into().ok()?),
                at: u64::from_le_bytes(value.get(36..44)?.try_into().ok()?),
            })
        }))
    }

    /// sled's flush leaves the file's new size to the kernel; see `docs/cache-format.md`.
    fn sync(&self, layout: &Layout) -> Result<(), String> {
        self.database.flush().map_err(text)?;
        let path = layout.index();
        File::open(path.join("db")).and_then(|file| file.sync_all()).map_err(|error| error.to_string())?;
        atomic::sync_dir(&path).map_err(|error| error.to_string())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form `map_err` takes")]
fn text(error: sled::Error) -> String {
    error.to_string()
}

impl Row {
    fn encode(&self) -> Vec<u8> {
        let used = self.used.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut value = (used.as_nanos() as u64).to_le_bytes().to_vec();
        value.extend_from_slice(&self.bytes.to_le_bytes());
        value.extend_from_slice(&self.owed.to_le_bytes());
        sealed(value)
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let number =
            |value: &[u8], at: usize| Some(u64::from_le_bytes(value.get(at..at + 8)?.try_into().ok()?));
        let value = unsealed(value)?;
        Some(Self {
            used: SystemTime::UNIX_EPOCH + Duration::from_nanos(number(value, 0)?),
            bytes: number(value, 8)?,
            owed: number(value, 16)?,
        })
    }
}

/// A row's bytes: version, content, checksum.
fn sealed(content: Vec<u8>) -> Vec<u8> {
    let mut value = content;
    value.insert(0, ROW_VERSION);
    let checksum = blake3::hash(&value);
    value.extend_from_slice(&checksum.as_bytes()[..CHECKSUM]);
    value
}

/// The content of a row; `None` when it is damaged or of another version, and so not there.
fn unsealed(value: &[u8]) -> Option<&[u8]> {
    let (content, checksum) = value.split_at_checked(value.len().checked_sub(CHECKSUM)?)?;
    let sound = blake3::hash(content).as_bytes()[..CHECKSUM] == *checksum;
    content.strip_prefix(&[ROW_VERSION]).filter(|_| sound)
}
