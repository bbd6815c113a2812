//! Blobs: content-addressed, read-only files; streamed in while hashing, hashed again before use.
//!
//! A blob's name is the blake3 of its bytes (C1). Whoever finds that untrue moves the file to `quarantine/`, so that
//! the blob is missing from then on and is made again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::atomic::{self, Staged};
use crate::{CacheError, Digest, Layout, crash};

const READ_ONLY: u32 = 0o444;

/// Stores `bytes`.
pub(crate) fn put_bytes(layout: &Layout, bytes: &[u8]) -> Result<Digest, CacheError> {
    let digest = Digest::of(bytes);
    if !reuse(layout, &digest, bytes.len() as u64) {
        let mut staged = Staged::create(layout)?;
        staged.write_all(bytes)?;
        publish(layout, staged, &digest)?;
    }
    Ok(digest)
}

/// Stores a copy of the regular file at `path`; gives its digest and size.
pub(crate) fn put_file(layout: &Layout, path: &Path) -> Result<(Digest, u64), CacheError> {
    let source = open_regular(path)?;
    let mut staged = Staged::create(layout)?;
    let mut copy = Copying { source, into: &mut staged, failed: None };
    let result = Digest::of_reader(&mut copy);
    if let Some(error) = copy.failed {
        return Err(error);
    }
    let (digest, bytes) = result.map_err(CacheError::io("read", path))?;
    if !reuse(layout, &digest, bytes) {
        publish(layout, staged, &digest)?;
    }
    Ok((digest, bytes))
}

/// Passes on what it reads and writes it to a staged file on the way.
struct Copying<'a> {
    source: File,
    into: &'a mut Staged,
    failed: Option<CacheError>,
}

impl Read for Copying<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        if let Err(error) = self.into.write_all(&buffer[..count]) {
            // Kept aside because the place of a failed write is the staged file, not the source.
            self.failed = Some(error);
            return Ok(0);
        }
        Ok(count)
    }
}

/// Opens a regular file for reading, never through a link and never hanging on a pipe.
fn open_regular(path: &Path) -> Result<File, CacheError> {
    let refused =
        || CacheError::Refused { path: path.to_owned(), what: "it is not a regular file".to_owned() };
    let file =
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path).map_err(
            |error| match error.raw_os_error() {
                Some(libc::ELOOP | libc::ENXIO) => refused(),
                _ => CacheError::io("read", path)(error),
            },
        )?;
    let metadata = file.metadata().map_err(CacheError::io("inspect", path))?;
    if metadata.is_file() { Ok(file) } else { Err(refused()) }
}

pub(crate) fn publish(layout: &Layout, staged: Staged, digest: &Digest) -> Result<(), CacheError> {
    crash::point("blob.written");
    // Not synced here: the record that names the blob syncs it before it gets its own name.
    staged.publish_unsynced(&layout.blob(digest), READ_ONLY)?;
    crash::point("blob.renamed");
    Ok(())
}

/// Whether the blob is there already. It is hashed, so that putting the same bytes again repairs a damaged blob, and it
/// counts as made now, so that a collection which was planned before does not take it.
fn reuse(layout: &Layout, digest: &Digest, bytes: u64) -> bool {
    let renew = || -> Result<bool, CacheError> {
        if !has(layout, digest, bytes) || !hashes_right(layout, digest)? {
            return Ok(false);
        }
        let path = layout.blob(digest);
        let now = atomic::file_system_time(layout)?;
        open(layout, digest)?.set_modified(now).map_err(CacheError::io("touch", &path))?;
        // A collector moves a blob aside before it looks at the time a last time: be sure that it is still there.
        Ok(has(layout, digest, bytes))
    };
    renew().unwrap_or(false)
}

/// Whether the blob exists with this size.
pub(crate) fn has(layout: &Layout, digest: &Digest, bytes: u64) -> bool {
    fs::metadata(layout.blob(digest)).is_ok_and(|metadata| metadata.is_file() && metadata.len() == bytes)
}

/// Opens a blob for reading.
pub(crate) fn open(layout: &Layout, digest: &Digest) -> Result<File, CacheError> {
    let path = layout.blob(digest);
    match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(CacheError::MissingBlob { digest: *digest, path })
        }
        other => other.map_err(CacheError::io("read", &path)),
    }
}

/// A blob's bytes, hashed.
pub(crate) fn read(layout: &Layout, digest: &Digest) -> Result<Vec<u8>, CacheError> {
    let mut bytes = Vec::new();
    open(layout, digest)?.read_to_end(&mut bytes).map_err(CacheError::io("read", &layout.blob(digest)))?;
    if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(quarantine(layout, digest)) }
}

/// Whether a blob's bytes are what its name says.
pub(crate) fn hashes_right(layout: &Layout, digest: &Digest) -> Result<bool, CacheError> {
    let file = open(layout, digest)?;
    let (found, _) = Digest::of_reader(file).map_err(CacheError::io("read", &layout.blob(digest)))?;
    Ok(found == *digest)
}

/// Hashes a blob without keeping its bytes.
pub(crate) fn check(layout: &Layout, digest: &Digest) -> Result<(), CacheError> {
    if hashes_right(layout, digest)? { Ok(()) } else { Err(quarantine(layout, digest)) }
}

/// Copies a blob to a new, writable file. What was copied is hashed; a wrong copy is removed.
pub(crate) fn copy(layout: &Layout, digest: &Digest, to: &Path) -> Result<(), CacheError> {
    let mut source = open(layout, digest)?;
    let mut target = File::create_new(to).map_err(CacheError::io("create", to))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 128 * 1024];
    let mut copy = || -> Result<bool, CacheError> {
        loop {
            let count = source.read(&mut buffer).map_err(CacheError::io("read", &layout.blob(digest)))?;
            if count == 0 {
                return Ok(Digest::from(hasher.finalize()) == *digest);
            }
            hasher.update(&buffer[..count]);
            target.write_all(&buffer[..count]).map_err(CacheError::io("write", to))?;
        }
    };
    let error = match copy() {
        Ok(true) => return Ok(()),
        Ok(false) => quarantine(layout, digest),
        Err(error) => error,
    };
    atomic::remove(to)?;
    Err(error)
}

/// Moves a blob whose bytes are wrong out of the way and gives the error that says so.
pub(crate) fn quarantine(layout: &Layout, digest: &Digest) -> CacheError {
    let path = layout.blob(digest);
    let aside = layout.quarantine();
    // On a read-only store the blob stays: it is still never served.
    let _ = atomic::create_dir(&aside).and_then(|()| {
        fs::rename(&path, aside.join(digest.to_string())).map_err(CacheError::io("move", &path))
    });
    CacheError::CorruptBlob { digest: *digest, path }
}
