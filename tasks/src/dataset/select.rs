//! Which rows are kept, and writing them in file order or in a drawn one, both in bounded memory.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dag_engine::task::TaskError;
use dag_engine::{canonical, seed};
use serde_json::{Value, json};

use super::Params;
use super::exclude::{Benchmarks, Met, Nearness};
use super::row::Finished;
use crate::expression::{Expression, Scope};
use crate::spill::Spill;
use crate::table::{ColumnKind, Row, Schema, TableWriter};

/// The columns that come first; the others follow by name.
const FIRST: [&str; 4] = ["id", "record_key", "problem", "answer"];

/// What rows are compared by. A column that is there is taken as it is, without copying its row, which may be long.
pub(super) struct Key {
    text: String,
    expression: Expression,
}

impl Key {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { text: text.to_owned(), expression: Expression::parse(text)? })
    }

    pub(super) fn value<'a>(&self, row: &'a Row) -> Result<Cow<'a, Value>, String> {
        match row.get(&self.text) {
            // A name with anything else in it may be a column's, and is an expression all the same.
            Some(value) if self.text.chars().all(|c| c.is_ascii_alphabetic() || c == '_') => {
                Ok(Cow::Borrowed(value))
            }
            _ => self.expression.value(&Scope::of(row)).map(Cow::Owned),
        }
    }
}

/// Decides row by row, and remembers a few bytes of each.
pub(super) struct Choice {
    dedup: Option<Key>,
    take: Option<u64>,
    seed: u64,
    ids: BTreeSet<Fingerprint>,
    seen: BTreeSet<Fingerprint>,
    excluded: Vec<(u64, Met)>,
    kept: Vec<Ranked>,
    kinds: Kinds,
    excluded_kinds: Kinds,
}

/// Half a digest: enough that two of a billion rows do not meet by chance.
pub(super) type Fingerprint = [u8; 16];

#[derive(Clone, Copy)]
struct Ranked {
    number: u64,
    rank: u64,
}

impl Choice {
    pub(super) fn new(params: &Params, seed: u64) -> Result<Self, TaskError> {
        let dedup = params.dedup.as_deref().map(Key::parse).transpose().map_err(TaskError::failed)?;
        Ok(Self {
            dedup,
            take: params.take.into_iter().chain(params.source.take).min(),
            seed,
            ids: BTreeSet::new(),
            seen: BTreeSet::new(),
            excluded: Vec::new(),
            kept: Vec::new(),
            kinds: Kinds::default(),
            excluded_kinds: Kinds::default(),
        })
    }

    /// Why the row is dropped, or `None` if it is kept so far. `met`: the row of a benchmark that it is near to.
    pub(super) fn consider(
        &mut self,
        number: u64,
        row: &Finished,
        met: Option<Met>,
    ) -> Result<Option<&'static str>, TaskError> {
        if let Some(met) = met {
            self.excluded.push((number, met));
            self.excluded_kinds.learn(&row.values);
            return Ok(Some("excluded"));
        }
        if let Some(dedup) = &self.dedup {
            let value = dedup.value(&row.values);
            let value = value.map_err(|what| TaskError::from(row.place.bad(format!("`dedup`: {what}"))))?;
            if !self.seen.insert(fingerprint(&value)) {
                return Ok(Some("duplicate"));
            }
        }
        if !self.ids.insert(fingerprint(&json!(row.id))) {
            if row.is_derived {
                return Ok(Some("identical"));
            }
            let what = format!("the id `{}` is there twice; `dedup: id` keeps the first", row.id);
            return Err(row.place.bad(what).into());
        }
        self.kept.push(Ranked { number, rank: seed::derive(self.seed, &[b"rank", row.id.as_bytes()]) });
        self.kinds.learn(&row.values);
        Ok(None)
    }

    /// The rows to write.
    pub(super) fn finish(mut self) -> Result<Chosen, TaskError> {
        let before = self.kept.len();
        self.kept.sort_unstable_by_key(|row| (row.rank, row.number));
        if let Some(take) = self.take {
            let take = usize::try_from(take).unwrap_or(usize::MAX);
            if take > self.kept.len() {
                return Err(TaskError::failed(format!("`take: {take}` of {} rows", self.kept.len())));
            }
            self.kept.truncate(take);
        }
        let mut order: Vec<(u64, u64)> =
            self.kept.iter().zip(0..).map(|(row, position)| (row.number, position)).collect();
        order.sort_unstable();
        Ok(Chosen {
            not_taken: (before - order.len()) as u64,
            order,
            schema: self.kinds.schema(),
            excluded: self.excluded,
            excluded_schema: self.excluded_kinds.schema(),
        })
    }
}

/// The rows to write: number in the source and position in the drawn order, sorted by number.
pub(super) struct Chosen {
    order: Vec<(u64, u64)>,
    not_taken: u64,
    schema: Schema,
    excluded: Vec<(u64, Met)>,
    excluded_schema: Schema,
}

impl Chosen {
    pub(super) fn len(&self) -> u64 {
        self.order.len() as u64
    }

    pub(super) fn not_taken(&self) -> u64 {
        self.not_taken
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.position(number).is_some()
    }

