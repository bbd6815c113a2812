//! Byte-level byte-pair vocabularies, written as a `tokenizer.json` that every Hugging Face library loads.
//!
//! Such a vocabulary writes each byte as one visible character and merges neighbours, lowest rank first. Formats without
//! merges (tiktoken, Tekken) give each token a rank and merge whatever two neighbours make the token of the lowest rank;
//! so every split of a token into two others is one of its merges.

use std::collections::BTreeMap;

use serde::ser::{Serialize, Serializer};
use serde_json::{Value, json};

use super::split::Split;

/// The visible character that byte-level vocabularies write for a byte: itself where it is visible, and for the
/// others, in order, the characters from U+0100 on.
pub(super) const fn letter(byte: u8) -> char {
    const fn visible(byte: u8) -> bool {
        matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
    }
    if visible(byte) {
        return byte as char;
    }
    let (mut rank, mut lower) = (0, 0);
    while lower < byte {
        rank += !visible(lower) as u32;
        lower += 1;
    }
    char::from_u32(0x100 + rank).expect("U+0100 to U+0143 are characters")
}

/// [`letter`] of every byte.
const LETTERS: [char; 256] = {
    let mut letters = ['\0'; 256];
    let mut byte = 0;
    while byte < 256 {
        letters[byte] = letter(byte as u8);
        byte += 1;
    }
    letters
};

/// Bytes as byte-level vocabularies write them.
pub(super) fn written(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| LETTERS[byte as usize]).collect()
}

/// The byte that each character up to U+0143 stands for.
const BYTES: [Option<u8>; 0x144] = {
    let mut bytes = [None; 0x144];
    let mut byte = 0;
    while byte < 256 {
        bytes[LETTERS[byte] as usize] = Some(byte as u8);
        byte += 1;
    }
    bytes
};

/// The bytes of what a byte-level vocabulary has written, if all its characters stand for some.
pub(super) fn bytes_of(written: &str) -> Option<Vec<u8>> {
    written.chars().map(|letter| BYTES.get(letter as usize).copied().flatten()).collect()
}

/// A token that is not made by merging, such as one that begins a turn.
#[derive(Debug, Clone)]
pub(super) struct Added {
    pub(super) id: u32,
    pub(super) content: String,
    /// Whether libraries leave it out when they strip control tokens.
    pub(super) control: bool,
}

/// A vocabulary with its merges.
pub(super) struct ByteLevel {
    /// The tokens as they are written, by id, those of `added` among them.
    pub(super) tokens: BTreeMap<u32, String>,
    /// Lowest rank first.
    pub(super) merges: Vec<(String, String)>,
    pub(super) added: Vec<Added>,
    pub(super) split: Split,
}

impl ByteLevel {
    /// From the bytes of each token by rank; the id of a token is its rank plus `offset`.
    pub(super) fn from_ranks(
        ranks: &BTreeMap<u32, Vec<u8>>,
        offset: u32,
        added: Vec<Added>,
        split: Split,
    ) -> Result<Self, String> {
        let by_bytes: BTreeMap<&[u8], u32> =
            ranks.iter().map(|(&rank, bytes)| (bytes.as_slice(), rank)).collect();
        if by_bytes.len() != ranks.len() {
            let twice = ranks.iter().find(|(rank, bytes)| by_bytes[bytes.as_slice()] != **rank);
            let text =
                twice.map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default();
            return Err(format!("{text:?} is in the vocabulary twice"));
        }
        if let Some(byte) = (0..=u8::MAX).find(|byte| !by_bytes.contains_key([*byte].as_slice())) {
            return Err(format!("the byte {byte} has no token, so some texts could not be expressed"));
        }
        let mut merges = Vec::with_capacity(2 * ranks.len());
        let mut splits = Vec::new();
        for bytes in ranks.values() {
            splits.clear();
            splits.extend((1..bytes.len()).filter_map(|at| {
                let (left, right) = bytes.split_at(at);
                Some((*by_bytes.get(left)?, *by_bytes.get(right)?, at))
            }));
            splits.sort_unstable();
            merges.extend(splits.iter().map(|&(.., at)| (written(&bytes[..at]), written(&bytes[at..]))));
        }
        let mut tokens: BTreeMap<u32, String> =
            ranks.iter().map(|(&rank, bytes)| (rank + offset, written(bytes))).collect();
        for token in &added {
            if tokens.insert(token.id, token.content.clone()).is_some() {
                return Err(format!("the id {} of `{}` is another token's", token.id, token.content));
            }
        }
        Ok(Self { tokens, merges, added, split })
    }

