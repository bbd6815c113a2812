//! Asking servers that cost money: nothing acknowledged is lost, nothing is paid twice but what was in flight at a kill,
//! every failure is accounted for by its kind, and the key leaks nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::crash::Random;
use crate::mock::{Behaviour, Fault, Mock, judge};
use crate::store;
use crate::support::{Sandbox, kill};

/// Problems that one model of a server answers and another judges.
const ASKING: &str = r"
name: asking
seed: 3
params: { concurrency: 8 }
nodes:
  problems: { task: dataset, with: { source: { path: problems.jsonl } } }
  answers:
    task: sample
    inputs: { prompts: problems }
    with: { model: { backend: openai, name: solver }, max_tokens: 64 }
    run: { base_url: $(env:SERVER), concurrency: $(concurrency) }
  judged:
    task: judge
    inputs: { responses: answers, references: problems }
    with: { by: model, model: { backend: openai, name: judge }, shortcuts: [], synonyms: true, max_without_verdict: 1 }
    run: { base_url: $(env:SERVER), concurrency: $(concurrency) }
";

/// One request in a graph of one node.
const ONE: &str = r"
name: one
nodes:
  problems: { task: dataset, with: { source: { path: problems.jsonl } } }
  answers:
    task: sample
    inputs: { prompts: problems }
    with: { model: { backend: openai, name: solver }, max_tokens: 64 }
    run:
      base_url: $(env:SERVER)
      concurrency: 64
      request_timeout: 0.5
      request_retries: 4
      largest_response: 1000000
      allow_failed: 1
";

/// Solves what it is asked and judges what it is given; one answer in eight is wrong.
fn solve(asked: &str) -> String {
    if asked.contains("<CORRECT_ANSWER>") {
        return judge(asked);
    }
    let answer = answer(asked);
    format!(
        "To {asked} it is \\boxed{{{}}}.",
        if asked.len().is_multiple_of(8) { answer + 1 } else { answer }
    )
}

fn answer(problem: &str) -> u64 {
    problem.bytes().map(u64::from).sum::<u64>() % 1000
}

fn data(rows: u64) -> String {
    let row = |n: u64| {
        let problem = format!("problem {}", n * 7919);
        let answer = answer(&problem);
        serde_json::json!({ "id": format!("p{n}"), "problem": problem, "answer": answer }).to_string() + "\n"
    };
    (0..rows).map(row).collect()
}

fn sandbox(yaml: &str, rows: u64) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("asking.yaml", yaml);
    sandbox.write("problems.jsonl", &data(rows));
    sandbox
}

/// Kills the run at `kills` instants and lets it end; checks the ledger against the logs after every kill.
#[expect(clippy::print_stderr, reason = "what was lost is worth reading where nothing fails, too")]
fn kill_and_count(rows: u64, kills: usize) {
    const CONCURRENCY: u64 = 8;
    let latency = Duration::from_millis(4);
    let server = || Mock::start(Behaviour::of(solve).after(latency));
    let (calm, stormy) = (server(), server());
    let (whole, broken) = (sandbox(ASKING, rows), sandbox(ASKING, rows));
    let run = |sandbox: &Sandbox, server: &Mock| {
        let mut command = sandbox.command(&["run", "asking.yaml"]);
        command.env("SERVER", server.address());
        command
    };
    let start = Instant::now();
    let output = run(&whole, &calm).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let length = start.elapsed();
    assert_eq!(calm.calls(), 2 * rows);

    let mut random = Random::new();
    let mut instants: Vec<Duration> = (0..kills).map(|_| length.mul_f64(random.share())).collect();
    instants.sort();
    let (mut before, mut killed) = (Duration::ZERO, 0);
    // What was acknowledged, by key, and how often it had been billed by then.
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    for instant in instants {
        let mut child = run(&broken, &stormy).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(instant.saturating_sub(before));
        before = instant;
        if child.try_wait().unwrap().is_none() {
            kill(&child, libc::SIGKILL);
            killed += 1;
        }
        child.wait().unwrap();
        let logged: BTreeSet<String> =
            store::logged(&broken.path(".dag")).into_keys().map(|(_, key)| key).collect();
        let ledger = stormy.ledger().all();
        for (key, billed) in &acknowledged {
            assert!(logged.contains(key), "what was acknowledged is lost");
            assert_eq!(ledger[key].billed, *billed, "what was acknowledged is paid again");
        }
        for key in &logged {
            acknowledged.entry(key.clone()).or_insert(ledger[key].billed);
        }
    }
    let output = run(&broken, &stormy).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    broken.dag(&["verify"]).expect(0);
    assert!(killed * 2 >= kills, "only {killed} of {kills} kills met a living process");

    let [kept, found] = [&whole, &broken].map(|sandbox| store::records(&sandbox.path(".dag")));
    assert!(kept == found, "the artifacts are those of a run without kills");
    let logged = store::logged(&broken.path(".dag"));
    assert!(logged.values().all(|times| *times == 1) && logged.len() as u64 == 2 * rows);
    let twice = stormy.calls() - 2 * rows;
    eprintln!(
        "{killed} kills over {:.1} s: {} billed for {} wanted, {twice} in vain",
        length.as_secs_f64(),
        stormy.calls(),
        2 * rows
    );
    assert!(twice <= killed as u64 * CONCURRENCY, "{twice} billed in vain");
}

