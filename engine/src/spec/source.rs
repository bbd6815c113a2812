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
        self.0.push(Source { name: name.into(), directory: directory.to_owned(), text: text.into() });
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
        let line_start = source.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = source.text[start..].find('\n').map_or(source.text.len(), |at| start + at);
        let end = (start + span.length as usize).min(line_end);
        let count = |text: &str| u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
        Place {
            file: &source.name,
            line: 1 + u32::try_from(source.text[..line_start].matches('\n').count()).unwrap_or(u32::MAX - 1),
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
    }
}
