//! `dag plan`: what would run, why, and what it would cost. It decides with the function that `dag run` uses.

use std::time::Duration;

use dag_engine::estimate::{History, Metrics, Survey, owes_nothing};
use dag_engine::event::NodeEstimate;
use dag_engine::graph::Graph;
use dag_engine::plan::{Decision, Plan, PlannedNode, Planner, Selection};
use dag_engine::run::preflight;
use dag_engine::service::Service;
use indexmap::IndexMap;
use serde_json::{Value, json};

use crate::args;
use crate::context::Context;
use crate::experiment::{Compiled, Surroundings, compiled, describe_missing};
use crate::failure::Outcome;
use crate::text::Text;
use crate::words::{count, duration, grouped, money, short};

pub fn run(arguments: &args::Plan, context: &Context) -> Outcome {
    let compiled = compiled(&arguments.experiment, &context.registry())?;
    compiled.warn(context);
    context.share(compiled.graph.remote.as_ref())?;
    let selection =
        Selection { targets: compiled.nodes(&arguments.nodes)?, rerun: compiled.nodes(&arguments.rerun)? };
    show(compiled, &selection, arguments.expand, context)
}

/// After a pilot: what all would take, by the records it left.
pub fn after_pilot(compiled: &Compiled, selection: &Selection, context: &Context) -> Outcome {
    context.printer.note(&Text::new().plain("a pilot; its records are kept. All would take:").line());
    show(compiled, selection, false, context)
}

fn show(compiled: &Compiled, selection: &Selection, expand: bool, context: &Context) -> Outcome {
    let graph = &compiled.graph;
    let mut planner = compiled.planner(context);
    let plan = planner.plan(selection)?;
    // Earlier runs are read only where something is to be estimated.
    let idle = plan.counts().hits == plan.nodes().len() as u64;
    let history = if idle { History::default() } else { History::load(context.view().layout()) };
    let mut metrics = Metrics::default();
    let lines: Vec<Line<'_>> = plan
        .nodes()
        .iter()
        .map(|planned| {
            let estimate = match planned.decision {
                Decision::Hit(_) => NodeEstimate::default(),
                _ => history.estimate(graph, &planner, planned.id, &mut metrics, Survey::Records),
            };
            Line::of(graph, &plan, planned, estimate)
        })
        .collect();
    let surroundings = Surroundings::at(compiled.root.clone());
    let missing = preflight(graph, &plan, &surroundings.capacity(None), &surroundings, &context.executors());
    if context.json {
        let nodes = lines.iter().zip(plan.nodes()).map(|(line, planned)| line.to_json(graph, &plan, planned));
        let nodes: Vec<Value> = nodes.collect();
        let total = total(&lines);
        return context.printer.json(&json!({
            "experiment": graph.name, "profile": graph.profile, "counts": plan.counts(),
            "estimate": total.0, "unknown": total.1, "nodes": nodes, "missing": missing, "warnings": plan.warnings,
            "services": services_of(graph, &planner, &plan).iter().map(Started::to_json).collect::<Vec<_>>(),
        }));
    }
    context.printer.data(&render(&lines, &plan, expand))?;
    for started in services_of(graph, &planner, &plan) {
        context.printer.data(&started.line())?;
    }
    for warning in &plan.warnings {
        context.printer.note(&Text::new().warn("warning: ").plain(warning).line());
    }
    if !missing.is_empty() {
        context.printer.note(&Text::new().line().then(describe_missing(&missing)));
    }
    Ok(())
}

/// A service that the run would start, and who asks it.
struct Started<'g> {
    service: &'g Service,
    nodes: Vec<&'g str>,
}

impl Started<'_> {
    fn place(&self) -> &str {
        self.service.executor.as_ref().map_or("here", |placement| &placement.name)
    }

    fn line(&self) -> Text {
        let mut line = format!(" ×{} on {}", self.service.replicas, self.place());
        if self.service.executor.is_none() {
            line = format!(" ×{} on this machine", self.service.replicas);
        }
        if self.service.resources.gpus > 0 {
            line += &format!(", {} each", count(self.service.resources.gpus.into(), "GPU"));
        }
        if self.service.serves_model() {
            line += ", for each model it serves";
        }
        line += &format!(", started for {}", self.nodes.join(", "));
        Text::new().plain("service ").bold(&self.service.name).plain(line).line()
    }

    fn to_json(&self) -> Value {
        json!({
            "service": self.service.name, "argv": self.service.argv, "replicas": self.service.replicas,
            "executor": self.service.executor.as_ref().map_or("local", |placement| &placement.name),
            "gpus": self.service.resources.gpus, "nodes": self.nodes,
        })
    }
}

