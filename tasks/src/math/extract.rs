//! Finding the answer of a response: a ladder of rungs, the first that holds is used and recorded.
use std::borrow::Cow;

use memchr::{memchr3, memmem, memrchr_iter, memrchr2_iter};
use serde::{Deserialize, Serialize};

use super::reader::Reader;
use super::{Canonical, Policy, lenient};

/// Which form an answer was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// `\boxed{…}`.
    Boxed,
    /// `\fbox{…}`.
    Framed,
    /// A configured regular expression.
    Pattern,
    /// A configured phrase such as "the answer is …".
    Phrase,
    /// The last number, or the one in bold beside it, where the policy allows it.
    Number,
    /// The last formula between mathematical delimiters, where the policy allows it.
    Formula,
    /// The whole text, where an answer alone was to be expected.
    Bare,
}

impl Rung {
    /// The rung's name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boxed => "boxed",
            Self::Framed => "framed",
            Self::Pattern => "pattern",
            Self::Phrase => "phrase",
            Self::Number => "number",
            Self::Formula => "formula",
            Self::Bare => "bare",
        }
    }
}

/// An answer found in a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extracted {
    /// The answer as written, trimmed, never empty.
    pub answer: String,
    /// The form it was found in.
    pub rung: Rung,
    /// How many boxes there were, empty and broken ones left out.
    pub boxes: usize,
    /// What stands in the last boxes, joined by commas, where several follow each other.
    pub several: Option<String>,
}

impl Extracted {
    fn new(answer: &str, rung: Rung) -> Self {
        Self { answer: answer.to_owned(), rung, boxes: 0, several: None }
    }
}

/// The last answer of a response, looked for after its thinking only.
pub fn extract(response: &str, policy: &Policy) -> Option<Extracted> {
    extract_with(response, &Reader::new(policy))
}

/// Like [`extract`], for a reader that goes on to compare what is found.
pub(super) fn extract_with(response: &str, reader: &Reader) -> Option<Extracted> {
    let text = after_thinking(response);
    set_apart(text, reader).or_else(|| {
        let lenient = reader.policy.last_number;
        let answer = lenient.then(|| lenient::answer(text, &|part| reader.understands(part))).flatten();
        answer.map(|(answer, rung)| Extracted::new(answer, rung))
    })
}

/// The answer of what may be a response or an answer alone.
pub(super) fn extract_any(text: &str, reader: &Reader) -> Option<Extracted> {
    let text = after_thinking(text);
    set_apart(text, reader).or_else(|| {
        let bare = text.trim();
        let understood = !bare.is_empty() && reader.read(bare).is_ok_and(|form| reads_as_answer(&form, bare));
        // Mathematics that is not understood holds no other answer; a sentence may.
        let in_it = || {
            let sentence = reader.policy.last_number && lenient::is_sentence(text);
            sentence.then(|| lenient::answer(text, &|part| reader.understands(part))).flatten()
        };
        let guessed = if understood { None } else { in_it() };
        guessed.map(|(answer, rung)| Extracted::new(answer, rung)).or_else(|| self::bare(text))
    })
}

/// All of the text that follows the thinking.
pub(super) fn bare(text: &str) -> Option<Extracted> {
    let answer = after_thinking(text).trim();
    (!answer.is_empty()).then(|| Extracted::new(answer, Rung::Bare))
}

/// Whether a text is an answer rather than a sentence that holds one.
fn reads_as_answer(form: &Canonical, text: &str) -> bool {
    form.is_understood()
        && (!is_prose(text) || form.name() == "words" && !text.contains(|c: char| c.is_ascii_digit()))
}

/// A sentence: several words of prose with a number or formula among or behind them.
fn is_prose(text: &str) -> bool {
    let words = text.split_whitespace().filter(|word| {
        word.chars().filter(|c| c.is_alphabetic()).count() > 1 && !word.contains(['\\', '$', '{', '^', '='])
    });
    words.count() > 4
}

