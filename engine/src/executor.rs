//! `Executor`: the contract of what runs tasks elsewhere, such as a cluster's scheduler.
//!
//! An executor moves an [`Order`] to where it is carried out and brings back what came of it; it decides nothing about
//! the graph. It may be killed at any instant: what it needs to find its jobs again lies in [`Site::folder`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use dag_cache::View;
use schemars::Schema;
use serde_json::Value;

use crate::call::Delivery;
use crate::context::Cancel;
use crate::event::News;
use crate::order::Order;
use crate::params::BindError;
use crate::task::{Environment, Missing, TaskError};

/// Runs tasks somewhere else than in the process of the run.
pub trait Executor: Send + Sync {
    /// What it is called under `run: { executor: … }`.
    fn name(&self) -> &'static str;

    /// One line about it.
    fn about(&self) -> &'static str;

    /// Whether `options` are those of this executor.
    fn check(&self, options: &Value) -> Result<(), BindError>;

    /// The JSON Schema of its options.
    fn schema(&self) -> Schema;

    /// What it needs and that is not there, such as its programs.
    fn preflight(&self, options: &Value, environment: &dyn Environment) -> Vec<Missing>;

    /// Whether services may run there; see [`crate::service::Host`].
    fn hosts_services(&self) -> bool {
        false
    }

    /// Has an order carried out, from wherever an earlier call for the same action has left it, and waits for the end.
    ///
    /// When [`Site::cancel`] is raised it takes its jobs back and returns [`TaskError::Cancelled`].
    fn execute(&self, order: &Order, options: &Value, site: &Site) -> Result<Delivery, TaskError>;
}

/// Where an executor works, and how it is heard.
pub struct Site {
    /// The name of the node, for messages and names of jobs.
    pub node: String,
    /// Of this action alone, and kept when the process dies.
    pub folder: PathBuf,
    /// The store, which the other machines must see under the same path.
    pub view: View,
    /// The values that `run:` takes from the environment, by the name of the variable that hands them on. They must reach
    /// no file.
    pub secrets: BTreeMap<String, String>,
    /// Raised when the run stops.
    pub cancel: Cancel,
    /// Takes what is new about the order, counts as totals.
    pub tell: Arc<dyn Fn(News) + Send + Sync>,
}
