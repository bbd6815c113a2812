//! `Graph`: the nodes of an experiment, every axis expanded, acyclic, with port-to-port inputs (petgraph).

mod compile;
mod cycle;
mod fault;
mod reference;
mod run_options;
mod services;
mod shared;
#[cfg(test)]
mod test_kinds;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::path::PathBuf;
use std::sync::Arc;

use petgraph::graph::{DiGraph, NodeIndex};
use serde_json::Value;

pub use self::compile::compile;
pub(crate) use self::run_options::ENGINE_OPTIONS;
pub(crate) use self::services::{SERVICE_FIELDS, SERVICE_OPTIONS};
use crate::registry::Step;
use crate::service::{Service, ServiceUse};
use crate::spec::RemoteSpec;
use crate::task::{FileKind, Resources};

/// Where a node stands on the axes it is over, as (axis, value), in the order of its `over:`.
pub type Coordinates = Arc<[(Arc<str>, Arc<str>)]>;

/// Index of a node in its graph.
pub type NodeId = NodeIndex<u32>;

/// A step placed in a graph.
pub struct Node {
    /// The name in the file, with the coordinates: `trained@r1/1`. In no key.
    pub name: Arc<str>,
    /// The name in the file: `trained`.
    pub base: Arc<str>,
    /// Where it stands on its axes.
    pub coordinates: Coordinates,
    /// What it does.
    pub step: Arc<dyn Step>,
    /// What enters its ports: declared ports in their order, gathered inputs in the order of their coordinates.
    pub inputs: Vec<NodeInput>,
    /// The files its params name.
    pub files: Arc<[FileInput]>,
    /// How to run it; in no key.
    pub run: Arc<RunOptions>,
    /// The experiment's seed, where the step uses it.
    pub seed: Option<u64>,
    /// Where it is written, for messages: file, line and column.
    pub location: Location,
}

/// One artifact that enters a node.
#[derive(Debug, Clone)]
pub struct NodeInput {
    /// The port it enters.
    pub port: Arc<str>,
    /// The node it comes from.
    pub source: NodeId,
    /// The output port it leaves.
    pub output: Arc<str>,
    /// Whether it was gathered (`name@*`, or one of a list); then the coordinates of the source are in the key.
    pub gathered: bool,
}

/// Files that a param names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInput {
    /// JSON pointer of the param below `with:`.
    pub pointer: String,
    /// Absolute path or pattern; an address as it is written.
    pub path: PathBuf,
    /// How to read it.
    pub kind: FileKind,
}

/// The operational half of a node: all of `run:`, in no key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunOptions {
    /// Threads it may keep busy.
    pub cpus: Option<u32>,
    /// GPUs it needs, each by its own id.
    pub gpus: Option<u32>,
    /// Bytes of memory to reserve.
    pub memory: Option<u64>,
    /// Named limits it counts against, such as one slot of `judge-server`.
    pub limits: BTreeMap<String, u32>,
    /// How often a transient failure is tried again.
    pub retries: u32,
    /// Seconds after which an attempt is stopped.
    pub timeout: Option<f64>,
    /// Output port → path (relative to the experiment file) where a copy of the artifact is kept.
    pub publish: BTreeMap<String, PathBuf>,
    /// Who runs it, if not the process of the run.
    pub executor: Option<Placement>,
    /// Among how many workers its records are shared.
    pub shards: Option<u32>,
    /// The options of the task kind itself.
    pub task: Value,
    /// Places in `task` (JSON pointers) whose values the environment gave.
    pub secrets: Vec<String>,
    /// The services it asks.
    pub services: Vec<ServiceUse>,
}

/// The executor of a node, and its options.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// Its name.
    pub name: String,
    /// What `run: { executor: { NAME: … } }` holds.
    pub options: Value,
}

/// A place in an experiment file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Location {
    /// The file as the user named it.
    pub file: Arc<str>,
    /// Line, from one.
    pub line: u32,
    /// Column, from one.
    pub column: u32,
}

impl Node {
    /// The slots it holds while it runs: what the step asks for, overridden by `run:`.
    pub fn resources(&self) -> Resources {
        let asked = self.step.resources();
        Resources {
            cpus: self.run.cpus.unwrap_or(asked.cpus),
            gpus: self.run.gpus.unwrap_or(asked.gpus),
            memory: self.run.memory.unwrap_or(asked.memory),
        }
    }

    /// What its key says of where it is computed.
    pub fn device(&self) -> Option<&'static str> {
        self.step.device(self.resources().gpus)
    }
}

/// The nodes of an experiment and what flows between them.
pub struct Graph {
    /// The experiment's name.
    pub name: String,
    /// The chosen profile.
    pub profile: Option<String>,
    /// Capacity of the named limits of `run: { limits }`.
    pub limits: BTreeMap<String, u32>,
    /// Where results are shared.
    pub remote: Option<RemoteSpec>,
    /// The services that nodes may ask, by name.
    pub services: BTreeMap<String, Arc<Service>>,
    /// Axis → its values, in order.
    pub axes: indexmap::IndexMap<Arc<str>, Vec<Arc<str>>>,
    nodes: DiGraph<Node, (), u32>,
    order: Vec<NodeId>,
    names: BTreeMap<Arc<str>, NodeId>,
}

