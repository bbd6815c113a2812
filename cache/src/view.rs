//! View: the lock-free reader of a store. It never blocks and never writes, but for moving a corrupt blob aside (C4).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crate::guard::lock;
use crate::log::{self, Reader};
use crate::summary::{Snapshot, Stamp};
use crate::{
    CacheError, Digest, Fault, Layout, Output, OutputKind, Record, Remote, Summary, TreeFile, atomic, blob,
    layout, tree,
};

/// A reader of the store at one root, which need not exist yet. Cheap to clone; clones share what they found out.
#[derive(Clone)]
pub struct View {
    inner: Arc<Inner>,
    /// Where what is not here may be.
    remote: Option<Remote>,
}

struct Inner {
    layout: Layout,
    /// False for a store of an unknown version: everything is then a miss.
    readable: bool,
    snapshot: OnceLock<Option<Snapshot>>,
    /// Whether a directory was seen that the snapshot does not know as it is.
    outdated: AtomicBool,
    faults: Mutex<BTreeSet<Fault>>,
    /// Blobs hashed by this process, with what the file looked like: an input of many nodes is hashed once.
    checked: Mutex<BTreeMap<Digest, Seen>>,
}

/// Which directories of records have been looked at, and whether they were as the summary knows them.
#[derive(Debug, Clone)]
pub struct Moment {
    unchanged: [Option<bool>; 256],
}

impl Default for Moment {
    fn default() -> Self {
        Self { unchanged: [None; 256] }
    }
}

/// Inode, size, modification and change time of a file.
type Seen = (u64, u64, [i64; 4]);

impl View {
    /// Opens the store at `root`; nothing is created and nothing can fail, since a store that is not there is empty.
    pub fn open(root: &Path) -> Self {
        // Links into the store must work from any directory.
        let layout = Layout::new(std::path::absolute(root).unwrap_or_else(|_| root.to_owned()));
        let mut faults = BTreeSet::new();
        let readable = match check_version(&layout) {
            Ok(_) => true,
            Err(error) => {
                faults.insert(Fault::new(layout.version_file(), error.to_string()));
                false
            }
        };
        Self {
            inner: Arc::new(Inner {
                layout,
                readable,
                snapshot: OnceLock::new(),
                outdated: AtomicBool::new(false),
                faults: Mutex::new(faults),
                checked: Mutex::default(),
            }),
            remote: None,
        }
    }

    /// The same reader, which looks for what is not here in a shared cache: records when it is told to
    /// ([`View::ask`]), blobs when their bytes are needed, responses when a stream is opened.
    #[must_use]
    pub fn with_remote(mut self, remote: Option<Remote>) -> Self {
        self.remote = remote;
        self
    }

    /// The shared cache, if there is one.
    pub fn remote(&self) -> Option<&Remote> {
        self.remote.as_ref()
    }

    /// Asks the shared cache for the records of actions, many at once and each once; whether there is one to ask. What can
    /// be used is found by [`View::summary`] and [`View::record`] from then on.
    pub fn ask(&self, actions: &[Digest]) -> bool {
        let Some(remote) = &self.remote else { return false };
        if self.inner.readable {
            remote.ask_records(self.layout(), actions);
        }
        true
    }

    /// Looks in the shared cache for the blobs of outputs that are not here, many at once, so that
    /// [`View::has_output`] need not ask for each.
    pub fn ask_outputs(&self, outputs: &[Output]) {
        if let Some(remote) = &self.remote {
            remote.ask_outputs(self.layout(), outputs);
        }
    }

    /// Where everything is.
    pub fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    /// What was found wrong so far and treated as missing.
    pub fn faults(&self) -> Vec<Fault> {
        lock(&self.inner.faults).iter().cloned().collect()
    }

    pub(crate) fn report(&self, fault: Fault) {
        lock(&self.inner.faults).insert(fault);
    }

    /// The record of an action, of this store or of the shared cache as far as that was asked. One that is damaged is a
    /// miss and a fault.
    pub fn record(&self, action: &Digest) -> Result<Option<Record>, CacheError> {
        let here = self.record_here(action)?;
        Ok(match &here {
            Some(record) if record.owed == 0 => here,
            _ => self.learned(action).map(|record| Record::clone(&record)).or(here),
        })
    }

