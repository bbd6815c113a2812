//! `mix`: several tables as one, one after the other or evenly interleaved, each with its share.
//!
//! Which rows are taken follows from the seed and their ids ([`choice`]); where they stand follows from how many each input
//! gives, and never from chance: of an input's `n` rows the `k`-th stands at `(k + ½) / n` of the whole. Every row of the
//! output has an id of its own (with its `repeat`, where it has one), and a column says which input it came from.

mod choice;

use std::collections::BTreeMap;

use dag_engine::task::{
    Arity, ArtifactType, Estimate, EstimateInputs, Fault, NoRun, Ports, Task, TaskCx, TaskError,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::responses;
use crate::table::{ColumnKind, Row, Schema, TableReader, TableWriter};
use choice::Choice;

/// The column that tells the records of one problem apart.
const REPEAT: &str = "repeat";

/// The params of `mix`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Where the rows of each input stand in the output.
    #[serde(default)]
    pub order: Order,
    /// The share of the output that each input gives: `{ r1: 1, gpt_oss: 1 }` is half and half. As many rows are taken as
    /// the shares allow, or `take`. Without weights every row is taken.
    #[serde(default)]
    pub weights: BTreeMap<String, f64>,
    /// How many rows the output has, drawn by the seed.
    #[serde(default)]
    pub take: Option<u64>,
    /// What to do with ids that are in several inputs.
    #[serde(default)]
    pub same_ids: SameIds,
    /// Whether each input is a table that `filter` joined, of which only the input's own side is meant: in the input `r1`
    /// the columns `r1.response` and `r1.problem`, which are called `response` and `problem` in the output.
    #[serde(default)]
    pub unjoin: bool,
    /// The column that says which input a row came from.
    #[serde(default = "source")]
    pub source: String,
    /// Another number draws other rows.
    #[serde(default)]
    pub seed: u64,
}

fn source() -> String {
    "source".into()
}

/// Where the rows of each input stand in the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// One input after the other, by name.
    #[default]
    Concatenate,
    /// Spread evenly, so that every stretch of the output has the shares of the whole.
    Interleave,
}

/// What to do with ids that are in several inputs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SameIds {
    /// The node fails and names them.
    #[default]
    Refuse,
    /// Every id gets the name of its input in front: `r1/p7`. What it was stays beside `source`, in `source.id`.
    Prefix,
    /// Each id is taken from one of its inputs only, drawn by the seed in proportion to the weights.
    Share,
}

/// The task kind.
pub struct Mix;

impl Task for Mix {
    const KIND: &'static str = "mix";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "several tables as one, one after the other or interleaved by weights";
    type Params = Params;
    type Run = NoRun;

    fn ports(params: &Params) -> Ports {
        // With weights the inputs are named by them, so that a misspelt one is found before anything runs.
        let ports = if params.weights.is_empty() {
            Ports::new().open_inputs(ArtifactType::Table, Arity::Many)
        } else {
            params.weights.keys().fold(Ports::new(), |ports, name| ports.many(name, ArtifactType::Table))
        };
        ports.output("mixed", ArtifactType::Table)
    }

