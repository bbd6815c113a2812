//! The files through which the coordinator and its workers speak, below `jobs/ACTION/` in the store.
//!
//! ```text
//! current                        the name of the generation that counts
//! GENERATION/shards              among how many workers the records are shared
//! GENERATION/N.order.json        what the N-th submission is to do
//! GENERATION/N.script            what its tasks run
//! GENERATION/N.intent.json       its name and parts; written before it is submitted
//! GENERATION/N.job               the scheduler's id; written after
//! GENERATION/news/PART.ATTEMPT   lines of a running worker, appended
//! GENERATION/exits/PART.ATTEMPT  what came of it; renamed into place, the worker's last act
//! GENERATION/taken/PART          the attempt whose exit counts
//! GENERATION/logs/               what workers print
//! GENERATION/closed              nobody waits for this generation any more
//! ```
//!
//! Every file has one writer, and none is locked: it works on a shared file system.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use dag_engine::call::Delivery;
use dag_engine::event::{Counts, News};
use dag_engine::order::Order;
use serde::{Deserialize, Serialize};

/// A part of an order: one share of its records, or all that is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The share of this number, from zero.
    Shard(u32),
    /// The whole task.
    Whole,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shard(number) => write!(f, "{number}"),
            Self::Whole => f.write_str("whole"),
        }
    }
}

impl std::str::FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "whole" => Ok(Self::Whole),
            number => number.parse().map(Self::Shard).map_err(|_| format!("`{text}` is no part of an order")),
        }
    }
}

/// One generation of the jobs of an action.
#[derive(Debug, Clone)]
pub(crate) struct Generation {
    pub(crate) path: PathBuf,
    pub(crate) shards: u32,
}

/// A job as it is about to be, or was, submitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Submission {
    pub(crate) number: u32,
    pub(crate) name: String,
    pub(crate) parts: Vec<Part>,
    /// The scheduler's id, where it is known.
    #[serde(skip)]
    pub(crate) id: Option<String>,
}

/// What a worker writes last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Exit {
    pub(crate) end: End,
    /// What went wrong, or why it stopped.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delivery: Option<Delivery>,
    pub(crate) counts: Counts,
    pub(crate) host: String,
    pub(crate) seconds: f64,
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    /// Its part is done.
    Done,
    /// It was asked to stop, or its time was nearly up; another attempt goes on from there.
    Stopped,
    /// The task failed.
    Failed,
    /// The task failed in a way that may pass.
    Transient,
    /// An input's bytes are gone or damaged.
    InputLost,
    /// It asks a service that was not begun.
    Unserved,
    /// It went as far as its allowance lets it.
    Paused,
}

impl Generation {
    /// The generation that counts, if there is one that can be gone on with: not closed, and shared as `shards` says. One
    /// that is shared otherwise comes second, to be taken back.
    pub(crate) fn current(folder: &Path, shards: u32) -> io::Result<(Option<Self>, Option<Self>)> {
        let Some(name) = read(&folder.join("current"))? else { return Ok((None, None)) };
        let path = folder.join(name.trim());
        let Some(found) = read(&path.join("shards"))?.and_then(|text| text.trim().parse().ok()) else {
            return Ok((None, None));
        };
        let generation = Self { path, shards: found };
        Ok(match () {
            () if generation.is_closed() => (None, None),
            () if found == shards => (Some(generation), None),
            () => (None, Some(generation)),
        })
    }

    /// A new generation, which counts from now on.
    pub(crate) fn create(folder: &Path, shards: u32) -> io::Result<Self> {
        let name = nonce()?;
        let path = folder.join(&name);
        for inner in ["news", "exits", "taken", "logs", "work"] {
            fs::create_dir_all(path.join(inner))?;
        }
        publish(&path.join("shards"), format!("{shards}\n").as_bytes())?;
        publish(&folder.join("current"), format!("{name}\n").as_bytes())?;
        Ok(Self { path, shards })
    }

