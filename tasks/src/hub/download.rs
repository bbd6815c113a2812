//! Bringing files here: several at a time, each resumed where it broke off, checked, and then put in its place whole.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dag_engine::context::{Cancel, Progress};
use reqwest::header::CONTENT_RANGE;
use reqwest::{Method, StatusCode, Url};
use tokio::task::JoinSet;

use super::error::{HubError, bytes};
use super::http::{ATTEMPTS, Client, cause, pause, place};
use super::plain::{Hasher, PlainDigest};
use super::settings::free_bytes;

/// How often a file that another process fetches is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Progress is told after so many bytes.
const TOLD: u64 = 64 << 20;

/// One file to fetch.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) url: Url,
    /// Where it is while it comes; what an earlier process left there is gone on with.
    pub(super) part: PathBuf,
    /// Who holds this fetches it.
    pub(super) lock: PathBuf,
    /// Where it will be.
    pub(super) to: PathBuf,
    pub(super) size: Option<u64>,
    pub(super) digest: Option<PlainDigest>,
    /// Whether the hub may be told who asks.
    pub(super) is_secret: bool,
    pub(super) what: String,
}

/// Fetches files.
#[derive(Clone)]
pub(super) struct Fetcher {
    client: Client,
    cancel: Cancel,
    progress: Progress,
    come: Arc<AtomicU64>,
}

impl Fetcher {
    pub(super) fn new(client: Client, cancel: Cancel, progress: Progress) -> Self {
        Self { client, cancel, progress, come: Arc::default() }
    }

    /// Fetches all, so many at a time.
    pub(super) async fn fetch(&self, jobs: Vec<Job>, at_once: usize) -> Result<(), HubError> {
        let wanted = check_space(&jobs)?;
        let count = jobs.len();
        if count > 0 {
            self.progress.message(&format!("fetching {count} files, {}", bytes(wanted)));
        }
        let mut waiting = jobs.into_iter();
        let mut running = JoinSet::new();
        let mut done = 0;
        loop {
            while running.len() < at_once
                && let Some(job) = waiting.next()
            {
                let fetcher = self.clone();
                running.spawn(async move { fetcher.fetch_one(&job, wanted).await });
            }
            let Some(ended) = running.join_next().await else { return Ok(()) };
            ended.map_err(|error| HubError::Client(error.to_string()))??;
            done += 1;
            self.progress.message(&format!("fetched {done} of {count} files"));
        }
    }

