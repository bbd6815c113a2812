//! Differences of nodes in words, those of one name that are alike told once.

use dag_engine::graph::{Graph, Node};
use dag_engine::plan::Reason;
use dag_engine::plan::diff::{Parted, Recipes, Side};
use indexmap::IndexMap;

use crate::context::Context;
use crate::experiment::Compiled;
use crate::failure::Failure;
use crate::text::Text;
use crate::words::grouped;

/// The recipes of all nodes, the content of the local files they read included.
pub(super) fn recipes(compiled: &Compiled, context: &Context) -> Result<Recipes, Failure> {
    Ok(Recipes::of(&compiled.graph, compiled.planner(context).files())?)
}

/// Nodes of one name that differ alike: the name, how, and the nodes.
pub(super) struct Group {
    /// The name in the file.
    pub(super) base: String,
    /// How they differ, in words.
    pub(super) differences: Vec<String>,
    /// The nodes, as they are called on the left.
    pub(super) nodes: Vec<String>,
}

/// The counterparts that differ of their own.
pub(super) fn groups(parted: &[Parted], left: Side<'_>, right: Side<'_>) -> Vec<Group> {
    let node = |graph: &Graph, name: &str| graph.find(name).map(|id| graph.node(id).base.to_string());
    let mut groups: IndexMap<(String, Vec<String>), Vec<String>> = IndexMap::new();
    for parted in parted.iter().filter(|parted| !parted.own.is_empty()) {
        let differences = parted.own.iter().map(|reason| worded(reason, parted, left.graph, right.graph));
        let base = node(left.graph, &parted.left).unwrap_or_default();
        groups.entry((base, differences.collect())).or_default().push(parted.left.clone());
    }
    let group = |((base, differences), nodes)| Group { base, differences, nodes };
    groups.into_iter().map(group).collect()
}

/// An input that differs is told with the names on both sides.
fn worded(reason: &Reason, parted: &Parted, left: &Graph, right: &Graph) -> String {
    let Reason::Input { port, at, .. } = reason else { return reason.to_string() };
    let source = |graph: &Graph, name: &str| {
        let node: &Node = graph.node(graph.find(name)?);
        let mut inputs = node.inputs.iter().filter(|input| *input.port == **port);
        let only = inputs.next().filter(|input| !input.gathered && inputs.next().is_none())?;
        Some(format!("{}.{}", graph.node(only.source).name, only.output))
    };
    match (source(left, &parted.left), source(right, &parted.right)) {
        (Some(before), Some(after)) if before != after => format!("input `{port}` {before} → {after}"),
        _ if at.is_empty() => format!("input `{port}` differs"),
        _ => format!("input `{port}` at {at} differs"),
    }
}

impl Group {
    /// A line for the nodes, and one for each difference.
    pub(super) fn render(&self, name: &str, text: Text) -> Text {
        let times = match self.nodes.len() {
            1 => String::new(),
            several => format!(" ×{}", grouped(several as u64)),
        };
        let text = text.accent("  ~ ").bold(name).plain(times).line();
        self.differences
            .iter()
            .fold(text, |text, difference| text.plain(format!("      {difference}")).line())
    }
}
