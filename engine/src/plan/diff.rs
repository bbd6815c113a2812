//! The difference of two graphs, or of two arms of one: what they share, and where and by which field they part.
//!
//! Nodes are compared by [`NodeKey`], so nothing needs to have run. Two nodes of equal keys are one computation.

use std::collections::BTreeSet;
use std::sync::Arc;

use dag_cache::Digest;
use serde::Serialize;
use serde_json::Value;

use super::explain::difference_named;
use super::reason::{InputChange, Reason};
use super::{MissingSource, PlanError, contents, source_name};
use crate::graph::{Graph, Node, NodeId};
use crate::key::NodeKey;
use crate::manifest::{Manifest, ManifestInput};
use crate::remote::Content;
use crate::stat_cache::{Source, SourceFault, StatCache};

/// The recipes of all nodes of a graph.
#[derive(Debug, Clone)]
pub struct Recipes {
    manifests: Vec<Manifest>,
    keys: Vec<NodeKey>,
}

impl Recipes {
    /// Computes the recipes of `graph`; the content of files is part of them.
    pub fn of(graph: &Graph, files: &mut StatCache) -> Result<Self, PlanError> {
        let none = NodeKey(Digest::from_bytes([0; 32]));
        let mut keys = vec![none; graph.len()];
        let mut manifests = vec![None; graph.len()];
        let mut missing = Vec::new();
        for &id in graph.order() {
            let node = graph.node(id);
            let mut sources = Vec::with_capacity(node.files.len());
            for input in node.files.iter() {
                match files.source(input) {
                    Ok(source) => sources.push(source),
                    // What cannot be found out about is compared by its address.
                    Err(SourceFault::Remote(_)) => {
                        let address = input.path.to_string_lossy().into_owned();
                        let contents = vec![Content::Identity(address)];
                        sources.push(Source { files: Vec::new(), contents, address: None });
                    }
                    Err(fault) => missing.push(MissingSource {
                        node: node.name.to_string(),
                        pointer: input.pointer.clone(),
                        fault,
                    }),
                }
            }
            let inputs = node.inputs.iter().map(|input| ManifestInput {
                port: &input.port,
                digest: output_key(keys[input.source.index()], &input.output),
                coordinates: input.gathered.then(|| &*graph.node(input.source).coordinates),
            });
            let manifest =
                Manifest::new(&*node.step, inputs, &contents(node, &sources), node.seed, node.device());
            keys[id.index()] = NodeKey(manifest.digest());
            manifests[id.index()] = Some(manifest);
        }
        if !missing.is_empty() {
            return Err(PlanError::Sources(missing));
        }
        Ok(Self { manifests: manifests.into_iter().flatten().collect(), keys })
    }

    /// The key of a node.
    pub fn key(&self, id: NodeId) -> NodeKey {
        self.keys[id.index()]
    }

    fn value(&self, id: NodeId) -> Value {
        serde_json::from_slice(self.manifests[id.index()].bytes()).expect("a manifest is JSON")
    }
}

/// What stands for one output of a node in the recipes that read it.
fn output_key(key: NodeKey, output: &str) -> Digest {
    let mut bytes = key.0.as_bytes().to_vec();
    bytes.extend_from_slice(output.as_bytes());
    Digest::of(&bytes)
}

/// How two sides differ.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Difference {
    /// Nodes that are one computation on both sides.
    pub shared: Vec<String>,
    /// Nodes that have a counterpart which differs, in topological order.
    pub parted: Vec<Parted>,
    /// Nodes without a counterpart.
    pub only_left: Vec<String>,
    /// Nodes without a counterpart.
    pub only_right: Vec<String>,
}

/// Two counterparts that differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Parted {
    /// The node on the left.
    pub left: String,
    /// Its counterpart.
    pub right: String,
    /// What differs here. Not that an input differs whose source is itself among the parted: where there is nothing else,
    /// the difference only passes through.
    pub own: Vec<Reason>,
}

/// A side of a comparison.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// Its recipes.
    pub recipes: &'a Recipes,
}

/// Compares two graphs: nodes of one name are counterparts.
pub fn graphs(left: Side<'_>, right: Side<'_>) -> Difference {
    let pairs: Vec<(NodeId, Option<NodeId>)> =
        left.graph.order().iter().map(|&id| (id, right.graph.find(&left.graph.node(id).name))).collect();
    let mut found = compare(left, right, &pairs);
    let missing = |id: &&NodeId| left.graph.find(&right.graph.node(**id).name).is_none();
    let names = right.graph.order().iter().filter(missing).map(|&id| right.graph.node(id).name.to_string());
    found.only_right = names.collect();
    found
}

