//! The judged table while it is written, and the counts about it.

use std::collections::BTreeMap;

use dag_engine::task::{TaskCx, TaskError};
use serde_json::json;

use super::juror::Opinion;
use super::material::{Decided, Judged, Material};
use super::params::{By, Params, WithoutVerdict};
use super::quality::{AgainstLabels, Agreement, Share, disagree};
use super::verdict::Verdict;
use crate::responses;
use crate::table::{ColumnKind, TableWriter};

/// The columns that judging adds.
const COLUMNS: [(&str, ColumnKind); 11] = [
    ("reference", ColumnKind::Str),
    ("verdict", ColumnKind::Str),
    ("match", ColumnKind::Bool),
    ("rule", ColumnKind::Str),
    ("decided_by", ColumnKind::Str),
    ("judge_attempts", ColumnKind::Int),
    ("judge_record_key", ColumnKind::Str),
    ("judge_response", ColumnKind::Str),
    ("rules_verdict", ColumnKind::Str),
    ("rules_rule", ColumnKind::Str),
    ("disagrees", ColumnKind::Bool),
];
/// The column of the labels, where `label` names one.
pub(crate) const LABEL: &str = "judge_label";

/// Who decided a row. The names stand in tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decider {
    Rules,
    Shortcut,
    Judge,
    SecondJudge,
}

impl Decider {
    fn name(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Shortcut => "shortcut",
            Self::Judge => "judge",
            Self::SecondJudge => "second_judge",
        }
    }

    fn is_model(self) -> bool {
        matches!(self, Self::Judge | Self::SecondJudge)
    }
}

/// The judged table while it is written, and the counts about it.
pub(super) struct Output<'a> {
    params: &'a Params,
    writer: TableWriter,
    tally: Tally,
}

/// What the rows came to.
#[derive(Default)]
pub(super) struct Tally {
    rows: u64,
    verdicts: BTreeMap<&'static str, u64>,
    rules: BTreeMap<&'static str, u64>,
    deciders: BTreeMap<&'static str, u64>,
    asked: u64,
    escalated: u64,
    agreement: Agreement,
    /// Of the verdicts, of the rules on the same rows, and of the model where it was asked.
    labelled: [AgainstLabels; 3],
    /// The first row of each category that decides nothing, with the end of what its judge said.
    examples: BTreeMap<&'static str, String>,
}

impl<'a> Output<'a> {
    pub(super) fn create(params: &'a Params, material: &Material, cx: &TaskCx) -> Result<Self, TaskError> {
        let label = params.label.as_ref().map(|_| (LABEL, ColumnKind::Bool));
        let schema = COLUMNS
            .into_iter()
            .chain(label)
            .fold(material.responses.schema().clone(), |schema, (name, kind)| schema.with(name, kind));
        Ok(Self {
            params,
            writer: TableWriter::create(cx.output("judged"), schema)?,
            tally: Tally::default(),
        })
    }

    /// A row that no model was asked about.
    pub(super) fn write_unasked(
        &mut self,
        judged: Judged,
        decided: Decided,
        by: Decider,
    ) -> Result<(), TaskError> {
        self.write(judged, decided, by, None)
    }

    /// A row with what a model said of it.
    pub(super) fn write_opinion(
        &mut self,
        judged: Judged,
        by: Decider,
        opinion: &Opinion,
    ) -> Result<(), TaskError> {
        self.write(judged, (opinion.verdict, opinion.rule), by, Some(opinion))
    }

    fn write(
        &mut self,
        judged: Judged,
        (verdict, rule): Decided,
        by: Decider,
        opinion: Option<&Opinion>,
    ) -> Result<(), TaskError> {
        let by_rules = match self.params.by {
            By::Rules => (verdict, rule),
            By::Model => judged.by_rules(self.params),
        };
        let is_match = match (verdict.is_match(), &self.params.without_verdict) {
            (None, WithoutVerdict::CountAsMismatch) => Some(false),
            (is_match, _) => is_match,
        };
        let disagrees = by.is_model().then(|| disagree(verdict, by_rules.0)).flatten();
        self.tally.add(&judged, (verdict, rule), by, by_rules.0, opinion);
        let values = [
            json!(judged.reference),
            json!(verdict.name()),
            json!(is_match),
            json!(rule),
            json!(verdict.is_match().map(|_| by.name())),
            json!(opinion.map(|opinion| opinion.attempts)),
            json!(opinion.map(|opinion| &opinion.key)),
            json!(opinion.map(|opinion| &opinion.words)),
            json!(by_rules.0.name()),
            json!(by_rules.1),
            json!(disagrees),
        ];
        let mut row = judged.row;
        for ((name, _), value) in COLUMNS.iter().zip(values) {
            row.insert((*name).to_owned(), value);
        }
        if self.params.label.is_some() {
            row.insert(LABEL.to_owned(), json!(judged.label));
        }
        Ok(self.writer.write(&row)?)
    }

