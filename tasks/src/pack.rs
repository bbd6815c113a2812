//! `pack`: conversations to token sequences of fixed capacity, several examples in each.
//!
//! The length that is packed is that of an example less one: inputs lose the last token and labels the first. A pack holds
//! whole examples, one after the other; no label crosses from one to the next. Before anything is tokenised the template
//! must pass a gate, because a template that does not fit its tokenizer trains without complaint.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dag_engine::task::{
    ArtifactType, Estimate, EstimateInputs, Fault, NoRun, Ports, Task, TaskCx, TaskError,
};
use dag_lm::template::{ChatTemplate, Example, Message, TemplateError, gate};
use dag_lm::tokenizer::Tokenizer;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::packing;
use crate::responses;
use crate::table::{ColumnKind, Row, Schema, TableReader, TableWriter};
use crate::token_store::{TokenReader, TokenWriter};

/// Examples tokenised side by side.
const CHUNK: usize = 256;

/// The params of `pack`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The column with the problem, which becomes the user's message.
    #[serde(default = "problem")]
    pub problem: String,
    /// The column with the response, thinking included.
    #[serde(default = "response")]
    pub response: String,
    /// A system message before the problem.
    #[serde(default)]
    pub system: Option<String>,
    /// Capacity of a pack in tokens.
    pub max_tokens: u32,
    /// Which examples share a pack.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// Which tokens are trained on.
    #[serde(default)]
    pub loss: Loss,
    /// Variables for the chat template, such as `enable_thinking: false`.
    #[serde(default)]
    pub template: Map<String, Value>,
    /// Strings that look like control strings (`<think>`) and may be several tokens, where a vocabulary has no token for
    /// them and the gate should let them pass.
    #[serde(default)]
    pub as_text: Vec<String>,
    /// The largest share of examples that the template or the tokenizer may refuse; they are dropped and counted.
    #[serde(default = "one_percent")]
    pub max_unfit: f64,
    /// Columns with the responses of other arms to the same problem. A problem is packed only where these would fit a pack as
    /// well, so that arms whose responses differ in length train on the same problems.
    #[serde(default)]
    pub beside: Vec<String>,
    /// How many examples to pack: the first that fit. All if it is left out; fewer than that are an error.
    #[serde(default)]
    pub examples: Option<u64>,
}

fn problem() -> String {
    "problem".into()
}
fn response() -> String {
    "response".into()
}
fn one_percent() -> f64 {
    0.01
}

/// Which examples share a pack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// Longest first, each into the first pack with room.
    #[default]
    FirstFitDecreasing,
    /// Longest first, each into the fullest pack with room.
    BestFitDecreasing,
    /// In the order of the table, each into the last pack or a new one.
    Sequential,
    /// Every example has a pack of its own.
    None,
}

impl Algorithm {
    fn pack(self, lengths: &[u32], capacity: u32) -> Vec<Vec<usize>> {
        match self {
            Self::FirstFitDecreasing => packing::first_fit_decreasing(lengths, capacity),
            Self::BestFitDecreasing => packing::best_fit_decreasing(lengths, capacity),
            Self::Sequential => packing::sequential(lengths, capacity),
            Self::None => (0..lengths.len()).map(|index| vec![index]).collect(),
        }
    }
}

/// Which tokens are trained on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// Those of the response, its end token included.
    #[default]
    Completions,
    /// All of them, the prompt's too.
    All,
}

/// The task kind.
pub struct Pack;

impl Task for Pack {
    const KIND: &'static str = "pack";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "conversations to token sequences of fixed capacity";
    type Params = Params;
    type Run = NoRun;

    fn ports(_: &Params) -> Ports {
        Ports::new()
            .input("examples", ArtifactType::Table)
            .input("tokenizer", ArtifactType::Model)
            .output("packs", ArtifactType::Packs)
    }

    fn check(params: &Params) -> Vec<Fault> {
        let mut faults = Vec::new();
        if params.max_tokens < 2 {
            faults.push(Fault::new("/max_tokens", "a pack holds at least two tokens"));
        }
        if !(0.0..=1.0).contains(&params.max_unfit) {
            faults.push(Fault::new("/max_unfit", "a share is from 0 to 1"));
        }
        if params.examples == Some(0) {
            faults.push(Fault::new("/examples", "there is at least one example to pack"));
        }
        faults
    }

