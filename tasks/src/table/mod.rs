//! Tables between nodes: Parquet files read and written row by row, in constant memory.
//!
//! A row is a JSON object, a table has typed columns, and every column may be null. The bytes of a
//! table depend only on its schema and rows (the writer's settings are pinned in [`write`]), so that
//! equal tables have equal digests. Tables made elsewhere are read too; see [`ColumnKind::Json`].
//!
//! JSON has no NaN and no infinity: non-finite numbers of foreign files are read as null.
mod read;
mod schema;
#[cfg(test)]
pub(crate) mod testing;
mod write;

use std::path::PathBuf;

pub use read::{Rows, TableReader};
pub use schema::{Column, ColumnKind, Schema};
pub use write::TableWriter;

/// One record of a table: column name to value. A missing field and a null are the same thing.
pub type Row = serde_json::Map<String, serde_json::Value>;

/// Why a table could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file itself could not be opened or created.
    #[error("`{}`: {source}", path.display())]
    File {
        /// The table's file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The Parquet layer refused.
    #[error("`{}`, near row {row}: {source}", path.display())]
    Parquet {
        /// The table's file.
        path: PathBuf,
        /// Rows read or written before.
        row: u64,
        /// What the Parquet library said.
        source: parquet::errors::ParquetError,
    },
    /// A value does not fit its column.
    #[error("`{}`, row {row}, column `{column}`: expected {expected}, found {found}", path.display())]
    Cell {
        /// The table's file.
        path: PathBuf,
        /// Index of the row, from 0.
        row: u64,
        /// The column's name.
        column: String,
        /// What the column holds.
        expected: &'static str,
        /// A short form of the value.
        found: String,
    },
    /// A row has a field that no column takes; dropping it silently would lose data.
    #[error("`{}`, row {row}: no column `{field}` in the table", path.display())]
    UnknownField {
        /// The table's file.
        path: PathBuf,
        /// Index of the row, from 0.
        row: u64,
        /// The field's name.
        field: String,
    },
    /// A column that was asked for does not exist.
    #[error("`{}` has no column `{column}`; it has {}", path.display(), present.join(", "))]
    MissingColumn {
        /// The table's file.
        path: PathBuf,
        /// The column that was asked for.
        column: String,
        /// The columns there are.
        present: Vec<String>,
    },
    /// Two columns of a schema have one name.
    #[error("`{}`: column `{column}` appears twice", path.display())]
    DuplicateColumn {
        /// The table's file.
        path: PathBuf,
        /// The repeated name.
        column: String,
    },
}

#[cfg(test)]
mod tests;
