//! The vocabulary inside a GGUF file: tokens, merges, the name of a pre-tokenizer, and the chat template.

use std::io::{Read, Seek};

use candle_core::quantized::gguf_file::{Content, Value};

use super::byte_level::{Added, ByteLevel};
use super::configuration::Written;
use super::split::Split;

/// Kinds of token that are not made by merging (`tokenizer.ggml.token_type`).
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

/// Reads the vocabulary of a GGUF file.
pub(super) fn read<R: Read + Seek>(reader: &mut R) -> Result<Written, String> {
    let content = Content::read(reader).map_err(|error| error.to_string())?;
    let value = |key: &str| content.metadata.get(key);
    let string = |key: &str| value(key).and_then(|value| value.to_string().ok());
    let model =
        string("tokenizer.ggml.model").ok_or("it has no vocabulary: there is no `tokenizer.ggml.model`")?;
    if model != "gpt2" {
        return Err(format!(
            "its vocabulary is of the kind {model:?}, and only byte-level ones (\"gpt2\") can be read; take the model's `tokenizer.json`"
        ));
    }
    let pre = string("tokenizer.ggml.pre").ok_or(
        "it does not name its pre-tokenizer (`tokenizer.ggml.pre`), without which the ids would be a guess",
    )?;
    let split = Split::of_gguf(pre).ok_or_else(|| {
        format!("its pre-tokenizer {pre:?} is not known, and with another the ids would be wrong; take the model's `tokenizer.json`")
    })?;

    let strings = |key: &str| -> Result<Vec<&str>, String> {
        let values = value(key).ok_or_else(|| format!("there is no `{key}`"))?;
        let values = values.to_vec().map_err(|error| format!("`{key}`: {error}"))?;
        let texts = values.iter().map(|value| value.to_string().map(String::as_str));
        texts.collect::<Result<_, _>>().map_err(|error| format!("`{key}`: {error}"))
    };
    let tokens = strings("tokenizer.ggml.tokens")?;
    let merges = strings("tokenizer.ggml.merges")?
        .into_iter()
        .map(|merge| {
            // A merge of two tokens neither of which is empty; the first may begin with the blank.
            let blank = merge.char_indices().skip(1).find(|(_, letter)| *letter == ' ').map(|(at, _)| at);
            let at = blank.ok_or_else(|| format!("the merge {merge:?} has no blank"))?;
            Ok((merge[..at].to_owned(), merge[at + 1..].to_owned()))
        })
        .collect::<Result<_, String>>()?;
    let kinds = value("tokenizer.ggml.token_type")
        .map(Value::to_vec)
        .transpose()
        .map_err(|error| error.to_string())?;
    let kind = |id: usize| kinds.and_then(|kinds| kinds.get(id)).and_then(whole).unwrap_or(0);
    let added = tokens.iter().enumerate().filter_map(|(id, content)| {
        let kind = kind(id);
        let added = Added { id: id as u32, content: (*content).to_owned(), control: kind == CONTROL };
        matches!(kind, CONTROL | USER_DEFINED).then_some(added)
    });
    let vocabulary = ByteLevel {
        added: added.collect(),
        tokens: (0..).zip(tokens.iter().map(|&token| token.to_owned())).collect(),
        merges,
        split,
    };

    let names =
        [("bos", "bos_token"), ("eos", "eos_token"), ("padding", "pad_token"), ("unknown", "unk_token")];
    let named = names.into_iter().filter_map(|(key, name)| {
        let id = whole(value(&format!("tokenizer.ggml.{key}_token_id"))?)?;
        Some((name.to_owned(), (*tokens.get(id as usize)?).to_owned()))
    });
    Ok(Written {
        tokenizer: vocabulary.to_json()?,
        named: named.collect(),
        chat_template: string("tokenizer.chat_template").cloned(),
    })
}

/// A number that is not negative, whatever its width.
fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::I8(number) => u64::try_from(*number).ok(),
        Value::I16(number) => u64::try_from(*number).ok(),
        Value::I32(number) => u64::try_from(*number).ok(),
        Value::I64(number) => u64::try_from(*number).ok(),
        other => other.to_u64().ok(),
    }
}
