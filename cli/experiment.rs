//! From a file as typed to a compiled graph, or to its faults as they are shown.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use dag_engine::Registry;
use dag_engine::artifact::OutputPort;
use dag_engine::graph::{Graph, NodeId, compile};
use dag_engine::plan::{Plan, PlanError, Planner, Selection};
use dag_engine::run::{Capacity, MissingThing};
use dag_engine::spec::{Diagnostics, LoadOptions, load};
use dag_engine::task::{Environment, is_program};

use crate::args::ExperimentArguments;
use crate::artifact::Artifact;
use crate::context::Context;
use crate::environment::{variable, working_directory};
use crate::failure::{Failure, Kind};
use crate::text::Text;
use crate::words::count;

/// More nodes than this are not listed in a hint.
const LISTED: usize = 8;

/// An experiment that can be planned and run.
pub struct Compiled {
    /// Its nodes.
    pub graph: Graph,
    /// What looks like a mistake and is none for sure.
    pub warnings: Diagnostics,
    /// The folder of its file: where relative paths written in it start.
    pub root: PathBuf,
}

/// The machine as a preflight sees it.
pub struct Surroundings {
    /// Where relative paths start.
    root: PathBuf,
    /// Programs looked for before: a thousand nodes may name the same one.
    programs: Mutex<BTreeMap<String, bool>>,
}

impl Surroundings {
    /// The machine, with relative paths starting at `root`.
    pub fn at(root: PathBuf) -> Self {
        Self { root, programs: Mutex::default() }
    }

    /// The ids of the GPUs that this process may use.
    #[expect(clippy::unused_self, reason = "a fact about these surroundings, as the rest")]
    pub fn gpu_ids(&self) -> Vec<u32> {
        if let Some(visible) = variable("CUDA_VISIBLE_DEVICES") {
            return visible.split(',').filter_map(|device| device.trim().parse().ok()).collect();
        }
        let count = std::fs::read_dir("/proc/driver/nvidia/gpus").map_or(0, Iterator::count);
        (0..count as u32).collect()
    }

    /// What the machine offers, and no more threads than the user allows.
    pub fn capacity(&self, jobs: Option<u32>) -> Capacity {
        Capacity {
            cpus: jobs.unwrap_or_else(Context::cores),
            gpus: self.gpu_ids(),
            memory: None,
            limits: BTreeMap::new(),
        }
    }
}

impl Environment for Surroundings {
    fn var(&self, name: &str) -> Option<String> {
        variable(name)
    }

    fn has_program(&self, name: &str) -> bool {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&found) = programs.get(name) {
            return found;
        }
        let found = is_program(name, &variable("PATH").unwrap_or_default());
        programs.insert(name.to_owned(), found);
        found
    }

    fn gpus(&self) -> usize {
        self.gpu_ids().len()
    }

    fn root(&self) -> &Path {
        &self.root
    }
}

/// Reads and compiles the experiment; all its faults are one failure.
///
/// What comes of it lives as long as the process: to give back a large graph node by node takes longer than to plan it.
pub fn compiled(arguments: &ExperimentArguments, registry: &Registry) -> Result<&'static Compiled, Failure> {
    let directory = working_directory()?;
    if !arguments.file.exists() {
        return Err(Failure::user(format!("there is no file `{}`", arguments.file.display()))
            .hint(format!("the path starts at `{}`", directory.display())));
    }
    let sets = arguments.set.iter().map(|set| pair(set)).collect::<Result<_, _>>()?;
    let root = directory.join(arguments.file.parent().unwrap_or(Path::new("")));
    let surroundings = Surroundings::at(root.clone());
    let options = LoadOptions {
        profile: arguments.profile.clone(),
        sets,
        directory: &directory,
        environment: &surroundings,
        read: &|path| std::fs::read(path),
    };
    let experiment = load(&arguments.file, &options).map_err(|faults| faulty(&faults))?;
    let (graph, warnings) = compile(&experiment, registry).map_err(|faults| faulty(&faults))?;
    Ok(Box::leak(Box::new(Compiled { graph, warnings, root })))
}

