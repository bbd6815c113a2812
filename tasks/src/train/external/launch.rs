//! What starts a trainer: on this machine, or by `srun` on all machines of a Slurm allocation.

use super::super::params::Run;

/// What starts a trainer on a machine unless `launch` says otherwise.
const TORCHRUN: [&str; 6] = [
    "torchrun",
    "--nnodes={nodes}",
    "--nproc-per-node={processes}",
    "--rdzv-backend=c10d",
    "--rdzv-id={job}",
    "--rdzv-endpoint={endpoint}",
];
/// The port at which machines meet unless `port` says otherwise.
const PORT: u16 = 29_500;

/// A Slurm allocation, as the environment of a job tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Allocation {
    job: String,
    nodes: u32,
    /// The machine where the others meet.
    first: String,
    /// Processors of a machine.
    cpus: Option<u32>,
    /// GPUs of a machine.
    gpus: Option<u32>,
    /// Whether this process is itself started by `srun`, so that it holds what a further step would wait for.
    in_step: bool,
}

impl Allocation {
    /// The allocation that this process runs in, if any.
    pub(super) fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        let Some(job) = variable("SLURM_JOB_ID").or_else(|| variable("SLURM_JOBID")) else { return Ok(None) };
        let list = variable("SLURM_JOB_NODELIST").or_else(|| variable("SLURM_NODELIST"));
        let list = list.ok_or("`SLURM_JOB_ID` is set and `SLURM_JOB_NODELIST` is not")?;
        let first = first_host(&list)
            .ok_or_else(|| format!("`SLURM_JOB_NODELIST` is `{list}`, which names no machine"))?;
        let number = |name: &str| variable(name)?.trim().parse().ok();
        let nodes = number("SLURM_JOB_NUM_NODES").or_else(|| number("SLURM_NNODES")).unwrap_or(1);
        Ok(Some(Self {
            job,
            nodes,
            first,
            cpus: number("SLURM_CPUS_ON_NODE"),
            gpus: number("SLURM_GPUS_ON_NODE"),
            in_step: variable("SLURM_STEP_ID")
                .is_some_and(|step| step.parse::<u32>().is_ok_and(|step| step < 0xffff_fff0)),
        }))
    }
}

/// The first machine of a list as Slurm writes it: `gpu[07-09,12],cpu1` begins with `gpu07`.
fn first_host(list: &str) -> Option<String> {
    let (before, rest) = match list.find(['[', ',']) {
        None => (list, ""),
        Some(end) => list.split_at(end),
    };
    let host = match rest.strip_prefix('[') {
        None => before.to_owned(),
        Some(range) => {
            let (inside, after) = range.split_once(']')?;
            let number = inside.split(['-', ',']).next()?;
            let after = after.split(',').next().unwrap_or_default();
            // A second pair of brackets would need its own first number.
            let after = if after.contains('[') { first_host(after)? } else { after.to_owned() };
            format!("{before}{number}{after}")
        }
    };
    (!host.is_empty()).then_some(host)
}

/// How many machines and processes train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) nodes: u32,
    pub(super) processes: u32,
}

impl Size {
    /// As `run:` says, or as the machine offers: `gpus` are those of this node alone.
    pub(super) fn of(run: &Run, allocation: Option<&Allocation>, gpus: usize) -> Result<Self, String> {
        let here = allocation.map_or(1, |allocation| allocation.nodes);
        let nodes = run.nodes.unwrap_or(here).max(1);
        if nodes > here {
            return Err(format!(
                "`nodes: {nodes}` needs a Slurm allocation of as many machines, and this is {}; run `dag` inside one",
                if here == 1 { "one machine".to_owned() } else { format!("one of {here}") }
            ));
        }
        let offered = allocation.and_then(|allocation| allocation.gpus);
        let processes =
            run.processes_per_node.or(u32::try_from(gpus).ok().filter(|gpus| *gpus > 0)).or(offered);
        Ok(Self { nodes, processes: processes.unwrap_or(1).max(1) })
    }

    /// All processes.
    pub(super) fn world(self) -> u32 {
        self.nodes * self.processes
    }
}

/// The whole command: `program` with its arguments, under what starts it.
pub(super) fn argv(
    run: &Run,
    size: Size,
    allocation: Option<&Allocation>,
    program: &[String],
) -> Vec<String> {
    let port = run.port.unwrap_or(PORT);
    let mut argv = Vec::new();
    let mut endpoint = "localhost:0".to_owned();
    let mut job = "dag".to_owned();
    if let Some(allocation) = allocation {
        job.clone_from(&allocation.job);
        if size.nodes > 1 {
            endpoint = format!("{}:{port}", allocation.first);
            argv.extend([
                "srun".to_owned(),
                format!("--nodes={}", size.nodes),
                format!("--ntasks={}", size.nodes),
            ]);
            argv.extend(["--ntasks-per-node=1".to_owned(), "--kill-on-bad-exit=1".to_owned()]);
            // A step gets one processor for each task unless it asks for more.
            argv.extend(allocation.cpus.map(|cpus| format!("--cpus-per-task={cpus}")));
            argv.extend(allocation.in_step.then(|| "--overlap".to_owned()));
            argv.extend(run.srun.iter().cloned());
        }
    }
    let words = [
        ("{nodes}", size.nodes.to_string()),
        ("{processes}", size.processes.to_string()),
        ("{endpoint}", endpoint),
        ("{job}", job),
    ];
    let fill =
        |word: &str| words.iter().fold(word.to_owned(), |word, (name, value)| word.replace(name, value));
    match &run.launch {
        Some(launch) => argv.extend(launch.iter().map(|word| fill(word))),
        None => argv.extend(TORCHRUN.iter().map(|word| fill(word))),
    }
    argv.extend(program.iter().cloned());
    argv
}

