//! Numbers as people and models write them: thousands set apart, decimals that recur, powers of ten.
use num_bigint::BigInt;

use super::expression::Numeral;
use super::ratio::Ratio;

/// A number at the start of a text.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) numeral: Numeral,
    /// Its digits and point, where it is nothing else.
    pub(super) digits: String,
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
pub(super) fn read(text: &str, grouping: bool) -> Result<Option<Read>, TooLarge> {
    if let Some(c) = text.chars().next().filter(|c| matches!(c, '½' | '¼' | '¾' | '⅓' | '⅔')) {
        let (numerator, denominator) = match c {
            '½' => (1, 2),
            '¼' => (1, 4),
            '¾' => (3, 4),
            '⅓' => (1, 3),
            _ => (2, 3),
        };
        let value = Ratio::new(BigInt::from(numerator), BigInt::from(denominator)).ok_or(TooLarge)?;
        let numeral = Numeral { value, decimals: 0, grouped: false, plain: false };
        return Ok(Some(Read { numeral, digits: String::new(), length: c.len_utf8() }));
    }
    let digits_at =
        |at: usize| text.as_bytes()[at.min(text.len())..].iter().take_while(|b| b.is_ascii_digit()).count();
    let first = digits_at(0);
    let begins_with_point = first == 0 && text.starts_with('.') && digits_at(1) > 0;
    if first == 0 && !begins_with_point {
        return Ok(None);
    }
    let mut digits = text[..first].to_owned();
    let mut at = first;
    let mut grouped = false;
    if grouping && (1..=3).contains(&first) && !digits.starts_with('0') {
        let separator = SEPARATORS.iter().find(|separator| is_group(&text[at..], separator, &digits_at, at));
        while let Some(separator) =
            separator.filter(|separator| is_group(&text[at..], separator, &digits_at, at))
        {
            at += separator.len();
            digits.push_str(&text[at..at + 3]);
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
        digits.push_str(&text[at..at + places]);
        at += places;
        if let Some((period, length)) = bar(&text[at..]) {
            digits.push_str(period);
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
    let digits = if as_written { text[..at].to_owned() } else { String::new() };
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
    if recurring == 0 {
        return Ratio::whole(all).over(&Ratio::ten_to(places)?);
    }
    // a.bccc… = (abc - ab) / (10^places - 10^(places - recurring)).
    let before = Ratio::from_digits(&digits[..digits.len() - recurring]).unwrap_or_default();
    let bottom = Ratio::ten_to(places)?.plus(&Ratio::ten_to(places - recurring)?.negative())?;
    Ratio::whole(all - before).over(&bottom)
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