    /// The generation at a path, as a worker finds it.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        let shards = read(&path.join("shards"))?.and_then(|text| text.trim().parse().ok());
        let shards = shards.ok_or_else(|| io::Error::other("it is no folder of jobs"))?;
        Ok(Self { path: path.to_owned(), shards })
    }

    /// The shares of the records, where there are several; then the whole.
    pub(crate) fn shards(&self) -> Vec<Part> {
        if self.shards > 1 { (0..self.shards).map(Part::Shard).collect() } else { Vec::new() }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.path.join("closed").exists()
    }

    /// Tells workers that nobody waits for them.
    pub(crate) fn close(&self) -> io::Result<()> {
        publish(&self.path.join("closed"), b"")?;
        // What dead workers left is of no use; a left-over is only disk space.
        let _ = fs::remove_dir_all(self.path.join("work"));
        Ok(())
    }

    pub(crate) fn order_file(&self, number: u32) -> PathBuf {
        self.path.join(format!("{number}.order.json"))
    }

    pub(crate) fn script_file(&self, number: u32) -> PathBuf {
        self.path.join(format!("{number}.script"))
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Notes that `parts` are about to be submitted to do `order`.
    pub(crate) fn intend(&self, number: u32, parts: Vec<Part>, order: &Order) -> io::Result<Submission> {
        let generation = self.path.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("dag-{generation}-{number}");
        let submission = Submission { number, name, parts, id: None };
        publish(&self.order_file(number), &order.write()?)?;
        let bytes = serde_json::to_vec(&submission).expect("a submission is plain data");
        publish(&self.path.join(format!("{number}.intent.json")), &bytes)?;
        Ok(submission)
    }

    /// Notes the scheduler's id of a submission.
    pub(crate) fn submitted(&self, submission: &Submission, id: &str) -> io::Result<()> {
        publish(&self.path.join(format!("{}.job", submission.number)), format!("{id}\n").as_bytes())
    }

    /// All submissions, in their order.
    pub(crate) fn submissions(&self) -> io::Result<Vec<Submission>> {
        let mut found = Vec::new();
        for number in 0.. {
            let Some(text) = read(&self.path.join(format!("{number}.intent.json")))? else { break };
            let mut submission: Submission = serde_json::from_str(&text).map_err(io::Error::other)?;
            submission.id =
                read(&self.path.join(format!("{number}.job")))?.map(|text| text.trim().to_owned());
            found.push(submission);
        }
        Ok(found)
    }

    /// The exits by now, as (part, attempt). One that cannot be read yet is found the next time.
    pub(crate) fn exits(&self) -> io::Result<Vec<(Part, String)>> {
        self.attempts("exits")
    }

    /// The attempts that have told something.
    pub(crate) fn told(&self) -> io::Result<Vec<(Part, String)>> {
        self.attempts("news")
    }

    fn attempts(&self, folder: &str) -> io::Result<Vec<(Part, String)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.path.join(folder))? {
            let name = entry?.file_name();
            let parts = name.to_str().and_then(|name| name.split_once('.'));
            found.extend(parts.and_then(|(part, attempt)| Some((part.parse().ok()?, attempt.to_owned()))));
        }
        found.sort_unstable();
        Ok(found)
    }

    pub(crate) fn exit(&self, part: Part, attempt: &str) -> Option<Exit> {
        let text = read(&self.path.join(format!("exits/{part}.{attempt}"))).ok()??;
        serde_json::from_str(&text).ok()
    }

    /// Says which attempt at a part counts; every other one is to stop.
    pub(crate) fn take(&self, part: Part, attempt: &str) -> io::Result<()> {
        publish(&self.path.join(format!("taken/{part}")), attempt.as_bytes())
    }

    /// Whether an attempt at a part is still wanted.
    pub(crate) fn wants(&self, part: Part, attempt: &str) -> bool {
        !self.is_closed()
            && !read(&self.path.join(format!("taken/{part}")))
                .is_ok_and(|taken| taken.is_some_and(|taken| taken != attempt))
    }

    /// What a worker leaves last. On the disk when this returns.
    pub(crate) fn leave(&self, part: Part, attempt: &str, exit: &Exit) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(exit).expect("an exit is plain data");
        publish(&self.path.join(format!("exits/{part}.{attempt}")), &bytes)
    }

    pub(crate) fn news_file(&self, part: Part, attempt: &str) -> PathBuf {
        self.path.join(format!("news/{part}.{attempt}"))
    }
}

