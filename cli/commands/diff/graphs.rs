//! Two files, or two profiles of one: which nodes they share, how the others differ, and, where both have run, which verdicts.

use dag_engine::graph::Graph;
use dag_engine::plan::Plan;
use dag_engine::plan::diff::{self, Parted, Side};
use indexmap::IndexMap;
use serde_json::json;

use super::verdicts::{self, Regraded};
use super::words::{groups, recipes};
use crate::context::Context;
use crate::experiment::Compiled;
use crate::failure::{Failure, Outcome};
use crate::text::Text;
use crate::words::{count, grouped};

pub(super) fn run(left: &Compiled, right: &Compiled, context: &Context) -> Outcome {
    let (left_recipes, right_recipes) = (recipes(left, context)?, recipes(right, context)?);
    let sides = [left, right];
    let left = Side { graph: &left.graph, recipes: &left_recipes };
    let right = Side { graph: &right.graph, recipes: &right_recipes };
    let found = diff::graphs(left, right);
    let regraded = regraded(&found.parted, sides, context)?;
    let changed = groups(&found.parted, left, right);
    let inherited = found.parted.iter().filter(|parted| parted.own.is_empty()).count();
    let (left, right) = (title(left.graph), title(right.graph));
    if context.json {
        let listed =
            changed.iter().map(|group| json!({ "nodes": group.nodes, "differences": group.differences }));
        return context.printer.json(&json!({
            "left": left, "right": right, "same": found.shared.len(), "only_by_their_inputs": inherited,
            "changed": listed.collect::<Vec<_>>(), "only_left": found.only_left, "only_right": found.only_right, "regraded": regraded,
        }));
    }
    let mut text = Text::new().bold(left).plain(" → ").bold(right).line();
    for group in &changed {
        let name = if let [only] = group.nodes.as_slice() { only } else { &group.base };
        text = group.render(name, text);
    }
    text = regraded.iter().fold(text, |text, regraded| regraded.render(text));
    for (sign, names) in [("  - ", collapsed(&found.only_left)), ("  + ", collapsed(&found.only_right))] {
        for name in names {
            text = text.warn(sign).bold(name).line();
        }
    }
    text = text.plain(format!("{} alike", count(found.shared.len() as u64, "node")));
    if inherited > 0 {
        text = text.plain(format!(", {} differ only by what enters them", grouped(inherited as u64)));
    }
    context.printer.data(&text.line())
}

/// The verdicts that counterparts have otherwise, of those that both sides have run.
fn regraded(parted: &[Parted], sides: [&Compiled; 2], context: &Context) -> Result<Vec<Regraded>, Failure> {
    let mut regraded = Vec::new();
    // A side that cannot be planned, since its data are elsewhere, has no verdicts to compare.
    let plans = sides.map(|side| side.plan(context));
    let [Ok(before), Ok(after)] = plans else { return Ok(regraded) };
    let artifacts = |side: &Compiled, plan: &Plan, name: &str| {
        let id = side.graph.find(name);
        let found = id.map(|id| side.artifacts_of(id, plan, context)).transpose()?;
        Ok::<_, Failure>(found.flatten().unwrap_or_default())
    };
    for pair in parted {
        let before = artifacts(sides[0], &before, &pair.left)?;
        let after = artifacts(sides[1], &after, &pair.right)?;
        regraded.extend(verdicts::between(&before, &after)?);
    }
    Ok(regraded)
}

fn title(graph: &Graph) -> String {
    graph.profile.as_ref().map_or_else(|| graph.name.clone(), |profile| format!("{}@{profile}", graph.name))
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
