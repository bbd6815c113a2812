//! The trainer that is built in: one machine's threads or one GPU, checkpoints that resume to the bit.

use std::path::Path;

use dag_engine::task::{TaskCx, TaskError};
use dag_lm::device::Device;
use dag_lm::model::{Config, Places};
use dag_lm::train::{self, Trainer};

use super::course::Course;
use super::kept::Kept;
use super::log::{Log, summary, write_training};
use super::params::{Params, Run};
use crate::device;

/// Parameters above which a CPU is no place to train: some hours at the sizes this runtime is made for.
const MOST_ON_A_CPU: u64 = 200_000_000;

/// What is said of a base above that, and what to do about it.
pub(super) const TOO_LARGE: &str =
    "on a CPU the embedded trainer is for models up to 200 million parameters; this base is larger";
pub(super) const CHOOSE: &str = "give the node a GPU with `run: { gpus: 1 }`, or choose `backend: nemo` or `backend: torchrun`, which train on several from the same packs";

/// Trains on the GPU that the node was given, else on the threads of this machine.
pub(super) fn run(params: &Params, run: &Run, cx: &mut TaskCx) -> Result<(), TaskError> {
    let device = device::of(cx)?;
    if let Device::Cpu { .. } = device {
        check_size(&cx.input("base")?.path)?;
    }
    let Course { base, tokenizer, mut packs, seed, config } = Course::of(params, cx)?;
    let failed = |error: train::TrainError| TaskError::failed(error.to_string());
    let mut trainer = Trainer::new(&base, &config, &device).map_err(failed)?;
    let mut log = Log::open(cx.scratch())?;
    let kept = Kept::new(cx.scratch(), &params.keep);
    let checkpoint = cx.scratch().join("checkpoint");
    if checkpoint.is_dir() {
        match trainer.load_checkpoint(&checkpoint) {
            Ok(()) if kept.has_all_until(trainer.position().step) => {
                cx.progress().reused(trainer.position().step);
            }
            Ok(()) => {
                cx.warn("training begins anew: the model of a step to keep is gone");
                trainer = Trainer::new(&base, &config, &device).map_err(failed)?;
            }
            // A checkpoint cut off by the interruption costs the steps since the one before, which is the start.
            Err(error) => cx.warn(&format!("training begins anew: {error}")),
        }
    }
    trainer.set_recompute(run.recompute.into());
    log.cut(trainer.position().step)?;
    cx.progress().total(config.steps);
    let every = run.checkpoint_every.unwrap_or(100).max(1);
    while trainer.position().step < config.steps {
        if cx.cancelled() {
            trainer.save_checkpoint(&checkpoint).map_err(failed)?;
            log.save()?;
            return Err(TaskError::Cancelled);
        }
        let chosen = train::order(seed, trainer.position(), packs.store.len(), params.batch);
        let batch = chosen.into_iter().map(|pack| packs.read(pack)).collect::<Result<Vec<_>, _>>()?;
        let stats = trainer.step(&batch.iter().collect::<Vec<_>>()).map_err(failed)?;
        log.push(stats);
        kept.offer(&trainer, &tokenizer)?;
        cx.progress().done(1);
        cx.progress().tokens(0, batch.iter().map(|pack| pack.tokens.len() as u64).sum());
        cx.progress().point("loss", stats.step as f64, stats.loss);
        if stats.step % every == 0 && stats.step < config.steps {
            // The log first: a checkpoint without its log would leave a hole in the curve.
            log.save()?;
            trainer.save_checkpoint(&checkpoint).map_err(failed)?;
        }
    }
    let folder = cx.output("model");
    trainer.save_model(&folder).map_err(failed)?;
    tokenizer.save(&folder).map_err(|error| TaskError::failed(error.to_string()))?;
    kept.hand_over(cx)?;
    let losses: Vec<f64> = log.steps.iter().map(|stats| stats.loss).collect();
    let loss_tokens = log.steps.iter().map(|stats| stats.loss_tokens).sum();
    let summary = summary(params, &config, trainer.position(), &packs, &losses, loss_tokens);
    write_training(&folder.join("training"), &summary, log.text()?)?;
    for name in ["steps", "epochs", "loss_tokens", "final_loss"] {
        cx.metric(name, summary[name].clone());
    }
    Ok(())
}

/// Refuses what would take weeks on a CPU.
fn check_size(base: &Path) -> Result<(), TaskError> {
    let config = Config::load(base).map_err(|error| TaskError::input(base, None, error.to_string()))?;
    if Places::new(&config).total() as u64 <= MOST_ON_A_CPU {
        return Ok(());
    }
    Err(TaskError::Missing { what: TOO_LARGE.into(), help: CHOOSE.into() })
}
