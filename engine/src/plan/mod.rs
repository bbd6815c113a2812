//! `Plan` and [`Planner::decide`]: per node `Hit`, `Run(reasons)` or `Unsettled`.
//!
//! `dag plan` and `dag run` decide with this one function, so the first cannot promise what the second will not do. The
//! walk is in topological order: a node whose inputs are all settled has an [`ActionKey`], and a record under that key
//! is a hit. A hit needs the record and not the blobs (C4): only where a node that must run reads an artifact whose
//! bytes are gone is the node that made it run again.

mod ask;
pub mod diff;
mod explain;
mod last;
mod reason;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dag_cache::{CacheError, Digest, Moment, Output, Summary, View};
use serde_json::Value;

pub use explain::difference;
use explain::difference_named;
pub use last::LastActions;
pub use reason::{Cause, InputChange, Reason};

use crate::graph::{FileInput, Graph, Node, NodeId, NodeInput};
use crate::key::ActionKey;
use crate::manifest::{Manifest, ManifestInput};
use crate::publish;
use crate::remote::{Content, Resolver};
use crate::stat_cache::{Clock, Source, SourceFault, StatCache};
use crate::task::{FileKind, Missing};

/// How far a difference is followed upstream.
const DEEPEST_CAUSE: usize = 200;

/// What is to be done about a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// A record of its action exists: it is reused.
    Hit(Arc<Settled>),
    /// It must run; the main reason first.
    Run(Vec<Reason>),
    /// Something that enters it is not known yet: it will run, unless that comes out the same as before.
    Unsettled,
}

/// What is known of a node whose action has a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The action.
    pub action: ActionKey,
    /// The artifacts it made, by port.
    pub outputs: Box<[(String, Output)]>,
}

impl Settled {
    /// The artifact that leaves `port`.
    pub fn output(&self, port: &str) -> Option<&Output> {
        self.outputs.iter().find(|(name, _)| name == port).map(|(_, output)| output)
    }
}

/// A node that must run and whose inputs are all there.
pub(crate) struct Work {
    pub(crate) action: ActionKey,
    pub(crate) manifest: Manifest,
    pub(crate) sources: Vec<Source>,
}

/// A param's file or address that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node `{node}`, param `{pointer}`: {fault}")]
pub struct MissingSource {
    /// The node.
    pub node: String,
    /// JSON pointer of the param below `with:`.
    pub pointer: String,
    /// What is wrong with it.
    pub fault: SourceFault,
}

impl MissingSource {
    fn is_remote(&self) -> bool {
        matches!(self.fault, SourceFault::Remote(_))
    }

    /// The param's path as users write it: `source.path`.
    fn path(&self) -> String {
        self.pointer.trim_start_matches('/').replace('/', ".")
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Files that params name cannot be read; all of them.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Sources(Vec<MissingSource>),
    /// The store failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// What a plan or run is about.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// The nodes wanted, with all they need; empty means every node.
    pub targets: Vec<NodeId>,
    /// Nodes that run although they need not.
    pub rerun: Vec<NodeId>,
}

/// One node of a plan.
#[derive(Debug, Clone)]
pub struct PlannedNode {
    /// The node.
    pub id: NodeId,
    /// Its action, where that is known before anything runs.
    pub action: Option<ActionKey>,
    /// What is to be done about it.
    pub decision: Decision,
}

/// What would be done about every node that is wanted.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// What the user should know of how it was made.
    pub warnings: Vec<String>,
    missing: Vec<(NodeId, Missing)>,
    nodes: Vec<PlannedNode>,
    /// By node index: where it is in `nodes`.
    positions: Vec<Option<u32>>,
}

impl Plan {
    /// The nodes, in topological order.
    pub fn nodes(&self) -> &[PlannedNode] {
        &self.nodes
    }

    /// The addresses that cannot be pinned down, with the nodes that will need them.
    pub(crate) fn missing(&self) -> &[(NodeId, Missing)] {
        &self.missing
    }

