//! A call of a task: places its inputs, gives it its context, and stores what it made. The same here and on a worker.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dag_cache::{CacheError, Output, View, Writer};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::allowance::Allowance;
use crate::context::{Cancel, EnvLookup, Input, Progress, Shard, TaskCx};
use crate::files;
use crate::registry::Step;
use crate::task::TaskError;

/// A task with all that it is given.
pub(crate) struct Call<'a> {
    pub(crate) step: &'a dyn Step,
    pub(crate) inputs: BTreeMap<String, Vec<Input>>,
    pub(crate) files: BTreeMap<String, Vec<PathBuf>>,
    pub(crate) seed: Option<u64>,
    pub(crate) run: Value,
    pub(crate) env: EnvLookup,
    pub(crate) writer: Arc<Writer>,
    pub(crate) outputs: PathBuf,
    pub(crate) scratch: PathBuf,
    pub(crate) progress: Progress,
    pub(crate) cancel: Cancel,
    pub(crate) threads: usize,
    pub(crate) gpus: Vec<u32>,
    pub(crate) allowance: Arc<Allowance>,
    pub(crate) shard: Option<Shard>,
}

/// An artifact that enters a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallInput {
    /// The port.
    pub port: String,
    /// Where its node stands on its axes.
    pub coordinates: IndexMap<String, String>,
    /// The name of its node, for messages.
    pub node: String,
    /// The artifact.
    pub output: Output,
}

/// What came of a call: everything of a record that its manifest does not say.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    /// The outputs by port; their blobs are in the store.
    pub outputs: BTreeMap<String, Output>,
    /// What the task measured.
    #[serde(default)]
    pub metrics: BTreeMap<String, Value>,
    /// Records that failed and that the next run owes.
    #[serde(default)]
    pub owed: u64,
}

impl Call<'_> {
    /// Runs the task and puts its outputs into the store. A shard has none.
    pub(crate) fn make(self) -> Result<Delivery, TaskError> {
        files::remove_tree(&self.outputs).map_err(|error| TaskError::io(&self.outputs, error))?;
        for folder in [&self.outputs, &self.scratch] {
            std::fs::create_dir_all(folder).map_err(|error| TaskError::io(folder, error))?;
        }
        let mut cx = TaskCx {
            inputs: self.inputs,
            files: self.files,
            outputs: self.outputs.clone(),
            scratch: self.scratch,
            seed: self.seed.unwrap_or_default(),
            run: self.run,
            env: self.env,
            writer: Arc::clone(&self.writer),
            progress: self.progress,
            cancel: self.cancel,
            threads: self.threads,
            gpus: self.gpus,
            metrics: BTreeMap::new(),
            owed: 0,
            allowance: self.allowance,
            shard: self.shard,
        };
        self.step.run(&mut cx)?;
        let mut delivery =
            Delivery { outputs: BTreeMap::new(), metrics: cx.metrics().clone(), owed: cx.owed_records() };
        if self.shard.is_some() {
            return Ok(delivery);
        }
        for port in self.step.ports().outputs() {
            let path = self.outputs.join(&port.name);
            if !path.exists() {
                return Err(TaskError::failed(format!(
                    "the task ended without writing its output `{}`",
                    port.name
                )));
            }
            delivery.outputs.insert(port.name.clone(), self.writer.put_path(&path)?);
        }
        Ok(delivery)
    }
}

/// Puts every input where the task finds it, hashed.
pub(crate) fn place_inputs(
    view: &View,
    inputs: &[CallInput],
    folder: &Path,
) -> Result<BTreeMap<String, Vec<Input>>, TaskError> {
    // A folder of this name can be left only by an earlier try of the same call.
    files::remove_tree(folder).map_err(|error| TaskError::io(folder, error))?;
    std::fs::create_dir_all(folder).map_err(|error| TaskError::io(folder, error))?;
    let mut placed: BTreeMap<String, Vec<Input>> = BTreeMap::new();
    for (number, input) in inputs.iter().enumerate() {
        let path = folder.join(format!("{number}-{}", input.port));
        match view.materialize(&input.output, &path) {
            Ok(()) => {}
            Err(error @ (CacheError::MissingBlob { .. } | CacheError::CorruptBlob { .. })) => {
                return Err(TaskError::InputLost(error.to_string()));
            }
            Err(error) => return Err(error.into()),
        }
        placed.entry(input.port.clone()).or_default().push(Input {
            coordinates: input.coordinates.clone(),
            node: input.node.clone(),
            path,
            digest: input.output.digest,
        });
    }
    Ok(placed)
}
