//! `dag attach` and `dag stop`: a run of another process, followed live or asked to stop.

use std::process::Command;
use std::time::Duration;

use dag_cache::Layout;
use dag_engine::event::{End, Reporter as _, RunResult};
use dag_engine::journal::{self, Follow};
use dag_engine::state::Phase;

use super::status::find_run;
use crate::args;
use crate::console::{Console, summary};
use crate::context::Context;
use crate::failure::{Failure, Kind, Outcome};
use crate::words::count;

/// How often to look for what is new.
const LOOK: Duration = Duration::from_millis(100);

/// Shows a run as `dag run` would have, from its first event to its last. Ctrl-C leaves the run alone.
pub fn attach(arguments: &args::Attach, context: &Context) -> Outcome {
    let view = context.view();
    let layout = view.layout();
    let run = find_run(layout, arguments.run.as_deref())?;
    let path = layout.journal(&run);
    let mut follow = Follow::new(&path);
    let mut console = Console::new(&context.printer);
    while console.state().result.is_none() {
        // Asked first: a run that ends in between has told its end by then.
        let lives = journal::is_live(layout, &run);
        let events = follow
            .poll()
            .map_err(|error| Failure::failed(format!("failed to read `{}`: {error}", path.display())))?;
        for event in &events {
            if context.json {
                context.printer.json_line(event)?;
                console.take(event);
            } else {
                console.report(event);
            }
        }
        if console.state().result.is_none() {
            if !lives {
                return Err(Failure::failed(format!("the run {run} died without a word"))
                    .hint("`dag run` goes on where it was, and takes over the jobs that it left"));
            }
            if !context.json {
                console.tick();
            }
            std::thread::sleep(LOOK);
        }
    }
    if !context.json {
        context.printer.note(&summary(console.state()));
    }
    let state = console.state();
    match state.result {
        None | Some(RunResult::Done) => Ok(()),
        Some(RunResult::Failed) => {
            let failed = state.count(Phase::Ended(End::Failed)) as u64;
            Err(Failure::failed(format!("{} failed", count(failed, "node")))
                .hint("what succeeded is kept: the next run does only the rest"))
        }
        Some(RunResult::Paused) => Err(Failure::failed("the run went as far as it was allowed")),
        Some(RunResult::Cancelled) => {
            Err(Failure::new(Kind::Interrupted, "interrupted")
                .hint("the next run goes on where this one was"))
        }
    }
}

/// Asks a run to stop, as Ctrl-C does.
pub fn stop(arguments: &args::Stop, context: &Context) -> Outcome {
    let view = context.view();
    let layout = view.layout();
    let run = match &arguments.run {
        Some(run) => find_run(layout, Some(run))?,
        None => newest_living(layout)?,
    };
    if !journal::is_live(layout, &run) {
        return Err(Failure::user(format!("the run {run} does not go on, or not on this machine")).hint(
            "`dag status` shows what goes on here; a run is stopped on the machine it was started on",
        ));
    }
    let process = journal::process_of(&run)
        .ok_or_else(|| Failure::failed(format!("the process of the run {run} is not known")))?;
    let said = Command::new("kill").args(["-INT", &process.to_string()]).status();
    if !said.is_ok_and(|status| status.success()) {
        return Err(Failure::failed(format!("process {process} cannot be signalled"))
            .hint("it may be another user's"));
    }
    context.printer.note(&format!("asked {run} to stop; `dag attach {run}` shows how it does\n").into());
    Ok(())
}

fn newest_living(layout: &Layout) -> Result<String, Failure> {
    let mut runs = journal::list(layout);
    runs.retain(|run| journal::is_live(layout, run));
    runs.pop().ok_or_else(|| {
        Failure::user("no run goes on here")
            .hint("`dag status` lists the runs, and `--store DIR` looks elsewhere")
    })
}
