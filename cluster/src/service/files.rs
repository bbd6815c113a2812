//! The files through which those who want a service and its supervisors speak, below `services/INSTANCE/` in the store.
//!
//! ```text
//! service.json           what is to run, without secrets
//! model/                 the model it serves, where it serves one
//! leases/HOLDER          who wants it; rewritten every few seconds, removed when it is wanted no more
//! N.A.claim              the name of attempt A of replica N; whoever creates it submits it
//! N.A.job                the scheduler's id; written after it was submitted
//! N.A.server             the process of the server, as long as there is one
//! N.A.endpoint.json      where it answers, as long as it does
//! N.A.end.json           how it ended; the supervisor's last act
//! N.A.log                what the server printed
//! failed                 why the service was given up
//! ```
//!
//! Every file has one writer, and none is locked: it works on a shared file system.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use dag_engine::service::{Endpoint, HOST, MODEL, PORT, Service, endpoint_file};
use serde::{Deserialize, Serialize};

use crate::folder::publish;

/// So much of the end of what a server printed goes into an error.
const TAIL: u64 = 3000;

/// The folder of a service.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

/// What a supervisor is to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Description {
    pub(super) name: String,
    argv: Vec<String>,
    pub(super) health: String,
    pub(super) start_within: f64,
    pub(super) hang_after: f64,
    pub(super) lease: f64,
    host: Option<String>,
    pub(super) port: Option<u16>,
    /// Without those whose values are secret: the supervisor inherits them.
    pub(super) env: BTreeMap<String, String>,
    pub(super) is_local: bool,
}

/// One start of one replica's supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Attempt {
    pub(super) replica: u32,
    pub(super) number: u32,
}

/// A server's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ServerProcess {
    pub(super) id: u32,
    /// When it began, as the kernel counts; tells it from a later one of the same id.
    pub(super) began: Option<u64>,
}

/// How a supervisor ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    /// It was asked to, or nobody wants the service.
    Stopped,
    /// The server cannot be kept up; why.
    Failed(String),
}

impl Description {
    pub(super) fn of(service: &Service, model: Option<&Path>) -> Self {
        let model = model.map(|path| path.display().to_string());
        let filled = |word: &String| match &model {
            Some(model) => word.replace(MODEL, model),
            None => word.clone(),
        };
        let plain = service.env.iter().filter(|(name, _)| !service.secrets.contains(*name));
        Self {
            name: service.name.clone(),
            argv: service.argv.iter().map(filled).collect(),
            health: service.health.clone(),
            start_within: service.start_within,
            hang_after: service.hang_after,
            lease: service.lease,
            host: service.host.clone(),
            port: service.port,
            env: plain.map(|(name, value)| (name.clone(), value.clone())).collect(),
            is_local: service.executor.is_none(),
        }
    }

    /// The program and its arguments, to listen at `port`.
    pub(super) fn argv(&self, port: u16, address: &str) -> Vec<String> {
        let bind = bind(address);
        self.argv.iter().map(|word| word.replace(PORT, &port.to_string()).replace(HOST, bind)).collect()
    }

    /// The address under which others reach it on the machine `machine`.
    pub(super) fn address<'a>(&'a self, machine: &'a str) -> &'a str {
        match &self.host {
            Some(host) => host,
            None if self.is_local => "127.0.0.1",
            None => machine,
        }
    }

    pub(super) fn lease(&self) -> Duration {
        Duration::from_secs_f64(self.lease.clamp(1.0, 1e6))
    }
}

/// What a server that is reached under `address` listens at: only this machine, where only this machine asks.
pub(super) fn bind(address: &str) -> &'static str {
    let is_loopback = address == "localhost" || address.starts_with("127.");
    if is_loopback { "127.0.0.1" } else { "0.0.0.0" }
}

