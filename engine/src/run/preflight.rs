//! What the nodes that will run need and that is not there: all of it at once, before anything is spent.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::schedule::{Capacity, Demand};
use crate::executor::Executor;
use crate::graph::{Graph, Node};
use crate::plan::{Decision, Plan};
use crate::service::Service;
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
    executors: &BTreeMap<String, Arc<dyn Executor>>,
) -> Vec<MissingThing> {
    let mut missing: indexmap::IndexMap<(String, String), Vec<String>> = indexmap::IndexMap::new();
    for planned in plan.nodes().iter().filter(|node| !matches!(node.decision, Decision::Hit(_))) {
        let node = graph.node(planned.id);
        let gpus = node.resources().gpus as usize;
        let found = match &node.run.executor {
            None => {
                node.step.preflight(&node.run.task, &Given { here: environment, gpus, is_elsewhere: false })
            }
            Some(placement) => {
                let there = Given { here: environment, gpus, is_elsewhere: true };
                let executor = executors.get(&placement.name);
                let own = executor.map(|executor| executor.preflight(&placement.options, environment));
                own.into_iter().flatten().chain(node.step.preflight(&node.run.task, &there)).collect()
            }
        };
        let mut needs: Vec<(String, String)> =
            found.into_iter().map(|missing| (missing.what, missing.help)).collect();
        let unresolved = plan.missing().iter().filter(|(id, _)| *id == planned.id);
        needs.extend(unresolved.map(|(_, missing)| (missing.what.clone(), missing.help.clone())));
        for service in node.run.services.iter().filter_map(|used| graph.services.get(&used.name)) {
            needs.extend(missing_for(service, capacity, environment, executors));
        }
        needs.extend(missing_together(graph, node, capacity));
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

/// The GPUs that a node and the services it asks hold at once, where they are too many though each of them would fit.
fn missing_together(graph: &Graph, node: &Node, capacity: &Capacity) -> Option<(String, String)> {
    let services = node.run.services.iter().filter_map(|used| graph.services.get(&used.name));
    let each: Vec<u32> = services.map(|service| service.local_gpus()).chain([demand(node).gpus]).collect();
    let (asked, offered) = (each.iter().sum::<u32>() as usize, capacity.gpus.len());
    let is_news = each.iter().all(|gpus| *gpus as usize <= offered);
    (is_news && asked > offered).then(|| {
        let help = format!("they run at once: ask for less under their `run:`; this run has {offered}");
        (format!("{asked} of `gpus` for a node and the services it asks"), help)
    })
}

/// What a service needs and that is not there.
fn missing_for(
    service: &Service,
    capacity: &Capacity,
    environment: &dyn Environment,
    executors: &BTreeMap<String, Arc<dyn Executor>>,
) -> Vec<(String, String)> {
    if let Some(placement) = &service.executor {
        let executor = executors.get(&placement.name);
        let missing = executor.map(|executor| executor.preflight(&placement.options, environment));
        return missing.into_iter().flatten().map(|missing| (missing.what, missing.help)).collect();
    }
    let mut missing = Vec::new();
    let program = service.argv.first().map_or("", String::as_str);
    if !environment.has_program(program) {
        missing.push((
            format!("`{program}`, the program of the service `{}`", service.name),
            "install it, give its path as the first word of `argv`, or run the service where it is: `run: { executor: … }`".to_owned(),
        ));
    }
    let (asked, offered) = (service.local_gpus() as usize, capacity.gpus.len());
    if asked > offered {
        missing.push((
            format!("{asked} of `gpus` for the service `{}`", service.name),
            format!("ask for less under its `run:`, or for fewer `replicas`: this run has {offered}"),
        ));
    }
    missing
}

/// The environment of one step: with the GPUs that it is given. Where an executor runs it, programs cannot be looked for.
struct Given<'a> {
    here: &'a dyn Environment,
    gpus: usize,
    is_elsewhere: bool,
}

impl Environment for Given<'_> {
    fn var(&self, name: &str) -> Option<String> {
        self.here.var(name)
    }
    fn has_program(&self, name: &str) -> bool {
        self.is_elsewhere || self.here.has_program(name)
    }
    fn gpus(&self) -> usize {
        self.gpus
    }
    fn root(&self) -> &Path {
        self.here.root()
    }
}

/// What a node holds of this machine while it runs; nothing but a place among the jobs where an executor runs it.
pub(crate) fn demand(node: &Node) -> Demand {
    if let Some(placement) = &node.run.executor {
        let mut limits = node.run.limits.clone();
        limits.insert(executor_limit(&placement.name), 1);
        return Demand { limits, ..Demand::default() };
    }
    let resources = node.resources();
    Demand {
        cpus: resources.cpus,
        gpus: resources.gpus,
        memory: resources.memory,
        limits: node.run.limits.clone(),
    }
}

/// The limit that the nodes of an executor count against. No file can name it, since it is no name.
pub(crate) fn executor_limit(name: &str) -> String {
    format!("executor {name}")
}
