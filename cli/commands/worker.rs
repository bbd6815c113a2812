//! `dag worker`: what a job on another machine runs. Carries out one part of an order; people do not call it.

use std::sync::Arc;
use std::time::Duration;

use dag_cache::Writer;
use dag_cluster::{Duty, Ended, work};

use crate::args;
use crate::context::Context;
use crate::environment::variable;
use crate::experiment::Surroundings;
use crate::failure::{Failure, Kind, Outcome};
use crate::interrupt;

pub fn run(arguments: &args::Worker, context: &Context) -> Outcome {
    let interrupt = interrupt::watch()?;
    let duty = Duty {
        folder: arguments.folder.clone(),
        submission: arguments.submission,
        part: arguments.part,
        time: arguments.time.map(Duration::from_secs),
        attempt: arguments.attempt.clone(),
        host: arguments.host.clone(),
        env: Arc::new(variable),
        gpus: Surroundings::at(arguments.folder.clone()).gpu_ids(),
        cancel: interrupt.stop,
    };
    let writer = Arc::new(Writer::open(&context.store)?);
    let ended = work(duty, &context.registry(), writer).map_err(|error| {
        Failure::failed(format!("{}: {error}", arguments.folder.display())).hint(
            "the folder is one of `jobs/` in the store, and every machine must see it under the same path",
        )
    })?;
    match ended {
        Ended::Done => Ok(()),
        Ended::Stopped => Err(Failure::new(Kind::Interrupted, "stopped; another attempt goes on from here")),
        Ended::Failed(error) => Err(Failure::failed(error)),
    }
}
