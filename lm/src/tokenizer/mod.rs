//! Text to tokens and back, in the files that Hugging Face's libraries use.
//!
//! A tokenizer *is* the bytes of its files: it is made from them, saved as them, and its digest is theirs.
//! It adds nothing to a text (no beginning-of-sequence token, no padding, no truncation): what a model sees beyond the
//! text is the chat template's business. A character that it cannot express is an error, never a silent `<unk>`.
//!
//! Vocabularies of other formats ([`Tokenizer::load`] names them) are rewritten as a `tokenizer.json` with the same ids when
//! they are read, so whatever is saved can be loaded by every library that loads that.

mod base64;
mod byte_level;
mod check;
mod configuration;
mod encoder;
mod files;
mod gguf;
mod made;
mod rename;
mod split;
mod table;
mod tekken;
mod tiktoken;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

pub(crate) use configuration::Configuration;
use encoder::Encoder;
pub use made::Specials;
pub use rename::Reserved;

/// The file that holds vocabulary and rules.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The file that names the special tokens and, in older models, holds the chat template.
pub const CONFIG_FILE: &str = "tokenizer_config.json";
/// An older file that names the special tokens.
pub(crate) const SPECIALS_MAP_FILE: &str = "special_tokens_map.json";
/// The file of the chat template.
pub const TEMPLATE_FILE: &str = "chat_template.jinja";
/// The files that make a tokenizer; only the first must be there.
pub const FILES: [&str; 4] = [TOKENIZER_FILE, CONFIG_FILE, SPECIALS_MAP_FILE, TEMPLATE_FILE];

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
    /// A directory has none of the files that can hold a vocabulary.
    #[error(
        "`{directory}` has no vocabulary: neither a `tokenizer.json` nor a `tekken.json`, a `.gguf` or a `.tiktoken` file"
    )]
    NoVocabulary {
        /// The directory.
        directory: PathBuf,
    },
    /// A directory has no `tokenizer.json` and several other vocabularies.
    #[error("`{directory}` has several vocabularies and no `tokenizer.json`: {}", found.join(", "))]
    SeveralVocabularies {
        /// The directory.
        directory: PathBuf,
        /// The names of the files.
        found: Vec<String>,
    },
    /// A file's content is not what it should be.
    #[error("`{file}` is not usable: {reason}")]
    Content {
        /// The file's name, or its path where that is known.
        file: String,
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
    /// A token is not in the vocabulary.
    #[error("the vocabulary has no token `{0}`")]
    Absent(String),
    /// A token that was to get another name is none of those that may.
    #[error("token {id} (`{token}`) is part of ordinary text; only special tokens can be renamed")]
    NotSpecial {
        /// The token's id.
        id: u32,
        /// The token.
        token: String,
    },
    /// A vocabulary would hold something twice.
    #[error("{0:?} is in the vocabulary twice")]
    Twice(String),
    /// The tokenizer library refused.
    #[error("the text cannot be tokenised: {0}")]
    Library(String),
}

impl TokenizerError {
    fn content(file: &str, reason: impl Into<String>) -> Self {
        Self::Content { file: file.to_owned(), reason: reason.into() }
    }

    /// With the directory in which a faulty file lies.
    fn under(self, directory: &Path) -> Self {
        match self {
            Self::Content { file, reason } if directory.is_dir() => {
                Self::content(&directory.join(file).to_string_lossy(), reason)
            }
            other => other,
        }
    }
}

/// A vocabulary with its rules, special tokens and chat template.
pub struct Tokenizer {
    files: BTreeMap<String, Vec<u8>>,
    configuration: Configuration,
    inner: tokenizers::Tokenizer,
    /// The same for encoding, where the vocabulary is of the kind that it knows.
    encoder: Option<Encoder>,
    /// The same, but taking control tokens in a text as text; made when first asked for.
    plain: OnceLock<tokenizers::Tokenizer>,
    /// For each id below the vocabulary's size, whether there is such a token.
    known: Vec<bool>,
    /// The control tokens' texts.
    control: BTreeSet<String>,
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
    /// Loads the tokenizer of a model directory, or of one vocabulary file: a `tokenizer.json`; else Mistral's `tekken.json`,
    /// the vocabulary inside a `.gguf` file, or tiktoken's `o200k_base.tiktoken`, where a `special_tokens.json` beside it may
    /// map special tokens to ids.
    pub fn load(path: &Path) -> Result<Self, TokenizerError> {
        Self::from_files(files::read(path)?).map_err(|error| error.under(path))
    }

