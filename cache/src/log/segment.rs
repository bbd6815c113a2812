//! Segments: the files of a record log.
//!
//! ```text
//! header   64: magic "DAGLOG" 6, version 2, stream 32, zero 16, checksum 8
//! frames
//! footer   only when sealed: count of values 8, count of open intents 8,
//!          values as key 32 + place 8 sorted by key, intents as key 32 sorted
//! trailer  64: magic "DAGSEAL1" 8, place of the footer 8, checksum of the footer 32, zero 8, checksum 8
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::{self, HEADER, Header, Kind};
use crate::{CacheError, Digest, Fault, atomic, crash, presence};

const MAGIC: &[u8; 6] = b"DAGLOG";
const VERSION: u16 = 1;
const SEAL: &[u8; 8] = b"DAGSEAL1";
/// Bytes of a key and its place in a footer.
const ENTRY: usize = 40;

/// A segment's number, from its file name.
pub(crate) fn number_of(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_suffix(".segment")?.parse().ok()
}

/// The file of a segment.
pub(crate) fn path_of(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:08}.segment"))
}

/// Beside a segment on a shared file system: who is appending to it.
fn signature_of(path: &Path) -> PathBuf {
    path.with_extension("writer")
}

/// Whether some process is appending to the segment, or may be: of a process of another machine nothing else is known.
pub(crate) fn is_living(path: &Path) -> bool {
    let signature = signature_of(path);
    if signature.exists() {
        return !matches!(presence::holder(&signature), Ok(Some(holder)) if holder.is_dead());
    }
    File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Whether a segment on a shared file system was left by a process that is known to be dead.
pub(crate) fn is_signed_by_the_dead(path: &Path) -> bool {
    matches!(presence::holder(&signature_of(path)), Ok(Some(holder)) if holder.is_dead())
}

/// Removes a segment that was merged, then what says whose it was.
pub(crate) fn remove(path: &Path) -> Result<(), CacheError> {
    atomic::remove(path)?;
    atomic::remove(&signature_of(path))
}

/// Locks a file for this process alone; false when another one holds it, or when the name has meanwhile become that
/// of another file.
pub(crate) fn lock_exclusively(file: &File, path: &Path) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => is_at(file, path),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether `path` still names `file`.
pub(crate) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    match std::fs::metadata(path) {
        Ok(there) => Ok(there.ino() == file.metadata()?.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives a finished segment the next free number of a stream.
pub(crate) fn link(directory: &Path, from: &Path) -> Result<(), CacheError> {
    let mut number = highest(directory)?;
    loop {
        number += 1;
        let path = path_of(directory, number);
        match std::fs::hard_link(from, &path) {
            Ok(()) => return atomic::sync_dir(directory),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(CacheError::io("create", &path)(error)),
        }
    }
}

/// The highest number of a segment in a stream's directory.
fn highest(directory: &Path) -> Result<u32, CacheError> {
    Ok(atomic::list(directory)?.iter().filter_map(|path| number_of(path)).max().unwrap_or(0))
}

/// Where an entry is.
pub(crate) struct Place {
    file: Arc<File>,
    path: PathBuf,
    at: u64,
}

impl Place {
    /// The payload there, or what is wrong with it.
    pub(crate) fn read(&self, stream: &Digest, key: &Digest) -> Result<Result<Vec<u8>, Fault>, CacheError> {
        let fault =
            || Fault::new(&self.path, format!("the entry of {} at byte {} is damaged", key.short(), self.at));
        match read_frame(&self.file, stream, self.at) {
            Ok(Some((header, body))) if header.key == *key && header.kind == Kind::Value => {
                Ok(header.payload(stream, body).ok_or_else(fault))
            }
            Ok(_) => Ok(Err(fault())),
            Err(error) => Err(CacheError::io("read", &self.path)(error)),
        }
    }
}

/// The frame at `at`; `None` when there is none. The body is not checked.
pub(crate) fn read_frame(file: &File, stream: &Digest, at: u64) -> io::Result<Option<(Header, Vec<u8>)>> {
    let mut bytes = [0; HEADER];
    let whole = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        other => other.map(|()| true),
    };
    if !whole(file.read_exact_at(&mut bytes, at))? {
        return Ok(None);
    }
    let Some(header) = Header::parse(stream, &bytes) else { return Ok(None) };
    let mut body = vec![0; header.stored as usize];
    Ok(whole(file.read_exact_at(&mut body, at + HEADER as u64))?.then_some((header, body)))
}

/// A segment open for reading.
pub(crate) struct Segment {
    path: PathBuf,
    file: Arc<File>,
    inode: u64,
    keys: Keys,
    intents: BTreeSet<Digest>,
    /// Up to where the keys are known.
    scanned: u64,
}

enum Keys {
    /// As in a footer.
    Sealed(Vec<u8>),
    /// Found by scanning.
    Scanned(BTreeMap<Digest, u64>),
}

impl Segment {
    /// Opens a segment. `Ok(None)` when it is gone, or of another version (which is a fault).
    pub(crate) fn open(
        path: &Path,
        stream: &Digest,
        faults: &mut Vec<Fault>,
    ) -> Result<Option<Self>, CacheError> {
        let io = |error| CacheError::io("read", path)(error);
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        let metadata = file.metadata().map_err(io)?;
        let mut header = [0; HEADER];
        if metadata.len() >= HEADER as u64 {
            file.read_exact_at(&mut header, 0).map_err(io)?;
            match check_header(&header, stream) {
                Some(VERSION) => {}
                Some(other) => {
                    faults.push(Fault::new(path, format!("it is of version {other}, which is not known")));
                    return Ok(None);
                }
                // Every frame has its own checksum, so the segment can be read all the same.
                None => faults.push(Fault::new(path, "its header is damaged")),
            }
        }
        let mut segment = Self {
            path: path.to_owned(),
            file: Arc::new(file),
            inode: metadata.ino(),
            keys: Keys::Scanned(BTreeMap::new()),
            intents: BTreeSet::new(),
            scanned: HEADER as u64,
        };
        segment.follow(stream, faults)?;
        Ok(Some(segment))
    }

    /// Takes in what was appended since.
    pub(crate) fn follow(&mut self, stream: &Digest, faults: &mut Vec<Fault>) -> Result<(), CacheError> {
        let Keys::Scanned(keys) = &mut self.keys else { return Ok(()) };
        let io = |error| CacheError::io("read", &self.path)(error);
        let length = self.file.metadata().map_err(io)?.len();
        if length <= self.scanned {
            return Ok(());
        }
        if let Some(footer) = read_footer(&self.file, length).map_err(io)? {
            self.scanned = length;
            self.keys = Keys::Sealed(footer.values);
            self.intents = footer.intents;
            return Ok(());
        }
        let intents = &mut self.intents;
        let scan = frame::scan(&self.file, stream, self.scanned, length, |at, header| match header.kind {
            Kind::Value => {
                keys.insert(header.key, at);
                intents.remove(&header.key);
            }
            Kind::Intent if keys.contains_key(&header.key) => {}
            Kind::Intent => {
                intents.insert(header.key);
            }
            Kind::Void => {
                intents.remove(&header.key);
            }
        })
        .map_err(io)?;
        self.scanned = scan.end;
        for (from, to) in scan.damaged {
            faults.push(Fault::new(&self.path, format!("bytes {from} to {to} are damaged")));
        }
        Ok(())
    }

    /// Whether the file ends with something that is not a whole frame: a crash tore it, or it is being written.
    pub(crate) fn torn(&self) -> io::Result<Option<u64>> {
        let length = self.file.metadata()?.len();
        Ok((length > self.scanned).then_some(self.scanned))
    }

    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn intents(&self) -> &BTreeSet<Digest> {
        &self.intents
    }

    pub(crate) fn is_sealed(&self) -> bool {
        matches!(self.keys, Keys::Sealed(_))
    }

    /// All keys and their places, by key.
    pub(crate) fn values(&self) -> Vec<(Digest, u64)> {
        match &self.keys {
            Keys::Sealed(entries) => {
                let entries = entries.chunks_exact(ENTRY);
                entries
                    .filter_map(|entry| Some((Digest::from_slice(&entry[..32])?, place_in(entry))))
                    .collect()
            }
            Keys::Scanned(keys) => keys.iter().map(|(key, at)| (*key, *at)).collect(),
        }
    }

    pub(crate) fn find(&self, key: &Digest) -> Option<Place> {
        let at = match &self.keys {
            Keys::Sealed(entries) => {
                let (entries, _) = entries.as_chunks::<ENTRY>();
                let index = entries.binary_search_by(|entry| entry[..32].cmp(key.as_bytes())).ok()?;
                place_in(&entries[index])
            }
            Keys::Scanned(keys) => *keys.get(key)?,
        };
        Some(Place { file: Arc::clone(&self.file), path: self.path.clone(), at })
    }

    /// Reads the frame of an entry; `None` when it is damaged.
    pub(crate) fn frame(&self, stream: &Digest, at: u64) -> Result<Option<Vec<u8>>, CacheError> {
        let frame = read_frame(&self.file, stream, at).map_err(CacheError::io("read", &self.path))?;
        let Some((header, body)) = frame.filter(|(header, body)| header.accepts(stream, body)) else {
            return Ok(None);
        };
        let mut bytes = vec![0; HEADER];
        self.file.read_exact_at(&mut bytes, at).map_err(CacheError::io("read", &self.path))?;
        debug_assert_eq!(header.stored as usize, body.len());
        bytes.extend_from_slice(&body);
        Ok(Some(bytes))
    }

    /// Drops a damaged entry from memory, so that its key can be stored again.
    pub(crate) fn forget(&mut self, key: &Digest) {
        if self.is_sealed() {
            self.keys = Keys::Scanned(self.values().into_iter().collect());
        }
        if let Keys::Scanned(keys) = &mut self.keys {
            keys.remove(key);
        }
    }
}

fn place_in(entry: &[u8]) -> u64 {
    u64::from_le_bytes(entry[32..ENTRY].try_into().expect("eight bytes"))
}

struct Footer {
    values: Vec<u8>,
    intents: BTreeSet<Digest>,
}

/// The footer of a sealed segment of `length` bytes; `None` when there is no valid one.
fn read_footer(file: &File, length: u64) -> io::Result<Option<Footer>> {
    let Some(trailer_at) = length.checked_sub(HEADER as u64) else { return Ok(None) };
    let mut trailer = [0; HEADER];
    file.read_exact_at(&mut trailer, trailer_at)?;
    let number =
        |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    if !trailer.starts_with(SEAL) || trailer[56..] != blake3::hash(&trailer[..56]).as_bytes()[..8] {
        return Ok(None);
    }
    let Some(size) = trailer_at.checked_sub(number(&trailer, 8)) else { return Ok(None) };
    let mut footer = vec![0; size as usize];
    file.read_exact_at(&mut footer, trailer_at - size)?;
    if trailer[16..48] != *blake3::hash(&footer).as_bytes() || footer.len() < 16 {
        return Ok(None);
    }
    let values = number(&footer, 0) as usize * ENTRY;
    let intents = number(&footer, 8) as usize * 32;
    if footer.len() != 16 + values + intents {
        return Ok(None);
    }
    let intents = footer[16 + values..].chunks_exact(32).filter_map(Digest::from_slice).collect();
    footer.truncate(16 + values);
    footer.drain(..16);
    Ok(Some(Footer { values: footer, intents }))
}

fn header(stream: &Digest) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..6].copy_from_slice(MAGIC);
    bytes[6..8].copy_from_slice(&VERSION.to_le_bytes());
    bytes[8..40].copy_from_slice(stream.as_bytes());
    let checksum = blake3::hash(&bytes[..56]);
    bytes[56..].copy_from_slice(&checksum.as_bytes()[..8]);
    bytes
}

