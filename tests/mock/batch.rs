//! The batch API of the mock: files, batches of them, and what goes wrong with those.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::ledger::Ledger;
use super::wire::{Connection, Request};
use super::{Behaviour, Rule, answer};

/// What goes wrong with one request of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineFault {
    /// It is answered with this status, in the file of failures.
    Status(u16),
    /// It is not reached in time.
    Expired,
    /// Neither file speaks of it.
    Missing,
    /// Its line is cut off in the middle. It is billed.
    HalfLine,
    /// Its answer has no choices. It is billed.
    NoChoices,
}

/// How a batch ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    #[default]
    Completed,
    Expired,
    Cancelled,
    /// Refused as a whole.
    Failed,
}

/// How batches are done, and those there are.
#[derive(Default)]
pub(crate) struct Batches {
    /// What goes wrong with the requests, by key.
    faults: Option<fn(&str) -> Option<LineFault>>,
    /// How batches end.
    ending: Ending,
    /// Whether no batch ends yet.
    is_held: AtomicBool,
    /// Whether batches are made and nobody is told.
    is_silent: AtomicBool,
    made: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By id.
    files: BTreeMap<String, String>,
    batches: Vec<Batch>,
}

struct Batch {
    id: String,
    input: String,
    /// The files of answers and of failures, once it has ended.
    output: Option<(String, String)>,
}

impl Batches {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Batches that end so, with what goes wrong with their requests.
    pub(crate) fn failing(ending: Ending, faults: fn(&str) -> Option<LineFault>) -> Self {
        Self { ending, faults: Some(faults), ..Self::default() }
    }

    /// Batches that do not end before they are let.
    pub(crate) fn held() -> Self {
        Self { is_held: AtomicBool::new(true), ..Self::default() }
    }

    /// Batches that are made while nobody is told.
    pub(crate) fn silent() -> Self {
        Self { is_silent: AtomicBool::new(true), ..Self::default() }
    }

