//! `train`: a model from a base model and packs, step by step, with checkpoints that resume to the bit.
//!
//! The model directory carries `training/loss.jsonl` and `training/summary.json`: what was trained on and how far the loss
//! fell, never how long it took.

mod course;
mod embedded;
mod external;
mod kept;
mod log;
mod packs;
mod params;
pub mod visits;

use dag_engine::task::{
    ArtifactType, Environment, Estimate, EstimateInputs, Fault, FileKind, FileRef, Missing, Ports, Resources,
    Task, TaskCx, TaskError,
};

use crate::device;
use params::Size;
pub use params::{
    Auto, Backend, DataForm, Lora, Optimizer, Parallel, Params, Precision, Recompute, Run, Schedule,
    StopSignal, Trainer,
};

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

    fn device(params: &Params, gpus: u32) -> Option<&'static str> {
        // There products are of 16-bit numbers.
        (params.backend == Backend::Embedded).then(|| device::of_key(gpus)).flatten()
    }

    fn files(params: &Params) -> Vec<FileRef> {
        let file =
            |pointer: String, path: &String| FileRef { pointer, pattern: path.clone(), kind: FileKind::File };
        let Some(trainer) = &params.trainer else { return Vec::new() };
        let script = trainer.script.iter().map(|path| file("/trainer/script".to_owned(), path));
        let others = trainer.files.iter().map(|(name, path)| file(format!("/trainer/files/{name}"), path));
        script.chain(others).collect()
    }

    fn resources(params: &Params) -> Resources {
        match params.backend {
            Backend::Embedded => Resources { cpus: 2, ..Resources::default() },
            Backend::Torchrun => Resources::default(),
            Backend::Nemo => Resources { gpus: 1, ..Resources::default() },
        }
    }

    fn preflight(params: &Params, run: &Run, environment: &dyn Environment) -> Vec<Missing> {
        match params.backend {
            Backend::Embedded => device::missing(environment).into_iter().collect(),
            Backend::Torchrun | Backend::Nemo => external::preflight(run, environment),
        }
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
        let run: Run = cx.run_options()?;
        match params.backend {
            Backend::Embedded => embedded::run(params, &run, cx),
            Backend::Torchrun | Backend::Nemo => external::run(params, &run, cx),
        }
    }
}

#[cfg(test)]
mod tests;