    /// One node, if it is part of the plan.
    pub fn get(&self, id: NodeId) -> Option<&PlannedNode> {
        self.nodes.get((*self.positions.get(id.index())?)? as usize)
    }

    /// How many nodes are hits, must run, and are unsettled.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for node in &self.nodes {
            match node.decision {
                Decision::Hit(_) => counts.hits += 1,
                Decision::Run(_) => counts.runs += 1,
                Decision::Unsettled => counts.unsettled += 1,
            }
        }
        counts
    }

    /// The nodes that `id` reads and that are not settled, each once: what its fate hangs on.
    pub fn waits_for(&self, graph: &Graph, id: NodeId) -> Vec<NodeId> {
        let open = |source: &NodeId| {
            self.get(*source).is_some_and(|node| !matches!(node.decision, Decision::Hit(_)))
        };
        let sources: BTreeSet<NodeId> =
            graph.node(id).inputs.iter().map(|input| input.source).filter(open).collect();
        sources.into_iter().collect()
    }
}

/// How many nodes of a plan are decided how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Reused.
    pub hits: u64,
    /// To run.
    pub runs: u64,
    /// To run, unless what enters them comes out the same.
    pub unsettled: u64,
}

/// Why a node differs from its last run.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Explanation {
    /// The node.
    pub node: String,
    /// The action of its last run.
    pub before: Option<ActionKey>,
    /// Its action now; absent while an input is not known yet.
    pub after: Option<ActionKey>,
    /// What differs; empty if nothing does.
    pub reasons: Vec<Reason>,
}

/// Decides about the nodes of one graph on one store, and remembers what it has settled.
pub struct Planner<'g> {
    graph: &'g Graph,
    view: View,
    root: PathBuf,
    files: StatCache,
    last: LastActions,
    /// Nodes that run although they have a record, and why.
    required: BTreeMap<NodeId, Reason>,
    settled: Vec<Option<Arc<Settled>>>,
    actions: Vec<Option<ActionKey>>,
    reasons: BTreeMap<NodeId, Vec<Reason>>,
    /// While a plan is made: as of when the store is read.
    moment: Option<Moment>,
    /// While the actions of many nodes are collected, to be asked for at once.
    collecting: bool,
}

impl<'g> Planner<'g> {
    /// Plans `graph` on the store behind `view`. `root` is the folder of the experiment file.
    pub fn new(graph: &'g Graph, view: &View, root: &Path, clock: Clock) -> Self {
        Self {
            graph,
            view: view.clone(),
            root: root.to_owned(),
            files: StatCache::load(view.layout(), clock),
            last: LastActions::load(view.layout(), &graph.name, graph.profile.as_deref()),
            required: BTreeMap::new(),
            settled: vec![None; graph.len()],
            actions: vec![None; graph.len()],
            reasons: BTreeMap::new(),
            moment: None,
            collecting: false,
        }
    }

    /// Asks `resolver` what addresses of data elsewhere mean.
    #[must_use]
    pub fn with_resolver(mut self, resolver: Arc<dyn Resolver>) -> Self {
        self.files = self.files.with_resolver(resolver);
        self
    }

