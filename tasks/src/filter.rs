//! `filter`: joins tables by a key and keeps the records that satisfy an expression over all of them.
//!
//! With one input its columns are plain names; with several each input is a namespace (`r1.match and oss.match`) and its
//! columns are called so in the output. First only the columns that the expression reads are loaded, which decides by key;
//! then the tables are streamed side by side.

use std::collections::BTreeMap;

use dag_engine::task::{
    Arity, ArtifactType, Estimate, EstimateInputs, Fault, NoRun, Ports, Task, TaskCx, TaskError,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::expression::{Expression, Scope};
use crate::spill::Spill;
use crate::table::{ColumnKind, Row, Schema, TableReader, TableWriter};

/// The column of the dropped records that says why.
const REASON: &str = "reason";

/// The params of `filter`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The column, or the columns, that say which records of several tables belong together.
    #[serde(default = "id")]
    pub join: Columns,
    /// The expression that a record must satisfy: `r1.match and oss.match`.
    pub keep: String,
}

/// One column or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Columns {
    /// One.
    One(String),
    /// Several, such as `[id, repeat]`.
    Several(Vec<String>),
}

fn id() -> Columns {
    Columns::One("id".into())
}

impl Columns {
    fn names(&self) -> Vec<&str> {
        match self {
            Self::One(name) => vec![name],
            Self::Several(names) => names.iter().map(String::as_str).collect(),
        }
    }
}

/// The task kind.
pub struct Filter;

impl Task for Filter {
    const KIND: &'static str = "filter";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "joins tables by a key and keeps the records that satisfy an expression";
    type Params = Params;
    type Run = NoRun;

    fn ports(_: &Params) -> Ports {
        Ports::new()
            .open_inputs(ArtifactType::Table, Arity::One)
            .output("kept", ArtifactType::Table)
            .output("dropped", ArtifactType::Table)
    }

    fn check(params: &Params) -> Vec<Fault> {
        let mut faults = Vec::new();
        if let Err(what) = Expression::parse(&params.keep) {
            faults.push(Fault::new("/keep", what));
        }
        if params.join.names().is_empty() {
            faults.push(Fault::new("/join", "records belong together by at least one column"));
        }
        faults
    }

    fn estimate(_: &Params, inputs: &EstimateInputs) -> Estimate {
        let records = inputs.ports().filter_map(|port| inputs.most(port)).min();
        Estimate { records, ..Estimate::default() }
    }

    fn run(params: &Params, cx: &mut TaskCx) -> Result<(), TaskError> {
        let keep = Keep::new(&params.keep)?;
        let ports: Vec<String> = cx.ports().map(str::to_owned).collect();
        let open = |name: String| Ok(Side { reader: TableReader::open(&cx.input(&name)?.path)?, name });
        let mut sides = ports.into_iter().map(open).collect::<Result<Vec<_>, TaskError>>()?;
        let mut output;
        if sides.len() < 2 {
            let side = sides
                .pop()
                .ok_or_else(|| TaskError::failed("no table enters; give one or more under `inputs:`"))?;
            output = Output::create(cx, side.reader.schema())?;
            for (number, row) in (1..).zip(side.reader.rows()?) {
                let row = row?;
                let reason = keep
                    .refuses(&row)
                    .map_err(|what| TaskError::input(side.reader.path(), Some(number), what))?;
                output.write(row, reason)?;
            }
        } else {
            let join = Join { columns: params.join.names(), sides };
            let verdicts = join.decide(&keep)?;
            output = Output::create(cx, &join.schema())?;
            join.write(&verdicts, &mut output, cx)?;
        }
        output.finish(cx)
    }
}

/// The expression, and what it reads.
struct Keep {
    expression: Expression,
    /// The names it reads, each as an expression of its own, to say which of them failed.
    names: Vec<(String, Expression)>,
}

impl Keep {
    fn new(text: &str) -> Result<Self, TaskError> {
        let expression = Expression::parse(text).map_err(TaskError::failed)?;
        let names = expression.names().into_iter().filter_map(|name| {
            let alone = Expression::parse(&name).ok()?;
            Some((name, alone))
        });
        Ok(Self { names: names.collect(), expression })
    }

    /// Why the row is dropped, or `None` if it is kept.
    fn refuses(&self, row: &Row) -> Result<Option<String>, String> {
        let scope = Scope::of(row);
        if self.expression.holds(&scope).map_err(|what| format!("`keep`: {what}"))? {
            return Ok(None);
        }
        let failed: Vec<&str> = self
            .names
            .iter()
            .filter(|(_, alone)| !alone.holds(&scope).unwrap_or(false))
            .map(|(name, _)| name.as_str())
            .collect();
        Ok(Some(if failed.is_empty() {
            "the expression".into()
        } else {
            format!("not {}", failed.join(", not "))
        }))
    }
}

/// One table that enters.
struct Side {
    name: String,
    reader: TableReader,
}

/// Several tables and how they belong together.
struct Join<'a> {
    columns: Vec<&'a str>,
    sides: Vec<Side>,
}

