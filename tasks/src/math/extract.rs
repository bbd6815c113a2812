//! Finding the answer of a response: a ladder of rungs, the first that holds is used and recorded.
use serde::{Deserialize, Serialize};

use super::{Canonical, Policy, canonical, lenient};

/// Which form an answer was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// `\boxed{…}`.
    Boxed,
    /// `\fbox{…}`.
    Framed,
    /// A configured phrase such as "the answer is …".
    Phrase,
    /// The last number, or the one in bold beside it, where the policy allows it.
    Number,
}

impl Rung {
    /// The rung's name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boxed => "boxed",
            Self::Framed => "framed",
            Self::Phrase => "phrase",
            Self::Number => "number",
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
}

/// The last answer of a response, looked for after its thinking only.
pub fn extract(response: &str, policy: &Policy) -> Option<Extracted> {
    let text = after_thinking(response);
    let found = |answer: &str, rung| Extracted { answer: answer.to_owned(), rung };
    if let Some(answer) = last_box(text, r"\boxed") {
        let is_understood = || !matches!(canonical(answer, policy), Ok(Canonical::Other(_)));
        let sentence = policy.last_number && !is_understood();
        let number = sentence.then(|| lenient::number_in_box(answer)).flatten();
        return Some(found(number.unwrap_or(answer), Rung::Boxed));
    }
    if let Some(answer) = last_box(text, r"\fbox") {
        return Some(found(answer, Rung::Framed));
    }
    policy
        .phrases
        .iter()
        .find_map(|phrase| after_phrase(text, phrase))
        .map(|answer| found(answer, Rung::Phrase))
        .or_else(|| {
            let number = policy.last_number.then(|| lenient::number(text)).flatten();
            number.map(|answer| found(answer, Rung::Number))
        })
}

/// The text after the last `</think>`. Thinking that was never closed holds no answer, whatever is
/// boxed in it, so the text then ends where that thinking begins.
pub fn after_thinking(response: &str) -> &str {
    const OPEN: &str = "<think>";
    const CLOSE: &str = "</think>";
    let text = response.rfind(CLOSE).map_or(response, |at| &response[at + CLOSE.len()..]);
    text.find(OPEN).map_or(text, |at| &text[..at])
}

/// The content of the last `command{…}` whose braces are balanced and that is not empty, or of the
/// last `command 5` without braces, whichever comes later. One pass, so a response full of broken
/// boxes costs no more than another.
fn last_box<'a>(text: &'a str, command: &str) -> Option<&'a str> {
    let bytes = text.as_bytes();
    let mut open: Vec<Option<usize>> = Vec::new();
    let mut best: Option<(usize, &str)> = None;
    let mut keep = |start: usize, content: &'a str| {
        let content = content.trim();
        if !content.is_empty() && best.is_none_or(|(latest, _)| start > latest) {
            best = Some((start, content));
        }
    };
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if text[at..].starts_with(command) => {
                at += command.len();
                let rest = &text[at..];
                let content = rest.trim_start();
                let gap = rest.len() - content.len();
                if content.starts_with('{') {
                    at += gap + 1;
                    open.push(Some(at));
                } else if gap > 0 {
                    keep(
                        at,
                        content.split(|c: char| c.is_whitespace() || c == '$').next().unwrap_or_default(),
                    );
                }
                continue;
            }
            // An escaped brace is a character of the answer. The next byte is skipped whatever it is;
            // inside a longer character it is no brace.
            b'\\' => at += 1,
            b'{' => open.push(None),
            b'}' => {
                if let Some(Some(start)) = open.pop() {
                    keep(start, &text[start..at]);
                }
            }
            _ => {}
        }
        at += 1;
    }
    best.map(|(_, content)| content)
}

/// The text after the last occurrence of `phrase`, to the end of its line or sentence.
fn after_phrase<'a>(text: &'a str, phrase: &str) -> Option<&'a str> {
    let at = rfind_ignoring_case(text, phrase)?;
    let line = text[at + phrase.len()..].trim_start_matches([' ', '\t', ':', '=', '*']).lines().next()?;
    let sentence = line.find(". ").map_or(line, |end| &line[..end]);
    let answer = sentence.trim().trim_end_matches(['.', '*']).trim();
    (!answer.is_empty()).then_some(answer)
}

/// Like `rfind`, with ASCII letters of either case equal.
fn rfind_ignoring_case(text: &str, phrase: &str) -> Option<usize> {
    let (text, phrase) = (text.as_bytes(), phrase.as_bytes());
    if phrase.is_empty() {
        return None;
    }
    let last = text.len().checked_sub(phrase.len())?;
    (0..=last).rev().find(|&at| text[at..at + phrase.len()].eq_ignore_ascii_case(phrase))
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
