//! Small tables for the tests of the task kinds.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Row, Schema, TableReader, TableWriter};

/// Writes `rows`, a list of objects, and gives the path back.
pub(crate) fn table(path: PathBuf, rows: Value) -> PathBuf {
    let rows: Vec<Row> = serde_json::from_value(rows).unwrap();
    let mut writer = TableWriter::create(&path, Schema::infer(&rows)).unwrap();
    for row in &rows {
        writer.write(row).unwrap();
    }
    writer.finish().unwrap();
    path
}

/// All rows of a table.
pub(crate) fn rows(path: &Path) -> Vec<Row> {
    TableReader::open(path).unwrap().rows().unwrap().collect::<Result<_, _>>().unwrap()
}
