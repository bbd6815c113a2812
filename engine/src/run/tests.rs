//! What runs do, told by their events: what starts, what is reused, what is skipped, what goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::event::{End, Event, Stamped};
use crate::graph::RunOptions;
use crate::plan::{Decision, InputChange, Reason};
use crate::remote::NoResolver;
use crate::service::{Host, Service, ServiceNews, ServiceSite, ServiceUse};
use crate::state::RunState;
use crate::task::Resources;
use crate::testing::{Recorder, ToyEnvironment, ToyGraph, clock};

struct Sandbox {
    dir: TempDir,
    keep_going: bool,
    rerun: Vec<&'static str>,
    interrupt: Interrupt,
    host: Option<Arc<dyn Host>>,
}

/// Says at once that a service is up, and counts how many were begun.
#[derive(Default)]
struct Counting(AtomicU32);

impl Host for Counting {
    fn keep(&self, _: &Service, site: &ServiceSite) -> Result<(), String> {
        self.0.fetch_add(1, Ordering::Relaxed);
        (site.tell)(ServiceNews::Up(1));
        while !site.stop.is_cancelled() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Sandbox {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, keep_going: true, rerun: Vec::new(), interrupt: Interrupt::default(), host: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.path("store")
    }

    fn writer(&self) -> Arc<Writer> {
        Arc::new(Writer::open(&self.store()).unwrap())
    }

    fn try_run(&self, graph: &Graph, reporter: &mut dyn Reporter) -> Result<Outcome, RunError> {
        let selection = Selection {
            targets: Vec::new(),
            rerun: self.rerun.iter().map(|name| graph.find(name).unwrap()).collect(),
        };
        let capacity = Capacity { cpus: 2, gpus: vec![], memory: None, limits: BTreeMap::new() };
        let environment = ToyEnvironment { root: self.dir.path().to_owned(), ..ToyEnvironment::default() };
        let run = Run {
            graph,
            writer: self.writer(),
            settings: Settings {
                selection,
                keep_going: self.keep_going,
                capacity,
                file: "toys.yaml".into(),
                backoff: Duration::from_millis(1),
                budget: None,
                pilot: None,
            },
            world: World {
                clock: clock(),
                environment: Arc::new(environment),
                resolver: Arc::new(NoResolver),
                executors: BTreeMap::new(),
                host: self.host.clone(),
            },
            interrupt: self.interrupt.clone(),
        };
        run.execute(reporter)
    }

    fn run(&self, graph: &Graph) -> (Outcome, Recorder) {
        let mut recorder = Recorder::default();
        let outcome = self.try_run(graph, &mut recorder).unwrap();
        (outcome, recorder)
    }

    /// The bytes of a node's artifact, as the store has them.
    fn text(&self, recorder: &Recorder, node: &str) -> String {
        let finished = recorder.events.iter().rev().find_map(|stamped| match &stamped.event {
            Event::NodeFinished { node: name, outputs, .. } if name == node => outputs.get("text"),
            _ => None,
        });
        let bytes = self.writer().view().read_blob(finished.expect("it ended with an output")).unwrap();
        String::from_utf8(bytes).unwrap()
    }
}

#[test]
fn a_service_begins_only_for_a_node_that_asks_it_something() {
    let service = Service {
        name: "answerer".into(),
        argv: vec!["/bin/sh".into(), "{port}".into()],
        replicas: 1,
        health: "/health".into(),
        start_within: 1.0,
        hang_after: 0.0,
        lease: 1.0,
        host: None,
        port: None,
        env: BTreeMap::new(),
        secrets: BTreeSet::new(),
        resources: Resources::default(),
        executor: None,
    };
    let used = ServiceUse { pointer: "/service".into(), name: "answerer".into(), model: None };
    for (stored, text, begun, starts) in [(true, "stored", 0, 1), (false, "answered", 1, 2)] {
        let host = Arc::new(Counting::default());
        let sandbox = Sandbox { host: Some(host.clone()), ..Sandbox::new() };
        let asked = RunOptions {
            task: json!({ "service": "answerer" }),
            services: vec![used.clone()],
            ..RunOptions::default()
        };
        let mut graph =
            ToyGraph::new().node("ask", "ask", json!({ "stored": stored }), &[]).run(asked).build();
        graph.services = [("answerer".into(), Arc::new(service.clone()))].into();
        let (outcome, recorder) = sandbox.run(&graph);
        assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
        assert_eq!(sandbox.text(&recorder, "ask"), text);
        assert_eq!(host.0.load(Ordering::Relaxed), begun);
        assert_eq!(recorder.started().len(), starts, "it runs again once the service is there");
    }
}

fn end(recorder: &Recorder, node: &str) -> (End, Option<String>) {
    let found = recorder.events.iter().rev().find_map(|stamped| match &stamped.event {
        Event::NodeFinished { node: name, end, error, .. } if name == node => Some((*end, error.clone())),
        _ => None,
    });
    found.expect("the node ended")
}

fn reasons(recorder: &Recorder, node: &str) -> String {
    let found = recorder.events.iter().find_map(|stamped| match &stamped.event {
        Event::NodeStarted { node: name, reasons, .. } if name == node => Some(reasons),
        _ => None,
    });
    found.expect("the node started").iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Two texts, one of them cut, put together, and a third text by itself.
fn graph(a: &str, b: &str) -> ToyGraph {
    ToyGraph::new()
        .node("a", "echo", json!({ "text": a }), &[])
        .node("b", "echo", json!({ "text": b }), &[])
        .node("cut", "head", json!({ "take": 2 }), &[("text", "a")])
        .node("all", "concat", json!({}), &[("parts", "cut"), ("parts", "b")])
        .node("alone", "echo", json!({ "text": "alone" }), &[])
}

#[test]
fn a_second_run_starts_nothing_and_replaying_a_journal_gives_the_same_state() {
    let sandbox = Sandbox::new();
    let graph = graph("one", "two").build();
    let (first, recorder) = sandbox.run(&graph);
    assert_eq!((first.result, first.ends.ran), (RunResult::Done, 5));
    assert_eq!(sandbox.text(&recorder, "all"), "ontwo");
    let (second, again) = sandbox.run(&graph);
    assert_eq!((second.result, second.ends.hit), (RunResult::Done, 5));
    assert_eq!(again.started(), Vec::<&str>::new());
    assert_eq!(again.events.len(), 2, "a run that finds everything done says little");
    let layout = sandbox.writer().view().layout().clone();
    for (outcome, recorder) in [(first, recorder), (second, again)] {
        let live = RunState::of(&recorder.events);
        assert_eq!(live.ends, outcome.ends);
        assert_eq!(RunState::of(&journal::read(&layout.journal(&outcome.run)).unwrap()), live);
        assert!(!journal::is_live(&layout, &outcome.run));
        assert!(!layout.work(&outcome.run).exists());
        assert!(layout.actions(&outcome.run).exists());
    }
}

#[test]
fn an_edit_runs_only_what_depends_on_it_and_says_why() {
    let sandbox = Sandbox::new();
    sandbox.run(&graph("one", "two").build());
    let (outcome, recorder) = sandbox.run(&graph("one", "three").build());
    assert_eq!(recorder.started(), ["b", "all"]);
    assert_eq!((outcome.ends.hit, outcome.ends.ran), (3, 2));
    assert_eq!(reasons(&recorder, "b"), "param `text` \"two\" → \"three\"");
    assert_eq!(
        reasons(&recorder, "all"),
        "input `parts` changed because b: param `text` \"two\" → \"three\""
    );
    let (back, recorder) = sandbox.run(&graph("one", "two").build());
    assert_eq!((back.ends.hit, recorder.started().len()), (5, 0), "what was computed before is still there");
}

#[test]
fn equal_bytes_leave_what_is_below_as_it_was() {
    let sandbox = Sandbox::new();
    sandbox.run(&graph("one", "two").build());
    let (outcome, recorder) = sandbox.run(&graph("on", "two").build());
    assert_eq!(recorder.started(), ["a", "cut"]);
    assert_eq!((outcome.ends.hit, outcome.ends.ran), (3, 2));
    assert_eq!(end(&recorder, "all").0, End::Hit);
}

#[test]
fn a_failure_skips_its_descendants_and_nothing_else() {
    for (toy, error) in
        [("fail", "it was told to fail"), ("panic", "the task panicked: it was told to panic")]
    {
        let sandbox = Sandbox::new();
        let graph = ToyGraph::new()
            .node("bad", toy, json!({}), &[])
            .node("below", "head", json!({ "take": 1 }), &[("text", "bad")])
            .node("beside", "echo", json!({ "text": "fine" }), &[])
            .build();
        let (outcome, recorder) = sandbox.run(&graph);
        assert_eq!(outcome.result, RunResult::Failed);
        assert_eq!(outcome.failures, [("bad".to_owned(), error.to_owned())]);
        assert_eq!(end(&recorder, "below").0, End::Skipped);
        assert_eq!(end(&recorder, "beside").0, End::Ran);
    }
}

#[test]
fn a_transient_failure_is_tried_again_as_often_as_allowed() {
    let options = |retries, failures| RunOptions {
        retries,
        task: json!({ "failures": failures }),
        ..RunOptions::default()
    };
    for (retries, expected) in [(2, End::Ran), (1, End::Failed)] {
        let sandbox = Sandbox::new();
        let graph =
            ToyGraph::new().node("f", "flaky", json!({ "text": "x" }), &[]).run(options(retries, 2)).build();
        let (_, recorder) = sandbox.run(&graph);
        assert_eq!(end(&recorder, "f").0, expected);
        let retried = recorder.events.iter().filter(|event| matches!(event.event, Event::NodeRetried { .. }));
        assert_eq!(retried.count(), retries as usize);
    }
}

#[test]
fn an_attempt_that_takes_too_long_is_stopped() {
    let sandbox = Sandbox::new();
    let options = RunOptions { timeout: Some(0.01), ..RunOptions::default() };
    let graph = ToyGraph::new().node("s", "slow", json!({}), &[]).run(options).build();
    let (_, recorder) = sandbox.run(&graph);
    assert_eq!(end(&recorder, "s"), (End::Failed, Some("timed out after 0.01 s".to_owned())));
}

/// Stops the run as soon as a node has started.
struct StopAtStart(Interrupt, Recorder);

impl Reporter for StopAtStart {
    fn report(&mut self, event: &Stamped) {
        self.1.report(event);
        if matches!(event.event, Event::NodeStarted { .. }) {
            self.0.stop.cancel();
        }
    }
}

#[test]
fn a_stopped_run_goes_on_from_its_checkpoint() {
    let mut sandbox = Sandbox::new();
    let graph = ToyGraph::new()
        .node("s", "slow", json!({ "text": "done" }), &[])
        .node("below", "head", json!({ "take": 4 }), &[("text", "s")])
        .log(&sandbox.path("log"))
        .build();
    let mut stopper = StopAtStart(sandbox.interrupt.clone(), Recorder::default());
    let outcome = sandbox.try_run(&graph, &mut stopper).unwrap();
    assert_eq!((outcome.result, outcome.ends.cancelled), (RunResult::Cancelled, 2));
    sandbox.interrupt = Interrupt::default();
    let (outcome, _) = sandbox.run(&graph);
    assert_eq!((outcome.result, outcome.ends.ran), (RunResult::Done, 2));
    assert_eq!(fs::read_to_string(sandbox.path("log")).unwrap(), "slow began\nslow resumed\nhead\n");
    let scratch = sandbox.store().join("scratch");
    assert_eq!(fs::read_dir(scratch).unwrap().count(), 0);
}

#[test]
fn what_a_dead_run_left_lying_is_removed() {
    let sandbox = Sandbox::new();
    let layout = sandbox.writer().view().layout().clone();
    let (dead, journal) = Journal::create(&layout, 0).unwrap();
    drop(journal);
    let (live, _journal) = Journal::create(&layout, 0).unwrap();
    for run in [&dead, &live] {
        fs::create_dir_all(layout.work(run).join("0/inputs")).unwrap();
    }
    sandbox.run(&graph("one", "two").build());
    assert!(!layout.work(&dead).exists());
    assert!(layout.work(&live).exists());
}

#[test]
fn two_runs_on_one_store_compute_nothing_twice() {
    let sandbox = Sandbox::new();
    let log = sandbox.path("log");
    let build = || {
        let mut graph = ToyGraph::new();
        for number in 0..20 {
            graph = graph.node(&format!("e{number}"), "echo", json!({ "text": number.to_string() }), &[]);
        }
        let parts: Vec<String> = (0..20).map(|number| format!("e{number}")).collect();
        let parts: Vec<(&str, &str)> = parts.iter().map(|part| ("parts", part.as_str())).collect();
        graph.node("all", "concat", json!({}), &parts).log(&log).build()
    };
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..3).map(|_| scope.spawn(|| sandbox.run(&build()).0)).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert!(outcomes.iter().all(|outcome| outcome.result == RunResult::Done));
    assert_eq!(outcomes.iter().map(|outcome| outcome.ends.ran).sum::<u64>(), 21);
    assert_eq!(fs::read_to_string(log).unwrap().lines().count(), 21);
}

#[test]
fn lost_bytes_are_made_again_only_when_something_reads_them() {
    let sandbox = Sandbox::new();
    let (_, recorder) = sandbox.run(&graph("one", "two").build());
    let blob = |node: &str| {
        let event = recorder.events.iter().find_map(|stamped| match &stamped.event {
            Event::NodeFinished { node: name, outputs, .. } if name == node => outputs.get("text"),
            _ => None,
        });
        sandbox.writer().view().blob_path(event.unwrap())
    };
    for node in ["a", "cut", "b"] {
        fs::remove_file(blob(node)).unwrap();
    }
    let (outcome, _) = sandbox.run(&graph("one", "two").build());
    assert_eq!(outcome.ends.hit, 5, "nothing reads the lost bytes");
    let longer = || {
        graph("one", "two").node("more", "concat", json!({}), &[("parts", "cut"), ("parts", "alone")]).build()
    };
    let (outcome, recorder) = sandbox.run(&longer());
    assert_eq!(recorder.started(), ["a", "cut", "more"]);
    assert_eq!(reasons(&recorder, "cut"), "output `text` lost");
    assert_eq!((outcome.result, outcome.ends.hit, outcome.ends.ran), (RunResult::Done, 3, 3));
}

#[test]
fn a_corrupt_input_is_made_again_in_the_same_run() {
    let sandbox = Sandbox::new();
    let (_, recorder) = sandbox.run(&graph("one", "two").build());
    let Some(Event::NodeFinished { outputs, .. }) = recorder
        .events
        .iter()
        .map(|stamped| &stamped.event)
        .find(|event| matches!(event, Event::NodeFinished { node, .. } if node == "alone"))
    else {
        panic!("it ended")
    };
    let path = sandbox.writer().view().blob_path(&outputs["text"]);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "alonf").unwrap();
    let more = graph("one", "two").node("more", "head", json!({ "take": 9 }), &[("text", "alone")]).build();
    let (outcome, recorder) = sandbox.run(&more);
    assert_eq!((outcome.result, outcome.ends.hit, outcome.ends.ran), (RunResult::Done, 4, 2));
    assert_eq!(sandbox.text(&recorder, "more"), "alone");
    assert_eq!(RunState::of(&recorder.events).ends, outcome.ends);
}