    fn estimate(_: &Params, inputs: &EstimateInputs) -> Estimate {
        Estimate { records: inputs.total("examples", "rows"), ..Estimate::default() }
    }

    fn run(params: &Params, cx: &mut TaskCx) -> Result<(), TaskError> {
        let table = TableReader::open(&cx.input("examples")?.path)?;
        let encoder = Encoder::open(params, &cx.input("tokenizer")?.path)?;
        let folder = cx.output("packs");
        std::fs::create_dir_all(&folder).map_err(|error| TaskError::io(&folder, error))?;
        encoder.tokenizer.save(&folder).map_err(|error| TaskError::failed(error.to_string()))?;
        cx.progress().total(table.len());
        let mut examples = encode(params, &encoder, &table, cx)?;
        cx.progress().message("packing");
        let packs = params.algorithm.pack(&examples.lengths, params.max_tokens);
        write(&folder.join("packs.parquet"), &packs, &mut examples)?;
        let stats = examples.stats(params, &packs);
        let path = folder.join("stats.json");
        let text =
            serde_json::to_string_pretty(&stats).map_err(|error| TaskError::failed(error.to_string()))?;
        std::fs::write(&path, text + "\n").map_err(|error| TaskError::io(&path, error))?;
        for name in ["packs", "examples", "unique_problems", "tokens", "loss_tokens", "efficiency", "dropped"]
        {
            cx.metric(name, stats[name].clone());
        }
        Ok(())
    }
}

/// The template and the tokenizer, known to fit each other.
struct Encoder<'a> {
    params: &'a Params,
    tokenizer: Tokenizer,
    template: ChatTemplate,
}

impl<'a> Encoder<'a> {
    fn open(params: &'a Params, model: &Path) -> Result<Self, TaskError> {
        let broken = |what: String| TaskError::input(model, None, what);
        let tokenizer = Tokenizer::load(model).map_err(|error| broken(error.to_string()))?;
        let template = ChatTemplate::of(&tokenizer).map_err(|error| broken(error.to_string()))?;
        let faults = gate(&tokenizer, &template, &params.as_text);
        if !faults.is_empty() {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            return Err(broken(format!(
                "the chat template and the tokenizer do not fit, and training on them would be wrong: {}",
                faults.join("; ")
            )));
        }
        Ok(Self { params, tokenizer, template })
    }

    fn example(&self, problem: &str, response: &str) -> Result<Example, TemplateError> {
        let mut messages: Vec<Message> =
            self.params.system.iter().map(|system| Message::new("system", system.clone())).collect();
        messages.push(Message::new("user", problem));
        messages.push(Message::new("assistant", response));
        let mut example = self.template.example_with(&self.tokenizer, &messages, &self.params.template)?;
        if self.params.loss == Loss::All {
            // Nothing predicts the first token, so it is no label.
            example.loss_mask = (0..example.tokens.len()).map(|index| u8::from(index > 0)).collect();
        }
        Ok(example)
    }

    /// The example of a row, or why there is none.
    fn of_row(&self, row: &Row, names: &Names) -> Result<Example, Dropped> {
        let params = self.params;
        let of = |column: &str| -> Result<Example, (Reason, Option<TemplateError>)> {
            let problem = responses::text(row, &names.problem).ok_or((Reason::Empty, None))?;
            let response = responses::text(row, column).filter(|text| !text.trim().is_empty());
            let example = self
                .example(problem, response.ok_or((Reason::Empty, None))?)
                .map_err(|error| (Reason::Unfit, Some(error)))?;
            let length = example.tokens.len().saturating_sub(1);
            if length > params.max_tokens as usize { Err((Reason::OverLong, None)) } else { Ok(example) }
        };
        let own = of(&names.response).map_err(|(reason, error)| Dropped { reason: reason.name(), error })?;
        for other in params.beside.iter().filter(|other| **other != names.response) {
            of(other).map_err(|(reason, _)| Dropped { reason: reason.name_beside(), error: None })?;
        }
        Ok(own)
    }
}

/// A row that gives no example.
struct Dropped {
    reason: &'static str,
    /// What the template or the tokenizer says of it.
    error: Option<TemplateError>,
}

