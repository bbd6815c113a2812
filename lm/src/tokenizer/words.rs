//! Texts cut into words in time linear in their length, whatever they hold.
//!
//! Pre-tokenizers are written as patterns that look ahead, `\s+(?!\S)`, so that a blank stays with the word after it. Engines for
//! such patterns backtrack: they are slow, and on long runs of white space they give up. Without the look-ahead the rest is
//! regular, and what it does is done here by hand: a run of white space gives its last character back to what follows it.

use regex::{Regex, RegexBuilder};
use serde_json::Value;

/// How patterns for byte-level vocabularies end.
const WHITE_SPACE: &str = r"|\s+(?!\S)|\s+";
/// The pattern that the library's `ByteLevel` has built in, up to its white space.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+";
/// An alternative of its own takes line breaks with the white space before them.
const LINE_BREAKS: &str = r"|\s*[\r\n]+";
/// Look-around, and quantifiers that do not give back: regular engines have none of them, or read them otherwise.
const NOT_REGULAR: [&str; 7] = ["(?=", "(?!", "(?<", "(?>", "++", "?+", "*+"];

/// A pre-tokenizer whose pattern is regular but for its white space.
pub(super) struct Words {
    pattern: Regex,
    /// Whether a line break at the end of a run comes from [`LINE_BREAKS`], and is not given back.
    line_breaks: bool,
    /// Whether every numeric character is cut off first.
    digits: bool,
}

impl Words {
    /// The pre-tokenizer of a `tokenizer.json`, if it is one of those.
    pub(super) fn of(pre_tokenizer: &Value) -> Option<Self> {
        if pre_tokenizer["type"] == "ByteLevel" {
            return is_byte_level(pre_tokenizer, true).then(|| Self::new(GPT2, false)).flatten();
        }
        if pre_tokenizer["type"] != "Sequence" {
            return None;
        }
        let [first, second] = pre_tokenizer["pretokenizers"].as_array()?.as_slice() else { return None };
        if first["type"] == "Digits" && first["individual_digits"] == true {
            return is_byte_level(second, true).then(|| Self::new(GPT2, true)).flatten();
        }
        let isolated =
            first["type"] == "Split" && first["behavior"] == "Isolated" && first["invert"] == false;
        let pattern = first["pattern"]["Regex"].as_str()?.strip_suffix(WHITE_SPACE)?;
        (isolated && is_byte_level(second, false)).then(|| Self::new(pattern, false)).flatten()
    }

    fn new(pattern: &str, digits: bool) -> Option<Self> {
        // `{1,3}+` is such a quantifier, `\p{L}+` is not.
        let counted = |(at, _)| pattern[..at].ends_with(|last: char| last.is_ascii_digit() || last == ',');
        if NOT_REGULAR.iter().any(|part| pattern.contains(part)) || pattern.match_indices("}+").any(counted) {
            return None;
        }
        let regex = RegexBuilder::new(&format!(r"{pattern}|\s+")).dfa_size_limit(1 << 25).build().ok()?;
        Some(Self { pattern: regex, line_breaks: pattern.contains(LINE_BREAKS), digits })
    }

    /// Calls `found` with each word, in order, until it gives nothing; together they are the text.
    pub(super) fn try_each(&self, text: &str, found: &mut impl FnMut(&str) -> Option<()>) -> Option<()> {
        if !self.digits {
            return self.try_each_of_part(text, found);
        }
        let mut start = 0;
        for (at, digit) in text.char_indices().filter(|(_, character)| character.is_numeric()) {
            self.try_each_of_part(&text[start..at], found)?;
            start = at + digit.len_utf8();
            found(&text[at..start])?;
        }
        self.try_each_of_part(&text[start..], found)
    }

    fn try_each_of_part(&self, text: &str, found: &mut impl FnMut(&str) -> Option<()>) -> Option<()> {
        let mut at = 0;
        while let Some(word) = self.pattern.find_at(text, at) {
            if at < word.start() {
                found(&text[at..word.start()])?;
            }
            at = word.end() - self.given_back(word.as_str(), word.end() == text.len());
            found(&text[word.start()..at])?;
        }
        if at < text.len() {
            found(&text[at..])?;
        }
        Some(())
    }

    /// The bytes at the end of a match that belong to the next word.
    fn given_back(&self, word: &str, is_last: bool) -> usize {
        let Some(last) = word.chars().next_back().filter(|_| !is_last) else { return 0 };
        let of_run = last.is_whitespace() && !(self.line_breaks && matches!(last, '\r' | '\n'));
        if of_run && last.len_utf8() < word.len() { last.len_utf8() } else { 0 }
    }
}

fn is_byte_level(pre_tokenizer: &Value, use_regex: bool) -> bool {
    // Files without the field are older than it, and mean that the pattern is used.
    pre_tokenizer["type"] == "ByteLevel"
        && pre_tokenizer["add_prefix_space"] == false
        && pre_tokenizer["use_regex"].as_bool().unwrap_or(true) == use_regex
}
