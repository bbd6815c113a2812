//! Group commit: records become durable together, a moment after they became visible.
//!
//! Syncing every small file on its own would cost several disk round trips for each action. Instead a record is first
//! written under `provisional/<boot>/`, unsynced, where every reader on this machine finds it. A moment later a thread
//! syncs everything its batch wrote and only then gives the records their final names. What that keeps:
//!
//! * After the death of the process nothing is lost: the files are in the kernel's hands, and the next writer adopts them.
//! * After a power cut the machine has another boot id, so provisional records count no more; a record with its final name
//!   was synced after every blob it names (C2).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::guard::lock;
use crate::{CacheError, Digest, Layout, Output, OutputKind, Record, View, atomic, crash, layout};

/// How long a batch collects records: this, and the time of the sync, is what a power cut can cost.
const COLLECT: Duration = Duration::from_secs(1);
/// Up to this many records are synced file by file; more by syncing the file system, which waits for other programs'
/// writes too but takes two round trips in all.
const ONE_BY_ONE: usize = 4;

/// The records of this process that are visible and not yet durable.
#[derive(Clone)]
pub(crate) struct Batch {
    shared: Arc<Shared>,
}

struct Shared {
    view: View,
    state: Mutex<State>,
    /// Held while a batch is being synced.
    syncing: Mutex<()>,
}

#[derive(Default)]
struct State {
    collecting: BTreeSet<Digest>,
    syncing: BTreeSet<Digest>,
    /// Whether a thread is going to sync what is being collected.
    scheduled: bool,
    /// A failure that nobody has heard of yet.
    failed: Option<CacheError>,
}

impl Batch {
    /// A batch that begins with what processes of this boot left when they died.
    pub(crate) fn open(view: &View) -> Result<Self, CacheError> {
        let shared = Shared { view: view.clone(), state: Mutex::default(), syncing: Mutex::new(()) };
        let batch = Self { shared: Arc::new(shared) };
        if let Some(boot) = view.layout().boot() {
            for path in atomic::list(&view.layout().provisional(boot))? {
                if let Some(action) = path.file_name().and_then(layout::named) {
                    batch.add(action);
                }
            }
        }
        Ok(batch)
    }

    /// Whether no record waits to become durable.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.shared.state).collecting.is_empty()
    }

    /// Makes a record visible, to be durable soon. Fails when an earlier batch did.
    pub(crate) fn commit(&self, record: &Record) -> Result<(), CacheError> {
        let bytes = record.encode()?;
        let action = &record.action;
        let layout = self.shared.view.layout();
        let state = lock(&self.shared.state);
        let underway = state.collecting.contains(action) || state.syncing.contains(action);
        drop(state);
        if underway {
            self.sync()?;
        }
        self.failure()?;
        let path = layout.record(action);
        match layout.boot() {
            // Readers look for the final name first, so a record that replaces one goes there at once.
            Some(boot) if !path.exists() => {
                write(layout, &bytes, &layout.provisional(boot).join(action.to_string()))?;
                crash::point("record.written");
                self.add(*action);
                Ok(())
            }
            _ => {
                self.shared.sync_outputs(record.outputs.values())?;
                let mut staged = atomic::Staged::create(layout)?;
                staged.write_all(&bytes)?;
                staged.publish(&path, 0o644)
            }
        }
    }

    fn add(&self, action: Digest) {
        let mut state = lock(&self.shared.state);
        state.collecting.insert(action);
        if !state.scheduled {
            state.scheduled = true;
            let shared = Arc::clone(&self.shared);
            std::thread::spawn(move || {
                std::thread::sleep(COLLECT);
                shared.sync();
            });
        }
    }

    /// Makes outputs durable.
    pub(crate) fn sync_outputs<'o>(
        &self,
        outputs: impl IntoIterator<Item = &'o Output>,
    ) -> Result<(), CacheError> {
        self.shared.sync_outputs(outputs)
    }

    /// Makes every record committed so far durable.
    pub(crate) fn sync(&self) -> Result<(), CacheError> {
        self.shared.sync();
        self.failure()
    }

    fn failure(&self) -> Result<(), CacheError> {
        lock(&self.shared.state).failed.take().map_or(Ok(()), Err)
    }
}

