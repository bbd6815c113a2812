//! A tree as serde reads it: params become typed without a JSON copy of what was written.
//!
//! What it accepts, it reads as the tree's JSON would be read. What it does not is read again from the JSON by the caller, whose
//! message is the one that users see.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::tree::{Tree, Value};

impl<'de> Deserializer<'de> for &'de Tree {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number, _) => number.deserialize_any(visitor),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(items) => {
                let mut items = SeqDeserializer::new(items.iter());
                let value = visitor.visit_seq(&mut items)?;
                items.end()?;
                Ok(value)
            }
            Value::Map(map) => {
                let mut fields = MapDeserializer::new(map.iter().map(|(name, field)| (&**name, &field.tree)));
                let value = visitor.visit_map(&mut fields)?;
                fields.end()?;
                Ok(value)
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.to_json().deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, serde_json::Error> for &'de Tree {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use serde::{Deserialize, Serialize};

    use crate::spec::source::Sources;
    use crate::spec::yaml;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Params {
        name: String,
        #[serde(default)]
        rate: f64,
        #[serde(default)]
        limit: Option<u32>,
        #[serde(default)]
        pair: Option<(i64, Wrapped)>,
        #[serde(default)]
        kinds: Vec<Kind>,
        #[serde(default)]
        model: Option<Model>,
        #[serde(default)]
        more: BTreeMap<String, serde_json::Value>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Wrapped(bool);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Plain,
        Sized(u8),
        Named { a: i32 },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "backend", rename_all = "lowercase")]
    enum Model {
        Served { name: String, seeds: Vec<u64> },
    }

    #[test]
    fn a_tree_is_read_as_its_json_is() {
        for text in [
            "name: a",
            "{ name: '1', rate: 1, limit: null, pair: [-3, true] }",
            "{ name: x, rate: 1e-6, limit: 7, kinds: [plain, { sized: 3 }, { named: { a: -1 } }] }",
            "{ name: x, model: { backend: served, name: y, seeds: [1, 18446744073709551615] } }",
            "{ name: x, more: { a: [1, { b: null }], c: 0.5, d: text } }",
            "{ name: 1 }",
            "{ name: x, other: 1 }",
            "{ name: x, rate: high }",
            "{ name: x, pair: [1, true, 2] }",
            "{ name: x, limit: -1 }",
            "{ name: x, kinds: [none] }",
            "[1]",
        ] {
            let mut sources = Sources::default();
            let source = sources.add("x.yaml", Path::new(""), text);
            let tree = yaml::parse(&sources, source, &mut Vec::new()).unwrap();
            let typed = Params::deserialize(&tree).ok();
            assert_eq!(typed, serde_json::from_value(tree.to_json()).ok(), "{text}");
        }
    }
}
