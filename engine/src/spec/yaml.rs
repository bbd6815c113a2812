//! YAML text to a [`Tree`] whose every value knows where it was written.
//!
//! Structure and spans come from `saphyr-parser`'s events; what a plain scalar *means* (`1e-6` a float, `on` a word) is
//! asked of serde_yaml, one scalar at a time, so typing is exactly that of serde_yaml while none of its quadratic scanner
//! or alias expansion ever sees a file.
//!
//! What could blow up is refused before or while the events are read, never after: large files, deep nesting, very many
//! values, anchors and aliases (and so merge keys), tags, a second document, control characters.

use std::sync::Arc;

use indexmap::map::Entry;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, StrInput};
use serde_json::Number;

use super::diagnostic::Diagnostic;
use super::source::{SourceId, Sources, Span};
use super::tree::{Field, Map, Tree, Value};

/// The largest file that is read.
pub const MAX_BYTES: usize = 1 << 20;
/// The deepest nesting of lists and maps.
pub const MAX_DEPTH: usize = 64;
/// The most values in one file.
pub const MAX_VALUES: usize = 100_000;

/// Reads a whole source. `None` if it could not be read to its end; faults that allow going on are added too.
pub fn parse(sources: &Sources, source: SourceId, faults: &mut Vec<Diagnostic>) -> Option<Tree> {
    let text = Arc::clone(&sources.get(source).text);
    read(&text, Span { source, start: 0, length: 0 }, faults)
}

/// Reads the text of `value`, a part of a source that starts at `start`: a flow list, a flow map or a quoted text if it
/// begins like one, else a plain scalar.
pub fn parse_inline(value: &str, start: Span, faults: &mut Vec<Diagnostic>) -> Option<Tree> {
    if value.starts_with(['[', '{', '"', '\'']) {
        return read(value, start, faults);
    }
    let span = Span { length: u32::try_from(value.len()).unwrap_or(u32::MAX), ..start };
    resolve_plain(value)
        .map(|resolved| Tree::new(span, resolved))
        .map_err(|message| faults.push(Diagnostic::at(span, message)))
        .ok()
}

fn read(text: &str, base: Span, faults: &mut Vec<Diagnostic>) -> Option<Tree> {
    if let Err(fault) = scan(text, base) {
        faults.push(fault);
        return None;
    }
    let bytes = if text.is_ascii() {
        Vec::new()
    } else {
        let ends = std::iter::once(text.len() as u32);
        text.char_indices().map(|(at, _)| at as u32).chain(ends).collect()
    };
    let mut reader = Reader { parser: Parser::new_from_str(text), text, base, bytes, values: 0, faults };
    match reader.document() {
        Ok(tree) => Some(tree),
        Err(fault) => {
            reader.faults.push(*fault);
            None
        }
    }
}

/// What can be told from the characters alone, before any parser sees them.
fn scan(text: &str, base: Span) -> Result<(), Diagnostic> {
    let at = |start: usize| Span { start: base.start + start as u32, length: 1, ..base };
    if text.len() > MAX_BYTES {
        return Err(Diagnostic::at(at(0), format!("the file is larger than {} KiB", MAX_BYTES / 1024))
            .help("data belongs in files of its own, which a node names in its `with:`"));
    }
    let mut line_start = true;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'\t' if line_start => {
                return Err(Diagnostic::at(at(index), "a line starts with a tab").help("indent with spaces"));
            }
            0..0x20 | 0x7f if !matches!(byte, b'\t' | b'\n' | b'\r') => {
                return Err(Diagnostic::at(at(index), format!("control character {byte:#04x}"))
                    .help("write it as an escape in a double-quoted text, such as \"\\x1b\""));
            }
            _ => {}
        }
        line_start = byte == b'\n';
    }
    Ok(())
}

/// What a plain scalar means, by serde_yaml's rules.
fn resolve_plain(text: &str) -> Result<Value, String> {
    /// No number, boolean or null that serde_yaml knows is longer in practice; longer scalars are text.
    const LONGEST: usize = 64;
    let typed = text.is_empty()
        || text.starts_with(|first: char| first.is_ascii_digit() || "+-.~nNtTfF".contains(first));
    if !typed || text.len() > LONGEST || text.contains(char::is_whitespace) {
        return Ok(Value::Text(text.into()));
    }
    match serde_yaml::from_str::<serde_yaml::Value>(text) {
        Ok(serde_yaml::Value::Null) => Ok(Value::Null),
        Ok(serde_yaml::Value::Bool(value)) => Ok(Value::Bool(value)),
        Ok(serde_yaml::Value::Number(number)) => {
            let json = match (number.as_u64(), number.as_i64()) {
                (Some(value), _) => Some(value.into()),
                (None, Some(value)) => Some(value.into()),
                (None, None) => number.as_f64().and_then(Number::from_f64),
            };
            let number = json.ok_or_else(|| format!("`{text}` is not a finite number"))?;
            Ok(Value::Number(number, text.into()))
        }
        // An integer beyond 64 bits is an error to serde_yaml's `Value`; it must not become text in silence.
        Err(_) if text.trim_start_matches(['+', '-']).bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(format!("`{text}` does not fit into 64 bits"))
        }
        Ok(_) | Err(_) => Ok(Value::Text(text.into())),
    }
}

