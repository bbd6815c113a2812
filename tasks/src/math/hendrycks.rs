//! The text comparison that came with the MATH data set: normalise both, compare as text.
//!
//! Written from its description, for published numbers to be reproduced; nothing symbolic, so `0.5` is `\frac{1}{2}` but
//! `2/4` is not.

/// Whether the two are the same text once normalised.
pub(super) fn equal(a: &str, b: &str) -> bool {
    normalised(a) == normalised(b)
}

fn normalised(text: &str) -> String {
    let mut text = text.replace('\n', "").replace("\\!", "").replace("\\\\", "\\");
    text = text.replace("tfrac", "frac").replace("dfrac", "frac");
    for gone in ["\\left", "\\right", "^{\\circ}", "^\\circ", "\\$"] {
        text = text.replace(gone, "");
    }
    // Units on the right: all from the one `\text{ `.
    if text.matches("\\text{ ").count() == 1 {
        text.truncate(text.find("\\text{ ").unwrap_or(text.len()));
    }
    text = text.replace("\\%", "").replace('%', "");
    text = text.replace(" .", " 0.").replace("{.", "{0.");
    if text.is_empty() {
        return text;
    }
    if text.starts_with('.') {
        text.insert(0, '0');
    }
    // `k = 10`, where the left is short.
    if let Some((left, right)) = text.split_once('=').filter(|(_, right)| !right.contains('='))
        && left.chars().count() <= 2
    {
        text = String::from(right);
    }
    text = braced_roots(&text).replace(' ', "");
    text = braced_fractions(&text);
    if text == "0.5" {
        return "\\frac{1}{2}".to_owned();
    }
    plain_fraction(&text).unwrap_or(text)
}

/// `\sqrt3` is `\sqrt{3}`.
fn braced_roots(text: &str) -> String {
    let mut parts = text.split("\\sqrt");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.chars().next() {
            Some('{') | None => out.push_str(&format!("\\sqrt{part}")),
            Some(first) => out.push_str(&format!("\\sqrt{{{first}}}{}", &part[first.len_utf8()..])),
        }
    }
    out
}

/// `\frac12`, `\frac1{72}` and `\frac{1}2` with braces; anything else as it is.
fn braced_fractions(text: &str) -> String {
    let mut parts = text.split("\\frac");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("\\frac");
        let mut chars = part.chars();
        match (chars.next(), chars.next()) {
            (Some('{'), _) => out.push_str(part),
            (Some(a), Some('{')) => out.push_str(&format!("{{{a}}}{}", &part[a.len_utf8()..])),
            (Some(a), Some(b)) => out.push_str(&format!("{{{a}}}{{{b}}}{}", chars.as_str())),
            // Fewer than two characters: the original gives the text up as it was.
            _ => return text.to_owned(),
        }
    }
    out
}

/// `3/4` of two whole numbers is `\frac{3}{4}`.
fn plain_fraction(text: &str) -> Option<String> {
    let (top, bottom) = text.split_once('/')?;
    let whole = |part: &str| part.parse::<i64>().is_ok_and(|number| number.to_string() == part);
    (whole(top) && whole(bottom)).then(|| format!("\\frac{{{top}}}{{{bottom}}}"))
}