    /// The row of a benchmark for which a row is left out.
    pub(super) fn met(&self, number: u64) -> Option<Met> {
        let found = self.excluded.binary_search_by_key(&number, |(number, _)| *number);
        found.ok().map(|index| self.excluded[index].1)
    }

    /// How many rows are left out because they are near in this way.
    pub(super) fn excluded(&self, nearness: Nearness) -> u64 {
        self.excluded.iter().filter(|(_, met)| met.nearness == nearness).count() as u64
    }

    fn position(&self, number: u64) -> Option<u64> {
        let found = self.order.binary_search_by_key(&number, |(number, _)| *number);
        found.ok().map(|index| self.order[index].1)
    }
}

/// The texts of a row, spacing aside; other values as they are.
pub(super) fn fingerprint(value: &Value) -> Fingerprint {
    let normal = match value {
        Value::String(text) => json!(text.split_whitespace().collect::<Vec<_>>().join(" ")),
        other => other.clone(),
    };
    let mut half = [0; 16];
    half.copy_from_slice(&canonical::digest(&normal).as_bytes()[..16]);
    half
}

/// One small value of every kind that was seen in every column: what the schema follows from.
#[derive(Default)]
struct Kinds(BTreeMap<String, BTreeMap<u8, Value>>);

impl Kinds {
    fn learn(&mut self, row: &Row) {
        for (name, value) in row {
            let (kind, example) = match value {
                Value::Null => (0, Value::Null),
                Value::Bool(_) => (1, json!(true)),
                Value::Number(number) if number.is_i64() => (2, json!(0)),
                Value::Number(number) if number.is_u64() => (3, json!(u64::MAX)),
                Value::Number(_) => (4, json!(0.5)),
                Value::String(_) => (5, json!("")),
                Value::Array(items) if items.is_empty() => (6, json!([])),
                Value::Array(items) if items.iter().all(Value::is_string) => (7, json!([""])),
                Value::Array(items) if items.iter().all(Value::is_i64) => (8, json!([0])),
                Value::Array(_) | Value::Object(_) => (9, json!({})),
            };
            if let Some(kinds) = self.0.get_mut(name) {
                kinds.entry(kind).or_insert(example);
            } else {
                self.0.insert(name.clone(), BTreeMap::from([(kind, example)]));
            }
        }
    }

    fn schema(&self) -> Schema {
        let rows: Vec<Row> = self
            .0
            .iter()
            .flat_map(|(name, kinds)| {
                kinds.values().map(|example| Row::from_iter([(name.clone(), example.clone())]))
            })
            .collect();
        let mut schema = Schema::infer(&rows);
        schema.0.sort_by_key(|column| {
            FIRST.iter().position(|first| *first == column.name).unwrap_or(FIRST.len())
        });
        schema
    }
}

/// The table while it is written.
pub(super) struct Output<'a> {
    writer: TableWriter,
    chosen: &'a Chosen,
    spill: Option<Spill>,
}

impl<'a> Output<'a> {
    /// `shuffle`: in the drawn order; else in that of the source.
    pub(super) fn create(
        path: &Path,
        scratch: &Path,
        chosen: &'a Chosen,
        shuffle: bool,
    ) -> Result<Self, TaskError> {
        let spill = shuffle.then(|| Spill::create(scratch, chosen.len())).transpose()?;
        Ok(Self { writer: TableWriter::create(path, chosen.schema.clone())?, chosen, spill })
    }

    pub(super) fn write(&mut self, number: u64, row: &Row) -> Result<(), TaskError> {
        match (&mut self.spill, self.chosen.position(number)) {
            (Some(spill), Some(position)) => spill.put(position, row),
            _ => Ok(self.writer.write(row)?),
        }
    }

    pub(super) fn finish(mut self) -> Result<u64, TaskError> {
        if let Some(spill) = self.spill {
            for item in spill.finish::<Row>()? {
                self.writer.write(&item?.1)?;
            }
        }
        Ok(self.writer.finish()?)
    }
}

/// The columns of an excluded row that say why it is one.
const WHY: [&str; 3] = ["reason", "met", "met_at"];

/// The table of the rows that are too near to one of a benchmark.
pub(super) struct Excluded<'a> {
    writer: TableWriter,
    benchmarks: &'a Benchmarks,
}

impl<'a> Excluded<'a> {
    pub(super) fn create(
        path: &Path,
        chosen: &Chosen,
        benchmarks: &'a Benchmarks,
    ) -> Result<Self, TaskError> {
        let mut schema = chosen.excluded_schema.clone();
        for name in WHY {
            schema = schema.with(name, ColumnKind::Str);
        }
        if chosen.excluded.is_empty() {
            schema = schema.with("id", ColumnKind::Str);
        }
        Ok(Self { writer: TableWriter::create(path, schema)?, benchmarks })
    }

    pub(super) fn write(&mut self, met: Met, mut row: Row) -> Result<(), TaskError> {
        let tested = self.benchmarks.tested(met.row);
        for (name, text) in WHY.into_iter().zip([met.nearness.name(), &tested.id, &tested.at]) {
            row.insert(name.to_owned(), json!(text));
        }
        Ok(self.writer.write(&row)?)
    }

    pub(super) fn finish(self) -> Result<u64, TaskError> {
        Ok(self.writer.finish()?)
    }
}
