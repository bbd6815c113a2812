//! The id of the machine's boot: what is only visible and not durable counts for as long as the machine runs.

use std::fs;
use std::sync::OnceLock;

/// Identifies the time since this machine was started; `None` where the system does not tell.
pub(crate) fn boot() -> Option<&'static str> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let read = || {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let id = text.trim();
        let plain = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        plain.then(|| id.to_owned())
    };
    BOOT.get_or_init(read).as_deref()
}