    /// The record of an action that the shared cache gave.
    fn learned(&self, action: &Digest) -> Option<Arc<Record>> {
        self.remote.as_ref()?.learned(action)
    }

    /// The record of an action in this store.
    pub(crate) fn record_here(&self, action: &Digest) -> Result<Option<Record>, CacheError> {
        if !self.inner.readable {
            return Ok(None);
        }
        let path = self.layout().record(action);
        // Looked for under its final name once more, in case it got that between the first two looks.
        let provisional =
            self.layout().boot().map(|boot| self.layout().provisional(boot).join(action.to_string()));
        for path in [Some(&path), provisional.as_ref(), Some(&path)].into_iter().flatten() {
            let Some(bytes) = atomic::read(path)? else { continue };
            return match Record::decode(action, &bytes) {
                Ok(record) => Ok(Some(record)),
                Err(what) => {
                    self.report(Fault::new(path, what));
                    Ok(None)
                }
            };
        }
        Ok(None)
    }

    /// What planning needs of a record, without opening its file where the summary can be believed.
    /// Always as of now: a commit by any process is seen by the next call.
    pub fn summary(&self, action: &Digest) -> Result<Option<Summary>, CacheError> {
        self.summary_at(&mut Moment::default(), action)
    }

    /// [`View::summary`] as of one moment: each directory of records is looked at once. What is committed later may be
    /// missed; what was there is found.
    pub fn summary_at(&self, moment: &mut Moment, action: &Digest) -> Result<Option<Summary>, CacheError> {
        let here = self.summary_here(moment, action)?;
        Ok(match &here {
            Some(summary) if summary.owed == 0 => here,
            _ => self.learned(action).map(|record| Summary::from(Record::clone(&record))).or(here),
        })
    }

    fn summary_here(&self, moment: &mut Moment, action: &Digest) -> Result<Option<Summary>, CacheError> {
        if !self.inner.readable {
            return Ok(None);
        }
        let snapshot = self.inner.snapshot.get_or_init(|| {
            Snapshot::load(self.layout()).unwrap_or_else(|fault| {
                self.report(fault);
                None
            })
        });
        let Some(snapshot) = snapshot else { return Ok(self.record_here(action)?.map(Summary::from)) };
        let byte = action.as_bytes()[0];
        let look = || -> Result<bool, CacheError> {
            let shard = self.layout().record_shard(byte);
            let stamp = Stamp::of(&shard).map_err(CacheError::io("inspect", &shard))?;
            let unchanged = stamp.unwrap_or_default() == snapshot.shard(byte);
            self.inner.outdated.fetch_or(!unchanged, Ordering::Relaxed);
            Ok(unchanged)
        };
        let seen = &mut moment.unchanged[byte as usize];
        let unchanged = match *seen {
            Some(unchanged) => unchanged,
            None => *seen.insert(look()?),
        };
        match snapshot.find(action) {
            Some(entry) if unchanged || entry.holds(self.layout(), action) => Ok(Some(entry.summary)),
            // Looked at again afterwards, in case the record moved from one place to the other in between.
            // Other machines' file systems may show a directory as it was a moment ago.
            None if unchanged && !self.layout().is_shared() && !self.is_provisional(action) && look()? => {
                Ok(None)
            }
            _ => Ok(self.record_here(action)?.map(Summary::from)),
        }
    }

    /// Whether the summary was read, and every directory of records looked at so far was as it says.
    pub(crate) fn found_summary_current(&self) -> bool {
        matches!(self.inner.snapshot.get(), Some(Some(_))) && !self.inner.outdated.load(Ordering::Relaxed)
    }

    fn is_provisional(&self, action: &Digest) -> bool {
        self.layout()
            .boot()
            .is_some_and(|boot| self.layout().provisional(boot).join(action.to_string()).exists())
    }

    /// Whether every blob of the output exists with its size, here or in the shared cache. Their bytes are not read, but
    /// for a tree's list.
    pub fn has_output(&self, output: &Output) -> bool {
        let has = |digest: &Digest, bytes: u64| {
            let there = || self.remote.as_ref().is_some_and(|remote| remote.has_blob(digest, bytes));
            blob::has(self.layout(), digest, bytes) || there()
        };
        match output.kind {
            OutputKind::File => has(&output.digest, output.bytes),
            OutputKind::Tree => self
                .tree(&output.digest)
                .is_ok_and(|files| files.iter().all(|file| has(&file.digest, file.bytes))),
        }
    }