/// The services that what is to run asks, with the names of the nodes as in the file.
fn services_of<'g>(graph: &'g Graph, planner: &Planner<'_>, plan: &Plan) -> Vec<Started<'g>> {
    let mut started: IndexMap<&str, Started<'g>> = IndexMap::new();
    for planned in plan.nodes().iter().filter(|node| !matches!(node.decision, Decision::Hit(_))) {
        let node = graph.node(planned.id);
        if node.run.services.is_empty() || owes_nothing(graph, planner, planned.id) {
            continue;
        }
        for service in node.run.services.iter().filter_map(|used| graph.services.get(&used.name)) {
            let one = started.entry(&service.name).or_insert_with(|| Started { service, nodes: Vec::new() });
            if !one.nodes.contains(&&*node.base) {
                one.nodes.push(&node.base);
            }
        }
    }
    started.into_values().collect()
}

/// One node of the plan in words.
struct Line<'g> {
    name: &'g str,
    base: &'g str,
    kind: &'static str,
    word: &'static str,
    why: String,
    estimate: NodeEstimate,
}

impl<'g> Line<'g> {
    fn of(graph: &'g Graph, plan: &Plan, planned: &PlannedNode, estimate: NodeEstimate) -> Self {
        let node = graph.node(planned.id);
        let (word, why) = match &planned.decision {
            Decision::Hit(_) => ("hit", String::new()),
            Decision::Run(reasons) => {
                let first = reasons.first().map_or_else(String::new, ToString::to_string);
                let more = reasons.len().saturating_sub(1);
                ("run", if more > 0 { format!("{first}, and {more} more") } else { first })
            }
            Decision::Unsettled => {
                ("wait", format!("depends on {}", waits_for(graph, plan, planned).join(", ")))
            }
        };
        Self { name: &node.name, base: &node.base, kind: node.step.kind(), word, why, estimate }
    }

    fn to_json(&self, graph: &Graph, plan: &Plan, planned: &PlannedNode) -> Value {
        let (decision, reasons, waits) = match &planned.decision {
            Decision::Hit(_) => ("hit", Value::Null, Value::Null),
            Decision::Run(reasons) => ("run", json!(reasons), Value::Null),
            Decision::Unsettled => ("unsettled", Value::Null, json!(waits_for(graph, plan, planned))),
        };
        json!({
            "node": self.name, "task": self.kind, "decision": decision, "why": self.why, "reasons": reasons,
            "waits_for": waits, "action": planned.action, "estimate": self.estimate,
        })
    }
}

/// The names of the nodes that an unsettled one waits for, those of one name once.
fn waits_for<'g>(graph: &'g Graph, plan: &Plan, planned: &PlannedNode) -> Vec<&'g str> {
    let waits = plan.waits_for(graph, planned.id);
    let mut bases: Vec<&str> = waits.iter().map(|&id| &*graph.node(id).base).collect();
    bases.dedup();
    bases
}

