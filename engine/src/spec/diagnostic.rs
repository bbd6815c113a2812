//! `Diagnostic`: a fault with its place, what to do about it, and "did you mean"; `Diagnostics`: all faults of a file.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use super::source::{Place, Sources, Span};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The experiment cannot be compiled.
    Error,
    /// It can, but something looks like a mistake.
    Warning,
}

/// One fault of an experiment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// Where, and what to write under it. `None` where no text is at fault, such as a file that is not there.
    pub span: Option<(Span, String)>,
    /// What to do about it.
    pub help: Vec<String>,
    /// Other places that matter, and why.
    pub related: Vec<(Span, String)>,
}

impl Diagnostic {
    /// An error without a place.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            span: None,
            help: Vec::new(),
            related: Vec::new(),
        }
    }

    /// An error at `span`.
    pub fn at(span: Span, message: impl Into<String>) -> Self {
        Self { span: Some((span, String::new())), ..Self::new(message) }
    }

    /// A warning at `span`.
    pub fn warning(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::at(span, message) }
    }

    /// Writes `label` under the place.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        if let Some((_, text)) = &mut self.span {
            *text = label.into();
        }
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// Adds another place that matters.
    #[must_use]
    pub fn related(mut self, span: Span, why: impl Into<String>) -> Self {
        self.related.push((span, why.into()));
        self
    }

    /// Adds "did you mean" if one of `candidates` is like `typed`, else the list of them if it is short.
    #[must_use]
    pub fn suggest<'a>(self, typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Self {
        /// A longer list is no help.
        const LISTED: usize = 12;
        let mut candidates: Vec<&str> = candidates.into_iter().collect();
        if let Some(best) = closest(typed, candidates.iter().copied()) {
            return self.help(format!("did you mean `{best}`?"));
        }
        let mut seen = BTreeSet::new();
        candidates.retain(|candidate| seen.insert(*candidate));
        if candidates.is_empty() || candidates.len() > LISTED {
            return self;
        }
        let listed: Vec<_> = candidates.iter().map(|name| format!("`{name}`")).collect();
        self.help(format!("there is {}", listed.join(", ")))
    }

    fn to_json(&self, sources: &Sources) -> Value {
        let place = |span: Span| {
            let place = sources.place(span);
            json!({ "file": place.file, "line": place.line, "column": place.column, "length": place.length })
        };
        json!({
            "severity": self.severity,
            "message": self.message,
            "place": self.span.as_ref().map(|(span, _)| place(*span)),
            "text": self.span.as_ref().map(|(span, _)| sources.slice(*span)),
            "label": self.span.as_ref().map(|(_, label)| label).filter(|label| !label.is_empty()),
            "help": self.help,
            "related": self.related.iter()
                .map(|(span, why)| json!({ "place": place(*span), "why": why }))
                .collect::<Vec<_>>(),
        })
    }

    fn write(&self, sources: &Sources, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{severity}: {}", self.message)?;
        if let Some((span, label)) = &self.span {
            write_place(&sources.place(*span), label, f)?;
        }
        for (span, why) in &self.related {
            let place = sources.place(*span);
            writeln!(f, "  note: {why}")?;
            write_place(&place, "", f)?;
        }
        for help in &self.help {
            writeln!(f, "  help: {help}")?;
        }
        Ok(())
    }
}

/// The candidate that `typed` was probably meant to be.
pub fn closest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = typed.chars().count();
    // At least one letter must be right.
    let allowed = (length / 3).clamp(1, 4).min(length.saturating_sub(1));
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(typed, candidate), candidate))
        .filter(|(distance, _)| (1..=allowed).contains(distance))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The line of a place with a mark under the span, as compilers show it.
fn write_place(place: &Place<'_>, label: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    /// Longer lines are shown around the place only.
    const WIDTH: usize = 120;
    let column = place.column as usize - 1;
    let skip = if column > WIDTH * 2 / 3 { column - WIDTH / 3 } else { 0 };
    let shown: String = place
        .text
        .chars()
        .skip(skip)
        .take(WIDTH)
        .map(|char| if char.is_control() { ' ' } else { char })
        .collect();
    let number = place.line.to_string();
    let gutter = " ".repeat(number.len());
    let indent = " ".repeat(column - skip);
    let marks = "^".repeat((place.length as usize).clamp(1, WIDTH.saturating_sub(column - skip).max(1)));
    writeln!(f, "{gutter}--> {}:{}:{}", place.file, place.line, place.column)?;
    writeln!(f, "{gutter} |")?;
    writeln!(f, "{number} | {}", shown.trim_end())?;
    writeln!(f, "{gutter} | {}", format!("{indent}{marks} {label}").trim_end())
}