    /// Completes the table, and tells what it came to.
    pub(super) fn finish(self, cx: &mut TaskCx) -> Result<Tally, TaskError> {
        let Self { params, writer, tally } = self;
        cx.metric("rows", writer.finish()?);
        cx.metric("matches", tally.count(Verdict::Match));
        cx.metric("verdicts", json!(tally.verdicts));
        cx.metric("rules", json!(tally.rules));
        cx.metric("decided_by", json!(tally.deciders));
        cx.metric("asked", tally.asked);
        cx.metric("without_verdict", tally.without_verdict().count);
        if params.second().is_some() {
            cx.metric("escalated", tally.escalated);
        }
        if params.by == By::Model {
            cx.metric("agreement", tally.agreement.to_json());
        }
        if params.label.is_some() {
            let [verdicts, rules, model] = tally.labelled.map(AgainstLabels::to_json);
            cx.metric("quality", json!({ "verdicts": verdicts }));
            if params.by == By::Model {
                cx.metric("quality", json!({ "verdicts": verdicts, "rules": rules, "model": model }));
            }
        }
        Ok(tally)
    }
}

impl Tally {
    fn add(
        &mut self,
        judged: &Judged,
        (verdict, rule): Decided,
        by: Decider,
        by_rules: Verdict,
        opinion: Option<&Opinion>,
    ) {
        self.rows += 1;
        *self.verdicts.entry(verdict.name()).or_default() += 1;
        *self.rules.entry(rule).or_default() += 1;
        if verdict.is_match().is_some() {
            *self.deciders.entry(by.name()).or_default() += 1;
        } else {
            self.examples.entry(verdict.name()).or_insert_with(|| {
                let id = responses::id_of(&judged.row).unwrap_or_else(|| format!("row {}", self.rows));
                format!("`{id}`{}", opinion.map_or_else(String::new, Opinion::quoted))
            });
        }
        self.asked += u64::from(opinion.is_some());
        self.escalated += u64::from(by == Decider::SecondJudge);
        if by.is_model() {
            self.agreement.add(verdict, by_rules);
        }
        if let Some(is_right) = judged.label {
            let [verdicts, rules, model] = &mut self.labelled;
            verdicts.add(is_right, verdict);
            rules.add(is_right, by_rules);
            if by.is_model() {
                model.add(is_right, verdict);
            }
        }
    }

    fn count(&self, verdict: Verdict) -> u64 {
        self.verdicts.get(verdict.name()).copied().unwrap_or(0)
    }

    fn without_verdict(&self) -> Share {
        Share {
            count: Verdict::UNDECIDED.into_iter().map(|verdict| self.count(verdict)).sum(),
            of: self.rows,
        }
    }

    /// Fails where a model left too many responses without a verdict.
    pub(super) fn check(&self, params: &Params) -> Result<(), TaskError> {
        let Share { count, of } = self.without_verdict();
        let allowed = params.max_without_verdict;
        if params.by == By::Rules || count as f64 <= allowed * of as f64 {
            return Ok(());
        }
        let counted = |verdict: &Verdict| {
            (self.count(*verdict) > 0).then(|| format!("{} {}", self.count(*verdict), verdict.name()))
        };
        let counts: Vec<String> = Verdict::UNDECIDED.iter().filter_map(counted).collect();
        let most = Verdict::UNDECIDED.into_iter().rev().max_by_key(|verdict| self.count(*verdict));
        let most = most.unwrap_or(Verdict::Error);
        let remedy = match most {
            Verdict::Truncated => "give it a larger `max_tokens`",
            Verdict::Unparsable => {
                "read what it says, then say in a `prompt_file` how the verdict is written, or take `synonyms: true`"
            }
            Verdict::Ambiguous => {
                "read what it says; more `retries` or `without_verdict: { escalate: … }` ask again"
            }
            _ => "see why there is no response: in the table that is judged, or of the judge",
        };
        let example = self.examples.get(most.name()).map_or("", String::as_str);
        Err(TaskError::failed(format!(
            "{count} of {of} responses have no verdict ({}), more than `max_without_verdict` allows ({allowed}). Most often \
             it is {}, as of {example}. {}; what the judge said is kept, and nothing of it is asked again",
            counts.join(", "),
            most.name(),
            capitalised(remedy),
        )))
    }
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
