//! `dag run --detach`: the same run in a process of its own, which no terminal ends.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dag_cache::Layout;
use dag_engine::journal;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::text::Text;

/// How often to look whether it has begun.
const LOOK: Duration = Duration::from_millis(20);

/// Starts this very command again, without `--detach`, and waits until its run has begun.
pub fn detach(context: &Context) -> Outcome {
    let view = context.view();
    let layout = view.layout();
    let failed = |what: &Path, error: std::io::Error| Failure::failed(format!("{}: {error}", what.display()));
    fs::create_dir_all(layout.runs()).map_err(|error| failed(&layout.runs(), error))?;
    let output = layout.runs().join(format!("{}.starting", std::process::id()));
    let file = File::create(&output).map_err(|error| failed(&output, error))?;
    let again = file.try_clone().map_err(|error| failed(&output, error))?;
    let program = std::env::current_exe().map_err(|error| failed(Path::new("this program"), error))?;
    let child = Command::new(program)
        .args(std::env::args_os().skip(1).filter(|argument| argument != "--detach"))
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(again)
        // A group of its own: what the terminal does to ours does not reach it.
        .process_group(0)
        .spawn()
        .map_err(|error| Failure::failed(format!("the run cannot be started: {error}")))?;
    let run = begun(child, layout, &output)?;
    let place = layout.runs().join(format!("{run}.output"));
    fs::rename(&output, &place).map_err(|error| failed(&place, error))?;
    if context.json {
        return context.printer.json(&serde_json::json!({ "run": run, "output": place }));
    }
    context.printer.data(&Text::from(run.clone()).line())?;
    let next = format!("`dag attach {run}` follows it, `dag stop {run}` stops it, `dag status` lists all\n");
    context.printer.note(&next.into());
    Ok(())
}

/// The id of the run that the child has begun.
fn begun(mut child: Child, layout: &Layout, output: &Path) -> Result<String, Failure> {
    loop {
        let ended = child.try_wait().ok().flatten();
        let runs = journal::list(layout);
        if let Some(run) = runs.into_iter().rev().find(|run| journal::process_of(run) == Some(child.id())) {
            return Ok(run);
        }
        if ended.is_some() {
            let said = fs::read_to_string(output).unwrap_or_default();
            // Only what it has said is of use; it has ended before anything began.
            let _ = fs::remove_file(output);
            return Err(Failure::user("the run did not begin").details(Text::from(said)));
        }
        std::thread::sleep(LOOK);
    }
}
