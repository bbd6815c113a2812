//! The one place that writes to stdout and stderr: data to stdout, everything else to stderr.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::args::ColorChoice;
use crate::failure::Failure;
use crate::text::{Text, obeyed};

/// Writes to the two streams. A reader that goes away (`dag show … | head`) is not an error: nothing more is written.
pub struct Printer {
    out_color: bool,
    error_color: bool,
    closed: AtomicBool,
}

impl Printer {
    /// Colour by `choice`; `no_color` is whether the environment asks for none.
    pub fn new(choice: ColorChoice, no_color: bool) -> Self {
        let wanted = |terminal: bool| match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => terminal && !no_color,
        };
        Self {
            out_color: wanted(io::stdout().is_terminal()),
            error_color: wanted(io::stderr().is_terminal()),
            closed: AtomicBool::new(false),
        }
    }

    /// Writes data.
    pub fn data(&self, text: &Text) -> Result<(), Failure> {
        self.data_bytes(text.render(self.out_color).as_bytes())
    }

    /// Writes one value as JSON, indented for people on a terminal and for `diff`.
    pub fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(|error| Failure::failed(error.to_string()))?;
        self.data_bytes((escape_json(text) + "\n").as_bytes())
    }

    /// Writes one value as one line of JSON.
    pub fn json_line(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|error| Failure::failed(error.to_string()))?;
        self.data_bytes((escape_json(text) + "\n").as_bytes())
    }

    /// Writes many values, each as one line of JSON, at once.
    pub fn json_lines(&self, values: &[impl Serialize]) -> Result<(), Failure> {
        let mut lines = String::new();
        for value in values {
            lines += &serde_json::to_string(value).map_err(|error| Failure::failed(error.to_string()))?;
            lines.push('\n');
        }
        self.data_bytes(escape_json(lines).as_bytes())
    }

    fn data_bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        if self.closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(Failure::failed(format!("failed to write to stdout: {error}"))),
        }
    }

    /// Tells something to the person at the terminal. A stderr that is gone changes nothing.
    pub fn note(&self, text: &Text) {
        self.raw_note(&text.render(self.error_color));
    }

    /// Writes bytes that are rendered already, such as a redrawn region, to stderr.
    #[expect(clippy::unused_self, reason = "only who holds the printer may write")]
    pub fn raw_note(&self, rendered: &str) {
        let _ = io::stderr().lock().write_all(rendered.as_bytes());
    }

    /// Whether what goes to stderr may have colour.
    pub fn note_color(&self) -> bool {
        self.error_color
    }

    /// The columns of the terminal that stderr is; `None` where it is none or too small to draw on.
    #[expect(clippy::unused_self, reason = "only who holds the printer may ask where it prints")]
    pub fn live_size(&self) -> Option<(usize, usize)> {
        let (width, height) = terminal_size::terminal_size_of(io::stderr())?;
        let size = (usize::from(width.0), usize::from(height.0));
        (size.0 >= 40 && size.1 >= 8).then_some(size)
    }
}

/// serde_json escapes the ASCII controls; the other characters that a terminal obeys can only stand in strings, where
/// an escape means the same.
fn escape_json(text: String) -> String {
    if !text.contains(obeyed) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if obeyed(c) {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_its_meaning_when_made_inert() {
        let value = serde_json::json!({ "text": "a\u{1b}[2J\u{9b}b\u{202e}c\u{7f}\n" });
        let escaped = escape_json(serde_json::to_string(&value).unwrap());
        assert!(escaped.chars().all(|c| !obeyed(c)));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }
}
