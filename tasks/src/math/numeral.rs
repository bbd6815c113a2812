//! Numbers as people and models write them: thousands set apart, decimals that recur, powers of ten.
use std::borrow::Cow;

use super::expression::Numeral;
use super::ratio::Ratio;

/// A number at the start of a text.
#[derive(Debug)]
pub(super) struct Read<'a> {
    pub(super) numeral: Numeral,
    /// Its digits and point, where it is nothing else.
    pub(super) digits: &'a str,
    /// The bytes it takes.
    pub(super) length: usize,
}

/// What may set thousands apart beside a plain comma: LaTeX's spaces and spaces that do not break. The longest come first.
const SEPARATORS: [&str; 12] =
    [",\\! ", ",\\!\\!", "{,}\\!", ",\\!", "{,}", "\\,", ",", " ", "\u{202f}", "\u{a0}", "\u{2009}", "\\ "];

/// The number has more digits than the grader computes with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

/// Reads the number that begins the text, if one does.
pub(super) fn read(text: &str, grouping: bool) -> Result<Option<Read<'_>>, TooLarge> {
    let Some(c) = text.chars().next() else { return Ok(None) };
    let fraction = match c {
        '0'..='9' | '.' => None,
        '½' => Ratio::quotient(1, 2),
        '¼' => Ratio::quotient(1, 4),
        '¾' => Ratio::quotient(3, 4),
        '⅓' => Ratio::quotient(1, 3),
        '⅔' => Ratio::quotient(2, 3),
        _ => return Ok(None),
    };
    if let Some(value) = fraction {
        let numeral = Numeral { value, decimals: 0, grouped: false, plain: false };
        return Ok(Some(Read { numeral, digits: "", length: c.len_utf8() }));
    }
    let digits_at =
        |at: usize| text.as_bytes()[at.min(text.len())..].iter().take_while(|b| b.is_ascii_digit()).count();
    let first = digits_at(0);
    let begins_with_point = first == 0 && text.starts_with('.') && digits_at(1) > 0;
    if first == 0 && !begins_with_point {
        return Ok(None);
    }
    let mut digits = Cow::Borrowed(&text[..first]);
    let mut at = first;
    let mut grouped = false;
    // A look at the next byte spares most numbers the search for a separator.
    let may_group = || matches!(text.as_bytes().get(first), Some(b',' | b'{' | b'\\' | b' ' | 0x80..));
    if grouping && (1..=3).contains(&first) && !digits.starts_with('0') && may_group() {
        let separator = SEPARATORS.iter().find(|separator| is_group(&text[at..], separator, &digits_at, at));
        while let Some(separator) =
            separator.filter(|separator| is_group(&text[at..], separator, &digits_at, at))
        {
            at += separator.len();
            digits.to_mut().push_str(&text[at..at + 3]);
            at += 3;
            grouped = true;
        }
    }
    let whole = digits.len();
    let mut recurring = 0;
    let has_point = text[at..].starts_with('.') && (digits_at(at + 1) > 0 || bar(&text[at + 1..]).is_some());
    if has_point {
        at += 1;
        let places = digits_at(at);
        digits.to_mut().push_str(&text[at..at + places]);
        at += places;
        if let Some((period, length)) = bar(&text[at..]) {
            digits.to_mut().push_str(period);
            recurring = period.len();
            at += length;
        } else if let Some(length) = ellipsis(&text[at..]) {
            recurring = period(&digits[whole..]);
            at += length;
        }
    }
    let places = digits.len() - whole;
    let mut value = value_of(&digits, places, recurring).ok_or(TooLarge)?;
    let mut plain = !grouped && !has_point;
    let mut exponent_length = 0;
    if let Some((exponent, length)) = scientific(&text[at..]) {
        value = Ratio::ten_to(exponent).and_then(|power| value.times(&power)).ok_or(TooLarge)?;
        exponent_length = length;
        plain = false;
    }
    let significant = digits.trim_start_matches('0').len();
    let decimals = if recurring == 0 && (has_point || exponent_length > 0) { significant.max(1) } else { 0 };
    let numeral = Numeral { value, decimals, grouped, plain };
    let as_written = !grouped && recurring == 0 && exponent_length == 0;
    let digits = if as_written { &text[..at] } else { "" };
    Ok(Some(Read { numeral, digits, length: at + exponent_length }))
}