/// Builds a tree from events.
struct Reader<'a, 'f> {
    parser: Parser<'a, StrInput<'a>>,
    text: &'a str,
    base: Span,
    /// Byte offset of each character; empty for ASCII text, where they are the same.
    bytes: Vec<u32>,
    values: usize,
    faults: &'f mut Vec<Diagnostic>,
}

type Read<T> = Result<T, Box<Diagnostic>>;

impl<'a> Reader<'a, '_> {
    fn document(&mut self) -> Read<Tree> {
        let mut found = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::DocumentStart(_) if found.is_some() => {
                    return refuse(
                        Diagnostic::at(span, "a second document starts here")
                            .help("a file holds one experiment; `extends:` joins files"),
                    );
                }
                Event::DocumentStart(_) => {
                    let first = self.next()?;
                    found = Some(self.tree(first, 0)?);
                }
                _ => return refuse(Diagnostic::at(span, "the document has already ended")),
            }
        }
        Ok(found.unwrap_or_else(|| Tree::new(self.base, Value::Null)))
    }

    fn next(&mut self) -> Read<(Event<'a>, Span)> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => {
                let span = self.span(span.start, span.end);
                Ok((event, span))
            }
            Some(Err(error)) => {
                let span = self.span(*error.marker(), *error.marker());
                // The scanner looks ahead, and has a limit of its own.
                if error.info().contains("recursion limit") {
                    return refuse(too_deep(span));
                }
                refuse(Diagnostic::at(span, format!("this is not valid YAML: {}", error.info())))
            }
            None => Ok((Event::StreamEnd, self.base)),
        }
    }

    fn tree(&mut self, (event, span): (Event<'a>, Span), depth: usize) -> Read<Tree> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return refuse(
                Diagnostic::at(span, format!("the file holds more than {MAX_VALUES} values"))
                    .help("large graphs come from axes, such as `shard: { range: 1000 }`"),
            );
        }
        if depth > MAX_DEPTH {
            return refuse(too_deep(span));
        }
        let (anchor, tag) = match &event {
            Event::Scalar(_, _, anchor, tag)
            | Event::SequenceStart(anchor, tag)
            | Event::MappingStart(anchor, tag) => (*anchor, tag),
            Event::Alias(_) => (1, &None),
            _ => return refuse(Diagnostic::at(span, "a value is expected here")),
        };
        if anchor > 0 {
            return refuse(
                Diagnostic::at(span, "anchors and aliases are not supported")
                    .help("put the value under `params:` and write `$(its.name)` where it is used"),
            );
        }
        if let Some(tag) = tag {
            return refuse(
                Diagnostic::at(span, format!("the tag `{tag}` is not supported"))
                    .help("write the value without it; quotes make a text"),
            );
        }
        match event {
            Event::Scalar(text, style, ..) => {
                let value = match style {
                    ScalarStyle::Plain => resolve_plain(&text).unwrap_or_else(|message| {
                        self.faults.push(Diagnostic::at(span, message));
                        Value::Null
                    }),
                    _ => Value::Text(text.as_ref().into()),
                };
                Ok(Tree::new(span, value))
            }
            Event::SequenceStart(..) => self.list(span, depth),
            _ => self.map(span, depth),
        }
    }

    fn list(&mut self, start: Span, depth: usize) -> Read<Tree> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Tree::new(self.enclosing(start, span), Value::List(Arc::new(items))));
            }
            items.push(self.tree((event, span), depth + 1)?);
        }
    }

    fn map(&mut self, start: Span, depth: usize) -> Read<Tree> {
        let mut map = Map::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Tree::new(self.enclosing(start, span), Value::Map(Arc::new(map))));
            }
            let name: Arc<str> = match &event {
                Event::Scalar(text, style, 0, None) => {
                    if &**text == "<<" && *style == ScalarStyle::Plain {
                        return refuse(
                            Diagnostic::at(span, "merge keys are not supported")
                                .help("`extends:`, profiles and `$(…)` share values"),
                        );
                    }
                    text.as_ref().into()
                }
                Event::SequenceStart(..) | Event::MappingStart(..) => {
                    return refuse(Diagnostic::at(span, "a key must be a plain word or a text"));
                }
                // An anchored, tagged or aliased key: the common checks say what is wrong with it.
                _ => self.tree((event, span), depth + 1)?.scalar_text().unwrap_or_default(),
            };
            let value = self.next()?;
            let tree = self.tree(value, depth + 1)?;
            match map.entry(name) {
                Entry::Vacant(entry) => {
                    entry.insert(Field { key: span, tree });
                }
                Entry::Occupied(entry) => self.faults.push(
                    Diagnostic::at(span, format!("the key `{}` is given twice", entry.key()))
                        .label("the second time")
                        .related(entry.get().key, "the first time"),
                ),
            }
        }
    }

    /// The span of a collection: up to its closing bracket, or its first line where it has none.
    fn enclosing(&self, start: Span, end: Span) -> Span {
        let from = (start.start - self.base.start) as usize;
        if self.text[from..].starts_with(['[', '{']) {
            return Span { length: (end.start + end.length).saturating_sub(start.start), ..start };
        }
        let line = self.text[from..].lines().next().unwrap_or("");
        Span { length: line.len() as u32, ..start }
    }

    fn span(&self, start: Marker, end: Marker) -> Span {
        let byte = |marker: Marker| {
            let index = marker.index();
            if self.bytes.is_empty() {
                index.min(self.text.len()) as u32
            } else {
                self.bytes[index.min(self.bytes.len() - 1)]
            }
        };
        let (from, to) = (byte(start), byte(end));
        let length = self.text.get(from as usize..to as usize).map_or(0, |text| text.trim_end().len());
        Span { source: self.base.source, start: self.base.start + from, length: length as u32 }
    }
}

