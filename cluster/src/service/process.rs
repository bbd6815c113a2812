//! Signals to process groups of this machine, whoever started them.

/// Sends a signal to a process group, by the id of its leader.
pub(super) fn signal_group(leader: u32, signal: i32) {
    let Ok(group) = i32::try_from(leader) else { return };
    // SAFETY: `kill` takes no pointers; a negative id means the group.
    unsafe {
        libc::kill(-group, signal);
    }
}
