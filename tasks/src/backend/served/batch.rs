//! The batch API of a provider: many requests in one file, answered within a day, for less money.
//!
//! What is under way lies in the node's scratch folder (`jobs`), which outlives an interruption, so a batch is asked for once
//! however often the run is stopped: the next one goes on waiting for it. An answer is read as any other and stored under the same
//! key, so that what was asked in a batch is not asked again outside one, nor the other way round.

mod jobs;
mod provider;

use std::sync::mpsc;

use dag_engine::context::Cancel;
use dag_engine::task::TaskError;
use dag_engine::{Digest, canonical};
use serde_json::{Value, json};

use super::super::reply::abridge;
use super::super::{
    Accepts, BackendRun, Batch, BatchRun, Failure, FailureKind, OnFinished, Raw, Request, Sample, Sampling,
};
use super::call::{Shared, classify};
use super::{Served, request, seconds};
use jobs::{End, Job, Jobs, Writer};
use provider::Provider;

/// How batches are asked for, with everything said.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    poll: f64,
    requests: usize,
    bytes: usize,
}

impl Options {
    /// Of a run; `None` where it does not ask for batches.
    pub(super) fn of(run: &BackendRun) -> Option<Self> {
        let given = match run.batch.as_ref()? {
            Batch::Plain(false) => return None,
            Batch::Plain(true) => BatchRun::default(),
            Batch::With(given) => given.clone(),
        };
        Some(Self {
            poll: given.poll.unwrap_or(60.0),
            requests: given.requests.unwrap_or(50_000).max(1),
            bytes: given.bytes.unwrap_or(200_000_000),
        })
    }
}

/// Asks for everything in batches, and waits for them.
pub(super) fn ask(
    served: &Served,
    options: Options,
    sampling: &Sampling,
    requests: &mut dyn Iterator<Item = Request>,
    cancel: &Cancel,
    finished: &mut OnFinished,
) -> Result<(), TaskError> {
    let [base] = &served.endpoints[..] else {
        return Err(TaskError::failed("a batch goes to one server; give one address as `run: { base_url }`"));
    };
    let runtime = super::runtime()?;
    let (tell, _) = mpsc::channel();
    let shared = served.shared(sampling, cancel, tell)?;
    let provider = Provider::new(&runtime, &shared, base, seconds(served.run.request_timeout, 14_400.0));
    let stream = canonical::digest(&json!({ "model": served.identity(), "sampling": sampling }));
    let folder = served.scratch.join("batches").join(stream.short());
    let mut batches = Batches { served, shared: &shared, provider, jobs: Jobs::open(folder)?, options };
    let asked = batches
        .recover()
        .and_then(|()| batches.submit_all(sampling, requests, cancel, finished))
        .and_then(|()| batches.wait(cancel, finished));
    match asked {
        // A call that was not tried again because the run is to stop is no failure.
        Err(TaskError::Transient(_)) if cancel.is_cancelled() => Ok(()),
        asked => asked,
    }
}

/// The batches of one model with one way of sampling.
struct Batches<'a> {
    served: &'a Served,
    shared: &'a Shared,
    provider: Provider<'a>,
    jobs: Jobs,
    options: Options,
}

