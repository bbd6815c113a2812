//! The task kinds of `dag`, one file or folder each, and the registry that lists them.

pub mod math;
pub mod packing;
pub mod stats;
pub mod table;

use dag_engine::Registry;

/// The kinds an experiment may use: one line each.
pub fn registry() -> Registry {
    Registry::new()
}
