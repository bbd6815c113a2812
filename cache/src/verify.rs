//! Verification: reads everything in the store and says what is not as it should be.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::layout::named;
use crate::log::verify_segment;
use crate::view::check_version;
use crate::{
    CacheError, Digest, Fault, Layout, OutputKind, Record, View, atomic, blob, index, lease, summary,
};

/// What was read and what was wrong.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Blobs hashed.
    pub blobs: u64,
    /// Their size.
    pub bytes: u64,
    /// Records checked.
    pub records: u64,
    /// Outputs named by a record of which a blob is missing: collected, or lost. Not a fault, they can be made again.
    pub missing_outputs: u64,
    /// Segments of record logs read.
    pub segments: u64,
    /// Entries in them.
    pub entries: u64,
    /// Leases held by living processes.
    pub leases: u64,
    /// What killed processes left lying: lease files of the dead, temporary files. Harmless, and collected by `gc`.
    pub left_overs: Vec<Fault>,
    /// What is wrong.
    pub faults: Vec<Fault>,
    /// What was put right.
    pub repaired: Vec<Fault>,
}

/// Reads all of the store at `root`. With `rebuild`, what is damaged is put aside, so that it is a miss and made again,
/// and the summary and the index are made anew from the files.
pub fn verify(root: &Path, rebuild: bool) -> Result<Report, CacheError> {
    let view = View::open(root);
    let mut check = Check { layout: view.layout().clone(), view, rebuild, report: Report::default() };
    if check_version(&check.layout)? || check.layout.blobs().exists() {
        check.blobs()?;
        check.records()?;
        check.logs()?;
        check.left_overs()?;
        if rebuild {
            check.rebuild()?;
        }
    }
    check.report.faults.extend(check.view.faults());
    check.report.faults.sort();
    check.report.faults.dedup();
    Ok(check.report)
}

struct Check {
    layout: Layout,
    view: View,
    rebuild: bool,
    report: Report,
}

impl Check {
    fn fault(&mut self, path: impl Into<PathBuf>, what: impl Into<String>) {
        self.report.faults.push(Fault::new(path, what));
    }

    fn left_over(&mut self, path: impl Into<PathBuf>, what: impl Into<String>) {
        self.report.left_overs.push(Fault::new(path, what));
    }

    fn repaired(&mut self, path: impl Into<PathBuf>, what: impl Into<String>) {
        self.report.repaired.push(Fault::new(path, what));
    }