impl Graph {
    /// A graph of `nodes`, whose inputs refer to each other by their position in it.
    ///
    /// # Errors
    /// A cycle, as the names of the nodes along it.
    pub fn new(name: String, profile: Option<String>, nodes: Vec<Node>) -> Result<Self, Vec<Arc<str>>> {
        let mut graph = DiGraph::with_capacity(nodes.len(), nodes.iter().map(|node| node.inputs.len()).sum());
        let mut names = BTreeMap::new();
        let edges: Vec<(NodeId, NodeId)> = nodes
            .iter()
            .enumerate()
            .flat_map(|(index, node)| node.inputs.iter().map(move |input| (input.source, NodeId::new(index))))
            .collect();
        for node in nodes {
            let node_name = Arc::clone(&node.name);
            names.insert(node_name, graph.add_node(node));
        }
        for (from, to) in edges {
            graph.add_edge(from, to, ());
        }
        match topological(&graph) {
            Ok(order) => Ok(Self {
                name,
                profile,
                limits: BTreeMap::new(),
                remote: None,
                services: BTreeMap::new(),
                axes: indexmap::IndexMap::new(),
                nodes: graph,
                order,
                names,
            }),
            Err(Cyclic) => Err(a_cycle(&graph)),
        }
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.node_count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The node with this index.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// All nodes, each after everything that enters it, and otherwise in the order of the file.
    pub fn order(&self) -> &[NodeId] {
        &self.order
    }

    /// The node called `name`, coordinates included.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.names.get(name).copied()
    }

    /// The nodes that `selector` means: one node, or every node of a base name (`trained`), or those whose coordinates
    /// match (`trained@r1`, `trained@r1/*`). In topological order.
    pub fn select(&self, selector: &str) -> Vec<NodeId> {
        if let Some(id) = self.find(selector) {
            return vec![id];
        }
        let (base, wanted) = selector.split_once('@').map_or((selector, None), |(base, at)| (base, Some(at)));
        let wanted: Option<Vec<&str>> = wanted.map(|at| at.split('/').collect());
        let matches = |node: &Node| {
            &*node.base == base
                && wanted.as_ref().is_none_or(|wanted| {
                    wanted.len() <= node.coordinates.len()
                        && wanted
                            .iter()
                            .zip(node.coordinates.iter())
                            .all(|(want, (_, value))| *want == "*" || *want == &**value)
                })
        };
        self.order.iter().copied().filter(|&id| matches(self.node(id))).collect()
    }

    /// The nodes that `id` feeds, each once, in index order.
    pub fn dependents(&self, id: NodeId) -> Vec<NodeId> {
        let mut dependents: Vec<_> = self.nodes.neighbors(id).collect();
        dependents.sort_unstable();
        dependents.dedup();
        dependents
    }

    /// The nodes that no other node reads: what a run without targets is after.
    pub fn sinks(&self) -> Vec<NodeId> {
        self.order.iter().copied().filter(|&id| self.nodes.neighbors(id).next().is_none()).collect()
    }

    /// `targets` and everything they need, in topological order.
    pub fn closure(&self, targets: &[NodeId]) -> Vec<NodeId> {
        let mut wanted = vec![false; self.len()];
        let mut stack = targets.to_vec();
        while let Some(id) = stack.pop() {
            if !std::mem::replace(&mut wanted[id.index()], true) {
                stack.extend(self.node(id).inputs.iter().map(|input| input.source));
            }
        }
        self.order.iter().copied().filter(|id| wanted[id.index()]).collect()
    }
}

/// Some node needs itself.
struct Cyclic;

/// The nodes in topological order, those that could come next by their index.
///
/// petgraph's own `toposort` is right too, but its order is that of a depth-first walk, in which nobody would look for a
/// node of the file.
fn topological(graph: &DiGraph<Node, (), u32>) -> Result<Vec<NodeId>, Cyclic> {
    let mut waits: Vec<usize> = graph.node_weights().map(|node| node.inputs.len()).collect();
    let mut next: BinaryHeap<Reverse<NodeId>> =
        graph.node_indices().filter(|id| waits[id.index()] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(waits.len());
    while let Some(Reverse(id)) = next.pop() {
        order.push(id);
        for reader in graph.neighbors(id) {
            waits[reader.index()] -= 1;
            if waits[reader.index()] == 0 {
                next.push(Reverse(reader));
            }
        }
    }
    if order.len() == waits.len() { Ok(order) } else { Err(Cyclic) }
}

/// The names along a cycle of a graph that has one, the first repeated at the end.
fn a_cycle(graph: &DiGraph<Node, (), u32>) -> Vec<Arc<str>> {
    let closes =
        |component: &Vec<NodeId>| component.len() > 1 || graph.contains_edge(component[0], component[0]);
    let component = petgraph::algo::tarjan_scc(graph).into_iter().find(closes).unwrap_or_default();
    let Some(&start) = component.last() else { return Vec::new() };
    // Inside a strongly connected component every walk can go on, so following any inner edge closes a cycle.
    let mut path = vec![start];
    loop {
        let last = path[path.len() - 1];
        let Some(next) = graph.neighbors(last).find(|next| component.contains(next)) else { break };
        if let Some(at) = path.iter().position(|&seen| seen == next) {
            path.drain(..at);
            path.push(next);
            break;
        }
        path.push(next);
    }
    path.into_iter().map(|id| Arc::clone(&graph[id].name)).collect()
}
