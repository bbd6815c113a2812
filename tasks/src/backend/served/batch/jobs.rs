//! What is under way at a provider, kept in files.
//!
//! Three files for each batch: `N.jsonl` has its requests as they were uploaded, `N.json` says what the provider calls it and, in
//! the end, that it has ended, and `N.output` then has the answers as they came. Each is written aside, synced and renamed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use dag_engine::Digest;
use dag_engine::task::TaskError;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::super::FailureKind;
use super::Options;

/// All batches of one folder, in the order they were made.
pub(super) struct Jobs {
    folder: PathBuf,
    all: Vec<Job>,
    next: u32,
}

/// One batch.
pub(super) struct Job {
    /// Without an extension.
    path: PathBuf,
    pub(super) state: State,
    keys: BTreeSet<Digest>,
    awaited: BTreeSet<Digest>,
    /// Where in the output each key has its line.
    lines: BTreeMap<Digest, Range<u64>>,
}

/// What is known of a batch.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// The address it was sent to.
    pub(super) server: String,
    /// The id of the file with its requests.
    pub(super) file: String,
    /// Its own id, once it is known.
    pub(super) batch: Option<String>,
    /// How it ended, once its output is here.
    pub(super) ended: Option<End>,
}

/// How a batch ended, for the requests that it says nothing of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct End {
    pub(super) kind: FailureKind,
    pub(super) detail: String,
}

impl Jobs {
    /// Reads what an earlier run left.
    pub(super) fn open(folder: PathBuf) -> Result<Self, TaskError> {
        let io = |error| TaskError::io(&folder, error);
        fs::create_dir_all(&folder).map_err(io)?;
        let (mut all, mut next) = (Vec::new(), 0);
        for entry in fs::read_dir(&folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_some_and(|ending| ending == "json") {
                let job = Job::open(path.with_extension(""))?;
                next = next.max(job.number() + 1);
                all.push(job);
            }
        }
        all.sort_by_key(Job::number);
        Ok(Self { folder, all, next })
    }

    /// Those that an earlier run left under way.
    pub(super) fn taken_up(&mut self) -> impl Iterator<Item = &mut Job> {
        self.all.iter_mut().filter(|job| job.state.ended.is_none())
    }

    /// Forgets those that are no batch.
    pub(super) fn drop_unsubmitted(&mut self) -> Result<(), TaskError> {
        let mut gone = self.all.extract_if(.., |job| job.state.batch.is_none());
        gone.try_for_each(|job| remove(&job.file("json")))
    }

    /// The last one that a key is in.
    pub(super) fn latest(&mut self, key: &Digest) -> Option<&mut Job> {
        self.all.iter_mut().rev().find(|job| job.keys.contains(key))
    }

    /// Those that something is awaited of.
    pub(super) fn awaited(&mut self) -> impl Iterator<Item = &mut Job> {
        self.all.iter_mut().filter(|job| !job.awaited.is_empty())
    }

    /// Begins a new one.
    pub(super) fn writer(&mut self) -> Writer {
        let path = self.folder.join(self.next.to_string());
        self.next += 1;
        Writer { path, lines: Vec::new(), keys: BTreeSet::new() }
    }

    pub(super) fn push(&mut self, job: Job) {
        self.all.push(job);
    }
}

impl Job {
    fn open(path: PathBuf) -> Result<Self, TaskError> {
        let mut job = Self {
            path,
            state: State::default(),
            keys: BTreeSet::new(),
            awaited: BTreeSet::new(),
            lines: BTreeMap::new(),
        };
        let state = job.file("json");
        let bytes = fs::read(&state).map_err(|error| TaskError::io(&state, error))?;
        job.state = serde_json::from_slice(&bytes)
            .map_err(|error| TaskError::failed(format!("{}: {error}", state.display())))?;
        job.keys = index(&job.file("jsonl"))?.into_keys().collect();
        if job.state.ended.is_some() {
            job.lines = index(&job.file("output"))?;
        }
        Ok(job)
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.path.with_extension(extension)
    }

    fn number(&self) -> u32 {
        self.path.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or(0)
    }

