//! `train`: a model from a base model and packs, step by step, with checkpoints that resume to the bit.
//!
//! The model directory carries `training/loss.jsonl` and `training/summary.json`: what was trained on and how far the loss
//! fell, never how long it took.

mod kept;
pub mod visits;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use dag_engine::task::{
    ArtifactType, Estimate, EstimateInputs, Fault, Ports, Resources, Task, TaskCx, TaskError,
};
use dag_lm::device::Device;
use dag_lm::model::{Config, Places};
use dag_lm::tokenizer::Tokenizer;
use dag_lm::train::{self, Position, StepStats, TrainConfig, Trainer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::records::draw;
use crate::table::{Row, TableReader};
use crate::token_store::{TokenReader, TokenWriter};
use kept::Kept;

/// The params of `train`. How long is one of `steps`, `epochs`, `tokens` and `examples`: what is the same for two arms is what
/// they are matched by.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The optimiser.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// Optimiser steps.
    #[serde(default)]
    pub steps: Option<u64>,
    /// Times through all packs; may be a fraction.
    #[serde(default)]
    pub epochs: Option<f64>,
    /// Tokens to train on, prompts included, to the nearest step.
    #[serde(default)]
    pub tokens: Option<u64>,
    /// Examples to see, each as often as it comes up, to the nearest step.
    #[serde(default)]
    pub examples: Option<u64>,
    /// Packs in one step.
    pub batch: usize,
    /// The highest learning rate.
    pub peak_lr: f64,
    /// The learning rate of the first step; a tenth of the peak if it is left out.
    #[serde(default)]
    pub initial_lr: Option<f64>,
    /// The learning rate at the end; a hundredth of the peak if it is left out.
    #[serde(default)]
    pub min_lr: Option<f64>,
    /// The share of the steps until the peak.
    #[serde(default = "warmup_ratio")]
    pub warmup_ratio: f64,
    /// How the learning rate falls after the peak.
    #[serde(default)]
    pub schedule: Schedule,
    /// Shares of the first and the second moment kept from step to step.
    #[serde(default = "betas")]
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    #[serde(default = "eps")]
    pub eps: f64,
    /// Decay of matrices per unit of learning rate.
    #[serde(default = "weight_decay")]
    pub weight_decay: f64,
    /// The largest global norm of a gradient; zero for no limit.
    #[serde(default = "clip_norm")]
    pub clip_norm: f64,
    /// Low-rank adapters that are trained instead of the weights, and added to them at the end.
    #[serde(default)]
    pub lora: Option<Lora>,
    /// Steps after which the model is an output of its own besides the last one: `step_500` for 500.
    #[serde(default)]
    pub keep: Vec<u64>,
    /// Another number takes the packs in another order, and starts adapters from other weights.
    #[serde(default)]
    pub seed: u64,
}

/// Low-rank adapters: `alpha/rank · B·A` beside the weight of every target (arXiv 2106.09685), without dropout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Rows of A and columns of B.
    pub rank: usize,
    /// The adapters are weighted by `alpha / rank`; twice the rank if it is left out.
    #[serde(default)]
    pub alpha: Option<f64>,
    /// The projections that get one, by the last part of their names.
    #[serde(default = "targets")]
    pub targets: Vec<String>,
}

fn targets() -> Vec<String> {
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"].map(str::to_owned).into()
}

fn warmup_ratio() -> f64 {
    0.03
}
fn betas() -> (f64, f64) {
    (0.9, 0.98)
}
fn eps() -> f64 {
    1e-8
}
fn weight_decay() -> f64 {
    0.1
}
fn clip_norm() -> f64 {
    1.0
}

/// The optimisers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam with decoupled weight decay.
    #[default]
    Adamw,
}

/// How the learning rate falls after the peak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// As half a cosine, down to `min_lr`.
    #[default]
    Cosine,
    /// Not at all: it stays at the peak.
    Constant,
}

/// The operational options of `train`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Run {
    /// Steps between checkpoints (default 100). A killed run goes on from the last.
    pub checkpoint_every: Option<u64>,
    /// Whether activations are computed again on the way back instead of kept: a tenth of the memory for about a quarter more
    /// time. `auto`, the default, does so for passes whose activations would take more than 2 GiB. No byte depends on it.
    pub recompute: Recompute,
}

