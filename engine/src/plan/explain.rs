//! The structural difference of two manifests, as reasons.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::reason::{InputChange, Reason};

/// What differs between two manifests, in the order a reader wants it: the code, the params, the inputs, the seed, the device.
///
/// Both sides are what was hashed, so that an explanation cannot drift from the key.
pub fn difference(before: &Value, after: &Value) -> Vec<Reason> {
    difference_named(before, after, &|_, _| None)
}

/// The same, with the names of nodes, which manifests do not hold: `source` gives that of the n-th artifact in a port of
/// `after`.
pub(super) fn difference_named(
    before: &Value,
    after: &Value,
    source: &dyn Fn(&str, usize) -> Option<String>,
) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let number = |manifest: &Value, field: &str| manifest[field].as_u64();
    let text = |manifest: &Value| manifest["kind"].as_str().unwrap_or_default().to_owned();
    let changed = |field: &str| before[field] != after[field];
    if changed("schema") {
        reasons.push(Reason::SchemaVersion {
            before: number(before, "schema").unwrap_or_default(),
            after: number(after, "schema").unwrap_or_default(),
        });
    }
    if changed("kind") {
        reasons.push(Reason::Kind { before: text(before), after: text(after) });
    } else if changed("version") {
        reasons.push(Reason::TaskVersion {
            before: number(before, "version").unwrap_or_default(),
            after: number(after, "version").unwrap_or_default(),
        });
    }
    params(Some(&before["params"]), Some(&after["params"]), &mut String::new(), &mut reasons);
    inputs(&before["inputs"], &after["inputs"], source, &mut reasons);
    if changed("seed") {
        reasons.push(Reason::Seed { before: number(before, "seed"), after: number(after, "seed") });
    }
    if changed("device") {
        let device = |manifest: &Value| manifest["device"].as_str().map(str::to_owned);
        reasons.push(Reason::Device { before: device(before), after: device(after) });
    }
    reasons
}

fn params(before: Option<&Value>, after: Option<&Value>, path: &mut String, reasons: &mut Vec<Reason>) {
    if before == after {
        return;
    }
    match (before, after) {
        (Some(before), Some(after)) if is_content(before) && is_content(after) => {
            let (before, after) = (identity(before), identity(after));
            reasons.push(Reason::File { path: path.clone(), before, after });
        }
        (Some(Value::Object(left)), Some(Value::Object(right))) => {
            for key in union(left, right) {
                let length = path.len();
                if length > 0 {
                    path.push('.');
                }
                path.push_str(key);
                params(left.get(key), right.get(key), path, reasons);
                path.truncate(length);
            }
        }
        (Some(Value::Array(left)), Some(Value::Array(right))) if left.len() == right.len() => {
            for (index, (left, right)) in left.iter().zip(right).enumerate() {
                let length = path.len();
                write!(path, "[{index}]").expect("writing to memory does not fail");
                params(Some(left), Some(right), path, reasons);
                path.truncate(length);
            }
        }
        _ => {
            reasons.push(Reason::Param {
                path: path.clone(),
                before: before.cloned(),
                after: after.cloned(),
            });
        }
    }
}

/// Whether a param stands for the content of local files.
fn is_content(value: &Value) -> bool {
    value
        .as_object()
        .is_some_and(|fields| fields.len() == 1 && fields.get("content").is_some_and(Value::is_array))
}

/// What the content was pinned to, if it lies elsewhere; a digest tells a reader nothing.
fn identity(content: &Value) -> Option<String> {
    let text = content["content"].get(0)?.as_str()?;
    text.contains(':').then(|| text.to_owned())
}

