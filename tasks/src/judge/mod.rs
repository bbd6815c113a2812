//! `judge`: does a response reach the reference answer; decided by rules, or by a model where the rules cannot.
//!
//! What a model says is a record, kept whole; the verdict is read out of it each time. So another way of reading, or
//! another policy for what is no verdict, asks nothing again.

mod question;
mod verdict;

use std::collections::BTreeMap;
use std::path::PathBuf;

use dag_engine::task::{
    ArtifactType, Environment, Estimate, EstimateInputs, Fault, FileKind, FileRef, Missing, Ports, Task,
    TaskCx, TaskError,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::backend::{self, Backend, BackendRun, Message, ModelSpec, Sampling};
use crate::math::{self, Policy};
use crate::records::{Prompt, Records, Stored, draw};
use crate::responses;
use crate::table::{ColumnKind, Row, Schema, TableReader, TableWriter};
pub use question::Part;
pub use verdict::{Verdict, read};

/// The params of `judge`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Who decides.
    pub by: By,
    /// How the rules find and compare answers.
    #[serde(default)]
    pub grading: Policy,
    /// Which model judges; the one in the port `model` if it is left out.
    #[serde(default)]
    pub model: ModelSpec,
    /// A file with the judge's system prompt, instead of the one that is built in.
    #[serde(default)]
    pub prompt_file: Option<String>,
    /// Which part of a response the judge is shown.
    #[serde(default)]
    pub part: Part,
    /// What is decided without asking the model.
    #[serde(default = "every_shortcut")]
    pub shortcuts: Vec<Shortcut>,
    /// Zero takes the likeliest token every time, which makes thinking models loop.
    #[serde(default = "temperature")]
    pub temperature: f64,
    /// The share of probability from which tokens are drawn.
    #[serde(default = "top_p")]
    pub top_p: f64,
    /// How many of the likeliest tokens are drawn from; all if it is left out.
    #[serde(default)]
    pub top_k: Option<u32>,
    /// Longest verdict in tokens, thinking included.
    #[serde(default = "longest")]
    pub max_tokens: u32,
    /// How often a judge whose words hold no verdict is asked again, with another seed.
    #[serde(default = "one")]
    pub retries: u32,
    /// Whether `EQUIVALENT`, `YES` and their opposites are verdicts where the judge says nothing else.
    #[serde(default)]
    pub synonyms: bool,
    /// What a response without a verdict counts as in the column `match`.
    #[serde(default)]
    pub without_verdict: WithoutVerdict,
    /// The largest share of responses that a model may leave without a verdict.
    #[serde(default = "two_percent")]
    pub max_without_verdict: f64,
    /// The column with the reference answer.
    #[serde(default = "answer")]
    pub reference: String,
    /// Another number draws other verdicts.
    #[serde(default)]
    pub seed: u64,
}

fn every_shortcut() -> Vec<Shortcut> {
    vec![Shortcut::NoAnswer, Shortcut::Exact, Shortcut::Rules]
}
fn temperature() -> f64 {
    0.6
}
fn top_p() -> f64 {
    0.95
}
fn longest() -> u32 {
    32_768
}
fn one() -> u32 {
    1
}
fn two_percent() -> f64 {
    0.02
}
fn answer() -> String {
    "answer".into()
}

/// Who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Exact comparison of the answers, as `evaluate` grades.
    Rules,
    /// A model that reads the response beside the reference.
    Model,
}

/// What is decided without asking the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shortcut {
    /// A response that ends inside its thinking is no match.
    NoAnswer,
    /// A final part that is the reference to the letter is a match.
    Exact,
    /// An answer that the rules find equal is a match.
    Rules,
}

/// What a response without a verdict counts as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WithoutVerdict {
    /// As nothing: `match` is null, and no filter keeps it.
    #[default]
    Drop,
    /// As no match.
    CountAsMismatch,
}

