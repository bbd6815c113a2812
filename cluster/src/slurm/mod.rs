//! Slurm: a node's task as a job, and its shards as one array of jobs.

mod array;
mod options;
mod tools;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use dag_cache::View;
use dag_engine::call::Delivery;
use dag_engine::executor::{Executor, Site};
use dag_engine::graph::Placement;
use dag_engine::order::Order;
use dag_engine::params::{BindError, bind_typed};
use dag_engine::task::{Environment, Missing, Resources, TaskError};
use schemars::Schema;
use serde_json::Value;

use crate::drive::{Drive, drive};
use crate::folder::{Generation, Part, Submission};
use crate::program::run;
use crate::queue::{Handle, Queue, Refused, Standings, Trouble};
use crate::script::{Start, head, keep, quoted, script};
use array::indices;
use options::Options;
use tools::{is_passing, sacct, scancel, squeue, tool, words};

/// The scheduler is asked at most so often, for all jobs of this process together: first often, then ever less.
const ASK_FIRST: Duration = Duration::from_millis(500);
const ASK_LAST: Duration = Duration::from_secs(15);
/// The accounts are asked at most so often.
const ACCOUNTS: Duration = Duration::from_secs(20);

/// Runs tasks as jobs of Slurm.
#[derive(Default)]
pub(crate) struct Slurm {
    polled: Mutex<Polled>,
}

/// What the scheduler said last.
#[derive(Default)]
struct Polled {
    /// The jobs that somebody waits for, and since when.
    names: BTreeMap<String, Instant>,
    standings: Standings,
    asked: Option<Instant>,
    accounts_asked: Option<Instant>,
}

impl Executor for Slurm {
    fn name(&self) -> &'static str {
        "slurm"
    }

    fn about(&self) -> &'static str {
        "jobs of Slurm, through its command-line tools"
    }

    fn check(&self, options: &Value) -> Result<(), BindError> {
        let options: Options = bind_typed(options)?;
        match options.fault() {
            None => Ok(()),
            Some((pointer, message)) => Err(BindError { pointer: pointer.to_owned(), message }),
        }
    }

    fn schema(&self) -> Schema {
        schemars::schema_for!(Options)
    }

    fn preflight(&self, _options: &Value, environment: &dyn Environment) -> Vec<Missing> {
        let missing =
            ["sbatch", "squeue", "scancel"].into_iter().filter(|name| !environment.has_program(name));
        let help = "run this on a machine that submits jobs (a login node), or choose `executor: local`";
        missing.map(|name| Missing { what: format!("Slurm's `{name}`"), help: help.to_owned() }).collect()
    }

    fn hosts_services(&self) -> bool {
        true
    }

    fn execute(&self, order: &Order, options: &Value, site: &Site) -> Result<Delivery, TaskError> {
        let options: Options = bind_typed(options).map_err(|error| TaskError::failed(error.message))?;
        let queue = Jobs { slurm: self, options: &options, order, site };
        drive(&Drive { queue: &queue, order, site, grace: options.grace() })
    }
}

/// The jobs of one order.
struct Jobs<'a> {
    slurm: &'a Slurm,
    options: &'a Options,
    order: &'a Order,
    site: &'a Site,
}

impl Queue for Jobs<'_> {
    fn name(&self) -> &'static str {
        "slurm"
    }

    fn submit(&self, generation: &Generation, submission: &Submission) -> Result<String, Refused> {
        let store = self.site.view.layout().root();
        let program = crate::copy::program(self.site.view.layout())?;
        let file = generation.script_file(submission.number);
        let is_array = submission.parts != [Part::Whole];
        let start = Start {
            program: &program,
            store,
            node: &self.site.node,
            prelude: self.options.prelude.as_deref(),
            launcher: &self.options.launcher(store),
            part: if is_array { "\"$SLURM_ARRAY_TASK_ID\"" } else { "whole" },
            attempt: "\"${SLURM_JOB_ID}.${SLURM_RESTART_COUNT:-0}\"",
            host: "\"${SLURMD_NODENAME:-$(hostname)}\"",
            time: self.options.stop_after(),
        };
        keep(&file, &script(generation, submission, &start))?;
        let mut command = sbatch(&submission.name, &self.site.secrets);
        command.arg("--requeue");
        let log = if is_array { "%A_%a.log" } else { "%j.log" };
        command.arg(format!("--output={}", generation.logs().join(log).display()));
        if is_array {
            let width = self.options.width.map_or_else(String::new, |width| format!("%{width}"));
            command.arg(format!("--array={}{width}", indices(&submission.parts)));
        }
        command.args(self.options.arguments(&self.order.resources)).arg(&file);
        submitted(command)
    }

    fn find(&self, name: &str) -> Result<Option<String>, Trouble> {
        find(name)
    }

    fn standings(&self, jobs: &[Handle]) -> Result<Standings, Trouble> {
        self.slurm.standings(jobs)
    }

    fn forget(&self, jobs: &[Handle]) {
        self.slurm.forget(jobs);
    }

    fn log(&self, generation: &Generation, job: &Handle, part: Part) -> PathBuf {
        let name = match part {
            Part::Whole => format!("{}.log", job.id),
            Part::Shard(number) => format!("{}_{number}.log", job.id),
        };
        generation.logs().join(name)
    }

    fn cancel(&self, jobs: &[Handle]) -> Result<(), Trouble> {
        cancel(jobs)
    }
}

