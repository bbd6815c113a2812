//! What every trainer is told: the base, the packs, how many steps, and at what rates.

use std::path::PathBuf;

use dag_engine::task::{TaskCx, TaskError};
use dag_lm::tokenizer::Tokenizer;
use dag_lm::train::TrainConfig;

use super::packs::Packs;
use super::params::Params;
use crate::records::draw;

/// A training that is about to begin, whoever trains.
pub(super) struct Course {
    pub(super) base: PathBuf,
    pub(super) tokenizer: Tokenizer,
    pub(super) packs: Packs,
    /// Of the order in which packs are taken.
    pub(super) seed: u64,
    pub(super) config: TrainConfig,
}

impl Course {
    /// Reads the inputs and settles what follows from them.
    pub(super) fn of(params: &Params, cx: &TaskCx) -> Result<Self, TaskError> {
        let base = cx.input("base")?.path.clone();
        let packs = cx.input("packs")?.path.clone();
        let load = |path: &PathBuf| {
            Tokenizer::load(path).map_err(|error| TaskError::input(path, None, error.to_string()))
        };
        let tokenizer = load(&base)?;
        // The packs hold ids: under another vocabulary they would mean other text.
        if tokenizer.digest() != load(&packs)?.digest() {
            return Err(TaskError::failed(
                "the packs were made with another tokenizer than the base model's; pack with `tokenizer:` of this base",
            ));
        }
        let packs = Packs::open(&packs, cx)?;
        let seed = draw(cx.seed(), params.seed);
        let steps = params.steps(packs.size()).ok_or_else(|| {
            TaskError::failed(
                "the packs do not tell their tokens and examples; say `steps` or `epochs` instead",
            )
        })?;
        if let Some(step) = params.keep.iter().find(|&&step| step >= steps) {
            return Err(TaskError::failed(format!("step {step} is to be kept, and there are {steps} steps")));
        }
        Ok(Self { base, tokenizer, packs, seed, config: params.config(steps, seed) })
    }
}
