//! Taking the typesetting off an answer: what remains says the same in fewer forms.

/// Commands that only style their argument: `\text{7}` is `7`.
const STYLES: [&str; 12] = [
    "text",
    "textbf",
    "textit",
    "textrm",
    "mathrm",
    "mathbf",
    "mathit",
    "mathsf",
    "mbox",
    "boxed",
    "fbox",
    "operatorname",
];
/// Commands that only space or size.
const SPACING: [&str; 13] = [
    "left",
    "right",
    "big",
    "Big",
    "bigl",
    "bigr",
    "displaystyle",
    "quad",
    "qquad",
    "limits",
    "bf",
    "rm",
    "thinspace",
];

/// The answer without mathematical delimiters, styles, spacing, currency and degree marks.
///
/// The pieces of text that a style command held are set off by spaces, so that `5\text{cm}` becomes
/// `5 cm` and not `5cm`, which could be a product.
pub(super) fn strip(answer: &str) -> String {
    let mut text = String::with_capacity(answer.len());
    // For each open brace, whether it belongs to a style command and falls away with it.
    let mut braces: Vec<bool> = Vec::new();
    let mut rest = answer;
    // Nearly all characters stay, so they are taken by the run.
    while let Some(at) = rest.find(is_typesetting) {
        let (run, marked) = rest.split_at(at);
        text.push_str(run);
        let mut characters = marked.chars();
        let Some(character) = characters.next() else { break };
        rest = characters.as_str();
        match character {
            '\\' => rest = strip_command(rest, &mut text, &mut braces),
            '{' if rest.starts_with(",}") => {
                text.push(',');
                rest = &rest[2..];
            }
            '{' => {
                braces.push(false);
                text.push('{');
            }
            // An exponent stays with its unit: `\text{cm}^2`.
            '}' => match braces.pop() {
                Some(true) if rest.starts_with('^') => {}
                Some(true) => space(&mut text),
                _ => text.push('}'),
            },
            '−' | '–' => text.push('-'),
            '×' | '·' => text.push('*'),
            character if character.is_whitespace() => space(&mut text),
            _ => {}
        }
    }
    text.push_str(rest);
    // No full stop or comma at the end.
    while text.ends_with(['.', ',', ' ', ';']) || (text.ends_with('\\') && !text.ends_with("\\\\")) {
        text.pop();
    }
    text
}

/// Whether a character does not stay as it is.
fn is_typesetting(character: char) -> bool {
    match character {
        '\\' | '{' | '}' | '$' | '~' | '°' | '−' | '–' | '×' | '·'
        // Signs of currencies have a block of their own, but for the oldest.
        | '¢'..='¥' | '\u{20a0}'..='\u{20cf}' => true,
        character => character.is_whitespace(),
    }
}

/// One space between words, none before them.
fn space(text: &mut String) {
    if !text.is_empty() && !text.ends_with(' ') {
        text.push(' ');
    }
}

/// Handles what follows a backslash and gives what follows the command.
fn strip_command<'a>(rest: &'a str, text: &mut String, braces: &mut Vec<bool>) -> &'a str {
    let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (name, after) = rest.split_at(letters);
    match name {
        "" => {
            let Some(symbol) = rest.chars().next() else { return rest };
            match symbol {
                // `\,` and `\!` separate digits; the others separate words. `\(` and `\[` delimit.
                ',' | ';' | ':' | ' ' => space(text),
                '!' | '(' | ')' | '[' | ']' | '$' => {}
                '%' => text.push('%'),
                // A brace that is part of the answer, as in a set, is kept escaped.
                symbol => {
                    text.push('\\');
                    text.push(symbol);
                }
            }
            &rest[symbol.len_utf8()..]
        }
        name if STYLES.contains(&name) => match after.trim_start().strip_prefix('{') {
            Some(inside) => {
                braces.push(true);
                space(text);
                inside
            }
            None => after,
        },
        name if SPACING.contains(&name) => {
            space(text);
            after
        }
        "dfrac" | "tfrac" | "cfrac" | "frac" => {
            text.push_str("\\frac");
            after
        }
        "cdot" | "times" => {
            text.push('*');
            after
        }
        "circ" | "degree" => {
            // `90^\circ` and `90^{\circ}`: the exponent goes with its mark.
            match text.strip_suffix("^{").map(str::len) {
                Some(length) if after.starts_with('}') => {
                    text.truncate(length);
                    braces.pop();
                    &after[1..]
                }
                _ => {
                    if text.ends_with('^') {
                        text.pop();
                    }
                    after
                }
            }
        }
        name => {
            text.push('\\');
            text.push_str(name);
            after
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typesetting_goes_and_meaning_stays() {
        let cases = [
            (r"$\boxed{42}$", "42"),
            (r"\( 42 \)", "42"),
            (r"\text{Evelyn}", "Evelyn"),
            (r"5\text{ cm}", "5 cm"),
            (r"5\text{ cm}^2", "5 cm^2"),
            (r"10\,\mathrm{km}", "10 km"),
            (r"\dfrac{1}{2}", r"\frac{1}{2}"),
            (r"\left( 3, 4 \right)", "( 3, 4 )"),
            (r"90^\circ", "90"),
            (r"90^{\circ}", "90"),
            (r"\$18", "18"),
            ("₱250", "250"),
            ("£3 or 3€", "3 or 3"),
            (r"50\%", "50%"),
            (r"1{,}000", "1,000"),
            (r"1\,000", "1 000"),
            ("−3.", "-3"),
            (r"\{1,2\}", r"\{1,2\}"),
            (r"6.02\times 10^{23}", "6.02* 10^{23}"),
            (r"\textbf{(C)}", "(C)"),
            ("\\", ""),
            ("{", "{"),
            ("}", "}"),
        ];
        for (answer, expected) in cases {
            assert_eq!(strip(answer), expected, "{answer}");
        }
    }
}