fn pair(set: &str) -> Result<(String, String), Failure> {
    let (key, value) = set.split_once('=').ok_or_else(|| {
        Failure::user(format!("`--set {set}` has no `=`")).hint("write it as `--set train.steps=100`")
    })?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

/// The failure that the faults of a file are.
fn faulty(faults: &Diagnostics) -> Failure {
    let failure = Failure::new(
        Kind::User,
        format!("{} in the experiment; nothing was run", count(faults.error_count() as u64, "fault")),
    );
    Failure { faults: faults.to_json(), ..failure.details(shown(faults).line()) }
}

/// Faults with their source lines, the words that carry the meaning set off.
pub fn shown(faults: &Diagnostics) -> Text {
    let mut text = Text::new();
    for line in faults.to_string().lines() {
        let trimmed = line.trim_start();
        text = if let Some(rest) = line.strip_prefix("error:") {
            text.bad("error:").bold(rest)
        } else if let Some(rest) = line.strip_prefix("warning:") {
            text.warn("warning:").bold(rest)
        } else if let Some(rest) = trimmed.strip_prefix("help:") {
            text.plain(&line[..line.len() - trimmed.len()]).accent("help:").plain(rest)
        } else if trimmed.starts_with("-->") {
            text.faint(line)
        } else {
            text.plain(line)
        };
        text = text.line();
    }
    text
}

impl Compiled {
    /// Tells the warnings.
    pub fn warn(&self, context: &Context) {
        if !self.warnings.is_empty() {
            context.printer.note(&shown(&self.warnings).line());
        }
    }

    /// The nodes that each of `names` means, in topological order.
    pub fn nodes(&self, names: &[String]) -> Result<Vec<NodeId>, Failure> {
        let mut found = Vec::new();
        for name in names {
            let meant = self.graph.select(name);
            if meant.is_empty() {
                return Err(self.unknown(name));
            }
            found.extend(meant);
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// The one node that `name` means.
    pub fn node(&self, name: &str) -> Result<NodeId, Failure> {
        match self.graph.select(name).as_slice() {
            [] => Err(self.unknown(name)),
            [only] => Ok(*only),
            several => {
                let mut listed: Vec<String> =
                    several.iter().map(|&id| format!("`{}`", self.graph.node(id).name)).collect();
                listed.sort_unstable();
                listed.truncate(LISTED);
                let more = if several.len() > listed.len() { ", …" } else { "" };
                Err(Failure::user(format!("`{name}` means {}", count(several.len() as u64, "node")))
                    .hint(format!("name one of {}{more}", listed.join(", "))))
            }
        }
    }

    fn unknown(&self, name: &str) -> Failure {
        let failure = Failure::user(format!("there is no node `{name}`"));
        let names: Vec<&str> = self
            .graph
            .order()
            .iter()
            .map(|&id| self.graph.node(id))
            .flat_map(|node| [&*node.name, &*node.base])
            .collect();
        match dag_engine::spec::diagnostic::closest(name, names) {
            Some(near) => failure.hint(format!("did you mean `{near}`?")),
            None => failure.hint("`dag graph FILE` lists the nodes"),
        }
    }

    /// A planner of this graph on the store.
    pub fn planner(&self, context: &Context) -> Planner<'_> {
        // A faulty address is told by the commands that run or plan; the others do without.
        let _ = context.share(self.graph.remote.as_ref());
        Planner::new(&self.graph, &context.view(), &self.root, Arc::new(Context::system_time))
            .with_resolver(Context::resolver())
    }

    /// The plan for all nodes.
    pub fn plan(&self, context: &Context) -> Result<Plan, Failure> {
        Ok(self.planner(context).plan(&Selection::default())?)
    }

    /// The outputs of the node that `name` means: all, or the one that `NODE.PORT` names.
    pub fn artifacts(&self, name: &str, plan: &Plan, context: &Context) -> Result<Vec<Artifact>, Failure> {
        let (node, port) = match name.rsplit_once('.') {
            Some((node, port)) if self.graph.select(name).is_empty() => (node, Some(port)),
            _ => (name, None),
        };
        let id = self.node(node)?;
        let found = self.artifacts_of(id, plan, context)?;
        let node = self.graph.node(id);
        let Some(found) = found else {
            return Err(Failure::failed(format!("`{}` has no result yet for the file as it is", node.name))
                .hint(format!(
                    "`dag run FILE {}` makes it; `dag explain FILE {0}` says what differs from its last run",
                    node.name
                )));
        };
        let Some(port) = port else { return Ok(found) };
        let ports: Vec<String> = found.iter().map(|artifact| format!("`{}`", artifact.port)).collect();
        let chosen: Vec<Artifact> = found.into_iter().filter(|artifact| artifact.port == port).collect();
        if chosen.is_empty() {
            return Err(Failure::user(format!("`{}` has no output `{port}`", node.name))
                .hint(format!("it has {}", ports.join(", "))));
        }
        Ok(chosen)
    }

    /// The outputs of a node in the order of its ports; `None` if it has not run for the file as it is.
    pub fn artifacts_of(
        &self,
        id: NodeId,
        plan: &Plan,
        context: &Context,
    ) -> Result<Option<Vec<Artifact>>, Failure> {
        let view = context.view();
        let node = self.graph.node(id);
        let Some(action) = plan.get(id).and_then(|planned| planned.action) else { return Ok(None) };
        let Some(record) = view.record(&action.0)? else { return Ok(None) };
        let mut found = Artifact::of_record(&view, &node.name, record);
        // In the order of the ports, each with its type.
        let artifact = |port: &OutputPort| {
            let at = found.iter().position(|artifact| artifact.port == port.name)?;
            Some(Artifact { gives: port.gives, ..found.swap_remove(at) })
        };
        Ok(Some(node.step.ports().outputs().iter().filter_map(artifact).collect()))
    }
}

/// What is missing, each with its next step.
pub fn describe_missing(missing: &[MissingThing]) -> Text {
    missing.iter().fold(Text::new(), |text, missing| {
        // A thing that a thousand nodes of one name need is told with that name.
        let mut nodes: Vec<String> = missing
            .nodes
            .iter()
            .map(|node| format!("`{}`", node.split('@').next().unwrap_or(node)))
            .collect();
        nodes.dedup();
        text.warn("missing: ")
            .plain(format!("{} (for {})", missing.what, nodes.join(", ")))
            .line()
            .accent("  help: ")
            .plain(&missing.help)
            .line()
    })
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Cache(error) => error.into(),
            PlanError::Sources(missing) => {
                let mut details = Text::new();
                for source in &missing {
                    details = details.bad("error: ").plain(source.to_string()).line();
                }
                let what = format!("{} cannot be read", count(missing.len() as u64, "local file"));
                Self::user(what)
                    .details(details.line())
                    .hint("a relative path starts at the folder of the experiment file")
            }
        }
    }
}
