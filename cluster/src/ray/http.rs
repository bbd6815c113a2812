//! Questions to a Ray head: JSON over HTTP, one at a time.

use std::time::Duration;

use reqwest::{RequestBuilder, Url};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::queue::Trouble;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// So much of an answer goes into a message.
const SHOWN: usize = 300;

/// Asks one head.
pub(super) struct Client {
    inner: reqwest::Client,
    runtime: Runtime,
    address: Url,
}

/// What it said.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) text: String,
}

impl Answer {
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Status and words, for a message. Ray puts a traceback into some; its last line says most.
    pub(super) fn about(&self) -> String {
        let last = self.text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let shown: String = last.trim().chars().take(SHOWN).collect();
        format!("{} {shown}", self.status)
    }
}

impl Client {
    pub(super) fn new(address: &str) -> Result<Self, String> {
        let text = format!("{}/", address.trim_end_matches('/'));
        let address: Url = text.parse().map_err(|error| format!("`{address}` is no address ({error})"))?;
        if !matches!(address.scheme(), "http" | "https") {
            return Err(format!("`{address}` is not `http://` or `https://`"));
        }
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        let inner =
            reqwest::Client::builder().timeout(PATIENCE).build().map_err(|error| error.to_string())?;
        Ok(Self { inner, runtime, address })
    }

    pub(super) fn get(&self, path: &str) -> Result<Answer, Trouble> {
        self.send(self.inner.get(self.url(path)?))
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Answer, Trouble> {
        self.send(self.inner.post(self.url(path)?).json(body))
    }

    fn url(&self, path: &str) -> Result<Url, Trouble> {
        self.address.join(path).map_err(|error| Trouble(error.to_string()))
    }

    fn send(&self, request: RequestBuilder) -> Result<Answer, Trouble> {
        let answer = async {
            let response = request.send().await?;
            let status = response.status().as_u16();
            Ok(Answer { status, text: response.text().await? })
        };
        self.runtime.block_on(answer).map_err(|error: reqwest::Error| {
            let cause =
                std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            Trouble(format!("{error}{cause}"))
        })
    }
}
