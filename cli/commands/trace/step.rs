//! A record on a trail, and how it is shown.

use std::collections::{BTreeMap, BTreeSet};

use dag_engine::graph::{Graph, NodeId};
use dag_tasks::table::Row;
use serde_json::{Map, Value, json};

use super::keys;
use crate::artifact::Artifact;
use crate::failure::Failure;
use crate::grid::cell;
use crate::text::{Text, clip};

/// Fields that say how a record fared come first, and are what a line shows.
const VERDICTS: [&str; 8] =
    ["verdict", "match", "correct", "rule", "reason", "extracted", "finish_reason", "error"];
/// Fields with the words of a record, shown on lines of their own.
const WORDS: [&str; 6] = ["problem", "answer", "response", "answer_text", "messages", "source_row"];
/// A long text is cut here; `--json` has the whole of it.
const LONGEST: usize = 300;
/// More records of one table than this are counted and not shown.
const SHOWN: usize = 8;

/// A record of a table.
pub struct Step {
    node: String,
    port: String,
    task: &'static str,
    row: Row,
    /// The answer of a model as it was recorded.
    logged: Option<Value>,
    /// Where in the row the record is, such as the tokens of a pack.
    note: Option<String>,
}

impl Step {
    /// A row of `artifact`.
    pub fn of(graph: &Graph, id: NodeId, artifact: &Artifact, row: Row) -> Self {
        let (node, port) = (artifact.node.clone(), artifact.port.clone());
        Self { node, port, task: graph.node(id).step.kind(), row, logged: None, note: None }
    }

    /// The same, with the answer that its record keeps.
    pub fn with_log(mut self, artifact: &Artifact) -> Result<Self, Failure> {
        for field in ["judge_record_key", "record_key"] {
            let key = self.row.get(field).and_then(Value::as_str).and_then(|key| key.parse().ok());
            if let Some(key) = key
                && let Some(payload) = artifact.view.find_logged(&key)?
            {
                let logged = serde_json::from_slice(&payload);
                self.logged = Some(logged.unwrap_or_else(|_| json!({ "bytes": payload.len() })));
                break;
            }
        }
        Ok(self)
    }

    /// The same, with where in the row the record is.
    pub fn with_note(self, note: Option<String>) -> Self {
        Self { note, ..self }
    }

    /// The whole of it.
    pub fn to_json(&self) -> Value {
        json!({
            "node": self.node, "port": self.port, "task": self.task, "record": self.row, "logged": self.logged,
            "note": self.note,
        })
    }

    /// What was `told` before is not told again.
    fn render<'a>(&'a self, text: Text, told: &mut BTreeSet<(&'a str, String)>) -> Text {
        let mut text = text.bold(format!("{}.{}", self.node, self.port)).faint(format!("  {}", self.task));
        if let Some(Value::String(id)) = self.row.get("id") {
            text = text.plain(format!("  {id}"));
        }
        if let Some(repeat) = self.row.get("repeat").filter(|repeat| !repeat.is_null()) {
            text = text.plain(format!(" #{}", cell(Some(repeat))));
        }
        let pack = || self.row.get("pack").map(|number| format!("pack {}", cell(Some(number))));
        if let Some(note) = self.note.clone().or_else(pack) {
            text = text.plain(format!("  {note}"));
        }
        text = fields(text.line(), &self.row, told);
        if let Some(logged) = &self.logged {
            text = text.faint("      as it was recorded: ").plain(clip(&cell(Some(logged)), LONGEST)).line();
        }
        text
    }
}

/// A trail, `arrow` before every step but the first.
pub fn render(steps: &[Step], arrow: &str) -> Text {
    let mut text = Text::new();
    let mut shown: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut told = BTreeSet::new();
    for (depth, step) in steps.iter().enumerate() {
        let times = shown.entry((&step.node, &step.port)).or_insert(0);
        *times += 1;
        if *times <= SHOWN {
            text = step.render(if depth == 0 { text } else { text.plain(format!("  {arrow} ")) }, &mut told);
        }
    }
    for ((node, port), times) in shown {
        if times > SHOWN {
            text = text.faint(format!("  … and {} more of {node}.{port}", times - SHOWN)).line();
        }
    }
    text
}

fn fields<'a>(mut text: Text, row: &'a Map<String, Value>, told: &mut BTreeSet<(&'a str, String)>) -> Text {
    let present = |value: &Value| !value.is_null();
    let verdicts: Vec<String> = row
        .iter()
        .filter(|(name, value)| VERDICTS.contains(&keys::last(name)) && present(value))
        .map(|(name, value)| format!("{name}={}", clip(&cell(Some(value)), 80)))
        .collect();
    if !verdicts.is_empty() {
        text = text.plain("      ").accent(verdicts.join("  ")).line();
    }
    for (name, value) in
        row.iter().filter(|(name, value)| WORDS.contains(&keys::last(name)) && present(value))
    {
        let words = cell(Some(value));
        let words = clip(&words, LONGEST).into_owned();
        if told.insert((keys::last(name), words.clone())) {
            text = text.faint(format!("      {name}: ")).plain(words).line();
        }
    }
    text
}
