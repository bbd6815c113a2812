//! What `run: { executor: { slurm: … } }` holds, and how it is said to `sbatch`.

use std::path::Path;
use std::time::Duration;

use dag_engine::task::Resources;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Time;

/// Where and how a node's jobs run. All of it is operational: none is in a key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Options {
    /// The partition, or several with commas between them.
    pub(super) partition: Option<String>,
    /// Who pays.
    pub(super) account: Option<String>,
    /// The quality of service.
    pub(super) qos: Option<String>,
    /// How long a job may run, such as `90s`, `30m`, `4h`, `2d`. Ahead of it the worker stops by itself, what it has done is
    /// kept, and another job goes on.
    pub(super) time: Option<Time>,
    /// How far ahead of the time limit a worker begins to stop; two minutes, or a tenth of the limit if that is less.
    pub(super) stop_ahead: Option<Time>,
    /// The type of GPU, as `sinfo -o %G` names it; how many are `run: { gpus }`.
    pub(super) gpu_type: Option<String>,
    /// Machines; `cpus`, `gpus` and `memory` under `run:` are of each of them.
    pub(super) nodes: Option<u32>,
    /// Features the machines must have.
    pub(super) constraint: Option<String>,
    /// So many shards run at a time.
    pub(super) width: Option<u32>,
    /// Shell lines before the worker, such as `module load cuda`.
    pub(super) prelude: Option<String>,
    /// An image in which the worker runs, through `srun --container-image` (pyxis).
    pub(super) container: Option<String>,
    /// What of the machine the container sees beside the store, as `--container-mounts` has it.
    pub(super) container_mounts: Option<String>,
    /// Further flags for `sbatch`, as they stand.
    pub(super) flags: Vec<String>,
    /// How long the scheduler may know nothing of a job, or a job may be over without a word of its worker, before it counts
    /// as lost; 30 s.
    pub(super) grace: Option<Time>,
}

impl Options {
    /// What is wrong with them beyond their types, as (pointer, message).
    pub(super) fn fault(&self) -> Option<(&'static str, String)> {
        for (pointer, time) in
            [("/time", &self.time), ("/stop_ahead", &self.stop_ahead), ("/grace", &self.grace)]
        {
            if time.as_ref().is_some_and(|time| time.span().is_none()) {
                return Some((pointer, "a span of time is such as `90s`, `30m`, `4h` or `2d`".to_owned()));
            }
        }
        if self.width == Some(0) {
            return Some(("/width", "`width` is one or more".to_owned()));
        }
        None
    }

    /// After how long a worker stops by itself.
    pub(super) fn stop_after(&self) -> Option<Duration> {
        let limit = self.time.as_ref()?.span()?;
        let ahead = self.stop_ahead.as_ref().and_then(Time::span);
        let ahead = ahead.unwrap_or_else(|| (limit / 10).min(Duration::from_mins(2)));
        Some(limit.saturating_sub(ahead).max(limit / 10))
    }

    /// What the worker runs under: a container, where there is one.
    pub(super) fn launcher(&self, store: &Path) -> Vec<String> {
        let Some(image) = &self.container else { return Vec::new() };
        let store = store.display();
        let mounts = match &self.container_mounts {
            Some(more) => format!("{store}:{store},{more}"),
            None => format!("{store}:{store}"),
        };
        vec![
            "srun".to_owned(),
            "--ntasks=1".to_owned(),
            format!("--container-image={image}"),
            format!("--container-mounts={mounts}"),
        ]
    }

    pub(super) fn grace(&self) -> Duration {
        self.grace.as_ref().and_then(Time::span).unwrap_or(Duration::from_secs(30))
    }

    /// The flags of `sbatch` for what the options and the resources say.
    pub(super) fn arguments(&self, resources: &Resources) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut flag = |name: &str, value: Option<String>| {
            arguments.extend(value.map(|value| format!("--{name}={value}")));
        };
        flag("partition", self.partition.clone());
        flag("account", self.account.clone());
        flag("qos", self.qos.clone());
        flag("constraint", self.constraint.clone());
        flag("time", self.time.as_ref().and_then(Time::span).map(clock));
        flag("nodes", self.nodes.map(|nodes| nodes.to_string()));
        flag("cpus-per-task", Some(resources.cpus.max(1).to_string()));
        flag("mem", (resources.memory > 0).then(|| format!("{}M", resources.memory.div_ceil(1 << 20))));
        flag(
            "gres",
            (resources.gpus > 0).then(|| match &self.gpu_type {
                Some(kind) => format!("gpu:{kind}:{}", resources.gpus),
                None => format!("gpu:{}", resources.gpus),
            }),
        );
        arguments.extend(self.flags.iter().cloned());
        arguments
    }
}

/// A span as Slurm reads it: `days-hours:minutes:seconds`. Slurm counts in minutes, so it is rounded up to them.
fn clock(span: Duration) -> String {
    let minutes = span.as_secs().div_ceil(60);
    format!("{}-{:02}:{:02}:00", minutes / 1440, minutes / 60 % 24, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_said_as_sbatch_reads_them() {
        let options: Options = serde_json::from_value(serde_json::json!({
            "partition": "gpu", "account": "lab", "time": "26h", "gpu_type": "h100", "flags": ["--exclusive"]
        }))
        .unwrap();
        let resources = Resources { cpus: 8, gpus: 2, memory: (3 << 30) + 1 };
        assert_eq!(
            options.arguments(&resources),
            [
                "--partition=gpu",
                "--account=lab",
                "--time=1-02:00:00",
                "--cpus-per-task=8",
                "--mem=3073M",
                "--gres=gpu:h100:2",
                "--exclusive"
            ]
        );
        assert_eq!(options.stop_after(), Some(Duration::from_mins(26 * 60 - 2)));
    }
}
