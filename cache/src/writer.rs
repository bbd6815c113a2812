//! Writer: puts blobs and records into the store, in the order that keeps it true (C2).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::atomic::{self, Staged};
use crate::batch::Batch;
use crate::guard::lock;
use crate::index::{self, Index};
use crate::remote::{Gift, Uploads};
use crate::view::check_version;
use crate::{
    CacheError, Digest, Fault, LeaseAttempt, Output, OutputKind, Record, RecordLog, Remote, RemoteReport,
    TreeFile, View, blob, layout, lease, log, summary, touch, tree,
};

/// Opening the index costs some 30 ms, so a run opens it only when it changed at least so many records or log entries.
/// What was not indexed then is when it is opened next.
const INDEX_FROM: usize = 256;
/// Lists of used actions are folded into the index before there are many of them.
const LIST_COUNTS_AS: usize = 16;

/// Writes to the store at one root. Any number of writers, in any number of processes, may be at work at once.
pub struct Writer {
    view: View,
    batch: Batch,
    /// Whether this writer has changed records, those it found provisional included.
    changed: AtomicBool,
    /// The streams open in this process, so that all tasks of it share one segment of each.
    logs: Mutex<BTreeMap<Digest, Weak<RecordLog>>>,
    /// Gives what is made here to the shared cache.
    uploads: Option<Arc<Uploads>>,
}

impl Writer {
    /// Opens the store at `root`, creating what is missing.
    pub fn open(root: &Path) -> Result<Self, CacheError> {
        let view = View::open(root);
        let layout = view.layout();
        if !check_version(layout)? {
            atomic::create_dir(layout.root())?;
            let mut staged = Staged::create(layout)?;
            staged.write_all(format!("{}\n", layout::VERSION).as_bytes())?;
            staged.publish(&layout.version_file(), 0o644)?;
        }
        let batch = Batch::open(&view)?;
        let changed = AtomicBool::new(!batch.is_empty());
        Ok(Self { batch, changed, view, logs: Mutex::default(), uploads: None })
    }

    /// The same writer, which shares: what is not here is looked for in the shared cache, and what is made here goes there,
    /// where that is wanted, in the background.
    #[must_use]
    pub fn with_remote(mut self, remote: Option<Remote>) -> Self {
        let writes = remote.clone().filter(Remote::is_written);
        self.uploads = writes.map(|remote| Arc::new(Uploads::new(remote, self.view.clone())));
        self.view = self.view.clone().with_remote(remote);
        self
    }

    /// What went between this store and the shared cache, if there is one.
    pub fn remote_report(&self) -> Option<RemoteReport> {
        self.view.remote().map(Remote::report)
    }

