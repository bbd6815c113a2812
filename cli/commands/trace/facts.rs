//! What is worth saying of an artifact in one line: where it was read from, what its task told of it.

use std::collections::BTreeMap;

use dag_engine::artifact::ArtifactType;
use serde_json::{Map, Value};

use crate::artifact::Artifact;
use crate::failure::Failure;
use crate::grid::cell;
use crate::text::clip;

/// Facts about training that are not among the metrics of its node.
const OF_TRAINING: [&str; 3] = ["unique_problems", "exposures", "batch"];
/// A fact longer than this is cut.
const LONGEST: usize = 120;

/// The facts about an artifact, by name.
pub fn facts(artifact: &Artifact) -> Result<Map<String, Value>, Failure> {
    let mut facts = Map::new();
    facts.extend(source(artifact).map(|source| ("source".to_owned(), source)));
    if artifact.gives == ArtifactType::Model {
        facts.insert("model".to_owned(), artifact.output.digest.to_string().into());
        let summary = artifact.read_json("training/summary.json")?.unwrap_or_default();
        for name in OF_TRAINING {
            facts.extend(summary.get(name).map(|value| (name.to_owned(), value.clone())));
        }
    }
    facts.extend(artifact.metrics.clone());
    Ok(facts)
}

/// Where the rows or weights were read from: the params of the source, with the commit or the digests in place of addresses.
fn source(artifact: &Artifact) -> Option<Value> {
    let manifest: BTreeMap<String, Value> = serde_json::from_slice(&artifact.manifest).unwrap_or_default();
    let params = manifest.get("params")?;
    params.get("source").or_else(|| params.get("path")).cloned()
}

/// Facts in a line.
pub fn line(facts: &Map<String, Value>) -> String {
    let each = facts.iter().filter(|(_, value)| !is_nothing(value));
    let each: Vec<String> =
        each.map(|(name, value)| format!("{name} {}", clip(&shown(value), LONGEST))).collect();
    each.join(", ")
}

/// Whether a fact goes without saying: nothing was dropped, no one failed.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Object(fields) => fields.values().all(is_nothing),
        _ => false,
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Number(number) if !number.is_u64() && !number.is_i64() => {
            format!("{:.4}", number.as_f64().unwrap_or_default())
        }
        Value::Object(fields) => {
            let each: Vec<String> =
                fields.iter().map(|(name, value)| format!("{name}: {}", shown(value))).collect();
            format!("({})", each.join(", "))
        }
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(" "),
        // A digest is known by its beginning.
        Value::String(text) if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            text[..12].to_owned()
        }
        other => cell(Some(other)),
    }
}
