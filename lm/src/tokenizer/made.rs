//! Tokenizers that are made here, for models that are: one token for each character of an alphabet, or for each byte.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::byte_level::letter;
use super::configuration::pretty;
use super::{CONFIG_FILE, TEMPLATE_FILE, TOKENIZER_FILE, Tokenizer, TokenizerError};

/// The tokens of a new vocabulary that are not characters, and the chat template they serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Specials {
    /// The token that ends a response.
    pub end: String,
    /// The token that fills up batches.
    pub padding: Option<String>,
    /// Further control tokens, as those that begin a turn.
    pub control: Vec<String>,
    /// Single tokens that are part of the text and stay when control tokens are stripped from it, as `<think>`.
    pub tags: Vec<String>,
    /// The chat template, in Jinja.
    pub chat_template: Option<String>,
}

impl Specials {
    /// The tokens of the built-in chat template ([`crate::template::BUILT_IN`]), with that template.
    pub fn chat() -> Self {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            end: "<|end|>".to_owned(),
            padding: Some("<|pad|>".to_owned()),
            control: owned(&["<|system|>", "<|user|>", "<|assistant|>"]),
            tags: owned(&["<think>", "</think>"]),
            chat_template: Some(crate::template::built_in::BUILT_IN.to_owned()),
        }
    }

    /// All of them in the order of their ids, each with whether it is a control token.
    fn tokens(&self) -> impl Iterator<Item = (&str, bool)> {
        let control = self.padding.iter().chain([&self.end]).chain(&self.control);
        control.map(|token| (token.as_str(), true)).chain(self.tags.iter().map(|tag| (tag.as_str(), false)))
    }
}

impl Tokenizer {
    /// A tokenizer whose tokens are the characters of `alphabet`, after the special tokens.
    pub fn character(alphabet: &str, specials: &Specials) -> Result<Self, TokenizerError> {
        let letters = alphabet.chars().map(|letter| letter.to_string());
        // Every character is a piece of its own, and every piece a word of the vocabulary: no `unk_token` in it, so
        // that an unknown character is an error in every library that loads the file.
        Self::build(specials, letters, |vocabulary| {
            json!({
                "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
                "pre_tokenizer":
                    { "type": "Split", "pattern": { "Regex": r"[\s\S]" }, "behavior": "Isolated", "invert": false },
                "decoder": { "type": "Fuse" },
            })
        })
    }

    /// A tokenizer whose tokens are the 256 bytes, after the special tokens: it knows every text.
    pub fn bytes(specials: &Specials) -> Result<Self, TokenizerError> {
        let letters = (0..=u8::MAX).map(|byte| letter(byte).to_string());
        let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
        Self::build(specials, letters, |vocabulary| {
            json!({
                "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
                "pre_tokenizer": byte_level,
                "decoder": byte_level,
            })
        })
    }

    fn build(
        specials: &Specials,
        letters: impl Iterator<Item = String>,
        rules: impl FnOnce(Value) -> Value,
    ) -> Result<Self, TokenizerError> {
        let mut vocabulary = serde_json::Map::new();
        let mut added = Vec::new();
        for (token, control) in specials.tokens() {
            added.push(json!({
                "id": added.len(), "content": token, "special": control,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            }));
        }
        for token in specials.tokens().map(|(token, _)| token.to_owned()).chain(letters) {
            let id = vocabulary.len();
            if vocabulary.insert(token.clone(), id.into()).is_some() {
                return Err(TokenizerError::Twice(token));
            }
        }
        let mut content = rules(Value::Object(vocabulary));
        content["version"] = json!("1.0");
        content["added_tokens"] = Value::Array(added);
        for absent in ["truncation", "padding", "normalizer", "post_processor"] {
            content[absent] = Value::Null;
        }
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
            "eos_token": specials.end,
            "additional_special_tokens": specials.control,
        });
        if let Some(padding) = &specials.padding {
            config["pad_token"] = json!(padding);
        }
        let mut files = BTreeMap::from([
            (TOKENIZER_FILE.to_owned(), pretty(&content)),
            (CONFIG_FILE.to_owned(), pretty(&config)),
        ]);
        if let Some(template) = &specials.chat_template {
            files.insert(TEMPLATE_FILE.to_owned(), template.clone().into_bytes());
        }
        Self::from_files(files)
    }
}
