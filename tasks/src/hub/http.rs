//! Asking a hub: requests with their retries, and redirects that never carry the token elsewhere.

use std::path::PathBuf;
use std::time::Duration;

use dag_engine::context::Cancel;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, ETAG, HeaderMap, LOCATION, RANGE, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};

use super::address::Address;
use super::error::HubError;
use super::plain::is_loopback;
use super::settings::Settings;

/// So often something is tried before it is given up.
pub(super) const ATTEMPTS: u32 = 5;
/// So many redirects are followed.
const HOPS: usize = 10;
/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// The same before anything is fetched.
const LONGEST_QUESTION: Duration = Duration::from_secs(3);
/// How often a wait looks whether the run is stopping.
const LOOK: Duration = Duration::from_millis(50);
/// The largest description of a repository that is read.
const LARGEST_TEXT: usize = 256 << 20;

/// What the hub says of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// The name of its content.
    pub(super) tag: String,
    /// How many bytes.
    pub(super) size: Option<u64>,
    /// The digest of the bytes, for large files.
    pub(super) sha256: Option<[u8; 32]>,
}

/// Asks one hub, and whom it redirects to.
#[derive(Clone)]
pub(super) struct Client {
    inner: reqwest::Client,
    endpoint: Url,
    token: Option<String>,
    cache: PathBuf,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Result<Self, HubError> {
        let inner = reqwest::Client::builder()
            .user_agent(concat!("dag/", env!("CARGO_PKG_VERSION")))
            // Followed here, so that the token stays where it belongs.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_mins(1))
            .build()
            .map_err(|error| HubError::Client(error.to_string()))?;
        Ok(Self {
            inner,
            endpoint: settings.endpoint.clone(),
            token: settings.token().map(str::to_owned),
            cache: settings.cache.clone(),
        })
    }

    /// Where the hub describes a repository at a revision.
    pub(super) fn description(&self, address: &Address) -> Url {
        let repository = address.repository().split('/');
        self.url(
            ["api", address.kind().plural()]
                .into_iter()
                .chain(repository)
                .chain(["revision", address.revision()]),
        )
    }

    /// Where a file is.
    pub(super) fn file(&self, address: &Address, name: &str) -> Url {
        let repository =
            address.kind().prefix().trim_end_matches('/').split('/').chain(address.repository().split('/'));
        let parts = repository.chain(["resolve", address.revision()]).chain(name.split('/'));
        self.url(parts.filter(|part| !part.is_empty()))
    }

    /// The page of a repository, for people.
    fn page(&self, address: &Address) -> String {
        let root = self.endpoint.as_str().trim_end_matches('/');
        format!("{root}/{}{}", address.kind().prefix(), address.repository())
    }