impl Params {
    fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            max_tokens: self.max_tokens,
            ..Sampling::default()
        }
    }

    /// The verdict of the rules on a response.
    fn by_rules(&self, reference: &str, response: &str) -> (Verdict, &'static str) {
        let graded = math::grade(reference, response, &self.grading);
        let verdict = match graded.verdict {
            math::Verdict::Correct => Verdict::Match,
            math::Verdict::Incorrect => Verdict::Mismatch,
            math::Verdict::NoAnswer => Verdict::NoAnswer,
            math::Verdict::UnparsableGold
            | math::Verdict::UnparsablePrediction
            | math::Verdict::TooComplex => Verdict::Unparsable,
        };
        (verdict, graded.rule.name())
    }

    /// The verdict that needs no model, if there is one.
    fn shortcut(
        &self,
        reference: &str,
        response: &str,
        shown: Option<&str>,
    ) -> Option<(Verdict, &'static str)> {
        let has = |shortcut| self.shortcuts.contains(&shortcut);
        let Some(shown) = shown else {
            // There is nothing to show the judge, whether or not the shortcut is wanted.
            return Some((Verdict::NoAnswer, "no_answer"));
        };
        if has(Shortcut::NoAnswer) && math::after_thinking(response).trim().is_empty() {
            return Some((Verdict::NoAnswer, "no_answer"));
        }
        if has(Shortcut::Exact) && shown.trim() == reference.trim() {
            return Some((Verdict::Match, "exact"));
        }
        (has(Shortcut::Rules) && self.by_rules(reference, response).0 == Verdict::Match)
            .then_some((Verdict::Match, "rules"))
    }
}

/// The task kind.
pub struct Judge;

impl Task for Judge {
    const KIND: &'static str = "judge";
    /// The last digit is that of what is shown, read and written; a change of the reading asks nothing again.
    const VERSION: u32 = 10 * math::VERSION + 1;
    const ABOUT: &'static str = "does a response reach the reference answer; by rules or by a model";
    type Params = Params;
    type Run = BackendRun;

    fn ports(params: &Params) -> Ports {
        let ports =
            Ports::new().input("responses", ArtifactType::Table).optional("references", ArtifactType::Table);
        let ports = match (params.by, &params.model) {
            (By::Model, ModelSpec::Embedded) => ports.input("model", ArtifactType::Model),
            _ => ports,
        };
        ports.output("judged", ArtifactType::Table)
    }

    fn check(params: &Params) -> Vec<Fault> {
        let mut faults = params.sampling().check(&params.model, "");
        if params.by == By::Model {
            faults.extend(backend::check(&params.model, "/model"));
        } else if params.model != ModelSpec::default() {
            faults.push(Fault::new("/model", "the rules need no model; for a model say `by: model`"));
        }
        if !(0.0..=1.0).contains(&params.max_without_verdict) {
            faults.push(Fault::new("/max_without_verdict", "a share is from 0 to 1"));
        }
        if params.part == Part::LastWords(0) {
            faults.push(Fault::new("/part/last_words", "no words are nothing to judge"));
        }
        faults
    }

    fn files(params: &Params) -> Vec<FileRef> {
        let file = |path: &String| FileRef {
            pointer: "/prompt_file".into(),
            pattern: path.clone(),
            kind: FileKind::File,
        };
        params.prompt_file.iter().map(file).collect()
    }

    fn uses_seed(params: &Params) -> bool {
        params.by == By::Model && params.sampling().is_random()
    }

    fn preflight(params: &Params, run: &BackendRun, environment: &dyn Environment) -> Vec<Missing> {
        match params.by {
            By::Rules => Vec::new(),
            By::Model => backend::preflight(&params.model, run, environment),
        }
    }

    fn estimate(params: &Params, inputs: &EstimateInputs) -> Estimate {
        match params.by {
            By::Rules => Estimate::default(),
            By::Model => Estimate { records: inputs.total("responses", "rows"), ..Estimate::default() },
        }
    }

    fn run(params: &Params, cx: &mut TaskCx) -> Result<(), TaskError> {
        let material = Material::open(params, cx)?;
        cx.progress().total(material.responses.len());
        match params.by {
            By::Rules => {
                let mut output = Output::create(params, &material, cx)?;
                for row in material.rows(params)? {
                    let row = row?;
                    let decided = match row.response() {
                        None => (Verdict::Error, "no_response"),
                        Some(response) => params.by_rules(&row.reference, response),
                    };
                    output.write(row, decided, None, None)?;
                    cx.progress().done(1);
                }
                output.finish(cx)
            }
            By::Model => judge_by_model(params, &material, cx),
        }
    }
}

