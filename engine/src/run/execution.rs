//! The run loop: owns all state of a run that is going on, and waits on one channel.

mod attend;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use dag_cache::{Lease, LeaseAttempt, Record};

use super::meter::Meter;
use super::schedule::Scheduler;
use super::services::{Need, Services, Want};
use super::worker::{self, Control, Failure, Job, Message};
use super::{Outcome, Run, milliseconds, preflight};
use crate::allowance::Allowance;
use crate::call::CallInput;
use crate::context::EnvLookup;
use crate::estimate::{History, Metrics, Survey};
use crate::event::{Counts, End, Ends, Event, NodeEstimate, Reporter, RunResult, Stamped};
use crate::files;
use crate::graph::NodeId;
use crate::journal::Journal;
use crate::key::ActionKey;
use crate::plan::{Decision, Plan, Planner, Reason, Settled, Work};
use crate::publish::publish;
use crate::task::FileKind;
use attend::wants;

/// How often the loop looks at signals, timeouts and leases of others while it waits.
const TICK: Duration = Duration::from_millis(100);
/// How often a running node's progress is reported.
const PROGRESS: Duration = Duration::from_secs(1);
/// How often the bytes of a node's inputs may turn out to be gone before it is given up.
const MOST_LOSSES: u32 = 3;

/// A node whose task runs.
struct Running {
    meter: Arc<Meter>,
    reported: Instant,
    attempt_began: Instant,
    control: Option<Arc<Control>>,
}

/// All state of a run that is going on. Nodes are numbered in the order of the plan.
pub(super) struct Execution<'a> {
    run: Run<'a>,
    id: String,
    planner: Planner<'a>,
    scheduler: Scheduler,
    order: Vec<NodeId>,
    positions: Vec<u32>,
    env: EnvLookup,
    allowance: Arc<Allowance>,
    work_folder: PathBuf,
    /// Gone once it could not be written: a run does not fail for want of telemetry.
    journal: Option<Journal>,
    reporter: &'a mut dyn Reporter,
    sender: Sender<Message>,
    running: BTreeMap<u32, Running>,
    services: Arc<Services>,
    /// How many nodes that have not ended may still want something of a service.
    wanted: BTreeMap<Want, u32>,
    /// Whether a service could not begin for want of GPUs.
    is_crowded: bool,
    /// Nodes that asked a service although nothing seemed to be owed to them.
    unserved: BTreeSet<u32>,
    queued: BTreeMap<u32, Vec<Reason>>,
    /// Nodes another process computes, and who.
    waiting: BTreeMap<u32, String>,
    losses: BTreeMap<u32, u32>,
    ends: Ends,
    failures: Vec<(String, String)>,
    paused: Vec<(String, String)>,
    stopping: bool,
    ticked: Instant,
}

impl<'a> Execution<'a> {
    /// A run of `plan` that has not begun, and where its workers will be heard.
    pub(super) fn new(
        run: Run<'a>,
        planner: Planner<'a>,
        plan: &Plan,
        id: String,
        journal: Journal,
        reporter: &'a mut dyn Reporter,
    ) -> (Self, Receiver<Message>) {
        let (sender, receiver) = channel();
        // By node index: its number in the plan. Every node that a planned one reads is planned.
        let mut positions = vec![u32::MAX; run.graph.len()];
        for (number, planned) in (0..).zip(plan.nodes()) {
            positions[planned.id.index()] = number;
        }
        let nodes = || plan.nodes().iter().map(|planned| run.graph.node(planned.id));
        let inputs =
            nodes().map(|node| node.inputs.iter().map(|input| positions[input.source.index()]).collect());
        let scheduler = Scheduler::new(
            inputs.collect(),
            nodes().map(preflight::demand).collect(),
            run.settings.capacity.clone(),
            run.settings.keep_going,
        );
        let environment = Arc::clone(&run.world.environment);
        let services = Services::new(run.world.host.clone(), run.writer.view().clone(), id.clone());
        let mut wanted = BTreeMap::new();
        for planned in plan.nodes().iter().filter(|node| !matches!(node.decision, Decision::Hit(_))) {
            for want in wants(run.graph, planned.id) {
                *wanted.entry(want).or_default() += 1;
            }
        }
        let execution = Self {
            scheduler,
            positions,
            order: plan.nodes().iter().map(|node| node.id).collect(),
            env: Arc::new(move |name| environment.var(name)),
            allowance: Arc::new(Allowance::new(run.settings.budget, run.settings.pilot)),
            work_folder: run.writer.view().layout().work(&id),
            planner,
            run,
            id,
            journal: Some(journal),
            reporter,
            sender,
            running: BTreeMap::new(),
            services,
            wanted,
            is_crowded: false,
            unserved: BTreeSet::new(),
            queued: BTreeMap::new(),
            waiting: BTreeMap::new(),
            losses: BTreeMap::new(),
            ends: Ends::default(),
            failures: Vec::new(),
            paused: Vec::new(),
            stopping: false,
            ticked: Instant::now(),
        };
        (execution, receiver)
    }