/// Whether the separator is there with exactly three digits behind it.
fn is_group(rest: &str, separator: &str, digits_at: &impl Fn(usize) -> usize, at: usize) -> bool {
    rest.starts_with(separator) && digits_at(at + separator.len()) == 3
}

/// The digits under a bar or dot, or in parentheses, and the bytes they take.
fn bar(text: &str) -> Option<(&str, usize)> {
    for (open, close) in [("\\overline{", "}"), ("\\bar{", "}"), ("\\dot{", "}"), ("(", ")")] {
        let Some(inside) = text.strip_prefix(open) else { continue };
        let digits = inside.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 && inside[digits..].starts_with(close) {
            return Some((&inside[..digits], open.len() + digits + close.len()));
        }
    }
    None
}

fn ellipsis(text: &str) -> Option<usize> {
    ["...", "…", "\\ldots", "\\dots", "\\cdots"]
        .iter()
        .find(|mark| text.starts_with(**mark))
        .map(|mark| mark.len())
}

/// How many of the last digits recur: those that have been written twice, or thrice where it is one.
fn period(decimals: &str) -> usize {
    let bytes = decimals.as_bytes();
    (1..=6)
        .find(|&length| {
            let shown = if length == 1 { 3 } else { 2 * length };
            bytes.len() >= shown
                && bytes[bytes.len() - shown..]
                    .chunks(length)
                    .all(|part| part == &bytes[bytes.len() - length..])
        })
        .unwrap_or(0)
}

/// The value of digits of which `places` stand behind the point and the last `recurring` recur.
fn value_of(digits: &str, places: usize, recurring: usize) -> Option<Ratio> {
    let all = Ratio::from_digits(digits)?;
    let ten_to = |places: usize| Ratio::ten_to(places.try_into().ok()?);
    if recurring == 0 {
        return all.over(&ten_to(places)?);
    }
    // a.bccc… = (abc - ab) / (10^places - 10^(places - recurring)).
    let before = Ratio::from_digits(&digits[..digits.len() - recurring]).unwrap_or(Ratio::whole(0));
    let bottom = ten_to(places)?.plus(&ten_to(places - recurring)?.negative())?;
    all.plus(&before.negative())?.over(&bottom)
}

/// The exponent of `e3`, `E-3`, and the bytes it takes.
fn scientific(rest: &str) -> Option<(i64, usize)> {
    let after = rest.strip_prefix(['e', 'E'])?;
    let unsigned = after.strip_prefix(['-', '+']).unwrap_or(after);
    let digits = unsigned.bytes().take_while(u8::is_ascii_digit).count();
    let ends = !unsigned[digits..].starts_with(|c: char| c.is_alphanumeric());
    let length = after.len() - unsigned.len() + digits;
    (digits > 0 && ends).then(|| Some((after[..length].parse().ok()?, 1 + length)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, numerator: i64, denominator: i64, length: usize) {
        let read = read(text, true).unwrap().unwrap();
        let value = Ratio::new(numerator.into(), denominator.into()).unwrap();
        assert_eq!((read.numeral.value, read.length), (value, length), "{text}");
    }

    #[test]
    fn numbers_are_read_exactly() {
        check("42x", 42, 1, 2);
        check("1,234.5", 2469, 2, 7);
        check(r"1\,234", 1234, 1, 6);
        check("1{,}234{,}567", 1_234_567, 1, 13);
        check(r"11,\! 111,\! 111,\! 100", 11_111_111_100, 1, 23);
        check("1,2345", 1, 1, 1);
        check("1, 234", 1, 1, 1);
        check(".5", 1, 2, 2);
        check("1.5e3", 1500, 1, 5);
        check("5e-1", 1, 2, 4);
        check("2e", 2, 1, 1);
        check("7.", 7, 1, 1);
        check("½", 1, 2, 2);
    }

    #[test]
    fn decimals_recur() {
        check(r"0.\overline{3}", 1, 3, 14);
        check(r"0.1\overline{6}", 1, 6, 15);
        check("0.(27)", 3, 11, 6);
        check("0.333...", 1, 3, 8);
        check(r"0.1212\ldots", 4, 33, 12);
        check("1.25...", 5, 4, 7);
    }
}