fn inputs(
    before: &Value,
    after: &Value,
    source: &dyn Fn(&str, usize) -> Option<String>,
    reasons: &mut Vec<Reason>,
) {
    let none = Map::new();
    let (left, right) = (before.as_object().unwrap_or(&none), after.as_object().unwrap_or(&none));
    for port in union(left, right) {
        let (left, right) = (artifacts(left.get(port)), artifacts(right.get(port)));
        let mut matched = vec![false; left.len()];
        for (number, (at, artifact)) in right.iter().enumerate() {
            // The same coordinates come twice in a list of nodes that are over no axis: the next free one is meant.
            let same_place = |index: &usize| !matched[*index] && left[*index].0 == *at;
            let change = match (0..left.len()).find(same_place) {
                None => InputChange::Added,
                Some(index) => {
                    matched[index] = true;
                    if left[index].1 == *artifact {
                        continue;
                    }
                    InputChange::Changed { because: None }
                }
            };
            let node = source(port, number);
            reasons.push(Reason::Input { port: port.clone(), at: at.clone(), node, change });
        }
        for (index, (at, _)) in left.iter().enumerate() {
            if !matched[index] {
                let change = InputChange::Removed;
                reasons.push(Reason::Input { port: port.clone(), at: at.clone(), node: None, change });
            }
        }
    }
}

/// What enters a port, as (coordinates, artifact).
fn artifacts(port: Option<&Value>) -> Vec<(String, &Value)> {
    match port {
        None => Vec::new(),
        Some(Value::Array(gathered)) => gathered
            .iter()
            .map(|entry| {
                let values = entry["at"].as_object().into_iter().flat_map(|at| at.values());
                let at: Vec<&str> = values.filter_map(Value::as_str).collect();
                (at.join("/"), &entry["artifact"])
            })
            .collect(),
        Some(artifact) => vec![(String::new(), artifact)],
    }
}

/// The keys of both, each once, sorted.
fn union<'a>(left: &'a Map<String, Value>, right: &'a Map<String, Value>) -> Vec<&'a String> {
    let mut keys: Vec<&String> =
        left.keys().chain(right.keys().filter(|key| !left.contains_key(*key))).collect();
    keys.sort_unstable();
    keys
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn words(before: &Value, after: &Value) -> String {
        difference(before, after).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn every_part_of_a_manifest_is_compared() {
        let before = json!({
            "schema": 1, "kind": "train", "version": 1, "seed": 17,
            "params": { "steps": 10, "betas": [0.9, 0.95], "gone": true, "template": { "content": ["aa"] } },
            "inputs": { "base": "m1", "packs": [
                { "at": { "arm": "r1" }, "artifact": "p1" }, { "at": { "arm": "oss" }, "artifact": "p2" } ] },
        });
        assert_eq!(words(&before, &before), "");
        let after = json!({
            "schema": 2, "kind": "train", "version": 2, "device": "cuda",
            "params": { "steps": 20, "betas": [0.9, 0.999], "template": { "content": ["bb"] } },
            "inputs": { "base": "m2", "packs": [
                { "at": { "arm": "r1" }, "artifact": "p9" }, { "at": { "arm": "new" }, "artifact": "p3" } ] },
        });
        insta::assert_snapshot!(words(&before, &after), @r"
        schema version 1 → 2
        task version 1 → 2
        param `betas[1]` 0.95 → 0.999
        param `gone` true → default
        param `steps` 10 → 20
        file content changed (`template`)
        input `base` changed
        input `packs` at r1 changed
        input `packs` at new added
        input `packs` at oss removed
        seed 17 → none
        device default → cuda
        ");
    }

    #[test]
    fn gathered_inputs_without_coordinates_are_compared_in_order() {
        let gathered = |digests: &[&str]| {
            let entries: Vec<_> =
                digests.iter().map(|digest| json!({ "at": {}, "artifact": digest })).collect();
            json!({ "schema": 1, "kind": "k", "version": 1, "params": {}, "inputs": { "x": entries } })
        };
        assert_eq!(words(&gathered(&["1", "2"]), &gathered(&["1", "3"])), "input `x` changed");
        assert_eq!(words(&gathered(&["1", "2"]), &gathered(&["1", "2", "3"])), "input `x` added");
    }
}
