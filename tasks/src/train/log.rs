//! What a training leaves beside its model: the loss of every step, and a summary.

use std::fs;
use std::path::{Path, PathBuf};

use dag_engine::task::TaskError;
use dag_lm::train::{Position, StepStats, TrainConfig};
use serde_json::{Value, json};

use super::packs::Packs;
use super::params::Params;

/// The loss of every step, in memory and beside the checkpoint.
pub(super) struct Log {
    path: PathBuf,
    pub(super) steps: Vec<StepStats>,
}

impl Log {
    /// The log that an interrupted run has left, if any.
    pub(super) fn open(scratch: &Path) -> Result<Self, TaskError> {
        let path = scratch.join("loss.jsonl");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.map_err(|error| TaskError::io(&path, error))?,
        };
        // A torn last line is dropped with the steps it stood for.
        let steps = text.lines().map_while(|line| serde_json::from_str(line).ok()).collect();
        Ok(Self { path, steps })
    }

    /// Drops what comes after `step`, which will be trained again.
    pub(super) fn cut(&mut self, step: u64) -> Result<(), TaskError> {
        self.steps.truncate(step as usize);
        if self.steps.len() as u64 == step {
            return Ok(());
        }
        Err(TaskError::failed(format!(
            "the checkpoint is at step {step} and its log at {}",
            self.steps.len()
        )))
    }

    pub(super) fn push(&mut self, stats: StepStats) {
        self.steps.push(stats);
    }

    pub(super) fn text(&self) -> Result<String, TaskError> {
        let line = |stats| serde_json::to_string(stats).map(|line| line + "\n");
        self.steps
            .iter()
            .map(line)
            .collect::<Result<_, _>>()
            .map_err(|error| TaskError::failed(error.to_string()))
    }

    pub(super) fn save(&self) -> Result<(), TaskError> {
        fs::write(&self.path, self.text()?).map_err(|error| TaskError::io(&self.path, error))
    }
}

/// What was trained on and how far the loss fell, told by the loss of every step.
pub(super) fn summary(
    params: &Params,
    config: &TrainConfig,
    position: Position,
    packs: &Packs,
    losses: &[f64],
    loss_tokens: u64,
) -> Value {
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len().max(1) as f64;
    // A single step is noise; the first and the last twentieth are not.
    let window = (losses.len() / 20).max(1).min(losses.len());
    let epochs = position.packs as f64 / packs.store.len() as f64;
    let per_epoch = |name: &str| packs.stats.get(name).and_then(Value::as_f64);
    json!({
        "steps": position.step,
        "batch": params.batch,
        "epochs": epochs,
        "loss_tokens": loss_tokens,
        "tokens": per_epoch("tokens").map(|tokens| (tokens * epochs).round() as u64),
        "examples": packs.stats.get("examples"),
        "unique_problems": packs.stats.get("unique_problems"),
        "exposures": per_epoch("examples").map(|examples| (examples * epochs).round() as u64),
        "first_loss": mean(&losses[..window]),
        "final_loss": mean(&losses[losses.len() - window..]),
        "optimizer": config,
        "schedule": params.schedule,
    })
}

/// Writes both into the folder of the model.
pub(super) fn write_training(folder: &Path, summary: &Value, log: String) -> Result<(), TaskError> {
    fs::create_dir_all(folder).map_err(|error| TaskError::io(folder, error))?;
    let summary =
        serde_json::to_string_pretty(summary).map_err(|error| TaskError::failed(error.to_string()))?;
    for (name, text) in [("loss.jsonl", log), ("summary.json", summary + "\n")] {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|error| TaskError::io(path, error))?;
    }
    Ok(())
}
