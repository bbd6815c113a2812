//! Presence: a file that says who holds something, on file systems whose locks cannot be relied on.
//!
//! Creating it is what takes the thing, since of several machines that create one name exactly one succeeds. Its holder
//! rewrites a number in it again and again. Others compare what they read with what they read before, by their own clock,
//! so that no two machines need agree on the time: a file that has not changed for a minute is that of a dead process.
//! Of a process of the same machine it is known at once. Two may come to hold one thing all the same, when one was
//! suspended or cut off; what is held here is such that the harm is work done twice.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crate::guard::lock;
use crate::here::{Holder, variable};
use crate::{CacheError, Layout, atomic};

/// How often a holder shows that it lives.
const BEAT: Duration = Duration::from_secs(10);
/// After this time without a sign a holder of another machine counts as dead.
const SILENCE: Duration = Duration::from_mins(1);
/// For tests: both times in milliseconds, as `BEAT,SILENCE`.
const TIMES: &str = "DAG_TEST_PRESENCE";
/// Digits of the number that changes, at the beginning of the file.
const DIGITS: usize = 20;
/// So often the file may come and go while it is being taken before somebody else is said to have it.
const TRIES: u32 = 16;

/// Something held; given back when dropped.
#[derive(Debug)]
pub struct Presence {
    path: PathBuf,
    holder: Holder,
}

/// What came of asking for it.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// It is ours.
    Held(Presence),
    /// Somebody else has it, who says this.
    Busy(String),
}

impl Presence {
    /// Says that a run is going on, where a lock on its journal would not tell other machines; `None` where it does.
    pub fn of_run(layout: &Layout, run: &str) -> Result<Option<Self>, CacheError> {
        if !layout.is_shared() {
            return Ok(None);
        }
        let path = layout.presence_of_run(run);
        match take(&path, &format!("run {run}"))? {
            Attempt::Held(presence) => Ok(Some(presence)),
            Attempt::Busy(_) => {
                let taken = io::Error::from(io::ErrorKind::AlreadyExists);
                Err(CacheError::io("create", &path)(taken))
            }
        }
    }

    /// Whether a run is going on, as far as can be told; `None` where a lock on its journal tells.
    pub fn is_run_alive(layout: &Layout, run: &str) -> Option<bool> {
        layout.is_shared().then(|| {
            let path = layout.presence_of_run(run);
            matches!(atomic::read(&path), Ok(Some(bytes)) if !is_over(&path, &bytes))
        })
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        lock(&HEARTS.held).remove(&self.path);
        // Not one that somebody took from us.
        let ours = atomic::read(&self.path).is_ok_and(|bytes| {
            bytes.is_some_and(|bytes| decode(&bytes).is_some_and(|holder| holder == self.holder))
        });
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Takes the thing that the file at `path` stands for, unless a living process has it.
pub(crate) fn take(path: &Path, says: &str) -> Result<Attempt, CacheError> {
    for _ in 0..TRIES {
        match create(path, says) {
            Ok(presence) => return Ok(Attempt::Held(presence)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                atomic::create_dir(atomic::parent(path))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let Some(bytes) = atomic::read(path)? else { continue };
                if !is_over(path, &bytes) {
                    return Ok(Attempt::Busy(decode(&bytes).map(|holder| holder.says).unwrap_or_default()));
                }
                set_aside(path, &bytes)?;
            }
            Err(error) => return Err(CacheError::io("create", path)(error)),
        }
    }
    Ok(Attempt::Busy(String::new()))
}

/// Who a file says holds something; `None` when it says nothing that can be read.
pub(crate) fn holder(path: &Path) -> Result<Option<Holder>, CacheError> {
    Ok(atomic::read(path)?.and_then(|bytes| decode(&bytes)))
}

/// Removes the file of a process that is known to be dead; whether it went.
pub(crate) fn remove_dead(path: &Path) -> Result<bool, CacheError> {
    match atomic::read(path)? {
        Some(bytes) if decode(&bytes).is_some_and(|holder| holder.is_dead()) => set_aside(path, &bytes),
        _ => Ok(false),
    }
}

/// Writes a file that says who this process is, for as long as what it stands beside is not finished; it does not beat.
pub(crate) fn sign(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all_at(&encode(0, &Holder::me(0, "")), 0)?;
    file.sync_all()
}

fn create(path: &Path, says: &str) -> io::Result<Presence> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    let since = file.metadata()?.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let holder = Holder::me(since.as_nanos() as u64, says);
    file.write_all_at(&encode(0, &holder), 0)?;
    file.sync_all()?;
    HEARTS.keep(path, file);
    Ok(Presence { path: path.to_owned(), holder })
}

/// Whether the process that wrote this is dead: of this machine it is known, another must have been silent for long.
fn is_over(path: &Path, bytes: &[u8]) -> bool {
    match decode(bytes) {
        Some(holder) if holder.is_near() => holder.is_dead(),
        // One that says nothing is being written, or was torn.
        _ => unchanged_for(path, bytes) >= times().1,
    }
}

/// For how long this process has read the same in a file.
fn unchanged_for(path: &Path, bytes: &[u8]) -> Duration {
    static READ: Mutex<BTreeMap<PathBuf, (Vec<u8>, Instant)>> = Mutex::new(BTreeMap::new());
    let mut read = lock(&READ);
    match read.get(path) {
        Some((before, since)) if before == bytes => since.elapsed(),
        _ => {
            read.insert(path.to_owned(), (bytes.to_owned(), Instant::now()));
            Duration::ZERO
        }
    }
}

/// Moves the file of a dead process away and removes it; false when it was another's by then, which is put back.
fn set_aside(path: &Path, seen: &[u8]) -> Result<bool, CacheError> {
    let me = Holder::me(0, "");
    let name = blake3::hash(&encode(0, &me)).to_hex();
    let aside = path.with_extension(format!("{}.dead", &name[..16]));
    match fs::rename(path, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(CacheError::io("move", path))?,
    }
    let is_same = atomic::read(&aside)?.is_some_and(|bytes| bytes == seen);
    if !is_same {
        // Where a third has taken the name meanwhile, two hold one thing.
        let _ = fs::hard_link(&aside, path);
    }
    atomic::remove(&aside)?;
    Ok(is_same)
}

fn encode(beat: u64, holder: &Holder) -> Vec<u8> {
    let body = serde_json::to_string(holder).expect("plain fields are always JSON");
    format!("{beat:0DIGITS$}\n{body}\n").into_bytes()
}

fn decode(bytes: &[u8]) -> Option<Holder> {
    serde_json::from_slice(bytes.get(DIGITS + 1..)?).ok()
}

/// How often to beat, and how long a silence is death.
fn times() -> (Duration, Duration) {
    let chosen = variable(TIMES).and_then(|text| {
        let (beat, silence) = text.split_once(',')?;
        let time = |text: &str| text.parse().ok().map(Duration::from_millis);
        Some((time(beat)?, time(silence)?))
    });
    chosen.unwrap_or((BEAT, SILENCE))
}

/// Everything this process holds, and the thread that shows that it lives.
struct Hearts {
    held: Mutex<BTreeMap<PathBuf, File>>,
    running: Mutex<bool>,
    wake: Condvar,
}

static HEARTS: Hearts =
    Hearts { held: Mutex::new(BTreeMap::new()), running: Mutex::new(false), wake: Condvar::new() };

impl Hearts {
    fn keep(&'static self, path: &Path, file: File) {
        lock(&self.held).insert(path.to_owned(), file);
        let mut running = lock(&self.running);
        if !*running {
            *running = true;
            std::thread::spawn(|| self.beat());
        }
    }