/// A key, as the JSON text of its values.
type Key = String;

/// What was decided about a key, and where its record stands: in the order in which the keys appear, table by table.
struct Verdict {
    position: u64,
    /// Why it is dropped; `None` if it is kept.
    reason: Option<String>,
}

impl Join<'_> {
    fn key(&self, side: &Side, row: &Row, number: u64) -> Result<Key, TaskError> {
        let mut values = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            match row.get(*column) {
                None | Some(Value::Null) => {
                    let what = format!("the row has no `{column}` to join `{}` by", side.name);
                    return Err(TaskError::input(side.reader.path(), Some(number), what));
                }
                Some(value) => values.push(value.clone()),
            }
        }
        Ok(json!(values).to_string())
    }

    /// Loads the columns that the expression reads, and decides every key.
    fn decide(&self, keep: &Keep) -> Result<BTreeMap<Key, Verdict>, TaskError> {
        let mut facts: BTreeMap<Key, (u64, Vec<Option<Row>>)> = BTreeMap::new();
        for (index, side) in self.sides.iter().enumerate() {
            let wanted = self.wanted(side, keep);
            for (number, row) in (1..).zip(side.reader.rows_of(&wanted)?) {
                let row = row?;
                let key = self.key(side, &row, number)?;
                let position = facts.len() as u64;
                let (_, rows) = facts.entry(key).or_insert_with(|| (position, vec![None; self.sides.len()]));
                if rows[index].replace(row).is_some() {
                    let what = format!("`{}` has two rows with this {}", side.name, self.columns.join(", "));
                    let help = "join by more columns, such as `[id, repeat]`";
                    return Err(TaskError::input(
                        side.reader.path(),
                        Some(number),
                        format!("{what}; {help}"),
                    ));
                }
            }
        }
        let decide = |(key, (position, rows)): (Key, (u64, Vec<Option<Row>>))| {
            let absent: Vec<&str> = self
                .sides
                .iter()
                .zip(&rows)
                .filter(|(_, row)| row.is_none())
                .map(|(side, _)| side.name.as_str())
                .collect();
            let reason = if absent.is_empty() {
                let row = self.joined(&key, rows.into_iter().enumerate())?;
                keep.refuses(&row).map_err(|what| TaskError::failed(format!("{what} (the record {key})")))?
            } else {
                Some(format!("absent from {}", absent.join(", ")))
            };
            Ok((key, Verdict { position, reason }))
        };
        facts.into_iter().map(decide).collect()
    }

    /// Streams every table once more and puts together the rows of each key.
    fn write(
        &self,
        verdicts: &BTreeMap<Key, Verdict>,
        output: &mut Output,
        cx: &TaskCx,
    ) -> Result<(), TaskError> {
        let mut spill = Spill::create(cx.scratch(), verdicts.len() as u64)?;
        for (index, side) in self.sides.iter().enumerate() {
            for (number, row) in (1..).zip(side.reader.rows()?) {
                if cx.cancelled() {
                    return Err(TaskError::Cancelled);
                }
                let row = row?;
                let key = self.key(side, &row, number)?;
                let verdict = verdicts.get(&key).expect("every key was decided");
                spill.put(verdict.position, &(&key, index, row))?;
            }
        }
        let mut reasons: Vec<(u64, &Option<String>)> =
            verdicts.values().map(|verdict| (verdict.position, &verdict.reason)).collect();
        reasons.sort_unstable_by_key(|(position, _)| *position);
        let mut items = spill.finish::<(Key, usize, Row)>()?.peekable();
        for (position, reason) in reasons {
            let mut rows = Vec::new();
            let mut key = Key::new();
            while let Some(item) = items.next_if(|item| item.as_ref().map_or(true, |(at, _)| *at == position))
            {
                let (_, (of, index, row)) = item?;
                key = of;
                rows.push((index, Some(row)));
            }
            output.write(self.joined(&key, rows.into_iter())?, reason.clone())?;
        }
        Ok(())
    }

    /// The columns of a side that the key or the expression needs.
    fn wanted<'s>(&self, side: &'s Side, keep: &Keep) -> Vec<&'s str> {
        let is_read = |column: &str| {
            let full = format!("{}.{column}", side.name);
            self.columns.contains(&column)
                || keep.names.iter().any(|(name, _)| {
                    // The whole row, the whole side, the column, or a field inside the column.
                    name == "row"
                        || *name == side.name
                        || *name == full
                        || name.starts_with(&format!("{full}."))
                })
        };
        side.reader.schema().names().filter(|column| is_read(column)).collect()
    }

    /// One record of the rows that belong together.
    fn joined(&self, key: &Key, rows: impl Iterator<Item = (usize, Option<Row>)>) -> Result<Row, TaskError> {
        let values: Vec<Value> = serde_json::from_str(key)
            .map_err(|error| TaskError::failed(format!("a key of our own does not read back: {error}")))?;
        let mut joined: Row = self.columns.iter().map(|column| (*column).to_owned()).zip(values).collect();
        for (index, row) in rows {
            for (column, value) in row.into_iter().flatten() {
                joined.insert(format!("{}.{column}", self.sides[index].name), value);
            }
        }
        Ok(joined)
    }

    fn schema(&self) -> Schema {
        let first = self.sides[0].reader.schema();
        let keys =
            self.columns.iter().map(|column| (*column, first.kind(column).unwrap_or(ColumnKind::Json)));
        let mut schema = Schema::new(keys);
        for side in &self.sides {
            for column in &side.reader.schema().0 {
                schema = schema.with(format!("{}.{}", side.name, column.name), column.kind);
            }
        }
        schema
    }
}