/// Compares two values of one axis: nodes at `left` have their counterpart at `right`, everything else being equal. Nodes
/// that are not over the axis are shared.
pub fn arms(side: Side<'_>, axis: &str, left: &str, right: &str) -> Difference {
    let graph = side.graph;
    let at = |node: &Node| {
        node.coordinates.iter().find(|(name, _)| &**name == axis).map(|(_, value)| value.to_string())
    };
    let counterpart = |id: NodeId, value: &str| {
        let node = graph.node(id);
        let there = |(name, here): &(Arc<str>, Arc<str>)| {
            if **name == *axis { value.to_owned() } else { here.to_string() }
        };
        let values: Vec<String> = node.coordinates.iter().map(there).collect();
        graph.find(&format!("{}@{}", node.base, values.join("/")))
    };
    let pairs: Vec<(NodeId, Option<NodeId>)> = graph
        .order()
        .iter()
        .filter(|&&id| at(graph.node(id)).as_deref() == Some(left))
        .map(|&id| (id, counterpart(id, right)))
        .collect();
    let mut found = compare(side, side, &pairs);
    for &id in graph.order() {
        match at(graph.node(id)).as_deref() {
            None => found.shared.push(graph.node(id).name.to_string()),
            Some(value) if value == right && counterpart(id, left).is_none() => {
                found.only_right.push(graph.node(id).name.to_string());
            }
            Some(_) => {}
        }
    }
    found
}

fn compare(left: Side<'_>, right: Side<'_>, pairs: &[(NodeId, Option<NodeId>)]) -> Difference {
    let mut found = Difference::default();
    let mut parted: BTreeSet<NodeId> = BTreeSet::new();
    for &(id, counterpart) in pairs {
        let name = left.graph.node(id).name.to_string();
        let Some(other) = counterpart else {
            found.only_left.push(name);
            continue;
        };
        if left.recipes.key(id) == right.recipes.key(other) {
            found.shared.push(name);
            continue;
        }
        let source = |port: &str, number: usize| source_name(right.graph, other, port, number);
        let reasons = difference_named(&left.recipes.value(id), &right.recipes.value(other), &source);
        let follows = |reason: &Reason| match reason {
            Reason::Input { node: Some(node), change: InputChange::Changed { .. }, .. } => {
                right.graph.find(node).is_some_and(|source| parted.contains(&source))
            }
            _ => false,
        };
        let own = reasons.into_iter().filter(|reason| !follows(reason)).collect();
        parted.insert(other);
        let right = right.graph.node(other).name.to_string();
        found.parted.push(Parted { left: name, right, own });
    }
    found
}

#[cfg(test)]
mod tests {
    use dag_cache::Layout;
    use serde_json::json;

    use super::*;
    use crate::testing::{ToyGraph, clock};

    fn graph(text: &str, extra: bool) -> Graph {
        let graph = ToyGraph::new()
            .node("same", "echo", json!({ "text": "same" }), &[])
            .node("a", "echo", json!({ "text": text }), &[])
            .node("cut", "head", json!({ "take": 1 }), &[("text", "a")]);
        if extra { graph.node("extra", "echo", json!({}), &[]) } else { graph }.build()
    }

    #[test]
    fn two_graphs_part_where_a_field_differs() {
        let mut files = StatCache::load(&Layout::new("/nowhere"), clock());
        let (left, right) = (graph("1", false), graph("2", true));
        let recipes = [&left, &right].map(|graph| Recipes::of(graph, &mut files).unwrap());
        let [one, two] = &recipes;
        let found = graphs(Side { graph: &left, recipes: one }, Side { graph: &right, recipes: two });
        assert_eq!(
            (found.shared, found.only_left, found.only_right),
            (vec!["same".to_owned()], vec![], vec!["extra".to_owned()])
        );
        let own = |parted: &Parted| parted.own.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let told: Vec<_> = found.parted.iter().map(|parted| (parted.left.as_str(), own(parted))).collect();
        assert_eq!(told, [("a", "param `text` \"1\" → \"2\"".to_owned()), ("cut", String::new())]);
    }
}
