//! `dag log`: what happened in a run, told again from its journal by the console that told it live.

use std::fs;

use dag_cache::Layout;
use dag_engine::event::{Event, Stamped};
use dag_engine::journal;
use dag_engine::state::RunState;

use super::status::find_run;
use crate::args::Log;
use crate::console::{lines, summary};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::text::Text;
use crate::words::date;

pub fn run(arguments: &Log, context: &Context) -> Outcome {
    let view = context.view();
    let layout = view.layout();
    let run = find_run(layout, arguments.run.as_deref())?;
    let path = layout.journal(&run);
    let events = journal::read(&path)
        .map_err(|error| Failure::failed(format!("failed to read `{}`: {error}", path.display())))?;
    let wanted = |event: &Stamped| {
        arguments.nodes.is_empty()
            || node_of(&event.event).is_some_and(|node| {
                arguments.nodes.iter().any(|wanted| node == wanted || node.split('@').next() == Some(wanted))
            })
    };
    if arguments.output {
        return context.printer.data(&printed(&RunState::of(&events), &arguments.nodes, layout));
    }
    if context.json {
        return events
            .iter()
            .filter(|event| wanted(event))
            .try_for_each(|event| context.printer.json_line(event));
    }
    let mut state = RunState::default();
    let mut text = Text::new();
    for event in &events {
        state.apply(event);
        let told = lines(event, &state, true, false);
        if wanted(event) && !told.is_empty() {
            text = text.faint(&date(event.at / 1000)[11..]).plain(" ").then(told);
        }
    }
    if arguments.nodes.is_empty() && state.result.is_some() {
        text = text.then(summary(&state));
    }
    context.printer.data(&text)
}

/// What the jobs of nodes printed, each under the name of its file.
fn printed(state: &RunState, wanted: &[String], layout: &Layout) -> Text {
    let mut text = Text::new();
    for (name, node) in &state.nodes {
        let is_wanted = wanted.iter().any(|wanted| name == wanted || name.split('@').next() == Some(wanted));
        let Some(action) = node.action.filter(|_| is_wanted) else { continue };
        for file in dag_cluster::logs(&layout.job(&action.0)) {
            let content = fs::read(&file).unwrap_or_default();
            text = text.bold(name).faint(format!("  {}", file.display())).line();
            text = text.then(Text::from(String::from_utf8_lossy(&content).into_owned()));
        }
    }
    text
}

fn node_of(event: &Event) -> Option<&str> {
    match event {
        Event::NodePlanned { node, .. }
        | Event::NodeWaiting { node, .. }
        | Event::NodeStarted { node, .. }
        | Event::NodeRetried { node, .. }
        | Event::NodeProgress { node, .. }
        | Event::NodeFinished { node, .. } => Some(node),
        Event::RunStarted { .. } | Event::Shared(_) | Event::Warning { .. } | Event::RunFinished { .. } => {
            None
        }
    }
}