/// Why a response is not packed.
#[derive(Clone, Copy)]
enum Reason {
    Empty,
    Unfit,
    OverLong,
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Unfit => "unfit",
            Self::OverLong => "over_long",
        }
    }

    /// The same where it is the response of another arm.
    fn name_beside(self) -> &'static str {
        match self {
            Self::Empty => "empty_beside",
            Self::Unfit => "unfit_beside",
            Self::OverLong => "over_long_beside",
        }
    }
}

/// The examples that are kept, their tokens on disk.
struct Examples {
    store: TokenReader,
    /// As they are packed: one less than their tokens.
    lengths: Vec<u32>,
    /// Where each comes from: the record of its response, or the row's id.
    sources: Vec<String>,
    problems: BTreeSet<String>,
    loss_tokens: u64,
    dropped: BTreeMap<&'static str, u64>,
}

fn encode(
    params: &Params,
    encoder: &Encoder,
    table: &TableReader,
    cx: &TaskCx,
) -> Result<Examples, TaskError> {
    let names = Names::of(params, table)?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(cx.threads().max(1))
        .build()
        .map_err(|error| TaskError::failed(format!("no threads to tokenise with: {error}")))?;
    let mut writer = TokenWriter::create(cx.scratch().join("examples.tokens"))?;
    let (mut lengths, mut sources) = (Vec::new(), Vec::new());
    let (mut problems, mut dropped) = (BTreeSet::new(), BTreeMap::new());
    let mut loss_tokens = 0;
    let mut first_unfit = None;
    let wanted = params.examples.map_or(usize::MAX, |wanted| wanted as usize);
    let mut rows = table.rows_of(&names.all())?.zip(1_u64..).peekable();
    while rows.peek().is_some() {
        if lengths.len() >= wanted {
            // What comes after the last one wanted need not be read.
            *dropped.entry("not_wanted").or_default() += rows.count() as u64;
            break;
        }
        if cx.cancelled() {
            return Err(TaskError::Cancelled);
        }
        let chunk = rows
            .by_ref()
            .take(CHUNK)
            .map(|(row, number)| Ok((row?, number)))
            .collect::<Result<Vec<_>, TaskError>>()?;
        // Collected in order: the packs must not depend on which thread was first.
        let encoded: Vec<_> =
            pool.install(|| chunk.par_iter().map(|(row, _)| encoder.of_row(row, &names)).collect());
        for ((row, number), example) in chunk.iter().zip(encoded) {
            if lengths.len() >= wanted {
                *dropped.entry("not_wanted").or_default() += 1;
                continue;
            }
            let example = match example {
                Ok(example) => example,
                Err(Dropped { reason, error }) => {
                    if let Some(error) = error {
                        first_unfit.get_or_insert_with(|| format!("row {number}: {error}"));
                    }
                    *dropped.entry(reason).or_default() += 1;
                    continue;
                }
            };
            writer.push(&example.tokens, &example.loss_mask)?;
            lengths.push(example.tokens.len().saturating_sub(1) as u32);
            loss_tokens += example.loss_mask.iter().map(|mask| u64::from(*mask)).sum::<u64>();
            let id = responses::id_of(row).unwrap_or_else(|| number.to_string());
            let source = names.source.as_ref().and_then(|column| responses::text(row, column));
            sources.push(source.map_or_else(|| id.clone(), str::to_owned));
            problems.insert(id);
        }
        cx.progress().done(chunk.len() as u64);
    }
    let unfit = dropped.get("unfit").copied().unwrap_or(0);
    if let Some(first) = first_unfit {
        let what =
            format!("{unfit} of {} examples do not fit the template or the tokenizer; {first}", table.len());
        if unfit as f64 > params.max_unfit * table.len() as f64 {
            return Err(TaskError::input(
                table.path(),
                None,
                format!("{what}. `max_unfit` allows {}", params.max_unfit),
            ));
        }
        cx.warn(&what);
    }
    if lengths.is_empty() {
        let what = format!("no example is left to pack: {}", json!(dropped));
        return Err(TaskError::input(table.path(), None, what));
    }
    if params.examples.is_some_and(|wanted| (lengths.len() as u64) < wanted) {
        let what =
            format!("{wanted} examples are wanted and {} fit; dropped: {}", lengths.len(), json!(dropped));
        return Err(TaskError::input(table.path(), None, what));
    }
    Ok(Examples { store: writer.finish()?, lengths, sources, problems, loss_tokens, dropped })
}