/// Asks the model about what no shortcut decides, round by round, then reads the verdicts.
fn judge_by_model(params: &Params, material: &Material, cx: &mut TaskCx) -> Result<(), TaskError> {
    let run: BackendRun = cx.run_options()?;
    let backend = Backend::open(&params.model, cx.optional("model"), &run, cx)?;
    let sampling = params.sampling();
    let mut records = Records::open(cx, &backend, &sampling, draw(cx.seed(), params.seed))?;
    let stored = records.stored().clone();
    for attempt in 0..=params.retries {
        let mut open = material.rows(params)?.filter_map(|row| {
            let question = row.map(|row| row.question(params, &material.prompt));
            match question {
                Err(error) => Some(Err(error)),
                Ok(Err(_)) => None,
                Ok(Ok(messages)) => match is_decided(&stored, &backend, &messages, attempt, params) {
                    Err(error) => Some(Err(error)),
                    Ok(true) => None,
                    Ok(false) => Some(Ok(Prompt { messages, repeats: attempt..attempt + 1 })),
                },
            }
        });
        records.ask(cx, &backend, &sampling, &mut open)?;
    }
    let mut output = Output::create(params, material, cx)?;
    for row in material.rows(params)? {
        let row = row?;
        match row.question(params, &material.prompt) {
            Err(decided) => output.write(row, decided, None, None)?,
            Ok(messages) => {
                // The first attempt with a verdict counts; without any, the last that was made.
                let mut said = None;
                for attempt in 0..=params.retries {
                    let key = stored.key(&messages, attempt);
                    let reply = records.outcome(&key, &backend)?;
                    let decided = read(&reply, params.synonyms);
                    let was_made = stored.get(&key)?.is_some();
                    said = Some((decided, key, reply.ok().map(|reply| reply.response)));
                    if decided.0.is_match().is_some() || !was_made {
                        break;
                    }
                }
                let (decided, key, words) = said.expect("there is at least one attempt");
                output.write(row, decided, Some(&key.to_string()), words.as_deref())?;
            }
        }
    }
    output.finish(cx)?;
    records.settle(cx, run.allowed_failures())
}

/// Whether one of the attempts before `attempt` has a verdict.
fn is_decided(
    stored: &Stored,
    backend: &Backend,
    messages: &[Message],
    attempt: u32,
    params: &Params,
) -> Result<bool, TaskError> {
    for before in 0..attempt {
        // An attempt that failed is owed by the next run; asking with another seed would change the verdict then.
        let Some(raw) = stored.get(&stored.key(messages, before))? else { return Ok(true) };
        if read(&raw.read(backend.thinks()), params.synonyms).0.is_match().is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is judged, and by what.
struct Material {
    responses: TableReader,
    /// Reference answers by id, where a table gives them.
    references: Option<BTreeMap<String, String>>,
    prompt: String,
}

impl Material {
    fn open(params: &Params, cx: &TaskCx) -> Result<Self, TaskError> {
        let responses = TableReader::open(&cx.input("responses")?.path)?;
        let references = match cx.optional("references") {
            Some(input) => Some(references(&TableReader::open(&input.path)?, &params.reference)?),
            None => None,
        };
        let prompt = match cx.files("/prompt_file").first() {
            Some(path) => std::fs::read_to_string(path).map_err(|error| TaskError::io(path, error))?,
            None => question::PROMPT.to_owned(),
        };
        Ok(Self { responses, references, prompt })
    }

    /// Every response with its reference.
    fn rows<'a>(
        &'a self,
        params: &'a Params,
    ) -> Result<impl Iterator<Item = Result<Judged, TaskError>> + 'a, TaskError> {
        Ok(self.responses.rows()?.zip(1_u64..).map(move |(row, number)| {
            let row = row?;
            let at = |what: String| TaskError::input(self.responses.path(), Some(number), what);
            let reference = match &self.references {
                Some(references) => {
                    let id = responses::id_of(&row).ok_or_else(|| at("the row has no `id`".into()))?;
                    references
                        .get(&id)
                        .cloned()
                        .ok_or_else(|| at(format!("`references` has no row `{id}`")))?
                }
                None => text_of(row.get(&params.reference))
                    .ok_or_else(|| at(format!("the row has no reference in `{}`", params.reference)))?,
            };
            Ok(Judged { row, reference })
        }))
    }
}

