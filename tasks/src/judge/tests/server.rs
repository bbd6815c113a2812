//! A server on the loopback that judges by a rule and remembers what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

/// What the server says to a request, and why it ends; `None` refuses it.
type Rule = dyn Fn(&Question) -> Option<(String, &'static str)> + Send + Sync;

/// A request, as far as a judge cares.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Question {
    pub(super) answer: String,
    pub(super) reference: String,
    pub(super) prompt: String,
    pub(super) seed: Value,
}

impl Question {
    fn of(body: &Value) -> Self {
        let said = |at: usize| body["messages"][at]["content"].as_str().unwrap();
        let block = |tag: &str| {
            let inside = said(1).split(&format!("<{tag}>\n")).nth(1).unwrap();
            inside.split(&format!("\n</{tag}>")).next().unwrap().to_owned()
        };
        Self {
            answer: block("GENERATED_ANSWER"),
            reference: block("CORRECT_ANSWER"),
            prompt: said(0).to_owned(),
            seed: body["seed"].clone(),
        }
    }

    /// Whether the last box of the answer, or the answer itself, is the reference.
    pub(super) fn holds(&self) -> bool {
        let boxed = self.answer.rsplit("\\boxed{").next().unwrap().split('}').next().unwrap();
        boxed == self.reference
    }
}

/// A running server; it lives until the test process ends.
pub(super) struct Server {
    pub(super) address: String,
    asked: Arc<Mutex<Vec<Question>>>,
}

impl Server {
    pub(super) fn start(
        rule: impl Fn(&Question) -> Option<(String, &'static str)> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/v1", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<Question>>>::default();
        let (rule, seen): (Arc<Rule>, _) = (Arc::new(rule), Arc::clone(&asked));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (rule, seen) = (Arc::clone(&rule), Arc::clone(&seen));
                thread::spawn(move || drop(converse(&stream, &*rule, &seen)));
            }
        });
        Self { address, asked }
    }

    /// A judge that is right about boxes.
    pub(super) fn honest() -> Self {
        Self::start(|question| say(if question.holds() { "**MATCH**" } else { "**MISMATCH**" }))
    }

    /// What was asked since the last look, in an order that does not depend on time.
    pub(super) fn asked(&self) -> Vec<Question> {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.sort_by(|a, b| (&a.answer, &a.reference).cmp(&(&b.answer, &b.reference)));
        asked
    }
}

/// Words that end by themselves.
#[expect(clippy::unnecessary_wraps, reason = "it is what a rule gives")]
pub(super) fn say(words: &str) -> Option<(String, &'static str)> {
    Some((words.to_owned(), "stop"))
}

/// Answers the requests of one connection until it is closed.
fn converse(stream: &TcpStream, rule: &Rule, seen: &Mutex<Vec<Question>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let question = Question::of(&serde_json::from_slice(&body)?);
        let (status, reply) = match rule(&question) {
            Some((said, finish_reason)) => {
                let message = json!({ "role": "assistant", "content": said });
                let usage = json!({ "prompt_tokens": 7, "completion_tokens": 3 });
                (
                    "200 OK",
                    json!({ "choices": [{ "message": message, "finish_reason": finish_reason }], "usage": usage }),
                )
            }
            None => ("400 Bad Request", json!({ "error": { "message": "refused" } })),
        };
        seen.lock().unwrap().push(question);
        let reply = reply.to_string();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            reply.len()
        );
        (&*stream).write_all((head + &reply).as_bytes())?;
    }
}
