//! A provider's batches (OpenAI's `/v1/files` and `/v1/batches`): all requests in files, the answers within a day, at half
//! the price. The node submits them, and may be stopped: what is under way is remembered in its scratch folder and asked
//! after by the next run.
//!
//! A batch carries the digest of its file. So one whose submission was cut off is found again among the provider's, and is
//! not submitted twice.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dag_engine::Digest;
use dag_engine::task::TaskError;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Method, Url};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::reply::abridge;
use super::super::{Failure, FailureKind, OnFinished, Raw, Request, Sampling};
use super::Served;
use super::call::{Attempt, Shared, classify};
use super::request::{self, below};
use super::retry::{self, Backoff};

/// Requests in one file, and its bytes. OpenAI takes 50,000 and 200 MB; a file is in memory while it is sent.
const MOST_LINES: usize = 50_000;
const MOST_BYTES: u64 = 64 << 20;
/// The key of a batch's metadata under which the digest of its file stands.
const MARK: &str = "dag";

/// How batches are asked after.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BatchRun {
    /// Seconds between two questions whether a batch is done (default 60).
    pub poll: Option<f64>,
}

/// A batch that was begun, as the scratch folder remembers it.
#[derive(Debug, Serialize, Deserialize)]
struct Batch {
    /// The digest of its file.
    mark: Digest,
    /// The provider's name for the file, once it is there.
    file: Option<String>,
    /// The provider's name for the batch, once it is submitted.
    id: Option<String>,
}

/// The batches of a node, in its scratch folder: a file of requests and a note for each.
struct Desk<'a> {
    shared: &'a Shared,
    base: &'a Url,
    folder: PathBuf,
    poll: Duration,
}

impl Served {
    /// Asks in batches: hands over everything that is not under way yet, then waits for all.
    pub(super) async fn ask_in_batches(
        &self,
        shared: &Shared,
        options: BatchRun,
        sampling: &Sampling,
        requests: &mut dyn Iterator<Item = Request>,
        finished: &mut OnFinished<'_>,
    ) -> Result<(), TaskError> {
        let folder = self.scratch.join("batches");
        fs::create_dir_all(&folder).map_err(|error| TaskError::io(&folder, error))?;
        let poll = super::seconds(options.poll, 60.0);
        let desk = Desk { shared, base: &self.endpoints[0], folder, poll };
        let mut open = desk.open()?;
        let mut under_way = BTreeSet::new();
        for batch in &open {
            under_way.extend(keys(&desk.requests(&batch.mark))?);
        }
        let wanted = self.write(&desk, sampling, requests, &mut under_way, &mut open)?;
        for batch in &mut open {
            if shared.cancel.is_cancelled() {
                return Ok(());
            }
            desk.submit(batch).await?;
        }
        let total = open.len();
        let mut begun = Instant::now();
        while !open.is_empty() {
            let mut still = Vec::new();
            for batch in open {
                match desk.answers(&batch).await? {
                    Some(answers) => {
                        desk.hand_over(&batch, &answers, &wanted, finished)?;
                        desk.forget(&batch)?;
                    }
                    None => still.push(batch),
                }
            }
            open = still;
            self.progress.message(&format!("{} of {total} batches are done", total - open.len()));
            while !open.is_empty() && begun.elapsed() < desk.poll {
                if shared.cancel.is_cancelled() {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(200).min(desk.poll)).await;
            }
            begun = Instant::now();
        }
        Ok(())
    }

