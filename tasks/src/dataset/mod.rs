//! `dataset`: records from files, a generator or the experiment itself, as a table with an id for every row.
//!
//! The source is walked twice: once to decide which rows are kept, holding a few bytes of each, and once to write them.
//! What is kept of a row depends on the row and the seed alone: `take` and `shuffle` rank rows by a hash of the seed and
//! the id, so that rows which are added disturb no others.

mod benchmark;
mod bound;
mod csv;
mod exclude;
mod generate;
mod place;
mod places;
mod row;
mod select;
mod source;
mod unpack;

use std::collections::BTreeMap;

use dag_engine::task::{
    ArtifactType, Estimate, EstimateInputs, Fault, FileRef, NoRun, Ports, Task, TaskCx, TaskError,
};
use indexmap::IndexMap;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::expression::Expression;
use crate::records::draw;
pub use benchmark::Benchmark;
use source::BadRow;
pub use source::{Format, Generator, Source};

use exclude::{Benchmarks, Nearness};
use places::Places;
use row::{Made, Maker};
use select::{Choice, Excluded, Key, Output};

/// So many rows are made at a time: few, because one may be long.
const BATCH: usize = 128;

/// The params of `dataset`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Where the rows come from.
    pub source: Source,
    /// Columns to add or to replace, each a template over the columns of the source: `problem: "{{ question }}"`. One
    /// that is a single `{{ … }}` keeps the type of its value. `text | extract('#### (.+)')` takes a part by a pattern,
    /// `text | fromjson` reads JSON, and `value | required` makes an absent value an error.
    #[serde(default)]
    pub columns: IndexMap<String, String>,
    /// The columns to keep; all if it is left out.
    #[serde(default)]
    pub select: Vec<String>,
    /// An expression that rows must satisfy: `level > 3 and answer != ''`.
    #[serde(default, rename = "where")]
    pub condition: Option<String>,
    /// Of rows that agree in this column (or expression), spacing aside, only the first is kept.
    #[serde(default)]
    pub dedup: Option<String>,
    /// Rows that are near in this column (or expression) to a row of a table in the port `exclude` are left out, and stand in
    /// the output `dropped` with what they met: those that agree, spacing aside; that have the same words; and that share a
    /// run of `overlap` words. Case, punctuation and what LaTeX has for spacing and size are no part of words.
    #[serde(default = "problem")]
    pub exclude_by: String,
    /// So many words in a row make a row too near to one of a benchmark; zero asks for none.
    #[serde(default = "overlap")]
    pub overlap: u32,
    /// How many rows to keep, drawn by the seed.
    #[serde(default)]
    pub take: Option<u64>,
    /// Whether to put the rows in an order drawn by the seed.
    #[serde(default)]
    pub shuffle: bool,
    /// Another number draws other rows.
    #[serde(default)]
    pub seed: u64,
    /// What to do with a row that cannot be read.
    #[serde(default)]
    pub bad_rows: BadRows,
}

fn problem() -> String {
    "problem".into()
}

/// As the decontamination of GPT-3 has it (Brown et al. 2020, appendix C), and most since.
fn overlap() -> u32 {
    13
}

/// What to do with a row that cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BadRows {
    /// The node fails, and names the place.
    #[default]
    Fail,
    /// The row is left out and counted.
    Drop,
}

/// The task kind.
pub struct Dataset;

impl Task for Dataset {
    const KIND: &'static str = "dataset";
    const VERSION: u32 = 3;
    const ABOUT: &'static str = "records from files, a generator or the experiment itself, as a table";
    type Params = Params;
    type Run = NoRun;

    fn ports(params: &Params) -> Ports {
        let ports = Ports::new()
            .many("exclude", ArtifactType::Table)
            .output("records", ArtifactType::Table)
            .output("dropped", ArtifactType::Table);
        if params.source.has_files() { ports.output("places", ArtifactType::Table) } else { ports }
    }

    fn check(params: &Params) -> Vec<Fault> {
        let mut faults = params.source.check();
        for (name, text) in &params.columns {
            if let Err(what) = row::Column::parse(text) {
                faults.push(Fault::new(format!("/columns/{name}"), what));
            }
        }
        let expressions = [
            ("/where", params.condition.as_ref()),
            ("/dedup", params.dedup.as_ref()),
            ("/exclude_by", Some(&params.exclude_by)),
        ];
        for (pointer, text) in expressions {
            if let Some(Err(what)) = text.map(|text| Expression::parse(text)) {
                faults.push(Fault::new(pointer, what));
            }
        }
        if params.take == Some(0) {
            faults.push(Fault::new("/take", "zero rows are no data set"));
        }
        faults
    }

    fn files(params: &Params) -> Vec<FileRef> {
        params.source.files()
    }

