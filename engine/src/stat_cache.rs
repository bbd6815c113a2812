//! Digests of local files by content, remembered by what the file system says of them.
//!
//! A file is hashed again when its device, inode, size, modification or change time differs from when it was hashed. A
//! file that was changed within [`SETTLE`] of being hashed is remembered for this process only: on a file system with
//! coarse times it could change once more without a trace. The memory is one file in the store, read once, written
//! whole and only if something was learned, and disposable.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dag_cache::{Digest, Layout};

use crate::graph::FileInput;
use crate::remote::{Content, NoResolver, Pinned, Resolver};
use crate::task::{FileKind, Missing};
use crate::{files, glob};

/// The machine's clock, given by the command line.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// How old a change must be before its time is taken to tell it from the next one.
const SETTLE: Duration = Duration::from_secs(2);
const MAGIC: &[u8] = b"dag-stat 1\n";
/// Directories below a tree deeper than this are taken for a loop of links.
const DEEPEST: usize = 64;

/// A file, tree or address whose content cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceFault {
    /// A local file or tree cannot be read.
    #[error("`{}`: {what}", path.display())]
    Local {
        /// The file, tree or pattern.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// An address cannot be pinned down. It is no fault of the plan: nothing else depends on it.
    #[error("{} ({})", .0.what, .0.help)]
    Remote(Missing),
}

impl SourceFault {
    fn io(path: &Path, error: &io::Error) -> Self {
        let what = match error.kind() {
            io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            _ => error.to_string(),
        };
        Self::Local { path: path.to_owned(), what }
    }
}

/// What the file system says of a file: device, inode, size, and nanoseconds of its last modification and change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp([u64; 5]);

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let of = fs::metadata(path)?;
        if !of.is_file() {
            return Err(io::Error::other(if of.is_dir() {
                "is a directory"
            } else {
                "is not a regular file"
            }));
        }
        let nanoseconds =
            |seconds: i64, rest: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(rest) as u64;
        Ok(Self([
            of.dev(),
            of.ino(),
            of.size(),
            nanoseconds(of.mtime(), of.mtime_nsec()),
            nanoseconds(of.ctime(), of.ctime_nsec()),
        ]))
    }

    /// Whether the last change lies long enough before `now` (nanoseconds since 1970).
    fn is_settled(&self, now: u64) -> bool {
        self.0[3].max(self.0[4]).saturating_add(SETTLE.as_nanos() as u64) <= now
    }
}

/// A file, and its content when it was last looked at.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// The digest of its bytes.
    pub digest: Digest,
    stamp: Stamp,
}

impl SourceFile {
    /// Whether the file still holds those bytes. Asked after a task has read it (a file that changes while it is read
    /// must not decide a result that is kept).
    pub fn is_unchanged(&self) -> bool {
        match Stamp::of(&self.path) {
            Ok(stamp) if stamp == self.stamp => true,
            Ok(_) => hash(&self.path).is_ok_and(|digest| digest == self.digest),
            Err(_) => false,
        }
    }
}

/// The files behind one param, and the digests that stand for them in the key.
#[derive(Debug, Clone)]
pub struct Source {
    /// Every local file, in the order of the contents.
    pub files: Vec<SourceFile>,
    /// For the key: a digest per file, or one for a whole tree, over the names in it and their contents; for an address
    /// what it was pinned to.
    pub contents: Vec<Content>,
    /// The pinned address, of data elsewhere.
    pub address: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    stamp: Stamp,
    digest: Digest,
    /// Whether the next process may believe it.
    settled: bool,
}

/// Digests of local files.
pub struct StatCache {
    path: PathBuf,
    /// By the bytes of the path: comparing `Path`s goes through their components, which is ten times slower.
    entries: BTreeMap<OsString, Entry>,
    clock: Clock,
    changed: bool,
    resolver: Arc<dyn Resolver>,
    /// What addresses were found to mean, for as long as the process lives.
    pinned: BTreeMap<PathBuf, Result<Pinned, Missing>>,
    warnings: Vec<String>,
}

