//! Writing a table: rows gathered into small batches, batches into bounded row groups.
//!
//! Memory is bounded by bytes as well as rows, because one cell may be a trace of 50 KB and another
//! a boolean. Every setting that reaches the bytes is pinned here and nothing of the environment
//! does: no library version, no time, no path.
use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, Float64Builder, Int64Builder, ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use serde_json::Value;

use super::{ColumnKind, Row, Schema, TableError};

/// A batch is handed to the encoder when it has this many rows or bytes. The encoder looks at its
/// page size only between batches, so the bytes also bound a page.
const BATCH_ROWS: usize = 1024;
const BATCH_BYTES: usize = 4 << 20;
const GROUP_ROWS: usize = 1 << 16;
const GROUP_BYTES: usize = 64 << 20;
const PAGE_BYTES: usize = 1 << 20;
const PAGE_ROWS: usize = 20_000;
const ZSTD_LEVEL: i32 = 3;

fn properties() -> WriterProperties {
    let level = ZstdLevel::try_new(ZSTD_LEVEL).expect("the level is within zstd's range");
    WriterProperties::builder()
        .set_created_by("dag".to_owned())
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_max_row_group_bytes(Some(GROUP_BYTES))
        .set_data_page_size_limit(PAGE_BYTES)
        .set_dictionary_page_size_limit(PAGE_BYTES)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(BATCH_ROWS)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .build()
}

/// Writes rows to a Parquet file. Nothing is complete until [`TableWriter::finish`].
pub struct TableWriter {
    path: PathBuf,
    schema: Schema,
    arrow_schema: Arc<arrow_schema::Schema>,
    builders: Vec<Builder>,
    writer: ArrowWriter<BufWriter<File>>,
    rows: u64,
    batch_rows: usize,
    batch_bytes: usize,
}

impl TableWriter {
    /// Creates the file and its directory, replacing what is there.
    pub fn create(path: impl Into<PathBuf>, schema: Schema) -> Result<Self, TableError> {
        let path = path.into();
        let mut seen = BTreeSet::new();
        if let Some(column) = schema.names().find(|name| !seen.insert(*name)) {
            return Err(TableError::DuplicateColumn { column: column.to_owned(), path });
        }
        let file = create_file(&path).map_err(|source| TableError::File { path: path.clone(), source })?;
        let arrow_schema = schema.to_arrow();
        let writer = ArrowWriter::try_new(BufWriter::new(file), arrow_schema.clone(), Some(properties()))
            .map_err(|source| TableError::Parquet { path: path.clone(), row: 0, source })?;
        let builders = schema.0.iter().map(|column| Builder::new(column.kind)).collect();
        Ok(Self { path, schema, arrow_schema, builders, writer, rows: 0, batch_rows: 0, batch_bytes: 0 })
    }

    /// The table's columns.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Appends a row. A row that does not fit leaves the table as it was.
    pub fn write(&mut self, row: &Row) -> Result<(), TableError> {
        self.check(row)?;
        for (column, builder) in self.schema.0.iter().zip(&mut self.builders) {
            self.batch_bytes += builder.append(row.get(&column.name).unwrap_or(&Value::Null));
        }
        self.rows += 1;
        self.batch_rows += 1;
        if self.batch_rows >= BATCH_ROWS || self.batch_bytes >= BATCH_BYTES {
            self.write_batch()?;
        }
        Ok(())
    }

    /// Completes the file and gives the number of rows.
    pub fn finish(mut self) -> Result<u64, TableError> {
        self.write_batch()?;
        self.writer.finish().map_err(|source| parquet_error(&self.path, self.rows, source))?;
        Ok(self.rows)
    }

    fn check(&self, row: &Row) -> Result<(), TableError> {
        if let Some(field) = row.keys().find(|field| self.schema.kind(field).is_none()) {
            return Err(TableError::UnknownField {
                path: self.path.clone(),
                row: self.rows,
                field: field.clone(),
            });
        }
        for column in &self.schema.0 {
            if let Some(value) = row.get(&column.name).filter(|value| !fits(column.kind, value)) {
                return Err(TableError::Cell {
                    path: self.path.clone(),
                    row: self.rows,
                    column: column.name.clone(),
                    expected: column.kind.describe(),
                    found: abridge(value),
                });
            }
        }
        Ok(())
    }

