//! Leases: the right to execute an action, one at a time (C5).
//!
//! On a local disk it is a kernel lock, which dies with its process. The lock file says who holds it, for messages only. It
//! is removed by its holder while still locked; whoever opened it before finds, after getting the lock, that the name is
//! gone or names another file, and tries again. On a shared file system, where kernel locks may do nothing, it is a
//! [`Presence`]. Either way two processes that execute one action do harmless work twice.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::log::is_at;
use crate::presence::{self, Attempt, Presence};
use crate::{CacheError, Digest, Layout, atomic};

/// The right to execute an action; given back when dropped.
#[derive(Debug)]
pub struct Lease {
    _held: Held,
}

#[derive(Debug)]
enum Held {
    /// A lock of the kernel on this file.
    Lock(PathBuf, #[expect(dead_code, reason = "it holds the lock while it is open")] File),
    /// A file that others believe.
    Presence(#[expect(dead_code, reason = "it is given back when it is dropped")] Presence),
}

/// What came of asking for a lease.
#[derive(Debug)]
pub enum LeaseAttempt {
    /// The action is ours until the lease is dropped.
    Held(Lease),
    /// Another holder is executing it.
    Busy {
        /// What the holder said of itself; empty when it has not said it yet.
        holder: String,
    },
}

pub(crate) fn take(layout: &Layout, action: &Digest, holder: &str) -> Result<LeaseAttempt, CacheError> {
    let path = layout.lease(action);
    if layout.is_shared() {
        return Ok(match presence::take(&path, holder)? {
            Attempt::Held(presence) => LeaseAttempt::Held(Lease { _held: Held::Presence(presence) }),
            Attempt::Busy(holder) => LeaseAttempt::Busy { holder },
        });
    }
    loop {
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                atomic::create_dir(&layout.leases())?;
                open()
            }
            other => other,
        }
        .map_err(CacheError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = Vec::new();
                file.take(4096).read_to_end(&mut holder).map_err(CacheError::io("read", &path))?;
                return Ok(LeaseAttempt::Busy { holder: String::from_utf8_lossy(&holder).into_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(CacheError::io("lock", &path)(error)),
        }
        if is_at(&file, &path).map_err(CacheError::io("inspect", &path))? {
            let mut sign = || -> io::Result<()> {
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(holder.as_bytes())
            };
            sign().map_err(CacheError::io("write", &path))?;
            return Ok(LeaseAttempt::Held(Lease { _held: Held::Lock(path, file) }));
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Self::Lock(path, _) = self {
            // Removed while locked. A file left behind is unlocked, so it stops nobody; `gc` removes it.
            let _ = fs::remove_file(path);
        }
    }
}

/// A lease file found in the store.
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    /// Since when it is held; `None` when its holder is dead.
    pub(crate) since: Option<SystemTime>,
}

/// All lease files.
pub(crate) fn all(layout: &Layout) -> Result<Vec<Found>, CacheError> {
    let mut found = Vec::new();
    for path in atomic::list(&layout.leases())? {
        if layout.is_shared() {
            let Some(holder) = presence::holder(&path)? else { continue };
            let since = SystemTime::UNIX_EPOCH + Duration::from_nanos(holder.since);
            found.push(Found { path, since: (!holder.is_dead()).then_some(since) });
            continue;
        }
        let Some(file) = open_existing(&path)? else { continue };
        let since = match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                Some(file.metadata().and_then(|of| of.modified()).map_err(CacheError::io("inspect", &path))?)
            }
            Ok(()) => None,
            Err(TryLockError::Error(error)) => return Err(CacheError::io("lock", &path)(error)),
        };
        found.push(Found { path, since });
    }
    Ok(found)
}

/// Removes a lease file whose holder is dead; false when it is held again.
pub(crate) fn remove_dead(layout: &Layout, path: &Path) -> Result<bool, CacheError> {
    if layout.is_shared() {
        return presence::remove_dead(path);
    }
    let Some(file) = open_existing(path)? else { return Ok(false) };
    if file.try_lock().is_err() || !is_at(&file, path).map_err(CacheError::io("inspect", path))? {
        return Ok(false);
    }
    atomic::remove(path).map(|()| true)
}

fn open_existing(path: &Path) -> Result<Option<File>, CacheError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CacheError::io("open", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn one_holder_at_a_time_and_the_file_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let action = Digest::of(b"a");
        let LeaseAttempt::Held(lease) = take(&layout, &action, "run 1").unwrap() else { panic!("free") };
        let LeaseAttempt::Busy { holder } = take(&layout, &action, "run 2").unwrap() else { panic!("held") };
        assert_eq!(holder, "run 1");
        assert!(all(&layout).unwrap()[0].since.is_some());
        assert!(!remove_dead(&layout, &layout.lease(&action)).unwrap());
        drop(lease);
        assert!(all(&layout).unwrap().is_empty());
        assert!(matches!(take(&layout, &action, "run 2").unwrap(), LeaseAttempt::Held(_)));
    }

    #[test]
    fn a_file_of_a_dead_process_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let action = Digest::of(b"a");
        fs::create_dir(layout.leases()).unwrap();
        fs::write(layout.lease(&action), "a much longer text of somebody who died").unwrap();
        assert!(all(&layout).unwrap()[0].since.is_none());
        let LeaseAttempt::Held(_lease) = take(&layout, &action, "me").unwrap() else { panic!("free") };
        assert_eq!(fs::read_to_string(layout.lease(&action)).unwrap(), "me");
    }

    #[test]
    fn threads_that_race_never_hold_it_together() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let action = Digest::of(b"a");
        let (holders, taken) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while taken.load(Ordering::SeqCst) < 500 {
                        if let LeaseAttempt::Held(lease) = take(&layout, &action, "x").unwrap() {
                            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                            taken.fetch_add(1, Ordering::SeqCst);
                            holders.fetch_sub(1, Ordering::SeqCst);
                            drop(lease);
                        }
                    }
                });
            }
        });
    }
}
