//! Values as Python writes them: `str()` where a template prints one, `json.dumps` for `tojson`.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// `str(value)`.
pub(super) fn text(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None if value.is_undefined() => String::new(),
        None => representation(value),
    }
}

/// `repr(value)`, for the kinds of value that JSON has.
fn representation(value: &Value) -> String {
    let joined = |parts: Vec<String>| parts.join(", ");
    match value.kind() {
        ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq => {
            let parts = value.try_iter().map(|items| items.map(|item| representation(&item)).collect());
            format!("[{}]", joined(parts.unwrap_or_default()))
        }
        ValueKind::Map => {
            let pair = |key: Value| {
                let item = value.get_item(&key).unwrap_or_default();
                format!("{}: {}", representation(&key), representation(&item))
            };
            let parts = value.try_iter().map(|keys| keys.map(pair).collect());
            format!("{{{}}}", joined(parts.unwrap_or_default()))
        }
        ValueKind::Number if !value.is_integer() => {
            f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
        }
        _ => value.to_string(),
    }
}

/// A string literal: in single quotes, unless it has such and no double ones.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut literal = String::from(quote);
    for character in text.chars() {
        match character {
            '\n' => literal.push_str("\\n"),
            '\r' => literal.push_str("\\r"),
            '\t' => literal.push_str("\\t"),
            '\\' => literal.push_str("\\\\"),
            _ if character == quote => literal.extend(['\\', quote]),
            _ if character.is_ascii_control() => {
                write!(literal, "\\x{:02x}", u32::from(character)).expect("writing to a string cannot fail");
            }
            _ => literal.push(character),
        }
    }
    literal.push(quote);
    literal
}

/// The widest indentation of `tojson`.
const WIDEST_INDENT: usize = 64;

/// `json.dumps` as transformers calls it: a space after each separator, nothing escaped for HTML or ASCII.
#[expect(clippy::needless_pass_by_value, reason = "the template library passes keyword arguments by value")]
pub(super) fn to_json(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let fault = |message: String| Error::new(ErrorKind::InvalidOperation, message);
    let indent = indent.or(options.get("indent")?);
    // Templates come from strangers, and this is multiplied by every line.
    if indent.is_some_and(|indent| indent > WIDEST_INDENT) {
        return Err(fault(format!("an `indent` above {WIDEST_INDENT} is no layout")));
    }
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let sorted: Option<bool> = options.get("sort_keys")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;
    let layout = match separators.as_deref() {
        None => Layout::new(indent, if indent.is_some() { "," } else { ", " }, ": "),
        Some([item, key]) => Layout::new(indent, item, key),
        Some(_) => return Err(fault("`separators` are two".to_owned())),
    };
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, layout);
    let written = if sorted == Some(true) {
        // The maps of this library are sorted.
        serde_json::to_value(value).and_then(|value| value.serialize(&mut serializer))
    } else {
        value.serialize(&mut serializer)
    };
    written.map_err(|error| fault(format!("cannot write as JSON: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|error| fault(error.to_string()))?;
    Ok(if ascii == Some(true) { escape_to_ascii(&text) } else { text })
}

fn escape_to_ascii(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii() {
            escaped.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(escaped, "\\u{unit:04x}").expect("writing to a string cannot fail");
            }
        }
    }
    escaped
}

/// Python's layout: separators as they are given; with an indent, a line for every item.
struct Layout {
    indent: Option<usize>,
    item: String,
    key: String,
    depth: usize,
    /// Whether the innermost array or object has an item.
    filled: bool,
}

impl Layout {
    fn new(indent: Option<usize>, item: &str, key: &str) -> Self {
        Self { indent, item: item.to_owned(), key: key.to_owned(), depth: 0, filled: false }
    }

    fn line<W: ?Sized + std::io::Write>(&self, writer: &mut W) -> std::io::Result<()> {
        match self.indent {
            Some(width) => write!(writer, "\n{:1$}", "", width * self.depth),
            None => Ok(()),
        }
    }

    fn begin<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> std::io::Result<()> {
        self.depth += 1;
        self.filled = false;
        writer.write_all(bracket)
    }

    fn end<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> std::io::Result<()> {
        self.depth -= 1;
        if self.filled {
            self.line(writer)?;
        }
        self.filled = true;
        writer.write_all(bracket)
    }

    fn separate<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if !first {
            writer.write_all(self.item.as_bytes())?;
        }
        self.line(writer)
    }
}

impl Formatter for Layout {
    fn begin_array<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.begin(writer, b"[")
    }

    fn end_array<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.end(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        self.separate(writer, first)
    }

    fn end_array_value<W: ?Sized + std::io::Write>(&mut self, _: &mut W) -> std::io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.begin(writer, b"{")
    }

    fn end_object<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.end(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        self.separate(writer, first)
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + std::io::Write>(&mut self, _: &mut W) -> std::io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn write_f64<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, value: f64) -> std::io::Result<()> {
        writer.write_all(float(value).as_bytes())
    }
}

/// A float as Python writes it: the shortest decimal that gives it back, with an exponent below 1e-4 and from 1e16 on.
fn float(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude == 0.0 || (1e-4..1e16).contains(&magnitude) {
        return format!("{value:?}");
    }
    let scientific = format!("{value:e}");
    match scientific.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |rest| ("-", rest));
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => scientific,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_printed_as_python_prints_them() {
        let value: Value = serde_json::from_str(
            r#"{"b": [1, 1.5, 1e20, null, true, "it's", "a\n\"b\" 'c'"], "a": {"é": false, "x": []}}"#,
        )
        .unwrap();
        assert_eq!(
            text(&value),
            r#"{'b': [1, 1.5, 1e+20, None, True, "it's", 'a\n"b" \'c\''], 'a': {'é': False, 'x': []}}"#
        );
        assert_eq!(text(&Value::from("it's")), "it's");
        assert_eq!(text(&Value::UNDEFINED), "");
        assert_eq!(text(&Value::from(())), "None");
    }

    #[test]
    fn floats_are_written_as_python_writes_them() {
        let pairs = [
            (0.0, "0.0"),
            (-1.0, "-1.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1.5e-5, "1.5e-05"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (-1.25e300, "-1.25e+300"),
        ];
        for (value, expected) in pairs {
            assert_eq!(float(value), expected);
        }
    }
}
