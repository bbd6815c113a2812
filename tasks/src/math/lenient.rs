//! The number that a response means which does not set its answer apart: no box, no phrase, or a sentence in the box.
//!
//! Without a box such a response ends in a sentence. Its answer is what is in bold there, as in "You can run **10 cycles** for
//! $1"; and where nothing is, the last number. Inside the bold, or a box, it is the first number, since what an answer counts
//! precedes what it is for ("**18 vlogs for the 72 of the month**"), but for an equation or a label, whose end counts
//! ("**Total: 6 + 1 = 7**"). The number of a compound ("the 8-pack") counts only where there is no other.

use std::sync::LazyLock;

use memchr::memchr2;
use regex::Regex;

use super::{Rung, lexer};

/// What a thousands separator may look like beside a plain comma: kinds of space that do not break, and LaTeX's.
const SEPARATORS: [&str; 6] = ["\u{202f}", "\u{a0}", "\u{2009}", "{,}", ",\\!", "\\,"];

/// The last formula between delimiters or the last number, whichever ends later; before both, what a word for "answer" in
/// another language announces.
pub(super) fn answer<'a>(text: &'a str, is_understood: &dyn Fn(&str) -> bool) -> Option<(&'a str, Rung)> {
    let text = end_of(text);
    if let Some(sentence) = announced(text) {
        let found = formula(sentence, is_understood).map(|span| (span, Rung::Formula));
        return found
            .or_else(|| in_statement(sentence).map(|number| (widened(sentence, number), Rung::Number)));
    }
    let number = number(text).map(|number| widened(text, number));
    let formula = formula(text, is_understood);
    let end = |part: &str| part.as_ptr() as usize + part.len();
    match (formula, number) {
        (Some(formula), Some(number)) if end(formula) < end(number) || is_beside_bold(text, formula) => {
            Some((number, Rung::Number))
        }
        (Some(formula), _) => Some((formula, Rung::Formula)),
        (None, number) => number.map(|number| (number, Rung::Number)),
    }
}

/// The end of a long text, which alone is looked through.
fn end_of(text: &str) -> &str {
    const LONGEST: usize = 20_000;
    let mut start = text.len().saturating_sub(LONGEST);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// Whether there is prose in the text, and not mathematics alone.
pub(super) fn is_sentence(text: &str) -> bool {
    let text = end_of(text);
    words(text).next().is_some() || text.chars().any(|c| !c.is_ascii() && c.is_alphabetic())
}

/// The sentence behind the last word for "answer" with a colon, in languages other than the prompts'.
fn announced(text: &str) -> Option<&str> {
    // One search for all of them; none overlaps another.
    static ANSWER: LazyLock<Regex> = LazyLock::new(|| {
        let words =
            "Réponse|réponse|Antwort|Respuesta|respuesta|Risposta|Resposta|Ответ|答案|答え|الإجابة|Cevap";
        Regex::new(words).expect("a pattern of our own is valid")
    });
    let after = ANSWER.find_iter(text).last()?.end();
    let sentence = text[after..].trim_start_matches([' ', '*']).strip_prefix([':', '：'])?;
    let line = sentence.trim_start().lines().next()?;
    let end = [". ", "。"].iter().filter_map(|stop| line.find(stop)).min().unwrap_or(line.len());
    Some(&line[..end]).filter(|sentence| sentence.bytes().any(|byte| byte.is_ascii_digit()))
}

/// The content of the last `$…$`, `$$…$$`, `\(…\)` or `\[…\]` that is mathematics and no prose between two prices.
fn formula<'a>(text: &'a str, is_understood: &dyn Fn(&str) -> bool) -> Option<&'a str> {
    let spans = formulas(text);
    spans.into_iter().rev().take(1).find(|span| is_understood(span))
}