impl Shared {
    fn sync(&self) {
        let _one_at_a_time = lock(&self.syncing);
        let actions = {
            let mut state = lock(&self.state);
            state.scheduled = false;
            state.syncing = std::mem::take(&mut state.collecting);
            state.syncing.clone()
        };
        let result = if actions.is_empty() { Ok(()) } else { self.promote(&actions) };
        let mut state = lock(&self.state);
        state.syncing.clear();
        if let Err(error) = result {
            // They stay visible until the machine stops, and the next writer tries again.
            state.failed = Some(error);
        }
    }

    /// Syncs the outputs of some provisional records and the records, then gives them their final names, durably.
    fn promote(&self, actions: &BTreeSet<Digest>) -> Result<(), CacheError> {
        let layout = self.view.layout();
        let Some(boot) = layout.boot() else { return Ok(()) };
        let provisional = layout.provisional(boot);
        let all_at_once = actions.len() > ONE_BY_ONE && sync_file_system(layout.root())?;
        if !all_at_once {
            for action in actions {
                let path = provisional.join(action.to_string());
                // Gone when another process adopted it, or when it was forgotten.
                if let Some(bytes) = atomic::read(&path)? {
                    if let Ok(record) = Record::decode(action, &bytes) {
                        self.sync_outputs(record.outputs.values())?;
                    }
                    sync_file(&path)?;
                }
            }
        }
        crash::point("record.synced");
        let mut shards = BTreeSet::new();
        for action in actions {
            let path = layout.record(action);
            if rename(&provisional.join(action.to_string()), &path)? {
                shards.insert(atomic::parent(&path).to_owned());
            }
            crash::point("record.renamed");
        }
        if !(all_at_once && sync_file_system(layout.root())?) {
            shards.insert(layout.records());
            shards.iter().try_for_each(|shard| atomic::sync_dir(shard))?;
        }
        Ok(())
    }

    /// Syncs every blob the outputs name, and the directories they lie in.
    fn sync_outputs<'o>(&self, outputs: impl IntoIterator<Item = &'o Output>) -> Result<(), CacheError> {
        let layout = self.view.layout();
        let mut blobs = BTreeSet::new();
        for output in outputs {
            blobs.insert(output.digest);
            if output.kind == OutputKind::Tree {
                match self.view.tree(&output.digest) {
                    Ok(files) => blobs.extend(files.into_iter().map(|file| file.digest)),
                    // Collected, or not fetched yet: a record may be there without its blobs.
                    Err(CacheError::MissingBlob { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let mut shards = BTreeSet::new();
        for blob in &blobs {
            let path = layout.blob(blob);
            // A record of a shared cache may be here without its blobs, and then without their directories.
            if !sync_file(&path)? {
                continue;
            }
            let shard = atomic::parent(&path);
            shards.extend([shard.to_owned(), atomic::parent(shard).to_owned()]);
        }
        shards.iter().try_for_each(|shard| atomic::sync_dir(shard))
    }
}

fn write(layout: &Layout, bytes: &[u8], to: &Path) -> Result<(), CacheError> {
    let mut staged = atomic::Staged::create(layout)?;
    staged.write_all(bytes)?;
    staged.publish_unsynced(to, 0o644)
}

/// Renames a record into a directory that may not exist yet; false when there is none.
fn rename(from: &Path, to: &PathBuf) -> Result<bool, CacheError> {
    atomic::make_parent(to)?;
    match fs::rename(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(CacheError::io("create", to)(error)),
    }
}

/// Syncs a file's bytes; false for one that is not there, which has nothing to sync.
fn sync_file(path: &Path) -> Result<bool, CacheError> {
    match File::open(path).and_then(|file| file.sync_all()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(CacheError::io("sync", path)(error)),
    }
}

/// Syncs everything written so far to the file system of `root`; false where the system cannot.
#[cfg(target_os = "linux")]
fn sync_file_system(root: &Path) -> Result<bool, CacheError> {
    use std::os::fd::AsRawFd;

    let directory = File::open(root).map_err(CacheError::io("open", root))?;
    // SAFETY: `syncfs` only reads the descriptor, which is open until the end of this function.
    if unsafe { libc::syncfs(directory.as_raw_fd()) } == 0 {
        Ok(true)
    } else {
        Err(CacheError::io("sync", root)(io::Error::last_os_error()))
    }
}

/// Syncs everything written so far to the file system of `root`; false where the system cannot.
#[cfg(not(target_os = "linux"))]
fn sync_file_system(_root: &Path) -> Result<bool, CacheError> {
    Ok(false)
}
