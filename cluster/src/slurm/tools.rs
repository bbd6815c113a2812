//! Slurm's command-line tools: what is said to them, and how their answers are read.
//!
//! The tools and not Slurm's REST interface: every site has them, and what they print has been the same for many years.

use std::process::Command;

use crate::folder::Part;
use crate::program::{Said, run};
use crate::queue::{Ending, Handle, Standing, Standings, Trouble};

/// A tool that starts with nothing of an allocation that we ourselves may be in: a job is described by its flags alone.
pub(super) fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    for (name, _) in std::env::vars_os() {
        let of_allocation = name
            .to_str()
            .and_then(|name| name.strip_prefix("SLURM_"))
            .is_some_and(|rest| !matches!(rest, "CONF" | "CLUSTERS" | "CONF_SERVER"));
        if of_allocation {
            command.env_remove(&name);
        }
    }
    command
}

/// Where the tasks of jobs stand, as the scheduler knows it: one question for all of them.
pub(super) fn squeue(names: &[&str]) -> Result<(Standings, Vec<Handle>), Trouble> {
    let mut command = tool("squeue");
    // By name: an id that is not known any more would make an error of the whole answer.
    command.args(["--noheader", "--array", "--states=all", "--format=%j|%i|%T|%r|%N"]);
    command.arg(format!("--name={}", names.join(",")));
    let said = run(command).map_err(Trouble)?;
    if said.success { Ok(read(&said.output)) } else { Err(Trouble(words(&said))) }
}

/// The same from the accounts, which know jobs that the scheduler has forgotten. None where no accounts are kept.
pub(super) fn sacct(names: &[&str]) -> Option<(Standings, Vec<Handle>)> {
    let mut command = tool("sacct");
    command.args(["--noheader", "--parsable2", "--allocations", "--array"]);
    command.args(["--format=JobName,JobID,State,NodeList"]);
    command.arg(format!("--name={}", names.join(",")));
    let said = run(command).ok().filter(|said| said.success)?;
    let lines = said.output.lines().map(|line| {
        let mut fields: Vec<&str> = line.split('|').collect();
        fields.insert(3.min(fields.len()), "");
        fields.join("|")
    });
    Some(read(&lines.collect::<Vec<_>>().join("\n")))
}

/// Takes jobs back, by their ids.
pub(super) fn scancel(ids: &[&str]) -> Result<(), Trouble> {
    let mut command = tool("scancel");
    command.args(ids);
    let said = run(command).map_err(Trouble)?;
    // One that is over already cannot be taken back, and need not be.
    let harmless = said.error.lines().all(|line| line.contains("Invalid job id") || line.contains("already"));
    if said.success || harmless { Ok(()) } else { Err(Trouble(words(&said))) }
}

/// What a tool complained of, in one line.
pub(super) fn words(said: &Said) -> String {
    let text = if said.error.is_empty() { &said.output } else { &said.error };
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { "it failed without a word".to_owned() } else { lines.join("; ") }
}

/// Whether a complaint is about the moment, and not about what was asked.
pub(super) fn is_passing(words: &str) -> bool {
    const PASSING: [&str; 8] = [
        "socket timed out",
        "unable to contact slurm controller",
        "connection refused",
        "zero bytes were transmitted",
        "did not answer within",
        "slurm temporarily unable to accept job",
        "resource temporarily unavailable",
        "maximum number of jobs",
    ];
    let words = words.to_lowercase();
    PASSING.iter().any(|passing| words.contains(passing))
        // A limit of jobs that are submitted at a time passes when some of them end.
        || words.contains("submitlimit") || words.contains("maxsubmitjob")
}

/// Lines of `name|id|state|reason|nodes`; an id is `7`, or `7_3` for a task of an array.
fn read(text: &str) -> (Standings, Vec<Handle>) {
    let mut standings = Standings::new();
    let mut handles = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.trim().split('|').collect();
        let [name, id, state, reason, nodes] = fields[..] else { continue };
        let (job, part) = match id.split_once('_') {
            None => (id, Part::Whole),
            Some((job, task)) => match task.parse() {
                Ok(number) => (job, Part::Shard(number)),
                Err(_) => continue,
            },
        };
        let handle = Handle { name: name.to_owned(), id: job.to_owned() };
        if !handles.contains(&handle) {
            handles.push(handle);
        }
        if let Some(standing) = standing(state, reason, nodes) {
            standings.insert((name.to_owned(), part), standing);
        }
    }
    (standings, handles)
}

/// A state as Slurm names it; sacct says `CANCELLED by 1000`.
fn standing(state: &str, reason: &str, nodes: &str) -> Option<Standing> {
    let word = state.split([' ', '+']).next().unwrap_or_default();
    Some(match word {
        "PENDING" | "REQUEUED" | "REQUEUE_HOLD" | "REQUEUE_FED" | "SPECIAL_EXIT" | "RESV_DEL_HOLD"
        | "SUSPENDED" => Standing::Waiting(reason.to_owned()),
        "RUNNING" | "COMPLETING" | "CONFIGURING" | "STAGE_OUT" | "SIGNALING" | "STOPPED" | "RESIZING" => {
            Standing::Running(nodes.to_owned())
        }
        "COMPLETED" => Standing::Over(Ending::Completed),
        "FAILED" => Standing::Over(Ending::Failed),
        "TIMEOUT" | "DEADLINE" => Standing::Over(Ending::TimedOut),
        "OUT_OF_MEMORY" => Standing::Over(Ending::OutOfMemory),
        "NODE_FAIL" | "BOOT_FAIL" | "LAUNCH_FAILED" | "RECONFIG_FAIL" => Standing::Over(Ending::NodeLost),
        "PREEMPTED" | "REVOKED" => Standing::Over(Ending::Preempted),
        "CANCELLED" => Standing::Over(Ending::Cancelled),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_what_is_not_understood_is_left_out() {
        let text = "dag-a-0|7_0|RUNNING|None|n1\ndag-a-0|7_1|PENDING|Resources|\ndag-a-1|9|COMPLETED|None|n2\n\
                    dag-a-1|9_[2-5]|PENDING|Priority|\nnonsense\ndag-b-0|12|CANCELLED by 1000||n1\ndag-c|13|NEW_STATE||";
        let (standings, handles) = read(text);
        let at = |name: &str, part| standings.get(&(name.to_owned(), part)).cloned();
        assert_eq!(at("dag-a-0", Part::Shard(0)), Some(Standing::Running("n1".into())));
        assert_eq!(at("dag-a-0", Part::Shard(1)), Some(Standing::Waiting("Resources".into())));
        assert_eq!(at("dag-a-1", Part::Whole), Some(Standing::Over(Ending::Completed)));
        assert_eq!(at("dag-b-0", Part::Whole), Some(Standing::Over(Ending::Cancelled)));
        assert_eq!(standings.len(), 4);
        assert!(handles.contains(&Handle { name: "dag-a-0".into(), id: "7".into() }));
    }

    #[test]
    fn what_passes_is_told_from_what_is_wrong() {
        assert!(is_passing(
            "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
        ));
        assert!(is_passing("slurm_load_jobs error: Unable to contact slurm controller (connect failure)"));
        assert!(!is_passing("sbatch: error: invalid partition specified: gpuu"));
        assert!(!is_passing("sbatch: error: Batch job submission failed: Invalid account"));
    }
}
