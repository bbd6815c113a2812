//! What the nodes that will run need and that is not there: all of it at once, before anything is spent.

use serde::Serialize;

use super::schedule::{Capacity, Demand};
use crate::graph::{Graph, Node};
use crate::plan::{Decision, Plan};
use crate::task::Environment;

/// Something that is missing, and for which nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingThing {
    /// What is missing.
    pub what: String,
    /// The next step.
    pub help: String,
    /// The nodes that need it, in the order of the plan.
    pub nodes: Vec<String>,
}

/// What is missing for the nodes of `plan` that will run, or will unless what enters them comes out the same.
pub fn preflight(
    graph: &Graph,
    plan: &Plan,
    capacity: &Capacity,
    environment: &dyn Environment,
) -> Vec<MissingThing> {
    let mut missing: indexmap::IndexMap<(String, String), Vec<String>> = indexmap::IndexMap::new();
    for planned in plan.nodes().iter().filter(|node| !matches!(node.decision, Decision::Hit(_))) {
        let node = graph.node(planned.id);
        let mut needs: Vec<(String, String)> = node
            .step
            .preflight(&node.run.task, environment)
            .into_iter()
            .map(|missing| (missing.what, missing.help))
            .collect();
        let unresolved = plan.missing().iter().filter(|(id, _)| *id == planned.id);
        needs.extend(unresolved.map(|(_, missing)| (missing.what.clone(), missing.help.clone())));
        if let Some((what, asked, offered)) = capacity.refuses(&demand(node)) {
            let help = format!("ask for less under `run:`, or offer more: this run has {offered}");
            needs.push((format!("{asked} of `{what}`"), help));
        }
        for need in needs {
            missing.entry(need).or_default().push(node.name.to_string());
        }
    }
    missing.into_iter().map(|((what, help), nodes)| MissingThing { what, help, nodes }).collect()
}

/// What a node holds while it runs.
pub(crate) fn demand(node: &Node) -> Demand {
    let resources = node.resources();
    Demand {
        cpus: resources.cpus,
        gpus: resources.gpus,
        memory: resources.memory,
        limits: node.run.limits.clone(),
    }
}