    /// Whether every blob of the output exists with its size in this store.
    pub fn is_here(&self, output: &Output) -> bool {
        let here = |digest: &Digest, bytes: u64| blob::has(self.layout(), digest, bytes);
        match output.kind {
            OutputKind::File => here(&output.digest, output.bytes),
            OutputKind::Tree => blob::read(self.layout(), &output.digest).is_ok_and(|list| {
                tree::decode(&list).is_ok_and(|files| files.iter().all(|file| here(&file.digest, file.bytes)))
            }),
        }
    }

    /// Hashes every blob of an output; the first that is missing or damaged is the error.
    pub fn check_output(&self, output: &Output) -> Result<(), CacheError> {
        match output.kind {
            OutputKind::File => self.check(&output.digest),
            OutputKind::Tree => {
                self.tree(&output.digest)?.iter().try_for_each(|file| self.check(&file.digest))
            }
        }
    }

    /// Fetches what this store lacks of some outputs from the shared cache.
    pub fn bring(&self, outputs: &[Output]) -> Result<(), CacheError> {
        let Some(remote) = &self.remote else { return Ok(()) };
        let mut blobs = Vec::new();
        for output in outputs {
            match output.kind {
                OutputKind::File => blobs.push((output.digest, output.bytes)),
                OutputKind::Tree => match self.tree(&output.digest) {
                    Ok(files) => blobs.extend(files.into_iter().map(|file| (file.digest, file.bytes))),
                    // Its list is missing there too, or wrong: then so is the output, which whoever needs it will find.
                    Err(CacheError::MissingBlob { .. } | CacheError::CorruptBlob { .. }) => {}
                    Err(error) => return Err(error),
                },
            }
        }
        blobs.sort_unstable();
        blobs.dedup();
        remote.bring_all(self.layout(), &blobs)
    }

    /// Fetches a blob that is not here from the shared cache, if it is there.
    fn bring_blob(&self, digest: &Digest) -> Result<(), CacheError> {
        match &self.remote {
            Some(remote) if !self.blob_path(digest).exists() => remote.bring(self.layout(), digest, None),
            _ => Ok(()),
        }
    }