/// The two tables that leave.
struct Output {
    kept: TableWriter,
    dropped: TableWriter,
    reasons: BTreeMap<String, u64>,
}

impl Output {
    fn create(cx: &TaskCx, schema: &Schema) -> Result<Self, TaskError> {
        let with_reason = schema.clone().with(REASON, ColumnKind::Str);
        Ok(Self {
            kept: TableWriter::create(cx.output("kept"), schema.clone())?,
            dropped: TableWriter::create(cx.output("dropped"), with_reason)?,
            reasons: BTreeMap::new(),
        })
    }

    fn write(&mut self, mut row: Row, reason: Option<String>) -> Result<(), TaskError> {
        match reason {
            None => self.kept.write(&row)?,
            Some(reason) => {
                row.insert(REASON.into(), json!(reason));
                self.dropped.write(&row)?;
                *self.reasons.entry(reason).or_default() += 1;
            }
        }
        Ok(())
    }

    fn finish(self, cx: &mut TaskCx) -> Result<(), TaskError> {
        let (kept, dropped) = (self.kept.finish()?, self.dropped.finish()?);
        cx.metric("rows_in", kept + dropped);
        cx.metric("rows", kept);
        cx.metric("dropped", dropped);
        cx.metric("dropped_by", json!(self.reasons));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::testing::{rows, table};

    fn params(value: Value) -> Params {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn records_of_two_tables_are_kept_when_both_sides_hold() {
        let dir = tempfile::tempdir().unwrap();
        let r1 = json!([
            { "id": "a", "match": true, "response": "x" },
            { "id": "b", "match": true, "response": "y" },
            { "id": "c", "match": false, "response": "z" },
            { "id": "d", "match": true, "response": "w" },
        ]);
        // Another order, and not the same keys.
        let oss = json!([
            { "id": "e", "match": true, "response": "5" },
            { "id": "c", "match": false, "response": "3" },
            { "id": "b", "match": false, "response": "2" },
            { "id": "a", "match": true, "response": "1" },
        ]);
        let mut cx = TaskCx::for_test(dir.path())
            .input("r1", table(dir.path().join("r1"), r1))
            .input("oss", table(dir.path().join("oss"), oss))
            .build()
            .unwrap();
        Filter::run(&params(json!({ "keep": "r1.match and oss.match" })), &mut cx).unwrap();
        assert_eq!(
            json!(rows(&cx.output("kept"))),
            json!([{ "id": "a", "r1.id": "a", "r1.match": true, "r1.response": "x", "oss.id": "a", "oss.match": true, "oss.response": "1" }])
        );
        let dropped = rows(&cx.output("dropped"));
        let reasons: Vec<(&str, &str)> = dropped
            .iter()
            .map(|row| (row["id"].as_str().unwrap(), row["reason"].as_str().unwrap()))
            .collect();
        assert_eq!(
            reasons,
            [
                ("e", "absent from r1"),
                ("c", "not oss.match, not r1.match"),
                ("b", "not oss.match"),
                ("d", "absent from oss"),
            ]
        );
        assert_eq!(cx.metrics()["rows"], json!(1));
        assert_eq!(cx.metrics()["dropped"], json!(4));
    }

    #[test]
    fn one_table_needs_no_key_and_no_names() {
        let dir = tempfile::tempdir().unwrap();
        let data = json!([{ "id": "a", "level": 5 }, { "id": "a", "level": 2 }]);
        let mut cx =
            TaskCx::for_test(dir.path()).input("rows", table(dir.path().join("rows"), data)).build().unwrap();
        Filter::run(&params(json!({ "keep": "level > 3" })), &mut cx).unwrap();
        assert_eq!(json!(rows(&cx.output("kept"))), json!([{ "id": "a", "level": 5 }]));
    }

    #[test]
    fn a_key_that_is_there_twice_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = json!([{ "id": "a", "repeat": 0, "ok": true }, { "id": "a", "repeat": 1, "ok": false }]);
        let path = table(dir.path().join("t"), data);
        let cx = || TaskCx::for_test(dir.path()).input("x", &path).input("y", &path).build().unwrap();
        let error = Filter::run(&params(json!({ "keep": "x.ok" })), &mut cx()).unwrap_err().to_string();
        assert!(error.contains("[id, repeat]"), "{error}");
        let mut cx = cx();
        Filter::run(&params(json!({ "join": ["id", "repeat"], "keep": "x.ok and y.ok" })), &mut cx).unwrap();
        assert_eq!(cx.metrics()["rows"], json!(1));
    }
}
