//! The commands: file name = command name.

mod verify;

use crate::args::Command;
use crate::context::Context;
use crate::failure::Outcome;

/// Does what was asked.
pub fn dispatch(command: &Command, context: &Context) -> Outcome {
    match command {
        Command::Verify(arguments) => verify::run(arguments, context),
        _ => todo!(),
    }
}