fn formulas(text: &str) -> Vec<&str> {
    const LONGEST: usize = 600;
    let mut spans = Vec::new();
    let mut at = 0;
    while let Some(next) = memchr2(b'$', b'\\', &text.as_bytes()[at..]) {
        let start = at + next;
        let rest = &text[start..];
        let (open, close) = match rest.as_bytes().get(..2) {
            Some(b"$$") => ("$$", "$$"),
            Some(b"\\(") => ("\\(", "\\)"),
            Some(b"\\[") => ("\\[", "\\]"),
            _ if rest.starts_with('$') => ("$", "$"),
            // An escaped dollar is a price.
            _ => {
                at = start + 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
                continue;
            }
        };
        let inside = &rest[open.len()..];
        let mut most = inside.len().min(LONGEST + close.len());
        while !inside.is_char_boundary(most) {
            most -= 1;
        }
        let span = inside[..most].find(close).map(|end| &inside[..end]);
        match span.filter(|span| span.len() <= LONGEST && is_mathematics(span)) {
            Some(span) => {
                spans.push(span.trim());
                at = start + open.len() + span.len() + close.len();
            }
            None => at = start + open.len(),
        }
    }
    spans
}

/// Not empty, and without words outside of `\text`.
fn is_mathematics(span: &str) -> bool {
    const STYLES: [&str; 5] = ["\\text", "\\begin", "\\end", "\\operatorname", "\\math"];
    let mut rest = span;
    let mut plain = String::with_capacity(span.len());
    let is_style = |text: &str| STYLES.iter().any(|style| text.starts_with(style));
    while let Some((at, _)) = rest.match_indices('\\').find(|(at, _)| is_style(&rest[*at..])) {
        plain.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = lexer::group(&after[lexer::command_name(after).len()..]).1;
    }
    plain.push_str(rest);
    !plain.trim().is_empty() && !plain.trim().ends_with(',') && words(&plain).all(|word| word.len() < 4)
}

/// A number with what makes it a part of a fraction: `13/28`, `\frac{2}{5}`.
fn widened<'a>(text: &'a str, number: &'a str) -> &'a str {
    let Some(start) = (number.as_ptr() as usize).checked_sub(text.as_ptr() as usize) else { return number };
    let (mut start, mut end) = (start, start + number.len());
    let (Some(before), Some(after)) = (text.get(..start), text.get(end..)) else { return number };
    if let Some(at) = before.rfind("\\frac").filter(|at| start - at < 60)
        && let Some(arguments) = text.get(at + 5..)
    {
        let behind = lexer::group(lexer::group(arguments).1).1;
        let closed = text.len() - behind.len();
        if closed > end && before[at..].matches('{').count() <= 2 {
            return &text[at..closed];
        }
    }
    let digits = |byte: &u8| byte.is_ascii_digit();
    if let Some(top) = before.strip_suffix('/') {
        let length = top.bytes().rev().take_while(digits).count();
        start -= if length > 0 && number.bytes().all(|byte| byte.is_ascii_digit()) { length + 1 } else { 0 };
    } else if let Some(bottom) = after.strip_prefix('/') {
        let length = bottom.bytes().take_while(digits).count();
        end += if length > 0 { length + 1 } else { 0 };
    }
    &text[start..end]
}

/// The last line with a number in it.
fn last_line(text: &str) -> Option<&str> {
    text.lines().rev().find(|line| line.bytes().any(|byte| byte.is_ascii_digit()))
}

/// The number given by the last line that holds any.
fn number(text: &str) -> Option<&str> {
    let line = last_line(text)?;
    in_bold(line).or_else(|| choose(line, |numbers| numbers.last()))
}

/// Whether a formula only stands in the line whose bold number is the answer: "He needs **7 packs**. This gives $7·8=56$ sticks."
fn is_beside_bold(text: &str, formula: &str) -> bool {
    let Some(line) = last_line(text).filter(|line| in_bold(line).is_some()) else { return false };
    let start = formula.as_ptr() as usize;
    let place = start.checked_sub(line.as_ptr() as usize).filter(|place| *place < line.len());
    // After an odd number of marks it is in bold itself.
    place.is_some_and(|place| line[..place].matches("**").count() % 2 == 0)
}

