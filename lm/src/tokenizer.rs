//! Text to tokens and back, in the files that Hugging Face's libraries use.
//!
//! A tokenizer *is* the bytes of its files: it is made from them, saved as them, and its digest is theirs.
//! It adds nothing to a text (no beginning-of-sequence token, no padding, no truncation): what a model sees beyond the
//! text is the chat template's business. A character that it cannot express is an error, never a silent `<unk>`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};

/// The file that holds vocabulary and rules.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The file that names the special tokens and, in older models, holds the chat template.
pub const CONFIG_FILE: &str = "tokenizer_config.json";
/// The file of the chat template.
pub const TEMPLATE_FILE: &str = "chat_template.jinja";
/// The files that make a tokenizer; only the first must be there.
pub const FILES: [&str; 4] = [TOKENIZER_FILE, CONFIG_FILE, "special_tokens_map.json", TEMPLATE_FILE];

/// What can be wrong with a tokenizer or a text.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file could not be read or written.
    #[error("cannot access `{path}`: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file's content is not what it should be.
    #[error("`{file}` is not usable: {reason}")]
    Content {
        /// The file's name.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The text has a character that the vocabulary cannot express.
    #[error("the vocabulary has no token for {character:?} (byte {offset} of the text)")]
    UnknownCharacter {
        /// The character.
        character: char,
        /// Where it stands in the text.
        offset: usize,
    },
    /// An id is not in the vocabulary.
    #[error("token {id} is not in the vocabulary")]
    UnknownToken {
        /// The id.
        id: u32,
    },
    /// A new vocabulary would hold something twice.
    #[error("{0:?} is in the vocabulary twice")]
    Twice(String),
    /// The tokenizer library refused.
    #[error("the text cannot be tokenised: {0}")]
    Library(String),
}

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
            chat_template: Some(crate::template::BUILT_IN.to_owned()),
        }
    }

    /// All of them in the order of their ids, each with whether it is a control token.
    fn tokens(&self) -> impl Iterator<Item = (&str, bool)> {
        let control = self.padding.iter().chain([&self.end]).chain(&self.control);
        control.map(|token| (token.as_str(), true)).chain(self.tags.iter().map(|tag| (tag.as_str(), false)))
    }
}

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
        for file in ["special_tokens_map.json", CONFIG_FILE] {
            let Some(bytes) = files.get(file) else { continue };
            let content: Value = serde_json::from_slice(bytes)
                .map_err(|error| TokenizerError::Content { file, reason: error.to_string() })?;
            for name in ["bos_token", "eos_token", "pad_token", "unk_token"] {
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
            let source = String::from_utf8(bytes.clone()).map_err(|error| TokenizerError::Content {
                file: TEMPLATE_FILE,
                reason: error.to_string(),
            })?;
            configuration.chat_template = Some(source);
        }
        Ok(configuration)
    }

    /// Reads it from a model directory.
    pub(crate) fn load(directory: &Path) -> Result<Self, TokenizerError> {
        Self::from_files(&read_files(directory)?)
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

fn read_files(directory: &Path) -> Result<BTreeMap<String, Vec<u8>>, TokenizerError> {
    let mut files = BTreeMap::new();
    for name in FILES {
        let path = directory.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => drop(files.insert(name.to_owned(), bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && name != TOKENIZER_FILE => {}
            Err(source) => return Err(TokenizerError::Io { path, source }),
        }
    }
    Ok(files)
}

/// A vocabulary with its rules, special tokens and chat template.
pub struct Tokenizer {
    files: BTreeMap<String, Vec<u8>>,
    configuration: Configuration,
    inner: tokenizers::Tokenizer,
    /// The same, but taking control tokens in a text as text; made when first asked for.
    plain: OnceLock<tokenizers::Tokenizer>,
    /// For each id below the vocabulary's size, whether there is such a token.
    known: Vec<bool>,
    unknown: Unknown,
}

/// What the model does with a character it does not know, as found from its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unknown {
    /// It gives this token.
    Token(u32),
    /// It leaves the character out or refuses.
    Dropped,
}

impl Tokenizer {
    /// Loads the tokenizer of a model directory.
    pub fn load(directory: &Path) -> Result<Self, TokenizerError> {
        Self::from_files(read_files(directory)?)
    }

    /// Makes a tokenizer from the text of a `tokenizer.json` alone: without named tokens or a chat template.
    pub fn from_json(text: &str) -> Result<Self, TokenizerError> {
        Self::from_files([(TOKENIZER_FILE.to_owned(), text.as_bytes().to_vec())].into())
    }

    /// Makes a tokenizer from files (some of [`FILES`]) by name.
    pub fn from_files(files: BTreeMap<String, Vec<u8>>) -> Result<Self, TokenizerError> {
        let fault = |reason: String| TokenizerError::Content { file: TOKENIZER_FILE, reason };
        let bytes = files.get(TOKENIZER_FILE).ok_or_else(|| fault("it is absent".to_owned()))?;
        let content: Value = serde_json::from_slice(bytes).map_err(|error| fault(error.to_string()))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| fault(error.to_string()))?;
        // A saved tokenizer may carry the cut and the padding of whoever saved it; both would alter texts silently.
        inner.with_truncation(None).map_err(|error| fault(error.to_string()))?;
        inner.with_padding(None);

        let mut known = Vec::new();
        for id in inner.get_vocab(true).into_values() {
            let id = id as usize;
            if id >= known.len() {
                known.resize(id + 1, false);
            }
            known[id] = true;
        }
        let model = &content["model"];
        let unknown = match (model["unk_id"].as_u64(), model["unk_token"].as_str()) {
            (Some(id), _) => Some(id as u32),
            (None, Some(token)) => inner.token_to_id(token),
            (None, None) => None,
        };
        let configuration = Configuration::from_files(&files)?;
        let unknown = unknown.map_or(Unknown::Dropped, Unknown::Token);
        Ok(Self { files, configuration, inner, plain: OnceLock::new(), known, unknown })
    }

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
        let letters = (0..=u8::MAX).map(|byte| byte_letter(byte).to_string());
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

    /// The same tokenizer with another chat template.
    #[must_use]
    pub fn with_chat_template(mut self, source: &str) -> Self {
        self.files.insert(TEMPLATE_FILE.to_owned(), source.as_bytes().to_vec());
        self.configuration.chat_template = Some(source.to_owned());
        self
    }

    /// Writes the tokenizer's files into a directory.
    pub fn save(&self, directory: &Path) -> Result<(), TokenizerError> {
        for (name, bytes) in &self.files {
            let path = directory.join(name);
            std::fs::write(&path, bytes).map_err(|source| TokenizerError::Io { path, source })?;
        }
        Ok(())
    }

    /// The digest of the tokenizer's files, names and bytes.
    pub fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for (name, bytes) in &self.files {
            hasher.update(format!("{name} {}\n", bytes.len()).as_bytes());
            hasher.update(bytes);
        }
        hasher.finalize()
    }

    /// The tokens of a text in which special tokens are recognised, as in a rendered conversation.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_by(&self.inner, text)
    }

    /// The tokens of a text in which control tokens are taken for the characters they are written with.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let plain = self.plain.get_or_init(|| {
            let mut plain = self.inner.clone();
            plain.set_encode_special_tokens(true);
            plain
        });
        self.encode_by(plain, text)
    }

    fn encode_by(&self, tokenizer: &tokenizers::Tokenizer, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = tokenizer.encode(text, false);
        let complete = encoding.as_ref().is_ok_and(|encoding| match self.unknown {
            Unknown::Token(unknown) => !encoding.get_ids().contains(&unknown),
            Unknown::Dropped => covers(text, encoding.get_offsets()),
        });
        if complete && let Ok(encoding) = &encoding {
            return Ok(encoding.get_ids().to_vec());
        }
        // The offsets of an encoding that leaves something out are shifted, so the culprit is looked for alone.
        let expressible = |letter: &str| match (tokenizer.encode(letter, false), self.unknown) {
            (Ok(encoding), Unknown::Token(unknown)) => !encoding.get_ids().contains(&unknown),
            (Ok(encoding), Unknown::Dropped) => covers(letter, encoding.get_offsets()),
            (Err(_), _) => false,
        };
        let culprit = text
            .char_indices()
            .find(|(_, character)| !expressible(character.encode_utf8(&mut [0; 4])))
            .map(|(offset, character)| TokenizerError::UnknownCharacter { character, offset });
        let reason = encoding.map_or_else(|error| error.to_string(), |_| "a part of it is lost".to_owned());
        Err(culprit.unwrap_or(TokenizerError::Library(reason)))
    }

    /// The text of tokens, special tokens included.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        if let Some(&id) = ids.iter().find(|&&id| !self.known.get(id as usize).copied().unwrap_or(false)) {
            return Err(TokenizerError::UnknownToken { id });
        }
        self.inner.decode(ids, false).map_err(|error| TokenizerError::Library(error.to_string()))
    }

    /// The id of a token, written as the vocabulary writes it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token that ends a response, as text.
    pub fn eos(&self) -> Option<&str> {
        self.configuration.named_tokens.get("eos_token").map(String::as_str)
    }

    /// The token that ends a response.
    pub fn eos_id(&self) -> Option<u32> {
        self.id(self.eos()?)
    }

    /// The token that begins every sequence, where the model has one.
    pub fn bos_id(&self) -> Option<u32> {
        self.id(self.configuration.named_tokens.get("bos_token")?)
    }

    /// The token that fills up batches, where one is named.
    pub fn pad_id(&self) -> Option<u32> {
        self.id(self.configuration.named_tokens.get("pad_token")?)
    }

    /// One more than the highest id: the rows an embedding needs at least.
    pub fn vocab_size(&self) -> usize {
        self.known.len()
    }

    /// The chat template's source, where there is one.
    pub fn chat_template(&self) -> Option<&str> {
        self.configuration.chat_template.as_deref()
    }

    pub(crate) fn configuration(&self) -> &Configuration {
        &self.configuration
    }
}

