//! A server that nobody here wrote: `experiments/gsm8k-served.yaml` against llama.cpp's, killed in the middle and resumed. The
//! server's own log says what was asked of it and what it answered, and agrees with the record log.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::store;
use crate::support::{experiments, fetched, kill, shared};

const FILE: &str = "experiments/gsm8k-served.yaml";

/// A running server; it ends with its standard input, when this is dropped.
struct Server {
    child: Option<Child>,
    address: String,
    log: PathBuf,
}

impl Server {
    /// The one that the caller of the tests names, or one started here; `None`, said aloud, where there is neither.
    #[expect(clippy::disallowed_methods, reason = "the server is where the caller of the tests says")]
    #[expect(clippy::print_stderr, reason = "a test that skips says so")]
    fn start(folder: &Path) -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let (Some(address), Some(log)) = (variable("DAG_TEST_SERVER"), variable("DAG_TEST_SERVER_LOG")) {
            return Some(Self { child: None, address, log: log.into() });
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let venv = variable("DAG_TEST_VENV").map_or_else(|| root.join("target/serve-venv"), PathBuf::from);
        if !venv.exists() {
            eprintln!(
                "skipped: no server in `{}`; run `python3 scripts/serve_smollm2.py --install`",
                venv.display()
            );
            return None;
        }
        fetched("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")?;
        let log = folder.join("server.log");
        fs::write(&log, "").unwrap();
        let mut child = Command::new("python3")
            .arg(root.join("scripts/serve_smollm2.py"))
            .arg("--log")
            .arg(&log)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        assert!(address.starts_with("http"), "the server does not start");
        Some(Self { child: Some(child), address: address.trim().to_owned(), log })
    }

    /// How often each of `keys` arrived, and how often it was answered well.
    fn told(&self, keys: &BTreeSet<String>) -> BTreeMap<String, (u64, u64)> {
        let mut told: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for line in fs::read_to_string(&self.log).unwrap().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [what, key, ..] = words[..] else { continue };
            if keys.contains(key) {
                let counts = told.entry(key.to_owned()).or_default();
                match what {
                    "arrived" => counts.0 += 1,
                    _ if words[2] == "200" => counts.1 += 1,
                    _ => {}
                }
            }
        }
        told
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}

/// Asks for `problems`, is killed when half of them are stored, and goes on.
#[expect(clippy::print_stderr, reason = "what came out is worth reading")]
fn kill_and_resume(problems: u64, concurrency: u64) {
    let Some(data) = shared("data/benchmarks/gsm8k_test.jsonl") else { return };
    let sandbox = experiments();
    let Some(server) = Server::start(&sandbox.path(".")) else { return };
    let data = data.parent().unwrap().parent().unwrap();
    let sets = [
        format!("data={}", data.display()),
        format!("server={}", server.address),
        format!("take={problems}"),
        format!("concurrency={concurrency}"),
    ];
    let arguments = |command: &[&'static str]| -> Vec<String> {
        let sets = sets.iter().flat_map(|set| ["--set".to_owned(), set.clone()]);
        command.iter().map(|word| (*word).to_owned()).chain(sets).collect()
    };
    let dag = |command: &[&'static str]| {
        let arguments = arguments(command);
        sandbox.dag(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).expect(0)
    };
    let stored = || -> BTreeSet<String> {
        let logged = store::logged(&sandbox.path(".dag"));
        assert!(logged.values().all(|times| *times == 1), "no key is stored twice");
        logged.into_keys().map(|(_, key)| key).collect()
    };

    let start = Instant::now();
    let run = arguments(&["run", FILE]);
    let mut child = sandbox.start(&run.iter().map(String::as_str).collect::<Vec<_>>());
    while (stored().len() as u64) < problems / 2 {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it could be killed");
        assert!(start.elapsed() < Duration::from_mins(20), "half of the problems take more than 20 minutes");
        std::thread::sleep(Duration::from_millis(50));
    }
    kill(&child, libc::SIGKILL);
    child.wait().unwrap();
    let acknowledged = stored();
    let before = server.told(&acknowledged);
    let resumed = dag(&["run", FILE]);
    let seconds = start.elapsed().as_secs_f64();

    let keys = stored();
    assert_eq!(keys.len() as u64, problems);
    assert!(acknowledged.is_subset(&keys), "what was stored is kept");
    let told = server.told(&keys);
    assert!(
        acknowledged.iter().all(|key| told[key] == before[key] && told[key].0 == 1),
        "nothing is asked again"
    );
    assert!(told.len() as u64 == problems && told.values().all(|(_, answers)| *answers >= 1));
    let arrived: u64 = told.values().map(|(arrivals, _)| arrivals).sum();
    assert!(arrived <= problems + concurrency, "{arrived} requests for {problems} records");

    let judged = dag(&["show", FILE, "judged", "--json", "--head", "100000"]).json();
    let rows = judged["content"]["rows"].as_array().unwrap();
    assert_eq!(rows.len() as u64, problems);
    let mut verdicts: BTreeMap<&str, u64> = BTreeMap::new();
    for row in rows {
        *verdicts.entry(row["verdict"].as_str().unwrap()).or_default() += 1;
    }
    assert!(!verdicts.contains_key("error"), "every response is there to be judged: {verdicts:?}");
    let last = resumed.stderr.lines().last().unwrap_or_default().to_owned();
    eprintln!(
        "{} stored at the kill; {arrived} requests arrived for {problems} records; {verdicts:?}; {seconds:.0} s; {last}",
        acknowledged.len()
    );
}

#[test]
fn the_experiment_compiles_without_its_data() {
    let sets = ["--set", "data=data", "--set", "server=http://localhost:8000/v1"];
    experiments().dag(&[&["check", FILE][..], &sets].concat()).expect(0);
}

#[test]
fn a_real_server_is_asked_once_for_each_record() {
    kill_and_resume(12, 4);
}

#[test]
#[ignore = "minutes"]
fn a_real_server_is_asked_for_two_hundred_problems() {
    kill_and_resume(200, 16);
}