    fn blobs(&mut self) -> Result<(), CacheError> {
        let directory = self.layout.blobs();
        for (shard, path) in self.sharded(&directory)? {
            let Some(digest) = self.name_in_shard(&shard, &path) else { continue };
            let metadata = match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_file() => metadata,
                // Collected meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(CacheError::io("inspect", &path)(error)),
                Ok(_) => {
                    self.fault(&path, "it is not a regular file");
                    continue;
                }
            };
            self.report.blobs += 1;
            self.report.bytes += metadata.len();
            if metadata.mode() & 0o222 != 0 {
                self.fault(&path, "it can be written to");
                if self.rebuild {
                    let read_only = std::os::unix::fs::PermissionsExt::from_mode(0o444);
                    fs::set_permissions(&path, read_only).map_err(CacheError::io("protect", &path))?;
                    self.repaired(&path, "made read-only");
                }
            }
            match blob::hashes_right(&self.layout, &digest) {
                Ok(true) | Err(CacheError::MissingBlob { .. }) => {}
                Ok(false) => {
                    self.fault(&path, "its bytes are not those it is named after");
                    if self.rebuild {
                        blob::quarantine(&self.layout, &digest);
                        self.repaired(&path, "moved to quarantine");
                    }
                }
                Err(error) => self.fault(&path, error.to_string()),
            }
        }
        Ok(())
    }

    fn records(&mut self) -> Result<(), CacheError> {
        let directory = self.layout.records();
        for (shard, path) in self.sharded(&directory)? {
            let Some(action) = self.name_in_shard(&shard, &path) else { continue };
            let Some(bytes) = atomic::read(&path)? else { continue };
            self.report.records += 1;
            match Record::decode(&action, &bytes) {
                Ok(record) => self.outputs(&path, &record),
                Err(what) => {
                    self.fault(&path, what);
                    if self.rebuild {
                        let aside = self.layout.quarantine();
                        atomic::create_dir(&aside)?;
                        fs::rename(&path, aside.join(format!("{action}.record")))
                            .map_err(CacheError::io("move", &path))?;
                        self.repaired(&path, "moved to quarantine");
                    }
                }
            }
        }
        Ok(())
    }

    fn outputs(&mut self, path: &Path, record: &Record) {
        for (port, output) in &record.outputs {
            let present = self.view.has_output(output);
            self.report.missing_outputs += u64::from(!present);
            if output.kind == OutputKind::File && !present && self.layout.blob(&output.digest).exists() {
                self.fault(path, format!("it gives its output `{port}` another size than the blob has"));
            }
        }
        match self.view.summary(&record.action) {
            Ok(Some(found)) if found.outputs == record.outputs && found.owed == record.owed => {}
            Ok(_) => {
                self.fault(self.layout.summary(), format!("it does not agree with record {}", record.action));
            }
            Err(error) => self.fault(self.layout.summary(), error.to_string()),
        }
    }

    fn logs(&mut self) -> Result<(), CacheError> {
        for directory in atomic::list(&self.layout.logs())? {
            let Some(stream) = directory.file_name().and_then(named) else {
                self.fault(&directory, "it is not named after a stream");
                continue;
            };
            for path in atomic::list(&directory)? {
                if path.extension().is_some_and(|extension| extension == "segment") {
                    let mut faults = Vec::new();
                    self.report.segments += 1;
                    self.report.entries += verify_segment(&path, &stream, &mut faults)?;
                    self.report.faults.append(&mut faults);
                }
            }
        }
        Ok(())
    }

    fn left_overs(&mut self) -> Result<(), CacheError> {
        for found in lease::all(&self.layout)? {
            if found.since.is_some() {
                self.report.leases += 1;
            } else {
                self.left_over(&found.path, "a lease of a process that is dead");
                if self.rebuild && lease::remove_dead(&self.layout, &found.path)? {
                    self.repaired(&found.path, "removed");
                }
            }
        }
        // A living process has temporary files too; they are left over only where nobody is at work.
        if self.report.leases == 0 {
            for path in atomic::list(&self.layout.tmp())? {
                self.left_over(path, "a temporary file that was left behind");
            }
        }
        Ok(())
    }

    fn rebuild(&mut self) -> Result<(), CacheError> {
        let path = self.layout.summary();
        atomic::remove(&path)?;
        summary::refresh(&self.layout)?;
        self.repaired(path, "made anew");
        let path = self.layout.index();
        index::set_aside(&self.layout)?;
        let mut faults = Vec::new();
        if index::with(&self.layout, &mut faults, |_| Ok(()))?.is_some() {
            self.repaired(path, "made anew");
        }
        self.report.faults.append(&mut faults);
        Ok(())
    }

    /// The files in the directories under `directory`, each with its directory.
    fn sharded(&mut self, directory: &Path) -> Result<Vec<(PathBuf, PathBuf)>, CacheError> {
        let mut files = Vec::new();
        for shard in atomic::list(directory)? {
            if !shard.is_dir() {
                self.fault(&shard, "it is not a directory");
            }
            files.extend(atomic::list(&shard)?.into_iter().map(|path| (shard.clone(), path)));
        }
        Ok(files)
    }

    /// The digest a file is named after, when it also lies in the right directory.
    fn name_in_shard(&mut self, shard: &Path, path: &Path) -> Option<Digest> {
        let digest = path.file_name().and_then(named);
        let right = digest.is_some_and(|digest| shard.ends_with(&digest.to_string()[..2]));
        if !right {
            self.fault(path, "it is not named after a digest of its directory");
        }
        digest.filter(|_| right)
    }
}