    /// The bytes of its `tokenizer.json`.
    pub(super) fn to_json(&self) -> Result<Vec<u8>, String> {
        let mut ids = BTreeMap::new();
        for (id, token) in &self.tokens {
            if let Some(other) = ids.insert(token, id) {
                return Err(format!("the ids {other} and {id} are one token, {token:?}"));
            }
        }
        let added = |token: &Added| {
            json!({
                "id": token.id, "content": token.content, "special": token.control,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        };
        let file = File {
            version: "1.0",
            truncation: (),
            padding: (),
            added_tokens: self.added.iter().map(added).collect(),
            normalizer: self.split.normalizer(),
            pre_tokenizer: self.split.pre_tokenizer(),
            post_processor: (),
            decoder: json!({
                "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
            }),
            model: Model {
                kind: "BPE",
                dropout: (),
                unk_token: (),
                continuing_subword_prefix: (),
                end_of_word_suffix: (),
                fuse_unk: false,
                byte_fallback: false,
                ignore_merges: self.split.whole_words,
                vocab: ById(&self.tokens),
                merges: &self.merges,
            },
        };
        serde_json::to_vec(&file).map_err(|error| error.to_string())
    }
}

/// The file, its fields in the order in which Hugging Face's library writes them.
#[derive(serde::Serialize)]
struct File<'a> {
    version: &'static str,
    truncation: (),
    padding: (),
    added_tokens: Vec<Value>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: (),
    decoder: Value,
    model: Model<'a>,
}

#[derive(serde::Serialize)]
struct Model<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    dropout: (),
    unk_token: (),
    continuing_subword_prefix: (),
    end_of_word_suffix: (),
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: ById<'a>,
    merges: &'a [(String, String)],
}

/// A map from token to id, in the order of the ids.
struct ById<'a>(&'a BTreeMap<u32, String>);

impl Serialize for ById<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(id, token)| (token, id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_distinct_letters() {
        let letters: std::collections::BTreeSet<char> = LETTERS.into_iter().collect();
        assert_eq!(letters.len(), 256);
        assert_eq!(written(b" \na\xc3\xbc"), "ĠĊaÃ¼");
        let all: Vec<u8> = (0..=u8::MAX).collect();
        assert_eq!(bytes_of(&written(&all)), Some(all));
        assert_eq!((bytes_of("a b"), bytes_of("\u{144}")), (None, None));
    }

    #[test]
    fn every_split_of_a_token_into_two_is_a_merge() {
        let mut ranks: BTreeMap<u32, Vec<u8>> = (0..=255_u8).map(|byte| (byte.into(), vec![byte])).collect();
        ranks.extend([(256, b"ab".to_vec()), (257, b"bc".to_vec()), (258, b"abc".to_vec())]);
        let split = Split::of_pattern(r"\s+|\S+".to_owned());
        let vocabulary = ByteLevel::from_ranks(&ranks, 10, vec![], split.clone()).unwrap();
        let merges: Vec<(&str, &str)> =
            vocabulary.merges.iter().map(|(left, right)| (left.as_str(), right.as_str())).collect();
        assert_eq!(merges, [("a", "b"), ("b", "c"), ("a", "bc"), ("ab", "c")]);
        assert_eq!(vocabulary.tokens[&268], "abc");

        ranks.insert(259, b"ab".to_vec());
        let fault = ByteLevel::from_ranks(&ranks, 0, vec![], split.clone()).err().unwrap();
        assert_eq!(fault, r#""ab" is in the vocabulary twice"#);
        ranks.remove(&259);
        ranks.remove(&7);
        let fault = ByteLevel::from_ranks(&ranks, 0, vec![], split).err().unwrap();
        assert!(fault.contains("the byte 7 has no token"), "{fault}");
    }
}
