//! `dag diff`: two arms of an experiment, two files or profiles, or two runs.

mod arms;
mod graphs;
mod runs;
mod verdicts;
mod words;

use std::path::{Path, PathBuf};

use crate::args::{Diff, ExperimentArguments};
use crate::context::Context;
use crate::experiment::compiled;
use crate::failure::{Failure, Outcome};

pub fn run(arguments: &Diff, context: &Context) -> Outcome {
    match arguments.what.as_slice() {
        [file, left, right] => {
            let experiment = ExperimentArguments {
                file: PathBuf::from(file),
                profile: arguments.profile.clone(),
                set: arguments.set.clone(),
            };
            arms::run(compiled(&experiment, &context.registry())?, left, right, context)
        }
        [left, right] => {
            let (left_file, right_file) = (experiment(left, arguments), experiment(right, arguments));
            match (left_file, right_file) {
                (Some(left), Some(right)) => {
                    let registry = context.registry();
                    graphs::run(compiled(&left, &registry)?, compiled(&right, &registry)?, context)
                }
                (None, None) => runs::run(left, right, context),
                (Some(_), None) => Err(no_file(right)),
                (None, Some(_)) => Err(no_file(left)),
            }
        }
        _ => Err(Failure::user("two things are compared").hint("`dag diff --help` lists what can be")),
    }
}

/// The experiment that `FILE` or `FILE@PROFILE` means; `None` if there is no such file.
fn experiment(what: &str, arguments: &Diff) -> Option<ExperimentArguments> {
    let with = |file: &str, profile: Option<String>| ExperimentArguments {
        file: PathBuf::from(file),
        profile,
        set: arguments.set.clone(),
    };
    if Path::new(what).is_file() {
        return Some(with(what, arguments.profile.clone()));
    }
    let (file, profile) = what.rsplit_once('@')?;
    Path::new(file).is_file().then(|| with(file, Some(profile.to_owned())))
}

fn no_file(what: &str) -> Failure {
    Failure::user(format!("there is no file `{what}`"))
        .hint("compare two files, or two runs by the ids that `dag status` lists")
}
