//! Slurm, for real: a cluster of two nodes on this machine (`scripts/slurm_cluster.sh`), in namespaces of its own.
//!
//! One test starts the cluster and runs, inside it, this very binary with the tests below that are ignored elsewhere.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{run_on_slurm, slurm, start};
use crate::crash::Random;
use crate::mock::{Behaviour, Mock};
use crate::store;
use crate::support::{Ran, SMALL, Sandbox, experiments, kill};

const FILE: &str = "experiments/mistral-nemo.yaml";
/// What the coordinator says.
const LOG: &str = "coordinator.log";

#[test]
fn on_a_cluster_of_two_nodes() {
    run_on_slurm("slurm::inside::");
}

/// Run by the test above, within the cluster. Their names begin with `inside`, so that nothing else finds them.
mod inside {
    use super::*;

    fn dag(sandbox: &Sandbox, arguments: &[&str]) -> Ran {
        sandbox.dag_with(arguments, &[("SLURM_CONF", &slurm())])
    }

    fn tool(name: &str, arguments: &[&str]) -> String {
        let output = Command::new(name).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// The jobs that are not over, as `id state node`.
    fn jobs() -> Vec<String> {
        tool("squeue", &["--noheader", "--array", "--format=%i %T %N"]).lines().map(str::to_owned).collect()
    }

    /// The processes of workers, as `ps` shows them.
    fn workers() -> Vec<u32> {
        let listed = tool("ps", &["-eo", "pid,args"]);
        let is_worker = |line: &&str| line.contains("/programs/") && line.contains(" worker ");
        listed
            .lines()
            .filter(is_worker)
            .filter_map(|line| line.split_whitespace().next()?.parse().ok())
            .collect()
    }

    /// Brings a node back whose daemon was killed.
    fn start_daemon(node: &str) {
        tool("sh", &["-c", &format!("slurmd -D -N {node} >/dev/null 2>&1 &")]);
    }

    fn wait(what: &str, seconds: u64, condition: impl Fn() -> bool) {
        let began = Instant::now();
        while !condition() {
            assert!(began.elapsed() < Duration::from_secs(seconds), "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn nothing_is_left() {
        wait("no job is left", 60, || jobs().is_empty());
        wait("no worker is left", 60, || workers().is_empty());
    }

    #[test]
    #[ignore = "runs inside the cluster"]
    fn every_artifact_is_that_of_a_local_run() {
        let (local, cluster) = (experiments(), experiments());
        let arguments: Vec<&str> = ["run", FILE].into_iter().chain(SMALL).collect();
        local.dag(&arguments).expect(0);
        let arguments: Vec<&str> =
            ["run", FILE, "--profile", "slurm-local"].into_iter().chain(SMALL).collect();
        dag(&cluster, &arguments).expect(0);
        let [here, there] = [&local, &cluster].map(|sandbox| store::records(&sandbox.path(".dag")));
        assert!(here.len() >= 20 && here == there, "the records differ");
        nothing_is_left();
        // What is there is not run again, wherever it would run.
        let again = dag(&cluster, &arguments).expect(0);
        assert!(again.stderr.contains("0 ran"), "{}", again.stderr);
    }

    const STORM: &str = r"
name: storm
seed: 17
nodes:
  prompts:
    task: dataset
    with: { source: { generator: arithmetic, count: 2000, steps: [2, 6], modulus: 1000 } }
  asked:
    task: sample
    inputs: { prompts: prompts }
    with: { model: { backend: openai, name: a-teacher }, max_tokens: 64 }
    run: { base_url: $(address), concurrency: 2, shards: 64, executor: { slurm: { time: 1m, stop_ahead: 54s, grace: 2s } } }
";
    /// Requests that one worker has in flight.
    const CONCURRENCY: u64 = 2;
    /// Workers that one node of the cluster runs at a time.
    const A_NODE: u64 = 4;

    #[test]
    #[ignore = "runs inside the cluster"]
    fn a_storm_loses_nothing() {
        let rule = |asked: &str| format!("The answer is \\boxed{{{}}}.", asked.len());
        let server = Mock::start(Behaviour::of(rule).after(Duration::from_millis(500)));
        let quiet = Sandbox::new();
        let local =
            STORM.split(", shards:").next().unwrap().replace("concurrency: 2", "concurrency: 64") + " }\n";
        quiet.write("storm.yaml", &local.replace("$(address)", server.address()));
        dag(&quiet, &["run", "storm.yaml"]).expect(0);
        assert_eq!(server.calls(), 2000);

        let server = Mock::start(Behaviour::of(rule).after(Duration::from_millis(500)));
        let storm = Sandbox::new();
        storm.write("storm.yaml", &STORM.replace("$(address)", server.address()));
        let mut random = Random::new();
        let (mut allowed, mut struck) = (0, [0; 4]);
        let mut coordinator = start(&storm, &["run", "storm.yaml"], LOG);
        wait("workers run", 30, || !workers().is_empty());
        // Twelve blows, the gaps between them drawn: five at the coordinator, five at workers, and one of each other kind.
        for blow in 0..12 {
            std::thread::sleep(Duration::from_secs_f64(0.5 + 3.0 * random.share()));
            let chosen = |of: &[u32]| of.get((random_of(of.len(), blow)) as usize).copied();
            match blow {
                0 | 2 | 5 | 8 | 10 => {
                    kill(&coordinator, libc::SIGKILL);
                    coordinator.wait().unwrap();
                    coordinator = start(&storm, &["run", "storm.yaml"], LOG);
                    struck[0] += 1;
                }
                1 | 3 | 4 | 7 | 9 => {
                    if let Some(worker) = chosen(&workers()) {
                        tool("kill", &["-9", &worker.to_string()]);
                        allowed += CONCURRENCY;
                        struck[1] += 1;
                    }
                }
                6 => {
                    // The daemon of one node: its jobs run on, and are run again elsewhere.
                    let listed = tool("ps", &["-eo", "pid,args"]);
                    let line = listed.lines().find(|line| line.contains("slurmd -D -N n1")).unwrap();
                    let process = line.split_whitespace().next().unwrap().to_owned();
                    tool("kill", &["-9", &process]);
                    allowed += CONCURRENCY * A_NODE;
                    struck[2] += 1;
                }
                _ => {
                    if let Some(task) = jobs().iter().find(|job| job.contains("RUNNING")) {
                        tool("scancel", &[task.split(' ').next().unwrap()]);
                        struck[3] += 1;
                    }
                }
            }
            if coordinator.try_wait().unwrap().is_some() {
                break;
            }
        }
        assert_eq!(struck, [5, 5, 1, 1], "coordinators, workers, nodes and tasks that were struck");
        // Its node comes back.
        start_daemon("n1");
        wait("the run ends", 240, || {
            // Not waited for here: a coordinator that is gone is seen by its lease.
            tool("ps", &["-p", &coordinator.id().to_string(), "-o", "stat="]).trim().starts_with('Z')
        });
        let status = coordinator.wait().unwrap();
        assert!(status.success(), "{}", storm.read(LOG));
        nothing_is_left();

        let out_of_time =
            tool("grep", &["-rl", "its time was nearly up", storm.path(".dag/jobs").to_str().unwrap()]);
        let out_of_time = out_of_time.lines().filter(|path| path.contains("/exits/")).count();
        assert!(out_of_time > 0, "no worker came to its time limit");
        eprintln!("{out_of_time} workers stopped ahead of their time limit");
        let entries = server.ledger().all();
        let billed = server.calls();
        eprintln!("{billed} billed for 2000 records; {allowed} may have been in flight");
        assert_eq!(entries.len(), 2000);
        assert!(billed <= 2000 + allowed, "{billed} billed, {allowed} allowed beyond 2000");
        let [here, there] = [&quiet, &storm].map(|sandbox| digests(&sandbox.path(".dag")));
        assert_eq!(here, there);
        dag(&storm, &["verify"]).expect(0);
        let again = dag(&storm, &["run", "storm.yaml"]).expect(0);
        assert!(again.stderr.contains("0 ran") && server.calls() == billed, "{}", again.stderr);
    }

    /// A number below `length`, the same for every storm: which of the workers is struck does not matter, only when.
    fn random_of(length: usize, blow: u64) -> u64 {
        (blow * 7 + 3) % (length.max(1) as u64)
    }

    /// The digests of all outputs, by the action.
    fn digests(store: &Path) -> BTreeMap<String, Value> {
        let body = |record: &str| {
            let line = record.lines().rfind(|line| line.starts_with("{\"outputs\"")).unwrap();
            serde_json::from_str::<Value>(line).unwrap()["outputs"].clone()
        };
        store::records(store).iter().map(|(action, record)| (action.clone(), body(record))).collect()
    }

    const SPLIT: &str = r#"
name: split
nodes:
  made:
    task: command
    with:
      argv: [sh, -c, "if mkdir FIRST 2>/dev/null; then sleep 55; echo old > {outputs.out}; touch OVER; else sleep 1; echo new > {outputs.out}; fi"]
      outputs: [out]
    run: { executor: { slurm: { grace: 2s } } }
"#;

    #[test]
    #[ignore = "runs inside the cluster"]
    fn an_old_attempt_that_ends_after_the_new_one_changes_nothing() {
        let sandbox = Sandbox::new();
        let (first, over) = (sandbox.path("first"), sandbox.path("over"));
        let text = SPLIT.replace("FIRST", first.to_str().unwrap()).replace("OVER", over.to_str().unwrap());
        sandbox.write("split.yaml", &text);
        let mut coordinator = start(&sandbox, &["run", "split.yaml"], LOG);
        sandbox.wait_for("first");
        // The daemon of its node is lost; what it started lives on, and the job is run again on the other node.
        let node = jobs().first().and_then(|job| job.split(' ').nth(2).map(str::to_owned)).unwrap();
        let listed = tool("ps", &["-eo", "pid,args"]);
        let daemon = format!("slurmd -D -N {node}");
        let line = listed.lines().find(|line| line.contains(&daemon)).unwrap();
        tool("kill", &["-9", line.split_whitespace().next().unwrap()]);
        let status = coordinator.wait().unwrap();
        assert!(status.success(), "{}", sandbox.read(LOG));
        assert!(!over.exists(), "the old attempt was too quick to tell anything");
        let kept = dag(&sandbox, &["show", "split.yaml", "made"]).expect(0);
        assert!(kept.stdout.contains("new"), "{}", kept.stdout);
        let before = store::records(&sandbox.path(".dag"));
        wait("the old attempt has ended", 90, || workers().is_empty());
        assert_eq!(before, store::records(&sandbox.path(".dag")));
        dag(&sandbox, &["verify"]).expect(0);
        start_daemon(&node);
        nothing_is_left();
    }

    #[test]
    #[ignore = "runs inside the cluster"]
    fn what_is_stopped_is_taken_back_and_goes_on_later() {
        let sandbox = Sandbox::new();
        sandbox.write(
            "long.yaml",
            "name: long\nnodes:\n  made:\n    task: command\n    with: { argv: [sleep, '300'], outputs: [x] }\n    run: { executor: slurm }\n",
        );
        let mut coordinator = start(&sandbox, &["run", "long.yaml"], LOG);
        wait("the worker runs", 30, || !workers().is_empty());
        kill(&coordinator, libc::SIGINT);
        assert_eq!(coordinator.wait().unwrap().code(), Some(130), "{}", sandbox.read(LOG));
        nothing_is_left();
    }

    #[test]
    #[ignore = "runs inside the cluster"]
    fn what_slurm_refuses_is_said_in_its_words() {
        let sandbox = Sandbox::new();
        sandbox.write(
            "wrong.yaml",
            "name: wrong\nnodes:\n  made:\n    task: command\n    with: { argv: ['true'], outputs: [x] }\n    run: { executor: { slurm: { partition: gpuu } } }\n",
        );
        let ran = dag(&sandbox, &["run", "wrong.yaml"]).expect(1);
        assert!(ran.stderr.contains("invalid partition specified: gpuu"), "{}", ran.stderr);
    }
}
