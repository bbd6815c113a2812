//! The engine of `dag`: from the text of an experiment to a graph, a plan, a run and its events.
//!
//! The stages, in order; data moves down only, and no stage calls an earlier one:
//!
//! ```text
//! parse     spec      text  → Experiment   what was written, with source spans
//! compile   graph     spec  → Graph        axes and profile expanded, references resolved, ports checked, acyclic
//! plan      plan      graph → Plan         per node: Hit | Run(reason) | Unsettled; pure, reads a view of the store
//! schedule  run       plan  → next node    state machine without I/O
//! execute   run       node  → artifacts    one thread per running node; a panic is a failed node
//! record    run       artifacts → Record   blobs, then the record file, then the index, then the journal event
//! report    event     Event → reporters    journal, console, JSON: three readers of one stream
//! ```
//!
//! A caller that runs an experiment loads it ([`spec::load`]), compiles it ([`graph::compile`]), and then either asks
//! [`plan::Planner::plan`] what would happen, or fills in a [`run::Run`] and calls [`run::Run::execute`] with the
//! [`event::Reporter`] that shows what does. [`state::RunState`] folds the events for whoever shows them, live or from a
//! [`journal`].
//!
//! The engine knows no task kind, no model runtime and no terminal.

pub mod allowance;
pub mod artifact;
pub mod call;
pub mod canonical;
pub mod context;
pub mod estimate;
pub mod event;
pub mod executor;
mod files;
mod glob;
pub mod graph;
pub mod journal;
pub mod key;
pub mod manifest;
pub mod order;
pub mod params;
pub mod plan;
mod publish;
pub mod registry;
pub mod remote;
pub mod run;
pub mod schema;
pub mod seed;
pub mod service;
pub mod spec;
pub mod stat_cache;
pub mod state;
pub mod task;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use dag_cache::{CacheError, Digest, Logged, RecordLog};
pub use registry::{Registry, Step};
pub use task::Task;