    fn check(params: &Params) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (name, weight) in &params.weights {
            if !(weight.is_finite() && *weight > 0.0) {
                let fault = Fault::new(format!("/weights/{name}"), "a weight is above zero");
                faults.push(fault.help("leave the input out to take nothing of it"));
            }
        }
        if params.take == Some(0) {
            faults.push(Fault::new("/take", "zero rows are no table"));
        }
        if params.source.is_empty() {
            faults.push(Fault::new("/source", "a column has a name"));
        }
        faults
    }

    fn uses_seed(params: &Params) -> bool {
        params.take.is_some() || !params.weights.is_empty() || params.same_ids == SameIds::Share
    }

    fn estimate(params: &Params, inputs: &EstimateInputs) -> Estimate {
        let all: Option<u64> = inputs.ports().map(|port| inputs.most(port)).sum();
        let records = params.take.into_iter().chain(all).min();
        Estimate { records, ..Estimate::default() }
    }

    fn run(params: &Params, cx: &mut TaskCx) -> Result<(), TaskError> {
        let sides = open(params, cx)?;
        let schema = schema(params, &sides)?;
        let choice = Choice::make(params, &sides, cx)?;
        cx.progress().total(choice.taken().iter().sum());
        let mut writer = TableWriter::create(cx.output("mixed"), schema)?;
        let mut taken = Vec::new();
        for (index, side) in sides.iter().enumerate() {
            taken.push(Taken { rows: side.taken(params, &choice, index)?, done: 0 });
        }
        while let Some(next) = next(params.order, &taken, choice.taken()) {
            if cx.cancelled() {
                return Err(TaskError::Cancelled);
            }
            let row = taken[next].rows.next().expect("as many rows are taken as were counted")?;
            taken[next].done += 1;
            writer.write(&row)?;
            cx.progress().done(1);
        }
        let rows = writer.finish()?;
        let by_name = |counts: &[u64]| -> BTreeMap<String, u64> {
            sides.iter().map(|side| side.name.clone()).zip(counts.iter().copied()).collect()
        };
        let rows_in: u64 = choice.rows_in().iter().sum();
        cx.metric("rows_in", rows_in);
        cx.metric("rows", rows);
        cx.metric("rows_in_of", json!(by_name(choice.rows_in())));
        cx.metric("rows_of", json!(by_name(choice.taken())));
        cx.metric("taken_elsewhere", choice.taken_elsewhere());
        cx.metric("not_taken", rows_in - rows - choice.taken_elsewhere());
        Ok(())
    }
}

/// The rows that one input gives, and how many of them are written.
struct Taken<I> {
    rows: I,
    done: u64,
}

/// The input whose turn it is; the first by name where two are equally far.
fn next<I>(order: Order, taken: &[Taken<I>], counts: &[u64]) -> Option<usize> {
    let open = (0..taken.len()).filter(|&index| taken[index].done < counts[index]);
    match order {
        Order::Concatenate => open.min(),
        Order::Interleave => open.min_by(|&a, &b| {
            // (2 done + 1) / (2 count), compared without dividing.
            let place =
                |this: usize, other: usize| u128::from(2 * taken[this].done + 1) * u128::from(counts[other]);
            place(a, b).cmp(&place(b, a))
        }),
    }
}

/// One input: a table, or several that were gathered, one after the other.
struct Side {
    name: String,
    tables: Vec<Part>,
}

/// One table of an input.
struct Part {
    reader: TableReader,
    /// What a column of the table is called in the output; columns that are not here are left out.
    columns: BTreeMap<String, String>,
}

fn open(params: &Params, cx: &TaskCx) -> Result<Vec<Side>, TaskError> {
    let names: Vec<String> = cx.ports().map(str::to_owned).collect();
    if let Some(absent) = params.weights.keys().find(|weighted| !names.contains(weighted)) {
        return Err(TaskError::failed(format!("`weights` names `{absent}`, and no table enters there")));
    }
    if names.is_empty() {
        return Err(TaskError::failed("no table enters; give one or more under `inputs:`"));
    }
    let side = |name: String| {
        let tables = cx.inputs(&name).iter().map(|input| Part::open(params, &name, &input.path));
        Ok(Side { tables: tables.collect::<Result<_, TaskError>>()?, name })
    };
    names.into_iter().map(side).collect()
}

impl Part {
    fn open(params: &Params, side: &str, path: &std::path::Path) -> Result<Self, TaskError> {
        let reader = TableReader::open(path)?;
        let names = || reader.schema().names().map(str::to_owned);
        let columns: BTreeMap<String, String> = if params.unjoin {
            let own = format!("{side}.");
            let mut columns: BTreeMap<String, String> = names()
                .filter_map(|name| Some((name.clone(), name.strip_prefix(&own)?.to_owned())))
                .collect();
            if columns.is_empty() {
                let what = format!(
                    "`unjoin`: no column is called `{own}…`; there are {}",
                    names().collect::<Vec<_>>().join(", ")
                );
                return Err(TaskError::input(path, None, what));
            }
            // What the tables were joined by belongs to every side.
            for name in names().filter(|name| !name.contains('.')) {
                if !columns.values().any(|column| *column == name) {
                    columns.insert(name.clone(), name);
                }
            }
            columns
        } else {
            names().map(|name| (name.clone(), name)).collect()
        };
        Ok(Self { reader, columns })
    }