#[test]
fn a_partial_result_is_owed_and_a_forced_node_runs() {
    let mut sandbox = Sandbox::new();
    let graph = ToyGraph::new().node("p", "echo", json!({ "text": "x", "owed": 3 }), &[]).build();
    sandbox.run(&graph);
    let (_, recorder) = sandbox.run(&graph);
    assert_eq!(reasons(&recorder, "p"), "owed 3 records");
    let graph = self::graph("one", "two").build();
    sandbox.run(&graph);
    sandbox.rerun = vec!["a"];
    let (outcome, recorder) = sandbox.run(&graph);
    assert_eq!((reasons(&recorder, "a").as_str(), outcome.ends.ran, outcome.ends.hit), ("forced", 1, 4));
}

#[test]
fn the_content_of_a_local_file_is_in_the_key_and_its_path_is_not() {
    let sandbox = Sandbox::new();
    let graph = |path: &Path| {
        ToyGraph::new().node("f", "echo", json!({ "file": path.to_string_lossy() }), &[]).build()
    };
    let (one, other) = (sandbox.path("one"), sandbox.path("other"));
    fs::write(&one, "1").unwrap();
    fs::write(&other, "1").unwrap();
    sandbox.run(&graph(&one));
    assert_eq!(sandbox.run(&graph(&other)).0.ends.hit, 1);
    fs::write(&other, "22").unwrap();
    let (_, recorder) = sandbox.run(&graph(&other));
    assert_eq!(reasons(&recorder, "f"), "file content changed (`file`)");
    assert_eq!(sandbox.text(&recorder, "f"), "22");
    fs::remove_file(&other).unwrap();
    let missing = sandbox.try_run(&graph(&other), &mut Recorder::default());
    assert!(matches!(missing, Err(RunError::Plan(PlanError::Sources(faults))) if faults.len() == 1));
}

