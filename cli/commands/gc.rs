//! `dag gc`: what no run needs any more, shown first and with `--yes` removed.

use std::time::Duration;

use dag_cache::gc;
use dag_engine::Digest;
use dag_engine::plan::Decision;
use serde_json::json;

use crate::args::{ExperimentArguments, Gc};
use crate::context::Context;
use crate::experiment::compiled;
use crate::failure::{Failure, Outcome};
use crate::text::Text;
use crate::words::{bytes, count};

pub fn run(arguments: &Gc, context: &Context) -> Outcome {
    let grace = Duration::try_from_secs_f64(arguments.keep * 86_400.0)
        .map_err(|_| Failure::user(format!("`--keep {}` is no number of days", arguments.keep)))?;
    let roots = roots(arguments, context)?;
    let plan = gc::plan(&context.store, &roots, grace)?;
    let done = if arguments.yes { Some(gc::apply(&plan)?) } else { None };
    if context.json {
        return context.printer.json(&json!({ "plan": plan, "done": done }));
    }
    let text = match done {
        Some(done) => Text::new()
            .plain(format!("removed {}, {}", count(done.removed, "file"), bytes(done.bytes)))
            .line(),
        None => Text::new()
            .plain(format!(
                "{} and {} can go: {}; {} stay, {}",
                count(plan.blobs.len() as u64, "blob"),
                count(plan.strays.len() as u64, "left-over"),
                bytes(plan.bytes()),
                count(plan.kept_blobs, "blob"),
                bytes(plan.kept_bytes)
            ))
            .line(),
    };
    context.printer.data(&text)?;
    if !arguments.yes && plan.bytes() > 0 {
        context.printer.note(
            &Text::new()
                .accent("hint: ")
                .plain("`dag gc --yes` removes it; records stay, so nothing is paid again")
                .line(),
        );
    }
    Ok(())
}

/// The actions whose artifacts the given files stand for.
fn roots(arguments: &Gc, context: &Context) -> Result<Vec<Digest>, Failure> {
    let mut roots = Vec::new();
    for file in &arguments.files {
        let experiment = ExperimentArguments { file: file.clone(), profile: None, set: Vec::new() };
        let compiled = compiled(&experiment, &context.registry())?;
        let plan = compiled.plan(context)?;
        roots.extend(plan.nodes().iter().filter_map(|node| match &node.decision {
            Decision::Hit(settled) => Some(settled.action.0),
            _ => None,
        }));
    }
    Ok(roots)
}
