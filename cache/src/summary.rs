//! The summary: one disposable file with the outputs of every record, so that planning opens no record files.
//!
//! It is never believed over the files. For each of the 256 record directories it keeps the directory's inode and
//! modification time from before it was listed; as long as a directory still has them, no record in it was added,
//! replaced or removed since. In a directory that did change, an entry still counts while the record file has the same
//! inode and time; every other look-up opens the file. A file changed in place, which no version of this program does,
//! goes unnoticed here and is found when the record itself is read.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::atomic::{self, Staged};
use crate::layout::named;
use crate::{CacheError, Digest, Fault, Layout, Output, OutputKind, Record, crash};

const MAGIC: &[u8; 16] = b"dag-summary 1\n\0\0";
const SHARDS: usize = 256;
const CHECKSUM: usize = 32;

/// What planning needs of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The outputs by port.
    pub outputs: BTreeMap<String, Output>,
    /// How many of the node's own records failed and are owed by the next run.
    pub owed: u64,
}

impl From<Record> for Summary {
    fn from(record: Record) -> Self {
        Self { outputs: record.outputs, owed: record.owed }
    }
}

/// Tells one state of a file or directory from a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stamp {
    inode: u64,
    modified: u64,
}

impl Stamp {
    /// The stamp of what is at `path`; `None` when nothing is.
    pub(crate) fn of(path: &Path) -> io::Result<Option<Self>> {
        match fs::symlink_metadata(path) {
            Ok(metadata) => Ok(Some(Self::from_metadata(&metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn from_metadata(metadata: &fs::Metadata) -> Self {
        let modified = metadata.mtime().wrapping_mul(1_000_000_000).wrapping_add(metadata.mtime_nsec());
        Self { inode: metadata.ino(), modified: modified as u64 }
    }
}

/// A summary file in memory.
pub(crate) struct Snapshot {
    bytes: Vec<u8>,
    shards: Vec<Shard>,
    /// Where each entry begins, in order of action.
    entries: Vec<u32>,
}

struct Shard {
    stamp: Stamp,
    /// Its part of `entries`.
    range: Range<usize>,
}

/// One action in a snapshot.
pub(crate) struct Entry<'a> {
    bytes: &'a [u8],
    stamp: Stamp,
    pub(crate) summary: Summary,
}

impl Snapshot {
    /// Reads the summary file. `Ok(None)` when there is none.
    pub(crate) fn load(layout: &Layout) -> Result<Option<Self>, Fault> {
        let path = layout.summary();
        let bytes = atomic::read(&path).map_err(|error| Fault::new(&path, error.to_string()))?;
        let Some(bytes) = bytes else { return Ok(None) };
        Self::parse(bytes)
            .map(Some)
            .ok_or_else(|| Fault::new(&path, "the summary is not valid; it is made anew"))
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let content = bytes.len().checked_sub(CHECKSUM)?;
        if !bytes.starts_with(MAGIC) || blake3::hash(&bytes[..content]).as_bytes() != &bytes[content..] {
            return None;
        }
        let mut reader = Reader { bytes: &bytes[..content], at: MAGIC.len() };
        let mut shards = Vec::with_capacity(SHARDS);
        let mut total = 0;
        for _ in 0..SHARDS {
            let stamp = reader.stamp()?;
            let count = reader.number::<4>()? as usize;
            shards.push(Shard { stamp, range: total..total + count });
            total += count;
        }
        let mut entries = Vec::with_capacity(total.min(content));
        for _ in 0..total {
            entries.push(u32::try_from(reader.at).ok()?);
            reader.skip_entry()?;
        }
        (reader.at == content).then_some(Self { bytes, shards, entries })
    }

    /// The recorded stamp of a directory of records.
    pub(crate) fn shard(&self, byte: u8) -> Stamp {
        self.shards[byte as usize].stamp
    }

    /// The entry of `action`, whether or not it still holds.
    pub(crate) fn find(&self, action: &Digest) -> Option<Entry<'_>> {
        let range = self.shards[action.as_bytes()[0] as usize].range.clone();
        let entries = &self.entries[range];
        let index =
            entries.binary_search_by(|&at| self.bytes[at as usize..][..32].cmp(action.as_bytes())).ok()?;
        self.entry(entries[index])
    }

    /// Every action, with the time of its record file.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Digest, SystemTime, Summary)> {
        self.entries.iter().filter_map(|&at| {
            let entry = self.entry(at)?;
            let modified = SystemTime::UNIX_EPOCH + Duration::from_nanos(entry.stamp.modified);
            Some((Digest::from_slice(&entry.bytes[..32])?, modified, entry.summary))
        })
    }

    fn entry(&self, at: u32) -> Option<Entry<'_>> {
        let mut reader = Reader { bytes: &self.bytes, at: at as usize + 32 };
        let stamp = reader.stamp()?;
        let summary = reader.summary()?;
        Some(Entry { bytes: &self.bytes[at as usize..reader.at], stamp, summary })
    }

    /// The bytes of all entries of one directory.
    fn shard_bytes(&self, byte: u8) -> &[u8] {
        let end = self.bytes.len() - CHECKSUM;
        let range = &self.shards[byte as usize].range;
        let at = |index: usize| self.entries.get(index).map_or(end, |&at| at as usize);
        &self.bytes[at(range.start)..at(range.end)]
    }
}

impl Entry<'_> {
    /// Whether the record file is the one this was made from.
    pub(crate) fn holds(&self, layout: &Layout, action: &Digest) -> bool {
        matches!(Stamp::of(&layout.record(action)), Ok(Some(stamp)) if stamp == self.stamp)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn number<const BYTES: usize>(&mut self) -> Option<u64> {
        let mut wide = [0; 8];
        wide[..BYTES].copy_from_slice(self.take(BYTES)?);
        Some(u64::from_le_bytes(wide))
    }

    fn stamp(&mut self) -> Option<Stamp> {
        Some(Stamp { inode: self.number::<8>()?, modified: self.number::<8>()? })
    }

    fn skip_entry(&mut self) -> Option<()> {
        self.take(32 + 16 + 8)?;
        for _ in 0..self.number::<2>()? {
            let name = self.number::<2>()? as usize;
            self.take(name + 1 + 32 + 8)?;
        }
        Some(())
    }

    fn summary(&mut self) -> Option<Summary> {
        let owed = self.number::<8>()?;
        let mut outputs = BTreeMap::new();
        for _ in 0..self.number::<2>()? {
            let name = self.number::<2>()? as usize;
            let name = std::str::from_utf8(self.take(name)?).ok()?.to_owned();
            let kind = if self.number::<1>()? == 0 { OutputKind::File } else { OutputKind::Tree };
            let digest = Digest::from_slice(self.take(32)?)?;
            outputs.insert(name, Output { kind, digest, bytes: self.number::<8>()? });
        }
        Some(Summary { outputs, owed })
    }
}

fn encode_entry(action: &Digest, stamp: Stamp, summary: &Summary) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(128);
    bytes.extend_from_slice(action.as_bytes());
    put_stamp(&mut bytes, stamp);
    bytes.extend_from_slice(&summary.owed.to_le_bytes());
    bytes.extend_from_slice(&u16::try_from(summary.outputs.len()).ok()?.to_le_bytes());
    for (name, output) in &summary.outputs {
        bytes.extend_from_slice(&u16::try_from(name.len()).ok()?.to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(u8::from(output.kind == OutputKind::Tree));
        bytes.extend_from_slice(output.digest.as_bytes());
        bytes.extend_from_slice(&output.bytes.to_le_bytes());
    }
    Some(bytes)
}

fn put_stamp(bytes: &mut Vec<u8>, stamp: Stamp) {
    bytes.extend_from_slice(&stamp.inode.to_le_bytes());
    bytes.extend_from_slice(&stamp.modified.to_le_bytes());
}

/// What a refresh found.
#[derive(Default)]
pub(crate) struct Refreshed {
    /// How many records are new or replaced.
    pub(crate) changed: usize,
    pub(crate) faults: Vec<Fault>,
}

/// Makes the summary say what the record files say, opening only those that are new since the last time.
/// Directories are believed only when the clock has moved on since their last change, or a second change within the
/// same tick of it could go unnoticed.
pub(crate) fn refresh(layout: &Layout) -> Result<Refreshed, CacheError> {
    let mut refreshed = Refreshed::default();
    let old = Snapshot::load(layout).unwrap_or_else(|fault| {
        refreshed.faults.push(fault);
        None
    });
    let mut stamps = Vec::with_capacity(SHARDS);
    for byte in 0..=u8::MAX {
        let path = layout.record_shard(byte);
        stamps.push(Stamp::of(&path).map_err(CacheError::io("inspect", &path))?.unwrap_or_default());
    }
    if let Some(old) = &old
        && (0..=u8::MAX).all(|byte| old.shard(byte) == stamps[byte as usize])
    {
        return Ok(refreshed);
    }
    let settled = wait_past(layout, stamps.iter().map(|stamp| stamp.modified).max().unwrap_or(0))?;

    let mut header = MAGIC.to_vec();
    let mut entries: Vec<u8> = Vec::new();
    for byte in 0..=u8::MAX {
        let stamp = stamps[byte as usize];
        let count = match &old {
            Some(old) if old.shard(byte) == stamp => {
                entries.extend_from_slice(old.shard_bytes(byte));
                old.shards[byte as usize].range.len()
            }
            _ => read_shard(layout, byte, old.as_ref(), &mut entries, &mut refreshed)?,
        };
        put_stamp(&mut header, if settled { stamp } else { Stamp::default() });
        header.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
    }
    header.append(&mut entries);
    let checksum = blake3::hash(&header);
    header.extend_from_slice(checksum.as_bytes());
    let mut staged = Staged::create(layout)?;
    staged.write_all(&header)?;
    staged.publish_unsynced(&layout.summary(), 0o644)?;
    crash::point("summary.renamed");
    Ok(refreshed)
}

/// Adds the entries of one directory as it is now; gives how many.
fn read_shard(
    layout: &Layout,
    byte: u8,
    old: Option<&Snapshot>,
    entries: &mut Vec<u8>,
    refreshed: &mut Refreshed,
) -> Result<usize, CacheError> {
    let mut count = 0;
    for path in atomic::list(&layout.record_shard(byte))? {
        let Some(action) = path.file_name().and_then(named) else { continue };
        let stamp = Stamp::of(&path).map_err(CacheError::io("inspect", &path))?.unwrap_or_default();
        if let Some(entry) = old.and_then(|old| old.find(&action))
            && entry.stamp == stamp
        {
            entries.extend_from_slice(entry.bytes);
            count += 1;
            continue;
        }
        let Some(bytes) = atomic::read(&path)? else { continue };
        match Record::decode(&action, &bytes) {
            Ok(record) => {
                if let Some(entry) = encode_entry(&action, stamp, &record.into()) {
                    entries.extend_from_slice(&entry);
                    count += 1;
                    refreshed.changed += 1;
                }
            }
            Err(what) => refreshed.faults.push(Fault::new(path, what)),
        }
    }
    Ok(count)
}

/// Waits until the file system's clock is later than `modified`. False when it does not get there soon: the file system
/// keeps coarse times, and no directory can be believed.
fn wait_past(layout: &Layout, modified: u64) -> Result<bool, CacheError> {
    for _ in 0..20 {
        let probe = Staged::create(layout)?;
        let now = Stamp::of(probe.path()).map_err(CacheError::io("inspect", probe.path()))?;
        if now.is_some_and(|now| now.modified > modified) {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(false)
}