impl Folder {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path.join("leases"))?;
        Ok(Self(path.to_owned()))
    }

    pub(super) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    fn file(&self, attempt: Attempt, what: &str) -> PathBuf {
        self.0.join(format!("{}.{}.{what}", attempt.replica, attempt.number))
    }

    pub(super) fn describe(&self, description: &Description) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(description).expect("a description is plain data");
        publish(&self.0.join("service.json"), &bytes)
    }

    pub(super) fn description(&self) -> io::Result<Description> {
        serde_json::from_slice(&fs::read(self.0.join("service.json"))?).map_err(io::Error::other)
    }

    /// The attempts of all replicas that anybody has begun.
    pub(super) fn attempts(&self) -> io::Result<BTreeSet<Attempt>> {
        let mut attempts = BTreeSet::new();
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            let parts = name.to_str().and_then(|name| name.strip_suffix(".claim")?.split_once('.'));
            let Some((replica, number)) = parts else { continue };
            if let (Ok(replica), Ok(number)) = (replica.parse(), number.parse()) {
                attempts.insert(Attempt { replica, number });
            }
        }
        Ok(attempts)
    }

    /// Takes an attempt for oneself; false where another has it.
    pub(super) fn claim(&self, attempt: Attempt, name: &str) -> io::Result<bool> {
        let beside = self.0.join(format!(".{}", crate::folder::nonce()?));
        fs::write(&beside, name)?;
        // A link appears whole, and only where there is none.
        let linked = fs::hard_link(&beside, self.file(attempt, "claim"));
        let _ = fs::remove_file(&beside);
        match linked {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn name(&self, attempt: Attempt) -> Option<String> {
        fs::read_to_string(self.file(attempt, "claim")).ok()
    }

    pub(super) fn submitted(&self, attempt: Attempt, id: &str) -> io::Result<()> {
        publish(&self.file(attempt, "job"), id.as_bytes())
    }

    pub(super) fn job(&self, attempt: Attempt) -> Option<String> {
        fs::read_to_string(self.file(attempt, "job")).ok()
    }

    pub(super) fn script(&self, attempt: Attempt) -> PathBuf {
        self.file(attempt, "script")
    }

    pub(super) fn log(&self, attempt: Attempt) -> PathBuf {
        self.file(attempt, "log")
    }

    pub(super) fn end(&self, attempt: Attempt) -> Option<End> {
        serde_json::from_slice(&fs::read(self.file(attempt, "end.json")).ok()?).ok()
    }

    pub(super) fn leave(&self, attempt: Attempt, end: &End) -> io::Result<()> {
        publish(&self.file(attempt, "end.json"), &serde_json::to_vec(end).expect("an end is plain data"))
    }

    pub(super) fn server(&self, attempt: Attempt) -> Option<ServerProcess> {
        serde_json::from_slice(&fs::read(self.file(attempt, "server")).ok()?).ok()
    }

    pub(super) fn runs(&self, attempt: Attempt, process: ServerProcess) -> io::Result<()> {
        publish(&self.file(attempt, "server"), &serde_json::to_vec(&process).expect("it is plain data"))
    }

    pub(super) fn runs_no_more(&self, attempt: Attempt) {
        self.is_silent(attempt);
        let _ = fs::remove_file(self.file(attempt, "server"));
    }

    pub(super) fn answers(&self, attempt: Attempt, endpoint: &Endpoint) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(endpoint).expect("an endpoint is plain data");
        publish(&endpoint_file(&self.0, attempt.replica, attempt.number), &bytes)
    }

    /// It answers no more.
    pub(super) fn is_silent(&self, attempt: Attempt) {
        let _ = fs::remove_file(endpoint_file(&self.0, attempt.replica, attempt.number));
    }

    pub(super) fn has_endpoint(&self, attempt: Attempt) -> bool {
        endpoint_file(&self.0, attempt.replica, attempt.number).exists()
    }

    /// Forgets an attempt that is over, but for what it printed.
    pub(super) fn forget(&self, attempt: Attempt) {
        self.runs_no_more(attempt);
        for what in ["end.json", "script", "job", "claim"] {
            let _ = fs::remove_file(self.file(attempt, what));
        }
    }

    /// The end of what the servers of an attempt printed.
    pub(super) fn tail(&self, attempt: Attempt) -> String {
        match crate::folder::tail(&self.log(attempt), TAIL) {
            Some(text) => format!("it printed at last:\n{text}"),
            None => "it printed nothing".to_owned(),
        }
    }

    fn lease(&self, holder: &str) -> PathBuf {
        self.0.join("leases").join(holder)
    }

    /// Says that `holder` still wants the service.
    pub(super) fn want(&self, holder: &str, count: u64) -> io::Result<()> {
        fs::write(self.lease(holder), count.to_string())
    }

    /// `holder` wants it no more. Whether others do: those whose lease is not much older than this one.
    pub(super) fn want_no_more(&self, holder: &str, lease: Duration) -> io::Result<bool> {
        let own = self.lease(holder);
        // Written anew, so that all times compared are of the same clock: that of the file system.
        fs::write(&own, "0")?;
        let now = fs::metadata(&own)?.modified()?;
        let mut is_wanted = false;
        for entry in fs::read_dir(self.0.join("leases"))?.flatten() {
            let modified: SystemTime = entry.metadata()?.modified()?;
            if entry.path() == own {
                continue;
            }
            if now.duration_since(modified).unwrap_or_default() < lease {
                is_wanted = true;
            } else {
                let _ = fs::remove_file(entry.path());
            }
        }
        fs::remove_file(&own)?;
        Ok(is_wanted)
    }
}

