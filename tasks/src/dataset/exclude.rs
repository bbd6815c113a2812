//! Which rows are too near to a row of a benchmark to be trained on.
//!
//! Three ways to be near, the first that holds counts: the same value, spacing aside; the same words; a run of words in
//! common. Words are compared without case, punctuation, commas in numbers and what LaTeX has for spacing and size; signs
//! that mean something in mathematics are words. Of a benchmark only hashes are kept, sixteen bytes for each run.

use std::collections::BTreeMap;

use dag_engine::context::Input;
use dag_engine::task::TaskError;
use serde_json::Value;

use super::select::{Fingerprint, Key, fingerprint};
use crate::responses;
use crate::table::{Row, TableReader};

/// Commands of LaTeX that are spacing or size, and so no words.
const SPACING: [&str; 16] = [
    "quad",
    "qquad",
    "left",
    "right",
    "displaystyle",
    "textstyle",
    "big",
    "bigl",
    "bigr",
    "bigg",
    "thinspace",
    "medspace",
    "thickspace",
    "limits",
    "hspace",
    "vspace",
];
/// Signs that are words of their own.
const SIGNS: &str = "+-*/=<>^%|±×÷−≤≥≠";

/// In which way a row is near to one of a benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Nearness {
    /// The same value, spacing aside.
    Exact,
    /// The same words.
    Normalised,
    /// A run of words in common.
    Overlap,
}

impl Nearness {
    pub(super) const ALL: [Self; 3] = [Self::Exact, Self::Normalised, Self::Overlap];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Normalised => "normalised",
            Self::Overlap => "overlap",
        }
    }
}

/// A row of a benchmark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tested {
    pub(super) id: String,
    /// Where its table stands on its axes: `gsm8k`.
    pub(super) at: String,
}

/// A row that is near to a row of a benchmark, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Met {
    pub(super) nearness: Nearness,
    /// The number of the other row among all.
    pub(super) row: u32,
}

/// The rows that are not to be met.
pub(super) struct Benchmarks {
    by: Key,
    words: usize,
    rows: Vec<Tested>,
    values: BTreeMap<Fingerprint, u32>,
    /// Hash of all words → row; then hash of each run of `words` words → row. Sorted by hash.
    texts: Hashes,
    runs: Hashes,
}

impl Benchmarks {
    pub(super) fn read(by: Key, words: usize, inputs: &[Input]) -> Result<Self, TaskError> {
        let mut read = Self {
            by,
            words,
            rows: Vec::new(),
            values: BTreeMap::new(),
            texts: Hashes::default(),
            runs: Hashes::default(),
        };
        for input in inputs {
            let at: Vec<&str> = input.coordinates.values().map(String::as_str).collect();
            let at = at.join("/");
            for (row, number) in TableReader::open(&input.path)?.rows()?.zip(1..) {
                let row = row?;
                let value = read.by.value(&row).map_err(|what| {
                    TaskError::input(&input.path, Some(number), format!("`exclude_by`: {what}"))
                })?;
                let value = value.into_owned();
                let id = responses::id_of(&row).unwrap_or_else(|| number.to_string());
                read.add(&value, Tested { id, at: at.clone() });
            }
        }
        read.texts.sort();
        read.runs.sort();
        Ok(read)
    }

    fn add(&mut self, value: &Value, tested: Tested) {
        let number = self.rows.len() as u32;
        self.rows.push(tested);
        self.values.entry(fingerprint(value)).or_insert(number);
        if let Value::String(text) = value {
            let words = words(text);
            self.texts.0.extend(whole(&words).map(|hash| (hash, number)));
            self.runs.0.extend(runs(&words, self.words).map(|hash| (hash, number)));
        }
    }

    /// The row with this number.
    pub(super) fn tested(&self, number: u32) -> &Tested {
        &self.rows[number as usize]
    }