    fn write_batch(&mut self) -> Result<(), TableError> {
        if self.batch_rows == 0 {
            return Ok(());
        }
        let columns: Vec<ArrayRef> = self.builders.iter_mut().map(Builder::finish).collect();
        RecordBatch::try_new(self.arrow_schema.clone(), columns)
            .map_err(ParquetError::from)
            .and_then(|batch| self.writer.write(&batch))
            .map_err(|source| parquet_error(&self.path, self.rows, source))?;
        (self.batch_rows, self.batch_bytes) = (0, 0);
        Ok(())
    }
}

fn create_file(path: &Path) -> std::io::Result<File> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    File::create(path)
}

fn parquet_error(path: &Path, row: u64, source: ParquetError) -> TableError {
    TableError::Parquet { path: path.to_owned(), row, source }
}

fn fits(kind: ColumnKind, value: &Value) -> bool {
    match (kind, value) {
        (_, Value::Null) | (ColumnKind::Json, _) => true,
        (ColumnKind::Bool, value) => value.is_boolean(),
        (ColumnKind::Int, value) => value.is_i64(),
        (ColumnKind::Float, value) => value.is_number(),
        (ColumnKind::Str, value) => value.is_string(),
        (ColumnKind::StrList, Value::Array(items)) => items.iter().all(Value::is_string),
        (ColumnKind::IntList, Value::Array(items)) => items.iter().all(Value::is_i64),
        (ColumnKind::StrList | ColumnKind::IntList, _) => false,
    }
}

/// A value short enough for a message.
fn abridge(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The cells of one column that wait to be written.
enum Builder {
    Bool(BooleanBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    Str(StringBuilder),
    StrList(ListBuilder<StringBuilder>),
    IntList(ListBuilder<Int64Builder>),
    Json(StringBuilder),
}

impl Builder {
    fn new(kind: ColumnKind) -> Self {
        match kind {
            ColumnKind::Bool => Self::Bool(BooleanBuilder::new()),
            ColumnKind::Int => Self::Int(Int64Builder::new()),
            ColumnKind::Float => Self::Float(Float64Builder::new()),
            ColumnKind::Str => Self::Str(StringBuilder::new()),
            ColumnKind::StrList => Self::StrList(ListBuilder::new(StringBuilder::new())),
            ColumnKind::IntList => Self::IntList(ListBuilder::new(Int64Builder::new())),
            ColumnKind::Json => Self::Json(StringBuilder::new()),
        }
    }

    /// Appends a value that [`fits`], and gives the bytes it takes.
    fn append(&mut self, value: &Value) -> usize {
        match self {
            Self::Bool(builder) => builder.append_option(value.as_bool()),
            Self::Int(builder) => builder.append_option(value.as_i64()),
            Self::Float(builder) => builder.append_option(value.as_f64()),
            Self::Str(builder) => {
                builder.append_option(value.as_str());
                return value.as_str().map_or(0, str::len);
            }
            Self::StrList(builder) => {
                let items = value.as_array();
                builder.append_option(items.map(|items| items.iter().map(Value::as_str)));
                return items.into_iter().flatten().filter_map(Value::as_str).map(str::len).sum();
            }
            Self::IntList(builder) => {
                let items = value.as_array();
                builder.append_option(items.map(|items| items.iter().map(Value::as_i64)));
                return items.map_or(0, |items| size_of::<i64>() * items.len());
            }
            Self::Json(builder) => {
                if value.is_null() {
                    builder.append_null();
                } else {
                    let text = value.to_string();
                    builder.append_value(&text);
                    return text.len();
                }
            }
        }
        size_of::<i64>()
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Bool(builder) => Arc::new(builder.finish()),
            Self::Int(builder) => Arc::new(builder.finish()),
            Self::Float(builder) => Arc::new(builder.finish()),
            Self::Str(builder) | Self::Json(builder) => Arc::new(builder.finish()),
            Self::StrList(builder) => Arc::new(builder.finish()),
            Self::IntList(builder) => Arc::new(builder.finish()),
        }
    }
}