    /// Decides about all that `selection` wants. Nothing in the store is changed.
    pub fn plan(&mut self, selection: &Selection) -> Result<Plan, PlanError> {
        self.required = selection.rerun.iter().map(|&id| (id, Reason::Forced)).collect();
        let order = match selection.targets.as_slice() {
            [] => self.graph.order().to_vec(),
            targets => self.graph.closure(targets),
        };
        let mut plan = Plan {
            nodes: Vec::with_capacity(order.len()),
            positions: vec![None; self.graph.len()],
            ..Plan::default()
        };
        let mut missing = Vec::new();
        self.moment = Some(Moment::default());
        self.ask_level_by_level(&order)?;
        for id in order {
            let decided = match self.decide(id) {
                // Where data cannot be found out about, its node must wait for that; no other is touched.
                Err(PlanError::Sources(faults)) if faults.iter().all(MissingSource::is_remote) => {
                    self.unsettle(id);
                    let reasons: Vec<Reason> =
                        faults.into_iter().map(|fault| Reason::Unresolved { path: fault.path() }).collect();
                    self.reasons.insert(id, reasons.clone());
                    Ok((Decision::Run(reasons), None))
                }
                other => other,
            };
            match decided {
                Ok((decision, work)) => {
                    if !matches!(decision, Decision::Hit(_)) {
                        plan.missing.extend(self.unresolved(id).into_iter().map(|missing| (id, missing)));
                    }
                    plan.positions[id.index()] = Some(plan.nodes.len() as u32);
                    let action = match &decision {
                        Decision::Hit(settled) => Some(settled.action),
                        _ => work.map(|work| work.action),
                    };
                    plan.nodes.push(PlannedNode { id, action, decision });
                }
                Err(PlanError::Sources(faults)) => missing.extend(faults),
                Err(error) => {
                    self.moment = None;
                    return Err(error);
                }
            }
        }
        self.moment = None;
        if !missing.is_empty() {
            return Err(PlanError::Sources(missing));
        }
        self.call_back_lost(&mut plan);
        plan.warnings = self.files.take_warnings();
        Ok(plan)
    }

    /// What is to be done about `id`, given what is settled by now; for a node that must run, and can, also with what.
    pub(crate) fn decide(&mut self, id: NodeId) -> Result<(Decision, Option<Work>), PlanError> {
        let graph = self.graph;
        let node = graph.node(id);
        let required = self.required.get(&id).cloned();
        let Some(inputs) = self.inputs(id) else {
            self.unsettle(id);
            let Some(reason) = required else { return Ok((Decision::Unsettled, None)) };
            self.reasons.insert(id, vec![reason.clone()]);
            return Ok((Decision::Run(vec![reason]), None));
        };
        let sources = self.sources(id)?;
        let contents = contents(node, &sources);
        let manifest = Manifest::new(&*node.step, inputs, &contents, node.seed, node.device());
        let action = ActionKey(manifest.digest());
        let mut known = self.known(&action)?;
        // What is not here, or not whole, somebody else may have; a node that has to run anyway need not know.
        let wanting = known.as_ref().is_none_or(|summary| summary.owed > 0);
        if required.is_none() && wanting && !self.collecting && self.view.ask(&[action.0]) {
            known = self.known(&action)?;
        }
        let complete = |outputs: &BTreeMap<String, Output>| {
            node.step.ports().outputs().iter().all(|port| outputs.contains_key(&port.name))
        };
        // Another process may have brought the bytes back by now.
        let required = required.filter(|reason| match (reason, &known) {
            (Reason::OutputLost { .. }, Some(summary)) => {
                !summary.outputs.values().all(|output| self.view.has_output(output))
            }
            _ => true,
        });
        let reasons = match known {
            _ if required.is_some() => required.into_iter().collect(),
            Some(summary) if summary.owed > 0 => vec![Reason::Owed { records: summary.owed }],
            Some(summary) if complete(&summary.outputs) => {
                let settled = Arc::new(Settled { action, outputs: summary.outputs.into_iter().collect() });
                self.settle(id, Arc::clone(&settled));
                return Ok((Decision::Hit(settled), None));
            }
            _ => self.why(id, action, manifest.bytes()),
        };
        self.unsettle(id);
        self.actions[id.index()] = Some(action);
        if reasons != [Reason::NeverRun] {
            self.reasons.insert(id, reasons.clone());
        }
        Ok((Decision::Run(reasons), Some(Work { action, manifest, sources })))
    }

    fn known(&mut self, action: &ActionKey) -> Result<Option<Summary>, CacheError> {
        match &mut self.moment {
            Some(moment) => self.view.summary_at(moment, &action.0),
            None => self.view.summary(&action.0),
        }
    }

