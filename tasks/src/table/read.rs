//! Reading a table: batches sized by the file's own row size, cells turned into JSON values.
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::temporal_conversions::{date32_to_datetime, date64_to_datetime};
use arrow_array::temporal_conversions::{
    timestamp_ms_to_datetime, timestamp_ns_to_datetime, timestamp_s_to_datetime, timestamp_us_to_datetime,
};
use arrow_array::{Array, RecordBatch, types};
use arrow_schema::{DataType, TimeUnit};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
    RowSelection,
};
use parquet::errors::ParquetError;
use serde_json::Value;

use super::schema::is_json_text;
use super::{Row, Schema, TableError};

/// A batch holds about this many uncompressed bytes, whatever the size of a row.
const BATCH_BYTES: u64 = 8 << 20;
const BATCH_ROWS: u64 = 4096;

/// An open table. Rows can be walked any number of times.
pub struct TableReader {
    path: PathBuf,
    file: File,
    metadata: ArrowReaderMetadata,
    schema: Schema,
}

impl TableReader {
    /// Opens a Parquet file and reads its footer.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, TableError> {
        let path = path.into();
        let file = File::open(&path).map_err(|source| TableError::File { path: path.clone(), source })?;
        let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())
            .map_err(|source| TableError::Parquet { path: path.clone(), row: 0, source })?;
        let schema = Schema::from_arrow(metadata.schema());
        Ok(Self { path, file, metadata, schema })
    }

    /// The table's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The table's columns.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The number of rows, known without reading them.
    pub fn len(&self) -> u64 {
        self.metadata.metadata().file_metadata().num_rows() as u64
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every row, all columns.
    pub fn rows(&self) -> Result<Rows, TableError> {
        let all: Vec<&str> = self.schema.names().collect();
        self.rows_of(&all)
    }

    /// Every row, but only the named columns; the others are not read from the disk.
    pub fn rows_of(&self, columns: &[&str]) -> Result<Rows, TableError> {
        Ok(Rows { batches: self.batches(columns)?, path: self.path.clone(), batch: None, index: 0, row: 0 })
    }

    /// The rows with the given numbers, which count from 0 and ascend; pages that hold none of them are not decoded.
    pub fn rows_at(&self, numbers: &[u64]) -> Result<Rows, TableError> {
        let ranges = numbers.iter().map(|number| *number as usize..*number as usize + 1);
        let selection = RowSelection::from_consecutive_ranges(ranges, self.len() as usize);
        let all: Vec<&str> = self.schema.names().collect();
        let batches = self
            .builder(&all)?
            .with_row_selection(selection)
            .build()
            .map_err(|source| TableError::Parquet { path: self.path.clone(), row: 0, source })?;
        Ok(Rows { batches, path: self.path.clone(), batch: None, index: 0, row: 0 })
    }

    /// Arrow batches of the named columns, for callers that read millions of numbers.
    pub fn batches(&self, columns: &[&str]) -> Result<ParquetRecordBatchReader, TableError> {
        let failed = |source| TableError::Parquet { path: self.path.clone(), row: 0, source };
        self.builder(columns)?.build().map_err(failed)
    }

    fn builder(&self, columns: &[&str]) -> Result<ParquetRecordBatchReaderBuilder<File>, TableError> {
        let mut roots = Vec::with_capacity(columns.len());
        for name in columns {
            let root = self.schema.names().position(|present| present == *name);
            roots.push(root.ok_or_else(|| TableError::MissingColumn {
                path: self.path.clone(),
                column: (*name).to_owned(),
                present: self.schema.names().map(str::to_owned).collect(),
            })?);
        }
        let file =
            self.file.try_clone().map_err(|source| TableError::File { path: self.path.clone(), source })?;
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), roots);
        Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
            .with_batch_size(self.batch_rows())
            .with_projection(mask))
    }

    fn batch_rows(&self) -> usize {
        let groups = self.metadata.metadata().row_groups();
        let row_bytes = groups
            .iter()
            .map(|group| group.total_byte_size().max(1) as u64 / group.num_rows().max(1) as u64)
            .max()
            .unwrap_or(1);
        (BATCH_BYTES / row_bytes.max(1)).clamp(1, BATCH_ROWS) as usize
    }
}

/// The rows of a table, in file order.
pub struct Rows {
    batches: ParquetRecordBatchReader,
    path: PathBuf,
    batch: Option<RecordBatch>,
    index: usize,
    row: u64,
}

