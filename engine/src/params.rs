//! Params as they enter the key: typed, serialised again, fields at their default left out.
//!
//! Leaving defaults out is what lets a kind gain an option without invalidating every store. What a default is, nobody
//! has to declare twice: a field is at its default exactly if the params read back the same without it.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A value that does not fit the type of the params.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BindError {
    /// JSON pointer of the value that does not fit, such as `/optimizer/betas/0`; empty for the whole.
    pub pointer: String,
    /// What is wrong with it, as serde says it.
    pub message: String,
}

/// Reads `value` as a `P`.
pub fn bind_typed<P: DeserializeOwned>(value: Value) -> Result<P, BindError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let mut pointer = String::new();
        for segment in error.path() {
            use serde_path_to_error::Segment;
            match segment {
                Segment::Seq { index } => push_key(&mut pointer, &index.to_string()),
                Segment::Map { key } => push_key(&mut pointer, key),
                Segment::Enum { .. } | Segment::Unknown => {}
            }
        }
        BindError { pointer, message: error.into_inner().to_string() }
    })
}

/// The defaults of one kind's params.
///
/// What a default is follows from the type, but finding it out costs a parse for every field. For the top-level fields
/// of a struct it is a constant (serde's defaults take no arguments), so it is found once and remembered: a hundred
/// thousand nodes of one kind then cost a comparison each. Below that, and in enums, whose variants may differ in the
/// default of a field, every field is tried.
#[derive(Debug, Default)]
pub struct Defaults {
    /// Field → its default; `None` if it is required.
    fields: RefCell<BTreeMap<String, Option<Value>>>,
    plain: OnceCell<bool>,
}

impl Defaults {
    /// `params` as JSON, without the fields that are at their default.
    pub fn strip<P: Serialize + DeserializeOwned + JsonSchema>(
        &self,
        params: &P,
    ) -> Result<Value, BindError> {
        let full = to_json(params)?;
        let reads_back = |candidate: &Value| {
            bind_typed::<P>(candidate.clone())
                .and_then(|params| to_json(&params))
                .is_ok_and(|json| json == full)
        };
        let mut lean = full.clone();
        let mut pointers = Vec::new();
        if self.is_struct::<P>() {
            let Value::Object(fields) = &full else { return Ok(full) };
            for (name, value) in fields {
                if self.default_of::<P>(&full, name).as_ref() == Some(value) {
                    remove(&mut lean, &format!("/{name}"));
                } else {
                    let mut pointer = String::new();
                    push_key(&mut pointer, name);
                    collect_pointers(value, &mut pointer, &mut pointers);
                }
            }
        } else {
            collect_pointers(&full, &mut String::new(), &mut pointers);
        }
        for pointer in pointers {
            let mut candidate = lean.clone();
            if remove(&mut candidate, &pointer).is_some() && reads_back(&candidate) {
                lean = candidate;
            }
        }
        Ok(lean)
    }

    /// The default of the top-level field `name`, found by reading `full` without it.
    fn default_of<P: Serialize + DeserializeOwned>(&self, full: &Value, name: &str) -> Option<Value> {
        if let Some(known) = self.fields.borrow().get(name) {
            return known.clone();
        }
        let mut without = full.clone();
        without.as_object_mut()?.remove(name);
        let default = bind_typed::<P>(without)
            .and_then(|params| to_json(&params))
            .ok()
            .and_then(|mut json| json.as_object_mut()?.remove(name));
        self.fields.borrow_mut().insert(name.to_owned(), default.clone());
        default
    }

    /// Whether `P` is a plain struct, read off its schema once.
    fn is_struct<P: JsonSchema>(&self) -> bool {
        *self.plain.get_or_init(|| {
            let schema = schemars::schema_for!(P);
            schema.get("properties").is_some()
                && schema.get("oneOf").is_none()
                && schema.get("anyOf").is_none()
        })
    }
}

fn to_json<P: Serialize>(params: &P) -> Result<Value, BindError> {
    serde_json::to_value(params)
        .map_err(|error| BindError { pointer: String::new(), message: error.to_string() })
}

/// The pointers of all fields of nested objects, outer ones first: where a whole object is at its default, its fields
/// need no look.
fn collect_pointers(value: &Value, pointer: &mut String, out: &mut Vec<String>) {
    let Value::Object(map) = value else { return };
    for (key, inner) in map {
        let length = pointer.len();
        push_key(pointer, key);
        out.push(pointer.clone());
        collect_pointers(inner, pointer, out);
        pointer.truncate(length);
    }
}

fn push_key(pointer: &mut String, key: &str) {
    pointer.push('/');
    pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
}

/// Removes and returns the object field at `pointer`.
fn remove(value: &mut Value, pointer: &str) -> Option<Value> {
    let (parent, key) = pointer.rsplit_once('/')?;
    let key = key.replace("~1", "/").replace("~0", "~");
    value.pointer_mut(parent)?.as_object_mut()?.remove(&key)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Params {
        steps: u32,
        #[serde(default = "rate")]
        rate: f64,
        #[serde(default)]
        nested: Nested,
    }
    fn rate() -> f64 {
        0.5
    }
    #[derive(Serialize, Deserialize, JsonSchema, Default)]
    #[serde(deny_unknown_fields)]
    struct Nested {
        #[serde(default)]
        depth: u32,
        #[serde(default)]
        mode: Option<String>,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(tag = "kind", rename_all = "lowercase")]
    enum Backend {
        Slow {
            #[serde(default)]
            wait: u32,
        },
        Fast {
            #[serde(default = "one")]
            wait: u32,
        },
    }
    fn one() -> u32 {
        1
    }

    fn strip<P: Serialize + DeserializeOwned + JsonSchema>(defaults: &Defaults, value: Value) -> Value {
        defaults.strip(&bind_typed::<P>(value).unwrap()).unwrap()
    }

    #[test]
    fn fields_at_their_default_are_left_out() {
        let defaults = Defaults::default();
        for _ in 0..2 {
            assert_eq!(strip::<Params>(&defaults, json!({ "steps": 3 })), json!({ "steps": 3 }));
            assert_eq!(strip::<Params>(&defaults, json!({ "steps": 3, "rate": 0.5 })), json!({ "steps": 3 }));
            assert_eq!(
                strip::<Params>(&defaults, json!({ "steps": 3, "nested": { "depth": 2, "mode": null } })),
                json!({ "steps": 3, "nested": { "depth": 2 } })
            );
        }
    }

    #[test]
    fn a_default_that_depends_on_the_variant_stays_in_the_key() {
        let defaults = Defaults::default();
        assert_eq!(strip::<Backend>(&defaults, json!({ "kind": "slow" })), json!({ "kind": "slow" }));
        assert_eq!(
            strip::<Backend>(&defaults, json!({ "kind": "fast", "wait": 0 })),
            json!({ "kind": "fast", "wait": 0 })
        );
        assert_eq!(strip::<Backend>(&defaults, json!({ "kind": "fast" })), json!({ "kind": "fast" }));
        assert_eq!(
            strip::<Backend>(&defaults, json!({ "kind": "slow", "wait": 1 })),
            json!({ "kind": "slow", "wait": 1 })
        );
    }

    #[test]
    fn a_fault_names_its_place() {
        let Err(error) = bind_typed::<Params>(json!({ "steps": 3, "nested": { "depth": "deep" } })) else {
            panic!("a word is no number");
        };
        assert_eq!(error.pointer, "/nested/depth");
    }
}