#[test]
fn what_is_missing_is_told_at_once_and_nothing_is_begun() {
    let sandbox = Sandbox::new();
    let needs = |name: &str| RunOptions { task: json!({ "needs": name }), ..RunOptions::default() };
    let graph = ToyGraph::new()
        .node("a", "echo", json!({ "text": "a" }), &[])
        .run(needs("KEY"))
        .node("b", "echo", json!({ "text": "b" }), &[])
        .run(needs("KEY"))
        .node("c", "echo", json!({ "text": "c" }), &[])
        .run(RunOptions { gpus: Some(1), ..RunOptions::default() })
        .build();
    let Err(RunError::Missing(missing)) = sandbox.try_run(&graph, &mut Recorder::default()) else {
        panic!("a key and a GPU are missing")
    };
    let told: Vec<(&str, usize)> =
        missing.iter().map(|thing| (thing.what.as_str(), thing.nodes.len())).collect();
    assert_eq!(told, [("`KEY` is not set", 2), ("1 of `gpus`", 1)]);
    assert!(!sandbox.store().join("runs").exists());
}

#[test]
fn copies_are_published_and_made_again_when_they_differ() {
    let sandbox = Sandbox::new();
    let publish = RunOptions {
        publish: BTreeMap::from([("text".to_owned(), PathBuf::from("out/a.txt"))]),
        ..RunOptions::default()
    };
    let graph = ToyGraph::new().node("a", "echo", json!({ "text": "published" }), &[]).run(publish).build();
    let copy = sandbox.path("out/a.txt");
    for spoil in [None, Some("edited"), None] {
        if let Some(text) = spoil {
            fs::write(&copy, text).unwrap();
        }
        let (outcome, _) = sandbox.run(&graph);
        assert_eq!(outcome.result, RunResult::Done);
        assert_eq!(fs::read_to_string(&copy).unwrap(), "published");
    }
}