    /// Beats until nothing is held.
    fn beat(&self) {
        let mut number = 0_u64;
        loop {
            let guard = lock(&self.running);
            let waited = self.wake.wait_timeout(guard, times().0);
            let (mut running, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
            let held = lock(&self.held);
            if held.is_empty() {
                *running = false;
                return;
            }
            drop(running);
            number += 1;
            for file in held.values() {
                // One that cannot be written is taken by others in time, which is what should happen then.
                let beat = file.write_all_at(format!("{number:0DIGITS$}").as_bytes(), 0);
                let _ = beat.and_then(|()| file.sync_data());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elsewhere(says: &str) -> Holder {
        let text = serde_json::to_string(&Holder::me(0, says)).unwrap();
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        value["machine"][0] = "another machine".into();
        serde_json::from_value(value).unwrap()
    }

    fn dead() -> Holder {
        let text = serde_json::to_string(&Holder::me(0, "dead")).unwrap();
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        value["start"] = 1.into();
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn one_holder_at_a_time_and_the_file_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases/a");
        let Attempt::Held(held) = take(&path, "first").unwrap() else { panic!("free") };
        let Attempt::Busy(says) = take(&path, "second").unwrap() else { panic!("held") };
        assert_eq!(says, "first");
        drop(held);
        assert!(!path.exists());
        assert!(matches!(take(&path, "second").unwrap(), Attempt::Held(_)));
    }

    #[test]
    fn that_of_a_dead_process_of_this_machine_is_taken_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, encode(7, &dead())).unwrap();
        assert!(matches!(take(&path, "me").unwrap(), Attempt::Held(_)));
        fs::write(&path, encode(7, &dead())).unwrap();
        assert!(remove_dead(&path).unwrap() && !path.exists());
    }

    #[test]
    fn that_of_another_machine_is_left_while_it_may_live() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let theirs = encode(7, &elsewhere("them"));
        fs::write(&path, &theirs).unwrap();
        assert!(matches!(take(&path, "me").unwrap(), Attempt::Busy(says) if says == "them"));
        assert!(!remove_dead(&path).unwrap());
        assert!(unchanged_for(&path, &theirs) > Duration::ZERO, "it is being watched");
        assert_eq!(
            unchanged_for(&path, &encode(8, &elsewhere("them"))),
            Duration::ZERO,
            "a beat is a sign of life"
        );
    }

    #[test]
    fn what_was_taken_by_another_meanwhile_is_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, encode(8, &elsewhere("them"))).unwrap();
        assert!(!set_aside(&path, &encode(7, &elsewhere("them"))).unwrap());
        assert!(path.exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left aside");
    }
}
