//! What is judged: every response with its reference, and with its label where there is one.

use std::collections::BTreeMap;
use std::path::Path;

use dag_engine::task::{TaskCx, TaskError};
use serde_json::Value;

use super::params::{Params, Shortcut};
use super::question;
use super::verdict::Verdict;
use crate::backend::Message;
use crate::math;
use crate::responses;
use crate::table::{Row, TableReader};

/// A verdict, and the rule that gave it.
pub(super) type Decided = (Verdict, &'static str);

/// What is judged, and under which prompt.
pub(super) struct Material {
    pub(super) responses: TableReader,
    /// By id, where a table gives them.
    references: Option<BTreeMap<String, Reference>>,
    /// Whether the responses have the labels; else the references do.
    labels_of_responses: bool,
    prompt: String,
}

#[derive(Clone)]
struct Reference {
    answer: String,
    label: Option<bool>,
}

impl Material {
    pub(super) fn open(params: &Params, cx: &TaskCx) -> Result<Self, TaskError> {
        let references = cx.optional("references").map(|input| &*input.path);
        let prompt = cx.files("/prompt_file").first().map(|path| &**path);
        Self::read(params, &cx.input("responses")?.path, references, prompt)
    }

    /// From files: the responses, the references if they have a table of their own, the prompt if it is not the built-in.
    pub(super) fn read(
        params: &Params,
        responses: &Path,
        references: Option<&Path>,
        prompt: Option<&Path>,
    ) -> Result<Self, TaskError> {
        let responses = TableReader::open(responses)?;
        let references = references.map(TableReader::open).transpose()?;
        let has = |table: &TableReader, column: &str| table.schema().kind(column).is_some();
        let label = params.label.as_deref();
        let labels_of_responses = label.is_some_and(|label| has(&responses, label));
        let of_references = label.filter(|_| !labels_of_responses);
        if let Some(label) = of_references
            && !references.as_ref().is_some_and(|table| has(table, label))
        {
            return Err(TaskError::failed(format!(
                "neither the responses nor the references have the column `{label}` that `label` names; \
                 `dag show` lists the columns of a table"
            )));
        }
        let references = references.map(|table| read_references(&table, &params.reference, of_references));
        let prompt = match prompt {
            Some(path) => std::fs::read_to_string(path).map_err(|error| TaskError::io(path, error))?,
            None => question::PROMPT.to_owned(),
        };
        Ok(Self { responses, references: references.transpose()?, labels_of_responses, prompt })
    }

    /// Every response with its reference.
    pub(super) fn rows<'a>(
        &'a self,
        params: &'a Params,
    ) -> Result<impl Iterator<Item = Result<Judged, TaskError>> + 'a, TaskError> {
        Ok(self.responses.rows()?.zip(1_u64..).map(move |(row, number)| {
            let row = row?;
            let at = |what: String| TaskError::input(self.responses.path(), Some(number), what);
            let mut reference = match &self.references {
                Some(references) => {
                    let id = responses::id_of(&row).ok_or_else(|| at("the row has no `id`".into()))?;
                    references
                        .get(&id)
                        .cloned()
                        .ok_or_else(|| at(format!("`references` has no row `{id}`")))?
                }
                None => Reference {
                    answer: text_of(row.get(&params.reference))
                        .ok_or_else(|| at(format!("the row has no reference in `{}`", params.reference)))?,
                    label: None,
                },
            };
            if let Some(label) = params.label.as_deref().filter(|_| self.labels_of_responses) {
                reference.label = label_of(&row, label).map_err(at)?;
            }
            Ok(Judged { row, reference: reference.answer, label: reference.label })
        }))
    }

    /// What to ask a model about an answer and a reference.
    pub(super) fn question(&self, answer: &str, reference: &str) -> Vec<Message> {
        question::messages(&self.prompt, answer, reference)
    }
}

fn read_references(
    table: &TableReader,
    column: &str,
    label: Option<&str>,
) -> Result<BTreeMap<String, Reference>, TaskError> {
    let columns: Vec<&str> = ["id", column].into_iter().chain(label).collect();
    let mut references = BTreeMap::new();
    for (number, row) in (1..).zip(table.rows_of(&columns)?) {
        let row = row?;
        let at = |what: String| TaskError::input(table.path(), Some(number), what);
        let id = responses::id_of(&row).ok_or_else(|| at("the row has no `id`".into()))?;
        let answer = text_of(row.get(column)).ok_or_else(|| at(format!("the row has no `{column}`")))?;
        let label = label.map_or(Ok(None), |label| label_of(&row, label)).map_err(at)?;
        references.insert(id, Reference { answer, label });
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

/// A label is true, false or absent; in a CSV file it is a text.
fn label_of(row: &Row, column: &str) -> Result<Option<bool>, String> {
    match row.get(column) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(label)) => Ok(Some(*label)),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(Some(true)),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(Some(false)),
        Some(other) => Err(format!("the label in `{column}` is true or false, not {other}")),
    }
}

/// A response and its reference.
pub(super) struct Judged {
    pub(super) row: Row,
    pub(super) reference: String,
    pub(super) label: Option<bool>,
}

impl Judged {
    pub(super) fn response(&self) -> Option<&str> {
        responses::text(&self.row, "response")
    }

    /// What the rules say of it.
    pub(super) fn by_rules(&self, params: &Params) -> Decided {
        let Some(response) = self.response() else { return (Verdict::Error, "no_response") };
        let graded = math::grade(&self.reference, response, &params.grading);
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

    /// What to show the model, or the verdict that needs no model.
    pub(super) fn shown(&self, params: &Params) -> Result<String, Decided> {
        let has = |shortcut| params.shortcuts.contains(&shortcut);
        let response = self.response().ok_or((Verdict::Error, "no_response"))?;
        // Where there is nothing to show, nobody is asked, whether or not the shortcut is wanted.
        let shown = params.part.of(response, &params.grading).ok_or((Verdict::NoAnswer, "no_answer"))?;
        if has(Shortcut::NoAnswer) && math::after_thinking(response).trim().is_empty() {
            return Err((Verdict::NoAnswer, "no_answer"));
        }
        if has(Shortcut::Exact) && shown.trim() == self.reference.trim() {
            return Err((Verdict::Match, "exact"));
        }
        if has(Shortcut::Rules) && self.by_rules(params).0 == Verdict::Match {
            return Err((Verdict::Match, "rules"));
        }
        Ok(shown)
    }

    /// What to ask the model, or the verdict that needs no asking.
    pub(super) fn question(&self, params: &Params, material: &Material) -> Result<Vec<Message>, Decided> {
        self.shown(params).map(|shown| material.question(&shown, &self.reference))
    }
}
