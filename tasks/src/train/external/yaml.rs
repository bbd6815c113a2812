//! A recipe as YAML that every parser reads alike.
//!
//! Python's reads `5e-6` as a text, since a number has a point to it; so the numbers here have one.

use std::fmt::Write;

use serde_json::{Map, Value};

/// The map as a document.
pub(super) fn write(map: &Map<String, Value>) -> String {
    let mut text = String::new();
    write_map(map, 0, &mut text);
    text
}

fn write_map(map: &Map<String, Value>, depth: usize, text: &mut String) {
    // In an order of its own: that of the map depends on how serde_json is built.
    let mut entries: Vec<(&String, &Value)> = map.iter().collect();
    entries.sort_unstable_by_key(|(name, _)| *name);
    for (name, value) in entries {
        let indent = "  ".repeat(depth);
        // Writing to a `String` cannot fail.
        let _ = match value {
            Value::Object(inner) if !inner.is_empty() => {
                let _ = writeln!(text, "{indent}{}:", key(name));
                write_map(inner, depth + 1, text);
                continue;
            }
            _ => writeln!(text, "{indent}{}: {}", key(name), inline(value)),
        };
    }
}

/// A name that needs no quotes, or one in quotes.
fn key(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let is_word =
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(is_plain);
    // Words that YAML takes for something else.
    let is_taken =
        ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&name.to_lowercase().as_str());
    if is_word && !is_taken { name.to_owned() } else { Value::from(name).to_string() }
}

/// A value on one line, in the part of YAML that JSON is.
fn inline(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_f64() => float(number.as_f64().unwrap_or_default()),
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let entries: Vec<String> = map
                .iter()
                .map(|(name, value)| format!("{}: {}", Value::from(name.as_str()), inline(value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
        other => other.to_string(),
    }
}

/// A number with a point, and with a sign before its exponent.
fn float(value: f64) -> String {
    let text = format!("{value:?}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, ""));
    let point = if mantissa.contains('.') { "" } else { ".0" };
    match exponent {
        "" => format!("{mantissa}{point}"),
        negative if negative.starts_with('-') => format!("{mantissa}{point}e{negative}"),
        positive => format!("{mantissa}{point}e+{positive}"),
    }
}

/// Puts `value` at a dotted name, in the maps that it leads through.
pub(super) fn set(map: &mut Map<String, Value>, name: &str, value: Value) {
    match name.split_once('.') {
        None => {
            map.insert(name.to_owned(), value);
        }
        Some((first, rest)) => {
            let inner = map.entry(first).or_insert_with(|| Value::Object(Map::new()));
            if !inner.is_object() {
                *inner = Value::Object(Map::new());
            }
            if let Value::Object(inner) = inner {
                set(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_have_a_point_and_texts_have_quotes() {
        for (value, text) in [
            (5e-6, "5.0e-6"),
            (5.5e-7, "5.5e-7"),
            (1e-8, "1.0e-8"),
            (1e22, "1.0e+22"),
            (0.98, "0.98"),
            (1.0, "1.0"),
            (0.0, "0.0"),
        ] {
            assert_eq!(float(value), text);
        }
        let map = json!({ "a": { "b": [0.9, 1], "c": "x: y # z", "yes": null, "e": {} }, "d e": true });
        let Value::Object(mut map) = map else { unreachable!() };
        set(&mut map, "a.f.g", json!(2));
        set(&mut map, "d e", json!(false));
        assert_eq!(
            write(&map),
            "a:\n  b: [0.9, 1]\n  c: \"x: y # z\"\n  e: {}\n  f:\n    g: 2\n  \"yes\": null\n\"d e\": false\n"
        );
    }
}
