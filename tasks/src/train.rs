//! `train`: a model from a base model and packs, step by step, with checkpoints that resume to the bit.
//!
//! The model directory carries `training/loss.jsonl` and `training/summary.json`: what was trained on and how far the loss
//! fell, never how long it took.

mod embedded;
mod kept;
mod log;
mod packs;
mod params;
pub mod visits;

use std::path::Path;

use dag_engine::task::{
    ArtifactType, Estimate, EstimateInputs, Fault, Ports, Resources, Task, TaskCx, TaskError,
};
use dag_lm::tokenizer::Tokenizer;

use params::Size;
pub use params::{Auto, Lora, Optimizer, Params, Recompute, Run, Schedule};

/// The task kind.
pub struct Train;

impl Task for Train {
    const KIND: &'static str = "train";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "a model from a base model and packs";
    type Params = Params;
    type Run = Run;

    fn ports(params: &Params) -> Ports {
        let ports = Ports::new()
            .input("base", ArtifactType::Model)
            .input("packs", ArtifactType::Packs)
            .output("model", ArtifactType::Model);
        params.keep.iter().fold(ports, |ports, &step| ports.output(kept::port(step), ArtifactType::Model))
    }

    fn check(params: &Params) -> Vec<Fault> {
        params::faults(params)
    }

    fn uses_seed(_: &Params) -> bool {
        true
    }

    fn resources(_: &Params) -> Resources {
        Resources { cpus: 2, ..Resources::default() }
    }

    fn estimate(params: &Params, inputs: &EstimateInputs) -> Estimate {
        let [packs, tokens, examples] =
            ["packs", "tokens", "examples"].map(|name| inputs.total("packs", name));
        let steps = params.steps(Size { packs, tokens, examples });
        let trained = steps.zip(packs).zip(tokens).map(|((steps, packs), tokens)| {
            let per_pack = tokens as f64 / packs.max(1) as f64;
            (steps as f64 * params.batch as f64 * per_pack) as u64
        });
        Estimate { records: steps, output_tokens: trained, ..Estimate::default() }
    }

    fn run(params: &Params, cx: &mut TaskCx) -> Result<(), TaskError> {
        embedded::run(params, cx)
    }
}

/// The packs hold ids: under another vocabulary they would mean other text.
fn check_tokenizer(base: &Path, packs: &Path) -> Result<(), TaskError> {
    let digest = |path: &Path| {
        Tokenizer::load(path)
            .map(|tokenizer| tokenizer.digest())
            .map_err(|error| TaskError::input(path, None, error.to_string()))
    };
    if digest(base)? == digest(packs)? {
        return Ok(());
    }
    Err(TaskError::failed(
        "the packs were made with another tokenizer than the base model's; pack with `tokenizer:` of this base",
    ))
}

#[cfg(test)]
mod tests;
