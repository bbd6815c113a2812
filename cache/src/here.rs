//! Who this process is to others, and whether machines share the file system that a store lies on.
//!
//! Kernel locks die with their process, which makes them the best there is on a local disk. On a shared file system they may
//! do nothing, so there a file says who holds something, and others judge by it whether that process is dead.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Says whether the store is shared where the file system does not: `1` or `0`.
const SHARED: &str = "DAG_STORE_SHARED";
/// For tests: another name of this machine, so that several processes stand for several machines.
const MACHINE: &str = "DAG_TEST_MACHINE";

/// File systems that machines share, by the number that the kernel gives their kind.
const SHARED_KINDS: [(i64, &str); 15] = [
    (0x6969, "NFS"),
    (0x0BD0_0BD0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x00C3_6400, "Ceph"),
    (0x517B, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB 2"),
    // Whatever a program serves, which is as often a network as a disk.
    (0x6573_5546, "FUSE"),
    (0x5346_414F, "AFS"),
    (0x0102_1997, "9P"),
    (0x7461_636F, "OCFS2"),
    (0x0116_1970, "GFS2"),
    (0xAAD7_AAEA, "PanFS"),
    (0x1803_1977, "WekaFS"),
];

/// Whether several machines may be at work on the store at `root`: by what the environment says, else by the file system.
pub(crate) fn is_shared(root: &Path) -> bool {
    match variable(SHARED).as_deref() {
        Some("1" | "true") => true,
        Some("0" | "false") => false,
        _ => kind(root).is_some_and(|kind| SHARED_KINDS.iter().any(|(shared, _)| *shared == kind)),
    }
}

/// The kind of the file system that a path lies on, or will lie on.
#[cfg(target_os = "linux")]
fn kind(path: &Path) -> Option<i64> {
    use std::os::unix::ffi::OsStrExt as _;

    let existing = path.ancestors().find(|path| path.exists())?;
    let text = std::ffi::CString::new(existing.as_os_str().as_bytes()).ok()?;
    let mut found = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the path ends with a zero, and the kernel fills the whole structure when it returns zero.
    let kind = unsafe {
        if libc::statfs(text.as_ptr(), found.as_mut_ptr()) != 0 {
            return None;
        }
        found.assume_init().f_type
    };
    Some(kind & 0xFFFF_FFFF)
}

/// The kind of the file system that a path lies on, or will lie on.
#[cfg(not(target_os = "linux"))]
fn kind(_path: &Path) -> Option<i64> {
    None
}

#[expect(
    clippy::disallowed_methods,
    reason = "a store is opened in many places, and all must judge it alike"
)]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A process that holds something, as it says in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// The kernel it runs on: name, boot and process namespace. Only where all are ours does its process id mean one of ours.
    machine: [String; 3],
    process: u32,
    /// When its process started, in ticks of the kernel: a process id is given away again.
    start: u64,
    /// Tells what one process holds at one time from what it holds at another.
    nonce: u64,
    /// When it began to hold, by the clock of the file system, in nanoseconds.
    pub(crate) since: u64,
    /// What it says of itself.
    pub(crate) says: String,
}

impl Holder {
    /// This process.
    pub(crate) fn me(since: u64, says: &str) -> Self {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let process = std::process::id();
        Self {
            machine: machine().clone(),
            process,
            start: process_started(process).unwrap_or_default(),
            nonce: COUNTER.fetch_add(1, Ordering::Relaxed),
            since,
            says: says.to_owned(),
        }
    }

    /// Whether it is a process of this machine, as far as can be told.
    pub(crate) fn is_near(&self) -> bool {
        self.machine == *machine() && Path::new("/proc/self/stat").exists()
    }

    /// Whether it is known to be dead: it was of this machine, and its process is gone or is another one by now.
    pub(crate) fn is_dead(&self) -> bool {
        self.is_near() && process_started(self.process) != Some(self.start)
    }
}

/// Name, boot and process namespace of this machine.
fn machine() -> &'static [String; 3] {
    static FOUND: OnceLock<[String; 3]> = OnceLock::new();
    FOUND.get_or_init(|| {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let name = variable(MACHINE).unwrap_or_else(|| read("/proc/sys/kernel/hostname"));
        [name, read("/proc/sys/kernel/random/boot_id"), namespace.display().to_string()]
    })
}

/// When a process started, in ticks since the machine did; `None` when there is none.
pub fn process_started(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field is the program's name in brackets, and may hold anything; the start is the 22nd.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    // A process that is over and not yet waited for is as dead as one that is gone.
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_dead_only_when_it_was_ours_and_is_gone() {
        let me = Holder::me(0, "me");
        assert!(me.is_near() && !me.is_dead());
        let reused = Holder { start: me.start + 1, ..me.clone() };
        assert!(reused.is_dead(), "its process id is another's now");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let gone = Holder { process: child.id(), start: 1, ..me.clone() };
        child.wait().unwrap();
        assert!(gone.is_dead());
        let mut elsewhere = gone.clone();
        elsewhere.machine[1] = "another boot".to_owned();
        assert!(!elsewhere.is_near() && !elsewhere.is_dead(), "of others nothing is known");
    }

    #[test]
    fn a_disk_of_this_machine_is_not_shared() {
        // The temporary folder of whoever runs the tests may lie anywhere.
        let dir = tempfile::tempdir().unwrap();
        let kind = kind(&dir.path().join("not/there/yet"));
        assert_eq!(kind, super::kind(dir.path()), "what does not exist lies where it will");
    }
}