    /// How many batches were made.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::SeqCst)
    }

    /// Does from now on what it should.
    pub(crate) fn mend(&self) {
        self.is_held.store(false, Ordering::SeqCst);
        self.is_silent.store(false, Ordering::SeqCst);
    }

    pub(super) async fn answer(
        &self,
        connection: &mut Connection,
        path: &str,
        request: &Request,
        rule: Rule,
        ledger: &Ledger,
    ) -> io::Result<()> {
        ledger.seen(request);
        let is_post = request.line.starts_with("POST ");
        let parts: Vec<&str> = path.split('/').collect();
        let reply = match (is_post, &parts[..]) {
            (true, ["files"]) => Some(self.upload(request)),
            (false, ["files", id, "content"]) => self.state().files.get(*id).cloned(),
            (true, ["batches"]) => {
                let made = self.create(request);
                if self.is_silent.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_mins(10)).await;
                }
                made
            }
            (false, ["batches"]) => Some(self.list(request)),
            (false, ["batches", id]) => self.look(id, rule, ledger),
            _ => None,
        };
        match reply {
            Some(body) => connection.reply("200 OK", "content-type: application/json\r\n", &body).await,
            None => connection.reply("404 Not Found", "", "no such thing").await,
        }
    }

    /// Keeps the part of a form that is called `file`.
    fn upload(&self, request: &Request) -> String {
        let form = String::from_utf8_lossy(&request.bytes);
        let boundary = form.lines().next().unwrap_or_default().to_owned();
        let mut parts = form.split(&boundary);
        assert!(parts.clone().any(|part| part.contains("name=\"purpose\"\r\n\r\nbatch\r\n")), "{form}");
        let file = parts.find(|part| part.contains("name=\"file\"")).expect("a form has a file");
        let text = file.split_once("\r\n\r\n").expect("a part has a head").1.trim_end_matches("\r\n");
        let mut state = self.state();
        let id = format!("file-{}", state.files.len());
        state.files.insert(id.clone(), text.to_owned());
        json!({ "id": id, "object": "file", "purpose": "batch", "bytes": text.len() }).to_string()
    }

    fn create(&self, request: &Request) -> Option<String> {
        let body = &request.body;
        assert_eq!(
            (&body["completion_window"], &body["endpoint"]),
            (&json!("24h"), &json!("/v1/chat/completions"))
        );
        let input = body["input_file_id"].as_str()?.to_owned();
        let mut state = self.state();
        state.files.get(&input)?;
        self.made.fetch_add(1, Ordering::SeqCst);
        let batch = Batch { id: format!("batch_{}", state.batches.len()), input, output: None };
        let told = batch.told("validating", Ending::Completed, 0);
        state.batches.push(batch);
        Some(told.to_string())
    }

    /// Two on a page, the newest first.
    fn list(&self, request: &Request) -> String {
        let state = self.state();
        let target = request.line.split(' ').nth(1).unwrap_or_default();
        let after = target.split_once("after=").map(|(_, after)| after);
        let newest: Vec<&Batch> = state.batches.iter().rev().collect();
        let start = newest.iter().position(|batch| Some(batch.id.as_str()) == after).map_or(0, |at| at + 1);
        let page: Vec<Value> =
            newest[start..].iter().take(2).map(|batch| batch.told("in_progress", self.ending, 0)).collect();
        json!({ "object": "list", "data": page, "has_more": newest.len() > start + 2 }).to_string()
    }

    /// A batch ends when it is looked at, and all its requests are then billed that are answered.
    fn look(&self, id: &str, rule: Rule, ledger: &Ledger) -> Option<String> {
        let mut state = self.state();
        let at = state.batches.iter().position(|batch| batch.id == id)?;
        let text = state.files.get(&state.batches[at].input)?.clone();
        let total = text.lines().count();
        if self.is_held.load(Ordering::SeqCst) {
            return Some(state.batches[at].told("in_progress", self.ending, total).to_string());
        }
        if state.batches[at].output.is_none() {
            let (mut answers, mut failures) = (Vec::new(), Vec::new());
            for line in text.lines().filter(|_| self.ending != Ending::Failed) {
                let line: Value = serde_json::from_str(line).expect("a line is JSON");
                assert_eq!((&line["method"], &line["url"]), (&json!("POST"), &json!("/v1/chat/completions")));
                let key = line["custom_id"].as_str()?.to_owned();
                let told = |status: u64, body: &Value| {
                    json!({ "id": "batch_req", "custom_id": key, "error": null,
                            "response": { "status_code": status, "request_id": "r", "body": body } })
                    .to_string()
                };
                let request = Request {
                    line: String::new(),
                    head: String::new(),
                    key: key.clone(),
                    body: line["body"].clone(),
                    bytes: Vec::new(),
                };
                let body = answer(&request, &Behaviour::of(rule));
                match self.faults.and_then(|faults| faults(&key)) {
                    None => answers.push(told(200, &body)),
                    Some(LineFault::HalfLine) => answers.push(told(200, &body)[..90].to_owned()),
                    Some(LineFault::NoChoices) => answers.push(told(200, &json!({ "choices": [] }))),
                    Some(LineFault::Status(status)) => {
                        failures.push(told(status.into(), &json!({ "error": { "message": "trouble" } })));
                        continue;
                    }
                    Some(LineFault::Expired) => {
                        let error = json!({ "code": "batch_expired", "message": "out of time" });
                        let line = json!({ "id": "r", "custom_id": key, "response": null, "error": error });
                        failures.push(line.to_string());
                        continue;
                    }
                    Some(LineFault::Missing) => continue,
                }
                ledger.bill_key(&key);
            }
            // The order is not that of the requests.
            answers.reverse();
            let ids = ["output", "errors"].map(|kind| format!("{kind}-{id}"));
            state.files.insert(ids[0].clone(), answers.join("\n"));
            state.files.insert(ids[1].clone(), failures.join("\n"));
            let [answers, failures] = ids;
            state.batches[at].output = Some((answers, failures));
        }
        let status = match self.ending {
            Ending::Completed => "completed",
            Ending::Expired => "expired",
            Ending::Cancelled => "cancelled",
            Ending::Failed => "failed",
        };
        Some(state.batches[at].told(status, self.ending, total).to_string())
    }
}

impl Batch {
    fn told(&self, status: &str, ending: Ending, total: usize) -> Value {
        let mut told = json!({
            "id": self.id, "object": "batch", "status": status, "input_file_id": self.input,
            "request_counts": { "total": total, "completed": 0, "failed": 0 },
        });
        if let Some((answers, failures)) = self.output.as_ref().filter(|_| ending != Ending::Failed) {
            told["output_file_id"] = json!(answers);
            told["error_file_id"] = json!(failures);
        }
        if ending == Ending::Failed {
            told["errors"] = json!({ "data": [{ "code": "token_limit_exceeded", "message": "too much" }] });
        }
        told
    }
}
