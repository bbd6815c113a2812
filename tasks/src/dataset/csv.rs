//! Comma-separated values as RFC 4180 has them: quoted fields, doubled quotes, line breaks inside quotes, a header.

use std::io::BufRead;

use serde_json::Value;

use crate::table::Row;

/// The longest record.
const LONGEST: usize = 64 << 20;

/// The rows of a file, each with the line it starts on. Every value is a text.
pub(super) struct CsvReader<R> {
    input: std::io::Bytes<R>,
    header: Vec<String>,
    line: u64,
    is_over: bool,
}

impl<R: BufRead> CsvReader<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input: input.bytes(), header: Vec::new(), line: 1, is_over: false }
    }

    /// The fields of the next record; `None` at the end.
    fn record(&mut self) -> Result<Option<Vec<String>>, String> {
        let mut fields: Vec<Vec<u8>> = vec![Vec::new()];
        let mut is_quoted = false;
        // Whether the last byte was a quote inside a quoted field: its end, or the first of two.
        let mut after_quote = false;
        let mut length = 0;
        loop {
            let byte =
                self.input.next().transpose().map_err(|error| format!("the file cannot be read: {error}"))?;
            let Some(byte) = byte else {
                if is_quoted && !after_quote {
                    return Err("a quoted field does not end".into());
                }
                let is_empty = fields.len() == 1 && fields[0].is_empty() && !is_quoted;
                return if is_empty { Ok(None) } else { texts(fields).map(Some) };
            };
            length += 1;
            if length > LONGEST {
                return Err(format!("the record is longer than {LONGEST} bytes"));
            }
            if byte == b'\n' {
                self.line += 1;
            }
            let field = fields.last_mut().expect("there is always a field");
            match byte {
                b'"' if is_quoted && after_quote => {
                    field.push(b'"');
                    after_quote = false;
                }
                b'"' if is_quoted => after_quote = true,
                b'"' if field.is_empty() => is_quoted = true,
                b',' if !is_quoted || after_quote => {
                    fields.push(Vec::new());
                    (is_quoted, after_quote) = (false, false);
                }
                b'\n' if !is_quoted || after_quote => {
                    if field.last() == Some(&b'\r') && !is_quoted {
                        field.pop();
                    }
                    if fields.len() == 1 && fields[0].is_empty() && !is_quoted {
                        continue;
                    }
                    return texts(fields).map(Some);
                }
                b'\r' if after_quote => {}
                _ if after_quote => return Err("a quoted field goes on after its closing quote".into()),
                _ => field.push(byte),
            }
        }
    }
}

fn texts(fields: Vec<Vec<u8>>) -> Result<Vec<String>, String> {
    let texts: Result<_, _> = fields.into_iter().map(String::from_utf8).collect();
    texts.map_err(|_| "the record is not UTF-8".to_owned())
}

impl<R: BufRead> Iterator for CsvReader<R> {
    type Item = (u64, Result<Row, String>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        if self.header.is_empty() {
            match self.record() {
                Ok(header) => self.header = header?,
                Err(what) => {
                    self.is_over = true;
                    return Some((1, Err(format!("the header: {what}"))));
                }
            }
            if let Some(first) = self.header.first_mut() {
                *first = first.trim_start_matches('\u{feff}').to_owned();
            }
        }
        let line = self.line;
        let row = match self.record() {
            Ok(None) => return None,
            Ok(Some(fields)) if fields.len() != self.header.len() => {
                Err(format!("the record has {} fields, the header {}", fields.len(), self.header.len()))
            }
            Ok(Some(fields)) => {
                Ok(self.header.iter().cloned().zip(fields.into_iter().map(Value::from)).collect())
            }
            Err(what) => {
                // After a broken quote nobody can tell where the next record begins.
                self.is_over = true;
                Err(what)
            }
        };
        Some((line, row))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Vec<(u64, Result<Value, String>)> {
        CsvReader::new(text.as_bytes()).map(|(line, row)| (line, row.map(Value::Object))).collect()
    }

    #[test]
    fn quotes_commas_and_line_breaks() {
        let text = "\u{feff}problem,answer\r\n\"1, 2\",\"say \"\"two\"\"\"\n\n\"a\nb\",x\nlast,";
        assert_eq!(
            read(text),
            [
                (2, Ok(json!({ "problem": "1, 2", "answer": "say \"two\"" }))),
                (3, Ok(json!({ "problem": "a\nb", "answer": "x" }))),
                (6, Ok(json!({ "problem": "last", "answer": "" }))),
            ]
        );
    }

    #[test]
    fn broken_records_are_errors() {
        assert!(
            read("a,b\n1,2,3\n4,5")
                .into_iter()
                .map(|(line, row)| (line, row.is_ok()))
                .eq([(2, false), (3, true)])
        );
        assert!(read("a\n\"open").pop().unwrap().1.is_err());
        assert!(read("a\n\"x\"y").pop().unwrap().1.is_err());
        assert!(read("").is_empty());
    }
}
