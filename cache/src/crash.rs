//! Named crash points: with the feature `crash`, the process aborts at one of them, as a power cut would.
//!
//! `DAG_CRASH=record.renamed:3` aborts when `record.renamed` is reached for the third time. Without the feature every
//! call compiles to nothing.

/// Every point there is, in the order a run passes them.
pub const POINTS: &[&str] = &[
    "blob.written",
    "blob.renamed",
    "record.written",
    "record.synced",
    "record.renamed",
    "log.created",
    "log.appended",
    "log.synced",
    "log.sealed",
    "log.merged",
    "log.removed",
    "summary.renamed",
    "touched.written",
    "index.inserted",
    "index.flushed",
    "gc.moved",
    "gc.removed",
];

/// Aborts here when the environment says so.
#[cfg(feature = "crash")]
pub(crate) fn point(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static CHOSEN: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static HITS: AtomicU64 = AtomicU64::new(0);

    debug_assert!(POINTS.contains(&name), "`{name}` is not listed");
    let chosen = CHOSEN.get_or_init(|| {
        let text = std::env::var_os("DAG_CRASH")?.into_string().ok()?;
        let (name, hit) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), hit.parse().ok()?))
    });
    if let Some((wanted, hit)) = chosen
        && wanted == name
        && HITS.fetch_add(1, Ordering::Relaxed) + 1 == *hit
    {
        std::process::abort();
    }
}

/// Does nothing: the feature `crash` is off.
#[cfg(not(feature = "crash"))]
#[inline(always)]
pub(crate) fn point(_name: &str) {}