#[test]
fn a_plan_promises_what_the_run_does() {
    let sandbox = Sandbox::new();
    sandbox.run(&graph("one", "two").build());
    let edited = graph("other", "two").build();
    let writer = sandbox.writer();
    let mut planner = Planner::new(&edited, writer.view(), sandbox.dir.path(), clock());
    let plan = planner.plan(&Selection::default()).unwrap();
    let words = |name: &str| match &plan.get(edited.find(name).unwrap()).unwrap().decision {
        Decision::Hit(_) => "hit".to_owned(),
        Decision::Run(reasons) => reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        Decision::Unsettled => {
            let waits = plan.waits_for(&edited, edited.find(name).unwrap());
            format!("unless {}", edited.node(waits[0]).name)
        }
    };
    assert_eq!(words("a"), "param `text` \"one\" → \"other\"");
    assert_eq!((words("cut").as_str(), words("all").as_str()), ("unless a", "unless cut"));
    assert_eq!((words("b").as_str(), words("alone").as_str()), ("hit", "hit"));
    let told = planner.explain(edited.find("all").unwrap()).unwrap();
    let [Reason::Input { change: InputChange::Changed { because: Some(cause) }, .. }] =
        told.reasons.as_slice()
    else {
        panic!("one input may differ: {told:?}")
    };
    assert_eq!(cause.node, "a");
}

