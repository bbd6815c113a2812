//! How texts are cut into words before neighbours are merged: no merge crosses from one word to the next.
//!
//! GGUF files only name their pre-tokenizer. A wrong one gives plausible text and wrong ids, so an unknown name is refused.

use serde_json::{Value, json};

/// Upper-case letters of a word, then lower-case ones; the contraction of [`O200K`] goes in between the alternatives.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-4o and gpt-oss.
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Llama 3: digits by threes.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2 and 3: digits one by one.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The pre-tokenizer of a byte-level vocabulary.
#[derive(Debug, Clone)]
pub(super) struct Split {
    rule: Rule,
    /// Whether the text is first brought into Unicode's composed form.
    composed: bool,
    /// Whether a word that is a token is that token, whatever its merges say.
    pub(super) whole_words: bool,
}

#[derive(Debug, Clone)]
enum Rule {
    /// The matches of this pattern are the words.
    Pattern(String),
    /// GPT-2's pattern, which the library has built in, after every digit is cut off where `digits`.
    Gpt2 { digits: bool },
}

impl Split {
    /// As tiktoken and Tekken have it: by a pattern, and a word that is a token is that token.
    pub(super) fn of_pattern(pattern: String) -> Self {
        Self { rule: Rule::Pattern(pattern), composed: false, whole_words: true }
    }

    /// The pre-tokenizer that a GGUF file calls by this name in `tokenizer.ggml.pre`.
    pub(super) fn of_gguf(name: &str) -> Option<Self> {
        let pattern = |pattern: &str| Rule::Pattern(pattern.to_owned());
        let (rule, composed, whole_words) = match name {
            "gpt-2" | "phi-2" | "olmo" | "mpt" | "exaone4" => (Rule::Gpt2 { digits: false }, false, false),
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => {
                (Rule::Gpt2 { digits: true }, false, false)
            }
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "lfm2" => (pattern(LLAMA3), false, true),
            "dbrx" | "smaug-bpe" => (pattern(LLAMA3), false, false),
            "qwen2" => (pattern(QWEN2), true, false),
            "tekken" => (pattern(TEKKEN), false, true),
            "gpt-4o" | "llama4" => (pattern(O200K), false, false),
            _ => return None,
        };
        Some(Self { rule, composed, whole_words })
    }

    /// The pre-tokenizer of one of tiktoken's encodings.
    pub(super) fn of_tiktoken(encoding: &str) -> Option<Self> {
        (encoding == "o200k_base").then(|| Self::of_pattern(O200K.to_owned()))
    }

    /// As a `tokenizer.json` has it.
    pub(super) fn pre_tokenizer(&self) -> Value {
        let byte_level = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
        let sequence = |first: Value, use_regex| json!({ "type": "Sequence", "pretokenizers": [first, byte_level(use_regex)] });
        match &self.rule {
            Rule::Gpt2 { digits: false } => byte_level(true),
            Rule::Gpt2 { digits: true } => {
                sequence(json!({ "type": "Digits", "individual_digits": true }), true)
            }
            Rule::Pattern(pattern) => {
                let split = json!({
                    "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false,
                });
                sequence(split, false)
            }
        }
    }

    /// As a `tokenizer.json` has it.
    pub(super) fn normalizer(&self) -> Value {
        if self.composed { json!({ "type": "NFC" }) } else { Value::Null }
    }
}
