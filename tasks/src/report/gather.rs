//! What a report is made from: results by arm and benchmark, training logs, packs, verdicts, the funnel.
//!
//! A gathered input is known by its coordinates. One axis names the benchmark, one the replicate; what is
//! left of the coordinates names the arm. Names of nodes are not used: they are in no key.
use std::collections::BTreeMap;
use std::path::Path;

use dag_engine::context::Input;
use dag_engine::task::{TaskCx, TaskError};
use serde_json::{Map, Value};

use super::Params;
use crate::evaluate::score::Graded;
use crate::judge::quality::{AgainstLabels, Agreement};
use crate::judge::{ControlOutcome, LABEL, Verdict};
use crate::table::{TableError, TableReader};

/// The column in which `filter` says why it dropped a record.
const REASON: &str = "reason";

/// Everything that entered the report.
pub(super) struct Gathered {
    /// Arms in the order of their first appearance; the untrained base, if there is one, comes last.
    pub(super) arms: Vec<Arm>,
    /// Benchmarks in the order of their first appearance.
    pub(super) benchmarks: Vec<String>,
    pub(super) training: Vec<Training>,
    pub(super) packs: Vec<(String, Map<String, Value>)>,
    pub(super) judged: Vec<Judged>,
    pub(super) funnel: Vec<FunnelStep>,
}

/// One row of the main table.
pub(super) struct Arm {
    pub(super) label: String,
    pub(super) is_base: bool,
    /// Benchmark to its replicates.
    pub(super) results: BTreeMap<String, Vec<Graded>>,
}

/// The log of one training run.
pub(super) struct Training {
    pub(super) arm: String,
    pub(super) replicate: Option<String>,
    pub(super) summary: Map<String, Value>,
    pub(super) steps: Vec<Step>,
}

/// One line of a loss log.
#[derive(serde::Deserialize)]
pub(super) struct Step {
    #[serde(rename = "step")]
    pub(super) number: u64,
    pub(super) loss: f64,
    #[serde(default)]
    pub(super) lr: Option<f64>,
    #[serde(default)]
    pub(super) grad_norm: Option<f64>,
    #[serde(default)]
    pub(super) loss_tokens: Option<u64>,
}

/// The verdicts on one arm, and how good they are.
#[derive(Default)]
pub(super) struct Judged {
    pub(super) arm: String,
    pub(super) verdicts: BTreeMap<String, u64>,
    /// Of the model with the rules.
    pub(super) agreement: Agreement,
    pub(super) labels: AgainstLabels,
    pub(super) controls: Option<ControlOutcome>,
}

/// One table of the data funnel.
pub(super) struct FunnelStep {
    pub(super) label: String,
    pub(super) rows: u64,
    /// Rows by the reason they carry, where the table has one.
    pub(super) reasons: BTreeMap<String, u64>,
}

pub(super) fn gather(params: &Params, cx: &TaskCx) -> Result<Gathered, TaskError> {
    let mut gathered = Gathered {
        arms: Vec::new(),
        benchmarks: Vec::new(),
        training: Vec::new(),
        packs: Vec::new(),
        judged: Vec::new(),
        funnel: Vec::new(),
    };
    for input in cx.inputs("results") {
        gathered.add_results(params, input, &arm_label(params, input), false)?;
    }
    for input in cx.inputs("base") {
        gathered.add_results(params, input, &params.base_label, true)?;
    }
    gathered.arms.sort_by_key(|arm| arm.is_base);
    for input in cx.inputs("training") {
        gathered.training.push(read_training(params, input)?);
    }
    for input in cx.inputs("packs") {
        let stats = read_object(&input.path.join("stats.json"))?.unwrap_or_default();
        gathered.packs.push((arm_label(params, input), stats));
    }
    for input in cx.inputs("judged") {
        gathered.judged.push(read_judged(arm_label(params, input), &input.path)?);
    }
    for input in cx.inputs("controls") {
        gathered.add_controls(&arm_label(params, input), &input.path)?;
    }
    for (index, input) in cx.inputs("funnel").iter().enumerate() {
        let label = params.funnel.get(index).cloned().unwrap_or_else(|| format!("step {}", index + 1));
        let reader = TableReader::open(&input.path)?;
        let reasons = match reader.schema().kind(REASON) {
            Some(_) => count_values(&input.path, REASON)?,
            None => BTreeMap::new(),
        };
        gathered.funnel.push(FunnelStep { label, rows: reader.len(), reasons });
    }
    Ok(gathered)
}