    /// Writes the requests that are in no batch yet into files of their own; gives the keys of all that are wanted.
    fn write(
        &self,
        desk: &Desk<'_>,
        sampling: &Sampling,
        requests: &mut dyn Iterator<Item = Request>,
        under_way: &mut BTreeSet<Digest>,
        open: &mut Vec<Batch>,
    ) -> Result<BTreeSet<Digest>, TaskError> {
        let mut wanted = BTreeSet::new();
        let mut draft: Option<Draft> = None;
        for request in requests {
            for sample in request.samples {
                wanted.insert(sample.key);
                if !under_way.insert(sample.key) {
                    continue;
                }
                let body = request::body(&self.spec, &request.messages, sampling, sample.seed, 1);
                let line = json!({
                    "custom_id": sample.key.to_string(), "method": "POST",
                    "url": format!("/v1/{}", desk.shared.path), "body": body,
                });
                let writing = match draft.take() {
                    Some(draft) => draft,
                    None => Draft::begin(&desk.folder)?,
                };
                let writing = writing.add(&line.to_string())?;
                if writing.lines >= MOST_LINES || writing.bytes >= MOST_BYTES {
                    open.push(writing.finish(desk)?);
                } else {
                    draft = Some(writing);
                }
            }
        }
        if let Some(draft) = draft {
            open.push(draft.finish(desk)?);
        }
        Ok(wanted)
    }
}

/// A file of requests while it is written.
struct Draft {
    path: PathBuf,
    file: BufWriter<File>,
    lines: usize,
    bytes: u64,
}

impl Draft {
    fn begin(folder: &Path) -> Result<Self, TaskError> {
        let path = folder.join("draft");
        let file = File::create(&path).map_err(|error| TaskError::io(&path, error))?;
        Ok(Self { path, file: BufWriter::new(file), lines: 0, bytes: 0 })
    }

    fn add(mut self, line: &str) -> Result<Self, TaskError> {
        writeln!(self.file, "{line}").map_err(|error| TaskError::io(&self.path, error))?;
        self.lines += 1;
        self.bytes += line.len() as u64 + 1;
        Ok(self)
    }

    /// Names the file after its digest, and notes the batch.
    fn finish(self, desk: &Desk<'_>) -> Result<Batch, TaskError> {
        let io = |error| TaskError::io(&self.path, error);
        self.file.into_inner().map_err(|error| io(error.into_error()))?.sync_all().map_err(io)?;
        let (mark, _) = Digest::of_reader(File::open(&self.path).map_err(io)?).map_err(io)?;
        fs::rename(&self.path, desk.requests(&mark)).map_err(io)?;
        let batch = Batch { mark, file: None, id: None };
        desk.note(&batch)?;
        Ok(batch)
    }
}

/// The keys of the requests in a file.
fn keys(path: &Path) -> Result<Vec<Digest>, TaskError> {
    let file = BufReader::new(File::open(path).map_err(|error| TaskError::io(path, error))?);
    let mut keys = Vec::new();
    for line in file.lines() {
        let line = line.map_err(|error| TaskError::io(path, error))?;
        let id = serde_json::from_str::<Value>(&line).ok();
        let key = id.and_then(|line| line.get("custom_id")?.as_str()?.parse().ok());
        keys.push(
            key.ok_or_else(|| TaskError::input(path, Some(keys.len() as u64 + 1), "this is no request"))?,
        );
    }
    Ok(keys)
}