/// What the workers of an action printed: the files of its newest generation, in the order of their names.
pub fn logs(folder: &Path) -> Vec<PathBuf> {
    let newest = read(&folder.join("current")).ok().flatten();
    let entries = newest.and_then(|name| fs::read_dir(folder.join(name.trim()).join("logs")).ok());
    let mut files: Vec<PathBuf> = entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort_unstable();
    files
}

/// The news of one attempt, as a worker appends them.
pub(crate) struct NewsWriter(File);

impl NewsWriter {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        OpenOptions::new().create_new(true).append(true).open(path).map(Self)
    }

    pub(crate) fn append(&mut self, news: &News) -> io::Result<()> {
        let mut line = serde_json::to_vec(news).map_err(io::Error::other)?;
        line.push(b'\n');
        self.0.write_all(&line)
    }
}

/// The news of one attempt, as the coordinator reads them: what is whole since the last time.
#[derive(Debug, Default)]
pub(crate) struct NewsReader(u64);

impl NewsReader {
    pub(crate) fn read(&mut self, path: &Path) -> io::Result<Vec<News>> {
        // Opened each time: a shared file system shows an open file as it was.
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(self.0))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        self.0 += whole as u64;
        let lines = text[..whole].split(|&byte| byte == b'\n');
        Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }
}

/// Eight random bytes as text: a name that nothing else bears, on any machine.
pub(crate) fn nonce() -> io::Result<String> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}

/// The end of a file that somebody printed into, at most so many bytes; none where there is nothing.
pub(crate) fn tail(path: &Path, most: u64) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most))).ok()?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// The text of a file; none where it is not there.
fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a file that appears whole or not at all, and is on the disk when this returns.
pub(crate) fn publish(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_file_name(format!(".{}", nonce()?));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_generation_is_not_gone_on_with_and_one_shared_otherwise_is_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(Generation::current(directory.path(), 2).unwrap(), (None, None)));
        let made = Generation::create(directory.path(), 2).unwrap();
        let (found, other) = Generation::current(directory.path(), 2).unwrap();
        assert!(found.unwrap().path == made.path && other.is_none());
        let (found, other) = Generation::current(directory.path(), 3).unwrap();
        assert!(found.is_none() && other.unwrap().path == made.path);
        made.close().unwrap();
        assert!(matches!(Generation::current(directory.path(), 2).unwrap(), (None, None)));
    }

    #[test]
    fn news_are_read_line_by_line_and_a_torn_line_waits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("news");
        let mut writer = NewsWriter::create(&path).unwrap();
        let news = |done| News { counts: Counts { done, ..Counts::default() }, ..News::default() };
        writer.append(&news(1)).unwrap();
        let mut reader = NewsReader::default();
        assert_eq!(reader.read(&path).unwrap(), [news(1)]);
        writer.0.write_all(b"{\"done\":2").unwrap();
        assert_eq!(reader.read(&path).unwrap(), []);
        writer.0.write_all(b"}\n").unwrap();
        assert_eq!(reader.read(&path).unwrap(), [news(2)]);
    }

    #[test]
    fn an_attempt_is_wanted_until_another_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let generation = Generation::create(directory.path(), 2).unwrap();
        assert!(generation.wants(Part::Shard(1), "a"));
        generation.take(Part::Shard(1), "a").unwrap();
        assert!(generation.wants(Part::Shard(1), "a") && !generation.wants(Part::Shard(1), "b"));
        assert!(generation.wants(Part::Shard(0), "b"));
        generation.close().unwrap();
        assert!(!generation.wants(Part::Shard(0), "b"));
    }
}
