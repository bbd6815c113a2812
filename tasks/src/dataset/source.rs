//! Where rows come from: files of four formats, a generator, or the experiment file itself.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use dag_engine::task::{Fault, TaskError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::benchmark::Benchmark;
use super::csv::CsvReader;
use super::generate::Problems;
use super::unpack;
use crate::table::{Row, TableReader};

/// The longest line of a text file. Longer ones are no data but an accident.
const LONGEST_LINE: u64 = 64 << 20;

/// Where rows come from: one of `path`, `benchmark`, `generator` and `rows`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A file, or a pattern of files (`data/*.parquet`, read in the order of their paths); or a data set on the Hugging
    /// Face hub (`hf://openai/gsm8k`, `hf://OWNER/NAME@REVISION`, or some of its files as `hf://OWNER/NAME/data/*.jsonl`);
    /// or a file at an address of the web (`https://…`), with its `digest`.
    #[serde(default)]
    pub path: Option<String>,
    /// A benchmark by its name: its place, its split, and how its problems and answers are written are known. A `path`
    /// beside it says where else its files are.
    #[serde(default)]
    pub benchmark: Option<Benchmark>,
    /// How the files are written. Without it the content tells: Parquet by its signature, a JSON array by `[`, JSON
    /// lines by `{`, anything else is CSV; text may be packed by gzip or zstd. Not the name: names are in no key.
    #[serde(default)]
    pub format: Option<Format>,
    /// Digest of a file at an address of the web: `sha256:…` or `blake3:…`. It stands for the content in the key.
    #[serde(default, skip_serializing)]
    pub digest: Option<String>,
    /// Configuration of a data set on the hub.
    #[serde(default)]
    pub config: Option<String>,
    /// Split of a data set on the hub, or of a benchmark. Which files that are its card says, else their names.
    #[serde(default)]
    pub split: Option<String>,
    /// Revision of a data set on the hub: a branch, a tag or a commit. The commit that it is at stands in the key.
    #[serde(default, skip_serializing)]
    pub revision: Option<String>,
    /// Problems that are made here.
    #[serde(default)]
    pub generator: Option<Generator>,
    /// How many problems the generator makes.
    #[serde(default)]
    pub count: Option<u64>,
    /// The least and the most steps of a generated problem.
    #[serde(default)]
    pub steps: Option<(u32, u32)>,
    /// Generated problems are reckoned modulo this.
    #[serde(default)]
    pub modulus: Option<u32>,
    /// Another number makes other problems.
    #[serde(default)]
    pub seed: u64,
    /// The rows themselves, for tiny data.
    #[serde(default)]
    pub rows: Option<Vec<Map<String, Value>>>,
    /// How many rows to keep, drawn by the seed; the same as `take` beside `source`, for where a source is a param.
    #[serde(default)]
    pub take: Option<u64>,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object on each line.
    Jsonl,
    /// One JSON array of objects. It is read whole: for large data use one of the others.
    Json,
    /// Comma-separated, with a header; every value is a text.
    Csv,
    /// Parquet.
    Parquet,
}

/// The generators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Generator {
    /// Chains of small sums and products, such as `17*4-9+6?`.
    Arithmetic,
}

/// A row that cannot be read, and where it is.
#[derive(Debug)]
pub(super) struct BadRow {
    pub(super) place: Place,
    pub(super) what: String,
}

/// Where a row is: a file and a line or row in it, or only its number.
#[derive(Debug, Clone)]
pub(super) struct Place {
    path: Option<PathBuf>,
    /// Which of several files that is, from one.
    file: Option<usize>,
    number: u64,
}

impl Place {
    /// A row that is in no file.
    pub(super) fn number(number: u64) -> Self {
        Self { path: None, file: None, number }
    }

    fn in_file(path: &Path, number: u64) -> Self {
        Self { path: Some(path.to_owned()), file: None, number }
    }

    /// The row of the source, `17`, or `3:17` in the third of several files: what stays true wherever the files are. `None`
    /// where there is no file.
    pub(super) fn source_row(&self) -> Option<String> {
        let number = self.number;
        self.path
            .as_ref()
            .map(|_| self.file.map_or_else(|| number.to_string(), |file| format!("{file}:{number}")))
    }

    pub(super) fn bad(&self, what: impl Into<String>) -> BadRow {
        BadRow { place: self.clone(), what: what.into() }
    }
}

impl From<BadRow> for TaskError {
    fn from(bad: BadRow) -> Self {
        Self::Input { what: bad.what, path: bad.place.path, line: Some(bad.place.number) }
    }
}

/// Rows with their places.
pub(super) type Rows<'a> = Box<dyn Iterator<Item = Result<(Place, Row), BadRow>> + 'a>;

impl Source {
    pub(super) fn check(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let given = [self.has_files(), self.generator.is_some(), self.rows.is_some()];
        if given.into_iter().filter(|given| *given).count() != 1 {
            let what = "a source is one of `path`, `benchmark`, `generator` and `rows`";
            let fault = Fault::new("/source", what);
            faults.push(fault.help("for example `source: { path: data/problems.jsonl }`"));
        }
        let generated = [
            ("count", self.count.is_some()),
            ("steps", self.steps.is_some()),
            ("modulus", self.modulus.is_some()),
            ("seed", self.seed != 0),
        ];
        for (field, _) in generated.into_iter().filter(|(_, is_given)| *is_given && self.generator.is_none())
        {
            faults.push(Fault::new(format!("/source/{field}"), "this is for a `generator`"));
        }
        faults.extend(self.check_place());
        if self.generator.is_some() && self.count.is_none_or(|count| count == 0) {
            faults.push(Fault::new("/source", "a generator needs a `count`"));
        }
        if let Some((least, most)) = self.steps
            && (least == 0 || least > most)
        {
            faults.push(Fault::new("/source/steps", "`steps` is the least (at least 1) and the most"));
        }
        if self.modulus.is_some_and(|modulus| modulus < 2) {
            faults.push(Fault::new("/source/modulus", "a modulus is at least 2"));
        }
        if self.take == Some(0) {
            faults.push(Fault::new("/source/take", "zero rows are no data set"));
        }
        faults
    }