/// Whether tokens cover a text, but for white space, which a vocabulary may leave out by rule.
fn covers(text: &str, offsets: &[(usize, usize)]) -> bool {
    let mut end = 0;
    for &(start, stop) in offsets.iter().chain([&(text.len(), text.len())]) {
        if start > end && !text[end..start].chars().all(char::is_whitespace) {
            return false;
        }
        end = end.max(stop);
    }
    true
}

/// The visible character that byte-level vocabularies write for a byte: itself where it is visible, and for the
/// others, in order, the characters from U+0100 on.
fn byte_letter(byte: u8) -> char {
    let visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if visible(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|&lower| !visible(lower)).count() as u32;
    char::from_u32(0x100 + rank).expect("U+0100 to U+0143 are characters")
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("a JSON value can be written");
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALPHABET: &str = "0123456789+-*=?;#, \nabcdefghijklmnopqrstuvwxyz<|>/é";

    fn characters() -> Tokenizer {
        Tokenizer::character(ALPHABET, &Specials::chat()).unwrap()
    }

    #[test]
    fn special_tokens_come_first_and_characters_follow() {
        let tokenizer = characters();
        assert_eq!(tokenizer.encode("<|pad|><|end|><think>01").unwrap(), [0, 1, 5, 7, 8]);
        assert_eq!((tokenizer.pad_id(), tokenizer.eos_id(), tokenizer.bos_id()), (Some(0), Some(1), None));
        assert_eq!(tokenizer.vocab_size(), 7 + ALPHABET.chars().count());
        assert_eq!(tokenizer.decode(&[5, 7, 8, 1]).unwrap(), "<think>01<|end|>");
        assert!(matches!(tokenizer.decode(&[999]), Err(TokenizerError::UnknownToken { id: 999 })));
    }

    #[test]
    fn plain_text_holds_no_control_tokens() {
        let tokenizer = characters();
        let plain = tokenizer.encode_plain("<|end|>").unwrap();
        assert_eq!(plain.len(), 7);
        assert_eq!(tokenizer.decode(&plain).unwrap(), "<|end|>");
        assert_eq!(Tokenizer::bytes(&Specials::chat()).unwrap().encode_plain("<|end|>").unwrap().len(), 7);
    }

    #[test]
    fn an_unknown_character_is_named() {
        let fault = characters().encode("17*4=?é\n\n\u{3c0}").unwrap_err();
        assert_eq!(fault.to_string(), "the vocabulary has no token for 'π' (byte 10 of the text)");
    }

    #[test]
    fn dropped_and_unknown_tokens_are_errors() {
        // Byte-pair models without an unknown token leave characters out; those with one write it.
        let model = |unknown: &str| {
            format!(
                r#"{{"version": "1.0", "truncation": {{"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}},
                "added_tokens": [], "model": {{"type": "BPE", "vocab": {{"a": 0, "b": 1, "<unk>": 2}}, "merges": [], "unk_token": {unknown}}}}}"#
            )
        };
        for unknown in ["null", r#""<unk>""#] {
            let tokenizer = Tokenizer::from_json(&model(unknown)).unwrap();
            assert_eq!(tokenizer.encode("abab").unwrap(), [0, 1, 0, 1], "a stored truncation is not applied");
            let fault = tokenizer.encode("abxa").unwrap_err();
            assert!(
                matches!(fault, TokenizerError::UnknownCharacter { character: 'x', offset: 2 }),
                "{unknown}: {fault}"
            );
        }
    }

    #[test]
    fn a_vocabulary_holds_nothing_twice() {
        let fault = |alphabet| Tokenizer::character(alphabet, &Specials::chat()).err().unwrap().to_string();
        assert_eq!(fault("abca"), r#""a" is in the vocabulary twice"#);
    }

    #[test]
    fn saved_files_give_the_same_tokenizer() {
        let directory = tempfile::tempdir().unwrap();
        let tokenizer = characters();
        tokenizer.save(directory.path()).unwrap();
        let loaded = Tokenizer::load(directory.path()).unwrap();
        assert_eq!(loaded.digest(), tokenizer.digest());
        assert_eq!(loaded.chat_template(), Some(crate::template::BUILT_IN));
        assert_ne!(characters().with_chat_template("{{ messages }}").digest(), tokenizer.digest());
        assert_ne!(Tokenizer::bytes(&Specials::chat()).unwrap().digest(), tokenizer.digest());
    }

    #[test]
    fn bytes_have_distinct_letters() {
        let letters: std::collections::BTreeSet<char> = (0..=u8::MAX).map(byte_letter).collect();
        assert_eq!(letters.len(), 256);
        assert_eq!((byte_letter(b' '), byte_letter(b'\n'), byte_letter(b'a')), ('Ġ', 'Ċ', 'a'));
    }

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

    proptest! {
        #[test]
        fn decoding_inverts_encoding(pieces in prop::collection::vec(prop_oneof![
            "[0-9a-z+*=?;#,<|>/ \né-]{0,12}",
            prop::sample::select(vec!["<|end|>", "<think>", "</think>", "<|user|>"]).prop_map(str::to_owned),
        ], 0..8)) {
            let text = pieces.concat();
            let tokenizer = characters();
            prop_assert_eq!(&tokenizer.decode(&tokenizer.encode(&text).unwrap()).unwrap(), &text);
            prop_assert_eq!(&tokenizer.decode(&tokenizer.encode_plain(&text).unwrap()).unwrap(), &text);
        }

        #[test]
        fn bytes_know_every_text(text in any::<String>()) {
            let tokenizer = Tokenizer::bytes(&Specials::chat()).unwrap();
            prop_assert_eq!(&tokenizer.decode(&tokenizer.encode(&text).unwrap()).unwrap(), &text);
            let plain = tokenizer.encode_plain(&text).unwrap();
            prop_assert_eq!(&tokenizer.decode(&plain).unwrap(), &text);
        }
    }
}