/// Whether activations are computed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Recompute {
    /// Always, or never.
    Plain(bool),
    /// Where there are many.
    Named(Auto),
}

/// The word for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Auto {
    /// Where there are many.
    Auto,
}

impl Default for Recompute {
    fn default() -> Self {
        Self::Named(Auto::Auto)
    }
}

impl From<Recompute> for train::Recompute {
    fn from(recompute: Recompute) -> Self {
        match recompute {
            Recompute::Plain(true) => Self::Always,
            Recompute::Plain(false) => Self::Never,
            Recompute::Named(Auto::Auto) => Self::Auto,
        }
    }
}

/// Parameters above which a CPU is no place to train: some hours at the sizes this runtime is made for.
const MOST_ON_A_CPU: u64 = 200_000_000;

impl Params {
    /// The steps, if what is known of the packs is enough to tell.
    fn steps(&self, packs: Size) -> Option<u64> {
        let in_one_step = |total: Option<u64>| {
            Some(total? as f64 / packs.packs? as f64 * self.batch.max(1) as f64)
                .filter(|tokens| *tokens > 0.0)
        };
        let steps = if let Some(steps) = self.steps {
            return Some(steps);
        } else if let Some(tokens) = self.tokens {
            (tokens as f64 / in_one_step(packs.tokens)?).round()
        } else if let Some(examples) = self.examples {
            (examples as f64 / in_one_step(packs.examples)?).round()
        } else {
            (self.epochs.unwrap_or(1.0) * packs.packs? as f64 / self.batch.max(1) as f64).ceil()
        };
        Some((steps as u64).max(1))
    }

    fn config(&self, steps: u64, seed: u64) -> TrainConfig {
        TrainConfig {
            steps,
            peak_lr: self.peak_lr,
            initial_lr: self.initial_lr.unwrap_or(self.peak_lr / 10.0),
            min_lr: match self.schedule {
                Schedule::Cosine => self.min_lr.unwrap_or(self.peak_lr / 100.0),
                Schedule::Constant => self.peak_lr,
            },
            warmup_steps: (self.warmup_ratio * steps as f64).round() as u64,
            betas: self.betas,
            eps: self.eps,
            weight_decay: self.weight_decay,
            clip_norm: (self.clip_norm > 0.0).then_some(self.clip_norm),
            lora: self.lora.as_ref().map(|lora| train::Lora {
                rank: lora.rank,
                alpha: lora.alpha.unwrap_or(2.0 * lora.rank as f64),
                targets: lora.targets.clone(),
                seed,
            }),
        }
    }
}