fn too_deep(span: Span) -> Diagnostic {
    Diagnostic::at(span, format!("lists and maps nest deeper than {MAX_DEPTH} levels"))
}

fn refuse<T>(diagnostic: Diagnostic) -> Read<T> {
    Err(Box::new(diagnostic))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::spec::diagnostic::Diagnostics;

    fn read_text(text: &str) -> (Option<Tree>, Diagnostics) {
        let mut sources = Sources::default();
        let source = sources.add("x.yaml", Path::new(""), text);
        let mut faults = Vec::new();
        let tree = parse(&sources, source, &mut faults);
        (tree, Diagnostics::new(Arc::new(sources), faults))
    }

    #[test]
    fn scalars_mean_what_serde_yaml_says() {
        let text = "[1, -2, 1e-6, 5e-7, 1e3, .5, 0x1f, 0o17, 0123, on, no, yes, true, True, null, ~, '', '1', \"true\", 1_000, 2024-01-01, 12:30, n, nemo, -x, $(a), a b]";
        let ours = read_text(text).0.unwrap().to_json();
        let theirs: serde_json::Value = serde_yaml::from_str(text).unwrap();
        assert_eq!(ours, theirs);
        assert_eq!(ours[2], json!(1e-6));
        assert_eq!(ours[9], json!("on"));
    }

    #[test]
    fn numbers_keep_how_they_were_written() {
        let tree = read_text("[5e-7, 1.10]").0.unwrap();
        let Value::List(items) = &tree.value else { panic!("a list") };
        assert_eq!(items[0].scalar_text().as_deref(), Some("5e-7"));
        assert_eq!(items[1].scalar_text().as_deref(), Some("1.10"));
    }

    #[test]
    fn spans_are_those_of_the_text() {
        let text = "é: [ä, 'b c']\nmap:\n  key: |\n    block\n  flow: { a: 1 }\n";
        let mut sources = Sources::default();
        let source = sources.add("x.yaml", Path::new(""), text);
        let tree = parse(&sources, source, &mut Vec::new()).unwrap();
        let slice = |pointer: &str| sources.slice(tree.pointer(pointer).unwrap().1.span);
        assert_eq!(slice("/é/0"), "ä");
        assert_eq!(slice("/é/1"), "'b c'");
        assert_eq!(slice("/é"), "[ä, 'b c']");
        assert_eq!(slice("/map/flow"), "{ a: 1 }");
        assert_eq!(slice("/map/flow/a"), "1");
        assert_eq!(sources.slice(tree.pointer("/map/key").unwrap().0), "key");
        assert_eq!(slice("/map"), "key: |");
    }

    #[test]
    fn faults_that_allow_going_on_are_collected() {
        let (tree, faults) = read_text("a: 1\nb: .nan\na: 2\nc: 99999999999999999999999\n");
        assert!(tree.is_some());
        insta::assert_snapshot!(faults.to_string(), @r"
        error: `.nan` is not a finite number
         --> x.yaml:2:4
          |
        2 | b: .nan
          |    ^^^^

        error: the key `a` is given twice
         --> x.yaml:3:1
          |
        3 | a: 2
          | ^ the second time
          note: the first time
         --> x.yaml:1:1
          |
        1 | a: 1
          | ^

        error: `99999999999999999999999` does not fit into 64 bits
         --> x.yaml:4:4
          |
        4 | c: 99999999999999999999999
          |    ^^^^^^^^^^^^^^^^^^^^^^^
        ");
    }

    #[test]
    fn bombs_are_refused_fast() {
        let laughs: Vec<String> =
            (1..9).map(|level| format!("a{level}: &a{level} [*a{0}, *a{0}, *a{0}]\n", level - 1)).collect();
        let laughs = laughs.concat();
        let keys: Vec<String> = (0..90_000).map(|key| format!("{key}:\n")).collect();
        let bombs = [
            ("aliases", format!("a0: &a0 lol\n{laughs}"), "anchors and aliases"),
            (
                "one anchor",
                format!("a: &a {}\nb: [{}]", "x".repeat(500_000), "*a, ".repeat(1000)),
                "anchors and aliases",
            ),
            ("alias key", "*a : 1".into(), ""),
            ("merge", "a: { <<: { b: 1 } }".into(), "merge keys"),
            ("open brackets", "[".repeat(1_000_000), "nest deeper"),
            ("brackets", "[".repeat(100_000) + &"]".repeat(100_000), "nest deeper"),
            ("braces", "{a: ".repeat(100_000), "nest deeper"),
            ("block", (0..1000).map(|depth| " ".repeat(depth) + "a:\n").collect(), "nest deeper"),
            ("dashes", "- ".repeat(100_000), "nest deeper"),
            ("size", "a".repeat(MAX_BYTES + 1), "larger than"),
            ("values", "a,".repeat(300_000).replacen('a', "[a", 1), "more than"),
            ("numbers", "1,".repeat(300_000).replacen('1', "[1", 1), "more than"),
            ("lines", "- 1\n".repeat(250_000), "more than"),
            ("one long scalar", "a".repeat(1_000_000), ""),
            ("one long quoted", format!("\"{}\"", "\\n".repeat(500_000)), ""),
            ("long lines of spaces", " ".repeat(1_000_000), ""),
            ("comments", "#\n".repeat(500_000), ""),
            ("keys", keys.concat(), ""),
            ("question marks", "? ".repeat(500_000), ""),
            ("colons", ": ".repeat(500_000), ""),
            ("quotes", "'".repeat(1_000_000), ""),
            ("percent", "%".repeat(1_000_000), ""),
            ("document", "--- a\n".repeat(100_000), "second document"),
            ("tag", "a: !!python/object:os.system x".into(), "tag"),
            ("nul", "a: \0".into(), "control character"),
            ("tab", "a:\n\tb: 1".into(), "starts with a tab"),
        ];
        for (name, text, expected) in bombs {
            let start = Instant::now();
            let (_, faults) = read_text(&text);
            let took = start.elapsed();
            // Each takes milliseconds; the bound leaves room for a busy machine.
            assert!(took < Duration::from_secs(10), "{name} took {took:?}");
            assert!(faults.to_string().contains(expected), "{name}: {faults}");
            assert!(expected.is_empty() || faults.has_errors(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[\\[\\]{}:,?&*!|>'\"%@`#\\- \na-c0-9é$()~.]{0,200}") {
            let (tree, faults) = read_text(&text);
            prop_assert!(tree.is_some() || faults.has_errors());
            let _ = faults.to_string();
        }

        #[test]
        fn an_inline_value_is_typed_as_in_a_file(text in "[-+0-9a-z.~]{0,12}") {
            let start = Span { source: Sources::default().add("--set", Path::new(""), &text), start: 0, length: 0 };
            let mut faults = Vec::new();
            let inline = parse_inline(&text, start, &mut faults).map(|tree| tree.to_json());
            let file: Result<serde_json::Value, _> = serde_yaml::from_str(&format!("[{text}]"));
            if let (Some(inline), Ok(file)) = (inline, file) {
                prop_assert!(text.is_empty() || inline == file[0], "{} {}", inline, file);
            }
        }
    }
}
