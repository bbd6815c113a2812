//! Services: servers that a run starts, shares, restarts and ends; as processes of this machine, and as jobs of Slurm.
//!
//! The server is `tests/service.py`, whose log outlives every blow to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::cluster::{self, run_on_slurm};
use crate::support::{Ran, Sandbox, kill};

/// How many records each node asks for.
const RECORDS: usize = 150;
/// Requests that one node has in flight.
const CONCURRENCY: usize = 4;

/// A sandbox, and the Python that runs the server; `None`, said aloud, where there is none.
#[expect(clippy::print_stderr, reason = "a test that skips says so")]
fn sandbox() -> Option<(Sandbox, String)> {
    // The program itself: what stands for it on the search path may want more of the environment than a sandbox has.
    let asked = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
    let Some(python) = asked.ok().filter(|output| output.status.success()) else {
        eprintln!("skipped: no `python3`");
        return None;
    };
    Some((Sandbox::new(), String::from_utf8(python.stdout).unwrap().trim().to_owned()))
}

/// The line of a service's `argv`.
fn argv(sandbox: &Sandbox, python: &str, more: &str) -> String {
    let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/service.py");
    let log = sandbox.path("server.log");
    format!(
        "[{python}, {}, --host, '{{host}}', --port, '{{port}}', --log, {}{more}]",
        server.display(),
        log.display()
    )
}

/// An experiment of nodes that share one service.
fn experiment(service: &str, nodes: usize, run: &str) -> String {
    let mut text = format!(
        "name: services\nseed: 3\nservices:\n  answerer:\n    {service}\nnodes:\n  prompts:\n    task: dataset\n    with: {{ source: {{ \
         generator: arithmetic, count: {RECORDS}, steps: [2, 6], modulus: 1000 }} }}\n"
    );
    for node in 0..nodes {
        text += &format!(
            "  node-{node}:\n    task: sample\n    inputs: {{ prompts: prompts }}\n    with: {{ model: {{ backend: openai, name: a-model }}, \
             max_tokens: 64, seed: {node} }}\n    run: {{ service: answerer, concurrency: {CONCURRENCY}{run} }}\n"
        );
    }
    text
}

/// What the servers have logged, by its first word.
fn logged(sandbox: &Sandbox, word: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(sandbox.path("server.log")).unwrap_or_default();
    let lines = text.lines().map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>());
    lines.filter(|words| words[0] == word).collect()
}

fn started(sandbox: &Sandbox) -> Vec<i32> {
    logged(sandbox, "started").iter().map(|words| words[1].parse().unwrap()).collect()
}

fn is_alive(process: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// The supervisors of this sandbox.
fn supervisors(sandbox: &Sandbox) -> Vec<i32> {
    let root = sandbox.path(".dag").display().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.filter(|id| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains(&root) && line.contains("\0serve\0") && is_alive(*id)
    })
    .collect()
}

