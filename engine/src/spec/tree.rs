//! `Tree`: a value as written, with the place of every part of it.

use std::borrow::Cow;
use std::sync::Arc;

use indexmap::IndexMap;
use indexmap::map::Entry;
use serde_json::Number;

use super::interpolate;
use super::source::{SourceId, Span};

/// A value and where it was written. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Where it was written.
    pub span: Span,
    /// The source whose folder relative paths in it start from.
    pub origin: SourceId,
    /// Whether a `$(…)` is somewhere in it.
    pub templated: bool,
    /// Whether a value of the environment is somewhere in it.
    pub environment: bool,
    /// Bytes and values in it, so that growth by interpolation can be bounded.
    pub weight: u32,
    /// The value.
    pub value: Value,
}

/// What was written.
#[derive(Debug, Clone)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, and how it was written.
    Number(Number, Arc<str>),
    /// Text.
    Text(Arc<str>),
    /// A list.
    List(Arc<Vec<Tree>>),
    /// A map.
    Map(Arc<Map>),
}

/// A map in the order it was written.
pub type Map = IndexMap<Arc<str>, Field>;

/// One entry of a map.
#[derive(Debug, Clone)]
pub struct Field {
    /// Where the key was written.
    pub key: Span,
    /// The value.
    pub tree: Tree,
}

impl Tree {
    /// A tree of `value`.
    pub fn new(span: Span, value: Value) -> Self {
        let (templated, environment, weight) = match &value {
            Value::Text(text) => (interpolate::is_templated(text), false, weigh(text.len())),
            Value::Number(_, text) => (false, false, weigh(text.len())),
            Value::Null | Value::Bool(_) => (false, false, 1),
            Value::List(items) => fold(items.iter()),
            Value::Map(map) => fold(map.values().map(|field| &field.tree)),
        };
        Self { span, origin: span.source, templated, environment, weight, value }
    }

    /// An empty map.
    pub fn empty_map(span: Span) -> Self {
        Self::new(span, Value::Map(Arc::default()))
    }

    /// The map, if it is one.
    pub fn as_map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&Arc<str>> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The field `name`, if this is a map that has it.
    pub fn get(&self, name: &str) -> Option<&Field> {
        self.as_map()?.get(name)
    }

    /// What it is, for messages: `a map`, `a number`, ….
    pub fn what(&self) -> &'static str {
        match &self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(..) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// A scalar as text, the way it was written; `None` for null, lists and maps.
    pub fn scalar_text(&self) -> Option<Arc<str>> {
        match &self.value {
            Value::Bool(true) => Some("true".into()),
            Value::Bool(false) => Some("false".into()),
            Value::Number(_, text) | Value::Text(text) => Some(Arc::clone(text)),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// As JSON.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(number, _) => serde_json::Value::Number(number.clone()),
            Value::Text(text) => serde_json::Value::String(text.to_string()),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(map) => {
                // One by one: collecting would sort them first, which costs more for the few that there are.
                let mut object = serde_json::Map::new();
                for (key, field) in map.iter() {
                    object.insert(key.to_string(), field.tree.to_json());
                }
                serde_json::Value::Object(object)
            }
        }
    }

    /// The value at a JSON pointer, with the span of its key (or of itself in a list).
    pub fn pointer(&self, pointer: &str) -> Option<(Span, &Self)> {
        let mut at = (self.span, self);
        for segment in pointer.split('/').skip(1) {
            let segment = if segment.contains('~') {
                Cow::Owned(segment.replace("~1", "/").replace("~0", "~"))
            } else {
                Cow::Borrowed(segment)
            };
            at = match &at.1.value {
                Value::Map(map) => map.get(&*segment).map(|field| (field.key, &field.tree))?,
                Value::List(items) => {
                    items.get(segment.parse::<usize>().ok()?).map(|item| (item.span, item))?
                }
                _ => return None,
            };
        }
        Some(at)
    }

    /// This map with `over` laid on it: maps merge, everything else (lists too) is replaced.
    #[must_use]
    pub fn overlaid(&self, over: &Self) -> Self {
        let (Value::Map(below), Value::Map(above)) = (&self.value, &over.value) else { return over.clone() };
        if above.is_empty() {
            return self.clone();
        }
        let mut merged = Map::clone(below);
        for (name, field) in above.iter() {
            match merged.entry(Arc::clone(name)) {
                Entry::Occupied(mut entry) => {
                    let tree = entry.get().tree.overlaid(&field.tree);
                    entry.insert(Field { key: field.key, tree });
                }
                Entry::Vacant(entry) => {
                    entry.insert(field.clone());
                }
            }
        }
        Self::new(over.span, Value::Map(Arc::new(merged)))
    }
}

fn weigh(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(1)
}

fn fold<'a>(children: impl Iterator<Item = &'a Tree>) -> (bool, bool, u32) {
    children.fold((false, false, 1), |(templated, environment, weight), child| {
        (templated | child.templated, environment | child.environment, weight.saturating_add(child.weight))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::spec::source::Sources;
    use crate::spec::yaml;

    fn read(text: &str) -> Tree {
        let mut sources = Sources::default();
        let source = sources.add("x.yaml", Path::new(""), text);
        yaml::parse(&sources, source, &mut Vec::new()).unwrap()
    }

    #[test]
    fn an_overlay_merges_maps_and_replaces_lists() {
        let merged = read("{ a: { x: 1, y: [1, 2] }, b: 2 }").overlaid(&read("{ a: { y: [3] }, c: 4 }"));
        assert_eq!(merged.to_json(), json!({ "a": { "x": 1, "y": [3] }, "b": 2, "c": 4 }));
    }

    #[test]
    fn a_pointer_finds_keys_and_items() {
        let tree = read("{ a: { 'x/y~z': [1, { b: 2 }] } }");
        assert_eq!(tree.pointer("/a/x~1y~0z/1/b").unwrap().1.to_json(), json!(2));
        assert!(tree.pointer("/a/x~1y~0z/2").is_none());
        assert!(tree.pointer("/a/none").is_none());
    }
}
