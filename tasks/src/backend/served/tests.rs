//! A server of our own, with the faults that servers have.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use dag_engine::Digest;

use super::*;
use crate::backend::{Addresses, Backend, Failure, Message, ModelSpec, Raw};

const GOOD: &str = r#"{"choices":[{"message":{"reasoning":"2+2","content":"4"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":5}}"#;

/// What the server saw: the headers of each request, in lower case.
type Ledger = Arc<Mutex<Vec<String>>>;

/// Answers each request with the next of `replies`, and the last one for ever.
fn serve(replies: Vec<String>) -> (String, Ledger) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/v1", listener.local_addr().unwrap());
    let ledger = Ledger::default();
    let seen = Arc::clone(&ledger);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let place = seen.lock().unwrap().len();
            let reply = replies[place.min(replies.len() - 1)].clone();
            let _ = answer(stream, &reply, &seen);
        }
    });
    (address, ledger)
}

fn answer(mut stream: TcpStream, reply: &str, ledger: &Ledger) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head.push_str(&line.to_ascii_lowercase());
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    ledger.lock().unwrap().push(head + &String::from_utf8_lossy(&body));
    stream.write_all(reply.as_bytes())
}

fn reply(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Asks once and gives the outcome.
fn ask(address: &str, retries: u32) -> Result<Raw, Failure> {
    let dir = tempfile::tempdir().unwrap();
    let cx = TaskCx::for_test(dir.path()).build().unwrap();
    let spec: ModelSpec = serde_json::from_value(json!({ "backend": "openai", "name": "m" })).unwrap();
    let run = BackendRun {
        base_url: Some(Addresses::One(address.to_owned())),
        request_retries: Some(retries),
        request_timeout: Some(5.0),
        ..BackendRun::default()
    };
    let backend = Backend::open(&spec, None, &run, &cx).unwrap();
    let request = Request {
        messages: vec![Message { role: "user".into(), content: "2+2?".into() }],
        samples: vec![Sample { key: Digest::of(b"key"), seed: 1 << 40 }],
    };
    let mut outcomes = BTreeMap::new();
    let mut finished = |key, outcome| {
        outcomes.insert(key, outcome);
        Ok(())
    };
    backend.ask(&Sampling::default(), &mut std::iter::once(request), &Cancel::new(), &mut finished).unwrap();
    outcomes.remove(&Digest::of(b"key")).unwrap()
}

#[test]
fn a_request_is_retried_under_one_key_until_it_is_answered() {
    let (address, ledger) = serve(vec![
        reply("429 Too Many Requests", "retry-after: 0.05\r\n", ""),
        reply("503 Service Unavailable", "", "busy"),
        "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"half\":".to_owned(),
        reply("200 OK", "", GOOD),
    ]);
    let answer = ask(&address, 5).unwrap().read(Accepts::THINKING).unwrap();
    assert_eq!((answer.reasoning.as_deref(), &*answer.answer_text), (Some("2+2"), "4"));
    let seen = ledger.lock().unwrap();
    assert_eq!(seen.len(), 4);
    let key = format!("idempotency-key: {}", Digest::of(b"key"));
    assert!(
        seen.iter().all(|request| request.contains(&key) && request.starts_with("post /v1/chat/completions"))
    );
    assert!(seen.iter().all(|request| !request.contains("authorization")));
}

#[test]
fn what_is_no_answer_is_a_failure_by_its_kind() {
    let cases = [
        (reply("200 OK", "", "<html>"), FailureKind::Malformed, 1),
        (reply("200 OK", "", "{\"error\": {\"message\": \"overloaded\"}}"), FailureKind::Malformed, 1),
        (reply("200 OK", "", "{\"choices\": []}"), FailureKind::Malformed, 1),
        (reply("200 OK", "", "{\"choices\":[{\"message\":{\"content\":\"\"}}]}"), FailureKind::Empty, 1),
        (reply("400 Bad Request", "", "too long"), FailureKind::Refused, 1),
        (reply("302 Found", "location: http://127.0.0.1:1/\r\n", ""), FailureKind::Redirect, 1),
        (reply("500 Internal Server Error", "", ""), FailureKind::Server, 2),
        (reply("429 Too Many Requests", "retry-after: 0\r\n", ""), FailureKind::RateLimit, 2),
        ("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{".to_owned(), FailureKind::Broken, 2),
        (String::new(), FailureKind::Broken, 2),
    ];
    for (reply, kind, calls) in cases {
        let (address, ledger) = serve(vec![reply.clone()]);
        let failure = ask(&address, 1).unwrap_err();
        assert_eq!((failure.kind, ledger.lock().unwrap().len()), (kind, calls), "{reply}: {failure}");
    }
}

#[test]
fn a_server_that_is_gone_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let cx = TaskCx::for_test(dir.path()).build().unwrap();
    let spec: ServedSpec = serde_json::from_value(json!({ "name": "m" })).unwrap();
    let run = BackendRun {
        base_url: Some(Addresses::One("http://127.0.0.1:1/v1".into())),
        request_retries: Some(0),
        concurrency: Some(4),
        ..BackendRun::default()
    };
    let served = Served::open(spec, &run, &cx).unwrap();
    let mut requests = (0..1000_u64).map(|number| Request {
        messages: Vec::new(),
        samples: vec![Sample { key: Digest::of(&number.to_le_bytes()), seed: number }],
    });
    let mut failures = 0;
    let error = served.ask(&Sampling::default(), &mut requests, &Cancel::new(), &mut |_, outcome| {
        failures += u64::from(outcome.is_err());
        Ok(())
    });
    assert!(matches!(error, Err(TaskError::Transient(_))), "{error:?}");
    assert!(failures < 100, "{failures}");
}