    async fn fetch_one(&self, job: &Job, wanted: u64) -> Result<(), HubError> {
        let lock = File::create(&job.lock).map_err(|error| HubError::io(&job.lock, error))?;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => pause(LOOK, &self.cancel).await?,
                Err(TryLockError::Error(error)) => return Err(HubError::io(&job.lock, error)),
            }
        }
        // Another process may have brought it while this one waited.
        if job.to.exists() {
            return Ok(());
        }
        let (mut attempt, mut is_fresh) = (1, false);
        loop {
            let before = fs::metadata(&job.part).map_or(0, |part| part.len());
            is_fresh |= before == 0;
            let broken = match self.receive(job, wanted).await {
                Ok(found) if job.digest.is_none_or(|expected| expected == found) => break,
                Ok(found) => {
                    fs::remove_file(&job.part).map_err(|error| HubError::io(&job.part, error))?;
                    if is_fresh {
                        let expected = job.digest.map_or_else(String::new, |digest| digest.to_string());
                        let found = found.to_string();
                        return Err(HubError::Damaged { what: job.what.clone(), expected, found });
                    }
                    // What was here before may have been the beginning of something else: once more, from nothing.
                    continue;
                }
                Err(error) if error.is_passing() => error,
                Err(error) => return Err(error),
            };
            let after = fs::metadata(&job.part).map_or(0, |part| part.len());
            attempt = if after > before { 1 } else { attempt + 1 };
            if attempt > ATTEMPTS {
                return Err(broken);
            }
        }
        // On the disk before it has its name: what has a name is believed.
        let synced = File::open(&job.part).and_then(|part| part.sync_all());
        synced.and_then(|()| fs::rename(&job.part, &job.to)).map_err(|error| HubError::io(&job.to, error))
    }

    /// Receives what is not here yet; the digest of the whole.
    async fn receive(&self, job: &Job, wanted: u64) -> Result<PlainDigest, HubError> {
        let failed = |error| HubError::io(&job.part, error);
        let mut options = OpenOptions::new();
        let mut part = options.read(true).append(true).create(true).open(&job.part).map_err(failed)?;
        let mut hasher = Hasher::like(job.digest);
        let mut have = hash(&mut part, &mut hasher).map_err(failed)?;
        if job.size.is_some_and(|size| have == size) && have > 0 {
            return Ok(hasher.finish());
        }
        let mut response = self
            .client
            .ask(Method::GET, &job.url, Some(have), job.is_secret, &job.what, &self.cancel)
            .await?;
        let (status, from) = (response.status(), place(response.url()));
        let failing = |why: String| HubError::Failing { what: job.what.clone(), why };
        let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
        let goes_on = range.is_some_and(|range| range.starts_with(&format!("bytes {have}-")));
        match status {
            StatusCode::PARTIAL_CONTENT if goes_on => {}
            StatusCode::OK => {
                // The whole comes, or it has to: this server does not go on in the middle.
                part.set_len(0).map_err(failed)?;
                (hasher, have) = (Hasher::like(job.digest), 0);
            }
            StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT => {
                part.set_len(0).map_err(failed)?;
                return Err(failing(format!("{from} has no such part of it")));
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                let what = job.what.clone();
                return Err(HubError::NotFound { what, noun: "file".to_owned(), endpoint: from });
            }
            status => {
                let why = format!("{from} answers {}", status.as_u16());
                return Err(HubError::Strange { what: job.what.clone(), why });
            }
        }
        let whole = job.size.or_else(|| response.content_length().map(|rest| have + rest));
        loop {
            if self.cancel.is_cancelled() {
                return Err(HubError::Cancelled);
            }
            let chunk =
                response.chunk().await.map_err(|error| failing(format!("{from}: {}", cause(&error))))?;
            let Some(chunk) = chunk else { break };
            part.write_all(&chunk).map_err(failed)?;
            hasher.update(&chunk);
            have += chunk.len() as u64;
            if whole.is_some_and(|whole| have > whole) {
                part.set_len(0).map_err(failed)?;
                return Err(failing(format!("{from} sends more bytes than it said")));
            }
            self.tell(chunk.len() as u64, wanted);
        }
        match whole {
            Some(whole) if have < whole => {
                Err(failing(format!("{from} broke off after {have} of {whole} bytes")))
            }
            _ => Ok(hasher.finish()),
        }
    }

    fn tell(&self, more: u64, wanted: u64) {
        let before = self.come.fetch_add(more, Ordering::Relaxed);
        if before / TOLD != (before + more) / TOLD {
            let come = bytes(before + more);
            let of = if wanted > 0 { format!(" of {}", bytes(wanted)) } else { String::new() };
            self.progress.message(&format!("fetched {come}{of}"));
        }
    }
}

/// Hashes what is there already, and tells how much that is.
fn hash(part: &mut File, hasher: &mut Hasher) -> io::Result<u64> {
    let (mut buffer, mut have) = (vec![0; 1 << 20], 0);
    loop {
        match part.read(&mut buffer)? {
            0 => return Ok(have),
            read => {
                hasher.update(&buffer[..read]);
                have += read as u64;
            }
        }
    }
}

/// The bytes that are to come, if the disk has room for them.
fn check_space(jobs: &[Job]) -> Result<u64, HubError> {
    let left = |job: &Job| {
        let have = fs::metadata(&job.part).map_or(0, |part| part.len());
        job.size.unwrap_or(0).saturating_sub(have)
    };
    let wanted = jobs.iter().map(left).sum();
    if let Some(first) = jobs.first()
        && let Some(free) = free_bytes(&first.to)
        && wanted > free
    {
        return Err(HubError::NoSpace {
            what: format!("{} files from a hub", jobs.len()),
            needed: bytes(wanted),
            free: bytes(free),
            path: first.to.parent().unwrap_or(&first.to).to_owned(),
        });
    }
    Ok(wanted)
}
