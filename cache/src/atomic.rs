//! Files that appear whole or not at all: temporary file, fsync, rename, directory fsync.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::{CacheError, Layout};

/// A file under `tmp/` that vanishes when dropped, unless published.
pub(crate) struct Staged {
    path: PathBuf,
    file: File,
    published: bool,
}

impl Staged {
    /// A new empty file of this process in `tmp/`.
    pub(crate) fn create(layout: &Layout) -> Result<Self, CacheError> {
        // The process id only keeps names apart; a left-over of an earlier process with our id is stepped over.
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let process = std::process::id();
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = layout.tmp().join(format!("{process}-{number}"));
            match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok(Self { path, file, published: false }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => create_dir(&layout.tmp())?,
                Err(error) => return Err(CacheError::io("create", &path)(error)),
            }
        }
    }

    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> Result<(), CacheError> {
        self.file.write_all(bytes).map_err(CacheError::io("write", &self.path))
    }

    /// Makes the file durable and gives it its final name, replacing what is there.
    pub(crate) fn publish(mut self, to: &Path, mode: u32) -> Result<(), CacheError> {
        self.protect(mode)?;
        self.file.sync_all().map_err(CacheError::io("sync", &self.path))?;
        self.rename(to)?;
        let directory = parent(to);
        sync_dir(directory)?;
        directory.parent().map_or(Ok(()), sync_dir)
    }

    /// Gives the file its final name, replacing what is there. A power cut may undo it, or leave an empty file.
    pub(crate) fn publish_unsynced(mut self, to: &Path, mode: u32) -> Result<(), CacheError> {
        self.protect(mode)?;
        self.rename(to)
    }

    fn protect(&self, mode: u32) -> Result<(), CacheError> {
        self.file.set_permissions(Permissions::from_mode(mode)).map_err(CacheError::io("protect", &self.path))
    }

    fn rename(&mut self, to: &Path) -> Result<(), CacheError> {
        match fs::rename(&self.path, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_parent(to)?;
                fs::rename(&self.path, to).map_err(CacheError::io("create", to))?;
            }
            other => other.map_err(CacheError::io("create", to))?,
        }
        self.published = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: a left-over is found by `verify` and removed by `gc`.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The directory of a path in the store.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().expect("every path in a store lies in a directory")
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), CacheError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(CacheError::io("sync", path))
}

/// Creates the directory of `path`, unsynced.
pub(crate) fn make_parent(path: &Path) -> Result<(), CacheError> {
    fs::create_dir_all(parent(path)).map_err(CacheError::io("create", parent(path)))
}

/// Creates a directory and those above it, durably.
pub(crate) fn create_dir(path: &Path) -> Result<(), CacheError> {
    match fs::create_dir(path) {
        Ok(()) => sync_dir(parent(path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.parent().is_some() => {
            create_dir(parent(path))?;
            create_dir(path)
        }
        Err(error) => Err(CacheError::io("create", path)(error)),
    }
}

/// The file system's present time. Modification times are compared with this and never with the machine's clock,
/// which on a shared file system is another one.
pub(crate) fn file_system_time(layout: &Layout) -> Result<SystemTime, CacheError> {
    let mut staged = Staged::create(layout)?;
    modified(staged.file()).map_err(CacheError::io("inspect", staged.path()))
}

fn modified(file: &File) -> io::Result<SystemTime> {
    file.metadata()?.modified()
}

/// The entries of a directory by name; empty when there is none.
pub(crate) fn list(path: &Path) -> Result<Vec<PathBuf>, CacheError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(CacheError::io("list", path)(error)),
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(CacheError::io("list", path))?;
    paths.sort_unstable();
    Ok(paths)
}

/// A file's bytes; `None` when it does not exist.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, CacheError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CacheError::io("read", path)(error)),
    }
}

/// Removes a file; no error when somebody else did.
pub(crate) fn remove(path: &Path) -> Result<(), CacheError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CacheError::io("remove", path)(error)),
        _ => Ok(()),
    }
}
