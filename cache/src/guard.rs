//! Locks within one process.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A lock whose holder panicked still guards consistent data here: every critical section is one insertion or look-up.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