/// What a box or phrase sets apart.
fn set_apart(text: &str, reader: &Reader) -> Option<Extracted> {
    let policy = reader.policy;
    let boxes = boxes(text, r"\boxed");
    if let Some(last) = boxes.last() {
        let answer = last.content;
        let sentence = policy.last_number && !reader.understands(answer);
        let number = sentence.then(|| lenient::number_in_box(answer)).flatten();
        let mut found = Extracted::new(number.unwrap_or(answer), Rung::Boxed);
        found.boxes = boxes.len();
        found.several = joined(text, &boxes);
        return Some(found);
    }
    if policy.mode != super::Mode::Dag {
        return None;
    }
    if let Some(last) = self::boxes(text, r"\fbox").last() {
        return Some(Extracted::new(last.content, Rung::Framed));
    }
    if let Some(answer) = policy.patterns.iter().find_map(|pattern| pattern.last_match(text)) {
        return Some(Extracted::new(answer, Rung::Pattern));
    }
    let phrase = policy.phrases.iter().find_map(|phrase| after_phrase(text, phrase))?;
    // A sentence behind the phrase may hold the answer rather than be it.
    let sentence = policy.last_number && !reader.understands(phrase);
    let inner = sentence.then(|| lenient::answer(phrase, &|part| reader.understands(part))).flatten();
    Some(Extracted::new(inner.map_or(phrase, |(answer, _)| answer), Rung::Phrase))
}

/// The gold answer in a text that may be a whole solution: what its last boxes hold or a phrase announces, else all of it.
pub fn gold_answer<'a>(gold: &'a str, policy: &Policy) -> Cow<'a, str> {
    if !gold.contains("boxed") {
        let phrase = || policy.phrases.iter().find_map(|phrase| after_phrase(gold, phrase));
        return if is_prose(gold) { phrase().unwrap_or(gold) } else { gold }.into();
    }
    let boxes = boxes(gold, r"\boxed");
    match (joined(gold, &boxes), boxes.last()) {
        (Some(several), _) => several.into(),
        (None, Some(last)) => last.content.into(),
        (None, None) => gold.into(),
    }
}

/// The contents of the last boxes, where several follow each other in one sentence.
fn joined(text: &str, boxes: &[Boxed]) -> Option<String> {
    const LONGEST_GAP: usize = 40;
    let mut first = boxes.len().checked_sub(1)?;
    while first > 0 {
        let (before, after) = (&boxes[first - 1], &boxes[first]);
        let gap = text.get(before.end..after.start)?;
        let ends = ["\n\n", ". ", " then "].iter().any(|end| gap.contains(end));
        if gap.len() > LONGEST_GAP || ends {
            break;
        }
        first -= 1;
    }
    let run = &boxes[first..];
    (run.len() > 1).then(|| run.iter().map(|one| one.content).collect::<Vec<_>>().join(", "))
}

/// The text after the last `</think>`. Thinking that was never closed holds no answer, whatever is
/// boxed in it, so the text then ends where that thinking begins.
pub fn after_thinking(response: &str) -> &str {
    const OPEN: &str = "<think>";
    const CLOSE: &str = "</think>";
    let closes = |at: &usize| response[*at..].starts_with(CLOSE);
    let close = memrchr_iter(b'<', response.as_bytes()).find(closes);
    let text = close.map_or(response, |at| &response[at + CLOSE.len()..]);
    memmem::find(text.as_bytes(), OPEN.as_bytes()).map_or(text, |at| &text[..at])
}

/// A box: what stands in it, and where it begins and ends.
struct Boxed<'a> {
    content: &'a str,
    start: usize,
    end: usize,
}

