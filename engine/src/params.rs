//! Params as they enter the key: typed, serialised again, fields at their default left out.
//!
//! Leaving defaults out is what lets a kind gain an option without invalidating every store. What a default is, nobody
//! has to declare twice: a field is at its default exactly if the params read back the same without it.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::canonical;

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
pub fn bind_typed<P: DeserializeOwned>(value: &Value) -> Result<P, BindError> {
    // Where a fault lies is found by a second reading: keeping track of it costs more than the reading itself, and
    // almost all params are right.
    P::deserialize(value).or_else(|_| {
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
    })
}

/// The defaults of one kind's params.
///
/// What a default is follows from the type, but finding it out costs a parse for every field. For the top-level fields
/// of a struct it is a constant (serde's defaults take no arguments), so it is found once and remembered: a hundred
/// thousand nodes of one kind then cost a comparison each. Below that, and in enums, whose variants may differ in the
/// default of a field, every field is tried; but not where the schema says that there is no struct inside, since the
/// entries of a map have no defaults.
#[derive(Debug, Default)]
pub struct Defaults {
    /// Field → itself at its default, as it is written; `None` if it is required.
    fields: RefCell<BTreeMap<String, Option<Box<[u8]>>>>,
    shape: OnceCell<Shape>,
}

/// What the schema of the params says.
#[derive(Debug, Default)]
struct Shape {
    /// Whether they are a plain struct.
    plain: bool,
    /// The fields of that struct that hold no struct at any depth.
    flat: BTreeSet<String>,
}

impl Shape {
    fn of<P: JsonSchema>() -> Self {
        let schema = schemars::schema_for!(P);
        let plain = schema.get("oneOf").is_none() && schema.get("anyOf").is_none();
        let Some(Value::Object(fields)) = schema.get("properties").filter(|_| plain) else {
            return Self::default();
        };
        // A reference leads to a definition, and those of structs and enums are all that schemars makes; so what names
        // neither properties nor another schema holds neither.
        let flat =
            fields.iter().filter(|(_, field)| !mentions(field, &["properties", "$ref", "oneOf", "anyOf"]));
        Self { plain: true, flat: flat.map(|(name, _)| name.clone()).collect() }
    }
}

/// Whether any of `keys` is a key somewhere in `schema`.
fn mentions(schema: &Value, keys: &[&str]) -> bool {
    match schema {
        Value::Object(map) => {
            map.iter().any(|(key, inner)| keys.contains(&key.as_str()) || mentions(inner, keys))
        }
        Value::Array(items) => items.iter().any(|item| mentions(item, keys)),
        _ => false,
    }
}

impl Defaults {
    /// `params` as canonical JSON, without the fields that are at their default.
    pub fn strip<P: Serialize + DeserializeOwned + JsonSchema>(
        &self,
        params: &P,
    ) -> Result<Box<[u8]>, BindError> {
        let shape = self.shape.get_or_init(Shape::of::<P>);
        if !shape.plain {
            let full = encoded(params)?;
            return Ok(without_inner_defaults::<P>(&full, &full, |_| true));
        }
        let (bytes, places) = fields(params)?;
        let mut lean = Vec::with_capacity(bytes.len());
        let mut nested = false;
        for (name, place) in places {
            let field = &bytes[place];
            if !self.is_default(params, &name, field) {
                nested |= !shape.flat.contains(&*name);
                lean.push(if lean.is_empty() { b'{' } else { b',' });
                lean.extend_from_slice(field);
            }
        }
        lean.extend_from_slice(if lean.is_empty() { b"{}" } else { b"}" });
        Ok(if nested {
            without_inner_defaults::<P>(&encoded(params)?, &lean, |field| !shape.flat.contains(field))
        } else {
            lean.into()
        })
    }