#[test]
fn ledger_of_a_run_killed_at_forty_instants() {
    kill_and_count(2000, 40);
}

/// What a record comes to whose attempts meet these faults: the kind of its failure, if it fails.
fn expected(faults: &[Fault], retries: usize) -> Option<&'static str> {
    for (attempt, fault) in faults.iter().enumerate() {
        let (kind, is_final) = match fault {
            Fault::RateLimit(_) | Fault::RateLimitDate | Fault::RateLimitNegative => ("rate_limit", false),
            // Three days are waited for by nobody.
            Fault::RateLimitHuge => ("rate_limit", true),
            Fault::Status(500 | 502) => ("server", false),
            Fault::Status(_) => ("overloaded", false),
            Fault::Silence | Fault::Drip => ("timeout", false),
            Fault::HalfBody | Fault::HalfHead | Fault::Reset => ("broken", false),
            Fault::NotJson | Fault::ErrorBody | Fault::NoChoices | Fault::WrongLength | Fault::Compressed => {
                ("malformed", true)
            }
            Fault::Empty => ("empty", true),
            Fault::Redirect => ("redirect", true),
            Fault::Endless => ("too_large", true),
            Fault::Refused => ("refused", true),
        };
        if is_final || attempt == retries {
            return Some(kind);
        }
    }
    None
}

/// Every kind of fault for one request in ten, in an order of its own.
fn draw(key: &str) -> Vec<Fault> {
    let hash = blake3::hash(key.as_bytes());
    let mut random = Random::of(u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap()));
    let mut drawn: Vec<(u64, Fault)> = Vec::new();
    for fault in Fault::ALL {
        if random.share() < 0.1 {
            drawn.push(((random.share() * 1e9) as u64, fault));
        }
    }
    drawn.sort();
    drawn.into_iter().map(|(_, fault)| fault).collect()
}

#[test]
fn ledger_of_a_thousand_requests_with_every_fault() {
    const ROWS: u64 = 1000;
    let server = Mock::start(Behaviour::of(solve).failing(draw));
    let sandbox = sandbox(ONE, ROWS);
    let run = |sandbox: &Sandbox| {
        sandbox.dag_with(&["run", "asking.yaml"], &[("SERVER", server.address())]).expect(0)
    };
    let stderr = run(&sandbox).stderr;
    let shown =
        sandbox.command(&["show", "asking.yaml", "answers", "--json", "--head", "2000"]).output().unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let rows = shown["content"]["rows"].as_array().unwrap();
    assert_eq!(rows.len() as u64, ROWS, "every record is accounted for");
    let ledger = server.ledger().all();
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for row in rows {
        let key = row["record_key"].as_str().unwrap();
        let faults = draw(key);
        let entry = ledger.get(key).unwrap_or_else(|| panic!("{faults:?}: {row}"));
        let kind = expected(&faults, 4);
        let error = row["error"].as_str();
        assert_eq!(error.map(|error| error.split(':').next().unwrap()), kind, "{faults:?}: {row}");
        assert_eq!(row["response"].is_null(), kind.is_some(), "no failure is an empty success: {row}");
        assert!(entry.arrivals.len() <= 5, "{faults:?} took {} attempts", entry.arrivals.len());
        *kinds.entry(kind.unwrap_or("answered")).or_default() += 1;
        for (pair, fault) in entry.arrivals.windows(2).zip(&entry.faults) {
            let gap = pair[1].duration_since(pair[0]);
            match fault {
                Fault::RateLimit(wait) => assert!(gap >= Duration::from_millis(*wait), "{gap:?}"),
                Fault::RateLimitDate => assert!(gap >= Duration::from_secs(1), "{gap:?}"),
                _ => {}
            }
        }
    }
    for kind in ["answered", "malformed", "empty", "redirect", "too_large", "refused", "rate_limit"] {
        assert!(kinds.get(kind).is_some_and(|count| *count > 10), "{kinds:?}");
        assert!(
            kind == "answered" || stderr.contains(&format!("{} {kind} (", kinds[kind])),
            "{kind}: {stderr}"
        );
    }
    // The next run owes the failed ones and nothing else: they meet what is left of their faults.
    let answered = kinds["answered"];
    run(&sandbox);
    for (key, entry) in server.ledger().all() {
        let more = entry.arrivals.len() - ledger[&key].arrivals.len();
        assert_eq!(more == 0, expected(&draw(&key), 4).is_none(), "{key}");
    }
    assert!(answered > 300, "{kinds:?}");
}

