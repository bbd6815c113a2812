//! `dag schema`: the JSON Schema of experiment files, and the list of task kinds.

use serde_json::{Value, json};

use crate::args::Schema;
use crate::context::Context;
use crate::failure::Outcome;
use crate::text::Text;

pub fn run(arguments: &Schema, context: &Context) -> Outcome {
    let registry = context.registry();
    if !arguments.tasks {
        return context.printer.json(&dag_engine::schema::schema(&registry));
    }
    let kinds: Vec<_> = registry.kinds().filter_map(|kind| Some((kind, registry.about(kind)?))).collect();
    if context.json {
        let listed: Vec<Value> = kinds
            .iter()
            .map(|(kind, (about, version))| json!({ "task": kind, "version": version, "about": about }))
            .collect();
        return context.printer.json(&listed);
    }
    let width = kinds.iter().map(|(kind, _)| kind.len()).max().unwrap_or(0);
    let text = kinds
        .iter()
        .fold(Text::new(), |text, (kind, (about, _))| text.bold(kind).pad_to(width + 2).plain(about).line());
    context.printer.data(&text)
}