/// Nanoseconds of this thread on a processor: what other work on the machine takes does not count.
fn processor_time() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

#[test]
#[ignore = "measures; for people, with --ignored --nocapture"]
fn what_planning_costs() {
    for count in [1_000, 100_000] {
        let sandbox = Sandbox::new();
        let mut graph = ToyGraph::new();
        let names: Vec<String> = (0..count).map(|number| format!("e{number}")).collect();
        for name in &names {
            graph = graph.node(name, "echo", json!({ "text": name }), &[]);
        }
        let graph = graph.node("all", "concat", json!({}), &[("parts", "e0"), ("parts", "e1")]).build();
        let writer = sandbox.writer();
        let plan = |what: &str| {
            let before = processor_time();
            let mut planner = Planner::new(&graph, writer.view(), sandbox.dir.path(), clock());
            let counts = planner.plan(&Selection::default()).unwrap().counts();
            let spent = (processor_time() - before) as f64 / 1e6;
            println!("{count} nodes, {what}: {spent:.1} ms, {counts:?}");
        };
        plan("empty store");
        if count == 1_000 {
            sandbox.run(&graph);
            let writer = sandbox.writer();
            let before = processor_time();
            let mut planner = Planner::new(&graph, writer.view(), sandbox.dir.path(), clock());
            let counts = planner.plan(&Selection::default()).unwrap().counts();
            let spent = (processor_time() - before) as f64 / 1e6;
            println!("{count} nodes, full store: {spent:.1} ms, {counts:?}");
            let before = processor_time();
            sandbox.run(&graph);
            let spent = (processor_time() - before) as f64 / 1e6;
            println!("{count} nodes, a run that finds everything done: {spent:.1} ms");
        }
        let status = fs::read_to_string("/proc/self/status").unwrap();
        println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap());
    }
}
