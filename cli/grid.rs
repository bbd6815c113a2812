//! Rows in columns, or, where they are too wide for that, one field a line.

use serde_json::{Map, Value};

use crate::text::{Text, clip, inert, width};

/// Rows that fit in so many columns are shown as a grid.
const GRID: usize = 120;
/// A field shown on a line of its own is cut here; `--json` has the whole of it.
const FIELD: usize = 400;

/// Renders rows whose fields are named by `columns`.
pub fn render(columns: &[String], rows: &[Map<String, Value>]) -> Text {
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|column| cell(row.get(column))).collect()).collect();
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| {
            cells.iter().map(|row| width(&row[index])).max().unwrap_or(0).max(width(&inert(column)))
        })
        .collect();
    if widths.iter().map(|width| width + 2).sum::<usize>() <= GRID {
        grid(columns, &cells, &widths, rows)
    } else {
        fields(columns, &cells)
    }
}

fn grid(columns: &[String], cells: &[Vec<String>], widths: &[usize], rows: &[Map<String, Value>]) -> Text {
    let numeric: Vec<bool> = columns
        .iter()
        .map(|column| {
            rows.iter().all(|row| matches!(row.get(column), Some(Value::Number(_) | Value::Null) | None))
        })
        .collect();
    let mut lines = vec![Text::new(); cells.len() + 1];
    let mut end = 0;
    for (index, column) in columns.iter().enumerate() {
        let last = index + 1 == columns.len();
        let start = end;
        end += widths[index] + 2;
        for (line, text) in lines.iter_mut().enumerate() {
            let shown = if line == 0 { column } else { &cells[line - 1][index] };
            let indent = if numeric[index] { widths[index] - width(&inert(shown)) } else { 0 };
            let padded = std::mem::take(text).pad_to(start + indent);
            let added = if line == 0 { padded.bold(shown) } else { padded.plain(shown) };
            *text = if last { added.line() } else { added };
        }
    }
    lines.into_iter().fold(Text::new(), Text::then)
}

fn fields(columns: &[String], cells: &[Vec<String>]) -> Text {
    let names = columns.iter().map(|column| width(&inert(column))).max().unwrap_or(0);
    let mut text = Text::new();
    for (index, row) in cells.iter().enumerate() {
        text = text.faint(format!("── {}", index + 1)).line();
        for (column, shown) in columns.iter().zip(row) {
            text = text.accent(column).pad_to(names + 2).plain(clip(shown, FIELD)).line();
        }
    }
    text
}

/// A value on one line.
pub fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "–".to_owned(),
        Some(Value::String(text)) => inert(text).replace('\n', "⏎").replace('\t', " "),
        Some(Value::Number(number)) => match number.as_f64() {
            Some(float) if number.is_f64() => format!("{}", (float * 1e6).round() / 1e6),
            _ => number.to_string(),
        },
        Some(other) => inert(&other.to_string()).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(value: Value) -> Map<String, Value> {
        let Value::Object(row) = value else { panic!("a row is an object") };
        row
    }

    #[test]
    fn narrow_rows_are_a_grid_with_numbers_to_the_right() {
        let rows = [row(json!({ "id": "a", "tokens": 5 })), row(json!({ "id": "longer", "tokens": 1234 }))];
        insta::assert_snapshot!(render(&["id".into(), "tokens".into()], &rows).render(false), @r"
        id      tokens
        a            5
        longer    1234
        ");
    }

    #[test]
    fn wide_rows_are_one_field_a_line() {
        let rows = [row(json!({ "id": "a", "response": format!("first\n{}", "x".repeat(500)) }))];
        let text = render(&["id".into(), "response".into()], &rows).render(false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["── 1", "id        a"]);
        assert!(lines[2].starts_with("response  first⏎xxx") && lines[2].ends_with('…'));
    }
}