    fn url<'a>(&self, parts: impl Iterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        url.path_segments_mut().expect("an http address has a path").pop_if_empty().extend(parts);
        url
    }

    /// The text at `url`, a description of `address`.
    pub(super) async fn text(
        &self,
        url: &Url,
        address: &Address,
        cancel: &Cancel,
    ) -> Result<String, HubError> {
        let what = HubError::named(address);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let response = self.ask(Method::GET, url, None, true, &what, cancel).await?;
            if !response.status().is_success() {
                return Err(self.refusal(&response, address, address.kind().noun(), &what));
            }
            match read(response).await {
                Ok(text) => return Ok(text),
                Err(why) if attempt >= ATTEMPTS => return Err(HubError::Failing { what, why }),
                Err(_) => {}
            }
        }
    }

    /// What the hub says of the file `name`.
    pub(super) async fn facts(
        &self,
        address: &Address,
        name: &str,
        cancel: &Cancel,
    ) -> Result<Facts, HubError> {
        let what = format!("`{name}` of {}", HubError::named(address));
        let response =
            self.ask(Method::HEAD, &self.file(address, name), Some(0), true, &what, cancel).await?;
        if !response.status().is_success() && !response.status().is_redirection() {
            return Err(self.refusal(&response, address, "file", &what));
        }
        let strange = |why: String| HubError::Strange { what: what.clone(), why };
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        if let (Some(commit), Some(told)) = (address.commit(), text("x-repo-commit"))
            && commit != told
        {
            return Err(strange(format!("the hub gives it at commit {told}")));
        }
        let tag = text("x-linked-etag").or_else(|| text(ETAG.as_str()));
        let tag = tag.map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_owned());
        let tag = tag.ok_or_else(|| strange("the hub does not name its content (no ETag)".to_owned()))?;
        let is_direct = response.status().is_success();
        let size = text("x-linked-size").or_else(|| text(CONTENT_LENGTH.as_str()).filter(|_| is_direct));
        Ok(Facts { sha256: hex(&tag), size: size.and_then(|size| size.parse().ok()), tag })
    }

    /// One answer to a request, after redirects, and after attempts that failed in passing. `from` is where to go on in a
    /// file; with it silence is taken for passing, too, for by then the hub has spoken. A HEAD is not redirected to
    /// other machines: what they say of a file is not what the hub says of it.
    pub(super) async fn ask(
        &self,
        method: Method,
        url: &Url,
        from: Option<u64>,
        is_secret: bool,
        what: &str,
        cancel: &Cancel,
    ) -> Result<Response, HubError> {
        let mut attempt = 1;
        loop {
            let answer = self.ask_once(&method, url, from, is_secret, what).await;
            let wait = match &answer {
                Ok(response) if is_failing(response.status()) => retry_after(response.headers()),
                Err(HubError::Unreachable { .. }) if from.is_some() => None,
                _ => return answer,
            };
            if attempt >= ATTEMPTS {
                return match answer {
                    Ok(response) if response.status() == StatusCode::TOO_MANY_REQUESTS => {
                        Err(HubError::Limited {
                            what: what.to_owned(),
                            endpoint: place(response.url()),
                            attempts: attempt,
                        })
                    }
                    Ok(response) => Err(HubError::Failing {
                        what: what.to_owned(),
                        why: format!("{} answers {}", place(response.url()), response.status().as_u16()),
                    }),
                    Err(error) => Err(error),
                };
            }
            // Who asks what there is, is waited for by somebody.
            let longest = if from.is_some() { LONGEST_WAIT } else { LONGEST_QUESTION };
            let wait = wait.unwrap_or(Duration::from_millis(500 << attempt.min(6)));
            pause(wait.min(longest), cancel).await?;
            attempt += 1;
        }
    }

    async fn ask_once(
        &self,
        method: &Method,
        url: &Url,
        from: Option<u64>,
        is_secret: bool,
        what: &str,
    ) -> Result<Response, HubError> {
        let mut url = url.clone();
        for _ in 0..HOPS {
            let mut request = self.inner.request(method.clone(), url.clone());
            // The bytes as they are: their number and digest are those of the file.
            request = request.header(ACCEPT_ENCODING, "identity");
            if let Some(from) = from.filter(|from| *from > 0) {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            if let Some(token) =
                self.token.as_ref().filter(|_| is_secret && url.origin() == self.endpoint.origin())
            {
                request = request.bearer_auth(token);
            }
            let response = request.send().await.map_err(|error| HubError::Unreachable {
                what: what.to_owned(),
                endpoint: place(&url),
                why: cause(&error),
                cache: self.cache.clone(),
            })?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let to = to.and_then(|to| url.join(to).ok()).ok_or_else(|| HubError::Strange {
                what: what.to_owned(),
                why: format!("{} redirects to nowhere", place(&url)),
            })?;
            if *method == Method::HEAD && to.origin() != url.origin() {
                return Ok(response);
            }
            let is_fine = match to.scheme() {
                "https" => true,
                "http" => url.scheme() == "http" || is_loopback(&to),
                _ => false,
            };
            if !is_fine {
                return Err(HubError::Strange {
                    what: what.to_owned(),
                    why: format!("{} redirects to {}, which is not safe", place(&url), place(&to)),
                });
            }
            url = to;
        }
        Err(HubError::Strange { what: what.to_owned(), why: format!("more than {HOPS} redirects") })
    }

    /// Why an answer that is no success is none.
    fn refusal(&self, response: &Response, address: &Address, noun: &str, what: &str) -> HubError {
        let (what, endpoint) = (what.to_owned(), place(response.url()));
        let code = response.headers().get("x-error-code").and_then(|code| code.to_str().ok());
        match response.status().as_u16() {
            404 => {
                let noun = match code {
                    Some("RevisionNotFound") => "revision",
                    Some("RepoNotFound") => address.kind().noun(),
                    Some("EntryNotFound") => "file",
                    _ => noun,
                };
                HubError::NotFound { what, noun: noun.to_owned(), endpoint }
            }
            status @ (401 | 403) => {
                let page = self.page(address);
                HubError::Refused { what, page, endpoint, status, has_token: self.token.is_some() }
            }
            status => HubError::Strange { what, why: format!("{endpoint} answers {status}") },
        }
    }
}

/// Waits, unless the run stops.
pub(super) async fn pause(wait: Duration, cancel: &Cancel) -> Result<(), HubError> {
    let mut left = wait;
    loop {
        if cancel.is_cancelled() {
            return Err(HubError::Cancelled);
        }
        if left.is_zero() {
            return Ok(());
        }
        let some = left.min(LOOK);
        tokio::time::sleep(some).await;
        left -= some;
    }
}

fn is_failing(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

/// Seconds that the server asks to wait for.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

async fn read(mut response: Response) -> Result<String, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| cause(&error))? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > LARGEST_TEXT {
            return Err("the answer is too long".to_owned());
        }
    }
    String::from_utf8(bytes).map_err(|_| "the answer is no text".to_owned())
}

/// Scheme, host and port: an address may carry a signature, which is nobody's business.
pub(super) fn place(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// The innermost cause of an error of the client; the outer ones repeat the address.
pub(super) fn cause(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    if error.is_timeout() { "it took too long".to_owned() } else { inner.to_string() }
}

fn hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}