    /// Takes note of what a node has made, or has been found to have made.
    pub(crate) fn settle(&mut self, id: NodeId, settled: Arc<Settled>) {
        self.actions[id.index()] = Some(settled.action);
        self.settled[id.index()] = Some(settled);
    }

    fn unsettle(&mut self, id: NodeId) {
        self.settled[id.index()] = None;
        self.actions[id.index()] = None;
    }

    /// What is known of a node's result.
    pub(crate) fn settled(&self, id: NodeId) -> Option<&Arc<Settled>> {
        self.settled[id.index()].as_ref()
    }

    /// The artifact that enters through `input`, if it is known.
    pub(crate) fn artifact(&self, input: &NodeInput) -> Option<&Output> {
        self.settled(input.source)?.output(&input.output)
    }

    /// The action of `id`, if what enters it is known.
    pub(crate) fn action(&self, id: NodeId) -> Option<ActionKey> {
        self.actions[id.index()]
    }

    /// From now on `id` runs, whatever the store holds.
    pub(crate) fn require(&mut self, id: NodeId, reason: Reason) {
        self.settled[id.index()] = None;
        self.required.insert(id, reason);
    }

    /// From now on `id` is decided by what the store holds.
    pub(crate) fn fulfilled(&mut self, id: NodeId) {
        self.required.remove(&id);
    }

    /// The digests of local files, as far as they are known.
    pub fn files(&mut self) -> &mut StatCache {
        &mut self.files
    }

