//! Trainers that are programs: the packs are written as they read them, the program is started and followed, and the model it
//! writes is taken.
//!
//! Everything lies in the scratch folder of the action, so that a killed training goes on from the program's own checkpoints:
//!
//! ```text
//! trainer/data/            the packs, and the order in which they are taken
//! trainer/training.json    what a script is told (`recipe.yaml` for NeMo-Automodel)
//! trainer/checkpoints/     the program's own
//! trainer/loss.jsonl       the loss of every step, by a script that speaks the protocol
//! trainer/log-N            what the N-th attempt printed
//! trainer/model/           the model that a script writes
//! ```

mod artifact;
mod checkpoint;
mod follow;
mod launch;
mod nemo;
mod render;
mod yaml;

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dag_engine::task::{Environment, Missing, TaskCx, TaskError};
use dag_lm::train::Position;
use serde_json::{Value, json};

use super::course::Course;
use super::kept;
use super::log::{summary, write_training};
use super::params::{Backend, Params, Run, StopSignal, Trainer};
use crate::process::{HANDED_THROUGH, Program, Stop};
use artifact::Facts;
use follow::{Follower, Report};
use launch::{Allocation, Size};

/// Raised when what a script is told changes.
const VERSION: u32 = 1;
/// Seconds that a trainer gets for a last checkpoint.
const GRACE: f64 = 600.0;
/// How often to look whether a trainer of an earlier attempt has ended.
const LOOK: Duration = Duration::from_millis(100);
/// Variables that tell a trainer of the machines, the libraries and the caches that it finds.
const OF_MACHINES: [&str; 24] = [
    "SLURM_JOB_ID",
    "SLURM_JOBID",
    "SLURM_JOB_NODELIST",
    "SLURM_NODELIST",
    "SLURM_JOB_NUM_NODES",
    "SLURM_NNODES",
    "SLURM_CPUS_ON_NODE",
    "SLURM_GPUS_ON_NODE",
    "SLURM_JOB_ACCOUNT",
    "SLURM_JOB_PARTITION",
    "SLURM_CLUSTER_NAME",
    "SLURM_CONF",
    "SLURM_STEP_ID",
    "SLURM_NODEID",
    "SLURM_TASKS_PER_NODE",
    "SLURM_SUBMIT_DIR",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "CUDA_HOME",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "TRITON_CACHE_DIR",
    "NCCL_SOCKET_IFNAME",
];

/// The places of a training.
struct Job {
    folder: PathBuf,
}

impl Job {
    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn log(&self, attempt: usize) -> PathBuf {
        self.at(&format!("log-{attempt}"))
    }

    /// The attempts so far.
    fn attempts(&self) -> usize {
        (1..usize::MAX).take_while(|attempt| self.log(*attempt).exists()).count()
    }

    /// What the loss is read from, the oldest first.
    fn sources(&self, backend: Backend) -> Vec<PathBuf> {
        let mut sources: Vec<PathBuf> = (1..=self.attempts()).map(|attempt| self.log(attempt)).collect();
        sources.push(match backend {
            Backend::Nemo => self.at("checkpoints/training.jsonl"),
            Backend::Embedded | Backend::Torchrun => self.at("loss.jsonl"),
        });
        sources
    }
}

/// What the trainer needs and this machine has not.
pub(super) fn preflight(run: &Run, environment: &dyn Environment) -> Vec<Missing> {
    match launch::starter(run).filter(|program| !environment.has_program(program)) {
        None => Vec::new(),
        Some(program) => vec![Missing {
            what: format!("the program `{program}`, which starts the trainer"),
            help: "install it, or say under `run:` what starts the trainer, such as `launch: [/path/to/venv/bin/torchrun, …]`"
                .into(),
        }],
    }
}

