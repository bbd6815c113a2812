//! `dag run`: plan, execute, report.

use std::sync::Arc;
use std::time::Duration;

use dag_engine::artifact::ArtifactType;
use dag_engine::event::{Reporter, RunResult, Stamped};
use dag_engine::graph::NodeId;
use dag_engine::plan::Selection;
use dag_engine::run::{Run, RunError, Settings, World};

use crate::args;
use crate::commands::detach::detach;
use crate::commands::plan;
use crate::console::{Console, summary};
use crate::context::Context;
use crate::experiment::{Compiled, Surroundings, compiled, describe_missing};
use crate::failure::{Failure, Kind, Outcome};
use crate::interrupt;
use crate::printer::Printer;
use crate::text::Text;
use crate::words::count;

/// The wait before a node that failed in passing is tried again.
const BACKOFF: Duration = Duration::from_secs(1);
/// So many failed nodes are named in the last line.
const NAMED: usize = 5;

pub fn run(arguments: &args::Run, context: &Context) -> Outcome {
    if arguments.detach {
        return detach(context);
    }
    let compiled = compiled(&arguments.experiment, &context.registry())?;
    compiled.warn(context);
    context.share(compiled.graph.remote.as_ref())?;
    let selection =
        Selection { targets: compiled.nodes(&arguments.nodes)?, rerun: compiled.nodes(&arguments.rerun)? };
    let surroundings = Surroundings::at(compiled.root.clone());
    let run = Run {
        graph: &compiled.graph,
        writer: Arc::new(context.writer()?),
        settings: Settings {
            selection: selection.clone(),
            keep_going: arguments.keep_going,
            capacity: surroundings.capacity(arguments.jobs),
            file: arguments.experiment.file.display().to_string(),
            backoff: BACKOFF,
            budget: arguments.budget,
            pilot: arguments.pilot,
        },
        world: World {
            clock: Arc::new(Context::system_time),
            environment: Arc::new(surroundings),
            resolver: Context::resolver(),
            executors: context.executors(),
            host: Some(context.host()),
        },
        interrupt: interrupt::watch()?,
    };
    let outcome = if context.json {
        run.execute(&mut JsonLines(&context.printer))?
    } else {
        let mut console = Console::new(&context.printer);
        let outcome = run.execute(&mut console)?;
        context.printer.note(&summary(console.state()));
        outcome
    };
    match outcome.result {
        RunResult::Done if context.json => Ok(()),
        RunResult::Done => show_reports(compiled, &selection, context),
        RunResult::Failed => {
            let named: Vec<String> =
                outcome.failures.iter().take(NAMED).map(|(node, _)| format!("`{node}`")).collect();
            let more = if outcome.failures.len() > NAMED { ", …" } else { "" };
            let failed = count(outcome.failures.len() as u64, "node");
            Err(Failure::failed(format!("{failed} failed: {}{more}", named.join(", "))).hint(
                "what succeeded is kept: the next run does only the rest; `dag log NODE` tells what happened",
            ))
        }
        RunResult::Paused if arguments.pilot.is_some() => {
            if context.json {
                Ok(())
            } else {
                plan::after_pilot(compiled, &selection, context)
            }
        }
        RunResult::Paused => {
            let (node, why) = outcome.paused.first().cloned().unwrap_or_default();
            Err(Failure::failed(format!("{why} (at `{node}`)"))
                .hint("what is done is kept: another run with a larger `--budget` goes on from there"))
        }
        RunResult::Cancelled => {
            Err(Failure::new(Kind::Interrupted, "interrupted")
                .hint("the next run goes on where this one was"))
        }
    }
}

/// One event a line on stdout.
struct JsonLines<'p>(&'p Printer);

impl Reporter for JsonLines<'_> {
    fn report(&mut self, event: &Stamped) {
        // A reader that is gone must not end the run; the journal has every event.
        let _ = self.0.json_line(event);
    }
}

/// Prints the tables of the reports that were wanted, and says where their pages are.
fn show_reports(compiled: &Compiled, selection: &Selection, context: &Context) -> Outcome {
    let graph = &compiled.graph;
    let is_report = |id: &NodeId| {
        graph.node(*id).step.ports().outputs().first().is_some_and(|port| port.gives == ArtifactType::Report)
    };
    let wanted = if selection.targets.is_empty() { graph.sinks() } else { selection.targets.clone() };
    let reports: Vec<NodeId> = wanted.into_iter().filter(is_report).collect();
    if reports.is_empty() {
        return Ok(());
    }
    let targets = Selection { targets: reports.clone(), rerun: Vec::new() };
    let plan = compiled.planner(context).plan(&targets)?;
    for id in reports {
        let node = graph.node(id);
        for report in compiled.artifacts_of(id, &plan, context)?.into_iter().flatten() {
            if report.gives != ArtifactType::Report || !report.is_present() {
                continue;
            }
            if let Some(table) = report.read("report.txt")? {
                context.printer.data(&Text::from(String::from_utf8_lossy(&table).into_owned()))?;
            }
            let place = match node.run.publish.get(&report.port) {
                Some(path) => format!("`{}`", compiled.root.join(path).join("index.html").display()),
                None => format!("`dag export FILE {} FOLDER` puts it into a folder", node.name),
            };
            context.printer.note(&Text::new().accent("page: ").plain(place).line());
        }
    }
    Ok(())
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Plan(error) => error.into(),
            RunError::Cache(error) => error.into(),
            RunError::Missing(missing) => {
                let what = format!("{} missing; nothing was run", count(missing.len() as u64, "thing"));
                Self::user(what).details(describe_missing(&missing).line())
            }
            RunError::Journal(_) => {
                Self::failed(error.to_string()).hint("`--store DIR` names a store that can be written")
            }
        }
    }
}