    /// What its file is called at the provider.
    pub(super) fn name(&self) -> String {
        format!("dag-{}.jsonl", self.number())
    }

    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// How many requests it has.
    pub(super) fn size(&self) -> usize {
        self.keys.len()
    }

    /// How many of its requests are waited for.
    pub(super) fn awaited(&self) -> usize {
        self.awaited.len()
    }

    pub(super) fn await_key(&mut self, key: Digest) {
        self.awaited.insert(key);
    }

    pub(super) fn take_awaited(&mut self) -> BTreeSet<Digest> {
        std::mem::take(&mut self.awaited)
    }

    /// Keeps what is known of it.
    pub(super) fn save(&self) -> Result<(), TaskError> {
        let bytes = serde_json::to_vec(&self.state).map_err(|error| TaskError::failed(error.to_string()))?;
        replace(&self.file("json"), |file| file.write_all(&bytes))
    }

    /// Where its answers are put while they come.
    pub(super) fn output(&self) -> Result<File, TaskError> {
        let path = self.file("partial");
        File::create(&path).map_err(|error| TaskError::io(path, error))
    }

    /// Its answers are all here.
    pub(super) fn end(&mut self, output: &File, end: End) -> Result<(), TaskError> {
        let (partial, path) = (self.file("partial"), self.file("output"));
        let placed = output.sync_all().and_then(|()| fs::rename(&partial, &path));
        placed.map_err(|error| TaskError::io(&path, error))?;
        self.lines = index(&path)?;
        self.state.ended = Some(end);
        self.save()
    }

    /// The line of a key, if its output has one.
    pub(super) fn answer(&self, key: &Digest) -> Result<Option<Value>, TaskError> {
        let Some(range) = self.lines.get(key) else { return Ok(None) };
        let path = self.file("output");
        let read = || {
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::Start(range.start))?;
            let mut line = vec![0; (range.end - range.start) as usize];
            file.read_exact(&mut line)?;
            Ok(line)
        };
        let line = read().map_err(|error| TaskError::io(&path, error))?;
        Ok(serde_json::from_slice(&line).ok())
    }
}

/// A batch that is being filled.
pub(super) struct Writer {
    path: PathBuf,
    lines: Vec<u8>,
    keys: BTreeSet<Digest>,
}

impl Writer {
    /// Whether a line of so many bytes fits.
    pub(super) fn has_room(&self, bytes: usize, options: Options) -> bool {
        self.keys.len() < options.requests && self.lines.len() + bytes <= options.bytes
    }

    pub(super) fn add(&mut self, key: Digest, line: &[u8]) {
        self.lines.extend_from_slice(line);
        self.keys.insert(key);
    }

    /// Keeps the requests; all of them are awaited.
    pub(super) fn finish(self) -> Result<(Job, Vec<u8>), TaskError> {
        let Self { path, lines, keys } = self;
        replace(&path.with_extension("jsonl"), |file| file.write_all(&lines))?;
        let job = Job { path, state: State::default(), awaited: keys.clone(), keys, lines: BTreeMap::new() };
        Ok((job, lines))
    }
}

/// Where the line of every `custom_id` lies. The first line of an id counts, and a line without one is passed over.
fn index(path: &Path) -> Result<BTreeMap<Digest, Range<u64>>, TaskError> {
    #[derive(Deserialize)]
    struct Line {
        custom_id: Digest,
    }
    let io = |error| TaskError::io(path, error);
    let mut reader = BufReader::new(File::open(path).map_err(io)?);
    let (mut found, mut line, mut at) = (BTreeMap::new(), Vec::new(), 0);
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(io)? as u64;
        if read == 0 {
            return Ok(found);
        }
        if let Ok(Line { custom_id }) = serde_json::from_slice(&line) {
            found.entry(custom_id).or_insert(at..at + read);
        }
        at += read;
    }
}

/// Writes a file whole or not at all.
fn replace(path: &Path, write: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<(), TaskError> {
    let beside = path.with_extension("new");
    let place = || {
        let mut file = File::create(&beside)?;
        write(&mut file)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        // The name is on the disk when the folder is.
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    place().map_err(|error| TaskError::io(path, error))
}

fn remove(path: &Path) -> Result<(), TaskError> {
    fs::remove_file(path).map_err(|error| TaskError::io(path, error))
}