/// All that was found wrong with an experiment, in the order of its text.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Diagnostics {
    sources: Arc<Sources>,
    items: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Sorts `items` by place, and says of many at one place only the first few.
    pub fn new(sources: Arc<Sources>, mut items: Vec<Diagnostic>) -> Self {
        /// One wrong line that an axis repeats a thousand times is one fault to its author.
        const SHOWN_PER_PLACE: usize = 2;
        items.sort_by(|a, b| {
            let key = |item: &Diagnostic| (item.severity, item.span.as_ref().map(|(span, _)| *span));
            key(a).cmp(&key(b)).then_with(|| a.message.cmp(&b.message))
        });
        items.dedup();
        let mut kept: Vec<Diagnostic> = Vec::new();
        let mut same = 0;
        let mut left_out = 0;
        for item in items {
            let repeats = item.span.is_some()
                && kept.last().is_some_and(|last| {
                    last.span.as_ref().map(|(span, _)| *span) == item.span.as_ref().map(|(span, _)| *span)
                        && gist(&last.message) == gist(&item.message)
                });
            same = if repeats { same + 1 } else { 1 };
            if same > SHOWN_PER_PLACE {
                left_out += 1;
                continue;
            }
            note_left_out(&mut kept, std::mem::take(&mut left_out));
            kept.push(item);
        }
        note_left_out(&mut kept, left_out);
        Self { sources, items: kept }
    }

    /// One fault that has no place.
    pub fn without_place(message: impl Into<String>, help: Option<String>) -> Self {
        let mut item = Diagnostic::new(message);
        item.help.extend(help);
        Self { sources: Arc::default(), items: vec![item] }
    }

    /// The diagnostics, errors first.
    pub fn items(&self) -> &[Diagnostic] {
        &self.items
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether any is an error.
    pub fn has_errors(&self) -> bool {
        self.items.iter().any(|item| item.severity == Severity::Error)
    }

    /// How many are errors.
    pub fn error_count(&self) -> usize {
        self.items.iter().filter(|item| item.severity == Severity::Error).count()
    }

    /// The place of a diagnostic.
    pub fn place(&self, item: &Diagnostic) -> Option<Place<'_>> {
        item.span.as_ref().map(|(span, _)| self.sources.place(*span))
    }

    /// As JSON: an array of objects with severity, message, place, text, label, help and related places.
    pub fn to_json(&self) -> Value {
        self.items.iter().map(|item| item.to_json(&self.sources)).collect()
    }
}

/// A message without the names and numbers in it.
fn gist(message: &str) -> String {
    let outside = message.split('`').step_by(2).collect::<String>();
    outside.chars().filter(|char| !char.is_ascii_digit()).collect()
}

fn note_left_out(kept: &mut [Diagnostic], left_out: usize) {
    if let Some(last) = kept.last_mut().filter(|_| left_out > 0) {
        last.help.push(format!("{left_out} more faults like this are at the same place"));
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.items.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            item.write(&self.sources, f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn sources(text: &str) -> (Arc<Sources>, impl Fn(u32, u32) -> Span + use<>) {
        let mut sources = Sources::default();
        let source = sources.add("x.yaml", Path::new(""), text);
        (Arc::new(sources), move |start, length| Span { source, start, length })
    }

    #[test]
    fn a_diagnostic_shows_its_line() {
        let (sources, span) = sources("nodes:\n  packs: { tsak: pack }\n");
        let item = Diagnostic::at(span(18, 4), "a node has no field `tsak`")
            .label("no such field")
            .related(span(0, 5), "in these nodes")
            .suggest("tsak", ["task", "with"]);
        insta::assert_snapshot!(Diagnostics::new(sources, vec![item]).to_string(), @r"
        error: a node has no field `tsak`
         --> x.yaml:2:12
          |
        2 |   packs: { tsak: pack }
          |            ^^^^ no such field
          note: in these nodes
         --> x.yaml:1:1
          |
        1 | nodes:
          | ^^^^^
          help: did you mean `task`?
        ");
    }

    #[test]
    fn a_long_line_is_shown_around_the_place() {
        let (sources, span) = sources(&format!("{}HERE{}", "a".repeat(1000), "b".repeat(1000)));
        let text = Diagnostics::new(sources, vec![Diagnostic::at(span(1000, 4), "wrong")]).to_string();
        assert!(text.lines().all(|line| line.len() < 140), "{text}");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[3].find("HERE"), lines[4].find("^^^^"));
    }

    #[test]
    fn repeats_at_one_place_are_counted() {
        let (sources, span) = sources("shard: 1\n");
        let items =
            (0..1000).map(|shard| Diagnostic::at(span(0, 5), format!("shard {shard:04} is wrong"))).collect();
        let diagnostics = Diagnostics::new(sources, items);
        assert_eq!(diagnostics.items().len(), 2);
        assert_eq!(diagnostics.items()[1].help, ["998 more faults like this are at the same place"]);
    }

    #[test]
    fn suggestions_need_likeness() {
        assert_eq!(closest("max_token", ["min_tokens", "max_tokens"]), Some("max_tokens"));
        assert_eq!(closest("teacher", ["judge", "take"]), None);
        assert_eq!(closest("same", ["same"]), None);
    }
}