impl Iterator for Rows {
    type Item = Result<Row, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(batch) = self.batch.as_ref().filter(|batch| self.index < batch.num_rows()) {
                let row = read_row(batch, self.index).map_err(|(column, source)| TableError::Cell {
                    path: self.path.clone(),
                    row: self.row,
                    column,
                    expected: "a value that JSON can hold",
                    found: source,
                });
                self.index += 1;
                self.row += 1;
                return Some(row);
            }
            match self.batches.next()? {
                Ok(batch) => (self.batch, self.index) = (Some(batch), 0),
                Err(source) => {
                    let source = ParquetError::from(source);
                    return Some(Err(TableError::Parquet { path: self.path.clone(), row: self.row, source }));
                }
            }
        }
    }
}

/// On failure: the column, and what was found in it.
fn read_row(batch: &RecordBatch, index: usize) -> Result<Row, (String, String)> {
    let schema = batch.schema_ref();
    schema
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(field, array)| {
            let value = value_at(array, index).and_then(|value| match value {
                Value::String(text) if is_json_text(field) => {
                    serde_json::from_str(&text).map_err(|error| format!("text that is not JSON ({error})"))
                }
                value => Ok(value),
            });
            value.map(|value| (field.name().clone(), value)).map_err(|found| (field.name().clone(), found))
        })
        .collect()
}

/// The cell as JSON. Timestamps and dates become ISO texts, decimals exact texts, binary hexadecimal.
fn value_at(array: &Arc<dyn Array>, index: usize) -> Result<Value, String> {
    if array.is_null(index) || *array.data_type() == DataType::Null {
        return Ok(Value::Null);
    }
    macro_rules! number {
        ($kind:ident) => {
            Value::from(array.as_primitive::<types::$kind>().value(index))
        };
    }
    macro_rules! time {
        ($kind:ident, $convert:ident) => {
            text($convert(array.as_primitive::<types::$kind>().value(index)))
        };
    }
    Ok(match array.data_type() {
        DataType::Boolean => Value::from(array.as_boolean().value(index)),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float16 => Value::from(array.as_primitive::<types::Float16Type>().value(index).to_f64()),
        DataType::Float32 => number!(Float32Type),
        DataType::Float64 => number!(Float64Type),
        DataType::Utf8 => Value::from(array.as_string::<i32>().value(index)),
        DataType::LargeUtf8 => Value::from(array.as_string::<i64>().value(index)),
        DataType::Utf8View => Value::from(array.as_string_view().value(index)),
        DataType::Binary => hexadecimal(array.as_binary::<i32>().value(index)),
        DataType::LargeBinary => hexadecimal(array.as_binary::<i64>().value(index)),
        DataType::FixedSizeBinary(_) => hexadecimal(array.as_fixed_size_binary().value(index)),
        DataType::Decimal128(..) => {
            Value::from(array.as_primitive::<types::Decimal128Type>().value_as_string(index))
        }
        DataType::Decimal256(..) => {
            Value::from(array.as_primitive::<types::Decimal256Type>().value_as_string(index))
        }
        DataType::Date32 => time!(Date32Type, date32_to_datetime),
        DataType::Date64 => time!(Date64Type, date64_to_datetime),
        DataType::Timestamp(TimeUnit::Second, _) => time!(TimestampSecondType, timestamp_s_to_datetime),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            time!(TimestampMillisecondType, timestamp_ms_to_datetime)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            time!(TimestampMicrosecondType, timestamp_us_to_datetime)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            time!(TimestampNanosecondType, timestamp_ns_to_datetime)
        }
        DataType::List(_) => list(&array.as_list::<i32>().value(index))?,
        DataType::LargeList(_) => list(&array.as_list::<i64>().value(index))?,
        DataType::FixedSizeList(..) => list(&array.as_fixed_size_list().value(index))?,
        DataType::Struct(fields) => {
            let columns = fields.iter().zip(array.as_struct().columns());
            let object: Result<Row, String> =
                columns.map(|(field, column)| Ok((field.name().clone(), value_at(column, index)?))).collect();
            Value::Object(object?)
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(index);
            let [keys, values] = [entries.column(0), entries.column(1)];
            let object: Result<Row, String> = (0..entries.len())
                .map(|entry| {
                    let key = match value_at(keys, entry)? {
                        Value::String(key) => key,
                        other => other.to_string(),
                    };
                    Ok((key, value_at(values, entry)?))
                })
                .collect();
            Value::Object(object?)
        }
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let key = dictionary.normalized_keys()[index];
            value_at(dictionary.values(), key)?
        }
        other => return Err(format!("the Arrow type {other}")),
    })
}

fn list(items: &Arc<dyn Array>) -> Result<Value, String> {
    (0..items.len()).map(|index| value_at(items, index)).collect::<Result<Vec<_>, _>>().map(Value::Array)
}

fn text(moment: Option<impl ToString>) -> Value {
    moment.map_or(Value::Null, |moment| Value::from(moment.to_string()))
}

fn hexadecimal(bytes: &[u8]) -> Value {
    use std::fmt::Write;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string succeeds");
    }
    Value::from(text)
}
