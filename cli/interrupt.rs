//! Signals: the first asks the run to stop, the second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::failure::{Failure, Kind};

/// A flag that the first SIGINT, SIGTERM or SIGHUP raises; the second ends the process with the code for
/// interruptions. Needs no thread: the handlers only touch the flag.
pub fn watch() -> Result<Arc<AtomicBool>, Failure> {
    let raised = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // In this order: the ending looks at the flag before the same signal raises it.
        let code = i32::from(Kind::Interrupted.exit_code());
        flag::register_conditional_shutdown(signal, code, Arc::clone(&raised))
            .and_then(|_| flag::register(signal, Arc::clone(&raised)))
            .map_err(|error| Failure::failed(format!("signals cannot be watched: {error}")))?;
    }
    Ok(raised)
}