    /// Tells what is planned, and settles what is reused from the start.
    pub(super) fn announce(&mut self, plan: &Plan) {
        let counts = plan.counts();
        self.emit(Event::RunStarted {
            run: self.id.clone(),
            experiment: self.run.graph.name.clone(),
            profile: self.run.graph.profile.clone(),
            file: self.run.settings.file.clone(),
            nodes: plan.nodes().len() as u64,
            hits: counts.hits,
        });
        for text in &plan.warnings {
            self.emit(Event::Warning { text: text.clone() });
        }
        self.ends.hit = counts.hits;
        let history = if counts.hits == plan.nodes().len() as u64 {
            History::default()
        } else {
            History::load(self.run.writer.view().layout())
        };
        let mut metrics = Metrics::default();
        for (number, planned) in (0..).zip(plan.nodes()) {
            let reasons = match &planned.decision {
                Decision::Hit(_) => {
                    self.scheduler.hit(number);
                    self.publish(number);
                    continue;
                }
                Decision::Run(reasons) => reasons.clone(),
                Decision::Unsettled => Vec::new(),
            };
            let estimate =
                history.estimate(self.run.graph, &self.planner, planned.id, &mut metrics, Survey::Metrics);
            self.emit(Event::NodePlanned {
                node: self.name(number),
                kind: self.kind(number),
                was_hit: false,
                reasons,
                estimate,
            });
        }
    }

    /// Decides, starts and waits until every node has ended; false if it was told to leave at once.
    pub(super) fn work(&mut self, receiver: &Receiver<Message>) -> bool {
        loop {
            if self.run.interrupt.abort.is_cancelled() {
                return false;
            }
            if self.run.interrupt.stop.is_cancelled() && !self.stopping {
                self.stopping = true;
                for (number, end) in self.scheduler.stop() {
                    self.ended(number, end, None);
                }
                self.cancel_running();
            }
            self.ask_about_open();
            while let Some(number) = self.scheduler.next_open() {
                self.decide(number);
            }
            while let Some((number, gpus)) = self.scheduler.start_next() {
                self.start(number, gpus);
            }
            if self.scheduler.next_open().is_some() {
                continue;
            }
            if self.scheduler.is_done() {
                return true;
            }
            self.mind_services();
            if let Ok(message) = receiver.recv_timeout(TICK) {
                self.handle(message);
                while let Ok(message) = receiver.try_recv() {
                    self.handle(message);
                }
            }
            if self.ticked.elapsed() >= TICK {
                self.ticked = Instant::now();
                self.scheduler.retry_deferred();
                self.reporter.tick();
            }
            self.look_at_running();
        }
    }

