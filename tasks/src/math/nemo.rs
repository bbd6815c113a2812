//! The comparison of NeMo-Skills in October 2025: its rules in their order, its mistakes included.
//!
//! Where it hands over to Math-Verify, this grader's own comparison stands in, with the choices set as Math-Verify has them.
use super::{Policy, Verdict, compare};

/// Units that it drops behind a number in plain text.
const UNITS: [&str; 24] = [
    "percent",
    "hours",
    "hour",
    "minutes",
    "seconds",
    "days",
    "weeks",
    "months",
    "years",
    "miles",
    "feet",
    "inches",
    "meters",
    "degrees",
    "cents",
    "units",
    "students",
    "pounds",
    "points",
    "edges",
    "digits",
    "square units",
    "cm",
    "mph",
];

/// Whether NeMo-Skills calls the two equal.
pub(super) fn equal(gold: &str, prediction: &str) -> bool {
    let letter = gold.trim();
    if letter.len() == 1 && letter.bytes().all(|byte| (b'A'..=b'J').contains(&byte)) {
        return choice(prediction).is_some_and(|choice| choice == letter);
    }
    let (gold, prediction) = (normalised(gold), normalised(prediction));
    // The mistake: two texts of digits and spaces, or of letters, are compared as text, so `016` is not `16`.
    let letters = |text: &str| text.chars().all(|c| c.is_ascii_alphabetic() || c.is_whitespace() || c == ',');
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit() || c.is_whitespace());
    let squeezed = |text: &str| text.split_whitespace().collect::<String>();
    if letters(&gold) && letters(&prediction) || digits(&gold) && digits(&prediction) {
        return squeezed(&gold) == squeezed(&prediction);
    }
    if squeezed(&gold) == squeezed(&prediction) {
        return true;
    }
    if unread(&gold) || unread(&prediction) {
        return false;
    }
    // An inequality is not accepted for a gold interval, the other way round is.
    let relation = |text: &str| {
        text.contains(['<', '>']) || ["\\le", "\\ge", "\\lt", "\\gt"].iter().any(|sign| text.contains(sign))
    };
    let interval = gold.starts_with(['[', '(']) && gold.contains(',');
    if interval && relation(&prediction.replace("\\left", "")) {
        return false;
    }
    let policy = Policy { percent_of_one: false, rounded_digits: 6, ..Policy::default() };
    compare(&gold, &prediction, &policy).0 == Verdict::Correct
}

/// What Math-Verify does not read: prose, digits set apart by LaTeX's thin space, e for a power of ten.
fn unread(text: &str) -> bool {
    // Functions are read in plain text too.
    let text = &text.replace("sqrt(", "(").replace("sin(", "(").replace("cos(", "(");
    let bytes = text.as_bytes();
    let spaced = bytes
        .windows(4)
        .any(|four| four[0].is_ascii_digit() && &four[1..3] == b"\\," && four[3].is_ascii_digit());
    let power = bytes.windows(3).any(|three| {
        three[0].is_ascii_digit() && three[1].eq_ignore_ascii_case(&b'e') && three[2].is_ascii_digit()
    });
    let mut before = ' ';
    let mut word = 0;
    let prose = !text.contains("\\text")
        && !text.contains("\\begin")
        && text.chars().any(|c| {
            // Letters behind a backslash are a command.
            word = if c.is_alphabetic() && (word > 0 || before != '\\' && !before.is_alphabetic()) {
                word + 1
            } else {
                0
            };
            before = c;
            word > 3
        });
    spaced || power || prose
}

/// The letter of a choice as it is found in `(C)`, `\text{C}` and `C`.
fn choice(text: &str) -> Option<String> {
    let mut text = text.trim();
    for command in ["\\textbf", "\\text", "\\mathrm", "\\mathbf", "\\boxed"] {
        if let Some(inside) = text.strip_prefix(command) {
            text = inside
                .trim()
                .strip_prefix('{')
                .and_then(|inside| inside.strip_suffix('}'))
                .unwrap_or(inside)
                .trim();
        }
    }
    let text = match text.split_once(['.', ')', ':']) {
        Some((letter, rest)) if rest.starts_with(' ') => letter,
        _ => text,
    };
    let text = text.trim_matches(['(', ')', '.', ' ', '{', '}']);
    (text.len() == 1 && text.bytes().all(|byte| byte.is_ascii_alphabetic())).then(|| text.to_owned())
}

/// Percent signs behind plain decimals, dots and backslashes at the end, and Math-Verify's spellings.
fn normalised(text: &str) -> String {
    let mut text = text.trim();
    if let Some(number) =
        text.strip_suffix('%').map(|text| text.strip_suffix('\\').unwrap_or(text).trim_end())
        && !number.is_empty()
        && number.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        text = number;
    }
    let text = text.trim_end_matches(['.', '\\']).trim();
    let lower = text.to_lowercase();
    let text = if text.contains('\\') && !text.starts_with("\\text") { text } else { lower.as_str() };
    // Units it knows are dropped from plain text.
    let text = UNITS
        .iter()
        .find_map(|unit| text.strip_suffix(unit))
        .filter(|rest| rest.ends_with(' '))
        .map_or(text, str::trim);
    let mut text =
        text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\$", "").replace('$', "");
    // Words in a style are dropped when they are a unit behind a number, kept when they are all there is.
    if let Some(at) = text
        .find("\\text{")
        .filter(|at| *at > 0 && text[at + 6..].starts_with(|c: char| c.is_alphabetic() || c == ' '))
    {
        let rest = super::lexer::group(&text[at + 5..]).1.to_owned();
        if rest.is_empty() || rest.starts_with('^') {
            text.truncate(at);
        }
    }
    for style in ["\\text", "\\mathrm", "\\mathbf", "\\textbf"] {
        let Some(inside) = text.strip_prefix(style).and_then(|rest| rest.strip_prefix('{')) else { continue };
        if let Some(inside) = inside.strip_suffix('}').filter(|inside| !inside.contains(['{', '}'])) {
            return inside.trim().to_owned();
        }
    }
    text.trim().to_owned()
}
