//! The provider's batches: files of requests, answered when the test says so.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::fault::Fault;
use super::ledger::Ledger;
use super::wire::{Connection, Request};
use super::{Behaviour, answer};

/// What the provider holds.
#[derive(Default)]
pub(crate) struct Batches {
    shelf: Mutex<Shelf>,
    are_held: AtomicBool,
}

#[derive(Default)]
struct Shelf {
    files: BTreeMap<String, String>,
    batches: BTreeMap<String, Value>,
}

impl Batches {
    /// From now on no batch is done until [`Batches::release`].
    pub(crate) fn hold(&self) {
        self.are_held.store(true, Ordering::SeqCst);
    }

    /// Every batch is done.
    pub(crate) fn release(&self) {
        self.are_held.store(false, Ordering::SeqCst);
    }

    /// How many batches were submitted.
    pub(crate) fn submitted(&self) -> usize {
        self.shelf().batches.len()
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a request about files or batches; false if it is about something else.
    pub(super) async fn serve(
        &self,
        request: &Request,
        connection: &mut Connection,
        behaviour: &Behaviour,
        ledger: &Ledger,
    ) -> io::Result<bool> {
        let mut words = request.line.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = path.split('?').next().unwrap_or_default().trim_start_matches("/v1/");
        let parts: Vec<&str> = path.split('/').collect();
        let said = match (method, parts.as_slice()) {
            ("POST", ["files"]) => self.keep(&request.text).to_string(),
            ("POST", ["batches"]) => self.submit(&request.body, behaviour, ledger).to_string(),
            ("GET", ["batches"]) => {
                json!({ "data": self.shelf().batches.values().collect::<Vec<_>>(), "has_more": false })
                    .to_string()
            }
            ("GET", ["batches", id]) => self.state(id).to_string(),
            ("GET", ["files", id, "content"]) => self.shelf().files[*id].clone(),
            _ => return Ok(false),
        };
        connection.reply("200 OK", "content-type: application/json\r\n", &said).await?;
        Ok(true)
    }

    /// Keeps the file of a form.
    fn keep(&self, form: &str) -> Value {
        let file = form.split("application/jsonl\r\n\r\n").nth(1).unwrap_or_default();
        let file = file.split("\r\n--").next().unwrap_or_default().to_owned();
        let mut shelf = self.shelf();
        let id = format!("file-{}", shelf.files.len());
        shelf.files.insert(id.clone(), file);
        json!({ "id": id })
    }

    fn submit(&self, order: &Value, behaviour: &Behaviour, ledger: &Ledger) -> Value {
        let mut shelf = self.shelf();
        let input = shelf.files[order["input_file_id"].as_str().unwrap_or_default()].clone();
        let (mut output, mut errors, mut is_expired) = (String::new(), String::new(), false);
        // Answers come in an order of the provider's own.
        for line in input.lines().rev() {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            let id = line["custom_id"].as_str().unwrap_or_default().to_owned();
            let request = Request::of_batch(&id, line["body"].clone());
            ledger.arrived(&request);
            let fault = (behaviour.faults)(&id).first().copied();
            if let Some(fault) = fault {
                ledger.failed(&request, fault);
            }
            match fault {
                Some(Fault::Status(status)) => {
                    let response = json!({ "status_code": status, "body": { "error": "trouble" } });
                    errors += &format!("{}\n", json!({ "custom_id": id, "response": response }));
                }
                Some(Fault::Silence) => {
                    is_expired = true;
                    let error = json!({ "code": "batch_expired", "message": "it took too long" });
                    errors += &format!("{}\n", json!({ "custom_id": id, "response": null, "error": error }));
                }
                Some(Fault::NotJson) => output += "{\"custom_id\": \"half a li\n",
                Some(_) => {}
                None => {
                    ledger.bill(&request);
                    let response = json!({ "status_code": 200, "body": answer(&request, behaviour) });
                    output +=
                        &format!("{}\n", json!({ "custom_id": id, "response": response, "error": null }));
                }
            }
        }
        let id = format!("batch-{}", shelf.batches.len());
        let mut batch = json!({
            "id": id, "metadata": order["metadata"],
            "status": if is_expired { "expired" } else { "completed" },
        });
        for (field, text) in [("output_file_id", output), ("error_file_id", errors)] {
            if !text.is_empty() {
                let file = format!("file-{}", shelf.files.len());
                shelf.files.insert(file.clone(), text);
                batch[field] = json!(file);
            }
        }
        shelf.batches.insert(id, batch.clone());
        batch
    }

    fn state(&self, id: &str) -> Value {
        if self.are_held.load(Ordering::SeqCst) {
            return json!({ "id": id, "status": "in_progress" });
        }
        self.shelf().batches[id].clone()
    }
}
