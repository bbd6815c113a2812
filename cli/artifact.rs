//! An artifact in the store, opened for looking into: its files, its table, its text.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use dag_cache::{Output, OutputKind, Record, View};
use dag_engine::Digest;
use dag_engine::artifact::ArtifactType;
use dag_tasks::expression::{Expression, Scope};
use dag_tasks::table::{Row, TableError, TableReader};
use serde::Serialize;
use serde_json::Value;

use crate::failure::{Failure, Kind};

/// An output of a node that has run.
pub struct Artifact {
    /// The name of the node, with its coordinates.
    pub node: String,
    /// The output port.
    pub port: String,
    /// What the port gives.
    pub gives: ArtifactType,
    /// Where its bytes are.
    pub output: Output,
    /// What the task said of its outputs.
    pub metrics: BTreeMap<String, Value>,
    /// Everything that decided it, as canonical JSON.
    pub manifest: Arc<[u8]>,
    /// The store.
    pub view: View,
}

/// A file of an artifact.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// The path in the artifact; empty where the artifact is the file.
    pub path: String,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
}

impl Artifact {
    /// What a record of `node` holds, the types of its ports unknown.
    pub fn of_record(view: &View, node: &str, record: Record) -> Vec<Self> {
        let manifest: Arc<[u8]> = record.manifest.into();
        let artifact = |(port, output)| Self {
            node: node.to_owned(),
            port,
            gives: ArtifactType::Any,
            output,
            metrics: record.metrics.clone(),
            manifest: Arc::clone(&manifest),
            view: view.clone(),
        };
        record.outputs.into_iter().map(artifact).collect()
    }

    /// Its files, sorted by path.
    pub fn files(&self) -> Result<Vec<Entry>, Failure> {
        let Output { kind, digest, bytes } = self.output;
        match kind {
            OutputKind::File => Ok(vec![Entry { path: String::new(), digest, bytes }]),
            OutputKind::Tree => {
                let files = self.view.tree(&digest)?.into_iter();
                Ok(files
                    .map(|file| Entry { path: file.path, digest: file.digest, bytes: file.bytes })
                    .collect())
            }
        }
    }

    /// Whether its bytes are still in the store.
    pub fn is_present(&self) -> bool {
        self.view.has_output(&self.output)
    }

    /// The file at `path` in it, checked to be what the record says; `None` if there is none.
    pub fn find(&self, path: &str) -> Result<Option<PathBuf>, Failure> {
        let found = self.files()?.into_iter().find(|entry| entry.path == path);
        found.map(|entry| Ok(self.view.verified_path(&entry.digest)?)).transpose()
    }

    /// The table in it: itself, the graded answers of results, or the only Parquet file of a directory.
    pub fn table(&self) -> Result<Option<TableReader>, Failure> {
        let files = self.files()?;
        let is_table = |entry: &&Entry| {
            if self.output.kind == OutputKind::File {
                return is_parquet(&self.view.blob_path(&entry.digest));
            }
            std::path::Path::new(&entry.path).extension().is_some_and(|extension| extension == "parquet")
        };
        let tables: Vec<&Entry> = files.iter().filter(is_table).collect();
        let chosen = match tables.as_slice() {
            [only] => Some(*only),
            several => several.iter().find(|entry| entry.path == "graded.parquet").copied(),
        };
        let Some(entry) = chosen else { return Ok(None) };
        Ok(Some(TableReader::open(self.view.verified_path(&entry.digest)?)?))
    }

    /// The bytes of a small file in it.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Failure> {
        let Some(found) = self.find(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        File::open(&found)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(|error| Failure::failed(format!("failed to read `{}`: {error}", found.display())))?;
        Ok(Some(bytes))
    }

    /// A JSON file in it.
    pub fn read_json(&self, path: &str) -> Result<Option<Value>, Failure> {
        let Some(bytes) = self.read(path)? else { return Ok(None) };
        let value = serde_json::from_slice(&bytes);
        value
            .map(Some)
            .map_err(|error| Failure::failed(format!("`{path}` of `{}` is not JSON: {error}", self.node)))
    }
}

/// Whether a file begins like a Parquet file.
pub fn is_parquet(path: &std::path::Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && &magic == b"PAR1"
}

/// The condition of `--where`, if there is one.
pub struct Condition(Option<Expression>);

impl Condition {
    /// Reads the expression.
    pub fn parse(text: Option<&str>) -> Result<Self, Failure> {
        let parse = |text: &str| {
            Expression::parse(text).map_err(|what| {
                Failure::user(format!("`--where {text}` is no expression: {what}")).hint(
                    "columns are names and texts are quoted: `--where 'id == \"gsm8k-12\" and repeat == 0'`",
                )
            })
        };
        text.map(parse).transpose().map(Self)
    }

    /// The columns of a table that decide whether it holds.
    fn columns<'a>(&self, table: &'a TableReader) -> Vec<&'a str> {
        let names = self.0.as_ref().map(Expression::names).unwrap_or_default();
        let is_read = |column: &&str| {
            let is_inside =
                |whole: &str, part: &str| part.strip_prefix(whole).is_some_and(|rest| rest.starts_with('.'));
            // The whole row, the column, a field inside it, or the side of a joined table that it belongs to.
            let reads = |name: &String| {
                name == "row" || name == column || is_inside(column, name) || is_inside(name, column)
            };
            names.iter().any(reads)
        };
        table.schema().names().filter(is_read).collect()
    }

    /// Whether it holds for a row. One that it cannot be asked of, such as a row without the column, is not meant.
    pub fn holds(&self, row: &Row) -> bool {
        self.0.as_ref().is_none_or(|expression| expression.holds(&Scope::of(row)).unwrap_or(false))
    }
}

/// The first `head` rows of a table for which the condition holds. Only the columns that it reads are looked through.
pub fn rows(table: &TableReader, condition: &Condition, head: usize) -> Result<Vec<Row>, Failure> {
    let columns = condition.columns(table);
    let mut found = Vec::new();
    for (row, number) in table.rows_of(&columns)?.zip(0..) {
        if found.len() == head {
            break;
        }
        if condition.holds(&row?) {
            found.push(number);
        }
    }
    Ok(table.rows_at(&found)?.collect::<Result<_, _>>()?)
}

impl From<TableError> for Failure {
    fn from(error: TableError) -> Self {
        Self::new(Kind::Failed, error.to_string())
    }
}
