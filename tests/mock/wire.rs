//! HTTP/1.1 as far as a test server needs it, written out so that it can also be broken on purpose.

use std::io;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A request that was read.
pub(crate) struct Request {
    /// `POST /v1/chat/completions HTTP/1.1`.
    pub(crate) line: String,
    /// The line and the headers.
    pub(crate) head: String,
    /// The `Idempotency-Key`; empty without one.
    pub(crate) key: String,
    /// The body; null if it is not JSON.
    pub(crate) body: Value,
    /// The body as it came, if it is not JSON.
    pub(crate) bytes: Vec<u8>,
}

impl Request {
    /// The path, without what is asked of it.
    pub(super) fn path(&self) -> &str {
        let target = self.line.split(' ').nth(1).unwrap_or_default();
        target.split('?').next().unwrap_or_default()
    }
}

/// A connection from a client.
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The next request; `None` when the client has closed.
    pub(super) async fn read(&mut self) -> io::Result<Option<Request>> {
        let mut head = String::new();
        let (mut length, mut key) = (0, String::new());
        loop {
            let start = head.len();
            if self.0.read_line(&mut head).await? == 0 {
                return Ok(None);
            }
            let line = head[start..].trim_end();
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(": ") {
                if name.eq_ignore_ascii_case("content-length") {
                    length = value.parse().map_err(io::Error::other)?;
                } else if name.eq_ignore_ascii_case("idempotency-key") {
                    value.clone_into(&mut key);
                }
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await?;
        let line = head.lines().next().unwrap_or_default().to_owned();
        let (body, bytes) = match serde_json::from_slice(&body) {
            Ok(json) => (json, Vec::new()),
            Err(_) => (Value::Null, body),
        };
        Ok(Some(Request { line, head, key, body, bytes }))
    }

    /// Sends a whole response.
    pub(super) async fn reply(&mut self, status: &str, headers: &str, body: &str) -> io::Result<()> {
        let text = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len());
        self.write(text.as_bytes()).await
    }

    /// Sends bytes as they are.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes).await
    }

    /// Ends the connection with a reset instead of a farewell.
    pub(super) fn reset(&mut self) -> io::Result<()> {
        self.0.get_ref().set_zero_linger()
    }
}