/// The number of a box that holds a sentence or an equation of numbers: `\text{She has 3 apples.}`, `5 + 2 = 7`.
pub(super) fn number_in_box(content: &str) -> Option<&str> {
    let words: Vec<&str> = words(content).collect();
    // Several answers are none.
    let is_joined = words.iter().any(|word| matches!(*word, "or" | "and"));
    if is_joined && (Numbers { text: content, at: 0 }).count() > 1 {
        return None;
    }
    let is_equation = content.contains('=') && !content.contains(|c: char| c.is_ascii_alphabetic());
    (is_equation || !words.is_empty()).then(|| in_statement(content)).flatten()
}

/// The words of two letters or more that are no commands: `x`, `2x` and `\frac` are none.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_word = |part: &&str| part.len() > 1 && part.bytes().all(|byte| byte.is_ascii_alphabetic());
    text.split(|c: char| !(c.is_alphanumeric() || c == '\\')).filter(is_word)
}

/// The number of the last piece in bold that holds any and is no label.
fn in_bold(line: &str) -> Option<&str> {
    let pieces: Vec<&str> = line.split("**").collect();
    // Every second piece is bold, if a mark follows it.
    let bold = (1..pieces.len().saturating_sub(1)).step_by(2).rev();
    let no_label =
        bold.filter(|&at| !pieces[at].trim_end().ends_with(':') && !pieces[at + 1].starts_with(':'));
    no_label.map(|at| pieces[at]).find_map(in_statement)
}

/// The first number after what leads up to it.
fn in_statement(text: &str) -> Option<&str> {
    let end = text.rsplit(['=', '≈']).next().unwrap_or(text);
    let end = end.rsplit(": ").next().unwrap_or(end);
    let first = |text| choose(text, |numbers| numbers.next());
    first(end).or_else(|| first(text))
}

/// One of the numbers that stand by themselves, or else of those in compounds.
fn choose<'a>(
    text: &'a str,
    which: impl Fn(&mut dyn Iterator<Item = &'a str>) -> Option<&'a str>,
) -> Option<&'a str> {
    let numbers = || Numbers { text, at: 0 };
    let alone = which(&mut numbers().filter(|(_, is_compound)| !is_compound).map(|(number, _)| number));
    alone.or_else(|| which(&mut numbers().map(|(number, _)| number)))
}

/// The numbers of a text from left to right: digits with separators and a decimal point inside, and a sign that follows no
/// digit or letter (`7-3` ends in `3`). Times such as `2:30` are left out. Each with whether a hyphen joins it to a word, as in `8-pack`.
struct Numbers<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Numbers<'a> {
    type Item = (&'a str, bool);

    fn next(&mut self) -> Option<(&'a str, bool)> {
        loop {
            let (start, end) = self.span()?;
            self.at = end;
            let rest = &self.text[end..];
            let is_time =
                rest.strip_prefix(':').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            if is_time {
                // The minutes belong to it.
                self.at =
                    self.text.len() - rest.trim_start_matches(|c: char| c == ':' || c.is_ascii_digit()).len();
                continue;
            }
            let joined = rest.strip_prefix(['-', '\u{2011}']);
            let is_compound = joined.is_some_and(|rest| rest.starts_with(char::is_alphabetic));
            return Some((&self.text[start..end], is_compound));
        }
    }
}