/// Looks whether anybody wants a service, by the clock of this process alone.
pub(super) struct LeaseWatch {
    folder: PathBuf,
    lease: Duration,
    seen: BTreeMap<std::ffi::OsString, (Option<SystemTime>, Vec<u8>, Instant)>,
}

impl LeaseWatch {
    pub(super) fn new(folder: &Folder, lease: Duration) -> Self {
        Self { folder: folder.path().join("leases"), lease, seen: BTreeMap::new() }
    }

    /// Whether a lease has changed lately. A folder that cannot be read for a moment changes nothing.
    pub(super) fn is_wanted(&mut self) -> bool {
        let now = Instant::now();
        if let Ok(entries) = fs::read_dir(&self.folder) {
            let mut found = BTreeMap::new();
            for entry in entries.flatten() {
                let content = fs::read(entry.path()).unwrap_or_default();
                let modified = entry.metadata().and_then(|metadata| metadata.modified()).ok();
                let name = entry.file_name();
                let since = match self.seen.get(&name) {
                    Some((was, text, since)) if *was == modified && *text == content => *since,
                    _ => now,
                };
                found.insert(name, (modified, content, since));
            }
            self.seen = found;
        }
        self.seen.values().any(|(_, _, since)| now.duration_since(*since) < self.lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_claimed_once_and_forgotten_but_for_its_log() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::create(root.path()).unwrap();
        let attempt = Attempt { replica: 1, number: 12 };
        assert!(folder.claim(attempt, "a").unwrap() && !folder.claim(attempt, "b").unwrap());
        assert_eq!((folder.name(attempt).as_deref(), folder.job(attempt)), (Some("a"), None));
        assert_eq!(folder.attempts().unwrap(), [attempt].into());
        folder.leave(attempt, &End::Failed("x".into())).unwrap();
        fs::write(folder.log(attempt), "said\n").unwrap();
        folder.forget(attempt);
        assert!(folder.attempts().unwrap().is_empty() && folder.end(attempt).is_none());
        assert!(folder.tail(attempt).ends_with("said"));
    }

    #[test]
    fn a_service_is_wanted_while_any_lease_changes() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::create(root.path()).unwrap();
        let mut watch = LeaseWatch::new(&folder, Duration::from_mins(1));
        assert!(!watch.is_wanted(), "nobody has asked");
        folder.want("one", 1).unwrap();
        folder.want("two", 1).unwrap();
        assert!(watch.is_wanted());
        assert!(folder.want_no_more("one", Duration::from_mins(1)).unwrap(), "the other still does");
        assert!(watch.is_wanted());
        assert!(!folder.want_no_more("two", Duration::from_mins(1)).unwrap());
        assert!(!watch.is_wanted());
        folder.want("dead", 1).unwrap();
        let mut watch = LeaseWatch::new(&folder, Duration::ZERO);
        assert!(!watch.is_wanted(), "a lease that does not change runs out");
    }
}