/// Every `command{…}` whose braces are balanced and that is not empty, and every `command 5` without braces, in the order
/// in which they begin. One pass, so a response full of broken boxes costs no more than another.
fn boxes<'a>(text: &'a str, command: &str) -> Vec<Boxed<'a>> {
    let bytes = text.as_bytes();
    // The boxes that are open, each with the depth of braces around it.
    let mut open: Vec<(usize, usize, usize)> = Vec::new();
    let mut depth = 0_usize;
    let mut boxes: Vec<Boxed> = Vec::new();
    let mut keep = |start: usize, content: &'a str, end: usize| {
        let content = content.trim();
        // A box in a box is part of its answer.
        if !content.is_empty() {
            while boxes.last().is_some_and(|last| last.start > start) {
                boxes.pop();
            }
            boxes.push(Boxed { content, start, end });
        }
    };
    // Most responses have no box, and most of the others one at their end.
    let Some(mut at) = memmem::find(bytes, command.as_bytes()) else { return boxes };
    while let Some(next) = bytes.get(at..).and_then(|rest| memchr3(b'\\', b'{', b'}', rest)) {
        at += next;
        match bytes[at] {
            b'\\' if text[at..].starts_with(command) => {
                let start = at;
                at += command.len();
                let rest = &text[at..];
                let content = rest.trim_start();
                let gap = rest.len() - content.len();
                if content.starts_with('{') {
                    at += gap + 1;
                    open.push((depth, start, at));
                    depth += 1;
                } else if gap > 0 {
                    let content =
                        content.split(|c: char| c.is_whitespace() || c == '$').next().unwrap_or_default();
                    keep(start, content, at + gap + content.len());
                }
                continue;
            }
            // An escaped brace is a character of the answer. The next byte is skipped whatever it is; inside a longer
            // character it is no brace. `\\boxed` is what a doubled backslash leaves of a box.
            b'\\' => at += usize::from(!text.get(at + 1..).is_some_and(|rest| rest.starts_with(command))),
            b'{' => depth += 1,
            // A closing one.
            _ => {
                depth = depth.saturating_sub(1);
                if let Some((_, start, inside)) = open.pop_if(|(around, ..)| *around == depth) {
                    keep(start, &text[inside..at], at + 1);
                }
            }
        }
        at += 1;
    }
    boxes
}

/// The text after the last occurrence of `phrase`, to the end of its line or sentence.
fn after_phrase<'a>(text: &'a str, phrase: &str) -> Option<&'a str> {
    let at = rfind_ignoring_case(text, phrase)?;
    let line = text[at + phrase.len()..].trim_start_matches([' ', '\t', ':', '=', '*']).lines().next()?;
    let sentence = line.find(". ").map_or(line, |end| &line[..end]);
    let answer = sentence.trim().trim_end_matches(['.', '*']).trim();
    (!answer.is_empty()).then_some(answer)
}