impl Numbers<'_> {
    /// Where the next number begins, its sign included, and where it ends.
    fn span(&self) -> Option<(usize, usize)> {
        let bytes = self.text.as_bytes();
        let start = self.at + bytes[self.at..].iter().position(u8::is_ascii_digit)?;
        let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let mut end = start + digits(start);
        let mut can_group = end - start <= 3;
        loop {
            if matches!(bytes.get(end), Some(b',' | b'.')) && digits(end + 1) > 0 {
                can_group &= bytes[end] == b',';
                end += 1 + digits(end + 1);
                continue;
            }
            let rest = &self.text[end..];
            let separator = SEPARATORS.iter().find(|separator| can_group && rest.starts_with(**separator));
            match separator {
                // A space may also stand between two numbers, but seldom before exactly three digits.
                Some(separator) if digits(end + separator.len()) == 3 => end += separator.len() + 3,
                _ => break,
            }
        }
        let is_signed =
            start > 0 && bytes[start - 1] == b'-' && !(start > 1 && bytes[start - 2].is_ascii_alphanumeric());
        Some((start - usize::from(is_signed), end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(number(text), Some(expected), "{text}");
    }

    #[test]
    fn bold_goes_before_a_formula_in_its_line() {
        let found = |text| answer(text, &|_| true).map(|(span, rung)| (span.to_owned(), rung));
        let expected = |span: &str, rung| Some((span.to_owned(), rung));
        let beside = "He needs **7 packs**. This gives \\(7 \\times 8 = 56\\) sticks, 2 of them to spare.";
        assert_eq!(found(beside), expected("7", Rung::Number));
        assert_eq!(found("He has **7**, so $x = 7$"), expected("7", Rung::Number));
        assert_eq!(found("So **the answer is $x^2 + 1$**"), expected("x^2 + 1", Rung::Formula));
        assert_eq!(found("With **2** of them\nit is $x^2$"), expected("x^2", Rung::Formula));
    }

    #[test]
    fn the_last_number_of_the_last_line_with_any() {
        check("1,234.5 in all.", "1,234.5");
        check("It is -3", "-3");
        check("so 7-3", "3");
        check("7é, 8.", "8");
        check("first 5\nthen 6 of 7\nand that is all", "7");
        check("**Total:** 16\n\nShe has 18 left.", "18");
        assert_eq!(number("none"), None);
        assert_eq!(number(""), None);
    }

    #[test]
    fn bold_goes_before_what_stands_behind_it() {
        check("The car takes **16 hours** to cover 480 miles.", "16");
        check("So **8 pieces** make a 32-page paper.", "8");
        check("He needs **7 packs**. This gives 56 sticks and 2 are left.", "7");
        check("**Answer: 12 cups of water for her 20 plants.**", "12");
        check("Each gets **3**, and **2** are left of 11.", "2");
        check("**Final answer**\n\nIt costs **\\$2,640** for 12 months.", "2,640");
    }

    #[test]
    fn bold_labels_and_equations_are_read_to_their_end() {
        check("**Day 2:** 18 eggs", "18");
        check("**Day 2**: 18 eggs", "18");
        check("**6 + 1 = 7** in all 9", "7");
        check("**Total for 5 days: 40 miles** of 60", "40");
        check("**Total for 5 days: none**", "5");
        check("2 ** 3 is 8", "8");
        check("a **b and 4", "4");
    }

    #[test]
    fn a_compound_counts_only_alone() {
        check("**The 8-pack will cost \\$12.**", "12");
        check("**The 8\u{2011}pack will cost 12 dollars.**", "12");
        check("She earns 75 in a 30-day month.", "75");
        check("It lasts a 30-day month.", "30");
        check("from 7-3 on", "3");
        check("at 2:30 in room 4", "4");
        check("in room 4 at 12:30:05", "4");
        assert_eq!(number("at 2:30"), None);
    }

    #[test]
    fn a_sentence_in_a_box_has_a_number() {
        let cases = [
            (r"\text{She has 3 apples.}", Some("3")),
            (r"Jean\text{ is }23\text{ years old}.", Some("23")),
            (r"\$50\text{ per day for each of the last 15 days}", Some("50")),
            (r"\text{The total is } \$11,\!232.", Some("11,\\!232")),
            (r"1{,}200 + 900 = \$2{,}100", Some("2{,}100")),
            (r"\text{3 apples and pears}", Some("3")),
            (r"\text{5 or 6}", None),
            (r"2x", None),
            (r"x^2 + 3", None),
            (r"x^2 = 9", None),
            (r"\frac{2x}{3}", None),
            (r"\sqrt{2}", None),
            (r"2:30\ \text{pm}", None),
        ];
        for (content, expected) in cases {
            assert_eq!(number_in_box(content), expected, "{content}");
        }
    }

    #[test]
    fn thousands_are_separated_in_many_ways() {
        for number in [
            "4\u{202f}000",
            "72\u{a0}000",
            "1\u{2009}234\u{2009}567",
            "5{,}400",
            "11,\\!050",
            "14\\,400",
            "1,234",
        ] {
            check(&format!("so {number} in all"), number);
        }
        check("seats 12\u{202f}34", "34");
        check("in 2024\u{a0}100 came", "100");
        check("1.5\u{a0}100", "100");
    }
}
