//! `dag serve`: keeps one replica of a service up. Runs start it beside themselves or as a job; people do not call it.

use dag_cluster::{Serve, serve};

use crate::args;
use crate::failure::{Failure, Outcome};
use crate::interrupt;

pub fn run(arguments: &args::Serve) -> Outcome {
    let interrupt = interrupt::watch()?;
    let duty = Serve {
        folder: arguments.folder.clone(),
        replica: arguments.replica,
        attempt: arguments.attempt,
        machine: arguments.machine.clone(),
        job: arguments.job.clone(),
        cancel: interrupt.stop,
    };
    let served = serve(&duty).map_err(|error| {
        Failure::failed(format!("{}: {error}", arguments.folder.display())).hint(
            "the folder is one of `services/` in the store, and every machine must see it under the same path",
        )
    })?;
    served.map_err(Failure::failed)
}
