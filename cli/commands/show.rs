//! `dag show`: the records, metrics or files of an artifact.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use dag_cache::OutputKind;
use dag_tasks::table::TableReader;
use serde_json::{Map, Value, json};

use crate::args::Show;
use crate::artifact::{Artifact, Condition, is_parquet, rows};
use crate::context::Context;
use crate::experiment::compiled;
use crate::failure::{Failure, Outcome};
use crate::grid;
use crate::text::Text;
use crate::words::{bytes, count, grouped};

/// A line of a text is cut here: the file may be one line of gigabytes.
const LONGEST_LINE: u64 = 64 << 10;

pub fn run(arguments: &Show, context: &Context) -> Outcome {
    let compiled = compiled(&arguments.experiment, &context.registry())?;
    let plan = compiled.plan(context)?;
    let artifacts = compiled.artifacts(&arguments.node, &plan, context)?;
    let Some((artifact, others)) = artifacts.split_first() else {
        return Err(Failure::user(format!("`{}` has no outputs", arguments.node)));
    };
    let content = content(artifact, arguments)?;
    if context.json {
        return context.printer.json(&json!({
            "node": artifact.node, "port": artifact.port, "type": artifact.gives, "output": artifact.output,
            "metrics": artifact.metrics, "content": content.to_json(),
        }));
    }
    let heading = Text::new().bold(format!("{}.{}", artifact.node, artifact.port)).faint(format!(
        "  {}  {}",
        artifact.gives,
        artifact.output.digest.short()
    ));
    let mut note = heading.line();
    for (name, value) in &artifact.metrics {
        note = note.accent(format!("  {name}")).plain(format!("  {}", grid::cell(Some(value)))).line();
    }
    if !others.is_empty() {
        let named: Vec<String> =
            others.iter().map(|other| format!("`{}.{}`", other.node, other.port)).collect();
        note = note.faint(format!("  other outputs: {}", named.join(", "))).line();
    }
    context.printer.data(&note.then(content.render()))
}

/// What is shown of an artifact.
enum Content {
    Rows { columns: Vec<String>, rows: Vec<Map<String, Value>>, of: u64 },
    Files(Vec<crate::artifact::Entry>),
    Json(Value),
    Lines { lines: Vec<String>, more: bool },
    Bytes(u64),
    Gone,
}

fn content(artifact: &Artifact, arguments: &Show) -> Result<Content, Failure> {
    if !artifact.is_present() {
        return Ok(Content::Gone);
    }
    let condition = Condition::parse(arguments.condition.as_deref())?;
    if let Some(path) = &arguments.path {
        let Some(file) = artifact.find(path)? else {
            let listed: Vec<String> =
                artifact.files()?.iter().take(12).map(|entry| format!("`{}`", entry.path)).collect();
            return Err(Failure::user(format!(
                "there is no `{path}` in `{}.{}`",
                artifact.node, artifact.port
            ))
            .hint(format!("there is {}", listed.join(", "))));
        };
        return of_file(&file, arguments.head, &condition);
    }
    if artifact.output.kind == OutputKind::File {
        let file = artifact.view.verified_path(&artifact.output.digest)?;
        return of_file(&file, arguments.head, &condition);
    }
    if arguments.condition.is_some()
        && let Some(table) = artifact.table()?
    {
        return of_table(&table, arguments.head, &condition);
    }
    Ok(Content::Files(artifact.files()?))
}

fn of_file(path: &Path, head: usize, condition: &Condition) -> Result<Content, Failure> {
    if is_parquet(path) {
        return of_table(&TableReader::open(path)?, head, condition);
    }
    let unreadable =
        |error: std::io::Error| Failure::failed(format!("failed to read `{}`: {error}", path.display()));
    let file = File::open(path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let mut reader = BufReader::new(file);
    if size < 16 << 20
        && reader.fill_buf().map_err(unreadable)?.first().is_some_and(|first| b"{[".contains(first))
    {
        let mut text = Vec::new();
        reader.read_to_end(&mut text).map_err(unreadable)?;
        if let Ok(value) = serde_json::from_slice(&text) {
            return Ok(Content::Json(value));
        }
        return of_lines(&mut text.as_slice(), head, size).map_err(unreadable);
    }
    of_lines(&mut reader, head, size).map_err(unreadable)
}

fn of_lines(reader: &mut dyn BufRead, head: usize, size: u64) -> std::io::Result<Content> {
    let mut lines = Vec::new();
    for _ in 0..=head {
        let mut line = Vec::new();
        if reader.take(LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let Ok(line) = String::from_utf8(line) else { return Ok(Content::Bytes(size)) };
        if line.contains('\0') {
            return Ok(Content::Bytes(size));
        }
        lines.push(line.trim_end_matches('\n').to_owned());
    }
    let more = lines.len() > head;
    lines.truncate(head);
    Ok(Content::Lines { lines, more })
}

fn of_table(table: &TableReader, head: usize, condition: &Condition) -> Result<Content, Failure> {
    let columns = table.schema().names().map(str::to_owned).collect();
    Ok(Content::Rows { columns, rows: rows(table, condition, head)?, of: table.len() })
}

impl Content {
    fn to_json(&self) -> Value {
        match self {
            Self::Rows { rows, of, columns } => json!({ "columns": columns, "rows": rows, "of": of }),
            Self::Files(files) => json!({ "files": files }),
            Self::Json(value) => json!({ "json": value }),
            Self::Lines { lines, more } => json!({ "lines": lines, "more": more }),
            Self::Bytes(size) => json!({ "binary": size }),
            Self::Gone => json!({ "gone": true }),
        }
    }

    fn render(&self) -> Text {
        match self {
            Self::Rows { columns, rows, of } => {
                let left =
                    if rows.len() as u64 == *of { String::new() } else { format!(" of {}", grouped(*of)) };
                grid::render(columns, rows).faint(format!("{}{left}", count(rows.len() as u64, "row"))).line()
            }
            Self::Files(files) => {
                let width = files.iter().map(|file| file.path.chars().count()).max().unwrap_or(0);
                files.iter().fold(Text::new(), |text, file| {
                    text.plain(format!("  {}", file.path)).pad_to(width + 4).faint(bytes(file.bytes)).line()
                })
            }
            Self::Json(value) => Text::from(serde_json::to_string_pretty(value).unwrap_or_default()).line(),
            Self::Lines { lines, more } => {
                let text = lines.iter().fold(Text::new(), |text, line| text.plain(line).line());
                if *more { text.faint("…").line() } else { text }
            }
            Self::Bytes(size) => format!("binary, {}\n", bytes(*size)).into(),
            Self::Gone => Text::new()
                .warn("its bytes were collected; they are made again when a node needs them")
                .line(),
        }
    }
}
