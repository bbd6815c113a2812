//! `Order`: a node's task written down, so that a process elsewhere can do it.
//!
//! An order names its inputs by digest and its secrets by the variable that holds them. A task that asks a model for many
//! records may be ordered in parts: each shard asks for its own share of the records and keeps them, nothing else; a last
//! worker then does the whole task, and finds the records there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use dag_cache::{Digest, Writer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::allowance::Allowance;
use crate::call::{Call, CallInput, Delivery, place_inputs};
use crate::context::{Cancel, EnvLookup, Progress, Shard};
use crate::files;
use crate::registry::Registry;
use crate::task::{Resources, TaskError};

/// The version of the bytes of an order.
pub(crate) const VERSION: u32 = 1;

/// A node's task, as it leaves the process of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    pub(crate) version: u32,
    /// What is computed.
    pub action: Digest,
    /// The task kind.
    pub kind: String,
    /// Its version; a worker of another version must refuse.
    pub task_version: u32,
    /// Its params.
    pub params: Value,
    /// Its operational options; null where a secret stands.
    pub run: Value,
    /// Places in `run` (JSON pointers) and the environment variables that hold what stands there.
    pub secrets: BTreeMap<String, String>,
    /// The experiment's seed, where the task uses it.
    pub seed: Option<u64>,
    /// What enters it.
    pub inputs: Vec<CallInput>,
    /// The files its params name, by pointer.
    pub files: BTreeMap<String, Vec<PathBuf>>,
    /// What it holds while it runs.
    pub resources: Resources,
    /// Dollars it may spend.
    pub budget: Option<f64>,
    /// Records it may ask for.
    pub pilot: Option<u64>,
    /// How many workers share its records; one is all of it at once.
    pub shards: u32,
}

/// A worker that carries out an order, or a part of it.
pub struct Worker<'a> {
    /// The task kinds.
    pub registry: &'a Registry,
    /// The store.
    pub writer: Arc<Writer>,
    /// Where inputs and outputs are put; removed by the caller.
    pub folder: PathBuf,
    /// The environment.
    pub env: EnvLookup,
    /// The ids of the GPUs that are its own.
    pub gpus: Vec<u32>,
    /// Where notes go.
    pub progress: Progress,
    /// Asks it to stop.
    pub cancel: Cancel,
}

impl Order {
    /// The order that [`Self::write`] has written, or what is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let order: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if order.version == VERSION {
            Ok(order)
        } else {
            Err(format!("it is of version {}, and this program knows {VERSION}", order.version))
        }
    }

    /// Its bytes. They hold no secret.
    pub fn write(&self) -> std::io::Result<Vec<u8>> {
        // Only a path that is not UTF-8 cannot be written.
        serde_json::to_vec_pretty(self).map_err(std::io::Error::other)
    }

    /// Does the task, or a shard of it. What a shard keeps are its records; it delivers nothing else.
    pub fn perform(&self, shard: Option<Shard>, worker: Worker<'_>) -> Result<Delivery, TaskError> {
        let step = match worker.registry.bind(&self.kind, &self.params) {
            Some(Ok(step)) if step.version() == self.task_version => step,
            Some(Ok(step)) => {
                return Err(TaskError::failed(format!(
                    "the order is for version {} of `{}`, and this program has {}",
                    self.task_version,
                    self.kind,
                    step.version()
                )));
            }
            Some(Err(error)) => return Err(TaskError::failed(format!("the params: {}", error.message))),
            None => return Err(TaskError::failed(format!("there is no task kind `{}`", self.kind))),
        };
        let view = worker.writer.view();
        let inputs = place_inputs(view, &self.inputs, &worker.folder.join("inputs"))?;
        let scratch = view.layout().scratch(&self.action);
        let scratch = match shard {
            Some(shard) => scratch.join(format!("shard-{}-of-{}", shard.index, shard.count)),
            None => scratch,
        };
        let delivery = Call {
            step: &*step,
            inputs,
            files: self.files.clone(),
            seed: self.seed,
            run: self.with_secrets(&worker.env)?,
            env: worker.env,
            writer: Arc::clone(&worker.writer),
            outputs: worker.folder.join("outputs"),
            scratch: scratch.clone(),
            progress: worker.progress,
            cancel: worker.cancel,
            threads: self.resources.cpus.max(1) as usize,
            gpus: worker.gpus,
            allowance: Arc::new(Allowance::new(self.budget, self.pilot)),
            shard,
        }
        .make()?;
        // The machine that commits may be another one: what it hears of must be on the disk.
        worker.writer.sync_outputs(delivery.outputs.values())?;
        if shard.is_some() {
            // A left-over is only disk space.
            let _ = files::remove_tree(&scratch);
        }
        Ok(delivery)
    }

    fn with_secrets(&self, env: &EnvLookup) -> Result<Value, TaskError> {
        let mut run = self.run.clone();
        for (pointer, name) in &self.secrets {
            let value = env(name).ok_or_else(|| {
                TaskError::failed(format!(
                    "the environment variable `{name}`, which holds `{pointer}` of `run:`, has not come along"
                ))
            })?;
            if let Some(place) = run.pointer_mut(pointer) {
                *place = Value::String(value);
            }
        }
        Ok(run)
    }
}

/// An order that is written down, and the values it leaves out.
pub(crate) fn without_secrets(
    run: &Value,
    pointers: &[String],
) -> (Value, BTreeMap<String, String>, BTreeMap<String, String>) {
    let (mut run, mut names, mut values) = (run.clone(), BTreeMap::new(), BTreeMap::new());
    for (number, pointer) in pointers.iter().enumerate() {
        let Some(place) = run.pointer_mut(pointer) else { continue };
        // Only texts can be handed on by the environment; nothing else of it is secret.
        if let Value::String(secret) = place {
            let name = format!("DAG_ORDER_SECRET_{number}");
            values.insert(name.clone(), std::mem::take(secret));
            names.insert(pointer.clone(), name);
            *place = Value::Null;
        }
    }
    (run, names, values)
}
