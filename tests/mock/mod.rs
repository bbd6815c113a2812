//! A server on the loopback that speaks OpenAI's chat completions, fails as real servers do, and keeps a ledger of what it
//! billed. Tests run it in a thread of theirs; `cargo run --release --example mock_server` runs it as a process.

pub(crate) mod batch;
mod fault;
mod ledger;
mod wire;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use batch::Batches;
pub(crate) use fault::Fault;
pub(crate) use ledger::Ledger;
use wire::{Connection, Request};

/// What the server says to the last message of a conversation.
pub(crate) type Rule = fn(&str) -> String;
/// What goes wrong with each attempt of a request, by its key.
type Faults = Arc<dyn Fn(&str) -> Vec<Fault> + Send + Sync>;

/// How the server behaves.
#[derive(Clone)]
pub(crate) struct Behaviour {
    /// What it says.
    pub(crate) rule: Rule,
    /// How long it thinks before it answers.
    pub(crate) latency: Duration,
    /// Whether it gives one answer where several are asked for.
    pub(crate) ignores_n: bool,
    /// What goes wrong: the attempt that comes after the last of the faults is answered.
    pub(crate) faults: Faults,
    /// How it does batches.
    pub(crate) batches: Arc<Batches>,
}

impl Behaviour {
    /// Answers every request by `rule`, at once.
    pub(crate) fn of(rule: Rule) -> Self {
        Self {
            rule,
            latency: Duration::ZERO,
            ignores_n: false,
            faults: Arc::new(|_| Vec::new()),
            batches: Arc::default(),
        }
    }

    /// Waits so long before each answer.
    pub(crate) fn after(self, latency: Duration) -> Self {
        Self { latency, ..self }
    }

    /// Gives one answer where several are asked for.
    pub(crate) fn ignoring_n(self) -> Self {
        Self { ignores_n: true, ..self }
    }

    /// Does batches in this way.
    pub(crate) fn batching(self, batches: &Arc<Batches>) -> Self {
        Self { batches: Arc::clone(batches), ..self }
    }

    /// Lets things go wrong.
    pub(crate) fn failing(self, faults: impl Fn(&str) -> Vec<Fault> + Send + Sync + 'static) -> Self {
        Self { faults: Arc::new(faults), ..self }
    }
}

/// A running server; it lives until the process ends.
pub(crate) struct Mock {
    address: String,
    ledger: Arc<Ledger>,
}

impl Mock {
    /// Listens on a free port of the loopback.
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        Self::listen(behaviour, 0)
    }

    /// Listens on `port` of the loopback; zero takes a free one.
    pub(crate) fn listen(behaviour: Behaviour, port: u16) -> Self {
        let ledger = Arc::new(Ledger::default());
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        let address = format!("http://{}/v1", listener.local_addr().unwrap());
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::clone(&ledger);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                accept(TcpListener::from_std(listener).unwrap(), behaviour, shared).await;
            });
        });
        Self { address, ledger }
    }

    /// What `run: { base_url }` takes.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What was asked, and what was billed.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// How many answers it billed.
    pub(crate) fn calls(&self) -> u64 {
        self.ledger.billed()
    }
}

async fn accept(listener: TcpListener, behaviour: Behaviour, ledger: Arc<Ledger>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (behaviour, ledger) = (behaviour.clone(), Arc::clone(&ledger));
        // A connection that breaks is its client's loss; the ledger tells the test.
        tokio::spawn(async move { drop(converse(stream, behaviour, &ledger).await) });
    }
}