impl Gathered {
    fn add_controls(&mut self, arm: &str, path: &Path) -> Result<(), TaskError> {
        let mut outcome = ControlOutcome::default();
        for row in TableReader::open(path)?.rows_of(&["control", "match"])? {
            outcome.add_row(&row?);
        }
        let at = self.judged.iter().position(|judged| judged.arm == arm).unwrap_or_else(|| {
            self.judged.push(Judged { arm: arm.to_owned(), ..Judged::default() });
            self.judged.len() - 1
        });
        self.judged[at].controls = Some(outcome);
        Ok(())
    }

    fn add_results(
        &mut self,
        params: &Params,
        input: &Input,
        label: &str,
        is_base: bool,
    ) -> Result<(), TaskError> {
        let benchmark =
            input.coordinates.get(&params.benchmark_axis).cloned().unwrap_or_else(|| "benchmark".to_owned());
        if !self.benchmarks.contains(&benchmark) {
            self.benchmarks.push(benchmark.clone());
        }
        let graded = Graded::read_clustered(&input.path.join("graded.parquet"), params.cluster.as_deref())?;
        let at = self.arms.iter().position(|arm| arm.label == label && arm.is_base == is_base);
        let at = at.unwrap_or_else(|| {
            self.arms.push(Arm { label: label.to_owned(), is_base, results: BTreeMap::new() });
            self.arms.len() - 1
        });
        self.arms[at].results.entry(benchmark).or_default().push(graded);
        Ok(())
    }
}

fn read_judged(arm: String, path: &Path) -> Result<Judged, TaskError> {
    let mut judged = Judged { arm, verdicts: count_values(path, "verdict")?, ..Judged::default() };
    let table = TableReader::open(path)?;
    let columns: Vec<&str> = table
        .schema()
        .names()
        .filter(|name| ["verdict", "rules_verdict", "disagrees", LABEL].contains(name))
        .collect();
    for row in table.rows_of(&columns)? {
        let row = row?;
        let verdict = |column: &str| row.get(column).and_then(Value::as_str).and_then(Verdict::named);
        let Some(given) = verdict("verdict") else { continue };
        if row.get("disagrees").is_some_and(Value::is_boolean)
            && let Some(rules) = verdict("rules_verdict")
        {
            judged.agreement.add(given, rules);
        }
        if let Some(is_right) = row.get(LABEL).and_then(Value::as_bool) {
            judged.labels.add(is_right, given);
        }
    }
    Ok(judged)
}

/// The coordinates that name neither the benchmark nor the replicate.
pub(super) fn arm_label(params: &Params, input: &Input) -> String {
    let values: Vec<&str> = input
        .coordinates
        .iter()
        .filter(|(axis, _)| **axis != params.benchmark_axis && **axis != params.replicate_axis)
        .map(|(_, value)| value.as_str())
        .collect();
    if values.is_empty() { "trained".to_owned() } else { values.join(" ") }
}

fn read_training(params: &Params, input: &Input) -> Result<Training, TaskError> {
    let folder = input.path.join("training");
    let path = folder.join("loss.jsonl");
    let text = std::fs::read_to_string(&path).map_err(|error| TaskError::io(&path, error))?;
    let steps =
        text.lines().zip(1_u64..).filter(|(line, _)| !line.trim().is_empty()).map(|(line, number)| {
            serde_json::from_str(line).map_err(|error| {
                TaskError::input(&path, Some(number), format!("not a line of a loss log: {error}"))
            })
        });
    Ok(Training {
        arm: arm_label(params, input),
        replicate: input.coordinates.get(&params.replicate_axis).cloned(),
        summary: read_object(&folder.join("summary.json"))?.unwrap_or_default(),
        steps: steps.collect::<Result<_, _>>()?,
    })
}

/// A JSON object in a file; `None` where there is no file.
fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, TaskError> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = std::fs::read(path).map_err(|error| TaskError::io(path, error))?;
    let object = serde_json::from_slice(&bytes)
        .map_err(|error| TaskError::input(path, None, format!("not a JSON object: {error}")))?;
    Ok(Some(object))
}

fn count_values(path: &Path, column: &str) -> Result<BTreeMap<String, u64>, TableError> {
    let mut counts = BTreeMap::new();
    for row in TableReader::open(path)?.rows_of(&[column])? {
        let value = match &row?[column] {
            Value::String(value) => value.clone(),
            Value::Null => "none".to_owned(),
            other => other.to_string(),
        };
        *counts.entry(value).or_default() += 1;
    }
    Ok(counts)
}
