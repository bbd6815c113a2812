//! `report`: tables and figures across the arms of an experiment.
//!
//! One pass: `gather` reads the inputs, `findings` computes, `tables` words the numbers, and `text` and
//! `page` render them. Everything written follows from the inputs and params alone.
mod blocks;
mod escape;
mod findings;
mod gather;
mod mathml;
mod page;
mod plot;
mod tables;
mod text;

use std::path::Path;

use dag_engine::task::{ArtifactType, NoRun, Ports, Task, TaskCx, TaskError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    const VERSION: u32 = 2;
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

    fn run(params: &Params, cx: &mut TaskCx) -> Result<(), TaskError> {
        let gathered = gather::gather(params, cx)?;
        let findings = findings::find(&gathered);
        let tables = tables::tables(&gathered, &findings);
        let sentences = text::sentences(&findings);
        let title = &params.title;
        let page = page::page(title, params.note.as_deref(), &gathered, &findings, &tables, &sentences);
        let json = serde_json::to_vec_pretty(&findings)
            .map_err(|error| TaskError::failed(format!("the findings cannot be written as JSON: {error}")))?;
        let folder = cx.output("report");
        std::fs::create_dir_all(&folder).map_err(|error| TaskError::io(&folder, error))?;
        write(&folder, "index.html", page)?;
        write(&folder, "report.md", text::markdown(title, &tables, &sentences))?;
        write(&folder, "report.txt", text::plain(title, &tables, &sentences))?;
        write(&folder, "report.json", json)?;
        write(&folder, "table.csv", text::results_csv(&findings))?;
        write(&folder, "loss.csv", text::loss_csv(&gathered))?;
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