    /// Where a blob is, if it is there.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.layout().blob(digest)
    }

    /// The same, after hashing its bytes: for readers too large to read them at once.
    pub fn verified_path(&self, digest: &Digest) -> Result<PathBuf, CacheError> {
        self.check(digest)?;
        Ok(self.blob_path(digest))
    }

    /// A blob's bytes, hashed.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, CacheError> {
        self.bring_blob(digest)?;
        blob::read(self.layout(), digest)
    }

    /// The files of a tree, from its verified blob.
    pub fn tree(&self, digest: &Digest) -> Result<Vec<TreeFile>, CacheError> {
        let bytes = self.read_blob(digest)?;
        tree::decode(&bytes).map_err(|what| CacheError::Refused { path: self.blob_path(digest), what })
    }

    /// Hashes every blob of the output, then puts it at `to` as read-only links: a file is a link, a tree a directory of
    /// links. `to` must not exist.
    pub fn materialize(&self, output: &Output, to: &Path) -> Result<(), CacheError> {
        self.place(output, to, &|digest, to| {
            symlink(self.blob_path(digest), to).map_err(CacheError::io("link", to))
        })
    }

    /// Copies the output to `to`, hashing what was copied. The copies are writable. `to` must not exist.
    pub fn export(&self, output: &Output, to: &Path) -> Result<(), CacheError> {
        self.bring(std::slice::from_ref(output))?;
        match output.kind {
            OutputKind::File => blob::copy(self.layout(), &output.digest, to),
            OutputKind::Tree => {
                let files = self.tree(&output.digest)?;
                place_tree(&files, to, &|digest, to| blob::copy(self.layout(), digest, to))
            }
        }
    }

    fn place(&self, output: &Output, to: &Path, put: &Put<'_>) -> Result<(), CacheError> {
        self.bring(std::slice::from_ref(output))?;
        match output.kind {
            OutputKind::File => {
                self.check(&output.digest)?;
                put(&output.digest, to)
            }
            OutputKind::Tree => {
                let files = self.tree(&output.digest)?;
                files.iter().try_for_each(|file| self.check(&file.digest))?;
                place_tree(&files, to, put)
            }
        }
    }

    /// Hashes a blob, once for as long as this process sees the same file.
    fn check(&self, digest: &Digest) -> Result<(), CacheError> {
        self.bring_blob(digest)?;
        let path = self.blob_path(digest);
        let seen = || -> Option<Seen> {
            let of = fs::metadata(&path).ok()?;
            Some((of.ino(), of.size(), [of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec()]))
        };
        let before = seen();
        if before.is_some() && lock(&self.inner.checked).get(digest) == before.as_ref() {
            return Ok(());
        }
        blob::check(self.layout(), digest)?;
        if let Some(before) = before {
            lock(&self.inner.checked).insert(*digest, before);
        }
        Ok(())
    }

    /// What is stored of one stream of records.
    pub fn logged(&self, stream: &Digest) -> Result<Logged, CacheError> {
        if let Some(remote) = &self.remote {
            // Where nothing can be written, what is here has to do.
            let _ = remote.bring_stream(self.layout(), stream);
        }
        Ok(Logged(Reader::open(self.layout(), stream)?))
    }

    /// Every stream of records, with the statement of what it is.
    pub fn streams(&self) -> Result<Vec<(Digest, serde_json::Value)>, CacheError> {
        let mut streams = Vec::new();
        for path in atomic::list(&self.layout().logs())? {
            let Some(stream) = path.file_name().and_then(layout::named) else { continue };
            let about = atomic::read(&log::about_file(&path))?;
            let about = about.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            streams.extend(about.map(|about| (stream, about)));
        }
        Ok(streams)
    }

    /// The payload of a log entry, whatever its stream: for going from a table's `record_key` back to the raw response.
    pub fn find_logged(&self, key: &Digest) -> Result<Option<Vec<u8>>, CacheError> {
        if !self.inner.readable {
            return Ok(None);
        }
        for path in atomic::list(&self.layout().logs())? {
            let Some(stream) = path.file_name().and_then(layout::named) else { continue };
            let reader = Reader::open(self.layout(), &stream)?;
            let found = reader.get(key)?;
            for fault in reader.faults() {
                self.report(fault);
            }
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

/// What is stored of one stream of records, to read.
pub struct Logged(Reader);

impl Logged {
    /// Whether there is a record of `key`.
    pub fn has(&self, key: &Digest) -> bool {
        self.0.has(key)
    }

    /// The record of `key`.
    pub fn get(&self, key: &Digest) -> Result<Option<Vec<u8>>, CacheError> {
        self.0.get(key)
    }

    /// At most `count` records. Keys are digests, so the least of them are as good as drawn.
    pub fn some(&self, count: usize) -> Vec<Vec<u8>> {
        let keys = self.0.least_keys(count);
        keys.iter().filter_map(|key| self.0.get(key).ok().flatten()).collect()
    }
}

/// Puts a blob at a path.
type Put<'a> = dyn Fn(&Digest, &Path) -> Result<(), CacheError> + 'a;

fn place_tree(files: &[TreeFile], to: &Path, put: &Put<'_>) -> Result<(), CacheError> {
    fs::create_dir(to).map_err(CacheError::io("create", to))?;
    let mut made = to.to_owned();
    for file in files {
        let path = to.join(&file.path);
        let directory = atomic::parent(&path);
        if directory != made {
            fs::create_dir_all(directory).map_err(CacheError::io("create", directory))?;
            directory.clone_into(&mut made);
        }
        put(&file.digest, &path)?;
    }
    Ok(())
}

/// Whether the version file is there and ours; an error when it names another version. One that names none was damaged,
/// and a writer writes it again: everything else in the store has checksums of its own.
pub(crate) fn check_version(layout: &Layout) -> Result<bool, CacheError> {
    let path = layout.version_file();
    let Some(bytes) = atomic::read(&path)? else { return Ok(false) };
    let text = String::from_utf8_lossy(&bytes);
    let found = text.lines().next().unwrap_or_default().trim();
    if found == layout::VERSION {
        return Ok(true);
    }
    match found.strip_prefix("dag-store ").map(str::parse::<u64>) {
        Some(Ok(_)) => Err(CacheError::Version { path, found: found.to_owned() }),
        _ => Ok(false),
    }
}