    pub(crate) fn last(&self) -> &LastActions {
        &self.last
    }

    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// Where a relative path of the experiment lies.
    pub(crate) fn place(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    /// The inputs of `id` for its manifest; `None` while one is not known.
    fn inputs(&self, id: NodeId) -> Option<Vec<ManifestInput<'g>>> {
        let graph = self.graph;
        let entry = |input: &'g NodeInput| {
            let digest = self.artifact(input)?.digest;
            let coordinates = input.gathered.then(|| &*graph.node(input.source).coordinates);
            Some(ManifestInput { port: &input.port, digest, coordinates })
        };
        graph.node(id).inputs.iter().map(entry).collect()
    }

    fn sources(&mut self, id: NodeId) -> Result<Vec<Source>, PlanError> {
        let node = self.graph.node(id);
        let mut missing = Vec::new();
        let mut sources = Vec::with_capacity(node.files.len());
        for input in node.files.iter() {
            match self.files.source(input) {
                Ok(source) => sources.push(source),
                Err(fault) => {
                    let FileInput { pointer, .. } = input;
                    missing.push(MissingSource {
                        node: node.name.to_string(),
                        pointer: pointer.clone(),
                        fault,
                    });
                }
            }
        }
        if missing.is_empty() { Ok(sources) } else { Err(PlanError::Sources(missing)) }
    }

    /// What `id` reads from elsewhere and that cannot be pinned down, whether or not its inputs are known.
    fn unresolved(&mut self, id: NodeId) -> Vec<Missing> {
        let graph = self.graph;
        let remote = graph.node(id).files.iter().filter(|input| input.kind == FileKind::Remote);
        remote
            .filter_map(|input| match self.files.source(input) {
                Err(SourceFault::Remote(missing)) => Some(missing),
                _ => None,
            })
            .collect()
    }

    /// The nodes whose bytes `id` reads and that are gone, with the port.
    pub(crate) fn lost(&self, id: NodeId) -> BTreeMap<NodeId, String> {
        let mut lost = BTreeMap::new();
        for input in &self.graph.node(id).inputs {
            if self.artifact(input).is_some_and(|output| !self.view.has_output(output)) {
                lost.entry(input.source).or_insert_with(|| input.output.to_string());
            }
        }
        lost
    }

    /// Looks for what nodes that run read and is not here, all at once.
    fn ask_for_inputs(&self, plan: &Plan) {
        if self.view.remote().is_none() {
            return;
        }
        let runs = plan.nodes.iter().filter(|node| matches!(node.decision, Decision::Run(_)));
        let inputs = runs.flat_map(|node| self.graph.node(node.id).inputs.iter());
        let read: BTreeSet<Output> = inputs.filter_map(|input| self.artifact(input).copied()).collect();
        let elsewhere: Vec<Output> = read.into_iter().filter(|output| !self.view.is_here(output)).collect();
        self.view.ask_outputs(&elsewhere);
    }

    /// Turns hits into runs where their bytes are needed and gone, from the last node to the first, since a node that is
    /// called back needs the bytes of its own inputs. What reads a node that was called back is unsettled again.
    fn call_back_lost(&mut self, plan: &mut Plan) {
        self.ask_for_inputs(plan);
        let mut called: BTreeMap<NodeId, String> = BTreeMap::new();
        for position in (0..plan.nodes.len()).rev() {
            let id = plan.nodes[position].id;
            let runs = matches!(plan.nodes[position].decision, Decision::Run(_));
            if let Some(port) = called.get(&id).cloned().or_else(|| self.unpublishable(id)) {
                called.entry(id).or_insert(port);
            } else if !runs {
                continue;
            }
            for (source, port) in self.lost(id) {
                called.entry(source).or_insert(port);
            }
        }
        if called.is_empty() {
            return;
        }
        let mut open = vec![false; self.graph.len()];
        for node in &mut plan.nodes {
            let id = node.id;
            let reads_open = self.graph.node(id).inputs.iter().any(|input| open[input.source.index()]);
            if let (Some(port), Decision::Hit(_)) = (called.get(&id), &node.decision) {
                let reason = Reason::OutputLost { port: port.clone() };
                node.decision = Decision::Run(vec![reason.clone()]);
                self.reasons.insert(id, vec![reason.clone()]);
                self.required.insert(id, reason);
            } else if reads_open && matches!(node.decision, Decision::Hit(_)) {
                node.decision = Decision::Unsettled;
            }
            open[id.index()] = !matches!(node.decision, Decision::Hit(_));
        }
        for node in plan.nodes.iter().filter(|node| open[node.id.index()]) {
            self.settled[node.id.index()] = None;
        }
    }

    /// The port of a settled node whose copy is wanted, not up to date, and cannot be made from the store.
    fn unpublishable(&mut self, id: NodeId) -> Option<String> {
        let graph = self.graph;
        let node = graph.node(id);
        if node.run.publish.is_empty() {
            return None;
        }
        let settled = Arc::clone(self.settled(id)?);
        node.run.publish.iter().find_map(|(port, path)| {
            let output = settled.output(port)?;
            let place = self.place(path);
            let fine = self.view.has_output(output)
                || publish::is_current(&self.view, &mut self.files, output, &place);
            (!fine).then(|| port.clone())
        })
    }

    /// Why a node without a record runs, told from its last run in this experiment.
    fn why(&self, id: NodeId, action: ActionKey, manifest: &[u8]) -> Vec<Reason> {
        match self.last.get(&self.graph.node(id).name) {
            None => vec![Reason::NeverRun],
            Some(before) if before == action => vec![Reason::RecordLost],
            Some(before) => match self.differences(id, before, manifest, 0) {
                Some(reasons) if !reasons.is_empty() => reasons,
                _ => vec![Reason::RecordLost],
            },
        }
    }

    /// What differs between a node's earlier action and `manifest`; `None` if the earlier record is gone.
    fn differences(
        &self,
        id: NodeId,
        before: ActionKey,
        manifest: &[u8],
        depth: usize,
    ) -> Option<Vec<Reason>> {
        let record = self.view.record(&before.0).ok()??;
        let before: Value = serde_json::from_slice(&record.manifest).ok()?;
        let after: Value = serde_json::from_slice(manifest).ok()?;
        let graph = self.graph;
        let mut reasons =
            difference_named(&before, &after, &|port, number| source_name(graph, id, port, number));
        for reason in &mut reasons {
            if let Reason::Input { node: Some(node), change: InputChange::Changed { because }, .. } = reason {
                *because = graph.find(node).and_then(|source| self.cause(source, depth + 1)).map(Box::new);
            }
        }
        Some(reasons)
    }

    /// Where the difference of a node's artifact began.
    fn cause(&self, id: NodeId, depth: usize) -> Option<Cause> {
        if depth > DEEPEST_CAUSE {
            return None;
        }
        let node = self.graph.node(id);
        let own = |reason: Reason| Some(Cause { node: node.name.to_string(), reason });
        let reasons = match (self.reasons.get(&id), self.last.get(&node.name), self.actions[id.index()]) {
            (Some(reasons), ..) => reasons.clone(),
            (None, Some(before), Some(now)) if before == now => return own(Reason::OtherBytes),
            (None, Some(before), Some(now)) => {
                let record = self.view.record(&now.0).ok()??;
                self.differences(id, before, &record.manifest, depth)?
            }
            (None, None, Some(_)) => return own(Reason::NeverRun),
            (None, _, None) => {
                return node.inputs.iter().find_map(|input| {
                    self.settled(input.source).is_none().then(|| self.cause(input.source, depth + 1))?
                });
            }
        };
        match reasons.iter().find(|reason| !matches!(reason, Reason::Input { .. })) {
            Some(reason) => own(reason.clone()),
            None => reasons.into_iter().find_map(|reason| match reason {
                Reason::Input { change: InputChange::Changed { because }, .. } => {
                    because.map(|because| *because)
                }
                reason => own(reason),
            }),
        }
    }

    /// Why `id` differs from its last run, whatever is to be done about it. To be asked after [`Planner::plan`].
    pub fn explain(&mut self, id: NodeId) -> Result<Explanation, PlanError> {
        let graph = self.graph;
        let node = graph.node(id);
        let before = self.last.get(&node.name);
        let sources = match self.sources(id) {
            Err(PlanError::Sources(faults)) if faults.iter().all(MissingSource::is_remote) => {
                let reasons = self.reasons.get(&id).cloned().unwrap_or_default();
                return Ok(Explanation { node: node.name.to_string(), before, after: None, reasons });
            }
            other => other?,
        };
        let contents = contents(node, &sources);
        // An artifact that is not known yet gets a digest that no artifact has, so that it shows as changed.
        let inputs = node.inputs.iter().map(|input| ManifestInput {
            port: &input.port,
            digest: self.artifact(input).map_or(Digest::from_bytes([0; 32]), |output| output.digest),
            coordinates: input.gathered.then(|| &*graph.node(input.source).coordinates),
        });
        let manifest = Manifest::new(&*node.step, inputs, &contents, node.seed, node.device());
        let known = node.inputs.iter().all(|input| self.artifact(input).is_some());
        let after = known.then(|| ActionKey(manifest.digest()));
        let mut reasons = self.reasons.get(&id).cloned().unwrap_or_default();
        if let Some(before) = before
            && Some(before) != after
            && let Some(found) = self.differences(id, before, manifest.bytes(), 0)
        {
            reasons.retain(|reason| {
                !found.contains(reason) && matches!(reason, Reason::Forced | Reason::Owed { .. })
            });
            reasons.extend(found);
        }
        Ok(Explanation { node: node.name.to_string(), before, after, reasons })
    }
}

/// The contents of the files that a node's params name, by pointer.
fn contents<'a>(node: &'a Node, sources: &'a [Source]) -> Vec<(&'a str, &'a [Content])> {
    node.files.iter().zip(sources).map(|(input, source)| (&*input.pointer, &*source.contents)).collect()
}

/// The node whose artifact is the `number`-th of `port` of `id`.
fn source_name(graph: &Graph, id: NodeId, port: &str, number: usize) -> Option<String> {
    let mut inputs = graph.node(id).inputs.iter().filter(|input| &*input.port == port);
    inputs.nth(number).map(|input| graph.node(input.source).name.to_string())
}
