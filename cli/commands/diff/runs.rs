//! Two runs: which nodes they computed alike, and how the manifests of the others differ.

use dag_cache::View;
use dag_engine::plan::difference;
use dag_engine::state::NodeState;
use serde_json::{Value, json};

use crate::commands::status::{Past, find_run};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::text::Text;
use crate::words::grouped;

pub(super) fn run(left: &str, right: &str, context: &Context) -> Outcome {
    let view = context.view();
    let layout = view.layout();
    let read = |run: &str| -> Result<Past, Failure> {
        let run = find_run(layout, Some(run))
            .map_err(|failure| failure.hint("`dag diff` takes files, or the ids of runs"))?;
        Past::read(layout, &run)
    };
    let (left, right) = (read(left)?, read(right)?);
    let mut same = 0;
    let mut changed = Vec::new();
    for (name, before) in &left.state.nodes {
        let Some(after) = right.state.nodes.get(name) else { continue };
        match (before.action, after.action) {
            (Some(a), Some(b)) if a == b => same += 1,
            (Some(_), Some(_)) => changed.push((name, how(&view, before, after)?)),
            _ => {}
        }
    }
    let only = |of: &Past, other: &Past| -> Vec<String> {
        of.state.nodes.keys().filter(|name| !other.state.nodes.contains_key(*name)).cloned().collect()
    };
    let (only_left, only_right) = (only(&left, &right), only(&right, &left));
    if context.json {
        let listed: Vec<Value> =
            changed.iter().map(|(name, how)| json!({ "node": name, "differences": how })).collect();
        return context.printer.json(&json!({
            "left": left.run, "right": right.run, "same": same, "changed": listed,
            "computed_only_left": only_left, "computed_only_right": only_right,
        }));
    }
    let mut text = Text::new().bold(&left.run).plain(" → ").bold(&right.run).line();
    for (name, how) in &changed {
        text = text.accent("  ~ ").bold(name).line();
        for difference in how {
            text = text.plain(format!("      {difference}")).line();
        }
    }
    for (sign, names) in [("  - ", &only_left), ("  + ", &only_right)] {
        for name in names {
            text = text.warn(sign).bold(name).faint("  computed here only").line();
        }
    }
    let line =
        format!("{} computed alike; nodes that were up to date are not listed in a run", grouped(same));
    context.printer.data(&text.plain(line).line())
}

/// What differs between what two runs computed of a node, told from the stored manifests.
fn how(view: &View, before: &NodeState, after: &NodeState) -> Result<Vec<String>, Failure> {
    let manifest = |node: &NodeState| -> Result<Option<Value>, Failure> {
        let Some(action) = node.action else { return Ok(None) };
        let record = view.record(&action.0)?;
        Ok(record.and_then(|record| serde_json::from_slice(&record.manifest).ok()))
    };
    Ok(match (manifest(before)?, manifest(after)?) {
        (Some(before), Some(after)) => difference(&before, &after).iter().map(ToString::to_string).collect(),
        _ => vec!["one of the records is gone".to_owned()],
    })
}