    /// Reads the same store.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Stores `bytes` as a file output.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Output, CacheError> {
        let digest = blob::put_bytes(self.view.layout(), bytes)?;
        Ok(Output { kind: OutputKind::File, digest, bytes: bytes.len() as u64 })
    }

    /// Stores a copy of the file or directory at `path`. Links inside a directory stand for the files of the same
    /// directory they lead to; other links, pipes and devices are refused.
    pub fn put_path(&self, path: &Path) -> Result<Output, CacheError> {
        let layout = self.view.layout();
        let kind = fs::symlink_metadata(path).map_err(CacheError::io("inspect", path))?.file_type();
        if !kind.is_dir() {
            let (digest, bytes) = blob::put_file(layout, path)?;
            return Ok(Output { kind: OutputKind::File, digest, bytes });
        }
        let mut files = Vec::new();
        for found in tree::walk(path)? {
            let (digest, bytes) = blob::put_file(layout, &found.source)?;
            files.push(TreeFile { bytes, digest, path: found.path });
        }
        let bytes = files.iter().map(|file| file.bytes).sum();
        let digest = blob::put_bytes(layout, &tree::encode(&mut files))?;
        Ok(Output { kind: OutputKind::Tree, digest, bytes })
    }

    /// Writes the record of an action whose outputs were put before, replacing an earlier one. It is visible to every
    /// process on return and survives the death of this one; it is durable a moment later, or after [`Self::sync`].
    pub fn commit(&self, record: &Record) -> Result<(), CacheError> {
        for (port, output) in &record.outputs {
            if !self.view.is_here(output) {
                let what = format!("the blob of its output `{port}` is not in the store");
                return Err(CacheError::BadRecord { action: record.action, what });
            }
        }
        self.changed.store(true, Ordering::Relaxed);
        self.batch.commit(record)?;
        if let Some(uploads) = &self.uploads {
            uploads.give(Gift::Record(record.action));
        }
        Ok(())
    }

    /// Keeps the records that the shared cache gave, so that they are hits without it; their blobs come when they are
    /// needed, as those that were collected here.
    pub fn keep_learned(&self) -> Result<(), CacheError> {
        for record in self.view.remote().map(Remote::all_learned).unwrap_or_default() {
            if self.view.record_here(&record.action)?.is_none_or(|here| here.owed > 0) {
                self.changed.store(true, Ordering::Relaxed);
                self.batch.commit(&record)?;
            }
        }
        Ok(())
    }

    /// Gives the records of actions to the shared cache, with the blobs they name, and if `responses` all that models
    /// have answered; what is there already is left out.
    pub fn push(&self, actions: &[Digest], responses: bool) -> Result<(), CacheError> {
        match self.view.remote() {
            Some(remote) => remote.push(&self.view, actions, responses),
            None => Ok(()),
        }
    }

    /// Makes outputs that were put before durable, for a process on another machine that is going to name them.
    pub fn sync_outputs<'o>(&self, outputs: impl IntoIterator<Item = &'o Output>) -> Result<(), CacheError> {
        self.batch.sync_outputs(outputs)
    }

    /// Makes every record committed so far durable.
    pub fn sync(&self) -> Result<(), CacheError> {
        self.batch.sync()
    }

    /// Notes that a run used these actions, so that `gc` keeps what they produced for a while. Failing to is no
    /// failure of the run.
    pub fn touch(&self, actions: &[Digest]) {
        if let Err(error) = touch::touch(self.view.layout(), actions) {
            self.view.report(Fault::new(self.view.layout().touched(), error.to_string()));
        }
    }

    /// Removes the record of an action: it is a miss from now on. Its blobs stay until they are collected.
    pub fn forget(&self, action: &Digest) -> Result<(), CacheError> {
        let layout = self.view.layout();
        self.changed.store(true, Ordering::Relaxed);
        if let Some(boot) = layout.boot() {
            atomic::remove(&layout.provisional(boot).join(action.to_string()))?;
        }
        let path = layout.record(action);
        atomic::remove(&path)?;
        if path.parent().is_some_and(Path::exists) { atomic::sync_dir(atomic::parent(&path)) } else { Ok(()) }
    }

    /// Asks for the right to execute an action. `holder` tells others who has it.
    pub fn lease(&self, action: &Digest, holder: &str) -> Result<LeaseAttempt, CacheError> {
        lease::take(self.view.layout(), action, holder)
    }

    /// Opens the log of a stream; `about` says what the stream is, for people. All callers in a process share one.
    pub fn record_log(
        &self,
        stream: &Digest,
        about: &serde_json::Value,
    ) -> Result<Arc<RecordLog>, CacheError> {
        let mut logs = lock(&self.logs);
        if let Some(open) = logs.get(stream).and_then(Weak::upgrade) {
            return Ok(open);
        }
        let layout = self.view.layout();
        if let Some(remote) = self.view.remote() {
            remote.bring_stream(layout, stream)?;
        }
        let directory = layout.log(stream);
        let about_file = log::about_file(&directory);
        if !about_file.exists() {
            atomic::create_dir(&directory)?;
            let mut staged = Staged::create(layout)?;
            staged.write_all(format!("{about:#}\n").as_bytes())?;
            staged.publish_unsynced(&about_file, 0o644)?;
        }
        let mut open = RecordLog::open(layout, stream)?;
        if let Some(uploads) = &self.uploads {
            let (uploads, stream) = (Arc::clone(uploads), *stream);
            open = open.on_sealed(Box::new(move |file| uploads.give(Gift::Segment(stream, file))));
        }
        let open = Arc::new(open);
        logs.insert(*stream, Arc::downgrade(&open));
        Ok(open)
    }

    /// The payloads of log entries of any stream, by the index where it knows them and by the logs where it does not.
    pub fn find_logged(&self, keys: &[Digest]) -> Result<Vec<Option<Vec<u8>>>, CacheError> {
        let layout = self.view.layout();
        let positions = if index::exists(layout) {
            self.with_index(|index| {
                keys.iter().map(|key| index.position(key)).collect::<sled::Result<Vec<_>>>()
            })?
        } else {
            None
        };
        let mut positions = positions.unwrap_or_default().into_iter();
        keys.iter()
            .map(|key| match positions.next().flatten().and_then(|position| position.read(layout, key)) {
                Some(payload) => Ok(Some(payload)),
                None => self.view.find_logged(key),
            })
            .collect()
    }

    /// Ends a run: makes everything durable, seals the logs that are open and brings the summary up to date, so that the
    /// next run is fast; after many changes the index too. Nothing is lost without it.
    pub fn finish(&self) -> Result<(), CacheError> {
        self.keep_learned()?;
        self.batch.sync()?;
        let open: Vec<_> = lock(&self.logs).values().filter_map(Weak::upgrade).collect();
        let mut changes = 0;
        for log in open {
            changes += log.finish()?;
        }
        if let Some(uploads) = &self.uploads {
            uploads.finish();
        }
        // A run that found everything done leaves the summary as it found it. What another process commits meanwhile, that
        // process adds.
        if self.changed.load(Ordering::Relaxed) || !self.view.found_summary_current() {
            let refreshed = summary::refresh(self.view.layout())?;
            refreshed.faults.into_iter().for_each(|fault| self.view.report(fault));
            changes += refreshed.changed;
        }
        changes += atomic::list(&self.view.layout().touched())?.len() * LIST_COUNTS_AS;
        if changes >= INDEX_FROM {
            self.with_index(|_| Ok(()))?;
        }
        Ok(())
    }

    /// Opens the index for a moment, up to date. `None` when another process has it or it cannot be used.
    fn with_index<T>(&self, work: impl Fn(&Index) -> sled::Result<T>) -> Result<Option<T>, CacheError> {
        let mut faults = Vec::new();
        let result = index::with(self.view.layout(), &mut faults, work);
        for fault in faults {
            self.view.report(fault);
        }
        result
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Best effort: what is still provisional is adopted by the next writer.
        let _ = self.batch.sync();
    }
}
