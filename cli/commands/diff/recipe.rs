//! The recipe of a node as a value that two graphs can be compared by, before anything has run.

use std::collections::BTreeMap;

use dag_engine::graph::{Graph, Node, NodeId};
use dag_engine::plan::{Reason, difference};
use serde_json::{Value, json};

/// What one node does, with names in place of artifacts: a manifest as `plan::difference` compares it.
fn recipe(graph: &Graph, node: &Node, name_of: &dyn Fn(NodeId) -> String) -> Value {
    let mut inputs: BTreeMap<&str, Value> = BTreeMap::new();
    for input in &node.inputs {
        let artifact = json!(format!("{}.{}", name_of(input.source), input.output));
        if input.gathered {
            let source = graph.node(input.source);
            let at: BTreeMap<&str, &str> =
                source.coordinates.iter().map(|(axis, value)| (&**axis, &**value)).collect();
            let entry = json!({ "at": at, "artifact": artifact });
            match inputs.entry(&*input.port).or_insert_with(|| Value::Array(Vec::new())) {
                Value::Array(gathered) => gathered.push(entry),
                other => *other = entry,
            }
        } else {
            inputs.insert(&*input.port, artifact);
        }
    }
    json!({
        "schema": 1, "kind": node.step.kind(), "version": node.step.version(),
        "params": node.step.params(), "inputs": inputs, "seed": node.seed,
    })
}

/// A side of a comparison: a node, its graph, and what the nodes that enter it are called for the comparison.
pub(super) struct Side<'a> {
    /// The graph.
    pub(super) graph: &'a Graph,
    /// The node.
    pub(super) id: NodeId,
    /// Gives nodes that correspond to each other one name.
    pub(super) name_of: &'a dyn Fn(NodeId) -> String,
}

/// How two nodes differ of their own; what their inputs differ in is told where those stand.
pub(super) fn differences(left: &Side<'_>, right: &Side<'_>) -> Vec<String> {
    let value = |side: &Side<'_>| recipe(side.graph, side.graph.node(side.id), side.name_of);
    let (before, after) = (value(left), value(right));
    difference(&before, &after).iter().map(|reason| worded(reason, &before, &after)).collect()
}

/// An input that differs is told with the names on both sides.
fn worded(reason: &Reason, before: &Value, after: &Value) -> String {
    let Reason::Input { port, at, .. } = reason else { return reason.to_string() };
    match (before["inputs"][port].as_str(), after["inputs"][port].as_str()) {
        (Some(before), Some(after)) => format!("input `{port}` {before} → {after}"),
        _ if at.is_empty() => reason.to_string(),
        _ => format!("input `{port}` at {at} differs"),
    }
}
