//! What a tokenizer's files say beside the vocabulary: the tokens that have a role, and the chat template.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{CONFIG_FILE, SPECIALS_MAP_FILE, TEMPLATE_FILE, TOKENIZER_FILE, TokenizerError, files};

/// The roles of tokens that are read.
const NAMES: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];

/// What the configuration says beside the vocabulary: the strings a chat template may use, and the template.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Configuration {
    /// `bos_token`, `eos_token`, `pad_token`, `unk_token`, as far as they are there.
    pub(crate) named_tokens: BTreeMap<String, String>,
    /// The chat template's source.
    pub(crate) chat_template: Option<String>,
}

impl Configuration {
    /// Reads it from those of a tokenizer's files that hold it.
    pub(crate) fn from_files(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, TokenizerError> {
        let mut configuration = Self::default();
        // The configuration is read last: where both name a token, it is the newer of the two.
        for file in [SPECIALS_MAP_FILE, CONFIG_FILE] {
            let Some(bytes) = files.get(file) else { continue };
            let content: Value = serde_json::from_slice(bytes)
                .map_err(|error| TokenizerError::content(file, error.to_string()))?;
            for name in NAMES {
                // A token is a string, or an object with the string in `content`.
                let value = &content[name];
                if let Some(text) = value.as_str().or_else(|| value["content"].as_str()) {
                    configuration.named_tokens.insert(name.to_owned(), text.to_owned());
                }
            }
            if let Some(source) = default_template(&content["chat_template"]) {
                configuration.chat_template = Some(source.to_owned());
            }
        }
        if let Some(bytes) = files.get(TEMPLATE_FILE) {
            let source = String::from_utf8(bytes.clone())
                .map_err(|error| TokenizerError::content(TEMPLATE_FILE, error.to_string()))?;
            configuration.chat_template = Some(source);
        }
        Ok(configuration)
    }

    /// Reads it from a model directory.
    pub(crate) fn load(directory: &Path) -> Result<Self, TokenizerError> {
        Self::from_files(&files::read(directory)?).map_err(|error| error.under(directory))
    }
}

/// A template alone, or the one named `default` of several.
fn default_template(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| {
        value
            .as_array()?
            .iter()
            .find(|entry| entry["name"] == "default")
            .and_then(|entry| entry["template"].as_str())
    })
}

/// A vocabulary of another format, written as Hugging Face's libraries read it.
pub(super) struct Written {
    /// The bytes of `tokenizer.json`.
    pub(super) tokenizer: Vec<u8>,
    /// Roles of tokens, as in [`Configuration::named_tokens`].
    pub(super) named: BTreeMap<String, String>,
    pub(super) chat_template: Option<String>,
}

impl Written {
    /// The files of the tokenizer.
    pub(super) fn into_files(self) -> BTreeMap<String, Vec<u8>> {
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
        });
        for (name, token) in self.named {
            config[name] = json!(token);
        }
        let mut files = BTreeMap::from([
            (TOKENIZER_FILE.to_owned(), self.tokenizer),
            (CONFIG_FILE.to_owned(), pretty(&config)),
        ]);
        if let Some(template) = self.chat_template {
            files.insert(TEMPLATE_FILE.to_owned(), template.into_bytes());
        }
        files
    }
}

/// The bytes of a configuration file, by its name, in which a token has another role.
pub(super) fn with_role(
    present: Option<&Vec<u8>>,
    file: &str,
    role: &str,
    token: &str,
) -> Result<Vec<u8>, TokenizerError> {
    let mut content: Map<String, Value> = match present {
        Some(bytes) => {
            serde_json::from_slice(bytes).map_err(|error| TokenizerError::content(file, error.to_string()))?
        }
        None => Map::from_iter([("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"))]),
    };
    content.insert(role.to_owned(), json!(token));
    Ok(pretty(&Value::Object(content)))
}

/// JSON as people read it, with a line break at its end.
pub(super) fn pretty(value: &Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("a JSON value can be written");
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_tokens_may_be_objects_and_templates_may_be_lists() {
        let config = json!({
            "eos_token": { "content": "</s>", "special": true }, "bos_token": "<s>", "pad_token": null,
            "chat_template": [{ "name": "tool_use", "template": "T" }, { "name": "default", "template": "D" }],
        });
        let mut files = BTreeMap::from([(CONFIG_FILE.to_owned(), pretty(&config))]);
        let configuration = Configuration::from_files(&files).unwrap();
        assert_eq!(configuration.named_tokens["eos_token"], "</s>");
        assert_eq!(configuration.named_tokens.get("pad_token"), None);
        assert_eq!(configuration.chat_template.as_deref(), Some("D"));
        files.insert(TEMPLATE_FILE.to_owned(), b"F".to_vec());
        assert_eq!(Configuration::from_files(&files).unwrap().chat_template.as_deref(), Some("F"));
    }
}
