//! Canonical bytes of a JSON value: the one encoding that is hashed.
//!
//! Our own writer, because serde_json's key order changes with its `preserve_order` feature, which any dependency can
//! switch on for the whole build and so change every key of every store.
//!
//! The encoding is JSON without spaces; object keys sorted by their bytes; strings with only `"`, `\` and control
//! characters escaped; integers in decimal; other numbers in the shortest form that reads back to the same `f64`, with
//! `.0` on whole ones, so that `1` and `1.0` stay different as they are in YAML.

mod encode;

use std::ops::Range;

use dag_cache::Digest;
use serde_json::{Number, Value};

pub use encode::{EncodeError, Place, encode, fields};

/// The canonical bytes of `value`.
///
/// A `serde_json::Value` cannot hold a non-finite number, so every value has them.
pub fn to_bytes(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    write_value(value, &mut out);
    out
}

/// The digest of the canonical bytes of `value`.
pub fn digest(value: &Value) -> Digest {
    Digest::of(&to_bytes(value))
}

/// Appends the canonical bytes of `value` to `out`.
pub fn write_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => write_number(number, out),
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(item, out);
            }
            out.push(b']');
        }
        Value::Object(map) => {
            // serde_json's map is sorted or in insertion order, depending on a feature; sorting here makes it no matter.
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
            out.push(b'{');
            for (index, (key, item)) in entries.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_string(key, out);
                out.push(b':');
                write_value(item, out);
            }
            out.push(b'}');
        }
    }
}

/// Where the value at a JSON pointer lies in canonical bytes.
pub fn find(bytes: &[u8], pointer: &str) -> Option<Range<usize>> {
    let mut at = 0;
    let mut name = Vec::new();
    for segment in pointer.split('/').skip(1) {
        let is_map = bytes.get(at)? == &b'{';
        name.clear();
        if is_map && segment.contains('~') {
            write_string(&segment.replace("~1", "/").replace("~0", "~"), &mut name);
        } else if is_map {
            write_string(segment, &mut name);
        }
        let mut index = if is_map { 0 } else { segment.parse::<usize>().ok()? };
        loop {
            // Behind the bracket or the comma.
            at += 1;
            if is_map {
                let key = at..end_of_value(bytes, at)?;
                at = key.end + 1;
                if bytes[key] == name {
                    break;
                }
            } else if index == 0 {
                break;
            } else {
                index -= 1;
            }
            at = end_of_value(bytes, at)?;
            if bytes.get(at)? != &b',' {
                return None;
            }
        }
    }
    Some(at..end_of_value(bytes, at)?)
}

/// Where the value ends that begins at `at`.
fn end_of_value(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    loop {
        match bytes.get(at)? {
            b'"' => {
                at += 1;
                while bytes.get(at)? != &b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'{' | b'[' => {
                depth += 1;
                at += 1;
                continue;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            b',' | b':' => {
                at += 1;
                continue;
            }
            _ => {
                at += bytes[at..].iter().position(|byte| b",]}".contains(byte)).unwrap_or(bytes.len() - at);
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

fn write_number(number: &Number, out: &mut Vec<u8>) {
    use std::io::Write as _;
    let written = if let Some(integer) = number.as_u64() {
        write!(out, "{integer}")
    } else if let Some(integer) = number.as_i64() {
        write!(out, "{integer}")
    } else {
        let float = number.as_f64().expect("a JSON number is an integer or a finite float");
        // `-0.0` and `0.0` are equal to every reader, so they are equal here.
        write!(out, "{:?}", if float == 0.0 { 0.0 } else { float })
    };
    written.expect("writing to memory does not fail");
}

/// Appends `text` as a JSON string.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for &byte in text.as_bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0..0x20 => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn text(value: &Value) -> String {
        String::from_utf8(to_bytes(value)).unwrap()
    }

    #[test]
    fn golden_bytes() {
        let value = json!({
            "b": [1, -2, 0.5, 1.0, 1e-6, 5e300, true, null],
            "a": "line\nquote\" slash\\ tab\t é",
            "": {},
        });
        assert_eq!(
            text(&value),
            "{\"\":{},\"a\":\"line\\u000aquote\\\" slash\\\\ tab\\u0009 é\",\"b\":[1,-2,0.5,1.0,1e-6,5e300,true,null]}"
        );
        assert_eq!(
            digest(&json!({ "lr": 5e-6, "steps": 3000 })).to_string(),
            Digest::of(br#"{"lr":5e-6,"steps":3000}"#).to_string()
        );
    }

    #[test]
    fn an_integer_is_not_a_float() {
        assert_ne!(text(&json!(1)), text(&json!(1.0)));
    }

    /// JSON of some depth, and the pointers of everything in it.
    pub(super) fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a,\"\\\\\\[\\]{}:/~é]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a\"\\\\/~,:{]{0,3}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn pointers(value: &Value, at: &str, out: &mut Vec<String>) {
        out.push(at.to_owned());
        let escaped = |name: &str| name.replace('~', "~0").replace('/', "~1");
        match value {
            Value::Array(items) => {
                items
                    .iter()
                    .enumerate()
                    .for_each(|(index, item)| pointers(item, &format!("{at}/{index}"), out));
            }
            Value::Object(map) => {
                map.iter().for_each(|(name, item)| pointers(item, &format!("{at}/{}", escaped(name)), out));
            }
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn every_value_is_found_where_its_bytes_are(value in values()) {
            let bytes = to_bytes(&value);
            let mut all = Vec::new();
            pointers(&value, "", &mut all);
            for pointer in all {
                let range = find(&bytes, &pointer).unwrap();
                prop_assert_eq!(&bytes[range], &to_bytes(value.pointer(&pointer).unwrap())[..], "{}", pointer);
                prop_assert_eq!(find(&bytes, &format!("{pointer}/none")), None);
                prop_assert_eq!(find(&bytes, &format!("{pointer}/99")), None);
            }
        }

        #[test]
        fn order_of_keys_is_irrelevant(entries in proptest::collection::btree_map("[a-z]{0,4}", any::<i64>(), 0..8)) {
            let forward: serde_json::Map<_, _> = entries.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
            let backward: serde_json::Map<_, _> = entries.iter().rev().map(|(k, v)| (k.clone(), json!(v))).collect();
            prop_assert_eq!(to_bytes(&Value::Object(forward)), to_bytes(&Value::Object(backward)));
        }

        #[test]
        fn bytes_read_back_to_the_value(text in any::<String>(), int in any::<i64>()) {
            let value = json!({ "text": text, "int": int });
            let back: Value = serde_json::from_slice(&to_bytes(&value)).unwrap();
            prop_assert_eq!(to_bytes(&back), to_bytes(&value));
        }
    }
}
