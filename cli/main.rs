//! `dag`: parse the arguments, dispatch, render the failure, give the exit code.
#![expect(
    unreachable_pub,
    reason = "nothing is reachable from outside a binary; `pub` means other modules use it"
)]

mod args;
mod artifact;
mod commands;
mod console;
mod context;
mod drawing;
mod environment;
mod experiment;
mod failure;
mod grid;
mod interrupt;
mod printer;
mod shared;
mod text;
mod words;

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::Parser;

use crate::args::Arguments;
use crate::context::Context;
use crate::environment::variable;
use crate::failure::{Failure, Kind};
use crate::printer::Printer;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (color, json) = (arguments.global.color, arguments.global.json);
    watch_panics();
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        let context = Context::new(&arguments.global)?;
        commands::dispatch(&arguments.command, &context)
    }))
    .unwrap_or_else(|_| Err(bug()));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let printer = Printer::new(color, variable("NO_COLOR").is_some_and(|value| !value.is_empty()));
            printer.note(&failure.render());
            if json && !failure.faults.is_null() {
                // A stdout that cannot be written has no other place to say so.
                let _ = printer.json(&failure.to_json());
            }
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

thread_local! {
    /// Where and why this thread last panicked.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps panics off the terminal: that of a task is a failed node and told as one, any other ends in [`bug`].
/// With `RUST_BACKTRACE` set they are shown as well.
fn watch_panics() {
    let default = panic::take_hook();
    let show = variable("RUST_BACKTRACE").is_some_and(|value| value != "0");
    panic::set_hook(Box::new(move |info| {
        if show {
            default(info);
        }
        PANIC.with_borrow_mut(|last| *last = info.to_string().replace('\n', " "));
    }));
}

/// The failure that a panic of our own is.
fn bug() -> Failure {
    let what = PANIC.with_borrow(String::clone);
    Failure::new(Kind::Internal, format!("this is a bug in dag {}: {what}", env!("CARGO_PKG_VERSION")))
        .hint("please report it with the command and the file; `RUST_BACKTRACE=1` adds where it happened")
}
