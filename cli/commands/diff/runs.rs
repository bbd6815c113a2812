//! Two runs: which nodes they had alike, how the manifests of the others differ, and which verdicts with them.

use std::collections::BTreeMap;

use dag_cache::View;
use dag_engine::key::ActionKey;
use dag_engine::plan::{LastActions, difference};
use serde_json::{Value, json};

use super::verdicts;
use crate::artifact::Artifact;
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
    // The nodes of a run with what they computed or reused; of a run that did not end, what it computed.
    let actions = |past: &Past| -> BTreeMap<String, ActionKey> {
        let mut actions = LastActions::read(layout.actions(&past.run)).actions().clone();
        let computed = past.state.nodes.iter().filter_map(|(name, node)| Some((name.clone(), node.action?)));
        actions.extend(computed);
        actions
    };
    let (left_actions, right_actions) = (actions(&left), actions(&right));
    let mut same = 0;
    let (mut changed, mut regraded) = (Vec::new(), Vec::new());
    for (name, before) in &left_actions {
        match right_actions.get(name) {
            Some(after) if before == after => same += 1,
            Some(after) => {
                changed.push((name, how(&view, before, after)?));
                regraded.extend(verdicts::between(
                    &artifacts(&view, name, before)?,
                    &artifacts(&view, name, after)?,
                )?);
            }
            None => {}
        }
    }
    let only = |of: &BTreeMap<String, ActionKey>, other: &BTreeMap<String, ActionKey>| -> Vec<String> {
        of.keys().filter(|name| !other.contains_key(*name)).cloned().collect()
    };
    let (only_left, only_right) = (only(&left_actions, &right_actions), only(&right_actions, &left_actions));
    if context.json {
        let listed: Vec<Value> =
            changed.iter().map(|(name, how)| json!({ "node": name, "differences": how })).collect();
        return context.printer.json(&json!({
            "left": left.run, "right": right.run, "same": same, "changed": listed,
            "only_left": only_left, "only_right": only_right, "regraded": regraded,
        }));
    }
    let mut text = Text::new().bold(&left.run).plain(" → ").bold(&right.run).line();
    for (name, how) in &changed {
        text = text.accent("  ~ ").bold(name).line();
        for difference in how {
            text = text.plain(format!("      {difference}")).line();
        }
    }
    text = regraded.iter().fold(text, |text, regraded| regraded.render(text));
    for (sign, names) in [("  - ", &only_left), ("  + ", &only_right)] {
        for name in names {
            text = text.warn(sign).bold(name).line();
        }
    }
    let line =
        format!("{} computed alike; nodes that were up to date are not listed in a run", grouped(same));
    context.printer.data(&text.plain(line).line())
}

fn artifacts(view: &View, node: &str, action: &ActionKey) -> Result<Vec<Artifact>, Failure> {
    let record = view.record(&action.0)?;
    Ok(record.map(|record| Artifact::of_record(view, node, record)).unwrap_or_default())
}

/// What differs between two actions of a node, told from the stored manifests.
fn how(view: &View, before: &ActionKey, after: &ActionKey) -> Result<Vec<String>, Failure> {
    let manifest = |action: &ActionKey| -> Result<Option<Value>, Failure> {
        let record = view.record(&action.0)?;
        Ok(record.and_then(|record| serde_json::from_slice(&record.manifest).ok()))
    };
    Ok(match (manifest(before)?, manifest(after)?) {
        (Some(before), Some(after)) => difference(&before, &after).iter().map(ToString::to_string).collect(),
        _ => vec!["one of the records is gone".to_owned()],
    })
}
