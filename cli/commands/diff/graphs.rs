//! Two files, or two profiles of one: which nodes they share, and how the others differ.

use std::collections::BTreeMap;

use dag_engine::graph::{Graph, NodeId};
use indexmap::IndexMap;
use serde_json::json;

use super::recipe::{Side, differences};
use crate::context::Context;
use crate::experiment::Compiled;
use crate::failure::Outcome;
use crate::text::Text;
use crate::words::{count, grouped};

pub(super) fn run(left: &Compiled, right: &Compiled, context: &Context) -> Outcome {
    let (left, right) = (&left.graph, &right.graph);
    let mut same = 0;
    let mut inherited = 0;
    let mut changed: IndexMap<(String, Vec<String>), Vec<String>> = IndexMap::new();
    let mut differs: BTreeMap<NodeId, bool> = BTreeMap::new();
    let mut only_left = Vec::new();
    for &id in left.order() {
        let node = left.node(id);
        let Some(other) = right.find(&node.name) else {
            differs.insert(id, true);
            only_left.push(node.name.to_string());
            continue;
        };
        let name_left = |id: NodeId| left.node(id).name.to_string();
        let name_right = |id: NodeId| right.node(id).name.to_string();
        let own = differences(
            &Side { graph: left, id, name_of: &name_left },
            &Side { graph: right, id: other, name_of: &name_right },
        );
        let above = node.inputs.iter().any(|input| differs.get(&input.source).copied().unwrap_or(false));
        differs.insert(id, above || !own.is_empty());
        if !own.is_empty() {
            changed.entry((node.base.to_string(), own)).or_default().push(node.name.to_string());
        } else if above {
            inherited += 1;
        } else {
            same += 1;
        }
    }
    let only_right: Vec<String> = only_in(right, left);
    if context.json {
        let listed: Vec<_> =
            changed.iter().map(|((_, how), nodes)| json!({ "nodes": nodes, "differences": how })).collect();
        return context.printer.json(&json!({
            "left": title(left), "right": title(right), "same": same, "only_by_their_inputs": inherited,
            "changed": listed, "only_left": only_left, "only_right": only_right,
        }));
    }
    let mut text = Text::new().bold(title(left)).plain(" → ").bold(title(right)).line();
    for ((base, how), nodes) in &changed {
        let name = if let [only] = nodes.as_slice() {
            only.clone()
        } else {
            format!("{base} ×{}", grouped(nodes.len() as u64))
        };
        text = text.accent("  ~ ").bold(name).line();
        for difference in how {
            text = text.plain(format!("      {difference}")).line();
        }
    }
    for (sign, names) in [("  - ", collapsed(&only_left)), ("  + ", collapsed(&only_right))] {
        for name in names {
            text = text.warn(sign).bold(name).line();
        }
    }
    text = text.plain(format!("{} alike", count(same, "node")));
    if inherited > 0 {
        text = text.plain(format!(", {} differ only by what enters them", grouped(inherited)));
    }
    context.printer.data(&text.line())
}

fn title(graph: &Graph) -> String {
    graph.profile.as_ref().map_or_else(|| graph.name.clone(), |profile| format!("{}@{profile}", graph.name))
}

fn only_in(graph: &Graph, other: &Graph) -> Vec<String> {
    let names = graph.order().iter().map(|&id| &graph.node(id).name);
    names.filter(|name| other.find(name).is_none()).map(ToString::to_string).collect()
}

/// Names of one base as one, with a count.
fn collapsed(names: &[String]) -> Vec<String> {
    let mut groups: IndexMap<&str, Vec<&String>> = IndexMap::new();
    for name in names {
        groups.entry(name.split('@').next().unwrap_or(name)).or_default().push(name);
    }
    let shown = |(base, names): (&str, Vec<&String>)| match names.as_slice() {
        [only] => (*only).clone(),
        several => format!("{base} ×{}", grouped(several.len() as u64)),
    };
    groups.into_iter().map(shown).collect()
}