    /// Asks the shared cache, if there is one, about all nodes whose inputs are there, at once.
    fn ask_about_open(&mut self) {
        if self.run.writer.view().remote().is_none() {
            return;
        }
        let open: Vec<NodeId> = self.scheduler.open().map(|number| self.order[number as usize]).collect();
        // A failure comes again, and is told, when the node is decided about.
        let _ = self.planner.ask_for(&open);
    }

    /// Decides about a node whose inputs are all there.
    fn decide(&mut self, number: u32) {
        let id = self.order[number as usize];
        match self.planner.decide(id) {
            Ok((Decision::Hit(_), _)) => {
                self.scheduler.hit(number);
                self.ended(number, End::Hit, None);
            }
            Ok((Decision::Run(reasons), Some(_))) => {
                let lost = self.planner.lost(id);
                if lost.is_empty() {
                    self.queued.insert(number, reasons);
                    self.scheduler.enqueue(number);
                } else {
                    self.call_back(number, &lost);
                }
            }
            Ok(_) => unreachable!("what an open node reads has been settled"),
            Err(error) => self.fail(number, error.to_string()),
        }
    }

    /// Has the nodes that made lost bytes run again, before `number`.
    fn call_back(&mut self, number: u32, lost: &BTreeMap<NodeId, String>) {
        for (&source, port) in lost {
            let source_number = self.positions[source.index()];
            if !self.scheduler.call_back(source_number) {
                let node = self.name(source_number);
                self.fail(number, format!("output `{port}` of {node} was lost while the run was going on"));
                return;
            }
            let reason = Reason::OutputLost { port: port.clone() };
            self.planner.require(source, reason.clone());
            for want in wants(self.run.graph, source) {
                *self.wanted.entry(want).or_default() += 1;
            }
            self.ends.remove(End::Hit);
            self.emit(Event::NodePlanned {
                node: self.name(source_number),
                kind: self.kind(source_number),
                was_hit: true,
                reasons: vec![reason],
                estimate: NodeEstimate::default(),
            });
        }
    }

    /// Starts a node that has its slots, unless another process is at it or has done it by now.
    fn start(&mut self, number: u32, gpus: Vec<u32>) {
        let id = self.order[number as usize];
        let Some(action) = self.planner.action(id) else {
            return self.fail(number, "its action is not known".to_owned());
        };
        let holder = format!("run {} (process {})", self.id, std::process::id());
        let lease = match self.run.writer.lease(&action.0, &holder) {
            Ok(LeaseAttempt::Held(lease)) => lease,
            Ok(LeaseAttempt::Busy { holder }) => {
                self.scheduler.defer(number);
                if self.waiting.get(&number) != Some(&holder) {
                    self.emit(Event::NodeWaiting { node: self.name(number), holder: holder.clone() });
                    self.waiting.insert(number, holder);
                }
                return;
            }
            Err(error) => return self.fail(number, error.to_string()),
        };
        // Under the lease, since another process may have committed the record a moment ago.
        let work = match self.planner.decide(id) {
            Ok((Decision::Run(_), Some(work))) if work.action == action => work,
            Ok((Decision::Hit(_), _)) => {
                self.scheduler.finish(number, End::Hit);
                return self.ended(number, End::Hit, None);
            }
            // A local file has changed since: it is another action, with a lease of its own.
            Ok(_) => return self.scheduler.reopen(number),
            Err(error) => return self.fail(number, error.to_string()),
        };
        let needs = self.needs(number);
        if !self.engage(number, &needs) {
            // The lease is given back: whoever has what it needs may run it.
            drop(lease);
            return self.scheduler.defer(number);
        }
        let meter = Arc::new(Meter::default());
        let reasons = self.queued.remove(&number).unwrap_or_default();
        self.emit(Event::NodeStarted {
            node: self.name(number),
            kind: self.kind(number),
            action,
            reasons,
            gpus: gpus.clone(),
        });
        let job = self.job(number, work, gpus, needs, Arc::clone(&meter), lease);
        let name = self.name(number);
        let now = Instant::now();
        self.running.insert(number, Running { meter, reported: now, attempt_began: now, control: None });
        if let Err(error) = worker::spawn(&name, job) {
            self.running.remove(&number);
            self.fail(number, format!("no thread could be started: {error}"));
        }
    }

