//! The calls of a batch API: upload a file, make a batch of it, look at the batch, download what came out.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{RequestBuilder, Url};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::super::super::reply::abridge;
use super::super::super::{Failure, FailureKind};
use super::super::call::{Attempt, Shared};
use super::super::request::below;
use super::super::retry::{self, Backoff};
use super::super::seconds;
use super::jobs::End;

/// Between the parts of an upload. No line of JSON can hold it: its first line break would end the line.
const BOUNDARY: &str = "----dag-9f2c6b1e0a7d4358";
/// The most that a question about a batch may take; files may take as long as any request.
const LONGEST_QUESTION: Duration = Duration::from_mins(2);

/// A provider that takes batches.
pub(super) struct Provider<'a> {
    runtime: &'a Runtime,
    shared: &'a Shared,
    base: &'a Url,
    /// How long a file may take, and how long a question about a batch.
    timeout: Duration,
    question: Duration,
}

/// What a look at a batch shows.
pub(super) struct Look {
    pub(super) status: String,
    /// How many requests are through, well or not.
    pub(super) done: u64,
    /// The files of answers and of failures.
    pub(super) files: Vec<String>,
    /// What is wrong with the batch as a whole.
    errors: Option<Value>,
}

impl Look {
    fn of(batch: &Value) -> Self {
        let text = |field: &str| batch.get(field).and_then(Value::as_str).map(str::to_owned);
        let count = |field: &str| batch.pointer(&format!("/request_counts/{field}")).and_then(Value::as_u64);
        Self {
            status: text("status").unwrap_or_default(),
            done: count("completed").unwrap_or(0) + count("failed").unwrap_or(0),
            files: ["output_file_id", "error_file_id"].into_iter().filter_map(text).collect(),
            errors: batch.get("errors").filter(|errors| !errors.is_null()).cloned(),
        }
    }

    /// What a request comes to that the files do not speak of; `None` while the batch is under way.
    pub(super) fn end(&self) -> Option<End> {
        let errors = || self.errors.as_ref().map(|errors| abridge(&errors.to_string())).unwrap_or_default();
        let (kind, detail) = match self.status.as_str() {
            "completed" => {
                (FailureKind::Malformed, "the batch is completed without a line for this".to_owned())
            }
            "failed" => (FailureKind::Refused, format!("the batch as a whole is refused: {}", errors())),
            "expired" => (FailureKind::Expired, "the batch ran out of time".to_owned()),
            "cancelled" => (FailureKind::Cancelled, "the batch was cancelled at the provider".to_owned()),
            _ => return None,
        };
        Some(End { kind, detail })
    }
}

impl<'a> Provider<'a> {
    pub(super) fn new(runtime: &'a Runtime, shared: &'a Shared, base: &'a Url, timeout: Duration) -> Self {
        Self { runtime, shared, base, timeout, question: timeout.min(LONGEST_QUESTION) }
    }

    /// Its address.
    pub(super) fn base(&self) -> &str {
        self.base.as_str()
    }

