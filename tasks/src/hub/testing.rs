//! A hub on the loopback, for tests: repositories with revisions, large files on another port, and faults on demand.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use serde_json::json;

/// The names of files and their bytes.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// A running hub; it lives until the test process ends.
#[derive(Clone)]
pub(crate) struct HubServer {
    hub: String,
    storage: String,
    state: Arc<Mutex<State>>,
}

/// One request that came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Whether it came to the hub, and not to where it redirects for large files.
    pub(crate) is_hub: bool,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) range: Option<String>,
}

#[derive(Default)]
struct State {
    repositories: BTreeMap<String, Repository>,
    objects: BTreeMap<String, Vec<u8>>,
    seen: Vec<Seen>,
    /// Answers to the next requests to the hub.
    refusals: VecDeque<(u16, &'static str)>,
    /// The next large file breaks off after so many bytes.
    cut: Option<usize>,
    /// What the hub wants to hear.
    token: Option<String>,
}

#[derive(Default)]
struct Repository {
    revisions: BTreeMap<String, String>,
    commits: BTreeMap<String, Files>,
}

impl HubServer {
    pub(crate) fn start() -> Self {
        let [hub, storage] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let server = Self { hub: address(&hub), storage: address(&storage), state: Arc::default() };
        for (listener, is_hub) in [(hub, true), (storage, false)] {
            let server = server.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let server = server.clone();
                    // A connection that breaks is its client's loss.
                    thread::spawn(move || drop(server.answer(&stream, is_hub)));
                }
            });
        }
        server
    }

    /// What `HF_ENDPOINT` takes.
    pub(crate) fn endpoint(&self) -> &str {
        &self.hub
    }

    /// Puts `files` at the head of `revision` of a repository (`datasets/OWNER/NAME`, or a model's `OWNER/NAME`), and
    /// gives the commit.
    pub(crate) fn push(&self, repository: &str, revision: &str, files: &[(&str, &[u8])]) -> String {
        let files: Files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        let mut hasher = blake3::Hasher::new();
        for (name, bytes) in &files {
            hasher.update(name.as_bytes());
            hasher.update(blake3::hash(bytes).as_bytes());
        }
        let commit = hasher.finalize().to_hex()[..40].to_owned();
        let mut state = self.state();
        state.objects.extend(files.values().map(|bytes| (sha256(bytes), bytes.clone())));
        let repository = state.repositories.entry(repository.to_owned()).or_default();
        repository.revisions.insert(revision.to_owned(), commit.clone());
        repository.commits.insert(commit.clone(), files);
        commit
    }

    /// The next `count` requests to the hub are answered with `status` and these header lines.
    pub(crate) fn refuse(&self, count: usize, status: u16, headers: &'static str) {
        self.state().refusals.extend(std::iter::repeat_n((status, headers), count));
    }

    /// The next large file breaks off after so many bytes.
    pub(crate) fn cut_after(&self, bytes: usize) {
        self.state().cut = Some(bytes);
    }

    /// From now on the hub answers 401 to whoever does not bring this token.
    pub(crate) fn ask_for(&self, token: &str) {
        self.state().token = Some(token.to_owned());
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn answer(&self, stream: &TcpStream, is_hub: bool) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.take(1 << 16)).lines();
        let first = lines.next().unwrap_or(Ok(String::new()))?;
        let mut words = first.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut seen = Seen { is_hub, method, path, authorization: None, range: None };
        for line in lines {
            let line = line?;
            match line.split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                    seen.authorization = Some(value.to_owned());
                }
                Some((name, value)) if name.eq_ignore_ascii_case("range") => {
                    seen.range = Some(value.to_owned());
                }
                Some(_) => {}
                None => break,
            }
        }
        self.state().seen.push(seen.clone());
        let (status, headers, body) = if is_hub { self.of_hub(&seen) } else { self.of_storage(&seen) };
        let body = if seen.method == "HEAD" { Vec::new() } else { body };
        let length = if headers.contains("content-length") {
            String::new()
        } else {
            format!("content-length: {}\r\n", body.len())
        };
        let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n{headers}{length}\r\n");
        let mut stream = stream;
        stream.write_all(head.as_bytes())?;
        stream.write_all(&body)
    }

    fn of_hub(&self, seen: &Seen) -> (u16, String, Vec<u8>) {
        let mut state = self.state();
        if let Some((status, headers)) = state.refusals.pop_front() {
            return (status, headers.to_owned(), Vec::new());
        }
        let given = seen.authorization.as_deref().and_then(|given| given.strip_prefix("Bearer "));
        if state.token.is_some() && state.token.as_deref() != given {
            return (401, "x-error-code: GatedRepo\r\n".to_owned(), Vec::new());
        }
        let absent = |code: &str| (404, format!("x-error-code: {code}\r\n"), Vec::new());
        let path = seen.path.replace("%2F", "/");
        let (is_description, rest) = match path.strip_prefix("/api/") {
            Some(rest) => (true, rest.trim_start_matches("models/")),
            None => (false, path.trim_start_matches('/')),
        };
        let word = if is_description { "/revision/" } else { "/resolve/" };
        let Some((repository, rest)) = rest.split_once(word) else { return absent("RepoNotFound") };
        let Some(found) = state.repositories.get(repository) else { return absent("RepoNotFound") };
        let (revision, name) =
            if is_description { (rest, "") } else { rest.split_once('/').unwrap_or((rest, "")) };
        let commit = found.revisions.get(revision).map_or(revision, String::as_str).to_owned();
        let Some(files) = found.commits.get(&commit) else { return absent("RevisionNotFound") };
        if is_description {
            let siblings: Vec<_> = files.keys().map(|name| json!({ "rfilename": name })).collect();
            return (
                200,
                String::new(),
                json!({ "sha": commit, "siblings": siblings }).to_string().into_bytes(),
            );
        }
        let Some(bytes) = files.get(name) else { return absent("EntryNotFound") };
        let is_large = [".parquet", ".safetensors", ".gguf"].iter().any(|ending| name.ends_with(ending));
        if is_large {
            let digest = sha256(bytes);
            let headers = format!(
                "x-repo-commit: {commit}\r\nx-linked-size: {}\r\nx-linked-etag: \"{digest}\"\r\nlocation: {}/{digest}?signature=secret\r\n",
                bytes.len(),
                self.storage
            );
            return (302, headers, Vec::new());
        }
        let tag = &blake3::hash(bytes).to_hex()[..40];
        let headers =
            format!("x-repo-commit: {commit}\r\netag: \"{tag}\"\r\ncontent-length: {}\r\n", bytes.len());
        (200, headers, bytes.clone())
    }

    fn of_storage(&self, seen: &Seen) -> (u16, String, Vec<u8>) {
        let mut state = self.state();
        let digest = seen.path.trim_start_matches('/').split('?').next().unwrap_or_default();
        let Some(bytes) = state.objects.get(digest).cloned() else { return (404, String::new(), Vec::new()) };
        let from = seen
            .range
            .as_deref()
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let from: usize = from.unwrap_or(0);
        if from >= bytes.len() && from > 0 {
            return (416, String::new(), Vec::new());
        }
        let rest = &bytes[from..];
        let mut headers = format!("content-length: {}\r\n", rest.len());
        if from > 0 {
            write!(headers, "content-range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len()).unwrap();
        }
        let end = state.cut.take().unwrap_or(rest.len()).min(rest.len());
        (if from > 0 { 206 } else { 200 }, headers, rest[..end].to_vec())
    }
}

fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