    fn job(
        &self,
        number: u32,
        work: Work,
        gpus: Vec<u32>,
        needs: Vec<Need>,
        meter: Arc<Meter>,
        lease: Lease,
    ) -> Job {
        let node = self.run.graph.node(self.order[number as usize]);
        let inputs = node.inputs.iter().filter_map(|input| {
            let source = self.run.graph.node(input.source);
            let coordinates = source.coordinates.iter();
            Some(CallInput {
                port: input.port.to_string(),
                coordinates: coordinates.map(|(axis, value)| (axis.to_string(), value.to_string())).collect(),
                node: source.name.to_string(),
                output: *self.planner.artifact(input)?,
            })
        });
        let files = node.files.iter().zip(&work.sources).map(|(input, source)| {
            let paths = match input.kind {
                FileKind::Tree => vec![input.path.clone()],
                FileKind::Remote => source.address.iter().map(PathBuf::from).collect(),
                FileKind::File | FileKind::Glob => {
                    source.files.iter().map(|file| file.path.clone()).collect()
                }
            };
            (input.pointer.clone(), paths)
        });
        Job {
            node: number,
            step: Arc::clone(&node.step),
            name: node.name.to_string(),
            inputs: inputs.collect(),
            files: files.collect(),
            seed: node.seed,
            options: Arc::clone(&node.run),
            executor: node
                .run
                .executor
                .as_ref()
                .and_then(|placement| self.run.world.executors.get(&*placement.name).cloned()),
            resources: node.resources(),
            services: Arc::clone(&self.services),
            needs,
            env: Arc::clone(&self.env),
            allowance: Arc::clone(&self.allowance),
            writer: Arc::clone(&self.run.writer),
            folder: self.work_folder.join(number.to_string()),
            threads: node.resources().cpus.clamp(1, self.run.settings.capacity.cpus.max(1)) as usize,
            gpus,
            meter,
            stop: self.run.interrupt.stop.clone(),
            backoff: self.run.settings.backoff,
            lease,
            results: self.sender.clone(),
            work,
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Attempt { node, control } => {
                if self.stopping {
                    control.cancel.cancel();
                }
                if let Some(running) = self.running.get_mut(&node) {
                    running.attempt_began = Instant::now();
                    running.control = Some(control);
                }
            }
            Message::Retry { node, attempt, error, wait } => {
                if let Some(running) = self.running.get_mut(&node) {
                    running.control = None;
                }
                let wait = wait.as_secs_f64();
                self.emit(Event::NodeRetried { node: self.name(node), attempt, error, wait });
            }
            Message::Ended { node, result, seconds } => self.task_ended(node, result, seconds),
        }
    }

    fn task_ended(&mut self, number: u32, result: Result<Record, Failure>, seconds: f64) {
        self.report_progress(number);
        let counts = self.running.remove(&number).map(|running| running.meter.counts()).unwrap_or_default();
        let id = self.order[number as usize];
        let told = |counts: Counts| Some(Told { counts, seconds, ..Told::default() });
        match result {
            Ok(record) => {
                let outputs = record.outputs.iter().map(|(port, output)| (port.clone(), *output)).collect();
                self.planner.fulfilled(id);
                self.planner.settle(id, Arc::new(Settled { action: ActionKey(record.action), outputs }));
                self.scheduler.finish(number, End::Ran);
                let told = Told { counts, seconds, metrics: record.metrics, owed: record.owed, error: None };
                self.ended(number, End::Ran, Some(told));
            }
            Err(Failure::InputLost(error)) => {
                let losses = self.losses.entry(number).or_default();
                *losses += 1;
                if *losses > MOST_LOSSES {
                    self.fail(number, error);
                } else {
                    self.services.leave(number);
                    self.emit(Event::Warning { text: error });
                    self.scheduler.reopen(number);
                }
            }
            Err(Failure::Unserved(service)) => {
                if self.unserved.insert(number) {
                    self.scheduler.reopen(number);
                } else {
                    self.fail(number, format!("the service `{service}` does not begin"));
                }
            }
            Err(Failure::Cancelled) => {
                let consequences = self.scheduler.finish(number, End::Cancelled);
                self.ended(number, End::Cancelled, told(counts));
                self.follow(consequences);
            }
            Err(Failure::Paused(text)) => {
                self.paused.push((self.name(number), text.clone()));
                let consequences = self.scheduler.finish(number, End::Cancelled);
                let told = Told { counts, seconds, error: Some(text), ..Told::default() };
                self.ended(number, End::Cancelled, Some(told));
                self.follow(consequences);
            }
            Err(Failure::Failed(error)) => {
                let told = Told { counts, seconds, error: Some(error), ..Told::default() };
                self.failed(number, told);
            }
        }
    }

