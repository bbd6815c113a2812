//! `dag explain`: which field or input makes a node differ from its last run.

use dag_engine::plan::Selection;
use serde_json::json;

use crate::args::Explain;
use crate::context::Context;
use crate::experiment::compiled;
use crate::failure::Outcome;
use crate::text::Text;

pub fn run(arguments: &Explain, context: &Context) -> Outcome {
    let compiled = compiled(&arguments.experiment, &context.registry())?;
    let nodes = compiled.nodes(std::slice::from_ref(&arguments.node))?;
    let mut planner = compiled.planner(context);
    planner.plan(&Selection { targets: nodes.clone(), rerun: Vec::new() })?;
    let explanations = nodes.iter().map(|&id| planner.explain(id)).collect::<Result<Vec<_>, _>>()?;
    if context.json {
        let listed: Vec<_> = explanations
            .iter()
            .map(|found| {
                let words: Vec<String> = found.reasons.iter().map(ToString::to_string).collect();
                json!({ "node": found.node, "before": found.before, "after": found.after, "reasons": found.reasons, "words": words })
            })
            .collect();
        return context.printer.json(&listed);
    }
    let mut text = Text::new();
    for found in &explanations {
        text = text.bold(&found.node);
        text = match (found.before, found.after, found.reasons.as_slice()) {
            (None, _, []) => text.plain(": never run").line(),
            (Some(before), Some(after), []) if before == after => text
                .good(": nothing differs from its last run")
                .faint(format!("  action {}", after.0.short()))
                .line(),
            (_, None, []) => text.plain(": nothing of its own differs; an input is not known yet").line(),
            (.., reasons) => {
                let mut text = text.line();
                for reason in reasons {
                    text = text.plain(format!("  {reason}")).line();
                }
                text
            }
        };
        if let (Some(before), Some(after)) = (found.before, found.after)
            && before != after
        {
            text = text.faint(format!("  action {} → {}", before.0.short(), after.0.short())).line();
        }
    }
    context.printer.data(&text)
}