#[test]
fn ledger_of_waits_that_a_server_asked_for() {
    // No wait is ever shorter than was asked for. How much longer it is depends on the machine too, so the best of a few counts.
    let median = || {
        let asks = |_: &str| vec![Fault::RateLimit(400)];
        let server = Mock::start(Behaviour::of(solve).failing(asks));
        let sandbox = sandbox(ONE, 20);
        sandbox.dag_with(&["run", "asking.yaml"], &[("SERVER", server.address())]).expect(0);
        let ledger = server.ledger().all();
        let gaps = ledger.values().map(|entry| entry.arrivals[1].duration_since(entry.arrivals[0]));
        let mut gaps: Vec<Duration> = gaps.collect();
        gaps.sort();
        assert!(gaps[0] >= Duration::from_millis(400), "{gaps:?}");
        gaps[gaps.len() / 2]
    };
    let is_prompt = (0..5).any(|_| median() <= Duration::from_millis(500));
    assert!(is_prompt, "the median is more than 100 ms late every time");
}

/// Two nodes that want responses to the same problems from the same model; the one wants more of each.
const TWO: &str = r"
name: two
nodes:
  problems: { task: dataset, with: { source: { path: problems.jsonl } } }
  answers:
    task: sample
    inputs: { prompts: problems }
    with: { model: { backend: openai, name: solver }, max_tokens: 64 }
    run: { base_url: $(env:SERVER), concurrency: 8 }
  more:
    task: sample
    inputs: { prompts: problems }
    with: { model: { backend: openai, name: solver }, max_tokens: 64, repeats: 2 }
    run: { base_url: $(env:SERVER), concurrency: 8 }
";

#[test]
fn two_nodes_that_want_one_response_ask_for_it_once() {
    let server = Mock::start(Behaviour::of(solve).after(Duration::from_millis(3)));
    let sandbox = sandbox(TWO, 200);
    sandbox.dag_with(&["run", "asking.yaml", "--jobs", "2"], &[("SERVER", server.address())]).expect(0);
    assert!(server.ledger().all().values().all(|entry| entry.billed == 1));
    assert_eq!(server.calls(), 400);
}

/// Responses of one model, four of each; `run:` is filled in.
const FOUR: &str = r"
name: four
nodes:
  problems: { task: dataset, with: { source: { path: problems.jsonl } } }
  answers:
    task: sample
    inputs: { prompts: problems }
    with: { model: { backend: openai, name: solver }, max_tokens: 64, repeats: 4 }
    run: { base_url: $(env:SERVER), OPTIONS }
";

