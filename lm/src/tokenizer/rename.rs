//! Other names for special tokens, where a chat template's control strings have none of their own in a vocabulary.
//!
//! Vocabularies keep ids in reserve (`<SPECIAL_14>`). A name change gives such an id to a control string and leaves every
//! other id as it was, so the model's weights stay what they are.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::configuration::pretty;
use super::{CONFIG_FILE, SPECIALS_MAP_FILE, TOKENIZER_FILE, Tokenizer, TokenizerError};

/// Single tokens that are part of a text, so libraries must not strip them with the control tokens.
const TAGS: [&str; 2] = ["<think>", "</think>"];

/// A special token that is to get another name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reserved {
    /// By its id.
    Id(u32),
    /// By its present name.
    Token(String),
}

impl Tokenizer {
    /// The same tokenizer with other names for some of its special tokens, by the new name. All names change at once, so
    /// that two may change places. `<think>` and `</think>` become part of the text.
    pub fn with_special_tokens(self, names: &BTreeMap<String, Reserved>) -> Result<Self, TokenizerError> {
        if names.is_empty() {
            return Ok(self);
        }
        let added = self.inner.get_added_tokens_decoder();
        let mut renamed: BTreeMap<String, String> = BTreeMap::new();
        for (new, reserved) in names {
            let (id, old) = match reserved {
                Reserved::Id(id) => {
                    (*id, self.inner.id_to_token(*id).ok_or(TokenizerError::UnknownToken { id: *id })?)
                }
                Reserved::Token(token) => {
                    (self.id(token).ok_or_else(|| TokenizerError::Absent(token.clone()))?, token.clone())
                }
            };
            if !added.contains_key(&id) {
                return Err(TokenizerError::NotSpecial { id, token: old });
            }
            if renamed.insert(old.clone(), new.clone()).is_some() {
                return Err(TokenizerError::Twice(old));
            }
        }
        let taken = |new: &&String| self.id(new).is_some() && !renamed.contains_key(*new);
        if let Some(new) = names.keys().find(taken) {
            return Err(TokenizerError::Twice(new.clone()));
        }

        let mut files = self.files;
        for file in [TOKENIZER_FILE, CONFIG_FILE, SPECIALS_MAP_FILE] {
            let Some(bytes) = files.get(file) else { continue };
            let fault = |error: serde_json::Error| TokenizerError::content(file, error.to_string());
            let mut content: Value = serde_json::from_slice(bytes).map_err(fault)?;
            if file == TOKENIZER_FILE {
                rename_in_model(&mut content["model"], &renamed);
            }
            // Merges are of ordinary tokens, and tables of tokens are large.
            let model = content.as_object_mut().and_then(|content| content.remove("model"));
            rename_strings(&mut content, &renamed);
            keep_tags(&mut content);
            let bytes = match model {
                Some(model) => {
                    content["model"] = model;
                    serde_json::to_vec(&content).map_err(fault)?
                }
                None => pretty(&content),
            };
            files.insert(file.to_owned(), bytes);
        }
        Self::from_files(files)
    }
}

fn rename_in_model(model: &mut Value, names: &BTreeMap<String, String>) {
    if let Some(vocabulary) = model["vocab"].as_object_mut() {
        let ids: Vec<(String, Value)> =
            names.iter().filter_map(|(old, new)| Some((new.clone(), vocabulary.remove(old)?))).collect();
        vocabulary.extend(ids);
    }
    if let Some(new) = model["unk_token"].as_str().and_then(|token| names.get(token)) {
        model["unk_token"] = new.as_str().into();
    }
}

/// Replaces every string that is one of the old names, and every key.
fn rename_strings(value: &mut Value, names: &BTreeMap<String, String>) {
    match value {
        Value::String(text) => {
            if let Some(new) = names.get(text) {
                text.clone_from(new);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| rename_strings(value, names)),
        Value::Object(fields) => {
            let present = std::mem::take(fields);
            *fields = present
                .into_iter()
                .map(|(key, mut value)| {
                    rename_strings(&mut value, names);
                    (names.get(&key).cloned().unwrap_or(key), value)
                })
                .collect::<Map<String, Value>>();
        }
        _ => {}
    }
}

/// Makes the thinking tags part of the text wherever they are described.
fn keep_tags(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(keep_tags),
        Value::Object(fields) => {
            let tags = BTreeSet::from(TAGS);
            let is_tag =
                fields.get("content").and_then(Value::as_str).is_some_and(|text| tags.contains(text));
            if is_tag && fields.contains_key("special") {
                fields.insert("special".to_owned(), false.into());
            }
            fields.values_mut().for_each(keep_tags);
        }
        _ => {}
    }
}