    /// Whether its rows are read from files, each of which has a place there.
    pub(super) fn has_files(&self) -> bool {
        self.path.is_some() || self.benchmark.is_some()
    }

    /// All rows, in order; the same every time.
    pub(super) fn rows<'a>(&'a self, files: &'a [PathBuf], seed: u64) -> Result<Rows<'a>, TaskError> {
        if let Some(rows) = &self.rows {
            return Ok(Box::new(
                (1..).zip(rows).map(|(number, row)| Ok((Place::number(number), row.clone()))),
            ));
        }
        if self.generator.is_some() {
            let problems = Problems {
                count: self.count.unwrap_or(0),
                steps: self.steps.unwrap_or((2, 6)),
                modulus: self.modulus.unwrap_or(10),
                seed: self.seed,
            };
            return Ok(Box::new(
                (1..).zip(problems.rows(seed)).map(|(number, row)| Ok((Place::number(number), row))),
            ));
        }
        if files.is_empty() {
            let path = self.path.as_deref().unwrap_or_default();
            return Err(TaskError::failed(format!("`source: {{ path: {path} }}` finds no file")));
        }
        let are_several = files.len() > 1;
        let files = files.iter().map(|path| read_file(path, self.format)).collect::<Result<Vec<_>, _>>()?;
        let rows = (1..).zip(files).flat_map(move |(file, rows)| {
            rows.map(move |read| {
                let (place, row) = read?;
                Ok((Place { file: are_several.then_some(file), ..place }, row))
            })
        });
        let Some(benchmark) = self.benchmark else { return Ok(Box::new(rows)) };
        let split = self.split.as_deref().unwrap_or(benchmark.splits()[0]);
        let problems = (0..).zip(rows).map(move |(number, read)| {
            let (place, row) = read?;
            let row = benchmark.row(split, number, &place, &row)?;
            Ok((place, row))
        });
        Ok(Box::new(problems))
    }
}

fn read_file(path: &Path, format: Option<Format>) -> Result<Rows<'static>, TaskError> {
    let failed = |error| TaskError::io(path, error);
    let format = match format {
        Some(format) => format,
        None => sniff(path).map_err(failed)?,
    };
    let path = path.to_owned();
    if format == Format::Parquet {
        let rows = TableReader::open(&path)?.rows()?;
        return Ok(Box::new((1..).zip(rows).map(move |(number, row)| {
            let place = Place::in_file(&path, number);
            row.map_err(|error| place.bad(error.to_string())).map(|row| (place, row))
        })));
    }
    let file = unpack::open(&path).map_err(|error| TaskError::io(&path, error))?;
    Ok(match format {
        Format::Csv => Box::new(CsvReader::new(file).map(move |(number, row)| {
            let place = Place::in_file(&path, number);
            row.map_err(|what| place.bad(what)).map(|row| (place, row))
        })),
        Format::Json => Box::new(read_array(file, &path)?.into_iter()),
        Format::Jsonl | Format::Parquet => Box::new(Lines { file, path, number: 0, is_over: false }),
    })
}

/// The format that the first bytes tell.
pub(super) fn sniff(path: &Path) -> std::io::Result<Format> {
    let mut start = Vec::new();
    unpack::open(path)?.take(4096).read_to_end(&mut start)?;
    if start.starts_with(b"PAR1") {
        return Ok(Format::Parquet);
    }
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&start);
    Ok(match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => Format::Json,
        Some(b'{') | None => Format::Jsonl,
        Some(_) => Format::Csv,
    })
}

/// A row of a source and where it stands, or why there is none.
type Found = Result<(Place, Row), BadRow>;

fn read_array(file: Box<dyn BufRead>, path: &Path) -> Result<Vec<Found>, TaskError> {
    let values: Vec<Value> = serde_json::from_reader(file).map_err(|error| {
        TaskError::input(path, Some(error.line() as u64), format!("this is no JSON array: {error}"))
    })?;
    let row = |(number, value)| {
        let place = Place::in_file(path, number);
        match value {
            Value::Object(row) => Ok((place, row)),
            _ => Err(place.bad("the item is no object")),
        }
    };
    Ok((1..).zip(values).map(row).collect())
}

/// JSON lines, read one at a time; blank lines are passed over.
struct Lines {
    file: Box<dyn BufRead>,
    path: PathBuf,
    number: u64,
    is_over: bool,
}

impl Iterator for Lines {
    type Item = Found;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.is_over {
            self.number += 1;
            let place = Place::in_file(&self.path, self.number);
            let mut line = Vec::new();
            match (&mut self.file).take(LONGEST_LINE + 1).read_until(b'\n', &mut line) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    self.is_over = true;
                    return Some(Err(place.bad(format!("the file cannot be read: {error}"))));
                }
            }
            if line.len() as u64 > LONGEST_LINE {
                self.is_over = true;
                return Some(Err(place.bad(format!("the line is longer than {LONGEST_LINE} bytes"))));
            }
            let text = line.strip_prefix(b"\xef\xbb\xbf").filter(|_| self.number == 1).unwrap_or(&line);
            if text.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            return Some(match serde_json::from_slice(text) {
                Ok(Value::Object(row)) => Ok((place, row)),
                Ok(_) => Err(place.bad("the line is no JSON object")),
                Err(error) => Err(place.bad(format!("the line is not JSON: {error}"))),
            });
        }
        None
    }
}
