//! `dag report`: the newest report of an experiment, in the terminal or as a page.
//!
//! When and how it was computed is no part of a report's bytes. The journal knows it, and it is joined here, when a report is
//! looked at: below the text, in `--json`, and in the page that `--path` and `--open` lay out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use dag_cache::{Layout, Output, OutputKind, View};
use dag_engine::artifact::ArtifactType;
use dag_engine::event::End;
use dag_engine::graph::NodeId;
use dag_engine::journal;
use dag_engine::key::ActionKey;
use dag_engine::plan::Plan;
use dag_engine::state::Phase;
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{ExperimentArguments, Report, ReportFormat};
use crate::artifact::Artifact;
use crate::commands::status::Past;
use crate::context::Context;
use crate::experiment::{Compiled, compiled};
use crate::failure::{Failure, Outcome};
use crate::text::Text;
use crate::words::{count, date, duration, grouped};

/// The kind of the nodes that make reports.
const KIND: &str = "report";
/// The port they give it at.
const PORT: &str = "report";

pub fn run(arguments: &Report, context: &Context) -> Outcome {
    let found = match &arguments.file {
        Some(file) => of_file(file, arguments, context)?,
        None => newest(context)?,
    };
    if !found.artifact.is_present() {
        return Err(Failure::failed(format!(
            "the bytes of the report of `{}` were collected",
            found.artifact.node
        ))
        .hint(format!("`dag run FILE {}` makes them again", found.artifact.node)));
    }
    if let Some(note) = &found.note {
        context.printer.note(&Text::new().warn("note: ").plain(note).line());
    }
    if arguments.path || arguments.open {
        return page(&found, arguments.open, context);
    }
    if context.json {
        let artifact = &found.artifact;
        return context.printer.json(&json!({
            "node": artifact.node, "output": artifact.output, "metrics": artifact.metrics,
            "findings": artifact.read_json("report.json")?, "timings": found.timings(),
        }));
    }
    let file = match arguments.format {
        ReportFormat::Text => "report.txt",
        ReportFormat::Html => "index.html",
        ReportFormat::Markdown => "report.md",
        ReportFormat::Csv => "table.csv",
        ReportFormat::Json => "report.json",
    };
    let text = Text::from(String::from_utf8_lossy(&found.file(file)?).into_owned());
    let timings = found.timings().filter(|_| arguments.format == ReportFormat::Text);
    context.printer.data(&text.then(timings.map_or(Text::new(), |timings| timings.render())))
}

/// A report, and the run it comes from.
struct Found {
    artifact: Artifact,
    past: Option<Past>,
    /// Port with coordinates → name of the node, for the commands in the page.
    nodes: BTreeMap<String, String>,
    /// What the report was made from, in the order of the graph, with the runs that computed it; empty where the file is not
    /// at hand.
    work: Vec<Line>,
    /// The experiment file as the user would type it.
    file: String,
    /// What the user should know about it.
    note: Option<String>,
}

/// The report of an experiment file: of the file as it is, or else the last one that a node of this name made.
fn of_file(file: &Path, arguments: &Report, context: &Context) -> Result<Found, Failure> {
    let experiment = ExperimentArguments {
        file: file.to_owned(),
        profile: arguments.profile.clone(),
        set: arguments.set.clone(),
    };
    let compiled = compiled(&experiment, &context.registry())?;
    let id = node(compiled, arguments.node.as_deref())?;
    let name = compiled.graph.node(id).name.to_string();
    let plan = compiled.plan(context)?;
    let view = context.view();
    let file = file.display().to_string();
    let nodes = names(compiled, id);
    let current = compiled.artifacts_of(id, &plan, context)?.and_then(|found| found.into_iter().next());
    if let Some(artifact) = current {
        let digest = artifact.output.digest;
        let past = last(view.layout(), |past| {
            past.state
                .nodes
                .get(&name)
                .is_some_and(|node| node.outputs.values().any(|output| *output == digest))
        });
        let work = work(compiled, id, &plan, past.as_ref(), view.layout());
        return Ok(Found { artifact, past, nodes, work, file, note: None });
    }
    let past = last(view.layout(), |past| {
        past.state.nodes.get(&name).is_some_and(|node| node.outputs.contains_key(PORT))
    });
    let Some(past) = past else {
        return Err(Failure::failed(format!("`{name}` has no report yet"))
            .hint(format!("`dag run {file} {name}` makes it")));
    };
    let artifact = of_run(&past, &name, view)?;
    let note = Some(format!(
        "this is the report of run {}; the file as it is would give another (`dag plan {file} {name}` says why)",
        past.run
    ));
    Ok(Found { artifact, past: Some(past), nodes, work: Vec::new(), file, note })
}