/// Trains with a program.
pub(super) fn run(params: &Params, run: &Run, cx: &mut TaskCx) -> Result<(), TaskError> {
    let trainer = params.trainer.as_ref().ok_or_else(|| TaskError::failed("there is no `trainer:`"))?;
    artifact::check_base(&cx.input("base")?.path)?;
    let job = Job { folder: cx.scratch().join("trainer") };
    fs::create_dir_all(job.at("checkpoints")).map_err(|error| TaskError::io(&job.folder, error))?;
    let grace = Duration::try_from_secs_f64(run.grace.unwrap_or(GRACE))
        .map_err(|_| TaskError::failed("`grace` is a number of seconds"))?;
    let lock = lock(&job.at("lock"), grace, cx)?;
    let mut course = Course::of(params, cx)?;
    let order = render::order(&course, params.batch);
    let expected = render::expected(&course, &order, params.batch);
    render::render(&mut course, &order, params.batch, trainer.data, &job.at("data"), cx)?;
    let steps = course.config.steps;
    cx.progress().total(steps);

    if !job.at("ended").exists() {
        let program = prepare(params, trainer, run, &course, &job, cx)?;
        let log = job.log(job.attempts() + 1);
        let mut follower = Follower::new(job.sources(params.backend), expected.clone())?;
        follower.follow(log.clone());
        let progress = cx.progress().clone();
        let stop = Stop { signal: signal(run.stop_signal), grace, lock: Some(lock) };
        let version = trainer.version.clone().filter(|_| params.backend == Backend::Nemo);
        start(program, run, &job, &log, stop, cx)?.run(&cx.cancel_token(), || {
            follower.look(&progress)?;
            check_version(version.as_deref(), follower.version())
        })?;
        let path = job.at("ended");
        fs::write(&path, "").map_err(|error| TaskError::io(path, error))?;
    }
    let follower = Follower::new(job.sources(params.backend), expected)?;
    let schedule = course.config.schedule();
    let curve = follower.curve(|step| schedule.rate(step))?;
    let facts = take(params, &course, &job, cx)?;
    finish(params, trainer, &course, &curve, &facts, cx)
}

/// Waits for a trainer that an earlier attempt has left behind, and keeps others from starting one.
fn lock(path: &Path, grace: Duration, cx: &TaskCx) -> Result<File, TaskError> {
    let file = File::create(path).map_err(|error| TaskError::io(path, error))?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(TaskError::io(path, error)),
            Err(TryLockError::WouldBlock) if cx.cancelled() => return Err(TaskError::Cancelled),
            Err(TryLockError::WouldBlock) if began.elapsed() > grace => {
                return Err(TaskError::failed(format!(
                    "the trainer of an earlier attempt is still at work in `{}`; end it, and run again",
                    path.parent().unwrap_or(path).display()
                )));
            }
            Err(TryLockError::WouldBlock) => {
                cx.progress().message("waiting for the trainer of an earlier attempt to end");
                std::thread::sleep(LOOK);
            }
        }
    }
}

fn signal(of: StopSignal) -> i32 {
    match of {
        StopSignal::Term => libc::SIGTERM,
        StopSignal::Usr1 => libc::SIGUSR1,
        StopSignal::Int => libc::SIGINT,
    }
}

/// The version that was asked for must be the one that runs: `0.7.0` is that of `0.7.0+36044ad`.
fn check_version(wanted: Option<&str>, found: Option<&str>) -> Result<(), TaskError> {
    let (Some(wanted), Some(found)) = (wanted, found) else { return Ok(()) };
    if found == wanted || found.strip_prefix(wanted).is_some_and(|rest| rest.starts_with(['+', '.'])) {
        return Ok(());
    }
    Err(TaskError::failed(format!(
        "NeMo-Automodel says that it is version {found}, and the node asks for {wanted}; install that one, or change `version`"
    )))
}

