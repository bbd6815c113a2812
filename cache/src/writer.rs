//! Writer: puts blobs and records into the store, in the order that keeps it true (C2).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

use crate::atomic::{self, Points, Staged};
use crate::view::{check_version, lock};
use crate::{
    CacheError, Digest, Fault, LeaseAttempt, Output, OutputKind, Record, RecordLog, TreeFile, View, blob,
    layout, lease, log, summary, touch, tree,
};

const RECORD: Points =
    Points { written: "record.written", synced: "record.synced", renamed: "record.renamed" };

/// Writes to the store at one root. Any number of writers, in any number of processes, may be at work at once.
pub struct Writer {
    view: View,
    /// The streams open in this process, so that all tasks of it share one segment of each.
    logs: Mutex<BTreeMap<Digest, Weak<RecordLog>>>,
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
            staged.publish(&layout.version_file(), 0o644, &RECORD)?;
        }
        Ok(Self { view, logs: Mutex::default() })
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

    /// Writes the record of an action whose outputs were put before, replacing an earlier one.
    pub fn commit(&self, record: &Record) -> Result<(), CacheError> {
        let bytes = record.encode()?;
        for (port, output) in &record.outputs {
            if !self.view.has_output(output) {
                let what = format!("the blob of its output `{port}` is not in the store");
                return Err(CacheError::BadRecord { action: record.action, what });
            }
        }
        let mut staged = Staged::create(self.view.layout())?;
        staged.write_all(&bytes)?;
        staged.publish(&self.view.layout().record(&record.action), 0o644, &RECORD)
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
        let path = self.view.layout().record(action);
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
        let directory = layout.log(stream);
        let about_file = log::about_file(&directory);
        if !about_file.exists() {
            atomic::create_dir(&directory)?;
            let mut staged = Staged::create(layout)?;
            staged.write_all(format!("{about:#}\n").as_bytes())?;
            staged.publish_disposable(&about_file)?;
        }
        let open = Arc::new(RecordLog::open(layout, stream)?);
        logs.insert(*stream, Arc::downgrade(&open));
        Ok(open)
    }

    /// Ends a run: seals the logs that are open and brings the summary up to date, so that the next run is fast.
    /// Nothing depends on it.
    pub fn finish(&self) -> Result<(), CacheError> {
        let open: Vec<_> = lock(&self.logs).values().filter_map(Weak::upgrade).collect();
        for log in open {
            log.seal()?;
        }
        summary::refresh(self.view.layout())?.into_iter().for_each(|fault| self.view.report(fault));
        Ok(())
    }
}
