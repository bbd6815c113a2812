//! `dag check`: every fault of a file at once, without running anything.

use serde_json::json;

use crate::args::Check;
use crate::context::Context;
use crate::experiment::compiled;
use crate::failure::Outcome;
use crate::text::Text;
use crate::words::count;

pub fn run(arguments: &Check, context: &Context) -> Outcome {
    let compiled = compiled(&arguments.experiment, &context.registry())?;
    let graph = &compiled.graph;
    if context.json {
        return context.printer.json(&json!({
            "experiment": graph.name,
            "profile": graph.profile,
            "nodes": graph.len(),
            "warnings": compiled.warnings.to_json(),
        }));
    }
    compiled.warn(context);
    let profile = graph.profile.as_ref().map_or_else(String::new, |profile| format!(" ({profile})"));
    let nodes = count(graph.len() as u64, "node");
    context
        .printer
        .data(&Text::new().good("fine: ").bold(&graph.name).plain(format!("{profile}, {nodes}")).line())
}
