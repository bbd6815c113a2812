//! What goes wrong with servers, and with what lies between.

use std::io;
use std::time::Duration;

use super::ledger::Ledger;
use super::wire::{Connection, Request};

/// One thing that goes wrong with one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// 429 that asks to wait so many milliseconds.
    RateLimit(u64),
    /// 429 that names a time one second after its own.
    RateLimitDate,
    /// 429 that asks to wait for days.
    RateLimitHuge,
    /// 429 that asks to wait for less than nothing.
    RateLimitNegative,
    /// A status of 5xx: 500, 502, 503, 529.
    Status(u16),
    /// Nothing comes back.
    Silence,
    /// The body drips, byte by byte, and never ends.
    Drip,
    /// The body ends before its length.
    HalfBody,
    /// The connection is reset before anything comes.
    Reset,
    /// 200 with a page.
    NotJson,
    /// 200 with an error in it.
    ErrorBody,
    /// 200 without choices.
    NoChoices,
    /// 200 with an answer of no text.
    Empty,
    /// A content-length that is too small, so that the rest looks like the next response.
    WrongLength,
    /// A small body that says that it is compressed, and of what is a gigabyte of zeros.
    Compressed,
    /// A redirect to another host.
    Redirect,
    /// A body without end.
    Endless,
    /// The request is refused: 401, by a server that says the key aloud.
    Refused,
    /// The connection is closed in the middle of the head.
    HalfHead,
}

impl Fault {
    /// Every kind once.
    pub(crate) const ALL: [Self; 22] = [
        Self::RateLimit(300),
        Self::RateLimitDate,
        Self::RateLimitHuge,
        Self::RateLimitNegative,
        Self::Status(500),
        Self::Status(502),
        Self::Status(503),
        Self::Status(529),
        Self::Silence,
        Self::Drip,
        Self::HalfBody,
        Self::Reset,
        Self::NotJson,
        Self::ErrorBody,
        Self::NoChoices,
        Self::Empty,
        Self::WrongLength,
        Self::Compressed,
        Self::Redirect,
        Self::Endless,
        Self::Refused,
        Self::HalfHead,
    ];

    /// Does it. What looks like an answer is billed, as a server would that does not know what became of its answer.
    pub(super) async fn commit(
        self,
        connection: &mut Connection,
        ledger: &Ledger,
        request: &Request,
    ) -> io::Result<()> {
        let closed = || io::Error::other("closed on purpose");
        match self {
            Self::RateLimit(milliseconds) => {
                let wait = format!("retry-after: {}\r\n", milliseconds as f64 / 1e3);
                connection.reply("429 Too Many Requests", &wait, "slow down").await
            }
            Self::RateLimitDate => {
                let dates =
                    "date: Sun, 06 Nov 1994 08:49:37 GMT\r\nretry-after: Sun, 06 Nov 1994 08:49:38 GMT\r\n";
                connection.reply("429 Too Many Requests", dates, "").await
            }
            Self::RateLimitHuge => {
                connection
                    .reply("429 Too Many Requests", "retry-after: 259200\r\n", "come back another day")
                    .await
            }
            Self::RateLimitNegative => {
                connection.reply("429 Too Many Requests", "retry-after: -7\r\n", "").await
            }
            Self::Status(status) => {
                connection.reply(&format!("{status} Trouble"), "", "<h1>trouble</h1>").await
            }
            Self::Silence => {
                tokio::time::sleep(Duration::from_mins(10)).await;
                Err(closed())
            }
            Self::Drip => {
                connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").await?;
                loop {
                    connection.write(b" ").await?;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            Self::HalfBody => {
                ledger.bill(request);
                connection
                    .write(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"choices\":[{\"mess")
                    .await?;
                Err(closed())
            }
            Self::Reset => connection.reset().and(Err(closed())),
            Self::NotJson => {
                ledger.bill(request);
                connection.reply("200 OK", "content-type: text/html\r\n", "<html>bad gateway</html>").await
            }
            Self::ErrorBody => connection.reply("200 OK", "", r#"{"error":{"message":"overloaded"}}"#).await,
            Self::NoChoices => {
                ledger.bill(request);
                connection.reply("200 OK", "", r#"{"choices":[],"usage":{"completion_tokens":0}}"#).await
            }
            Self::Empty => {
                ledger.bill(request);
                let body = r#"{"choices":[{"message":{"content":""},"finish_reason":"stop"}]}"#;
                connection.reply("200 OK", "", body).await
            }
            Self::WrongLength => {
                ledger.bill(request);
                let body = r#"{"choices":[{"message":{"content":"4"},"finish_reason":"stop"}]}"#;
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len() - 9);
                connection.write(head.as_bytes()).await?;
                connection.write(body.as_bytes()).await?;
                Err(closed())
            }
            Self::Compressed => {
                ledger.bill(request);
                // The first bytes of a gzip stream; the client asked for none.
                let body = "\u{1f}\u{8b}\u{8}\u{0}\u{0}\u{0}\u{0}\u{0}\u{2}\u{3}";
                connection.reply("200 OK", "content-encoding: gzip\r\n", body).await
            }
            Self::Redirect => {
                connection
                    .reply("302 Found", "location: http://127.0.0.1:9/v1/chat/completions\r\n", "")
                    .await
            }
            Self::Endless => {
                connection.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
                let chunk = format!("100000\r\n{}\r\n", "x".repeat(1 << 20));
                loop {
                    connection.write(chunk.as_bytes()).await?;
                }
            }
            Self::Refused => {
                let key =
                    request.head.lines().find(|line| line.to_ascii_lowercase().starts_with("authorization"));
                let body = format!("no such key: {}", key.unwrap_or("none"));
                connection.reply("401 Unauthorized", "", &body).await
            }
            Self::HalfHead => {
                connection.write(b"HTTP/1.1 200 OK\r\ncontent-le").await?;
                Err(closed())
            }
        }
    }
}