/// The program that must be there for a trainer to start.
pub(super) fn starter(run: &Run) -> Option<&str> {
    match &run.launch {
        Some(launch) => launch.first().map(String::as_str),
        None => Some(TORCHRUN[0]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn run(value: Value) -> Run {
        serde_json::from_value(value).unwrap()
    }

    fn allocation(variables: &[(&str, &str)]) -> Result<Option<Allocation>, String> {
        Allocation::of(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn whole(options: Value, allocation: Option<&Allocation>, gpus: usize) -> Result<String, String> {
        let run = run(options);
        let size = Size::of(&run, allocation, gpus)?;
        Ok(argv(&run, size, allocation, &["train.py".into(), "training.json".into()]).join(" "))
    }

    #[test]
    fn one_machine_needs_no_meeting_place() {
        assert_eq!(
            whole(json!({}), None, 8).unwrap(),
            "torchrun --nnodes=1 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-id=dag --rdzv-endpoint=localhost:0 \
             train.py training.json"
        );
        assert_eq!(
            whole(json!({ "launch": ["python3"] }), None, 0).unwrap(),
            "python3 train.py training.json"
        );
        let other = json!({ "launch": ["accelerate", "launch", "--num_processes={processes}"], "processes_per_node": 2 });
        assert_eq!(
            whole(other, None, 8).unwrap(),
            "accelerate launch --num_processes=2 train.py training.json"
        );
        let fault = whole(json!({ "nodes": 4 }), None, 8).unwrap_err();
        assert!(fault.contains("`nodes: 4` needs a Slurm allocation"), "{fault}");
    }

    #[test]
    fn machines_of_an_allocation_meet_at_the_first() {
        let mut variables = vec![
            ("SLURM_JOB_ID", "4711"),
            ("SLURM_JOB_NODELIST", "gpu[07-09,12]"),
            ("SLURM_JOB_NUM_NODES", "4"),
            ("SLURM_CPUS_ON_NODE", "96"),
            ("SLURM_GPUS_ON_NODE", "8"),
        ];
        let four = allocation(&variables).unwrap().unwrap();
        assert_eq!(
            whole(json!({ "srun": ["--mpi=none"] }), Some(&four), 0).unwrap(),
            "srun --nodes=4 --ntasks=4 --ntasks-per-node=1 --kill-on-bad-exit=1 --cpus-per-task=96 --mpi=none \
             torchrun --nnodes=4 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-id=4711 --rdzv-endpoint=gpu07:29500 \
             train.py training.json"
        );
        // Fewer than there are; one of them is no business of srun's.
        let two = whole(json!({ "nodes": 2, "port": 1234 }), Some(&four), 4).unwrap();
        assert!(two.starts_with("srun --nodes=2 --ntasks=2 "), "{two}");
        assert!(two.contains("--nproc-per-node=4") && two.contains("gpu07:1234"), "{two}");
        let one = whole(json!({ "nodes": 1 }), Some(&four), 0).unwrap();
        assert!(one.starts_with("torchrun --nnodes=1 --nproc-per-node=8"), "{one}");
        assert!(whole(json!({ "nodes": 5 }), Some(&four), 0).unwrap_err().contains("one of 4"));
        // Inside a step there is nothing left to wait for.
        variables.push(("SLURM_STEP_ID", "0"));
        let step = allocation(&variables).unwrap().unwrap();
        assert!(whole(json!({}), Some(&step), 0).unwrap().contains(" --overlap "));
        variables.pop();
        // The batch script is a step with a number of its own, which holds nothing.
        variables.push(("SLURM_STEP_ID", "4294967291"));
        let batch = allocation(&variables).unwrap().unwrap();
        assert!(!whole(json!({}), Some(&batch), 0).unwrap().contains("--overlap"));
    }

    #[test]
    fn lists_of_machines_are_read_as_slurm_writes_them() {
        for (list, first) in [
            ("node1", "node1"),
            ("node1,node2", "node1"),
            ("gpu[07-09,12],cpu1", "gpu07"),
            ("gpu[3,5]", "gpu3"),
            ("rack1-gpu[001-128]", "rack1-gpu001"),
            ("r[1-2]n[3-4]", "r1n3"),
            ("a[1-2]-ib,b", "a1-ib"),
        ] {
            assert_eq!(first_host(list).as_deref(), Some(first), "{list}");
        }
        assert_eq!((first_host(""), first_host("gpu[1")), (None, None));
        assert_eq!(allocation(&[]), Ok(None));
        assert!(allocation(&[("SLURM_JOB_ID", "1")]).unwrap_err().contains("SLURM_JOB_NODELIST"));
        let old = allocation(&[("SLURM_JOBID", "1"), ("SLURM_NODELIST", "n1"), ("SLURM_NNODES", "1")]);
        assert_eq!(old.unwrap().unwrap().first, "n1");
    }
}