    fn fail(&mut self, number: u32, error: String) {
        self.failed(number, Told { error: Some(error), ..Told::default() });
    }

    fn failed(&mut self, number: u32, told: Told) {
        self.failures.push((self.name(number), told.error.clone().unwrap_or_default()));
        let consequences = self.scheduler.finish(number, End::Failed);
        self.ended(number, End::Failed, Some(told));
        self.follow(consequences);
    }

    fn follow(&mut self, consequences: Vec<(u32, End)>) {
        for (number, end) in consequences {
            self.ended(number, end, None);
        }
    }

    /// Tells how a node ended, and keeps the copies that are wanted of what it made.
    fn ended(&mut self, number: u32, end: End, told: Option<Told>) {
        self.queued.remove(&number);
        self.waiting.remove(&number);
        self.services.leave(number);
        for want in wants(self.run.graph, self.order[number as usize]) {
            if let Some(count) = self.wanted.get_mut(&want) {
                *count = count.saturating_sub(1);
            }
        }
        self.ends.add(end);
        let settled = self.planner.settled(self.order[number as usize]).cloned();
        let outputs = settled.iter().flat_map(|settled| settled.outputs.iter());
        let outputs = outputs.map(|(port, output)| (port.clone(), output.digest)).collect();
        let told = told.unwrap_or_default();
        self.emit(Event::NodeFinished {
            node: self.name(number),
            kind: self.kind(number),
            end,
            action: settled.map(|settled| settled.action),
            outputs,
            metrics: told.metrics,
            counts: told.counts,
            owed: told.owed,
            seconds: told.seconds,
            error: told.error,
        });
        if matches!(end, End::Hit | End::Ran) {
            self.publish(number);
        }
    }

    /// Keeps the copies of a node's artifacts that `run: { publish }` asks for.
    fn publish(&mut self, number: u32) {
        let id = self.order[number as usize];
        let node = self.run.graph.node(id);
        for (port, path) in &node.run.publish {
            let place = self.planner.place(path);
            let Some(output) = self.planner.settled(id).and_then(|settled| settled.output(port).copied())
            else {
                continue;
            };
            if let Err(error) = publish(self.run.writer.view(), self.planner.files(), &output, &place) {
                let text = format!("output `{port}` of {} is not published: {error}", node.name);
                self.emit(Event::Warning { text });
            }
        }
    }

    /// Stops attempts that take too long, and reports what running nodes have told.
    fn look_at_running(&mut self) {
        let mut due = Vec::new();
        for (&number, running) in &self.running {
            let node = self.run.graph.node(self.order[number as usize]);
            if let (Some(timeout), Some(control)) = (node.run.timeout, &running.control)
                && running.attempt_began.elapsed().as_secs_f64() > timeout
            {
                control.timed_out.store(true, Ordering::Relaxed);
                control.cancel.cancel();
            }
            if running.reported.elapsed() >= PROGRESS {
                due.push(number);
            }
        }
        for number in due {
            self.report_progress(number);
        }
    }