    /// Whether `field` (its name and value, as they are written) is at its default, which is found by reading `params`
    /// without it.
    fn is_default<P: Serialize + DeserializeOwned>(&self, params: &P, name: &str, field: &[u8]) -> bool {
        if let Some(known) = self.fields.borrow().get(name) {
            return known.as_deref() == Some(field);
        }
        let find_default = || {
            let mut without = to_value(&encoded(params).ok()?);
            without.as_object_mut()?.remove(name);
            let (bytes, places) = fields(&bind_typed::<P>(&without).ok()?).ok()?;
            let (_, place) = places.into_iter().find(|(other, _)| other == name)?;
            Some(bytes[place].into())
        };
        let default: Option<Box<[u8]>> = find_default();
        let is_default = default.as_deref() == Some(field);
        self.fields.borrow_mut().insert(name.to_owned(), default);
        is_default
    }
}

/// `lean` without the fields that `full` reads back the same without, tried one by one; only in those top-level fields that
/// are `wanted`.
fn without_inner_defaults<P: Serialize + DeserializeOwned>(
    full: &[u8],
    lean: &[u8],
    wanted: impl Fn(&str) -> bool,
) -> Box<[u8]> {
    let mut lean = to_value(lean);
    let mut pointers = Vec::new();
    collect_pointers(&lean, &mut String::new(), &mut pointers);
    pointers.retain(|pointer| wanted(pointer[1..].split('/').next().unwrap_or_default()));
    for pointer in pointers {
        let mut candidate = lean.clone();
        let reads_back = |candidate: &Value| {
            bind_typed::<P>(candidate).and_then(|params| encoded(&params)).is_ok_and(|bytes| bytes == full)
        };
        if remove(&mut candidate, &pointer).is_some() && reads_back(&candidate) {
            lean = candidate;
        }
    }
    canonical::to_bytes(&lean).into()
}

fn encoded<P: Serialize>(params: &P) -> Result<Vec<u8>, BindError> {
    canonical::encode(params).map_err(|error| unencodable(&error))
}

fn fields<P: Serialize>(params: &P) -> Result<(Vec<u8>, Vec<canonical::Place>), BindError> {
    canonical::fields(params).map_err(|error| unencodable(&error))
}

fn unencodable(error: &canonical::EncodeError) -> BindError {
    BindError { pointer: String::new(), message: error.to_string() }
}

fn to_value(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("canonical bytes are JSON")
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

    fn strip<P: Serialize + DeserializeOwned + JsonSchema>(defaults: &Defaults, value: &Value) -> Value {
        serde_json::from_slice(&defaults.strip(&bind_typed::<P>(value).unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn fields_at_their_default_are_left_out() {
        let defaults = Defaults::default();
        for _ in 0..2 {
            assert_eq!(strip::<Params>(&defaults, &json!({ "steps": 3 })), json!({ "steps": 3 }));
            assert_eq!(
                strip::<Params>(&defaults, &json!({ "steps": 3, "rate": 0.5 })),
                json!({ "steps": 3 })
            );
            assert_eq!(
                strip::<Params>(&defaults, &json!({ "steps": 3, "nested": { "depth": 2, "mode": null } })),
                json!({ "steps": 3, "nested": { "depth": 2 } })
            );
        }
    }

    #[test]
    fn a_default_that_depends_on_the_variant_stays_in_the_key() {
        let defaults = Defaults::default();
        assert_eq!(strip::<Backend>(&defaults, &json!({ "kind": "slow" })), json!({ "kind": "slow" }));
        assert_eq!(
            strip::<Backend>(&defaults, &json!({ "kind": "fast", "wait": 0 })),
            json!({ "kind": "fast", "wait": 0 })
        );
        assert_eq!(strip::<Backend>(&defaults, &json!({ "kind": "fast" })), json!({ "kind": "fast" }));
        assert_eq!(
            strip::<Backend>(&defaults, &json!({ "kind": "slow", "wait": 1 })),
            json!({ "kind": "slow", "wait": 1 })
        );
    }

    #[test]
    fn a_fault_names_its_place() {
        let Err(error) = bind_typed::<Params>(&json!({ "steps": 3, "nested": { "depth": "deep" } })) else {
            panic!("a word is no number");
        };
        assert_eq!(error.pointer, "/nested/depth");
    }
}