    /// Uploads the requests of a batch; gives the id of the file. A second upload costs nothing.
    pub(super) fn upload(&self, name: &str, lines: &[u8]) -> Result<String, Failure> {
        let mut form = format!(
            "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
             --{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             content-type: application/jsonl\r\n\r\n"
        )
        .into_bytes();
        form.extend_from_slice(lines);
        form.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
        let form = Bytes::from(form);
        let made = self.again(|| {
            let request = self.shared.client.post(below(self.base, "files")).timeout(self.timeout);
            let kind = format!("multipart/form-data; boundary={BOUNDARY}");
            self.answered(request.header(CONTENT_TYPE, kind).body(form.clone()))
        })?;
        id(&made)
    }

    /// Makes a batch of a file; gives its id. One that may have been made by an attempt that failed is looked for first.
    pub(super) fn create(&self, file: &str, url: &str) -> Result<String, Failure> {
        let body = json!({ "input_file_id": file, "endpoint": url, "completion_window": "24h" }).to_string();
        let mut is_first = true;
        let made = self.again(|| {
            if !std::mem::take(&mut is_first)
                && let Some(found) = self.found(file)?
            {
                return Ok(json!({ "id": found }));
            }
            let request = self.shared.client.post(below(self.base, "batches")).timeout(self.question);
            // The same each time: a provider that knows it makes one batch.
            let request = request.header("Idempotency-Key", format!("dag-{file}"));
            self.answered(request.header(CONTENT_TYPE, "application/json").body(body.clone()))
        })?;
        id(&made)
    }

    /// The batch that was made of a file, if one was.
    pub(super) fn find(&self, file: &str) -> Result<Option<String>, Failure> {
        self.again(|| self.found(file))
    }

    fn found(&self, file: &str) -> Result<Option<String>, Attempt> {
        let mut after: Option<String> = None;
        loop {
            let mut address = below(self.base, "batches");
            address.query_pairs_mut().append_pair("limit", "100");
            if let Some(after) = &after {
                address.query_pairs_mut().append_pair("after", after);
            }
            let listed = self.answered(self.shared.client.get(address).timeout(self.question))?;
            let batches = listed.get("data").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            if let Some(batch) = batches.iter().find(|batch| batch["input_file_id"] == file) {
                return id(batch).map(Some).map_err(|failure| Attempt { failure, wait: None });
            }
            let last = batches.last().and_then(|batch| batch["id"].as_str()).map(str::to_owned);
            if listed["has_more"] != true || last.is_none() || last == after {
                return Ok(None);
            }
            after = last;
        }
    }

    /// Looks at a batch.
    pub(super) fn look(&self, batch: &str) -> Result<Look, Failure> {
        let address = self.address(&["batches", batch]);
        let seen =
            self.again(|| self.answered(self.shared.client.get(address.clone()).timeout(self.question)))?;
        Ok(Look::of(&seen))
    }

    /// Appends a file to `output`, at most `most` bytes; a download that breaks off begins anew.
    pub(super) fn download(&self, file: &str, output: &mut File, most: u64) -> Result<(), Failure> {
        let address = self.address(&["files", file, "content"]);
        let local = |error: std::io::Error| {
            Attempt::new(FailureKind::Malformed, format!("the file `{file}` could not be written: {error}"))
        };
        self.again(|| {
            let start = output.seek(SeekFrom::End(0)).map_err(local)?;
            let request = self.authorised(self.shared.client.get(address.clone()).timeout(self.timeout));
            let took = self.runtime.block_on(async {
                let mut response = self.shared.response(request).await?;
                let mut taken = 0;
                while let Some(part) = self.shared.part(&mut response).await? {
                    taken += part.len() as u64;
                    if taken > most {
                        let what =
                            format!("the file `{file}` is larger than its answers can be, {most} bytes");
                        return Err(Attempt::new(FailureKind::TooLarge, what));
                    }
                    output.write_all(&part).map_err(local)?;
                }
                // The next file begins a line of its own.
                output.write_all(b"\n").map_err(local)
            });
            if took.is_err() {
                output.set_len(start).map_err(local)?;
            }
            took
        })
    }

    /// Waits, unless the run is to stop.
    pub(super) fn pause(&self, poll: f64) {
        self.runtime.block_on(self.shared.pause(seconds(Some(poll), 60.0)));
    }

    /// Attempts a call until it is answered, or until its retries are used up.
    fn again<T>(&self, mut attempt: impl FnMut() -> Result<T, Attempt>) -> Result<T, Failure> {
        let mut backoff = Backoff::new(0);
        let mut left = self.shared.retries;
        loop {
            let Attempt { failure, wait } = match attempt() {
                Ok(answer) => return Ok(answer),
                Err(attempt) => attempt,
            };
            let may_pass = FailureKind::TRANSIENT.contains(&failure.kind) && retry::is_bearable(wait);
            if !may_pass || left == 0 || self.shared.cancel.is_cancelled() {
                return Err(Failure { detail: self.shared.blot(&failure.detail), ..failure });
            }
            left -= 1;
            self.runtime.block_on(self.shared.pause(backoff.next(wait)));
        }
    }

    fn answered(&self, request: RequestBuilder) -> Result<Value, Attempt> {
        self.runtime.block_on(self.shared.send(self.authorised(request)))
    }

    fn authorised(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.shared.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization.clone()),
            None => request,
        }
    }

    /// An address below the base. What the provider calls its things may hold what an address may not.
    fn address(&self, path: &[&str]) -> Url {
        let mut address = self.base.clone();
        if let Ok(mut segments) = address.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        address
    }
}

fn id(made: &Value) -> Result<String, Failure> {
    let id = made.get("id").and_then(Value::as_str).filter(|id| !id.is_empty());
    id.map(str::to_owned).ok_or_else(|| {
        Failure::new(FailureKind::Malformed, format!("no id in `{}`", abridge(&made.to_string())))
    })
}
