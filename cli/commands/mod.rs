//! The commands: file name = command name.

mod attach;
mod check;
mod detach;
mod diff;
mod explain;
mod export;
mod gc;
mod grade;
mod graph;
mod log;
mod plan;
mod report;
mod run;
mod schema;
mod serve;
mod sharing;
mod show;
mod status;
mod trace;
mod verify;
mod worker;

use crate::args::Command;
use crate::context::Context;
use crate::failure::Outcome;

/// Does what was asked.
pub fn dispatch(command: &Command, context: &Context) -> Outcome {
    match command {
        Command::Run(arguments) => run::run(arguments, context),
        Command::Plan(arguments) => plan::run(arguments, context),
        Command::Explain(arguments) => explain::run(arguments, context),
        Command::Diff(arguments) => diff::run(arguments, context),
        Command::Status(arguments) => status::run(arguments, context),
        Command::Attach(arguments) => attach::attach(arguments, context),
        Command::Stop(arguments) => attach::stop(arguments, context),
        Command::Log(arguments) => log::run(arguments, context),
        Command::Show(arguments) => show::run(arguments, context),
        Command::Report(arguments) => report::run(arguments, context),
        Command::Trace(arguments) => trace::run(arguments, context),
        Command::Grade(arguments) => grade::run(arguments, context),
        Command::Graph(arguments) => graph::run(arguments, context),
        Command::Check(arguments) => check::run(arguments, context),
        Command::Schema(arguments) => schema::run(arguments, context),
        Command::Export(arguments) => export::run(arguments, context),
        Command::Push(arguments) => sharing::push(arguments, context),
        Command::Pull(arguments) => sharing::pull(arguments, context),
        Command::Gc(arguments) => gc::run(arguments, context),
        Command::Verify(arguments) => verify::run(arguments, context),
        Command::Worker(arguments) => worker::run(arguments, context),
        Command::Serve(arguments) => serve::run(arguments),
    }
}