    fn uses_seed(params: &Params) -> bool {
        params.take.is_some()
            || params.shuffle
            || params.source.take.is_some()
            || params.source.generator.is_some()
    }

    fn estimate(params: &Params, inputs: &EstimateInputs) -> Estimate {
        let source = params.source.count.or(params.source.rows.as_ref().map(|rows| rows.len() as u64));
        let source = source.or_else(|| bound::rows(inputs.files("/source/path"), params.source.format));
        let bounds = [source, params.source.take, params.take];
        Estimate { records: bounds.into_iter().flatten().min(), ..Estimate::default() }
    }

    fn run(params: &Params, cx: &mut TaskCx) -> Result<(), TaskError> {
        let seed = draw(cx.seed(), params.seed);
        let files = params.source.fetch(cx)?;
        let maker = Maker::new(params)?;
        let mut choice = Choice::new(params, seed)?;
        let exclude_by = Key::parse(&params.exclude_by).map_err(TaskError::failed)?;
        let benchmarks = Benchmarks::read(exclude_by, params.overlap as usize, cx.inputs("exclude"))?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(cx.threads().max(1))
            .build()
            .map_err(|error| TaskError::failed(format!("no threads to make rows with: {error}")))?;
        let mut dropped: BTreeMap<&str, u64> = BTreeMap::new();
        let mut rows_in = 0_u64;
        let mut rows = params.source.rows(&files, seed)?;
        loop {
            let batch: Vec<_> = rows.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                break;
            }
            if cx.cancelled() {
                return Err(TaskError::Cancelled);
            }
            // Collected in order: what is kept must not depend on which thread was first.
            let made: Vec<Result<_, BadRow>> = pool.install(|| {
                let make = |read: Result<_, _>| match maker.made(read)? {
                    Made::Kept(row) => {
                        let met = benchmarks.meet(&row.values).map_err(|what| row.place.bad(what))?;
                        Ok((Made::Kept(row), met))
                    }
                    Made::Dropped => Ok((Made::Dropped, None)),
                };
                batch.into_par_iter().map(make).collect()
            });
            for made in made {
                rows_in += 1;
                match made {
                    Ok((Made::Kept(row), met)) => {
                        if let Some(reason) = choice.consider(rows_in, &row, met)? {
                            *dropped.entry(reason).or_default() += 1;
                        }
                    }
                    Ok((Made::Dropped, _)) => *dropped.entry("where").or_default() += 1,
                    Err(_) if params.bad_rows == BadRows::Drop => *dropped.entry("bad").or_default() += 1,
                    Err(bad) => return Err(TaskError::from(bad)),
                }
            }
        }
        let chosen = choice.finish()?;
        cx.progress().total(chosen.len());
        let mut output = Output::create(&cx.output("records"), cx.scratch(), &chosen, params.shuffle)?;
        let mut excluded = Excluded::create(&cx.output("dropped"), &chosen, &benchmarks)?;
        let mut places =
            params.source.has_files().then(|| Places::create(&cx.output("places"))).transpose()?;
        let wanted = (1_u64..)
            .zip(params.source.rows(&files, seed)?)
            .filter(|(number, _)| chosen.contains(*number) || chosen.met(*number).is_some());
        let mut wanted = wanted.peekable();
        while wanted.peek().is_some() {
            if cx.cancelled() {
                return Err(TaskError::Cancelled);
            }
            let batch: Vec<_> = wanted.by_ref().take(BATCH).collect();
            let made: Vec<_> = pool
                .install(|| batch.into_par_iter().map(|(number, read)| (number, maker.made(read))).collect());
            for (number, made) in made {
                let Made::Kept(row) = made? else { continue };
                if let Some(places) = &mut places {
                    places.write(&row)?;
                }
                if let Some(met) = chosen.met(number) {
                    excluded.write(met, row.values)?;
                } else {
                    output.write(number, &row.values)?;
                    cx.progress().done(1);
                }
            }
        }
        excluded.finish()?;
        places.map(Places::finish).transpose()?;
        let rows = output.finish()?;
        cx.metric("rows_in", rows_in);
        cx.metric("rows", rows);
        for reason in ["where", "excluded", "duplicate", "identical", "bad"] {
            let count = dropped.get(reason).copied().unwrap_or(0);
            if count > 0 || reason == "excluded" {
                cx.metric(&format!("dropped_{reason}"), count);
            }
        }
        let excludes = !cx.inputs("exclude").is_empty();
        for nearness in Nearness::ALL.into_iter().filter(|_| excludes) {
            cx.metric(&format!("excluded_{}", nearness.name()), chosen.excluded(nearness));
        }
        cx.metric("not_taken", chosen.not_taken());
        if let Some(bad) = dropped.get("bad") {
            cx.warn(&format!("{bad} rows could not be read and are left out"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
