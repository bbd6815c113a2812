//! `Text`: words with styles, made safe for a terminal when they are rendered.
//!
//! Names, errors and above all responses of models come from outside and may hold escape sequences. They are therefore
//! never mixed with our own: a `Text` keeps pieces apart from their style, and rendering escapes every control
//! character of a piece before it adds colour.

use std::borrow::Cow;
use std::fmt::Write as _;

use unicode_width::UnicodeWidthChar;

/// How a piece of text is set off. Colour is never the only carrier of a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Bold,
    Faint,
    Good,
    Warn,
    Bad,
    Accent,
}

impl Style {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "1",
            Self::Faint => "2",
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "1;31",
            Self::Accent => "36",
        }
    }
}

/// Pieces of text, each with its style.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text(Vec<(Style, String)>);

impl Text {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    fn with(mut self, style: Style, piece: impl AsRef<str>) -> Self {
        self.0.push((style, piece.as_ref().to_owned()));
        self
    }

    /// Adds plain text.
    #[must_use]
    pub fn plain(self, piece: impl AsRef<str>) -> Self {
        self.with(Style::Plain, piece)
    }

    /// Adds bold text.
    #[must_use]
    pub fn bold(self, piece: impl AsRef<str>) -> Self {
        self.with(Style::Bold, piece)
    }

    /// Adds faint text.
    #[must_use]
    pub fn faint(self, piece: impl AsRef<str>) -> Self {
        self.with(Style::Faint, piece)
    }

    /// Adds text about something good.
    #[must_use]
    pub fn good(self, piece: impl AsRef<str>) -> Self {
        self.with(Style::Good, piece)
    }

    /// Adds text about something to look at.
    #[must_use]
    pub fn warn(self, piece: impl AsRef<str>) -> Self {
        self.with(Style::Warn, piece)
    }

    /// Adds text about something bad.
    #[must_use]
    pub fn bad(self, piece: impl AsRef<str>) -> Self {
        self.with(Style::Bad, piece)
    }

    /// Adds text that is set off.
    #[must_use]
    pub fn accent(self, piece: impl AsRef<str>) -> Self {
        self.with(Style::Accent, piece)
    }

    /// Ends the line.
    #[must_use]
    pub fn line(self) -> Self {
        self.plain("\n")
    }

    /// Adds spaces until the last line is `column` wide.
    #[must_use]
    pub fn pad_to(self, column: usize) -> Self {
        let missing = column.saturating_sub(self.last_line_width());
        self.plain(" ".repeat(missing))
    }

    /// Adds `other`.
    #[must_use]
    pub fn then(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|(_, piece)| piece.is_empty())
    }

    fn last_line_width(&self) -> usize {
        let mut total = 0;
        for (_, piece) in self.0.iter().rev() {
            let safe = inert(piece);
            let (earlier, last) = safe.rsplit_once('\n').map_or((false, &*safe), |(_, last)| (true, last));
            total += width(last);
            if earlier {
                break;
            }
        }
        total
    }

    /// The bytes for a terminal or a file: control characters escaped, colour where wanted.
    pub fn render(&self, color: bool) -> String {
        let mut out = String::new();
        for (style, piece) in &self.0 {
            let safe = inert(piece);
            if color && *style != Style::Plain {
                let _ = write!(out, "\x1b[{}m{safe}\x1b[0m", style.code());
            } else {
                out.push_str(&safe);
            }
        }
        out
    }

    /// The same, every line cut to `columns`: what a live region may write without the terminal wrapping it.
    pub fn render_lines(&self, color: bool, columns: usize) -> Vec<String> {
        let mut lines = vec![(String::new(), 0)];
        for (style, piece) in &self.0 {
            for (index, part) in inert(piece).split('\n').enumerate() {
                if index > 0 {
                    lines.push((String::new(), 0));
                }
                let Some((line, used)) = lines.last_mut() else { continue };
                let shown = clip(part, columns.saturating_sub(*used));
                *used += width(&shown);
                if color && *style != Style::Plain && !shown.is_empty() {
                    let _ = write!(line, "\x1b[{}m{shown}\x1b[0m", style.code());
                } else {
                    line.push_str(&shown);
                }
            }
        }
        if lines.last().is_some_and(|(line, _)| line.is_empty()) {
            lines.pop();
        }
        lines.into_iter().map(|(line, _)| line).collect()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::new().plain(text)
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::new().plain(text)
    }
}

/// The columns that `text` takes.
pub fn width(text: &str) -> usize {
    text.chars().filter_map(UnicodeWidthChar::width).sum()
}

/// `text` cut to at most `columns`, with an ellipsis where something was cut.
pub fn clip(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    let mut used = 0;
    let kept: String = text
        .chars()
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used < columns
        })
        .collect();
    Cow::Owned(if columns == 0 { String::new() } else { kept + "…" })
}

/// How many marks may sit on one character before the rest is dropped; more than any script needs.
const MARKS: usize = 8;

/// `text` with everything escaped that a terminal would obey instead of showing: control characters but for line
/// feed and tab, and the characters that reorder or hide text. Long heaps of combining marks are cut.
pub fn inert(text: &str) -> Cow<'_, str> {
    let mut marks = 0;
    let mut heaped = |c: char| {
        marks = if !c.is_control() && c.width() == Some(0) { marks + 1 } else { 0 };
        marks > MARKS
    };
    if text.is_ascii() && !text.bytes().any(|byte| obeyed(char::from(byte))) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if obeyed(c) {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        } else if !heaped(c) {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Whether a terminal obeys the character instead of showing it.
pub fn obeyed(c: char) -> bool {
    let reorders =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (c.is_control() && c != '\n' && c != '\t')
        || reorders
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_instead() {
        let hostile = "a\x1b[2Jb\x1b]52;c;aGk=\x07c\rd\u{9b}31me\u{202e}f\tg\nh";
        let shown = Text::from(hostile).render(true);
        assert!(shown.chars().all(|c| !obeyed(c)), "{shown:?}");
        assert_eq!(inert("\x1b[2J"), "\\u{1b}[2J");
        assert_eq!(inert("tab\tand\nline"), "tab\tand\nline");
    }

    #[test]
    fn a_heap_of_marks_is_cut_and_real_scripts_are_not() {
        let heap = format!("a{}", "\u{301}".repeat(10_000));
        assert!(inert(&heap).chars().count() < 20);
        assert_eq!(inert("é ā̂ 한글 العربية"), "é ā̂ 한글 العربية");
    }

    #[test]
    fn colour_goes_around_the_words_only_when_wanted() {
        let text = Text::new().bad("no").plain(" yes").line();
        assert_eq!(text.render(false), "no yes\n");
        assert_eq!(text.render(true), "\x1b[1;31mno\x1b[0m yes\n");
    }

    #[test]
    fn lines_are_cut_to_the_terminal() {
        let text = Text::new().plain("abc").bold("defgh").line().plain("漢字漢字").line();
        assert_eq!(text.render_lines(false, 5), ["abcd…", "漢字…"]);
        assert_eq!(
            text.pad_to(3),
            Text::new().plain("abc").bold("defgh").line().plain("漢字漢字").line().plain("   ")
        );
    }
}