/// What is known of the packs.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    packs: Option<u64>,
    tokens: Option<u64>,
    examples: Option<u64>,
}

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
        let mut faults = Vec::new();
        let mut require = |holds: bool, pointer: &str, message: &str| {
            if !holds {
                faults.push(Fault::new(pointer, message));
            }
        };
        let is_rate = |rate: f64| rate.is_finite() && rate >= 0.0;
        let given = [
            params.steps.is_some(),
            params.epochs.is_some(),
            params.tokens.is_some(),
            params.examples.is_some(),
        ];
        require(
            given.iter().filter(|is_given| **is_given).count() == 1,
            "",
            "how long to train is one of `steps`, `epochs`, `tokens` and `examples`",
        );
        require(params.tokens != Some(0), "/tokens", "there is at least one token to train on");
        require(params.examples != Some(0), "/examples", "there is at least one example to see");
        require(params.steps != Some(0), "/steps", "there is at least one step");
        require(
            params.epochs.is_none_or(|epochs| epochs.is_finite() && epochs > 0.0),
            "/epochs",
            "epochs are above zero",
        );
        require(params.batch > 0, "/batch", "a step has at least one pack");
        require(is_rate(params.peak_lr), "/peak_lr", "a learning rate is zero or more");
        require(params.initial_lr.is_none_or(is_rate), "/initial_lr", "a learning rate is zero or more");
        require(params.min_lr.is_none_or(is_rate), "/min_lr", "a learning rate is zero or more");
        require(
            params.schedule == Schedule::Cosine || params.min_lr.is_none(),
            "/min_lr",
            "a constant schedule ends at the peak",
        );
        require((0.0..=1.0).contains(&params.warmup_ratio), "/warmup_ratio", "a share is from 0 to 1");
        let is_share = |beta: f64| (0.0..1.0).contains(&beta);
        require(
            is_share(params.betas.0) && is_share(params.betas.1),
            "/betas",
            "betas are from 0 to below 1",
        );
        require(params.eps > 0.0, "/eps", "epsilon is above zero");
        require(is_rate(params.weight_decay), "/weight_decay", "a decay is zero or more");
        require(is_rate(params.clip_norm), "/clip_norm", "a norm is zero or more");
        let last = params.steps.unwrap_or(u64::MAX);
        require(
            params.keep.iter().all(|&step| step > 0 && step < last),
            "/keep",
            "steps to keep are between the first and the last, which is kept as `model`",
        );
        let different: BTreeSet<u64> = params.keep.iter().copied().collect();
        require(different.len() == params.keep.len(), "/keep", "a step is named twice");
        if let Some(lora) = &params.lora {
            require(lora.rank > 0, "/lora/rank", "a rank is at least 1");
            require(
                lora.alpha.is_none_or(|alpha| alpha.is_finite() && alpha > 0.0),
                "/lora/alpha",
                "an alpha is above zero",
            );
            require(!lora.targets.is_empty(), "/lora/targets", "adapters are of at least one projection");
        }
        faults
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
        let run: Run = cx.run_options()?;
        let base = cx.input("base")?.path.clone();
        let packs = cx.input("packs")?.path.clone();
        check_size(&base)?;
        check_tokenizer(&base, &packs)?;
        let mut packs = Packs::open(&packs, cx)?;
        let seed = draw(cx.seed(), params.seed);
        let steps = params.steps(packs.size()).ok_or_else(|| {
            TaskError::failed(
                "the packs do not tell their tokens and examples; say `steps` or `epochs` instead",
            )
        })?;
        let config = params.config(steps, seed);
        let failed = |error: train::TrainError| TaskError::failed(error.to_string());
        if let Some(step) = params.keep.iter().find(|&&step| step >= config.steps) {
            let what = format!("step {step} is to be kept, and there are {} steps", config.steps);
            return Err(TaskError::failed(what));
        }
        let tokenizer =
            Tokenizer::load(&base).map_err(|error| TaskError::input(&base, None, error.to_string()))?;
        let device = Device::Cpu { threads: cx.threads().max(1) };
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
        let summary = summary(params, &config, trainer.position(), &packs, &log);
        write_training(&folder.join("training"), &summary, &log)?;
        for name in ["steps", "epochs", "loss_tokens", "final_loss"] {
            cx.metric(name, summary[name].clone());
        }
        Ok(())
    }
}

