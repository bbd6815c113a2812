//! The models of chosen steps, kept beside the checkpoint until the node is done.

use std::fs;
use std::path::{Path, PathBuf};

use dag_engine::task::{TaskCx, TaskError};
use dag_lm::tokenizer::Tokenizer;
use dag_lm::train::Trainer;

/// The output that the model of a step is.
pub(super) fn port(step: u64) -> String {
    format!("step_{step}")
}

/// The models of the steps that are to be kept.
pub(super) struct Kept<'a> {
    folder: PathBuf,
    steps: &'a [u64],
}

impl<'a> Kept<'a> {
    pub(super) fn new(scratch: &Path, steps: &'a [u64]) -> Self {
        Self { folder: scratch.join("kept"), steps }
    }

    /// Where the model of a step lies.
    pub(super) fn path(&self, step: u64) -> PathBuf {
        self.folder.join(port(step))
    }

    /// Whether all those up to `step` are there, so that training may go on from it.
    pub(super) fn has_all_until(&self, step: u64) -> bool {
        self.steps.iter().all(|&kept| kept > step || self.path(kept).is_dir())
    }

    /// Keeps the model as it is, if it is at one of the steps. A folder of that name is always a whole model.
    pub(super) fn offer(&self, trainer: &Trainer, tokenizer: &Tokenizer) -> Result<(), TaskError> {
        let step = trainer.position().step;
        if !self.steps.contains(&step) {
            return Ok(());
        }
        let (path, partial) = (self.path(step), self.folder.join("partial"));
        for old in [&path, &partial] {
            if old.exists() {
                fs::remove_dir_all(old).map_err(|error| TaskError::io(old, error))?;
            }
        }
        trainer.save_model(&partial).map_err(|error| TaskError::failed(error.to_string()))?;
        tokenizer.save(&partial).map_err(|error| TaskError::failed(error.to_string()))?;
        fs::rename(&partial, &path).map_err(|error| TaskError::io(path, error))
    }

    /// Makes them the node's outputs.
    pub(super) fn hand_over(&self, cx: &TaskCx) -> Result<(), TaskError> {
        for &step in self.steps {
            let output = cx.output(&port(step));
            fs::rename(self.path(step), &output).map_err(|error| TaskError::io(output, error))?;
        }
        Ok(())
    }
}