/// Like `rfind`, with ASCII letters of either case equal. Responses are long and phrases few, so it looks for the letter of
/// the phrase that is seldom in a text.
fn rfind_ignoring_case(text: &str, phrase: &str) -> Option<usize> {
    const SELDOM_FIRST: &[u8] = b"#jqxzkvbpgwyfmculdhrsnioate ";
    let rank = |byte: u8| SELDOM_FIRST.iter().position(|other| *other == byte.to_ascii_lowercase());
    let ascii = phrase.bytes().enumerate().filter(|(_, byte)| byte.is_ascii());
    let (offset, byte) = ascii.min_by_key(|(_, byte)| rank(*byte).unwrap_or(0))?;
    let places = memrchr2_iter(byte.to_ascii_lowercase(), byte.to_ascii_uppercase(), text.as_bytes());
    places.filter_map(|at| at.checked_sub(offset)).find(|&start| {
        let part = text.as_bytes().get(start..start + phrase.len());
        part.is_some_and(|part| part.eq_ignore_ascii_case(phrase.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(response: &str, expected: Option<(&str, Rung)>) {
        let found = extract(response, &Policy::default());
        assert_eq!(found.as_ref().map(|found| (found.answer.as_str(), found.rung)), expected);
    }

    #[test]
    fn the_last_balanced_box_is_the_answer() {
        check(r"so \boxed{7}.", Some(("7", Rung::Boxed)));
        check(r"first \boxed{6}, then \boxed{7}", Some(("7", Rung::Boxed)));
        check(r"\boxed{\frac{1}{2}}", Some((r"\frac{1}{2}", Rung::Boxed)));
        check(r"\boxed{\{1, 2\}}", Some((r"\{1, 2\}", Rung::Boxed)));
        check(r"\boxed{\left\{ x \right.}", Some((r"\left\{ x \right.", Rung::Boxed)));
        check(r"\boxed{7} and cut off in \boxed{\frac{1}{", Some(("7", Rung::Boxed)));
        check(r"a stray { before \boxed{7}", Some(("7", Rung::Boxed)));
        check(r"\boxed {7}", Some(("7", Rung::Boxed)));
        check(r"$\boxed 7$", Some(("7", Rung::Boxed)));
        check(r"\boxed{7} put in \boxed{}", Some(("7", Rung::Boxed)));
        check(r"\fbox{7}", Some(("7", Rung::Framed)));
        check(r"\boxed{8} \fbox{7}", Some(("8", Rung::Boxed)));
        check(r"\boxed{ é }", Some(("é", Rung::Boxed)));
    }

    #[test]
    fn only_what_follows_the_thinking_counts() {
        check(r"<think>\boxed{6}</think>The answer: \boxed{7}", Some(("7", Rung::Boxed)));
        check(r"\boxed{6}</think>\boxed{7}", Some(("7", Rung::Boxed)));
        check(r"<think>a</think>\boxed{5}<think>b</think>\boxed{7}", Some(("7", Rung::Boxed)));
        check(r"<think>\boxed{6}</think>", None);
        check(r"<think>so it is \boxed{6}", None);
        check(r"<think>a</think>\boxed{7}<think>\boxed{6}", Some(("7", Rung::Boxed)));
    }

    #[test]
    fn phrases_are_the_last_rung() {
        check("#### 18", Some(("18", Rung::Phrase)));
        check("The answer is 18.", Some(("18", Rung::Phrase)));
        check("THE ANSWER IS: **18**\nThank you.", Some(("18", Rung::Phrase)));
        check("The answer is 3.5. I checked it.", Some(("3.5", Rung::Phrase)));
        check("The answer is 4. No: the answer is 5", Some(("5", Rung::Phrase)));
        check("#### \n", None);
        check("it may be 18", None);
        check("", None);
    }

    #[test]
    fn the_last_number_counts_where_the_policy_allows_it() {
        let lenient = Policy { last_number: true, ..Policy::default() };
        let number = |response: &str| extract(response, &lenient).map(|found| (found.answer, found.rung));
        let found = |answer: &str| Some((answer.to_owned(), Rung::Number));
        assert_eq!(number(r"She makes **\$18 per day**."), found("18"));
        assert_eq!(number("<think>5</think>none"), None);
        assert_eq!(number("<think>5</think>7é, 8."), found("8"));
        assert_eq!(extract("it may be 18", &Policy::default()), None);
        let boxed = r"\boxed{\text{She has 3 apples}}";
        assert_eq!(number(boxed), Some(("3".to_owned(), Rung::Boxed)));
        check(boxed, Some((r"\text{She has 3 apples}", Rung::Boxed)));
        assert_eq!(number(r"\boxed{\frac{1}{2}}"), Some((r"\frac{1}{2}".to_owned(), Rung::Boxed)));
    }

    proptest! {
        #[test]
        fn nothing_panics_in_the_lenient_policy(response in r"(-|,|[.]|[0-9]|é|x| ){0,40}") {
            let lenient = Policy { last_number: true, ..Policy::default() };
            let found = extract(&response, &lenient);
            prop_assert_eq!(found.is_some(), response.contains(|c: char| c.is_ascii_digit()));
        }

        #[test]
        fn nothing_panics(response in r"(\\boxed|\\fbox|\{|\}|\\|<think>|</think>|é|####|the answer is|[ -~]){0,60}") {
            if let Some(found) = extract(&response, &Policy::default()) {
                prop_assert!(!found.answer.trim().is_empty());
            }
        }

        #[test]
        fn a_box_is_found_whatever_surrounds_it(before in "[a-z {}$]{0,30}", answer in "[a-z0-9+]{1,9}", after in "[a-z {$.]{0,30}") {
            let response = format!("{before}\\boxed{{{answer}}}{after}");
            prop_assert_eq!(extract(&response, &Policy::default()).unwrap().answer, answer);
        }
    }
}
