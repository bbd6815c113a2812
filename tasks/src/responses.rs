//! The table of responses: the columns that `sample` makes and that `judge`, `filter`, `pack` and `dag trace` read.

use dag_engine::Digest;
use serde_json::{Value, json};

use crate::backend::{Failure, Message, Reply};
use crate::table::{ColumnKind, Row, Schema};

/// The columns of a response. A problem's own columns follow them, except those of the same name.
const COLUMNS: [(&str, ColumnKind); 12] = [
    ("id", ColumnKind::Str),
    ("repeat", ColumnKind::Int),
    ("record_key", ColumnKind::Str),
    ("parents", ColumnKind::StrList),
    ("messages", ColumnKind::Json),
    ("response", ColumnKind::Str),
    ("reasoning", ColumnKind::Str),
    ("answer_text", ColumnKind::Str),
    ("finish_reason", ColumnKind::Str),
    ("input_tokens", ColumnKind::Int),
    ("output_tokens", ColumnKind::Int),
    ("error", ColumnKind::Str),
];

/// The columns of the responses to `prompts`.
pub fn schema(prompts: &Schema) -> Schema {
    let mut schema = Schema::new(COLUMNS);
    for column in &prompts.0 {
        if schema.kind(&column.name).is_none() {
            schema = schema.with(column.name.clone(), column.kind);
        }
    }
    schema
}

/// What a response answers.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The problem.
    pub id: &'a str,
    /// Which of its responses.
    pub repeat: u32,
    /// The record.
    pub key: &'a Digest,
    /// The conversation that was put to the model.
    pub messages: &'a [Message],
}

/// The row of one response to `prompt`.
pub fn row(prompt: &Row, asked: &Asked, outcome: &Result<Reply, Failure>) -> Row {
    let Asked { id, repeat, key, messages } = *asked;
    let mut row = prompt.clone();
    let parents = match prompt.get("record_key") {
        Some(Value::String(parent)) => json!([parent]),
        _ => json!([id]),
    };
    let (response, reasoning, answer, finish, input, output, error) = match outcome {
        Ok(reply) => (
            json!(reply.response),
            json!(reply.reasoning),
            json!(reply.answer_text),
            json!(reply.finish_reason.to_string()),
            json!(reply.input_tokens),
            json!(reply.output_tokens),
            Value::Null,
        ),
        Err(failure) => {
            let none = Value::Null;
            let kind = json!(failure.kind.to_string());
            (none.clone(), none.clone(), none.clone(), json!("error"), none.clone(), none, kind)
        }
    };
    let values = [
        json!(id),
        json!(repeat),
        json!(key.to_string()),
        parents,
        json!(messages),
        response,
        reasoning,
        answer,
        finish,
        input,
        output,
        error,
    ];
    for ((name, _), value) in COLUMNS.iter().zip(values) {
        row.insert((*name).to_owned(), value);
    }
    row
}

/// The `id` of a row, as text.
pub fn id_of(row: &Row) -> Option<String> {
    match row.get("id")? {
        Value::String(id) => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

/// A column's text, where it has one.
pub fn text<'a>(row: &'a Row, column: &str) -> Option<&'a str> {
    row.get(column)?.as_str()
}
