//! Regular expressions in a policy: checked where they are read, compiled once.
use std::borrow::Cow;

use regex::Regex;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A regular expression that finds an answer.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// What the last match holds; `None` where there is none or it holds nothing.
    pub(super) fn last_match<'a>(&self, text: &'a str) -> Option<&'a str> {
        let found = self.0.captures_iter(text).last()?;
        let answer = found.get(1).or_else(|| found.get(0))?.as_str().trim();
        (!answer.is_empty()).then_some(answer)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Regex::new(&text)
            .map(Self)
            .map_err(|error| serde::de::Error::custom(format!("`{text}` is no regular expression: {error}")))
    }
}

impl JsonSchema for Pattern {
    fn schema_name() -> Cow<'static, str> {
        "Pattern".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}