/// Refuses what would take weeks on a CPU.
fn check_size(base: &Path) -> Result<(), TaskError> {
    let config = Config::load(base).map_err(|error| TaskError::input(base, None, error.to_string()))?;
    if Places::new(&config).total() as u64 <= MOST_ON_A_CPU {
        return Ok(());
    }
    Err(TaskError::Missing {
        what: "the embedded trainer is for models up to 200 million parameters; this base is larger".into(),
        help: "train it with a trainer of the field as a `command` on the same packs, on GPUs".into(),
    })
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

/// The packs, their tokens in a file that is read at random.
struct Packs {
    store: TokenReader,
    starts: Vec<Vec<u32>>,
    stats: Value,
}

impl Packs {
    fn open(folder: &Path, cx: &TaskCx) -> Result<Self, TaskError> {
        let table = TableReader::open(folder.join("packs.parquet"))?;
        let mut writer = TokenWriter::create(cx.scratch().join("packs.tokens"))?;
        let mut starts = Vec::new();
        for (number, row) in (1..).zip(table.rows_of(&["tokens", "loss_mask", "starts"])?) {
            let row = row?;
            let list = |name| {
                numbers(&row, name).ok_or_else(|| {
                    TaskError::input(table.path(), Some(number), format!("`{name}` is no list of numbers"))
                })
            };
            let (tokens, mask) = (list("tokens")?, list("loss_mask")?);
            if tokens.len() != mask.len() {
                return Err(TaskError::input(
                    table.path(),
                    Some(number),
                    "the loss mask is not as long as the tokens",
                ));
            }
            let mask: Vec<u8> = mask.into_iter().map(|mask| u8::from(mask != 0)).collect();
            writer.push(&tokens, &mask)?;
            starts.push(list("starts")?);
        }
        if starts.is_empty() {
            return Err(TaskError::input(table.path(), None, "there are no packs to train on"));
        }
        let path = folder.join("stats.json");
        let text = fs::read(&path).map_err(|error| TaskError::io(&path, error))?;
        let stats = serde_json::from_slice(&text)
            .map_err(|error| TaskError::input(&path, None, error.to_string()))?;
        Ok(Self { store: writer.finish()?, starts, stats })
    }

    fn size(&self) -> Size {
        let of = |name: &str| self.stats.get(name).and_then(Value::as_u64);
        Size { packs: Some(self.store.len() as u64), tokens: of("tokens"), examples: of("examples") }
    }

    fn read(&mut self, pack: usize) -> Result<train::Pack, TaskError> {
        let (tokens, loss_mask) = self.store.read(pack)?;
        Ok(train::Pack { tokens, loss_mask, starts: self.starts[pack].clone() })
    }
}

fn numbers(row: &Row, name: &str) -> Option<Vec<u32>> {
    row.get(name)?.as_array()?.iter().map(|value| u32::try_from(value.as_u64()?).ok()).collect()
}

/// The loss of every step, in memory and beside the checkpoint.
struct Log {
    path: PathBuf,
    steps: Vec<StepStats>,
}

impl Log {
    /// The log that an interrupted run has left, if any.
    fn open(scratch: &Path) -> Result<Self, TaskError> {
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
    fn cut(&mut self, step: u64) -> Result<(), TaskError> {
        self.steps.truncate(step as usize);
        if self.steps.len() as u64 == step {
            return Ok(());
        }
        Err(TaskError::failed(format!(
            "the checkpoint is at step {step} and its log at {}",
            self.steps.len()
        )))
    }

    fn push(&mut self, stats: StepStats) {
        self.steps.push(stats);
    }

    fn text(&self) -> Result<String, TaskError> {
        let line = |stats| serde_json::to_string(stats).map(|line| line + "\n");
        self.steps
            .iter()
            .map(line)
            .collect::<Result<_, _>>()
            .map_err(|error| TaskError::failed(error.to_string()))
    }

    fn save(&self) -> Result<(), TaskError> {
        fs::write(&self.path, self.text()?).map_err(|error| TaskError::io(&self.path, error))
    }
}

fn summary(params: &Params, config: &TrainConfig, position: Position, packs: &Packs, log: &Log) -> Value {
    let mean =
        |steps: &[StepStats]| steps.iter().map(|stats| stats.loss).sum::<f64>() / steps.len().max(1) as f64;
    // A single step is noise; the first and the last twentieth are not.
    let window = (log.steps.len() / 20).max(1).min(log.steps.len());
    let epochs = position.packs as f64 / packs.store.len() as f64;
    let per_epoch = |name: &str| packs.stats.get(name).and_then(Value::as_f64);
    json!({
        "steps": position.step,
        "batch": params.batch,
        "epochs": epochs,
        "loss_tokens": log.steps.iter().map(|stats| stats.loss_tokens).sum::<u64>(),
        "tokens": per_epoch("tokens").map(|tokens| (tokens * epochs).round() as u64),
        "examples": packs.stats.get("examples"),
        "unique_problems": packs.stats.get("unique_problems"),
        "exposures": per_epoch("examples").map(|examples| (examples * epochs).round() as u64),
        "first_loss": mean(&log.steps[..window]),
        "final_loss": mean(&log.steps[log.steps.len() - window..]),
        "optimizer": config,
        "schedule": params.schedule,
    })
}

fn write_training(folder: &Path, summary: &Value, log: &Log) -> Result<(), TaskError> {
    fs::create_dir_all(folder).map_err(|error| TaskError::io(folder, error))?;
    let summary =
        serde_json::to_string_pretty(summary).map_err(|error| TaskError::failed(error.to_string()))?;
    for (name, text) in [("loss.jsonl", log.text()?), ("summary.json", summary + "\n")] {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|error| TaskError::io(path, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
