//! Answers that are words, letters of choices or times of day.
use super::form::Form;

/// What says that nothing solves a problem.
const NO_SOLUTION: [&str; 12] = [
    "no solution",
    "no solutions",
    "no real solution",
    "no real solutions",
    "no such number exists",
    "no solution exists",
    "no solutions exist",
    "there is no solution",
    "there are no solutions",
    "there are no real solutions",
    "no real roots",
    "has no solution",
];

/// Words in lower case without a leading article; the letter of a choice without its parentheses.
pub(super) fn words(text: &str) -> Option<Form> {
    // Most answers are mathematics, which the first digit or sign tells.
    let is_wordlike = |byte: u8| byte.is_ascii_alphabetic() || !byte.is_ascii() || b" -'()".contains(&byte);
    if !text.bytes().all(is_wordlike) {
        return None;
    }
    let text = text.to_lowercase();
    let inner = text.strip_prefix('(').and_then(|text| text.strip_suffix(')')).unwrap_or(&text).trim();
    let text = if inner.chars().count() == 1 { inner } else { text.as_str() };
    let plain = text.chars().all(|c| c.is_alphabetic() || matches!(c, ' ' | '-' | '\'' | '’'));
    // An apostrophe behind a letter or two is a derivative.
    let prime = text.ends_with(['\'', '’']) && text.chars().count() < 4;
    if !plain || prime || !text.starts_with(char::is_alphabetic) {
        return None;
    }
    let text = ["a ", "an ", "the "].iter().find_map(|article| text.strip_prefix(article)).unwrap_or(text);
    let text = text.trim();
    Some(match text {
        "pi" | "inf" | "oo" => return None,
        "infinity" | "positive infinity" | "plus infinity" => Form::Infinity { negative: false },
        "negative infinity" | "minus infinity" => Form::Infinity { negative: true },
        "empty set" | "null set" => Form::Set(Vec::new()),
        "all real numbers" | "all reals" | "real numbers" | "all real" => {
            super::sets::form(vec![super::sets::Piece::all()])
        }
        text if NO_SOLUTION.contains(&text) => Form::Words("no solution".to_owned()),
        text => Form::Words(text.to_owned()),
    })
}

/// Whether the words say that nothing solves the problem.
pub(super) fn says_no_solution(words: &str) -> bool {
    words == "no solution"
}

/// The letter of a choice and what follows it: `C. 12`, `(C) 12`.
pub(super) fn choice(text: &str) -> Option<(String, &str)> {
    let (open, rest) = text.strip_prefix('(').map_or((false, text), |rest| (true, rest));
    let letter = rest.chars().next().filter(|c| ('A'..='J').contains(c))?;
    let after = rest[1..].trim_start();
    let mark = after.chars().next()?;
    let closes = mark == ')' || !open && matches!(mark, '.' | ':');
    let behind = &after[mark.len_utf8()..];
    let content = behind.trim_start_matches(['.', ':']).trim();
    let joined = ["and", "or", ","].iter().any(|join| content.starts_with(join));
    // `C.5` is no choice, `(C) 5` and `C) 5` are.
    let set_off = mark == ')' || behind.starts_with(' ');
    (closes && set_off && !content.is_empty() && !joined).then(|| (letter.to_lowercase().collect(), content))
}

/// `3:30`, `08:34 P.M.`, `12:00:05`.
pub(super) fn time(text: &str) -> Option<(u32, Option<bool>)> {
    if !text.contains(':') && !text.trim_end_matches(['.', ' ']).ends_with(['m', 'M']) {
        return None;
    }
    let text = text.to_lowercase().replace(['.', ' '], "");
    let (digits, half) = if let Some(rest) = text.strip_suffix("am") {
        (rest, Some(false))
    } else if let Some(rest) = text.strip_suffix("pm") {
        (rest, Some(true))
    } else {
        (text.as_str(), None)
    };
    let mut parts = digits.split(':');
    let hours = parts.next().filter(|part| (1..=2).contains(&part.len()))?;
    let minutes = parts.next().filter(|part| part.len() == 2);
    let seconds = parts.next();
    if parts.next().is_some() || seconds.is_some_and(|part| part.len() != 2) {
        return None;
    }
    // `3 pm` has no minutes, but says what it is.
    let minutes = match minutes {
        Some(minutes) => minutes,
        None if half.is_some() && !digits.contains(':') => "00",
        None => return None,
    };
    let number = |part: &str| {
        part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse::<u32>().ok()).flatten()
    };
    let (hours, minutes, seconds) = (number(hours)?, number(minutes)?, number(seconds.unwrap_or("00"))?);
    if hours > 24 || minutes > 59 || seconds > 59 {
        return None;
    }
    let hours = if half.is_some() { hours % 12 } else { hours };
    Some((hours * 3600 + minutes * 60 + seconds, half))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_letters_with_a_mark() {
        assert_eq!(choice("C. 12"), Some(("c".to_owned(), "12")));
        assert_eq!(choice("(C) 12"), Some(("c".to_owned(), "12")));
        assert_eq!(choice("(A) and (B)"), None);
        assert_eq!(choice("C.5"), None);
        assert_eq!(choice("(A, B)"), None);
        assert_eq!(choice("C"), None);
        assert_eq!(choice("(C)"), None);
        assert_eq!(choice("E√"), None);
    }

    #[test]
    fn times_may_say_their_half_of_the_day() {
        assert_eq!(time("3:30"), Some((12_600, None)));
        assert_eq!(time("08:34 P.M."), Some((30_840, Some(true))));
        assert_eq!(time("12:00 am"), Some((0, Some(false))));
        assert_eq!(time("3 pm"), Some((10_800, Some(true))));
        for other in ["3:2", "3:75", "33:30", "a:30", "3", "", "1:2:3"] {
            assert_eq!(time(other), None, "{other}");
        }
    }
}