fn references(table: &TableReader, column: &str) -> Result<BTreeMap<String, String>, TaskError> {
    let mut references = BTreeMap::new();
    for (number, row) in (1..).zip(table.rows_of(&["id", column])?) {
        let row = row?;
        let at = |what: String| TaskError::input(table.path(), Some(number), what);
        let id = responses::id_of(&row).ok_or_else(|| at("the row has no `id`".into()))?;
        let reference = text_of(row.get(column)).ok_or_else(|| at(format!("the row has no `{column}`")))?;
        references.insert(id, reference);
    }
    Ok(references)
}

/// A reference may be a text or a number.
fn text_of(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A response and its reference.
struct Judged {
    row: Row,
    reference: String,
}

impl Judged {
    fn response(&self) -> Option<&str> {
        responses::text(&self.row, "response")
    }

    /// What to ask the model, or the verdict that needs no asking.
    fn question(&self, params: &Params, prompt: &str) -> Result<Vec<Message>, (Verdict, &'static str)> {
        let response = self.response().ok_or((Verdict::Error, "no_response"))?;
        let shown = params.part.of(response, &params.grading);
        match params.shortcut(&self.reference, response, shown.as_deref()) {
            Some(decided) => Err(decided),
            None => Ok(question::messages(prompt, &shown.unwrap_or_default(), &self.reference)),
        }
    }
}

/// The columns that judging adds.
const COLUMNS: [(&str, ColumnKind); 6] = [
    ("reference", ColumnKind::Str),
    ("verdict", ColumnKind::Str),
    ("match", ColumnKind::Bool),
    ("rule", ColumnKind::Str),
    ("judge_record_key", ColumnKind::Str),
    ("judge_response", ColumnKind::Str),
];

/// The judged table while it is written, and the counts about it.
struct Output<'a> {
    params: &'a Params,
    writer: TableWriter,
    verdicts: BTreeMap<&'static str, u64>,
    rules: BTreeMap<&'static str, u64>,
    asked: u64,
}

impl<'a> Output<'a> {
    fn create(params: &'a Params, material: &Material, cx: &TaskCx) -> Result<Self, TaskError> {
        let schema =
            COLUMNS.iter().fold(material.responses.schema().clone(), |schema: Schema, (name, kind)| {
                schema.with(*name, *kind)
            });
        let path: PathBuf = cx.output("judged");
        Ok(Self {
            params,
            writer: TableWriter::create(path, schema)?,
            verdicts: BTreeMap::new(),
            rules: BTreeMap::new(),
            asked: 0,
        })
    }

    fn write(
        &mut self,
        judged: Judged,
        (verdict, rule): (Verdict, &'static str),
        key: Option<&str>,
        words: Option<&str>,
    ) -> Result<(), TaskError> {
        *self.verdicts.entry(verdict.name()).or_default() += 1;
        *self.rules.entry(rule).or_default() += 1;
        self.asked += u64::from(key.is_some());
        let is_match = match (verdict.is_match(), self.params.without_verdict) {
            (None, WithoutVerdict::CountAsMismatch) => Some(false),
            (is_match, _) => is_match,
        };
        let values = [
            json!(judged.reference),
            json!(verdict.name()),
            json!(is_match),
            json!(rule),
            json!(key),
            json!(words),
        ];
        let mut row = judged.row;
        for ((name, _), value) in COLUMNS.iter().zip(values) {
            row.insert((*name).to_owned(), value);
        }
        Ok(self.writer.write(&row)?)
    }

    /// Completes the table; fails where a model left too many responses without a verdict.
    fn finish(self, cx: &mut TaskCx) -> Result<(), TaskError> {
        let rows = self.writer.finish()?;
        let count = |verdict: Verdict| self.verdicts.get(verdict.name()).copied().unwrap_or(0);
        let without = [Verdict::Ambiguous, Verdict::Unparsable, Verdict::Truncated, Verdict::Error]
            .into_iter()
            .map(count)
            .sum::<u64>();
        cx.metric("rows", rows);
        cx.metric("matches", count(Verdict::Match));
        cx.metric("verdicts", json!(self.verdicts));
        cx.metric("rules", json!(self.rules));
        cx.metric("asked", self.asked);
        cx.metric("without_verdict", without);
        let allowed = self.params.max_without_verdict;
        if self.params.by == By::Model && without as f64 > allowed * rows as f64 {
            return Err(TaskError::failed(format!(
                "{without} of {rows} responses have no verdict ({}), more than `max_without_verdict` allows ({allowed}); \
                 what the judge said is kept",
                json!(self.verdicts)
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
