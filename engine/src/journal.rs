//! The journal: the events of one run, a JSON line each, appended as they happen.
//!
//! While the run lives its process holds a kernel lock on the file, or on a shared file system a [`Presence`], so that `dag status` can tell a run that goes on
//! from one that died. A reader takes a torn last line for one that is not written yet, and skips lines that it does not
//! understand, which a newer program has written.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use dag_cache::{Layout, Presence};

use crate::event::Stamped;

/// The journal of a run that is going on, held by its process.
#[derive(Debug)]
pub struct Journal {
    file: File,
    line: Vec<u8>,
    /// Where a lock would not tell other machines that the run lives.
    _presence: Option<Presence>,
}

impl Journal {
    /// Begins the journal of a new run. The id sorts by time; `at` is milliseconds since 1970.
    pub fn create(layout: &Layout, at: u64) -> io::Result<(String, Self)> {
        let mut attempt = 0;
        let process = std::process::id();
        loop {
            let mut run = format!("{}-{process:x}", date_text(at));
            if attempt > 0 {
                run = format!("{run}-{attempt}");
            }
            match OpenOptions::new().append(true).create_new(true).open(layout.journal(&run)) {
                Ok(file) => {
                    let presence = Presence::of_run(layout, &run).map_err(io::Error::other)?;
                    if presence.is_none() {
                        // A reader that looks whether we live holds the lock for a moment.
                        file.lock()?;
                    }
                    return Ok((run, Self { file, line: Vec::new(), _presence: presence }));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => attempt += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound && !layout.runs().exists() => {
                    fs::create_dir_all(layout.runs())?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Appends an event, in one write.
    pub fn append(&mut self, event: &Stamped) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, event)?;
        self.line.push(b'\n');
        self.file.write_all(&self.line)
    }
}

/// The ids of all runs in the store, oldest first.
pub fn list(layout: &Layout) -> Vec<String> {
    let entries = fs::read_dir(layout.runs()).into_iter().flatten().flatten();
    let id = |entry: fs::DirEntry| Some(entry.file_name().to_str()?.strip_suffix(".jsonl")?.to_owned());
    let mut runs: Vec<String> = entries.filter_map(id).collect();
    runs.sort_unstable();
    runs
}

/// The process of a run, on the machine where it was started.
pub fn process_of(run: &str) -> Option<u32> {
    u32::from_str_radix(run.split('-').nth(2)?, 16).ok()
}

/// Whether the process of the run `run` is alive.
pub fn is_live(layout: &Layout, run: &str) -> bool {
    if let Some(alive) = Presence::is_run_alive(layout, run) {
        return alive;
    }
    let Ok(file) = File::open(layout.journal(run)) else { return false };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// All events in the journal at `path`.
pub fn read(path: &Path) -> io::Result<Vec<Stamped>> {
    Follow::new(path).poll()
}

/// Reads a journal that may still grow.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    read: u64,
}

impl Follow {
    /// From the beginning of the journal at `path`.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), read: 0 }
    }

    /// The events that are new since the last call.
    pub fn poll(&mut self) -> io::Result<Vec<Stamped>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        let lines = bytes[..whole].split(|&byte| byte == b'\n');
        Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }
}

/// Milliseconds since 1970 as `20260131-235959`, in universal time.
fn date_text(at: u64) -> String {
    let (days, seconds) = (at / 86_400_000, at / 1000 % 86_400);
    // Civil date from days, in years that begin in March, so that the leap day comes last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn warning(text: &str) -> Stamped {
        Stamped { at: 7, event: Event::Warning { text: text.into() } }
    }

    #[test]
    fn dates() {
        assert_eq!(date_text(0), "19700101-000000");
        assert_eq!(date_text(951_782_399_999), "20000228-235959");
        assert_eq!(date_text(951_782_400_000), "20000229-000000");
        assert_eq!(date_text(1_795_471_501_000), "20261123-220501");
    }

    #[test]
    fn a_journal_is_read_while_it_grows_and_torn_at_any_byte() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let (run, mut journal) = Journal::create(&layout, 0).unwrap();
        let path = layout.journal(&run);
        let mut follow = Follow::new(&path);
        journal.append(&warning("one")).unwrap();
        assert_eq!(follow.poll().unwrap(), [warning("one")]);
        assert_eq!(follow.poll().unwrap(), []);
        journal.append(&warning("two")).unwrap();
        assert_eq!(follow.poll().unwrap(), [warning("two")]);
        let bytes = fs::read(&path).unwrap();
        let first = bytes.iter().position(|&byte| byte == b'\n').unwrap();
        for cut in 0..=bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let expected = usize::from(cut > first) + usize::from(cut == bytes.len());
            assert_eq!(read(&path).unwrap().len(), expected, "cut at {cut}");
        }
        let mut newer = b"{\"at\":1,\"event\":\"invented_later\"}\n".to_vec();
        newer.extend_from_slice(&bytes);
        fs::write(&path, newer).unwrap();
        assert_eq!(read(&path).unwrap(), [warning("one"), warning("two")]);
    }

    #[test]
    fn a_run_is_live_while_its_journal_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let (run, journal) = Journal::create(&layout, 0).unwrap();
        let (other, _) = Journal::create(&layout, 0).unwrap();
        assert_ne!(run, other);
        assert!(is_live(&layout, &run));
        drop(journal);
        assert!(!is_live(&layout, &run));
        assert_eq!(list(&layout), [run, other]);
    }
}