    /// The row of a benchmark that `row` is near to, if there is one.
    pub(super) fn meet(&self, row: &Row) -> Result<Option<Met>, String> {
        if self.rows.is_empty() {
            return Ok(None);
        }
        let value = self.by.value(row).map_err(|what| format!("`exclude_by`: {what}"))?;
        let met = |nearness| move |row| Met { nearness, row };
        if let Some(&row) = self.values.get(&fingerprint(&value)) {
            return Ok(Some(met(Nearness::Exact)(row)));
        }
        let Value::String(text) = &*value else { return Ok(None) };
        let words = words(text);
        if let Some(row) = whole(&words).and_then(|hash| self.texts.find(hash)) {
            return Ok(Some(met(Nearness::Normalised)(row)));
        }
        let run = runs(&words, self.words).find_map(|hash| self.runs.find(hash));
        Ok(run.map(met(Nearness::Overlap)))
    }
}

/// Hashes and the rows they come from, sorted, with a coarse sieve before the search: nearly all that is asked is not there.
#[derive(Default)]
struct Hashes(Vec<(u64, u32)>, Vec<u64>);

impl Hashes {
    fn sort(&mut self) {
        self.0.sort_unstable();
        // The first row that has it counts.
        self.0.dedup_by_key(|(hash, _)| *hash);
        self.1 = vec![0; self.0.len().next_power_of_two().max(1)];
        let mask = self.1.len() as u64 * 64 - 1;
        for (hash, _) in &self.0 {
            let bit = hash & mask;
            self.1[(bit / 64) as usize] |= 1 << (bit % 64);
        }
    }

    fn find(&self, hash: u64) -> Option<u32> {
        let bit = hash & (self.1.len() as u64 * 64 - 1);
        if self.1[(bit / 64) as usize] & (1 << (bit % 64)) == 0 {
            return None;
        }
        self.0.binary_search_by_key(&hash, |(hash, _)| *hash).ok().map(|at| self.0[at].1)
    }
}

/// The hashes of the words of a text.
fn words(text: &str) -> Vec<u64> {
    let mut found = Vec::with_capacity(text.len() / 5);
    let mut chars = text.char_indices().peekable();
    let mut word = Word::default();
    while let Some((at, c)) = chars.next() {
        if c.is_alphanumeric() {
            c.to_lowercase().for_each(|c| word.push(c));
            continue;
        }
        let next = chars.peek().map(|(_, next)| *next);
        let next_is_digit = next.is_some_and(|next| next.is_ascii_digit());
        match c {
            // Within a number: `3.5` is one word, and `1,000` is `1000`.
            '.' if word.is_number && next_is_digit => word.push('.'),
            ',' if word.is_number && next_is_digit => {}
            '\\' => {
                found.extend(word.take());
                let rest = &text[at + 1..];
                let length = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
                if length == 0 {
                    // `\,` and `\{`: the sign after the stroke is spacing or punctuation.
                    chars.next();
                } else if SPACING.contains(&rest[..length].to_ascii_lowercase().as_str()) {
                    chars.nth(length - 1);
                } else {
                    // `\dfrac` and `\tfrac` are `\frac` in another size.
                    if rest.starts_with("dfrac") || rest.starts_with("tfrac") {
                        chars.next();
                    }
                }
            }
            c if SIGNS.contains(c) => {
                found.extend(word.take());
                word.push(c);
                found.extend(word.take());
            }
            // An apostrophe parts nothing: `farmer's` and `farmer’s` are `farmers`.
            '\'' | '’' => {}
            _ => found.extend(word.take()),
        }
    }
    found.extend(word.take());
    found
}

/// A word while it is read: FNV-1a over its characters.
struct Word {
    hash: u64,
    is_empty: bool,
    is_number: bool,
}

impl Default for Word {
    fn default() -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, is_empty: true, is_number: false }
    }
}

impl Word {
    fn push(&mut self, c: char) {
        self.is_number =
            c.is_ascii_digit() && (self.is_empty || self.is_number) || (c == '.' && self.is_number);
        self.is_empty = false;
        self.hash = (self.hash ^ u64::from(u32::from(c))).wrapping_mul(0x0000_0100_0000_01b3);
    }

    fn take(&mut self) -> Option<u64> {
        let word = std::mem::take(self);
        (!word.is_empty).then(|| mixed(word.hash))
    }
}