impl Batches<'_> {
    /// Finds out what became of files that were not known to be a batch when an earlier run ended.
    fn recover(&mut self) -> Result<(), TaskError> {
        let base = self.provider.base().to_owned();
        for job in self.jobs.taken_up() {
            if job.state.server != base {
                return Err(TaskError::failed(format!(
                    "a batch is under way at `{}`; give that as `run: {{ base_url }}`, or remove `{}` to ask anew",
                    job.state.server,
                    job.folder().display()
                )));
            }
            if job.state.batch.is_none() {
                job.state.batch =
                    self.provider.find(&job.state.file).map_err(|failure| lost(job, &failure))?;
                job.save()?;
            }
        }
        // What never became a batch costs nothing and is asked for anew.
        self.jobs.drop_unsubmitted()
    }

    /// Puts into new batches what is in none that is under way.
    fn submit_all(
        &mut self,
        sampling: &Sampling,
        requests: &mut dyn Iterator<Item = Request>,
        cancel: &Cancel,
        finished: &mut OnFinished,
    ) -> Result<(), TaskError> {
        let mut writer: Option<Writer> = None;
        while !cancel.is_cancelled()
            && let Some(request) = requests.next()
        {
            for sample in &request.samples {
                if let Some(job) = self.jobs.latest(&sample.key) {
                    if job.state.ended.is_none() {
                        job.await_key(sample.key);
                        continue;
                    }
                    // Ended, and not all of it was stored before the earlier run ended; its failures are asked for anew.
                    if let Ok(raw) = outcome(job, &sample.key, self.shared)? {
                        finished(sample.key, Ok(raw))?;
                        continue;
                    }
                }
                let line = self.line(&request, sample, sampling);
                if let Some(full) = writer.take_if(|writer| !writer.has_room(line.len(), self.options)) {
                    self.submit(full)?;
                }
                let writer = match &mut writer {
                    Some(writer) => writer,
                    None => writer.insert(self.jobs.writer()),
                };
                writer.add(sample.key, &line);
            }
        }
        match writer {
            // What is not submitted yet waits for the next run.
            Some(writer) if !cancel.is_cancelled() => self.submit(writer),
            _ => Ok(()),
        }
    }

    /// One request of a batch.
    fn line(&self, request: &Request, sample: &Sample, sampling: &Sampling) -> Vec<u8> {
        let body = request::body(&self.served.spec, &request.messages, sampling, sample.seed, 1);
        let url = format!("/v1/{}", self.shared.path);
        let line = json!({ "custom_id": sample.key.to_string(), "method": "POST", "url": url, "body": body });
        let mut line = line.to_string().into_bytes();
        line.push(b'\n');
        line
    }

    /// Uploads a file and makes a batch of it. The file's id is kept before the batch is asked for, so that it can be found.
    fn submit(&mut self, writer: Writer) -> Result<(), TaskError> {
        let (mut job, lines) = writer.finish()?;
        let count = job.awaited();
        self.served.progress.message(&format!("uploading {count} requests, {} bytes", lines.len()));
        let failed = |failure: Failure| trouble("the batch could not be submitted", &failure);
        self.provider.base().clone_into(&mut job.state.server);
        job.state.file = self.provider.upload(&job.name(), &lines).map_err(failed)?;
        job.save()?;
        let url = format!("/v1/{}", self.shared.path);
        job.state.batch = Some(self.provider.create(&job.state.file, &url).map_err(failed)?);
        job.save()?;
        self.jobs.push(job);
        Ok(())
    }

    /// Waits for every batch that is awaited, and hands over what it holds.
    fn wait(&mut self, cancel: &Cancel, finished: &mut OnFinished) -> Result<(), TaskError> {
        loop {
            let mut told = Vec::new();
            for job in self.jobs.awaited() {
                if cancel.is_cancelled() {
                    break;
                }
                let batch = job.state.batch.clone().unwrap_or_default();
                let look = self.provider.look(&batch).map_err(|failure| lost(job, &failure))?;
                told.push(format!("{batch} {}, {} of {}", look.status, look.done, job.size()));
                let Some(end) = look.end() else { continue };
                let files = look.files.iter().map(String::as_str);
                let most = job.size() as u64 * self.shared.largest as u64;
                let mut output = job.output()?;
                for file in files {
                    let took = self.provider.download(file, &mut output, most);
                    took.map_err(|failure| lost(job, &failure))?;
                }
                job.end(&output, end)?;
                for key in job.take_awaited() {
                    finished(key, outcome(job, &key, self.shared)?)?;
                }
            }
            if self.jobs.awaited().next().is_none() || cancel.is_cancelled() {
                return Ok(());
            }
            self.served.progress.message(&format!("batches: {}", told.join("; ")));
            self.provider.pause(self.options.poll);
        }
    }
}