impl Desk<'_> {
    fn requests(&self, mark: &Digest) -> PathBuf {
        self.folder.join(format!("{mark}.jsonl"))
    }

    fn note_of(&self, mark: &Digest) -> PathBuf {
        self.folder.join(format!("{mark}.json"))
    }

    /// The batches that an earlier run began.
    fn open(&self) -> Result<Vec<Batch>, TaskError> {
        let listed = fs::read_dir(&self.folder).map_err(|error| TaskError::io(&self.folder, error))?;
        let mut paths: Vec<PathBuf> = listed.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
        paths.sort();
        let read = |path: &PathBuf| {
            let bytes = fs::read(path).map_err(|error| TaskError::io(path, error))?;
            serde_json::from_slice(&bytes)
                .map_err(|error| TaskError::input(path, None, format!("this is no note of a batch: {error}")))
        };
        paths.iter().map(read).collect()
    }

    /// Remembers how far a batch is.
    fn note(&self, batch: &Batch) -> Result<(), TaskError> {
        let path = self.note_of(&batch.mark);
        let draft = path.with_extension("new");
        let io = |error| TaskError::io(&path, error);
        fs::write(&draft, json!(batch).to_string()).map_err(io)?;
        File::open(&draft).and_then(|file| file.sync_all()).map_err(io)?;
        fs::rename(&draft, &path).map_err(io)
    }

    fn forget(&self, batch: &Batch) -> Result<(), TaskError> {
        for path in [self.note_of(&batch.mark), self.requests(&batch.mark)] {
            fs::remove_file(&path).map_err(|error| TaskError::io(&path, error))?;
        }
        Ok(())
    }

    /// Hands a batch over, unless that was done.
    async fn submit(&self, batch: &mut Batch) -> Result<(), TaskError> {
        if batch.id.is_some() {
            return Ok(());
        }
        // It may have been submitted by a run that did not live to note it.
        if batch.file.is_some() {
            batch.id = self.find(&batch.mark).await?;
        }
        if batch.id.is_none() {
            if batch.file.is_none() {
                batch.file = Some(self.upload(&batch.mark).await?);
                self.note(batch)?;
            }
            let created = self
                .call(
                    Method::POST,
                    "batches",
                    Some(("application/json", self.order(batch).to_string().into())),
                )
                .await?;
            batch.id = Some(text(&created, "id")?);
        }
        self.note(batch)
    }

    fn order(&self, batch: &Batch) -> Value {
        json!({
            "input_file_id": batch.file, "endpoint": format!("/v1/{}", self.shared.path),
            "completion_window": "24h", "metadata": { MARK: batch.mark.to_string() },
        })
    }

    /// The batch with this mark among the provider's latest.
    async fn find(&self, mark: &Digest) -> Result<Option<String>, TaskError> {
        let mut after = String::new();
        loop {
            let page = self.call(Method::GET, &format!("batches?limit=100{after}"), None).await?;
            let batches = page.get("data").and_then(Value::as_array).cloned().unwrap_or_default();
            let is_it = |batch: &&Value| {
                batch.pointer(&format!("/metadata/{MARK}")).is_some_and(|found| *found == mark.to_string())
            };
            if let Some(found) = batches.iter().find(is_it) {
                return text(found, "id").map(Some);
            }
            let last = batches.last().and_then(|batch| batch.get("id")?.as_str());
            match last.filter(|_| page.get("has_more").is_some_and(|more| *more == true)) {
                Some(last) => after = format!("&after={last}"),
                None => return Ok(None),
            }
        }
    }

    async fn upload(&self, mark: &Digest) -> Result<String, TaskError> {
        let path = self.requests(mark);
        let lines = fs::read(&path).map_err(|error| TaskError::io(&path, error))?;
        // JSON has no line that begins with the boundary.
        let boundary = format!("dag-{mark}");
        let mut form = format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--{boundary}\r\n\
             content-disposition: form-data; name=\"file\"; filename=\"{}.jsonl\"\r\ncontent-type: application/jsonl\r\n\r\n",
            mark.short()
        )
        .into_bytes();
        form.extend_from_slice(&lines);
        form.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let kind = format!("multipart/form-data; boundary={boundary}");
        let file = self.call(Method::POST, "files", Some((&kind, form.into()))).await?;
        text(&file, "id")
    }

    /// The files of answers of a batch that is over; `None` while it is not.
    async fn answers(&self, batch: &Batch) -> Result<Option<Vec<PathBuf>>, TaskError> {
        let id = batch.id.as_deref().unwrap_or_default();
        let state = self.call(Method::GET, &format!("batches/{id}"), None).await?;
        match text(&state, "status")?.as_str() {
            "completed" | "expired" | "cancelled" => {}
            "failed" => {
                let why = state.get("errors").map_or_else(String::new, |errors| abridge(&errors.to_string()));
                // Nothing of it was done, so another run may submit it anew.
                self.forget(batch)?;
                return Err(TaskError::failed(format!("the provider refuses the batch `{id}`: {why}")));
            }
            _ => return Ok(None),
        }
        let mut answers = Vec::new();
        for field in ["output_file_id", "error_file_id"] {
            let Some(file) = state.get(field).and_then(Value::as_str) else { continue };
            let path = self.folder.join(format!("{}.{field}", batch.mark));
            let bytes = self.bytes(Method::GET, &format!("files/{file}/content"), None, usize::MAX).await?;
            fs::write(&path, bytes).map_err(|error| TaskError::io(&path, error))?;
            answers.push(path);
        }
        Ok(Some(answers))
    }

    /// Gives every request of a batch its answer, or the failure that it has none.
    fn hand_over(
        &self,
        batch: &Batch,
        answers: &[PathBuf],
        wanted: &BTreeSet<Digest>,
        finished: &mut OnFinished,
    ) -> Result<(), TaskError> {
        let mut left: BTreeSet<Digest> = keys(&self.requests(&batch.mark))?.into_iter().collect();
        for path in answers {
            let file = BufReader::new(File::open(path).map_err(|error| TaskError::io(path, error))?);
            for line in file.split(b'\n') {
                let line = line.map_err(|error| TaskError::io(path, error))?;
                let Some((key, outcome)) = self.read(&line) else { continue };
                if left.remove(&key) && wanted.contains(&key) {
                    finished(key, outcome)?;
                }
            }
            fs::remove_file(path).map_err(|error| TaskError::io(path, error))?;
        }
        for key in left.into_iter().filter(|key| wanted.contains(key)) {
            let failure = Failure::new(FailureKind::Malformed, "the batch ended without an answer to it");
            finished(key, Err(failure))?;
        }
        Ok(())
    }

    /// A line of answers; `None` if it is not one.
    fn read(&self, line: &[u8]) -> Option<(Digest, Result<Raw, Failure>)> {
        let line: Value = serde_json::from_slice(line).ok()?;
        let key = line.get("custom_id")?.as_str()?.parse().ok()?;
        let status = line.pointer("/response/status_code").and_then(Value::as_u64).unwrap_or(0);
        let outcome = match line.pointer("/response/body") {
            Some(body) if (200..300).contains(&status) => {
                let raw = Raw::Chat(body.clone());
                raw.read(self.shared.thinks).map(|_| raw)
            }
            body => {
                let said = body.or_else(|| line.get("error")).map(ToString::to_string).unwrap_or_default();
                let kind = match u16::try_from(status).ok().and_then(|status| status.try_into().ok()) {
                    Some(status) => classify(status),
                    // The provider's own words for a request that it did not come to within the day.
                    None if said.contains("expired") => FailureKind::Timeout,
                    None => FailureKind::Refused,
                };
                Err(Failure::new(kind, self.shared.blot(&abridge(&said))))
            }
        };
        Some((key, outcome))
    }

    /// One question to the provider, with its retries.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, bytes::Bytes)>,
    ) -> Result<Value, TaskError> {
        let largest = self.shared.largest;
        let bytes = self.bytes(method, path, body, largest).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            TaskError::Transient(format!("the provider's answer to `{path}` is not JSON: {error}"))
        })
    }

    async fn bytes(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, bytes::Bytes)>,
        largest: usize,
    ) -> Result<Vec<u8>, TaskError> {
        let mut backoff = Backoff::new(0);
        let mut left = self.shared.retries;
        loop {
            let mut request = self.shared.client.request(method.clone(), below(self.base, path));
            if let Some(authorization) = &self.shared.authorization {
                request = request.header(AUTHORIZATION, authorization.clone());
            }
            if let Some((kind, body)) = &body {
                request = request.header(CONTENT_TYPE, *kind).body(body.clone());
            }
            let Attempt { failure, wait } = match self.shared.fetch(request, largest).await {
                Ok(bytes) => return Ok(bytes),
                Err(attempt) => attempt,
            };
            let may_pass = FailureKind::TRANSIENT.contains(&failure.kind) && retry::is_bearable(wait);
            let what = format!("`{path}` of the provider: {}", self.shared.blot(&failure.to_string()));
            if !may_pass {
                return Err(TaskError::failed(what));
            }
            if left == 0 || self.shared.cancel.is_cancelled() {
                return Err(TaskError::Transient(what));
            }
            left -= 1;
            self.shared.pause(backoff.next(wait)).await;
        }
    }
}

fn text(value: &Value, field: &str) -> Result<String, TaskError> {
    let found = value.get(field).and_then(Value::as_str).map(str::to_owned);
    found.ok_or_else(|| TaskError::Transient(format!("the provider's answer has no `{field}`")))
}