fn wait(what: &str, seconds: u64, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(seconds), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn nothing_is_left(sandbox: &Sandbox, seconds: u64) {
    wait("no server is left", seconds, || !started(sandbox).into_iter().any(is_alive));
    wait("no supervisor is left", seconds, || supervisors(sandbox).is_empty());
}

/// Every record was billed, and none twice but for `allowed` that were in flight at a blow.
#[expect(clippy::print_stderr, reason = "a number worth seeing")]
fn billed(sandbox: &Sandbox, records: usize, allowed: usize) {
    let keys: BTreeSet<String> =
        logged(sandbox, "billed").into_iter().map(|words| words[1].clone()).collect();
    let arrived = logged(sandbox, "arrived").len();
    eprintln!("{arrived} asked for {records} records; {allowed} may have been in flight");
    assert_eq!(keys.len(), records);
    assert!(arrived <= records + allowed, "{arrived} arrived of {records}, and {allowed} may again");
}

fn start(sandbox: &Sandbox, arguments: &[&str]) -> Child {
    let log = fs::File::options().create(true).append(true).open(sandbox.path("run.log")).unwrap();
    let again = log.try_clone().unwrap();
    sandbox.command(arguments).stdout(log).stderr(again).spawn().unwrap()
}

fn signal(process: i32, signal: i32) {
    // SAFETY: kill(2) takes two integers; the process is one of this test.
    assert_eq!(unsafe { libc::kill(process, signal) }, 0);
}

/// Kills a server while it has requests in flight; gives how many, at least, have to be sent again.
fn strike(sandbox: &Sandbox) -> usize {
    let server = *started(sandbox).last().unwrap();
    loop {
        signal(server, libc::SIGSTOP);
        let in_flight = logged(sandbox, "arrived").len() - logged(sandbox, "billed").len();
        if in_flight > 0 {
            signal(server, libc::SIGKILL);
            return in_flight;
        }
        signal(server, libc::SIGCONT);
        std::thread::sleep(Duration::from_millis(7));
    }
}

#[test]
fn nodes_share_the_replicas_of_a_service_which_end_with_the_last_of_them() {
    let Some((sandbox, python)) = sandbox() else { return };
    let service = format!(
        "argv: {}\n    replicas: 2\n    env: {{ TOKEN: $(env:A_TOKEN) }}",
        argv(&sandbox, &python, ", --delay, '0.01'")
    );
    sandbox.write("e.yaml", &experiment(&service, 2, ""));
    let environment = [("A_TOKEN", "s3cret-of-the-service")];
    let planned = sandbox.dag_with(&["plan", "e.yaml"], &environment).expect(0);
    assert!(
        planned.stdout.contains("service answerer ×2 on this machine, started for node-0, node-1"),
        "{}",
        planned.stdout
    );
    sandbox.dag_with(&["run", "e.yaml"], &environment).expect(0);
    assert_eq!(started(&sandbox).len(), 2);
    nothing_is_left(&sandbox, 0);
    billed(&sandbox, 2 * RECORDS, 0);
    let servers: BTreeSet<String> =
        logged(&sandbox, "billed").into_iter().map(|words| words[2].clone()).collect();
    assert_eq!(servers.len(), 2, "both are asked");
    // The secret reached the server, and no file.
    assert!(logged(&sandbox, "started").iter().all(|words| words[4] == "s3cret-of-the-service"));
    let found = Command::new("grep").args(["-rl", "s3cret"]).arg(sandbox.path(".dag")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    // What is there is asked of nobody, and nobody is started for it.
    sandbox.dag_with(&["run", "e.yaml"], &environment).expect(0);
    assert_eq!(started(&sandbox).len(), 2);
}

#[test]
fn a_server_that_is_killed_is_started_again_and_nothing_is_lost() {
    let Some((sandbox, python)) = sandbox() else { return };
    let service = format!("argv: {}", argv(&sandbox, &python, ", --delay, '0.05'"));
    sandbox.write("e.yaml", &experiment(&service, 2, ", request_retries: 0"));
    let mut run = start(&sandbox, &["run", "e.yaml"]);
    wait("it is at work", 30, || logged(&sandbox, "billed").len() >= 40);
    let in_flight = strike(&sandbox);
    let status = run.wait().unwrap();
    assert!(status.success(), "{}", sandbox.read("run.log"));
    assert_eq!(started(&sandbox).len(), 2);
    nothing_is_left(&sandbox, 0);
    billed(&sandbox, 2 * RECORDS, 2 * CONCURRENCY);
    assert!(logged(&sandbox, "arrived").len() >= 2 * RECORDS + in_flight, "the blow struck nothing");
}

#[test]
fn a_server_that_hangs_is_started_again_and_nothing_is_lost() {
    let Some((sandbox, python)) = sandbox() else { return };
    let service = format!("argv: {}\n    hang_after: 2s", argv(&sandbox, &python, ", --delay, '0.05'"));
    sandbox.write("e.yaml", &experiment(&service, 1, ", request_retries: 0"));
    let mut run = start(&sandbox, &["run", "e.yaml"]);
    wait("it is at work", 30, || logged(&sandbox, "billed").len() >= 20);
    // It is there and does nothing.
    signal(started(&sandbox)[0], libc::SIGSTOP);
    let status = run.wait().unwrap();
    assert!(status.success(), "{}", sandbox.read("run.log"));
    assert_eq!(started(&sandbox).len(), 2);
    nothing_is_left(&sandbox, 0);
    billed(&sandbox, RECORDS, CONCURRENCY);
}

#[test]
fn a_supervisor_that_is_killed_takes_its_server_with_it_and_is_replaced() {
    let Some((sandbox, python)) = sandbox() else { return };
    let service = format!("argv: {}", argv(&sandbox, &python, ", --delay, '0.05'"));
    sandbox.write("e.yaml", &experiment(&service, 1, ""));
    let mut run = start(&sandbox, &["run", "e.yaml"]);
    wait("it is at work", 30, || logged(&sandbox, "billed").len() >= 20);
    signal(supervisors(&sandbox)[0], libc::SIGKILL);
    let status = run.wait().unwrap();
    assert!(status.success(), "{}", sandbox.read("run.log"));
    assert!(sandbox.read("run.log").contains("it is started again"), "{}", sandbox.read("run.log"));
    assert_eq!(started(&sandbox).len(), 2);
    nothing_is_left(&sandbox, 0);
    billed(&sandbox, RECORDS, CONCURRENCY);
}

#[test]
fn a_coordinator_that_is_killed_leaves_nothing_for_longer_than_the_lease_and_another_adopts_what_lives() {
    let Some((sandbox, python)) = sandbox() else { return };
    let service = format!("argv: {}\n    lease: 3s", argv(&sandbox, &python, ", --delay, '0.05'"));
    sandbox.write("e.yaml", &experiment(&service, 1, ""));
    let mut run = start(&sandbox, &["run", "e.yaml"]);
    wait("it is at work", 30, || logged(&sandbox, "billed").len() >= 20);
    kill(&run, libc::SIGKILL);
    run.wait().unwrap();
    let mut run = start(&sandbox, &["run", "e.yaml"]);
    let before = logged(&sandbox, "billed").len();
    wait("the next goes on", 30, || logged(&sandbox, "billed").len() >= before + 20);
    assert_eq!(started(&sandbox).len(), 1, "the living one is adopted");
    kill(&run, libc::SIGKILL);
    run.wait().unwrap();
    nothing_is_left(&sandbox, 20);
    sandbox.dag(&["run", "e.yaml"]).expect(0);
    assert_eq!(started(&sandbox).len(), 2);
    nothing_is_left(&sandbox, 0);
    billed(&sandbox, RECORDS, 2 * CONCURRENCY);
}

#[test]
fn ctrl_c_finishes_what_is_in_flight_and_ends_the_service() {
    let Some((sandbox, python)) = sandbox() else { return };
    let service = format!("argv: {}", argv(&sandbox, &python, ", --delay, '0.1'"));
    sandbox.write("e.yaml", &experiment(&service, 1, ""));
    let mut run = start(&sandbox, &["run", "e.yaml"]);
    wait("it is at work", 30, || logged(&sandbox, "billed").len() >= 10);
    kill(&run, libc::SIGINT);
    assert_eq!(run.wait().unwrap().code(), Some(130), "{}", sandbox.read("run.log"));
    nothing_is_left(&sandbox, 0);
    sandbox.dag(&["run", "e.yaml"]).expect(0);
    billed(&sandbox, RECORDS, 0);
}

#[test]
fn a_service_that_cannot_be_kept_up_is_a_failure_with_its_last_words_and_the_next_step() {
    let Some((sandbox, python)) = sandbox() else { return };
    let failed = |service: &str| -> Ran {
        sandbox.write("e.yaml", &experiment(service, 1, ""));
        let ran = sandbox.dag(&["run", "e.yaml"]).expect(1);
        nothing_is_left(&sandbox, 0);
        ran
    };
    let silent = format!(
        "argv: [{python}, -u, -c, 'import time; print(\"weights: 3 of 7\"); time.sleep(600)', '{{port}}']\n    start_within: 1s"
    );
    let ran = failed(&silent);
    for words in
        ["the service `answerer`", "did not answer at http://127.0.0.1:", "weights: 3 of 7", "`start_within`"]
    {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    let broken = format!("argv: [{python}, -c, 'raise SystemExit(\"no such model\")', '{{port}}']");
    let ran = failed(&broken);
    for words in ["ended by itself (exit status: 1), 3 times before it answered", "no such model"] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let ran = failed(&format!("argv: {}\n    port: {port}", argv(&sandbox, &python, "")));
    let words = format!("port {port} of 127.0.0.1 is taken");
    assert!(ran.stderr.contains(&words) && ran.stderr.contains("leave `port` out"), "{}", ran.stderr);
    assert!(started(&sandbox).is_empty());
    let missing = "argv: [no-such-server, '{port}']";
    let ran = {
        sandbox.write("e.yaml", &experiment(missing, 1, ""));
        sandbox.dag(&["run", "e.yaml"]).expect(2)
    };
    assert!(ran.stderr.contains("`no-such-server`, the program of the service `answerer`"), "{}", ran.stderr);
}

#[test]
fn each_model_has_a_service_of_its_own_and_nodes_of_one_model_share_it() {
    let Some((sandbox, python)) = sandbox() else { return };
    let text = format!(
        "name: checkpoints\nseed: 3\nservices:\n  of-model:\n    argv: {}\naxes:\n  size: {{ small: {{ hidden: 16 }}, large: {{ hidden: 32 }} }}\n  \
         benchmark: [1, 2]\nnodes:\n  problems:\n    task: dataset\n    over: benchmark\n    with: {{ source: {{ generator: arithmetic, count: \
         20, steps: [2, 3], modulus: 10, seed: $(benchmark) }} }}\n  base:\n    task: model\n    over: size\n    with:\n      architecture: {{ \
         hidden: $(size.hidden), layers: 1, head_dim: 8, max_positions: 256 }}\n      tokenizer: {{ kind: characters }}\n  evaluated:\n    task: \
         evaluate\n    over: [size, benchmark]\n    inputs: {{ problems: problems, model: base }}\n    with: {{ model: {{ backend: served }}, \
         repeats: 2, max_tokens: 32 }}\n    run: {{ service: of-model }}\n",
        argv(&sandbox, &python, ", --model, '{model}'")
    );
    sandbox.write("e.yaml", &text);
    sandbox.dag(&["run", "e.yaml"]).expect(0);
    assert_eq!(started(&sandbox).len(), 2, "one for each model");
    assert!(logged(&sandbox, "started").iter().all(|words| words[3] == "True"), "the weights are there");
    billed(&sandbox, 2 * 2 * 20 * 2, 0);
    nothing_is_left(&sandbox, 0);
    let left = fs::read_dir(sandbox.path(".dag/services")).unwrap().flatten();
    assert!(left.into_iter().all(|entry| !entry.path().join("model").exists()), "models are put away");
    // Another server for the same models changes no key.
    sandbox.write(
        "e.yaml",
        &text.replace("replicas: 1", "").replace(
            "services:\n  of-model:",
            "services:\n  other: { argv: [x, '{port}'] }\n  of-model:\n    replicas: 2",
        ),
    );
    let again = sandbox.dag(&["run", "e.yaml"]).expect(0);
    assert!(again.stderr.contains("0 ran"), "{}", again.stderr);
    // What is only read another way is asked of nobody, so no server begins.
    sandbox.write("e.yaml", &text.replace("max_tokens: 32 }", "max_tokens: 32, benchmark: again }"));
    let plan = sandbox.dag(&["plan", "e.yaml"]).expect(0);
    assert!(plan.stdout.contains("4 to run") && !plan.stdout.contains("service of-model"), "{}", plan.stdout);
    let read = sandbox.dag(&["run", "e.yaml"]).expect(0);
    assert!(
        read.stderr.contains("4 ran") && read.stderr.contains("0 records made, 160 reused"),
        "{}",
        read.stderr
    );
    assert_eq!(started(&sandbox).len(), 2, "nothing was begun");
}

#[test]
fn two_runs_share_a_service_and_the_last_of_them_ends_it() {
    let Some((sandbox, python)) = sandbox() else { return };
    let service = format!("argv: {}", argv(&sandbox, &python, ", --delay, '0.05'"));
    sandbox.write("short.yaml", &experiment(&service, 1, ""));
    // Other records of the same service.
    let long = experiment(&service, 4, "")
        .replace("name: services", "name: others")
        .replace("max_tokens: 64", "max_tokens: 65");
    sandbox.write("long.yaml", &long.replace("concurrency: 4", "concurrency: 2"));
    let (mut short, mut long) =
        (start(&sandbox, &["run", "short.yaml"]), start(&sandbox, &["run", "long.yaml"]));
    assert!(short.wait().unwrap().success(), "{}", sandbox.read("run.log"));
    assert!(long.try_wait().unwrap().is_none(), "the long run was too short to tell anything");
    assert!(long.wait().unwrap().success(), "{}", sandbox.read("run.log"));
    assert_eq!(started(&sandbox).len(), 1);
    nothing_is_left(&sandbox, 0);
    billed(&sandbox, 5 * RECORDS, 0);
}

#[test]
fn gpus_go_from_a_service_that_nobody_uses_to_one_that_is_waited_for() {
    let Some((sandbox, python)) = sandbox() else { return };
    let argv = argv(&sandbox, &python, "");
    let node = |name: &str, service: &str, prompts: &str| {
        format!(
            "  {name}:\n    task: sample\n    inputs: {{ prompts: {prompts} }}\n    with: {{ model: {{ backend: openai, name: a-model }}, \
             messages: [{{ role: user, content: '{name} {{{{ problem }}}}' }}] }}\n    run: {{ service: {service} }}\n"
        )
    };
    let text = format!(
        "name: gpus\nseed: 3\nservices:\n  one: {{ argv: {argv}, run: {{ gpus: 1 }} }}\n  two: {{ argv: {argv}, run: {{ gpus: 2 }} }}\nnodes:\n  \
         prompts:\n    task: dataset\n    with: {{ source: {{ generator: arithmetic, count: 5, steps: [2, 6], modulus: 1000 }} }}\n{}{}{}",
        node("first", "one", "prompts"),
        node("second", "two", "first"),
        node("third", "one", "second"),
    );
    sandbox.write("e.yaml", &text);
    let ran = sandbox.dag_with(&["run", "e.yaml"], &[("CUDA_VISIBLE_DEVICES", "5,7")]).expect(0);
    let gpus: Vec<String> = logged(&sandbox, "started").into_iter().map(|words| words[5].clone()).collect();
    assert_eq!(gpus, ["5", "5,7", "5"], "{}", ran.stderr);
    nothing_is_left(&sandbox, 0);
    let too_few =
        sandbox.dag_with(&["run", "e.yaml", "--rerun", "second"], &[("CUDA_VISIBLE_DEVICES", "5")]).expect(2);
    assert!(too_few.stderr.contains("2 of `gpus` for the service `two`"), "{}", too_few.stderr);
}

#[test]
fn both_judges_may_ask_services() {
    let sandbox = Sandbox::new();
    let text = "name: judges\nservices:\n  small: { argv: [cat, '{port}'] }\n  large: { argv: [cat, '{port}'] }\nnodes:\n  prompts:\n    task: dataset\n    \
                with: { source: { generator: arithmetic, count: 5, steps: [2, 6], modulus: 1000 } }\n  asked:\n    task: sample\n    inputs: { prompts: \
                prompts }\n    with: { model: { backend: scripted, teacher: terse } }\n  judged:\n    task: judge\n    inputs: { responses: asked, \
                references: prompts }\n    with: { by: model, model: { backend: openai, name: a }, without_verdict: { escalate: { model: { backend: \
                openai, name: b } } } }\n    run: { service: small, second: { service: large } }\n";
    sandbox.write("e.yaml", text);
    let planned = sandbox.dag(&["plan", "e.yaml", "--json"]).expect(0).json();
    let services: Vec<&str> =
        planned["services"].as_array().unwrap().iter().map(|one| one["service"].as_str().unwrap()).collect();
    assert_eq!(services, ["small", "large"]);
    assert_eq!(planned["missing"], serde_json::json!([]));
    sandbox.write("e.yaml", &text.replace("service: large", "service: lage"));
    let wrong = sandbox.dag(&["check", "e.yaml"]).expect(2);
    assert!(wrong.stderr.contains("did you mean `large`?"), "{}", wrong.stderr);
}

#[test]
fn what_is_wrong_with_services_is_said_where_it_stands() {
    let sandbox = Sandbox::new();
    let check = |services: &str, run: &str| {
        let text = format!(
            "name: e\nservices:\n{services}\nnodes:\n  prompts:\n    task: dataset\n    with: {{ source: {{ generator: arithmetic, count: 2, steps: \
             [2, 3], modulus: 10 }} }}\n  asked:\n    task: sample\n    inputs: {{ prompts: prompts }}\n    with: {{ model: {{ backend: openai, \
             name: m }} }}\n    run: {run}\n"
        );
        sandbox.write("e.yaml", &text);
        sandbox.dag(&["check", "e.yaml"])
    };
    let good = "  judge-server: { argv: [vllm, serve, m, --port, '{port}'] }";
    check(good, "{ service: judge-server }").expect(0);
    let cases = [
        (good, "{ service: judge-sever }", "did you mean `judge-server`?"),
        (
            good,
            "{ service: judge-server, base_url: 'http://localhost:1/v1' }",
            "`service` and `base_url` exclude each other",
        ),
        (
            good,
            "{ service: { name: judge-server, folder: /tmp, replicas: 1, start_within: 1 } }",
            "`service` is the name of a service",
        ),
        ("  s: { argv: [x] }", "{ service: s }", "nothing tells `s` at which port to listen"),
        ("  s: { argv: [x, '{port}'], replica: 2 }", "{ service: s }", "did you mean `replicas`?"),
        ("  s: { argv: [x, '{port}', '{model}'] }", "{ service: s }", "none enters this one"),
        (
            "  s: { argv: [x, '{port}'], run: { executor: ray } }",
            "{ service: s }",
            "services run on `local` or `slurm`",
        ),
        ("  s: { argv: [x, '{port}'], run: { retries: 2 } }", "{ service: s }", "has no field `retries`"),
        ("  s: { argv: [x, '{port}', $(env:HOME)] }", "{ service: s }", "hand it on as a variable"),
        ("  s: { argv: [x, '{port}'], replicas: 0 }", "{ service: s }", "`replicas` is one or more"),
    ];
    for (services, run, words) in cases {
        let ran = check(services, run).expect(2);
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
}

#[test]
fn on_a_cluster_of_two_nodes() {
    run_on_slurm("services::inside::");
}

/// Run by the test above, within the cluster.
mod inside {
    use super::*;

    /// The jobs that are not over, by id, with their names.
    fn jobs() -> BTreeMap<String, String> {
        let output =
            Command::new("squeue").args(["--noheader", "--array", "--format=%i %j"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(id, name)| (id.to_owned(), name.to_owned()))
            .collect()
    }

    #[test]
    #[ignore = "runs inside the cluster"]
    fn a_service_as_a_job_is_shared_killed_taken_back_and_ended() {
        let Some((sandbox, python)) = sandbox() else { return };
        // Its machines are one machine, whose name leads nowhere in here.
        let service = format!(
            "argv: {}\n    host: 127.0.0.1\n    lease: 10s\n    run: {{ cpus: 1, gpus: 1, executor: {{ slurm: {{ time: 10m, grace: 1s }} }} }}",
            argv(&sandbox, &python, ", --delay, '0.2'")
        );
        sandbox.write("e.yaml", &experiment(&service, 3, ", executor: { slurm: { time: 10m, grace: 2s } }"));
        let mut run = cluster::start(&sandbox, &["run", "e.yaml"], "run.log");
        wait("it is at work", 90, || logged(&sandbox, "billed").len() >= 30);
        let in_flight = strike(&sandbox);
        wait("it is started again", 60, || started(&sandbox).len() == 2);
        let before = logged(&sandbox, "billed").len();
        wait("it is at work again", 60, || logged(&sandbox, "billed").len() >= before + 30);
        let of_service: Vec<String> = jobs()
            .into_iter()
            .filter(|(_, name)| name.starts_with("dag-service-"))
            .map(|(id, _)| id)
            .collect();
        assert_eq!(of_service.len(), 1);
        assert!(Command::new("scancel").args(&of_service).status().unwrap().success());
        let status = run.wait().unwrap();
        assert!(status.success(), "{}", sandbox.read("run.log"));
        assert_eq!(started(&sandbox).len(), 3);
        billed(&sandbox, 3 * RECORDS, 2 * 3 * CONCURRENCY);
        assert!(logged(&sandbox, "arrived").len() >= 3 * RECORDS + in_flight, "the blow struck nothing");
        assert_eq!(jobs(), BTreeMap::new());
        nothing_is_left(&sandbox, 0);
    }

    #[test]
    #[ignore = "runs inside the cluster"]
    fn a_coordinator_that_is_killed_leaves_no_job_for_longer_than_the_lease() {
        let Some((sandbox, python)) = sandbox() else { return };
        let service = format!(
            "argv: {}\n    host: 127.0.0.1\n    lease: 3s\n    run: {{ executor: {{ slurm: {{ time: 10m, grace: 1s }} }} }}",
            argv(&sandbox, &python, ", --delay, '0.1'")
        );
        sandbox.write("e.yaml", &experiment(&service, 1, ""));
        let mut run = cluster::start(&sandbox, &["run", "e.yaml"], "run.log");
        wait("it is at work", 90, || logged(&sandbox, "billed").len() >= 20);
        kill(&run, libc::SIGKILL);
        run.wait().unwrap();
        wait("no job is left", 60, || jobs().is_empty());
        nothing_is_left(&sandbox, 10);
        let mut run = cluster::start(&sandbox, &["run", "e.yaml"], "run.log");
        assert!(run.wait().unwrap().success(), "{}", sandbox.read("run.log"));
        assert_eq!(started(&sandbox).len(), 2);
        billed(&sandbox, RECORDS, CONCURRENCY);
        assert_eq!(jobs(), BTreeMap::new());
    }
}