    /// Makes a tokenizer from the text of a `tokenizer.json` alone: without named tokens or a chat template.
    pub fn from_json(text: &str) -> Result<Self, TokenizerError> {
        Self::from_files([(TOKENIZER_FILE.to_owned(), text.as_bytes().to_vec())].into())
    }

    /// Makes a tokenizer from files (some of [`FILES`]) by name.
    pub fn from_files(files: BTreeMap<String, Vec<u8>>) -> Result<Self, TokenizerError> {
        let fault = |reason: String| TokenizerError::content(TOKENIZER_FILE, reason);
        let bytes = files.get(TOKENIZER_FILE).ok_or_else(|| fault("it is absent".to_owned()))?;
        let content: Value = serde_json::from_slice(bytes).map_err(|error| fault(error.to_string()))?;
        let ids = check::ids(&content["model"]["vocab"]).map_err(fault)?;
        check::merges(&content["model"], &ids).map_err(fault)?;
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| fault(error.to_string()))?;
        check::added(&content["added_tokens"], &inner).map_err(fault)?;
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
        let control = inner.get_added_tokens_decoder().into_values().filter(|token| token.special);
        let control = control.map(|token| token.content).collect();
        let configuration = Configuration::from_files(&files)?;
        let unknown = unknown.map_or(Unknown::Dropped, Unknown::Token);
        let encoder = Encoder::of(&content, &ids);
        Ok(Self { files, configuration, inner, encoder, plain: OnceLock::new(), known, control, unknown })
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

    /// The same tokenizer with another token to end a response.
    pub fn with_end_token(mut self, token: &str) -> Result<Self, TokenizerError> {
        self.id(token).ok_or_else(|| TokenizerError::Absent(token.to_owned()))?;
        for file in [CONFIG_FILE, SPECIALS_MAP_FILE] {
            if file == CONFIG_FILE || self.files.contains_key(file) {
                let content = configuration::with_role(self.files.get(file), file, "eos_token", token)?;
                self.files.insert(file.to_owned(), content);
            }
        }
        self.configuration.named_tokens.insert("eos_token".to_owned(), token.to_owned());
        Ok(self)
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
        self.encode_as(text, false)
    }

    /// The tokens of a text in which control tokens are taken for the characters they are written with.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_as(text, true)
    }

    fn encode_as(&self, text: &str, plain: bool) -> Result<Vec<u32>, TokenizerError> {
        // The library also finds what cannot be expressed.
        let ids = self.encoder.as_ref().and_then(|encoder| encoder.encode(text, plain));
        ids.map_or_else(|| self.encode_by_library(text, plain), Ok)
    }

    fn encode_by_library(&self, text: &str, plain: bool) -> Result<Vec<u32>, TokenizerError> {
        if !plain {
            return self.encode_by(&self.inner, text);
        }
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

    /// The first control token that a text holds, as when somebody writes about chat templates: to the model it would not be
    /// text, but a turn's beginning or end.
    pub fn control_token_in(&self, text: &str) -> Option<&str> {
        let lengths: BTreeSet<usize> = self.control.iter().map(String::len).collect();
        let begins: BTreeSet<u8> = self.control.iter().filter_map(|token| token.bytes().next()).collect();
        let places = text.bytes().enumerate().filter(|(_, byte)| begins.contains(byte)).map(|(at, _)| at);
        places
            .flat_map(|at| lengths.iter().rev().filter_map(move |length| text.get(at..at + length)))
            .find_map(|part| self.control.get(part))
            .map(String::as_str)
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

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
