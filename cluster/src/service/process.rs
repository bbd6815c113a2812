//! Processes of this machine that are not our children: whether they live, and how to end them.

use std::fs;

/// When a process began, as the kernel counts; none where it is gone, or only waits to be reaped.
pub(super) fn began(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold anything; after it come the state and the rest.
    let rest: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if rest.first().is_some_and(|state| matches!(*state, "Z" | "X")) {
        return None;
    }
    rest.get(19)?.parse().ok()
}

/// Sends a signal to a process group, by the id of its leader.
pub(super) fn signal_group(leader: u32, signal: i32) {
    let Ok(group) = i32::try_from(leader) else { return };
    // SAFETY: `kill` takes no pointers; a negative id means the group.
    unsafe {
        libc::kill(-group, signal);
    }
}
