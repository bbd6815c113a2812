//! Signals: the first asks the run to stop, the second makes it leave at once, a third ends the process on the spot.

use dag_engine::run::Interrupt;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level;

use crate::failure::{Failure, Kind};

/// What SIGINT and SIGTERM raise from now on. Needs no thread: the handlers only touch flags.
pub fn watch() -> Result<Interrupt, Failure> {
    let interrupt = Interrupt::default();
    for signal in [SIGINT, SIGTERM] {
        let Interrupt { stop, abort } = interrupt.clone();
        let handle = move || {
            if abort.is_cancelled() {
                low_level::exit(i32::from(Kind::Interrupted.exit_code()));
            } else if stop.is_cancelled() {
                abort.cancel();
            } else {
                stop.cancel();
            }
        };
        // SAFETY: the handler reads and writes atomic flags and may call `_exit`, all of which signals allow.
        unsafe { low_level::register(signal, handle) }
            .map_err(|error| Failure::failed(format!("signals cannot be watched: {error}")))?;
    }
    Ok(interrupt)
}
