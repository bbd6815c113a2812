//! Sources: the texts an experiment is read from, and spans of them.
//!
//! A `--set` is a source of its own, so that a fault in it is shown like any other. A source also knows the folder that
//! relative paths written in it start from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One text: a file, or a value given on the command line.
#[derive(Debug, Clone)]
pub struct Source {
    /// How the user knows it: a path as typed, or `--set`.
    pub name: Arc<str>,
    /// Where relative paths written in it start.
    pub directory: PathBuf,
    /// The text.
    pub text: Arc<str>,
    /// Where each line begins: every node is placed, so lines are not counted anew for each.
    lines: Vec<u32>,
}

/// Which source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceId(u32);

/// A stretch of a source, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The source.
    pub source: SourceId,
    /// Where it starts.
    pub start: u32,
    /// How long it is.
    pub length: u32,
}

/// A span as people read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place<'a> {
    /// The name of the source.
    pub file: &'a Arc<str>,
    /// Line, from one.
    pub line: u32,
    /// Column in characters, from one.
    pub column: u32,
    /// Characters of the span that are on its first line.
    pub length: u32,
    /// The whole of that line.
    pub text: &'a str,
}

/// All sources of an experiment.
#[derive(Debug, Clone, Default)]
pub struct Sources(Vec<Source>);

impl Sources {
    /// Adds a source.
    ///
    /// # Panics
    /// At 2^32 sources.
    pub fn add(&mut self, name: &str, directory: &Path, text: &str) -> SourceId {
        let id = SourceId(u32::try_from(self.0.len()).expect("an experiment has few sources"));
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at as u32 + 1);
        let lines = std::iter::once(0).chain(ends).collect();
        self.0.push(Source { name: name.into(), directory: directory.to_owned(), text: text.into(), lines });
        id
    }

    /// The source `id`.
    pub fn get(&self, id: SourceId) -> &Source {
        &self.0[id.0 as usize]
    }

    /// The text of `span`.
    pub fn slice(&self, span: Span) -> &str {
        let text = &self.get(span.source).text;
        text.get(span.start as usize..(span.start + span.length) as usize).unwrap_or("")
    }

    /// Where `span` is.
    pub fn place(&self, span: Span) -> Place<'_> {
        let source = self.get(span.source);
        let start = (span.start as usize).min(source.text.len());
        let line = source.lines.partition_point(|&begins| begins as usize <= start);
        let line_start = source.lines[line - 1] as usize;
        let line_end = source.text[start..].find('\n').map_or(source.text.len(), |at| start + at);
        let end = (start + span.length as usize).min(line_end);
        let count = |text: &str| u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
        Place {
            file: &source.name,
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: 1 + count(&source.text[line_start..start]),
            length: count(source.text[start..end].trim_end()),
            text: source.text[line_start..line_end].trim_end_matches('\r'),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_characters_and_stops_at_the_end_of_the_line() {
        let mut sources = Sources::default();
        let source = sources.add("x.yaml", Path::new(""), "é: 1\nkéy: välue  \nz: 2\n");
        let place = sources.place(Span { source, start: 12, length: 100 });
        assert_eq!((place.line, place.column, place.length, place.text), (2, 6, 5, "kéy: välue  "));
        assert_eq!(sources.slice(Span { source, start: 12, length: 6 }), "välue");
        let line = |start| sources.place(Span { source, start, length: 1 }).line;
        assert_eq!([2, 5, 6, 20, 21, 26, 99].map(line), [1, 1, 2, 2, 3, 4, 4]);
    }
}