/// The start of a submission. Slurm hands the environment on to the job, and no file of ours holds what is secret in it.
fn sbatch(name: &str, secrets: &BTreeMap<String, String>) -> Command {
    let mut command = tool("sbatch");
    command.args(["--parsable", "--open-mode=append", "--export=ALL"]);
    command.arg(format!("--job-name={name}"));
    command.envs(secrets);
    command
}

/// Submits, and gives the job's id.
fn submitted(command: Command) -> Result<String, Refused> {
    let said = run(command).map_err(|error| Refused::Trouble(Trouble(error)))?;
    let complaint = words(&said);
    if !said.success {
        return Err(if is_passing(&complaint) {
            Refused::Trouble(Trouble(complaint))
        } else {
            Refused::Wrong(complaint)
        });
    }
    // `ID` or `ID;CLUSTER`, after whatever a site's plugin prints.
    let last = said.output.lines().last().unwrap_or_default().trim();
    let id = last.split(';').next().unwrap_or_default();
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refused::Trouble(Trouble(format!("`sbatch` said no id but `{last}`"))));
    }
    Ok(id.to_owned())
}

/// The id of the job with this name, where Slurm knows one.
pub(crate) fn find(name: &str) -> Result<Option<String>, Trouble> {
    let (_, handles) = squeue(&[name])?;
    let handles = if handles.is_empty() { sacct(&[name]).unwrap_or_default().1 } else { handles };
    Ok(handles.into_iter().next().map(|handle| handle.id))
}

/// Takes jobs back.
pub(crate) fn cancel(jobs: &[Handle]) -> Result<(), Trouble> {
    let ids: Vec<&str> = jobs.iter().map(|job| job.id.as_str()).collect();
    if ids.is_empty() { Ok(()) } else { scancel(&ids) }
}

/// A job that is no part of an order: a supervisor of a service.
pub(crate) struct Job {
    options: Options,
    resources: Resources,
    about: String,
}

impl Job {
    /// A job of this placement, which is one of Slurm's.
    pub(crate) fn of(placement: &Placement, resources: &Resources, about: &str) -> Result<Self, String> {
        let options: Options = bind_typed(&placement.options).map_err(|error| error.message)?;
        Ok(Self { options, resources: *resources, about: about.to_owned() })
    }

    pub(crate) fn grace(&self) -> Duration {
        self.options.grace()
    }

    /// Submits a job that runs this program with `words` and then `tail`, which the shell reads.
    #[expect(clippy::too_many_arguments, reason = "what a job is, each of its own kind")]
    pub(crate) fn submit(
        &self,
        view: &View,
        name: &str,
        words: &[String],
        tail: &str,
        file: &Path,
        log: &Path,
        secrets: &BTreeMap<String, String>,
    ) -> Result<String, Refused> {
        let store = view.layout().root();
        let program = crate::copy::program(view.layout())?;
        let launcher = self.options.launcher(store);
        let mut text = head(name, &self.about, self.options.prelude.as_deref(), &launcher);
        let words = words.iter().map(String::as_str);
        let program = [program.display().to_string(), "--store".into(), store.display().to_string()];
        let all: Vec<String> = program.iter().map(String::as_str).chain(words).map(quoted).collect();
        text.push_str(&format!("{}{tail}\n", all.join(" ")));
        keep(file, &text)?;
        let mut command = sbatch(name, secrets);
        // Whoever waits for it starts another one.
        command.arg("--no-requeue");
        command.arg(format!("--output={}", log.display()));
        command.args(self.options.arguments(&self.resources)).arg(file);
        submitted(command)
    }
}

impl Slurm {
    /// Nobody waits for these jobs any more.
    pub(crate) fn forget(&self, jobs: &[Handle]) {
        let mut polled = self.polled.lock().unwrap_or_else(PoisonError::into_inner);
        for job in jobs {
            polled.names.remove(&job.name);
        }
    }

    /// What the scheduler says of these jobs: as it was said a moment ago, or asked anew for all jobs that anybody waits for.
    pub(crate) fn standings(&self, jobs: &[Handle]) -> Result<Standings, Trouble> {
        let mut polled = self.polled.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let mut is_new = false;
        for job in jobs {
            is_new |= !polled.names.contains_key(&job.name);
            polled.names.entry(job.name.clone()).or_insert(now);
        }
        let youngest =
            jobs.iter().filter_map(|job| polled.names.get(&job.name)).max().copied().unwrap_or(now);
        let pause = (youngest.elapsed() / 20).clamp(ASK_FIRST, ASK_LAST);
        if is_new || polled.asked.is_none_or(|asked| asked.elapsed() >= pause) {
            polled.ask()?;
        }
        let mine = |(name, _): &(String, Part)| jobs.iter().any(|job| job.name == *name);
        Ok(polled
            .standings
            .iter()
            .filter(|(key, _)| mine(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }
}

impl Polled {
    fn ask(&mut self) -> Result<(), Trouble> {
        // Even where it fails: a scheduler in trouble must not be asked by every thread in turn.
        self.asked = Some(Instant::now());
        let names: Vec<&str> = self.names.keys().map(String::as_str).collect();
        let (mut standings, _) = squeue(&names)?;
        let forgotten: Vec<&str> =
            names.into_iter().filter(|name| !standings.keys().any(|(known, _)| known == name)).collect();
        if !forgotten.is_empty() && self.accounts_asked.is_none_or(|asked| asked.elapsed() >= ACCOUNTS) {
            self.accounts_asked = Some(Instant::now());
            standings.extend(sacct(&forgotten).unwrap_or_default().0);
        }
        self.standings = standings;
        Ok(())
    }
}