/// The newest report of all runs.
fn newest(context: &Context) -> Result<Found, Failure> {
    let view = context.view();
    let is_report = |past: &Past| {
        past.state.nodes.values().any(|node| node.kind == KIND && node.outputs.contains_key(PORT))
    };
    let Some(past) = last(view.layout(), is_report) else {
        return Err(Failure::user(format!(
            "no run in `{}` has made a report",
            view.layout().root().display()
        ))
        .hint("`dag report FILE` looks for that of an experiment; `--store DIR` looks elsewhere"));
    };
    let reports =
        past.state.nodes.iter().filter(|(_, node)| node.kind == KIND && node.outputs.contains_key(PORT));
    let name = reports.max_by_key(|(_, node)| node.ended).map(|(name, _)| name.clone()).unwrap_or_default();
    let artifact = of_run(&past, &name, view)?;
    let file = past.state.file.clone();
    Ok(Found { artifact, past: Some(past), nodes: BTreeMap::new(), work: Vec::new(), file, note: None })
}

/// What a node gave in a run.
fn of_run(past: &Past, name: &str, view: View) -> Result<Artifact, Failure> {
    let node = past.state.nodes.get(name);
    let digest = node.and_then(|node| node.outputs.get(PORT)).copied();
    let digest =
        digest.ok_or_else(|| Failure::failed(format!("`{name}` gave no report in run {}", past.run)))?;
    let metrics = node.map(|node| node.metrics.clone()).unwrap_or_default();
    let output = Output { kind: OutputKind::Tree, digest, bytes: 0 };
    Ok(Artifact {
        node: name.to_owned(),
        port: PORT.to_owned(),
        gives: ArtifactType::Report,
        output,
        metrics,
        manifest: Arc::default(),
        view,
    })
}

/// The newest run for which `holds`.
fn last(layout: &Layout, holds: impl Fn(&Past) -> bool) -> Option<Past> {
    journal::list(layout).iter().rev().filter_map(|run| Past::read(layout, run).ok()).find(holds)
}

/// The node that makes the report.
fn node(compiled: &Compiled, wanted: Option<&str>) -> Result<NodeId, Failure> {
    let is_report = |id: NodeId| compiled.graph.node(id).step.kind() == KIND;
    if let Some(name) = wanted {
        let id = compiled.node(name)?;
        if !is_report(id) {
            let kind = compiled.graph.node(id).step.kind();
            return Err(Failure::user(format!("`{name}` is a `{kind}`, which makes no report"))
                .hint("`dag show FILE NODE` shows the outputs of any node"));
        }
        return Ok(id);
    }
    let reports: Vec<NodeId> = compiled.graph.order().iter().copied().filter(|&id| is_report(id)).collect();
    match reports.as_slice() {
        [] => Err(Failure::user("the experiment has no node with `task: report`")),
        [only] => Ok(*only),
        several => {
            let listed: Vec<String> =
                several.iter().take(8).map(|&id| format!("`{}`", compiled.graph.node(id).name)).collect();
            Err(Failure::user(format!("the experiment has {}", count(several.len() as u64, "report")))
                .hint(format!("name one of {}", listed.join(", "))))
        }
    }
}

/// The names of the nodes whose results are in the report, by what the report knows of them.
fn names(compiled: &Compiled, report: NodeId) -> BTreeMap<String, String> {
    let inputs =
        compiled.graph.node(report).inputs.iter().filter(|input| matches!(&*input.port, "results" | "base"));
    inputs
        .map(|input| {
            let source = compiled.graph.node(input.source);
            let values: Vec<&str> = source.coordinates.iter().map(|(_, value)| &**value).collect();
            let at = if values.is_empty() { String::new() } else { format!("@{}", values.join("/")) };
            (format!("{}{at}", input.port), source.name.to_string())
        })
        .collect()
}

