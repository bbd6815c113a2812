//! Where each row stands in the source, as a table of its own: what `dag trace` ends with.
//!
//! It is no column of the records. A line that is added to a file moves those below it, and the records must stay what they
//! were, byte for byte, or everything made from them would be made again.

use std::path::Path;

use dag_engine::task::TaskError;
use serde_json::{Value, json};

use super::row::Finished;
use crate::table::{ColumnKind, Schema, TableWriter};

pub(super) struct Places {
    writer: TableWriter,
}

impl Places {
    pub(super) fn create(path: &Path) -> Result<Self, TaskError> {
        let schema = Schema::new(["id", "record_key", "source_row"].map(|name| (name, ColumnKind::Str)));
        Ok(Self { writer: TableWriter::create(path, schema)? })
    }

    pub(super) fn write(&mut self, row: &Finished) -> Result<(), TaskError> {
        let key = row.values.get("record_key").cloned().unwrap_or(Value::Null);
        let values = [json!(row.id), key, json!(row.place.source_row())];
        let names = ["id", "record_key", "source_row"].map(str::to_owned);
        Ok(self.writer.write(&names.into_iter().zip(values).collect())?)
    }

    pub(super) fn finish(self) -> Result<(), TaskError> {
        self.writer.finish()?;
        Ok(())
    }
}
