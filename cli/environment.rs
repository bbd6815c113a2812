//! What the process was started with: variables, and the folder the user is in. They enter the program here and nowhere else.

use std::path::PathBuf;

use crate::failure::Failure;

/// An environment variable. One that is not UTF-8 is as good as absent.
#[expect(clippy::disallowed_methods, reason = "this is where the environment enters")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Where the user is.
pub fn working_directory() -> Result<PathBuf, Failure> {
    std::env::current_dir()
        .map_err(|error| Failure::failed(format!("the current directory cannot be found: {error}")))
}