    fn report_progress(&mut self, number: u32) {
        let Some(running) = self.running.get_mut(&number) else { return };
        running.reported = Instant::now();
        if let Some(news) = running.meter.news() {
            self.emit(Event::NodeProgress {
                node: self.name(number),
                counts: news.counts,
                message: news.message,
                points: news.points,
                warnings: news.warnings,
            });
        }
    }

    fn cancel_running(&self) {
        for control in self.running.values().filter_map(|running| running.control.as_ref()) {
            control.cancel.cancel();
        }
    }

    /// Leaves to later runs what this one has found out, and tells how it ended.
    pub(super) fn finish(mut self, began: Instant, complete: bool) -> Outcome {
        let settled: Vec<(&str, ActionKey)> = self
            .order
            .iter()
            .filter_map(|&id| Some((&*self.run.graph.node(id).name, self.planner.settled(id)?.action)))
            .collect();
        let actions: Vec<_> = settled.iter().map(|(_, action)| action.0).collect();
        let whole = settled.len() == self.run.graph.len();
        let layout = self.run.writer.view().layout().clone();
        let mut troubles = self.services.end(complete);
        if let Err(error) = self.planner.last().update(settled.into_iter(), whole) {
            troubles.push(format!("the list of last actions is not kept: {error}"));
        }
        if let Err(error) = self.planner.files().save() {
            troubles.push(format!("the digests of local files are not kept: {error}"));
        }
        if complete {
            self.run.writer.touch(&actions);
            if let Err(error) = self.run.writer.finish() {
                troubles.push(error.to_string());
            }
            let _ = files::remove_tree(&self.work_folder);
        }
        troubles.extend(
            self.run
                .writer
                .view()
                .faults()
                .iter()
                .map(|fault| format!("{}: {}", fault.path.display(), fault.what)),
        );
        for text in troubles {
            self.emit(Event::Warning { text });
        }
        if let Some(shared) = self.run.writer.remote_report().filter(|shared| !shared.is_empty()) {
            self.emit(Event::Shared(shared));
        }
        // For comparing runs: the file is replaced and never changed, so a second name for it is a copy that costs nothing.
        let _ = std::fs::hard_link(self.planner.last().path(), layout.actions(&self.id));
        // A signal that came when everything was done already has stopped nothing.
        let stopped = self.run.interrupt.stop.is_cancelled() && self.ends.cancelled > 0;
        let result = match () {
            () if stopped || !complete => RunResult::Cancelled,
            () if self.ends.failed > 0 => RunResult::Failed,
            () if !self.paused.is_empty() => RunResult::Paused,
            () => RunResult::Done,
        };
        let (ends, seconds) = (self.ends, began.elapsed().as_secs_f64());
        self.emit(Event::RunFinished { result, ends, seconds });
        Outcome { run: self.id, result, ends, failures: self.failures, paused: self.paused }
    }

    fn emit(&mut self, event: Event) {
        let stamped = Stamped { at: milliseconds(&self.run.world.clock), event };
        self.reporter.report(&stamped);
        if let Some(journal) = &mut self.journal
            && let Err(error) = journal.append(&stamped)
        {
            self.journal = None;
            let text = format!("the journal of the run goes no further: {error}");
            self.reporter.report(&Stamped { at: stamped.at, event: Event::Warning { text } });
        }
    }

    fn name(&self, number: u32) -> String {
        self.run.graph.node(self.order[number as usize]).name.to_string()
    }

    fn kind(&self, number: u32) -> String {
        self.run.graph.node(self.order[number as usize]).step.kind().to_owned()
    }
}

/// What is told of a task at its end.
#[derive(Default)]
struct Told {
    counts: Counts,
    seconds: f64,
    metrics: BTreeMap<String, serde_json::Value>,
    owed: u64,
    error: Option<String>,
}