/// The version a header states; `None` when it is damaged or of another stream.
fn check_header(bytes: &[u8; HEADER], stream: &Digest) -> Option<u16> {
    let sound = bytes.starts_with(MAGIC)
        && bytes[8..40] == *stream.as_bytes()
        && bytes[56..] == blake3::hash(&bytes[..56]).as_bytes()[..8];
    sound.then(|| u16::from_le_bytes([bytes[6], bytes[7]]))
}

/// A segment this process appends to. Its kernel lock tells others that it lives.
pub(crate) struct Appender {
    path: PathBuf,
    number: u32,
    file: Arc<File>,
    end: u64,
    keys: BTreeMap<Digest, u64>,
    intents: BTreeSet<Digest>,
    broken: bool,
}

impl Appender {
    /// Begins a new segment with the next free number. On a `shared` file system a file beside it says whose it is, from
    /// before it exists until it is sealed.
    pub(crate) fn create(directory: &Path, stream: &Digest, shared: bool) -> Result<Self, CacheError> {
        let mut number = highest(directory)?;
        loop {
            number += 1;
            let path = path_of(directory, number);
            let signature = shared.then(|| signature_of(&path));
            if let Some(signature) = &signature {
                match presence::sign(signature) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                    Err(error) => return Err(CacheError::io("create", signature)(error)),
                }
            }
            let file = match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    signature.as_deref().map_or(Ok(()), atomic::remove)?;
                    continue;
                }
                Err(error) => return Err(CacheError::io("create", &path)(error)),
            };
            // Somebody who merges may have seen the file before it was locked, and removed it.
            if !shared && !lock_exclusively(&file, &path).map_err(CacheError::io("lock", &path))? {
                continue;
            }
            let mut appender = Self {
                path,
                number,
                file: Arc::new(file),
                end: 0,
                keys: BTreeMap::new(),
                intents: BTreeSet::new(),
                broken: false,
            };
            appender.write(&header(stream))?;
            atomic::sync_dir(directory)?;
            crash::point("log.created");
            return Ok(appender);
        }
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.end
    }

    /// Whether a failed write could not be undone, so that nothing more may be appended.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    pub(crate) fn find(&self, key: &Digest) -> Option<Place> {
        let at = *self.keys.get(key)?;
        Some(Place { file: Arc::clone(&self.file), path: self.path.clone(), at })
    }

    pub(crate) fn forget(&mut self, key: &Digest) {
        self.keys.remove(key);
    }

    /// Whether an intent is open here.
    pub(crate) fn intends(&self, key: &Digest) -> bool {
        self.intents.contains(key)
    }

    pub(crate) fn append(&mut self, kind: Kind, key: &Digest, frame: &[u8]) -> Result<(), CacheError> {
        let at = self.end;
        self.write(frame)?;
        crash::point("log.appended");
        match kind {
            Kind::Value => {
                self.keys.insert(*key, at);
                self.intents.remove(key);
            }
            Kind::Intent => {
                self.intents.insert(*key);
            }
            Kind::Void => {
                self.intents.remove(key);
            }
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CacheError> {
        if let Err(error) = self.file.write_all_at(bytes, self.end) {
            // Half an entry is cut off again, or the disk being full would leave damage in the middle of the segment.
            self.broken = self.file.set_len(self.end).is_err();
            return Err(CacheError::io("write", &self.path)(error));
        }
        self.end += bytes.len() as u64;
        Ok(())
    }

    pub(crate) fn sync(&mut self) -> Result<(), CacheError> {
        let synced = self.file.sync_data().map_err(CacheError::io("sync", &self.path));
        // After a failed sync the kernel may have dropped the pages: nothing more is entrusted to this file.
        self.broken |= synced.is_err();
        crash::point("log.synced");
        synced
    }

    /// Ends the segment with its sorted keys, durably; gives how many. One without entries is removed.
    pub(crate) fn seal(mut self) -> Result<usize, CacheError> {
        if self.keys.is_empty() && self.intents.is_empty() {
            atomic::remove(&self.path)?;
            return self.unsign().map(|()| 0);
        }
        let mut footer = Vec::with_capacity(16 + self.keys.len() * ENTRY + self.intents.len() * 32);
        footer.extend_from_slice(&(self.keys.len() as u64).to_le_bytes());
        footer.extend_from_slice(&(self.intents.len() as u64).to_le_bytes());
        for (key, at) in &self.keys {
            footer.extend_from_slice(key.as_bytes());
            footer.extend_from_slice(&at.to_le_bytes());
        }
        for key in &self.intents {
            footer.extend_from_slice(key.as_bytes());
        }
        let mut trailer = [0; HEADER];
        trailer[..8].copy_from_slice(SEAL);
        trailer[8..16].copy_from_slice(&self.end.to_le_bytes());
        trailer[16..48].copy_from_slice(blake3::hash(&footer).as_bytes());
        let checksum = blake3::hash(&trailer[..56]);
        trailer[56..].copy_from_slice(&checksum.as_bytes()[..8]);
        footer.extend_from_slice(&trailer);
        self.sync()?;
        self.write(&footer)?;
        self.sync()?;
        crash::point("log.sealed");
        self.unsign()?;
        Ok(self.keys.len())
    }

    fn unsign(&self) -> Result<(), CacheError> {
        atomic::remove(&signature_of(&self.path))
    }
}
