//! `report`: tables and figures across the arms of an experiment.
//!
//! One pass: `gather` reads the inputs, `findings` computes, `tables` words the numbers, and `text` and
//! `page` render them. A second, `responses`, writes on what the models said, as `blocks` that the page's browser loads.
//! Everything written follows from the inputs and params alone.
mod blocks;
mod curves;
mod escape;
mod fairness;
mod findings;
mod flow;
mod gather;
mod mathml;
mod page;
mod plot;
mod precision;
mod published;
mod responses;
mod tables;
mod text;

use std::path::Path;

use dag_engine::task::{ArtifactType, Fault, NoRun, Ports, Task, TaskCx, TaskError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use published::{Published, PublishedRow};

/// The params of `report`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The heading.
    #[serde(default = "title")]
    pub title: String,
    /// A paragraph below it.
    #[serde(default)]
    pub note: Option<String>,
    /// The axis whose values are benchmarks.
    #[serde(default = "benchmark_axis")]
    pub benchmark_axis: String,
    /// The axis whose values repeat an arm with another training seed; they are averaged.
    #[serde(default = "replicate_axis")]
    pub replicate_axis: String,
    /// What the untrained base is called.
    #[serde(default = "base_label")]
    pub base_label: String,
    /// What the tables of the funnel are called, in their order.
    #[serde(default)]
    pub funnel: Vec<String>,
    /// A column of the problems that says which belong together, such as a passage or a template: errors are then over these.
    #[serde(default)]
    pub cluster: Option<String>,
    /// Lengths in tokens: what pass@1 would be if every longer response were wrong.
    #[serde(default)]
    pub budgets: Vec<u64>,
    /// A published table, to stand beside what is measured.
    #[serde(default)]
    pub published: Option<Published>,
    /// How many responses to each problem can be read in the page; all if it is left out, and of the others their verdicts only.
    #[serde(default)]
    pub responses: Option<u32>,
    /// What the page's `dag trace` commands name. No task knows the names of nodes or of its file, so they are said here;
    /// `dag report` fills them in where they are not.
    #[serde(default)]
    pub trace: Option<Trace>,
}

/// The names in the page's commands.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// The experiment file.
    pub file: String,
    /// The node that gives `results`, without its coordinates.
    pub results: String,
    /// The node that gives `base`, likewise.
    #[serde(default)]
    pub base: Option<String>,
}

fn title() -> String {
    "Report".into()
}

fn benchmark_axis() -> String {
    "benchmark".into()
}

fn replicate_axis() -> String {
    "replicate".into()
}

fn base_label() -> String {
    "untrained base".into()
}

/// The task kind.
pub struct Report;

impl Task for Report {
    const KIND: &'static str = "report";
    const VERSION: u32 = 5;
    const ABOUT: &'static str = "tables and figures across the arms of an experiment";
    type Params = Params;
    type Run = NoRun;

    fn ports(_: &Params) -> Ports {
        Ports::new()
            .many("results", ArtifactType::Results)
            .many("base", ArtifactType::Results)
            .many("training", ArtifactType::Model)
            .many("packs", ArtifactType::Packs)
            .many("judged", ArtifactType::Table)
            .many("controls", ArtifactType::Table)
            .many("funnel", ArtifactType::Table)
            .output("report", ArtifactType::Report)
    }

    fn check(params: &Params) -> Vec<Fault> {
        params.published.iter().flat_map(Published::check).collect()
    }

    fn run(params: &Params, cx: &mut TaskCx) -> Result<(), TaskError> {
        let gathered = gather::gather(params, cx)?;
        let findings = findings::find(params, &gathered);
        let tables = tables::tables(&gathered, &findings);
        let sentences = text::sentences(&findings);
        let title = &params.title;
        let json = serde_json::to_vec_pretty(&findings)
            .map_err(|error| TaskError::failed(format!("the findings cannot be written as JSON: {error}")))?;
        let folder = cx.output("report");
        std::fs::create_dir_all(&folder).map_err(|error| TaskError::io(&folder, error))?;
        let (index, blocks) = responses::write(params, cx, &folder)?;
        let page =
            page::Page { title, note: params.note.as_deref(), gathered: &gathered, findings: &findings };
        write(&folder, "index.html", page.html(&tables, &sentences, &index, &blocks))?;
        write(&folder, "report.md", text::markdown(title, &tables, &sentences))?;
        write(&folder, "report.txt", text::plain(title, &tables, &sentences))?;
        write(&folder, "report.json", json)?;
        write(&folder, "table.csv", text::results_csv(&findings))?;
        write(&folder, "loss.csv", text::loss_csv(&gathered))?;
        for warning in &findings.warnings {
            cx.warn(warning);
        }
        cx.metric("arms", gathered.arms.len());
        cx.metric("benchmarks", gathered.benchmarks.len());
        cx.metric("differences_that_stand", findings.comparisons.iter().filter(|one| one.stands()).count());
        Ok(())
    }
}

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> Result<(), TaskError> {
    let path = folder.join(name);
    std::fs::write(&path, content).map_err(|error| TaskError::io(path, error))
}

#[cfg(test)]
mod tests;