impl StatCache {
    /// With what earlier processes have left in the store.
    pub fn load(layout: &Layout, clock: Clock) -> Self {
        let path = layout.stat_cache();
        let entries = fs::read(&path).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        Self {
            path,
            entries,
            clock,
            changed: false,
            resolver: Arc::new(NoResolver),
            pinned: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }

    /// Asks `resolver` what addresses mean.
    #[must_use]
    pub fn with_resolver(mut self, resolver: Arc<dyn Resolver>) -> Self {
        self.resolver = resolver;
        self
    }

    /// What the user should know of how addresses were pinned down; each is told once.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    fn remote(&mut self, address: &Path) -> Result<Source, SourceFault> {
        if !self.pinned.contains_key(address) {
            let found = self.resolver.resolve(&address.to_string_lossy());
            self.warnings.extend(found.iter().filter_map(|pinned| pinned.warning.clone()));
            self.pinned.insert(address.to_owned(), found);
        }
        match &self.pinned[address] {
            Ok(Pinned { address, content, .. }) => Ok(Source {
                files: Vec::new(),
                contents: vec![content.clone()],
                address: Some(address.clone()),
            }),
            Err(missing) => Err(SourceFault::Remote(missing.clone())),
        }
    }

    /// The content of the file at `path`.
    pub fn file(&mut self, path: &Path) -> Result<SourceFile, SourceFault> {
        let stamp = Stamp::of(path).map_err(|error| SourceFault::io(path, &error))?;
        let found =
            self.entries.get(path.as_os_str()).filter(|entry| entry.stamp == stamp).map(|entry| entry.digest);
        let digest = match found {
            Some(digest) => digest,
            None => self.read(path, stamp)?,
        };
        Ok(SourceFile { path: path.to_owned(), digest, stamp })
    }

    fn read(&mut self, path: &Path, stamp: Stamp) -> Result<Digest, SourceFault> {
        let now = (self.clock)().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let digest = hash(path).map_err(|error| SourceFault::io(path, &error))?;
        let settled = stamp.is_settled(now.as_nanos() as u64);
        self.changed |= settled;
        self.entries.insert(path.into(), Entry { stamp, digest, settled });
        Ok(digest)
    }

    /// The files that a param names, and their content.
    pub fn source(&mut self, input: &FileInput) -> Result<Source, SourceFault> {
        let failed = |error: io::Error| SourceFault::io(&input.path, &error);
        let paths = match input.kind {
            FileKind::File => vec![input.path.clone()],
            FileKind::Glob => glob::find(&input.path).map_err(failed)?,
            FileKind::Tree => tree(&input.path).map_err(failed)?,
            FileKind::Remote => return self.remote(&input.path),
        };
        if paths.is_empty() {
            return Err(SourceFault::Local { path: input.path.clone(), what: "holds no file".to_owned() });
        }
        let files = paths.iter().map(|path| self.file(path)).collect::<Result<Vec<_>, _>>()?;
        let contents = match input.kind {
            FileKind::Tree => vec![Content::Digest(tree_digest(&input.path, &files))],
            _ => files.iter().map(|file| Content::Digest(file.digest)).collect(),
        };
        Ok(Source { files, contents, address: None })
    }

    /// Leaves what was learned to the next process.
    pub fn save(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.changed) {
            return Ok(());
        }
        // Files that are gone are forgotten when something else is learned, so that the memory does not grow for ever.
        self.entries.retain(|path, _| Path::new(path).exists());
        files::replace(&self.path, &encode(&self.entries))
    }
}

fn hash(path: &Path) -> io::Result<Digest> {
    Ok(Digest::of_reader(File::open(path)?)?.0)
}

