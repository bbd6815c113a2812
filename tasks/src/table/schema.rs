//! What a table's columns hold, and how that is written in Arrow's terms.
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields};
use serde_json::Value;

use super::Row;

/// Field metadata that tells a column of JSON text from a column of plain text.
const KIND: &str = "dag.kind";
const JSON: &str = "json";

/// What the cells of a column hold. Every kind may be null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// True or false.
    Bool,
    /// A 64-bit signed integer.
    Int,
    /// A 64-bit float; integers are accepted.
    Float,
    /// Text.
    Str,
    /// A list of texts.
    StrList,
    /// A list of integers.
    IntList,
    /// Any JSON value, kept as text. Columns of foreign files that are none of the other kinds
    /// (structs, nested lists, maps, …) are read as this kind.
    Json,
}

impl ColumnKind {
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Bool => "a boolean",
            Self::Int => "a 64-bit integer",
            Self::Float => "a number",
            Self::Str => "a string",
            Self::StrList => "a list of strings",
            Self::IntList => "a list of 64-bit integers",
            Self::Json => "a JSON value",
        }
    }

    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Null => None,
            Value::Bool(_) => Some(Self::Bool),
            Value::Number(number) if number.as_i64().is_some() => Some(Self::Int),
            // Above i64: a float would change it, so the exact text is kept.
            Value::Number(number) if number.is_u64() => Some(Self::Json),
            Value::Number(_) => Some(Self::Float),
            Value::String(_) => Some(Self::Str),
            Value::Array(items) if !items.is_empty() => {
                if items.iter().all(Value::is_string) {
                    Some(Self::StrList)
                } else if items.iter().all(Value::is_i64) {
                    Some(Self::IntList)
                } else {
                    Some(Self::Json)
                }
            }
            Value::Array(_) | Value::Object(_) => Some(Self::Json),
        }
    }

    /// The narrowest kind that holds values of both.
    fn join(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (Self::Int, Self::Float) | (Self::Float, Self::Int) => Self::Float,
            _ => Self::Json,
        }
    }
}

/// A named column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Unique within its table.
    pub name: String,
    /// What its cells hold.
    pub kind: ColumnKind,
}

/// The columns of a table, in file order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schema(pub Vec<Column>);

impl Schema {
    /// A schema of the given columns.
    pub fn new<N: Into<String>>(columns: impl IntoIterator<Item = (N, ColumnKind)>) -> Self {
        Self(columns.into_iter().map(|(name, kind)| Column { name: name.into(), kind }).collect())
    }

    /// Adds a column, or changes the kind of the one that has this name.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, kind: ColumnKind) -> Self {
        let name = name.into();
        match self.0.iter_mut().find(|column| column.name == name) {
            Some(column) => column.kind = kind,
            None => self.0.push(Column { name, kind }),
        }
        self
    }

    /// The kind of the column `name`.
    pub fn kind(&self, name: &str) -> Option<ColumnKind> {
        self.0.iter().find(|column| column.name == name).map(|column| column.kind)
    }

    /// The columns' names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|column| column.name.as_str())
    }

    /// The narrowest schema that holds all of `rows`, its columns sorted by name so that it does not
    /// depend on the order of fields. A column of nulls alone is text, one of nulls and empty lists
    /// is a list of texts.
    pub fn infer<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Self {
        // `None`: only nulls so far. An empty list fits every list kind, so it is remembered apart.
        let mut kinds: BTreeMap<&str, (Option<ColumnKind>, bool)> = BTreeMap::new();
        for (name, value) in rows.into_iter().flatten() {
            let (kind, empty_list) = kinds.entry(name).or_default();
            if value.as_array().is_some_and(Vec::is_empty) {
                *empty_list = true;
            } else if let Some(new) = ColumnKind::of(value) {
                *kind = Some(kind.map_or(new, |old| old.join(new)));
            }
        }
        Self::new(kinds.into_iter().map(|(name, (kind, empty_list))| {
            let kind = match (kind, empty_list) {
                (None, false) => ColumnKind::Str,
                (None | Some(ColumnKind::StrList), true) => ColumnKind::StrList,
                (Some(ColumnKind::IntList), true) => ColumnKind::IntList,
                (Some(_), true) => ColumnKind::Json,
                (Some(kind), false) => kind,
            };
            (name, kind)
        }))
    }

    pub(super) fn to_arrow(&self) -> Arc<arrow_schema::Schema> {
        let fields: Fields = self.0.iter().map(field).collect();
        Arc::new(arrow_schema::Schema::new(fields))
    }

    pub(super) fn from_arrow(schema: &arrow_schema::Schema) -> Self {
        Self::new(schema.fields().iter().map(|field| (field.name(), kind(field))))
    }
}

fn field(column: &Column) -> Field {
    let data_type = match column.kind {
        ColumnKind::Bool => DataType::Boolean,
        ColumnKind::Int => DataType::Int64,
        ColumnKind::Float => DataType::Float64,
        ColumnKind::Str | ColumnKind::Json => DataType::Utf8,
        ColumnKind::StrList => DataType::new_list(DataType::Utf8, true),
        ColumnKind::IntList => DataType::new_list(DataType::Int64, true),
    };
    let field = Field::new(&column.name, data_type, true);
    if column.kind == ColumnKind::Json {
        field.with_metadata([(KIND.to_owned(), JSON.to_owned())])
    } else {
        field
    }
}

/// Whether a column holds JSON text that is to be parsed when read.
pub(super) fn is_json_text(field: &Field) -> bool {
    field.metadata().get(KIND).is_some_and(|kind| kind == JSON)
}

fn kind(field: &Field) -> ColumnKind {
    if is_json_text(field) {
        return ColumnKind::Json;
    }
    let list = |item: &Field| {
        if is_text(item.data_type()) {
            ColumnKind::StrList
        } else if is_integer(item.data_type()) {
            ColumnKind::IntList
        } else {
            ColumnKind::Json
        }
    };
    match field.data_type() {
        DataType::Boolean => ColumnKind::Bool,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => ColumnKind::Float,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => list(item),
        DataType::Null => ColumnKind::Str,
        other if is_text(other) => ColumnKind::Str,
        other if is_integer(other) => ColumnKind::Int,
        DataType::Dictionary(_, values) if is_text(values) => ColumnKind::Str,
        _ => ColumnKind::Json,
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Integers that fit 64 signed bits; an unsigned 64-bit column does not and is read as JSON.
fn is_integer(data_type: &DataType) -> bool {
    data_type.is_integer() && *data_type != DataType::UInt64
}