/// Writes what the trainer is told, and gives the program with its arguments.
fn prepare(
    params: &Params,
    trainer: &Trainer,
    run: &Run,
    course: &Course,
    job: &Job,
    cx: &TaskCx,
) -> Result<Vec<String>, TaskError> {
    let allocation = Allocation::of(|name| cx.env(name)).map_err(TaskError::failed)?;
    let size = Size::of(run, allocation.as_ref(), cx.gpus().len()).map_err(TaskError::failed)?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let write = |name: &str, text: &str| {
        let path = job.at(name);
        fs::write(&path, text).map_err(|error| TaskError::io(path, error))
    };
    let newest = checkpoint::newest(&job.at("checkpoints"));
    if let Some(newest) = &newest {
        cx.progress().message(&format!("going on from the checkpoint after step {}", newest.step));
    }
    let program = match params.backend {
        Backend::Nemo => {
            let longest = course.packs.tokens.iter().max().copied().unwrap_or_default();
            let tokenizer = &course.tokenizer;
            let material = nemo::Material {
                base: &course.base,
                config: &course.config,
                seed: course.seed,
                data: &job.at("data"),
                dataset: &job.at(nemo::DATASET_FILE),
                checkpoints: &job.at("checkpoints"),
                resume: newest.as_ref().map(|newest| &*newest.path),
                longest,
                pad_token: tokenizer.pad_id().or(tokenizer.eos_id()).unwrap_or_default(),
                size,
            };
            let recipe = nemo::recipe(params, trainer, run, &material).map_err(TaskError::failed)?;
            write(nemo::DATASET_FILE, nemo::DATASET)?;
            write("recipe.yaml", &recipe)?;
            vec!["-m".to_owned(), "nemo_automodel.cli.app".to_owned(), text(&job.at("recipe.yaml"))]
        }
        Backend::Embedded | Backend::Torchrun => {
            let folder = job.at("script");
            let script = place_script(trainer, &folder, cx)?;
            let model = job.at("model");
            if model.exists() {
                fs::remove_dir_all(&model).map_err(|error| TaskError::io(&model, error))?;
            }
            let told = told(params, trainer, run, course, job, newest.as_ref());
            let told =
                serde_json::to_string_pretty(&told).map_err(|error| TaskError::failed(error.to_string()))?;
            write("training.json", &(told + "\n"))?;
            vec![text(&script), text(&job.at("training.json"))]
        }
    };
    Ok(launch::argv(run, size, allocation.as_ref(), &program))
}

/// Puts the script and the files beside it into a folder of their own.
fn place_script(trainer: &Trainer, folder: &Path, cx: &TaskCx) -> Result<PathBuf, TaskError> {
    fs::create_dir_all(folder).map_err(|error| TaskError::io(folder, error))?;
    let place = |pointer: &str, name: Option<&str>| {
        let from =
            cx.files(pointer).first().ok_or_else(|| TaskError::failed(format!("`{pointer}` is no file")))?;
        let name =
            name.map(OsString::from).or_else(|| from.file_name().map(ToOwned::to_owned)).unwrap_or_default();
        let to = folder.join(name);
        let bytes = fs::read(from).map_err(|error| TaskError::io(from, error))?;
        fs::write(&to, bytes).map_err(|error| TaskError::io(&to, error))?;
        Ok::<_, TaskError>(to)
    };
    for name in trainer.files.keys() {
        place(&format!("/trainer/files/{name}"), Some(name))?;
    }
    place("/trainer/script", None)
}

/// What a script is told; docs/training.md describes every field.
fn told(
    params: &Params,
    trainer: &Trainer,
    run: &Run,
    course: &Course,
    job: &Job,
    newest: Option<&checkpoint::Checkpoint>,
) -> Value {
    json!({
        "version": VERSION,
        "base": course.base,
        "data": job.at("data"),
        "steps": course.config.steps,
        "batch": params.batch,
        "seed": course.seed & 0x7fff_ffff,
        "optimizer": course.config,
        "schedule": params.schedule,
        "precision": trainer.precision,
        "options": trainer.options,
        "keep": params.keep,
        "checkpoint_every": run.checkpoint_every.unwrap_or(100).max(1),
        "checkpoints": job.at("checkpoints"),
        "resume": newest.map(|newest| json!({ "step": newest.step, "path": newest.path })),
        "recompute": run.recompute,
        "loss": job.at("loss.jsonl"),
        "model": job.at("model"),
        "kept": job.at("kept"),
    })
}