/// All bits of it in every bit.
fn mixed(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// What a run of words is multiplied by from one word to the next.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The hash of all words; none if there are none.
fn whole(words: &[u64]) -> Option<u64> {
    let all = words.iter().fold(words.len() as u64, |sum, word| sum.wrapping_mul(STEP).wrapping_add(*word));
    (!words.is_empty()).then(|| mixed(all))
}

/// The hashes of all runs of `length` words; none if `length` is zero. Each follows from the one before.
fn runs(words: &[u64], length: usize) -> impl Iterator<Item = u64> {
    let (mut sum, mut first) = (0_u64, 1_u64);
    (0..length).for_each(|_| first = first.wrapping_mul(STEP));
    words.iter().enumerate().filter(move |_| length > 0).filter_map(move |(number, word)| {
        sum = sum.wrapping_mul(STEP).wrapping_add(*word);
        if number >= length {
            sum = sum.wrapping_sub(words[number - length].wrapping_mul(first));
        }
        (number + 1 >= length).then(|| mixed(sum))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn benchmarks(length: usize, texts: &[&str]) -> Benchmarks {
        let mut made = Benchmarks::read(Key::parse("problem").unwrap(), length, &[]).unwrap();
        for (number, text) in texts.iter().enumerate() {
            made.add(&json!(text), Tested { id: number.to_string(), at: String::new() });
        }
        made.texts.sort();
        made.runs.sort();
        made
    }

    fn meet(benchmarks: &Benchmarks, text: &str) -> Option<(Nearness, u32)> {
        let row = Row::from_iter([("problem".to_owned(), json!(text))]);
        benchmarks.meet(&row).unwrap().map(|met| (met.nearness, met.row))
    }

    #[test]
    fn words_are_the_same_however_they_are_set() {
        for (one, other) in [
            ("Find $\\dfrac{1}{2}\\,x$.", "find \\frac 1 2 \\quad x"),
            ("He has 1,000 apples; 3.5 are left!", "he has 1000 apples 3.5 are left"),
            ("\\left( a , b \\right)", "(a,b)"),
            ("the farmer’s $2$ cows", "The farmer's 2 cows"),
            ("a\\{b\\}", "a {b}"),
        ] {
            assert_eq!(words(one), words(other), "{one}");
        }
        for (one, other) in
            [("1+2", "1-2"), ("3.5", "3 5"), ("12", "1 2"), ("\\frac{1}{2}", "\\sqrt{1}{2}"), ("a, 5", "a 6")]
        {
            assert_ne!(words(one), words(other), "{one}");
        }
    }

    #[test]
    fn a_row_is_near_in_one_of_three_ways() {
        let tested = "A train leaves at noon and travels 60 miles. How far is it from home by three o'clock?";
        let made = benchmarks(13, &["what is 1 + 2?", tested]);
        assert_eq!(meet(&made, "what is  1 + 2?"), Some((Nearness::Exact, 0)));
        assert_eq!(meet(&made, "What is $1+2$"), Some((Nearness::Normalised, 0)));
        assert_eq!(meet(&made, "What is $1-2$"), None);
        let inside = "Solve. a train leaves at noon, and travels 60 miles; how far is it? Then add 3.";
        assert_eq!(meet(&made, inside), Some((Nearness::Overlap, 1)));
        // Twelve words in common are not enough, and none are asked for where the length is zero.
        assert_eq!(meet(&made, "A train leaves at noon and travels 60 miles. How far do we go?"), None);
        assert_eq!(meet(&benchmarks(0, &[tested]), inside), None);
    }

    #[test]
    fn every_run_is_hashed_by_its_words_alone() {
        let all: Vec<u64> = (1..40).map(mixed).collect();
        let found: Vec<u64> = runs(&all, 7).collect();
        assert_eq!(found.len(), all.len() - 6);
        for (number, hash) in found.iter().enumerate() {
            assert_eq!(runs(&all[number..number + 7], 7).collect::<Vec<_>>(), [*hash]);
        }
        assert_eq!(runs(&all[..6], 7).count() + runs(&all, 0).count(), 0);
    }
}