/// Answers the requests of one connection until it is closed.
async fn converse(stream: TcpStream, behaviour: Behaviour, ledger: &Ledger) -> std::io::Result<()> {
    let mut connection = Connection::new(stream)?;
    while let Some(request) = connection.read().await? {
        if let Some(path) = request.path().strip_prefix("/v1/")
            && (path.starts_with("files") || path.starts_with("batches"))
        {
            behaviour.batches.answer(&mut connection, path, &request, behaviour.rule, ledger).await?;
            continue;
        }
        if request.line.starts_with("GET ") {
            connection.reply("200 OK", "", r#"{"object":"list","data":[]}"#).await?;
            continue;
        }
        let number = ledger.arrived(&request);
        if !behaviour.latency.is_zero() {
            tokio::time::sleep(behaviour.latency).await;
        }
        let faults = (behaviour.faults)(&request.key);
        if let Some(fault) = faults.get(number) {
            ledger.failed(&request, *fault);
            fault.commit(&mut connection, ledger, &request).await?;
            continue;
        }
        let body = answer(&request, &behaviour);
        // Billed before it is sent, as servers do: a client that is gone by then pays all the same.
        ledger.bill(&request);
        if request.body["stream"] == true {
            connection.reply("200 OK", "content-type: text/event-stream\r\n", &events(&body)).await?;
        } else {
            connection.reply("200 OK", "content-type: application/json\r\n", &body.to_string()).await?;
        }
    }
    Ok(())
}

/// The body of a completion, with as many choices as were asked for.
fn answer(request: &Request, behaviour: &Behaviour) -> Value {
    let asked = &request.body;
    let is_text = asked["prompt"].is_string();
    let last = asked["messages"].as_array().and_then(|messages| messages.last());
    let said = (behaviour.rule)(
        last.map_or(&asked["prompt"], |message| &message["content"]).as_str().unwrap_or_default(),
    );
    let n = if behaviour.ignores_n { 1 } else { asked["n"].as_u64().unwrap_or(1) };
    let choice = |index| {
        let mut choice = json!({ "index": index, "finish_reason": "stop" });
        if is_text {
            choice["text"] = json!(said);
        } else {
            choice["message"] = json!({ "role": "assistant", "content": said });
        }
        choice
    };
    let prompt = asked["messages"].to_string().len() / 4;
    let completion = said.len().div_ceil(4) * n as usize;
    let choices: Vec<Value> = (0..n).map(choice).collect();
    json!({
        "id": "mock", "object": "chat.completion", "model": asked["model"], "choices": choices,
        "usage": { "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion },
    })
}

/// The body in pieces of a few letters, as servers stream it.
fn events(body: &Value) -> String {
    let mut events = String::from(": here it comes\n\n");
    let mut event = |data: Value| events += &format!("data: {data}\n\n");
    for choice in body["choices"].as_array().into_iter().flatten() {
        let said: Vec<char> = choice["message"]["content"].as_str().unwrap_or_default().chars().collect();
        for piece in said.chunks(3) {
            let delta = json!({ "content": piece.iter().collect::<String>() });
            event(json!({ "choices": [{ "index": choice["index"], "delta": delta }] }));
        }
        event(json!({ "choices": [{ "index": choice["index"], "delta": {}, "finish_reason": "stop" }] }));
    }
    event(json!({ "choices": [], "usage": body["usage"] }));
    events + "data: [DONE]\n\n"
}

/// Judges as a model would: the last box of the one block against the other; of those that agree, one in two is not called
/// a match but equivalent.
pub(crate) fn judge(question: &str) -> String {
    let block = |tag: &str| {
        let inside = question.split(&format!("<{tag}>\n")).nth(1)?;
        Some(inside.split(&format!("\n</{tag}>")).next()?.to_owned())
    };
    let (Some(answer), Some(reference)) = (block("GENERATED_ANSWER"), block("CORRECT_ANSWER")) else {
        return "There is nothing to judge.".to_owned();
    };
    let boxed = answer.rsplit("\\boxed{").next().and_then(|rest| rest.split('}').next()).unwrap_or_default();
    match (boxed == reference, answer.len() % 2) {
        (false, _) => "They differ. **MISMATCH**".to_owned(),
        (true, 0) => "**MATCH**".to_owned(),
        (true, _) => "The two are equivalent.".to_owned(),
    }
}
