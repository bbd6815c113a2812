//! From a row of the source to a row of the table: columns made by templates, a condition, an id, a record key.

use dag_engine::canonical;
use dag_engine::task::TaskError;
use serde_json::{Value, json};

use super::Params;
use super::source::{BadRow, Place};
use crate::expression::{Expression, Scope, Template};
use crate::responses;
use crate::table::Row;

/// How the rows of a source become rows of the table.
pub(super) struct Maker {
    columns: Vec<(String, Column)>,
    select: Vec<String>,
    condition: Option<Expression>,
}

/// What became of a row.
pub(super) enum Made {
    /// It is a row of the table, unless another rule drops it.
    Kept(Finished),
    /// It does not satisfy the condition.
    Dropped,
}

/// A row of the table.
pub(super) struct Finished {
    pub(super) place: Place,
    pub(super) values: Row,
    pub(super) id: String,
    /// Whether the id is a digest of the row, because the data has none.
    pub(super) is_derived: bool,
}

/// One column: a value that keeps its type, or a text with values in it.
pub(super) enum Column {
    Value(Expression),
    Text(Template),
}

impl Column {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let inner = text.trim().strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}"));
        match inner.filter(|inner| !inner.contains("{{") && !inner.contains("}}")) {
            Some(inner) => Expression::parse(inner.trim().trim_matches('-').trim()).map(Self::Value),
            None => Template::parse(text).map(Self::Text),
        }
    }

    fn make(&self, scope: &Scope) -> Result<Value, String> {
        match self {
            Self::Value(expression) => expression.value(scope),
            Self::Text(template) => template.render(scope).map(Value::from),
        }
    }
}

impl Maker {
    pub(super) fn new(params: &Params) -> Result<Self, TaskError> {
        let columns = params.columns.iter().map(|(name, text)| Ok((name.clone(), Column::parse(text)?)));
        let columns = columns.collect::<Result<_, String>>().map_err(TaskError::failed)?;
        let condition =
            params.condition.as_deref().map(Expression::parse).transpose().map_err(TaskError::failed)?;
        Ok(Self { columns, select: params.select.clone(), condition })
    }

    /// Makes what was read.
    pub(super) fn made(&self, read: Result<(Place, Row), BadRow>) -> Result<Made, BadRow> {
        let (place, row) = read?;
        self.make(&place, row)
    }

    /// Makes the row. Columns see the source only, never each other, so their order does not matter.
    fn make(&self, place: &Place, mut row: Row) -> Result<Made, BadRow> {
        if !self.columns.is_empty() {
            let scope = Scope::of(&row);
            for (name, column) in &self.columns {
                let value =
                    column.make(&scope).map_err(|what| place.bad(format!("the column `{name}`: {what}")))?;
                row.insert(name.clone(), value);
            }
        }
        if let Some(condition) = &self.condition {
            let holds =
                condition.holds(&Scope::of(&row)).map_err(|what| place.bad(format!("`where`: {what}")))?;
            if !holds {
                return Ok(Made::Dropped);
            }
        }
        if !self.select.is_empty() {
            if let Some(missing) = self.select.iter().find(|name| !row.contains_key(*name)) {
                return Err(place.bad(format!("there is no column `{missing}`")));
            }
            row.retain(|name, _| self.select.contains(name));
        }
        let is_derived = row.get("id").is_none_or(Value::is_null);
        if is_derived {
            row.remove("id");
        }
        Ok(Made::Kept(finish(place, row, is_derived)?))
    }
}

fn finish(place: &Place, mut values: Row, is_derived: bool) -> Result<Finished, BadRow> {
    let key = canonical::digest(&Value::Object(values.clone())).to_string();
    let id = if is_derived {
        key[..16].to_owned()
    } else {
        responses::id_of(&values).ok_or_else(|| place.bad("the `id` is neither a text nor a number"))?
    };
    values.insert("id".into(), json!(id));
    values.entry("record_key").or_insert_with(|| json!(key));
    Ok(Finished { place: place.clone(), values, id, is_derived })
}