    /// The columns of the output, in the order of the table.
    fn schema(&self) -> impl Iterator<Item = (&str, ColumnKind)> {
        let columns = self.reader.schema().0.iter();
        columns.filter_map(|column| Some((self.columns.get(&column.name)?.as_str(), column.kind)))
    }

    /// The rows, with the names of the output; of these only the `wanted` are read.
    fn rows(
        &self,
        wanted: fn(&str) -> bool,
    ) -> Result<impl Iterator<Item = Result<Row, TaskError>> + use<'_>, TaskError> {
        let originals: Vec<&str> = self
            .columns
            .iter()
            .filter(|(_, name)| wanted(name))
            .map(|(original, _)| original.as_str())
            .collect();
        Ok(self.reader.rows_of(&originals)?.map(|row| {
            let named = |(name, value)| Some((self.columns.get(&name)?.clone(), value));
            Ok(row?.into_iter().filter_map(named).collect())
        }))
    }
}

impl Side {
    /// Shows the `id` and, where there is one, the `repeat` of every row.
    fn identities(&self, mut show: impl FnMut(&str, &Value)) -> Result<(), TaskError> {
        for part in &self.tables {
            for (row, number) in part.rows(|name| matches!(name, "id" | REPEAT))?.zip(1..) {
                let row = row?;
                let no_id = || TaskError::input(part.reader.path(), Some(number), "the row has no `id`");
                let id = responses::id_of(&row).ok_or_else(no_id)?;
                show(&id, row.get(REPEAT).unwrap_or(&Value::Null));
            }
        }
        Ok(())
    }

    /// The rows that were chosen, as they are written.
    fn taken<'a>(
        &'a self,
        params: &'a Params,
        choice: &'a Choice,
        index: usize,
    ) -> Result<impl Iterator<Item = Result<Row, TaskError>> + 'a, TaskError> {
        let mut parts = Vec::new();
        for part in &self.tables {
            parts.push(part.rows(|_| true)?);
        }
        let is_taken = choice.of(index).iter();
        let taken = parts.into_iter().flatten().zip(is_taken).filter(|(row, taken)| **taken || row.is_err());
        Ok(taken.map(move |(row, _)| {
            let mut row = row?;
            row.insert(params.source.clone(), json!(self.name));
            if params.same_ids == SameIds::Prefix {
                let id = responses::id_of(&row).unwrap_or_default();
                row.insert("id".into(), json!(format!("{}/{id}", self.name)));
                row.insert(original_id(params), json!(id));
            }
            Ok(row)
        }))
    }
}

/// The column with the id that a row had in its input.
fn original_id(params: &Params) -> String {
    format!("{}.id", params.source)
}

/// The columns of all inputs, and those that `mix` adds. A column that an input lacks is null in its rows.
fn schema(params: &Params, sides: &[Side]) -> Result<Schema, TaskError> {
    let mut schema = Schema::default();
    let mut first: BTreeMap<&str, &str> = BTreeMap::new();
    for side in sides {
        for part in &side.tables {
            for (name, kind) in part.schema() {
                let kind = match schema.kind(name) {
                    None => kind,
                    Some(known) if known == kind => kind,
                    Some(ColumnKind::Int | ColumnKind::Float)
                        if matches!(kind, ColumnKind::Int | ColumnKind::Float) =>
                    {
                        ColumnKind::Float
                    }
                    Some(known) => {
                        let what = format!(
                            "the column `{name}` holds {} in `{}` and {} in `{}`",
                            known.describe(),
                            first[name],
                            kind.describe(),
                            side.name
                        );
                        return Err(TaskError::input(part.reader.path(), None, what));
                    }
                };
                first.entry(name).or_insert(&side.name);
                schema = schema.with(name, kind);
            }
        }
    }
    let mut added = vec![params.source.clone()];
    if params.same_ids == SameIds::Prefix {
        schema = schema.with("id", ColumnKind::Str);
        added.push(original_id(params));
    }
    for name in added {
        if let Some(side) = first.get(name.as_str()) {
            return Err(TaskError::failed(format!(
                "`{side}` has a column `{name}` already; give the one that says where a row came from another name, with \
                 `source`"
            )));
        }
        schema = schema.with(name, ColumnKind::Str);
    }
    Ok(schema)
}

#[cfg(test)]
mod tests;