/// A line per node, or per nodes of one name that fare alike; then the sum.
fn render(lines: &[Line<'_>], plan: &Plan, expand: bool) -> Text {
    let mut groups: IndexMap<(&str, &str, &str), Vec<&Line<'_>>> = IndexMap::new();
    for line in lines {
        let name = if expand { line.name } else { line.base };
        groups.entry((name, line.word, &line.why)).or_default().push(line);
    }
    let shown = |name: &str, members: &[&Line<'_>]| match members {
        [only] => only.name.to_owned(),
        several => format!("{name} ×{}", grouped(several.len() as u64)),
    };
    let names =
        groups.iter().map(|((name, ..), members)| shown(name, members).chars().count()).max().unwrap_or(0);
    let kinds = lines.iter().map(|line| line.kind.len()).max().unwrap_or(0);
    let mut text = Text::new();
    for ((name, word, why), members) in &groups {
        text = match *word {
            "hit" => text.good("  hit   "),
            "run" => text.accent("  run   "),
            _ => text.warn("  wait  "),
        };
        text = text.bold(shown(name, members)).pad_to(10 + names).faint(members[0].kind);
        if !why.is_empty() {
            text = text.pad_to(12 + names + kinds).plain(why);
        }
        let (estimate, unknown) = sum(members.iter().map(|line| &line.estimate));
        let cost = costs(&estimate, unknown > 0 && *word != "hit");
        if *word != "hit" && !cost.is_empty() {
            text = text.faint(format!("  {cost}"));
        }
        text = text.line();
    }
    let counts = plan.counts();
    let all = count(lines.len() as u64, "node");
    if counts.runs + counts.unsettled == 0 {
        return text.good(format!("{all}, all up to date; nothing would run")).line();
    }
    let mut line = format!("{all}: {} up to date, {} to run", grouped(counts.hits), grouped(counts.runs));
    if counts.unsettled > 0 {
        line +=
            &format!(", {} after them unless what they read comes out the same", grouped(counts.unsettled));
    }
    let (estimate, unknown) = total(lines);
    let cost = costs(&estimate, false);
    if !cost.is_empty() {
        line += &format!("; about {cost}");
        if unknown > 0 {
            line += &format!(", and {} of unknown length", count(unknown, "node"));
        }
    }
    text.bold(line).line()
}

/// What all that is not a hit would take, and of how many nodes the time is unknown.
fn total(lines: &[Line<'_>]) -> (NodeEstimate, u64) {
    sum(lines.iter().filter(|line| line.word != "hit").map(|line| &line.estimate))
}

fn sum<'a>(estimates: impl Iterator<Item = &'a NodeEstimate>) -> (NodeEstimate, u64) {
    let mut total = NodeEstimate::default();
    let mut unknown = 0;
    let add =
        |sum: &mut Option<u64>, more: Option<u64>| *sum = more.map(|more| sum.unwrap_or(0) + more).or(*sum);
    for estimate in estimates {
        add(&mut total.records, estimate.records);
        add(&mut total.calls, estimate.calls);
        total.at_most |= estimate.at_most && estimate.calls.is_some();
        add(&mut total.input_tokens, estimate.input_tokens);
        add(&mut total.output_tokens, estimate.output_tokens);
        if let Some(usd) = estimate.usd {
            total.usd = Some(total.usd.unwrap_or(0.0) + usd);
            // Nodes are wrong independently of each other.
            let spread = total.usd_spread.unwrap_or(0.0).hypot(estimate.usd_spread.unwrap_or(0.0));
            total.usd_spread = Some(spread);
        }
        match estimate.seconds {
            Some(seconds) => total.seconds = Some(total.seconds.unwrap_or(0.0) + seconds),
            None => unknown += 1,
        }
    }
    (total, unknown)
}

fn costs(estimate: &NodeEstimate, unknown_time: bool) -> String {
    let mut parts = Vec::new();
    if let Some(records) = estimate.records {
        parts.push(count(records, "record"));
    }
    if let Some(calls) = estimate.calls {
        let most = if estimate.at_most { "at most " } else { "" };
        parts.push(format!("{most}{}", count(calls, "call")));
    }
    if let Some(usd) = estimate.usd {
        let spread = estimate.usd_spread.filter(|spread| *spread >= 0.005);
        let spread = spread.map_or_else(String::new, |spread| format!(" ± {spread:.2}"));
        parts.push(format!("{}{spread}", money(usd)));
    }
    let tokens = estimate.input_tokens.unwrap_or(0) + estimate.output_tokens.unwrap_or(0);
    if tokens > 0 {
        parts.push(format!("{} tokens", short(tokens as f64)));
    }
    match estimate.seconds {
        Some(seconds) => {
            parts.push(format!("{} of work", duration(Duration::from_secs_f64(seconds.max(0.0)))));
        }
        None if unknown_time && !parts.is_empty() => parts.push("time unknown".to_owned()),
        None => {}
    }
    parts.join(", ")
}
