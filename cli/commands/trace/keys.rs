//! What a row is known by: its own keys, those it was made from, and its id.

use dag_tasks::table::{Row, TableReader};
use serde_json::Value;

/// The keys of a row. In a joined table `r1.record_key` is one as `record_key` is.
#[derive(Debug, Default)]
pub struct Keys {
    /// The record it is, and in a table of verdicts the record of the judge's answer.
    pub own: Vec<String>,
    /// The records it was made from: parents, and the examples of a pack.
    pub made_from: Vec<String>,
    /// What people call it. Another table may use the same id for the same problem, or by chance.
    pub ids: Vec<String>,
}

impl Keys {
    /// Those of a row, of which the columns of [`columns`] are enough.
    pub fn of(row: &Row) -> Self {
        let mut keys = Self::default();
        for (name, value) in row {
            match last(name) {
                "record_key" | "judge_record_key" => keys.own.extend(text(value)),
                "parents" | "examples" => {
                    keys.made_from.extend(value.as_array().into_iter().flatten().filter_map(text));
                }
                "id" => keys.ids.extend(text(value)),
                _ => {}
            }
        }
        keys
    }

    /// What it is called.
    pub fn id(&self) -> Option<&str> {
        self.ids.first().or(self.own.first()).map(String::as_str)
    }
}

/// The columns with keys of a table.
pub fn columns(table: &TableReader) -> Vec<&str> {
    let holds_keys =
        |name: &&str| matches!(last(name), "record_key" | "judge_record_key" | "parents" | "examples" | "id");
    table.schema().names().filter(holds_keys).collect()
}

/// The name of a column without the side of the join that it belongs to.
pub fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
