//! A server on the loopback that speaks OpenAI's chat completions, judges by a rule, and counts its calls.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use serde_json::{Value, json};

/// What the server says to the last message of a conversation.
type Rule = fn(&str) -> String;

/// A running server; it lives until the test process ends.
pub(crate) struct ChatServer {
    address: String,
    calls: Arc<AtomicU64>,
}

impl ChatServer {
    /// Listens on a free port and answers every request by `rule`.
    pub(crate) fn start(rule: Rule) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/v1", listener.local_addr().unwrap());
        let calls = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&calls);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let calls = Arc::clone(&counted);
                // A connection that breaks is its client's loss; the count tells the test.
                thread::spawn(move || drop(converse(&stream, rule, &calls)));
            }
        });
        Self { address, calls }
    }

    /// What `run: { base_url }` takes.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// How many requests were answered so far.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }
}

/// Answers the requests of one connection until it is closed.
fn converse(stream: &TcpStream, rule: Rule, calls: &AtomicU64) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        assert!(first.starts_with("POST /v1/chat/completions "), "{first}");
        let request: Value = serde_json::from_slice(&body)?;
        let asked = request["messages"].as_array().and_then(|messages| messages.last()).unwrap();
        let said = rule(asked["content"].as_str().unwrap());
        calls.fetch_add(1, Ordering::SeqCst);
        let reply = json!({
            "choices": [{ "message": { "role": "assistant", "content": said }, "finish_reason": "stop" }],
            "usage": { "prompt_tokens": 7, "completion_tokens": 3 },
        })
        .to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            reply.len()
        );
        (&*stream).write_all((head + &reply).as_bytes())?;
    }
}

/// Judges as a model would: the last box of the one block against the other; of those that agree, one in two is not called
/// a match but equivalent.
pub(crate) fn judge(question: &str) -> String {
    let block = |tag: &str| {
        let inside = question.split(&format!("<{tag}>\n")).nth(1).unwrap();
        inside.split(&format!("\n</{tag}>")).next().unwrap().to_owned()
    };
    let (answer, reference) = (block("GENERATED_ANSWER"), block("CORRECT_ANSWER"));
    let boxed = answer.rsplit("\\boxed{").next().unwrap().split('}').next().unwrap();
    match (boxed == reference, answer.len() % 2) {
        (false, _) => "They differ. **MISMATCH**".to_owned(),
        (true, 0) => "**MATCH**".to_owned(),
        (true, _) => "The two are equivalent.".to_owned(),
    }
}