/// The program, ready to run.
fn start(
    argv: Vec<String>,
    run: &Run,
    job: &Job,
    log: &Path,
    stop: Stop,
    cx: &TaskCx,
) -> Result<Program, TaskError> {
    let stdout = File::create(log).map_err(|error| TaskError::io(log, error))?;
    let stderr = stdout.try_clone().map_err(|error| TaskError::io(log, error))?;
    let names = HANDED_THROUGH.into_iter().chain(OF_MACHINES).chain(run.pass_env.iter().map(String::as_str));
    let mut env: Vec<(OsString, OsString)> =
        names.filter_map(|name| Some((name.into(), cx.env(name)?.into()))).collect();
    // Words reach the log as they are said, and the data set beside the recipe may be loaded.
    env.push(("PYTHONUNBUFFERED".into(), "1".into()));
    env.push(("NEMO_ENABLE_USER_MODULES".into(), "1".into()));
    if !cx.gpus().is_empty() {
        let gpus: Vec<String> = cx.gpus().iter().map(ToString::to_string).collect();
        env.push(("CUDA_VISIBLE_DEVICES".into(), gpus.join(",").into()));
    }
    env.extend(run.env.iter().map(|(name, value)| (name.into(), value.into())));
    let argv = argv.into_iter().map(Into::into).collect();
    Ok(Program { argv, env, folder: job.folder.clone(), stdout, stderr, log: log.to_owned(), stop })
}

/// Takes the models that the trainer has written.
fn take(params: &Params, course: &Course, job: &Job, cx: &TaskCx) -> Result<Facts, TaskError> {
    let from = match params.backend {
        Backend::Nemo => {
            let last =
                checkpoint::newest(&job.at("checkpoints")).filter(|last| last.step == course.config.steps);
            let last = last.ok_or_else(|| {
                TaskError::failed("NeMo-Automodel ended well and left no whole checkpoint of the last step")
            })?;
            last.path.join(nemo::CONSOLIDATED)
        }
        Backend::Embedded | Backend::Torchrun => job.at("model"),
    };
    let take = |from: &Path, port: &str| {
        let to = cx.output(port);
        artifact::take(from, &course.base, &course.tokenizer, &to)
    };
    for &step in &params.keep {
        let port = kept::port(step);
        take(&job.at("kept").join(&port), &port)?;
    }
    take(&from, "model")
}

/// Writes what is told of the training beside its model, and the metrics.
fn finish(
    params: &Params,
    trainer: &Trainer,
    course: &Course,
    curve: &[Report],
    facts: &Facts,
    cx: &mut TaskCx,
) -> Result<(), TaskError> {
    let losses: Vec<f64> = curve.iter().map(|report| report.loss).collect();
    let loss_tokens = curve.iter().filter_map(|report| report.loss_tokens).sum();
    let steps = course.config.steps;
    let position = Position { step: steps, packs: steps * params.batch as u64 };
    let mut summary = summary(params, &course.config, position, &course.packs, &losses, loss_tokens);
    summary["backend"] = json!(params.backend);
    summary["trainer"] =
        json!({ "version": trainer.version, "precision": trainer.precision, "options": trainer.options });
    summary["dtype"] = facts.dtype.into();
    summary["parameters"] = facts.parameters.into();
    let mut lines = String::new();
    for report in curve {
        let line = serde_json::to_string(report).map_err(|error| TaskError::failed(error.to_string()))?;
        lines.push_str(&line);
        lines.push('\n');
    }
    write_training(&cx.output("model").join("training"), &summary, lines)?;
    for name in ["steps", "epochs", "loss_tokens", "final_loss", "parameters"] {
        cx.metric(name, summary[name].clone());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
