//! Sandbox: a folder of its own, a cleared environment, and the built `dag` run in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Sizes at which the whole graph of `experiments/mistral-nemo.yaml` takes a second or two.
pub(crate) const SMALL: [&str; 12] = [
    "--set",
    "problems.source.count=60",
    "--set",
    "take=50",
    "--set",
    "train.steps=12",
    "--set",
    "evaluate.repeats=2",
    "--set",
    "evaluate.max_tokens=48",
    "--set",
    "benchmark_size=6",
];

/// A sandbox with this repository's experiments.
pub(crate) fn experiments() -> Sandbox {
    let sandbox = Sandbox::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.extension().is_some_and(|extension| extension == "yaml" || extension == "jinja") {
            sandbox.write(&format!("experiments/{name}"), &fs::read_to_string(&path).unwrap());
        }
    }
    sandbox
}

/// A file or folder of the large real data, or `None`, said aloud, where there is none.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    present("DAG_SHARED", "../shared", path, "set DAG_SHARED to the folder that has it")
}

/// A file that `scripts/fetch_test_models.py` fetches, or `None`, said aloud, where it is not there.
pub(crate) fn fetched(path: &str) -> Option<PathBuf> {
    present("DAG_TEST_MODELS", "target/test-models", path, "run `python3 scripts/fetch_test_models.py`")
}

/// A program that `scripts/fetch_test_tools.sh` installs, or `None`, said aloud, where it is not there.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    present(
        "DAG_TEST_TOOLS",
        "target/test-tools",
        &format!("bin/{name}"),
        "run `scripts/fetch_test_tools.sh`",
    )
}

/// `path` in the folder that a variable names, else in `folder` seen from the repository.
#[expect(clippy::disallowed_methods, reason = "the data lies where the caller of the tests says")]
#[expect(clippy::print_stderr, reason = "a test that skips says so")]
fn present(variable: &str, folder: &str, path: &str, remedy: &str) -> Option<PathBuf> {
    let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let path = std::env::var(variable).map_or_else(|_| usual(), PathBuf::from).join(path);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: no `{}`; {remedy}", path.display());
    None
}

/// A folder for one test. The store is its `.dag`.
pub(crate) struct Sandbox {
    root: TempDir,
}

/// What a run of `dag` left, with everything redacted that differs between two runs of a test.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Fails the test unless the exit code is `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output as one JSON value.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}:\n{}", self.stdout))
    }

    /// Standard output as one JSON value per line.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Exit code and both streams, for a snapshot.
    pub(crate) fn transcript(&self) -> String {
        format!("exit {}\n-- stdout\n{}-- stderr\n{}", self.code, self.stdout, self.stderr)
    }
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.path().join(path)
    }

    /// Writes a file, and the folders it lies in.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// `dag` with these arguments, ready to start: nothing of the caller's environment but the way to programs.
    #[expect(clippy::disallowed_methods, reason = "tests look for programs where their caller does")]
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dag"));
        command
            .args(arguments)
            .current_dir(self.root.path())
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("HOME", self.root.path())
            .env("TMPDIR", self.root.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs `dag` to its end.
    pub(crate) fn dag(&self, arguments: &[&str]) -> Ran {
        self.dag_with(arguments, &[])
    }

    /// The same with some environment variables.
    pub(crate) fn dag_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
        let output = self.command(arguments).envs(environment.iter().copied()).output().unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: self.redact(&String::from_utf8(output.stdout).unwrap()),
            stderr: self.redact(&String::from_utf8(output.stderr).unwrap()),
        }
    }

    /// Starts `dag` and leaves it running; its output is thrown away.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Waits until `path` exists.
    #[track_caller]
    pub(crate) fn wait_for(&self, path: &str) {
        let path = self.path(path);
        wait_until(&format!("`{}` exists", path.display()), || path.exists());
    }

    /// The sandbox's own path, ids of runs, digests and times, which no two runs share.
    fn redact(&self, text: &str) -> String {
        let root = fs::canonicalize(self.root.path()).unwrap();
        let text = text.replace(root.to_str().unwrap(), "[ROOT]");
        let text = text.replace(self.root.path().to_str().unwrap(), "[ROOT]");
        redact_words(&text)
    }
}

/// Waits for a condition that another process brings about.
#[track_caller]
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends `signal` to a child.
pub(crate) fn kill(child: &Child, signal: i32) {
    let id = i32::try_from(child.id()).unwrap();
    // SAFETY: kill(2) takes two integers, and the child has not been waited for, so its id is its own.
    assert_eq!(unsafe { libc::kill(id, signal) }, 0);
}

/// Replaces, word by word, durations by `[TIME]`, digests by `[DIGEST]` and ids of runs by `[RUN]`.
fn redact_words(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    let flush = |word: &mut String, out: &mut String| {
        out.push_str(redact_word(word));
        word.clear();
    };
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || c == '.' || c == '-' {
            word.push(c);
        } else {
            flush(&mut word, &mut out);
            out.push(c);
        }
    }
    flush(&mut word, &mut out);
    out
}

fn redact_word(word: &str) -> &str {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_hex = word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_time = word.strip_suffix('s').is_some_and(|number| number.split('.').all(digits));
    let is_run = word.len() >= 15 && word.as_bytes().get(8) == Some(&b'-') && digits(&word[..8]);
    match word {
        _ if is_hex && matches!(word.len(), 12 | 64) => "[DIGEST]",
        _ if is_time => "[TIME]",
        _ if is_run => "[RUN]",
        _ => word,
    }
}