/// The responses when the node runs with these options and servers.
fn answered(options: &str, servers: &[&Mock], rows: u64) -> Vec<String> {
    let addresses: Vec<&str> = servers.iter().map(|server| server.address()).collect();
    let sandbox = sandbox(&FOUR.replace("OPTIONS", options), rows);
    sandbox.dag_with(&["run", "asking.yaml"], &[("SERVER", &addresses.join(","))]).expect(0);
    let shown = sandbox.dag(&["show", "asking.yaml", "answers", "--json", "--head", "1000"]).expect(0).json();
    let rows = shown["content"]["rows"].as_array().unwrap().iter();
    rows.map(|row| row["response"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn several_samples_in_one_request_streams_and_several_servers_give_the_same() {
    const ROWS: u64 = 30;
    let server = || Mock::start(Behaviour::of(solve).after(Duration::from_millis(2)));
    let plain = server();
    let expected = answered("concurrency: 4", &[&plain], ROWS);
    assert_eq!((expected.len() as u64, plain.calls()), (4 * ROWS, 4 * ROWS));

    let several = server();
    assert_eq!(answered("samples_per_request: 4", &[&several], ROWS), expected);
    assert_eq!(several.calls(), ROWS, "four samples of one prompt are one request");
    let once = Mock::start(Behaviour::of(solve).ignoring_n());
    assert_eq!(answered("samples_per_request: 4", &[&once], ROWS), expected);
    assert_eq!(once.calls(), 4 * ROWS, "a server that answers once is asked for each");

    assert_eq!(answered("stream: true", &[&server()], ROWS), expected);

    let (one, two) = (server(), server());
    assert_eq!(answered("concurrency: 4", &[&one, &two], ROWS), expected);
    assert!(one.calls() > ROWS / 2 && two.calls() > ROWS / 2, "{} and {}", one.calls(), two.calls());
    let broken = Mock::start(Behaviour::of(solve).failing(|_| vec![Fault::Status(500); 99]));
    let sound = server();
    assert_eq!(answered("concurrency: 4, request_retries: 9", &[&broken, &sound], ROWS), expected);
    assert_eq!(sound.calls(), 4 * ROWS);
}

#[test]
fn a_key_is_found_nowhere_but_in_the_requests_to_its_server() {
    const CANARY: &str = "sk-CANARY7+/w=d41d8cd98f";
    let refused = |key: &str| match key.as_bytes()[0] % 3 {
        0 => vec![Fault::Refused; 9],
        1 => vec![Fault::Redirect; 9],
        _ => Vec::new(),
    };
    let server = Mock::start(Behaviour::of(solve).failing(refused));
    let file = ONE.replace("base_url: $(env:SERVER)", "base_url: $(env:SERVER)\n      api_key: THE_KEY");
    let sandbox = sandbox(&file, 60);
    let mut seen: Vec<u8> = Vec::new();
    for arguments in [
        &["run", "asking.yaml"][..],
        &["run", "asking.yaml", "--json"],
        &["run", "asking.yaml", "--set", "none=1"],
        &["plan", "asking.yaml", "--json"],
        &["explain", "asking.yaml", "answers"],
        &["show", "asking.yaml", "answers", "--json"],
        &["status", "--json"],
        &["log", "answers"],
    ] {
        let mut command = sandbox.command(arguments);
        let child = command.env("SERVER", server.address()).env("THE_KEY", CANARY);
        let child =
            child.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        seen.extend(fs::read(format!("/proc/{}/cmdline", child.id())).unwrap_or_default());
        let output = child.wait_with_output().unwrap();
        seen.extend(output.stdout);
        seen.extend(output.stderr);
    }
    let mut files = Vec::new();
    collect(&sandbox.path("."), &mut files);
    assert!(files.len() > 5, "{files:?}");
    for file in &files {
        seen.extend(fs::read(file).unwrap());
    }
    let text = String::from_utf8_lossy(&seen);
    assert!(text.contains("401") && text.contains("no such key"), "the server said it aloud");
    for form in [CANARY, "c2stQ0FOQVJZ", "sk%2DCANARY", "sk-CANARY7%2B%2Fw%3D", "%73%6B%2D%43"] {
        assert!(!text.contains(form), "the key is found as `{form}`");
    }
    let heads = server.ledger().heads();
    assert!(
        heads
            .iter()
            .all(|head| head.contains(&format!("Bearer {CANARY}"))
                || head.contains(&format!("bearer {CANARY}")))
    );
    let keys: BTreeSet<String> = server.ledger().all().into_keys().collect();
    assert_eq!(keys.len(), 60);
    let billed = server.calls();
    assert!((5..40).contains(&billed) && server.ledger().all().values().all(|entry| entry.billed <= 1));
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}