/// All regular files below `root`, sorted by path; links are followed.
fn tree(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![(root.to_owned(), 0)];
    while let Some((directory, depth)) = open.pop() {
        if depth > DEEPEST {
            return Err(io::Error::other("its directories do not end"));
        }
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if fs::metadata(&path)?.is_dir() {
                open.push((path, depth + 1));
            } else {
                found.push(path);
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// One digest over the names below `root` and the contents.
fn tree_digest(root: &Path, files: &[SourceFile]) -> Digest {
    let mut bytes = Vec::new();
    for file in files {
        let name = file.path.strip_prefix(root).unwrap_or(&file.path).as_os_str().as_bytes();
        bytes.extend_from_slice(&(name.len() as u64).to_le_bytes());
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(file.digest.as_bytes());
    }
    Digest::of(&bytes)
}

/// The settled entries: magic, then per entry length and bytes of the path, stamp, digest; then a checksum.
fn encode(entries: &BTreeMap<OsString, Entry>) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for (path, entry) in entries.iter().filter(|(_, entry)| entry.settled) {
        let path = path.as_bytes();
        bytes.extend_from_slice(&(path.len() as u32).to_le_bytes());
        bytes.extend_from_slice(path);
        entry.stamp.0.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        bytes.extend_from_slice(entry.digest.as_bytes());
    }
    let checksum = Digest::of(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    bytes
}

/// The entries of the file; `None` if it is not whole.
fn decode(bytes: &[u8]) -> Option<BTreeMap<OsString, Entry>> {
    let (content, checksum) = bytes.split_last_chunk::<32>()?;
    if Digest::of(content).as_bytes() != checksum {
        return None;
    }
    let mut rest = content.strip_prefix(MAGIC)?;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (path, mut after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let mut stamp = [0; 5];
        for number in &mut stamp {
            let (bytes, following) = after.split_first_chunk::<8>()?;
            *number = u64::from_le_bytes(*bytes);
            after = following;
        }
        let (digest, after) = after.split_first_chunk::<32>()?;
        let entry = Entry { stamp: Stamp(stamp), digest: Digest::from_bytes(*digest), settled: true };
        entries.push((OsStr::from_bytes(path).to_owned(), entry));
        rest = after;
    }
    Some(entries.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that stands `seconds` after the epoch's year 2100, long after any file of the test was written.
    fn late() -> Clock {
        Arc::new(|| SystemTime::UNIX_EPOCH + Duration::from_hours(1_139_568))
    }

    fn early() -> Clock {
        Arc::new(|| SystemTime::UNIX_EPOCH)
    }

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn input(path: &Path, kind: FileKind) -> FileInput {
        FileInput { pointer: "/path".into(), path: path.to_owned(), kind }
    }

    #[test]
    fn a_settled_file_is_remembered_and_a_changed_one_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("store"));
        let path = dir.path().join("a");
        write(&path, "one");
        let mut cache = StatCache::load(&layout, late());
        assert_eq!(cache.file(&path).unwrap().digest, Digest::of(b"one"));
        cache.save().unwrap();
        let mut cache = StatCache::load(&layout, late());
        assert_eq!(cache.entries.len(), 1);
        let before = cache.file(&path).unwrap();
        assert!(!cache.changed, "nothing was learned");
        write(&path, "twelve");
        assert!(!before.is_unchanged());
        assert_eq!(cache.file(&path).unwrap().digest, Digest::of(b"twelve"));
        assert!(cache.changed);
    }

    #[test]
    fn a_file_changed_just_now_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("store"));
        let path = dir.path().join("a");
        write(&path, "one");
        let mut cache = StatCache::load(&layout, early());
        cache.file(&path).unwrap();
        cache.save().unwrap();
        assert!(!layout.stat_cache().exists());
    }

    #[test]
    fn a_damaged_memory_is_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write(&path, "one");
        let mut cache = StatCache::load(&Layout::new(dir.path().join("store")), late());
        cache.file(&path).unwrap();
        let bytes = encode(&cache.entries);
        assert_eq!(decode(&bytes).unwrap().len(), 1);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(decode(&damaged).is_none());
            assert!(decode(&bytes[..at]).is_none());
        }
    }

    #[test]
    fn a_tree_is_known_by_names_and_contents_and_not_by_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = StatCache::load(&Layout::new(dir.path().join("store")), late());
        let mut digest = |files: &[(&str, &str)], name: &str| {
            let root = dir.path().join(name);
            for (path, text) in files {
                write(&root.join(path), text);
            }
            cache.source(&input(&root, FileKind::Tree)).unwrap().contents
        };
        let one = digest(&[("x/b", "1"), ("a", "2")], "one");
        assert_eq!(one, digest(&[("a", "2"), ("x/b", "1")], "two"));
        assert_ne!(one, digest(&[("a", "2"), ("x/c", "1")], "three"));
        assert_ne!(one, digest(&[("a", "2"), ("x/b", "3")], "four"));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = StatCache::load(&Layout::new(dir.path().join("store")), late());
        let fault = cache.source(&input(&dir.path().join("no"), FileKind::File)).unwrap_err();
        assert!(fault.to_string().ends_with("/no`: no such file or directory"), "{fault}");
        let fault = cache.source(&input(&dir.path().join("*.no"), FileKind::Glob)).unwrap_err();
        assert!(fault.to_string().ends_with("holds no file"), "{fault}");
    }
}
