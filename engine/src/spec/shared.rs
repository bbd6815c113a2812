//! `remote:`: where results are shared, as written. Operational, like `run:`: it is in no key.

use super::diagnostic::Diagnostic;
use super::tree::{Tree, Value};

/// The fields of `remote:`.
const FIELDS: [&str; 3] = ["url", "sign", "write"];

/// A shared cache as an experiment names it. What its address means is the command line's to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteSpec {
    /// Its address, such as `s3://bucket/folder`.
    pub url: String,
    /// Whether records must be signed; they must unless this says otherwise.
    pub sign: Option<bool>,
    /// Whether what is made goes there; it does unless this says otherwise.
    pub write: Option<bool>,
}

/// Reads `remote:`, an address or a map with `url`; `None` if it is null or faulty.
pub(super) fn read(tree: &Tree, faults: &mut Vec<Diagnostic>) -> Option<RemoteSpec> {
    let mut spec = RemoteSpec::default();
    let map = match &tree.value {
        Value::Null => return None,
        Value::Map(map) => map,
        _ => {
            let Some(url) = tree.as_text() else {
                let what = format!("`remote` is an address or a map with `url`, not {}", tree.what());
                faults.push(Diagnostic::at(tree.span, what).help("write `remote: s3://bucket/folder`"));
                return None;
            };
            spec.url = url.to_string();
            return Some(spec);
        }
    };
    for (name, field) in map.iter() {
        match (&**name, &field.tree.value) {
            ("url", _) if field.tree.as_text().is_some() => {
                spec.url = field.tree.as_text().expect("just looked").to_string();
            }
            ("url", _) => faults.push(Diagnostic::at(field.tree.span, "`url` is a text")),
            ("sign", Value::Bool(sign)) => spec.sign = Some(*sign),
            ("write", Value::Bool(write)) => spec.write = Some(*write),
            ("sign" | "write", _) => {
                faults.push(Diagnostic::at(field.tree.span, format!("`{name}` is `true` or `false`")));
            }
            _ => faults.push(
                Diagnostic::at(field.key, format!("`remote` has no field `{name}`")).suggest(name, FIELDS),
            ),
        }
    }
    if !map.contains_key("url") {
        faults.push(
            Diagnostic::at(tree.span, "`remote` has no `url`")
                .help("such as `url: s3://bucket/folder`, or `url: file:///mnt/team/dag`"),
        );
        return None;
    }
    (!spec.url.is_empty()).then_some(spec)
}