/// A node behind a report, and when and how it was computed.
#[derive(Debug, Clone, Serialize)]
struct Line {
    node: String,
    /// What became of it in the report's run.
    ended: &'static str,
    /// How long it took, in the run that computed it.
    seconds: Option<f64>,
    /// The run that computed it.
    run: Option<String>,
    /// Records made, and records taken from the store, in that run.
    made: u64,
    reused: u64,
}

impl Line {
    /// A node as the run `past` tells it.
    fn told(node: &str, past: &Past, ended: &'static str) -> Self {
        let told = past.state.nodes.get(node);
        let counts = told.map(|told| told.counts.clone()).unwrap_or_default();
        let seconds = told.map(|told| told.seconds.max(0.0));
        Self {
            node: node.to_owned(),
            ended,
            seconds,
            run: Some(past.run.clone()),
            made: counts.done,
            reused: counts.reused,
        }
    }

    fn took(&self) -> String {
        self.seconds.map_or_else(String::new, |seconds| duration(Duration::from_secs_f64(seconds)))
    }

    fn records(&self) -> String {
        if self.made + self.reused == 0 {
            return String::new();
        }
        format!("{}, {}", grouped(self.made), grouped(self.reused))
    }
}

/// Whether a node ran to its end in a run, and gave the result of `action`.
fn ran(past: &Past, node: &str, action: Option<ActionKey>) -> bool {
    past.state.nodes.get(node).is_some_and(|told| {
        told.phase == Phase::Ended(End::Ran) && action.is_none_or(|action| told.action == Some(action))
    })
}

/// The nodes behind a report, each with the run that computed what it gives now.
fn work(compiled: &Compiled, report: NodeId, plan: &Plan, own: Option<&Past>, layout: &Layout) -> Vec<Line> {
    let mut lines: Vec<(Line, Option<ActionKey>)> = compiled
        .graph
        .closure(&[report])
        .into_iter()
        .map(|id| {
            let node = compiled.graph.node(id).name.to_string();
            let action = plan.get(id).and_then(|planned| planned.action);
            (Line { node, ended: "reused", seconds: None, run: None, made: 0, reused: 0 }, action)
        })
        .collect();
    // The report's own run first, then the others from the newest back, until each node is found.
    if let Some(own) = own {
        for (line, action) in &mut lines {
            if ran(own, &line.node, *action) {
                *line = Line::told(&line.node, own, "ran");
            }
        }
    }
    for run in journal::list(layout).iter().rev() {
        if lines.iter().all(|(line, _)| line.run.is_some()) {
            break;
        }
        let Ok(past) = Past::read(layout, run) else { continue };
        for (line, action) in lines.iter_mut().filter(|(line, action)| line.run.is_none() && action.is_some())
        {
            if ran(&past, &line.node, *action) {
                *line = Line::told(&line.node, &past, "reused");
            }
        }
    }
    lines.into_iter().map(|(line, _)| line).collect()
}

/// When and how a report was computed.
#[derive(Serialize)]
struct Timings {
    run: String,
    began: String,
    nodes: Vec<Line>,
}

impl Timings {
    fn render(&self) -> Text {
        let mut text =
            Text::new().line().bold("Timings").faint(format!("  run {}, {}", self.run, self.began)).line();
        let width = self.nodes.iter().map(|line| line.node.chars().count()).max().unwrap_or(0);
        for line in &self.nodes {
            text = text
                .plain(&line.node)
                .pad_to(width + 2)
                .plain(line.ended)
                .pad_to(width + 13)
                .plain(line.took());
            if line.made + line.reused > 0 {
                let records = format!("{} new, {} reused", count(line.made, "record"), grouped(line.reused));
                text = text.pad_to(width + 22).faint(records);
            }
            if let Some(run) = line.run.as_ref().filter(|run| **run != self.run) {
                text = text.faint(format!("  in run {run}"));
            }
            text = text.line();
        }
        text
    }
}

