//! tiktoken's rank files (`NAME.tiktoken`): one token a line, its bytes in base64 and its rank, which is its id.
//!
//! The file knows neither its pattern nor its special tokens. The pattern is known by the file's name; the special tokens
//! are those of the name, unless a file beside it maps their texts to ids.

use std::collections::BTreeMap;

use super::base64;
use super::byte_level::{Added, ByteLevel};
use super::configuration::Written;
use super::split::Split;
use crate::template::built_in::HARMONY;

/// The file beside a rank file that maps special tokens to ids.
pub(super) const SPECIALS_FILE: &str = "special_tokens.json";

/// Reads a rank file; `specials` are the bytes of [`SPECIALS_FILE`], where it is there.
pub(super) fn read(encoding: &str, bytes: &[u8], specials: Option<&[u8]>) -> Result<Written, String> {
    let split = Split::of_tiktoken(encoding).ok_or_else(|| {
        format!(
            "the encoding `{encoding}` is not known; the name of the file should be `o200k_base.tiktoken`"
        )
    })?;
    let mut ranks = BTreeMap::new();
    for (number, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')).filter(|(_, line)| !line.is_empty()) {
        let fault = |what: &str| format!("line {number} {what}: {:?}", String::from_utf8_lossy(line));
        let (token, rank) = line
            .iter()
            .position(|&byte| byte == b' ')
            .map(|blank| (&line[..blank], &line[blank + 1..]))
            .ok_or_else(|| fault("has no rank"))?;
        let token = base64::decode(token).ok_or_else(|| fault("does not begin with base64"))?;
        let rank: Option<u32> = std::str::from_utf8(rank).ok().and_then(|rank| rank.trim_end().parse().ok());
        let rank = rank.ok_or_else(|| fault("does not end with a rank"))?;
        if ranks.insert(rank, token).is_some() {
            return Err(fault("has the rank of another line"));
        }
    }

    let mut specials: BTreeMap<String, u32> = match specials {
        None => [("<|endoftext|>", 199_999), ("<|endofprompt|>", 200_018)]
            .map(|(name, id)| (name.to_owned(), id))
            .into(),
        Some(bytes) => {
            serde_json::from_slice(bytes).map_err(|error| format!("`{SPECIALS_FILE}` beside it: {error}"))?
        }
    };
    // Hugging Face's library numbers tokens without a gap, so ids that have no name yet get one.
    let first = ranks.keys().last().map_or(0, |rank| rank + 1);
    let taken: std::collections::BTreeSet<u32> = specials.values().copied().collect();
    let last = taken.last().copied().unwrap_or(first);
    let gaps = (first..last).filter(|id| !taken.contains(id)).map(|id| (format!("<|reserved_{id}|>"), id));
    specials.extend(gaps.collect::<Vec<_>>());
    let mut added: Vec<Added> =
        specials.into_iter().map(|(content, id)| Added { id, content, control: true }).collect();
    added.sort_by_key(|token| token.id);

    let vocabulary = ByteLevel::from_ranks(&ranks, 0, added, split)?;
    let has = |name: &str| vocabulary.added.iter().any(|token| token.content == name);
    let harmony = has("<|return|>") && has("<|channel|>");
    let named = if harmony {
        [("bos_token", "<|startoftext|>"), ("eos_token", "<|return|>"), ("pad_token", "<|endoftext|>")]
            .as_slice()
    } else {
        &[("eos_token", "<|endoftext|>")]
    };
    let named = named.iter().filter(|(_, token)| has(token));
    Ok(Written {
        tokenizer: vocabulary.to_json()?,
        named: named.map(|&(name, token)| (name.to_owned(), token.to_owned())).collect(),
        chat_template: harmony.then(|| HARMONY.to_owned()),
    })
}