/// What a batch that has ended says of one of its requests.
fn outcome(job: &Job, key: &Digest, shared: &Shared) -> Result<Result<Raw, Failure>, TaskError> {
    let read = match job.answer(key)? {
        Some(line) => read(line, shared.accepts),
        None => Err(match &job.state.ended {
            Some(End { kind, detail }) => Failure::new(*kind, detail.clone()),
            None => Failure::new(FailureKind::Malformed, "the batch has not ended"),
        }),
    };
    Ok(read.map_err(|failure| Failure { detail: shared.blot(&failure.detail), ..failure }))
}

/// The answer in a line of a batch, or why there is none.
fn read(mut line: Value, accepts: Accepts) -> Result<Raw, Failure> {
    if let Some(error) = line.get("error").filter(|error| !error.is_null()) {
        let code = error.get("code").and_then(Value::as_str).unwrap_or_default();
        let kind = match code {
            "batch_expired" => FailureKind::Expired,
            "batch_cancelled" => FailureKind::Cancelled,
            _ => FailureKind::Server,
        };
        return Err(Failure::new(kind, abridge(&error.to_string())));
    }
    let malformed = || Failure::new(FailureKind::Malformed, "the line of the batch has no response");
    let response = line.get_mut("response").ok_or_else(malformed)?;
    let status = response.get("status_code").and_then(Value::as_u64).ok_or_else(malformed)?;
    let body = response.get_mut("body").map(Value::take).unwrap_or_default();
    if !(200..300).contains(&status) {
        let status = u16::try_from(status).ok().and_then(|status| reqwest::StatusCode::from_u16(status).ok());
        let status = status.ok_or_else(malformed)?;
        return Err(Failure::new(classify(status), format!("{status}: {}", abridge(&body.to_string()))));
    }
    let raw = Raw::Chat(body);
    raw.read(accepts).map(|_| raw)
}

/// A provider that cannot be asked for what is under way there.
fn lost(job: &Job, failure: &Failure) -> TaskError {
    let what = format!(
        "`{}` of `{}` could not be asked for",
        job.state.batch.as_ref().unwrap_or(&job.state.file),
        job.state.server
    );
    match trouble(&what, failure) {
        // Asked anew by itself it might be paid twice, if only the key was the wrong one.
        TaskError::Failed(text) => TaskError::failed(format!(
            "{text}; if it is gone for good, remove `{}` to ask anew",
            job.folder().display()
        )),
        error => error,
    }
}

fn trouble(what: &str, failure: &Failure) -> TaskError {
    if FailureKind::TRANSIENT.contains(&failure.kind) {
        TaskError::Transient(format!("{what}: {failure}"))
    } else {
        TaskError::failed(format!("{what}: {failure}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_batch_is_an_answer_or_a_failure_by_its_kind() {
        let answer = json!({ "choices": [{ "message": { "content": "4" }, "finish_reason": "stop" }] });
        let line = |status: u64, body: &Value| json!({ "response": { "status_code": status, "body": body }, "error": null });
        assert_eq!(read(line(200, &answer), Accepts::default()), Ok(Raw::Chat(answer.clone())));
        let error = |code: &str| json!({ "response": null, "error": { "code": code, "message": "…" } });
        for (line, kind) in [
            (line(200, &answer), FailureKind::NoThinking),
            (line(200, &json!({ "choices": [] })), FailureKind::Malformed),
            (line(400, &json!({ "error": "too long" })), FailureKind::Refused),
            (line(429, &Value::Null), FailureKind::RateLimit),
            (line(500, &Value::Null), FailureKind::Server),
            (line(7, &Value::Null), FailureKind::Malformed),
            (error("batch_expired"), FailureKind::Expired),
            (error("batch_cancelled"), FailureKind::Cancelled),
            (error("odd"), FailureKind::Server),
            (json!({ "error": null }), FailureKind::Malformed),
            (json!([1]), FailureKind::Malformed),
        ] {
            assert_eq!(
                read(line.clone(), Accepts::THINKING).map_err(|failure| failure.kind),
                Err(kind),
                "{line}"
            );
        }
    }
}
