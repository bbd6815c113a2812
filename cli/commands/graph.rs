//! `dag graph`: the graph as text, DOT, Mermaid or SVG.

use serde_json::json;

use crate::args::{GraphArguments, GraphFormat};
use crate::context::Context;
use crate::drawing::Drawing;
use crate::experiment::compiled;
use crate::failure::{Failure, Outcome};
use crate::text::Text;

/// A picture of more boxes shows nothing, and laying it out takes long.
const LARGEST_PICTURE: usize = 1000;

pub fn run(arguments: &GraphArguments, context: &Context) -> Outcome {
    let compiled = compiled(&arguments.experiment, &context.registry())?;
    compiled.warn(context);
    let title = &compiled.graph.name;
    let drawing = Drawing::of(&compiled.graph, arguments.expand);
    if context.json {
        let nodes: Vec<_> = drawing
            .shapes
            .iter()
            .map(|shape| json!({ "name": shape.name, "task": shape.kind, "count": shape.count, "over": shape.axes }))
            .collect();
        let edges: Vec<_> = drawing
            .arrows
            .iter()
            .map(|arrow| {
                let name = |index: usize| &drawing.shapes[index].name;
                json!({ "from": name(arrow.from), "to": name(arrow.to), "ports": arrow.ports })
            })
            .collect();
        return context.printer.json(&json!({ "experiment": title, "nodes": nodes, "edges": edges }));
    }
    match arguments.format {
        GraphFormat::Text => context.printer.data(&drawing.text()),
        GraphFormat::Dot => context.printer.data(&drawing.dot(title).into()),
        GraphFormat::Mermaid => context.printer.data(&drawing.mermaid().into()),
        GraphFormat::Svg if drawing.shapes.len() > LARGEST_PICTURE => {
            Err(Failure::user(format!("a picture of {} boxes would show nothing", drawing.shapes.len()))
                .hint("leave out `--expand`, or use `--format dot` with a tool for large graphs"))
        }
        GraphFormat::Svg => context.printer.data(&Text::from(drawing.svg(title))),
    }
}