/// The columns that are read.
struct Names {
    problem: String,
    response: String,
    beside: Vec<String>,
    /// The column with the record of the response, which stands beside it: `r1.record_key` beside `r1.response`.
    source: Option<String>,
    has_id: bool,
}

impl Names {
    fn of(params: &Params, table: &TableReader) -> Result<Self, TaskError> {
        let has = |name: &str| table.schema().kind(name).is_some();
        for name in [&params.problem, &params.response].into_iter().chain(&params.beside) {
            if !has(name) {
                let present: Vec<&str> = table.schema().names().collect();
                let what = format!("there is no column `{name}`; there are {}", present.join(", "));
                return Err(TaskError::input(table.path(), None, what));
            }
        }
        let beside = match params.response.rsplit_once('.') {
            Some((side, _)) => format!("{side}.record_key"),
            None => "record_key".to_owned(),
        };
        Ok(Self {
            problem: params.problem.clone(),
            response: params.response.clone(),
            beside: params.beside.clone(),
            source: has(&beside).then_some(beside),
            has_id: has("id"),
        })
    }

    fn all(&self) -> Vec<&str> {
        let mut names: BTreeSet<&str> = BTreeSet::from([self.problem.as_str(), self.response.as_str()]);
        names.extend(self.source.as_deref());
        names.extend(self.beside.iter().map(String::as_str));
        if self.has_id {
            names.insert("id");
        }
        names.into_iter().collect()
    }
}

/// Writes the packs, one row each.
fn write(path: &Path, packs: &[Vec<usize>], examples: &mut Examples) -> Result<(), TaskError> {
    let schema = Schema::new([
        ("pack", ColumnKind::Int),
        ("tokens", ColumnKind::IntList),
        ("loss_mask", ColumnKind::IntList),
        ("starts", ColumnKind::IntList),
        ("examples", ColumnKind::StrList),
    ]);
    let mut writer = TableWriter::create(path, schema)?;
    for (number, pack) in packs.iter().enumerate() {
        let (mut tokens, mut loss_mask, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        for &example in pack {
            starts.push(tokens.len());
            let (more, mask) = examples.store.read(example)?;
            tokens.extend(more);
            loss_mask.extend(mask);
        }
        let sources: Vec<&String> = pack.iter().map(|&example| &examples.sources[example]).collect();
        let row = [
            ("pack", json!(number)),
            ("tokens", json!(tokens)),
            ("loss_mask", json!(loss_mask)),
            ("starts", json!(starts)),
            ("examples", json!(sources)),
        ];
        writer.write(&row.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())?;
    }
    writer.finish()?;
    Ok(())
}

impl Examples {
    fn stats(&self, params: &Params, packs: &[Vec<usize>]) -> Value {
        let packed: u64 = self.lengths.iter().map(|length| u64::from(*length)).sum();
        let count = self.lengths.len();
        let mut histogram: BTreeMap<u32, u64> = BTreeMap::new();
        for length in &self.lengths {
            *histogram.entry(length.next_power_of_two()).or_default() += 1;
        }
        let histogram: Vec<Value> = histogram
            .into_iter()
            .map(|(up_to, examples)| json!({ "up_to": up_to, "examples": examples }))
            .collect();
        let capacity = packs.len() as u64 * u64::from(params.max_tokens);
        json!({
            "packs": packs.len(),
            "examples": count,
            "unique_problems": self.problems.len(),
            "examples_per_pack": count as f64 / packs.len() as f64,
            "max_tokens": params.max_tokens,
            "algorithm": params.algorithm,
            "loss": params.loss,
            "tokens": packed + count as u64,
            "loss_tokens": self.loss_tokens,
            "efficiency": packed as f64 / capacity as f64,
            "longest": self.lengths.iter().max(),
            "mean_length": packed as f64 / count as f64,
            "lengths": histogram,
            "dropped": self.dropped,
        })
    }
}

#[cfg(test)]
mod tests;