impl Found {
    fn file(&self, name: &str) -> Result<Vec<u8>, Failure> {
        let bytes = self.artifact.read(name)?;
        bytes.ok_or_else(|| {
            Failure::failed(format!("there is no `{name}` in the report of `{}`", self.artifact.node))
        })
    }

    fn timings(&self) -> Option<Timings> {
        let past = self.past.as_ref()?;
        let nodes = if self.work.is_empty() {
            let told = past.state.nodes.iter();
            told.map(|(name, node)| Line::told(name, past, word(node.phase))).collect()
        } else {
            self.work.clone()
        };
        Some(Timings { run: past.run.clone(), began: date(past.state.began / 1000), nodes })
    }

    /// What the page's script reads: see `run` in browser.js.
    fn for_page(&self) -> Value {
        let timings = self.timings();
        let lines: Vec<Value> = timings
            .iter()
            .flat_map(|timings| &timings.nodes)
            .map(|line| json!({ "node": line.node, "ended": line.ended, "took": line.took(), "records": line.records(), "run": line.run }))
            .collect();
        json!({
            "file": self.file, "nodes": self.nodes, "timings": lines,
            "run": timings.as_ref().map(|timings| &timings.run), "began": timings.as_ref().map(|timings| &timings.began),
        })
    }
}

/// How a node ended in a run, in a word.
fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Ended(End::Ran) => "ran",
        Phase::Ended(End::Hit) => "reused",
        Phase::Ended(End::Failed) => "failed",
        Phase::Ended(End::Skipped) => "skipped",
        Phase::Ended(End::Cancelled) => "stopped",
        Phase::Planned | Phase::Waiting | Phase::Running => "not ended",
    }
}

/// Lays the page out in the store, with the times of its run, and tells or opens it. Each node has one page, the latest.
fn page(found: &Found, open: bool, context: &Context) -> Outcome {
    let Found { artifact, .. } = found;
    let folder = folder(&context.store, &found.file, &artifact.node);
    let failed = |what: &str, error: std::io::Error| {
        Failure::failed(format!("failed to {what} `{}`: {error}", folder.display()))
    };
    let stamp = folder.join("digest");
    let digest = artifact.output.digest.to_string();
    if std::fs::read_to_string(&stamp).ok().as_deref() != Some(digest.as_str()) {
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(|error| failed("remove the older", error))?;
        }
        if let Some(parent) = folder.parent() {
            std::fs::create_dir_all(parent).map_err(|error| failed("create", error))?;
        }
        artifact.view.export(&artifact.output, &folder)?;
        std::fs::write(&stamp, &digest).map_err(|error| failed("write to", error))?;
    }
    let page = String::from_utf8_lossy(&found.file("index.html")?).into_owned();
    // Inside a script element only `<` could end it.
    let run = found.for_page().to_string().replace('<', "\\u003c");
    let joined = page.replacen(
        "<body>",
        &format!("<body><script type=\"application/json\" id=\"run\">{run}</script>"),
        1,
    );
    let path = folder.join("index.html");
    let new = folder.join("index.html.new");
    std::fs::write(&new, joined)
        .and_then(|()| std::fs::rename(&new, &path))
        .map_err(|error| failed("write to", error))?;
    if context.json {
        context.printer.json(&json!({ "node": artifact.node, "output": artifact.output, "path": path }))?;
    } else {
        context.printer.data(&format!("{}\n", path.display()).into())?;
    }
    if !open {
        return Ok(());
    }
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let status = Command::new(program)
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        _ => Err(Failure::failed(format!("`{program}` does not open a browser here"))
            .hint("open the path above in one")),
    }
}

/// Where the page of a node lies.
fn folder(store: &Path, file: &str, node: &str) -> PathBuf {
    let stem = Path::new(file).file_stem().unwrap_or_default().to_string_lossy();
    let plain = |character: char| if character.is_ascii_alphanumeric() { character } else { '-' };
    let name: String = format!("{stem}-{node}").chars().map(plain).collect();
    store.join("pages").join(name)
}
