//! Mistral's Tekken files (`tekken.json`): the bytes of each token by rank, after a block of special tokens.
//!
//! The reference is mistral-common; files of the versions before v7 do not name their special tokens, and its list is used.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::base64;
use super::byte_level::{Added, ByteLevel};
use super::configuration::Written;
use super::split::Split;
use crate::template::built_in::TEKKEN_V3;

/// The special tokens of files that do not name them, by id.
const UNNAMED: [&str; 20] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];

#[derive(Deserialize)]
struct File {
    config: Config,
    vocab: Vec<Token>,
    special_tokens: Option<Vec<Special>>,
}

#[derive(Deserialize)]
struct Config {
    pattern: String,
    /// Special tokens included.
    default_vocab_size: u32,
    default_num_special_tokens: u32,
    version: String,
}

#[derive(Deserialize)]
struct Token {
    rank: u32,
    token_bytes: String,
}

#[derive(Deserialize)]
struct Special {
    rank: u32,
    token_str: String,
    #[serde(default = "yes")]
    is_control: bool,
}

fn yes() -> bool {
    true
}

/// Reads a Tekken file.
pub(super) fn read(bytes: &[u8]) -> Result<Written, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let Config { default_vocab_size: size, default_num_special_tokens: reserved, .. } = file.config;
    let ordinary = size.checked_sub(reserved).ok_or_else(|| {
        format!("`default_num_special_tokens` ({reserved}) is more than `default_vocab_size` ({size})")
    })?;

    let mut ranks = BTreeMap::new();
    // A file may hold more tokens than its model has.
    for Token { rank, token_bytes } in file.vocab.into_iter().filter(|token| token.rank < ordinary) {
        let bytes = base64::decode(token_bytes.as_bytes())
            .ok_or_else(|| format!("`token_bytes` of rank {rank} is not base64: {token_bytes:?}"))?;
        if ranks.insert(rank, bytes).is_some() {
            return Err(format!("the rank {rank} is there twice"));
        }
    }
    if ranks.len() < ordinary as usize {
        return Err(format!("it has {} tokens and says that it has {ordinary}", ranks.len()));
    }

    let mut names: BTreeMap<u32, (String, bool)> = match file.special_tokens {
        None => (0..).zip(UNNAMED).map(|(id, name)| (id, (name.to_owned(), true))).collect(),
        Some(named) => {
            named.into_iter().map(|token| (token.rank, (token.token_str, token.is_control))).collect()
        }
    };
    let added = (0..reserved).map(|id| {
        let filler = || (format!("<SPECIAL_{id}>"), true);
        let (content, control) = names.remove(&id).unwrap_or_else(filler);
        Added { id, content, control }
    });
    let vocabulary =
        ByteLevel::from_ranks(&ranks, reserved, added.collect(), Split::of_pattern(file.config.pattern))?;

    let has = |name: &str| vocabulary.added.iter().any(|token| token.content == name);
    let named = [("bos_token", "<s>"), ("eos_token", "</s>"), ("pad_token", "<pad>"), ("unk_token", "<unk>")];
    Ok(Written {
        tokenizer: vocabulary.to_json()?,
        named: named.into_iter().filter(|(_, token)| has(token)).map(owned).collect(),
        chat_template: (file.config.version == "v3").then(|| TEKKEN_V3.to_owned()),
    })
}

fn owned((name, token): (&str, &str)) -> (String, String) {
    (name.to_owned(), token.to_owned())
}
