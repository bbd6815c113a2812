//! Encoding for byte-level byte-pair vocabularies, several times as fast as the library that defines it.
//!
//! It gives the same ids: tests compare the two on real vocabularies and on arbitrary texts. Whatever a `tokenizer.json` may
//! say that is not understood here leaves the text to the library.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use serde_json::Value;

use super::byte_level::bytes_of;
use super::table::{PairTable, TokenTable};
use super::words::Words;

/// Above this many bytes a word's best merge is kept in a heap, not looked for.
const LONG_WORD: usize = 96;
/// No token, or no merge.
const NONE: u32 = u32::MAX;

/// A vocabulary in the form that encoding needs.
pub(super) struct Encoder {
    words: Words,
    /// Tokens that a word of their text is.
    whole: TokenTable,
    /// The token of each byte; some vocabularies lack a few that hardly occur.
    bytes: [u32; 256],
    /// The rank of a merge and the token it makes, by the two tokens.
    merges: PairTable,
    added: AddedTokens,
    /// Of these, those that are not control tokens.
    plain: AddedTokens,
}

impl Encoder {
    /// The encoder of a `tokenizer.json`, if the file says nothing that is not understood here. `ids` are those of its
    /// vocabulary.
    pub(super) fn of(content: &Value, ids: &TokenTable) -> Option<Self> {
        let model = &content["model"];
        let absent = ["dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"];
        let simple = model["type"].as_str().is_none_or(|kind| kind == "BPE")
            && absent.iter().all(|field| model[field].is_null() || model[field] == "")
            && model["byte_fallback"] != true
            && content["normalizer"].is_null();
        if !simple {
            return None;
        }
        let words = Words::of(&content["pre_tokenizer"])?;

        let vocabulary = model["vocab"].as_object()?;
        let mut tokens = Vec::with_capacity(vocabulary.len());
        let mut bytes = [NONE; 256];
        for text in vocabulary.keys() {
            // Control tokens may be written with other characters; no word of a text is one of those.
            let Some(token) = bytes_of(text) else { continue };
            let id = ids.get(text.as_bytes())?;
            if let [byte] = token[..] {
                bytes[byte as usize] = id;
            }
            tokens.push((token, id));
        }
        let list = model["merges"].as_array()?;
        let mut merges = PairTable::with_capacity(list.len());
        let mut whole = Vec::new();
        for (rank, merge) in (0..).zip(list) {
            let (left, right) = parts(merge)?;
            whole.clear();
            whole.extend_from_slice(left.as_bytes());
            whole.extend_from_slice(right.as_bytes());
            let pair = (ids.get(left.as_bytes())?, ids.get(right.as_bytes())?);
            merges.insert(pair, (rank, ids.get(&whole)?));
        }

        let (added, plain) = AddedTokens::of(&content["added_tokens"])?;
        let whole = TokenTable::with_capacity(tokens.len());
        let mut encoder = Self { words, whole, bytes, merges, added, plain };
        let mut scratch = Scratch::default();
        for (token, id) in tokens {
            // Where the merges decide, a token that they do not lead to is never a word's.
            if model["ignore_merges"] == true || encoder.merged(&token, &mut scratch) == Some(&[id]) {
                encoder.whole.insert(&token, id);
            }
        }
        Some(encoder)
    }

    /// The tokens of a text, if it has no byte without a token; with `plain`, control tokens in it are taken for the
    /// characters they are written with.
    pub(super) fn encode(&self, text: &str, plain: bool) -> Option<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        let mut scratch = Scratch::default();
        let added = if plain { &self.plain } else { &self.added };
        let mut start = 0;
        while let Some((at, length, id)) = added.find(text, start) {
            self.encode_part(&text[start..at], &mut ids, &mut scratch)?;
            ids.push(id);
            start = at + length;
        }
        self.encode_part(&text[start..], &mut ids, &mut scratch)?;
        Some(ids)
    }

    fn encode_part(&self, text: &str, ids: &mut Vec<u32>, scratch: &mut Scratch) -> Option<()> {
        self.words.try_each(text, &mut |word: &str| {
            match self.whole.get(word.as_bytes()) {
                Some(id) => ids.push(id),
                None => ids.extend_from_slice(self.merged(word.as_bytes(), scratch)?),
            }
            Some(())
        })
    }

    /// The tokens of a word by its merges: always that of the lowest rank, and of several such the first.
    fn merged<'a>(&self, word: &[u8], scratch: &'a mut Scratch) -> Option<&'a [u32]> {
        let Scratch { ids, ranks, heap, next, previous } = scratch;
        ids.clear();
        ids.extend(word.iter().map(|&byte| self.bytes[byte as usize]));
        if ids.contains(&NONE) {
            return None;
        }
        let rank = |left: u32, right: u32| self.merges.get((left, right)).map_or(NONE, |(rank, _)| rank);
        if word.len() > LONG_WORD {
            self.merge_long(ids, heap, next, previous);
            return Some(ids);
        }
        ranks.clear();
        ranks.extend(ids.windows(2).map(|pair| rank(pair[0], pair[1])));
        while let Some(at) = lowest(ranks) {
            let (_, merged) = self.merges.get((ids[at], ids[at + 1])).expect("a rank is that of a merge");
            ids[at] = merged;
            ids.remove(at + 1);
            ranks.remove(at);
            if at > 0 {
                ranks[at - 1] = rank(ids[at - 1], merged);
            }
            if at < ranks.len() {
                ranks[at] = rank(merged, ids[at + 1]);
            }
        }
        Some(ids)
    }

    /// The same in n log n steps: merges that could be made wait in a heap, and those that no longer can are passed over.
    fn merge_long(
        &self,
        ids: &mut Vec<u32>,
        heap: &mut BinaryHeap<Reverse<(u32, usize, u32)>>,
        next: &mut Vec<usize>,
        previous: &mut Vec<usize>,
    ) {
        let length = ids.len();
        heap.clear();
        next.clear();
        next.extend(1..=length);
        previous.clear();
        // The first has none before it, which the largest number stands for.
        previous.extend((0..length).map(|at| at.wrapping_sub(1)));
        let offer = |heap: &mut BinaryHeap<_>, at: usize, left: u32, right: u32| {
            if let Some((rank, merged)) = self.merges.get((left, right)) {
                heap.push(Reverse((rank, at, merged)));
            }
        };
        for at in 1..length {
            offer(heap, at - 1, ids[at - 1], ids[at]);
        }
        while let Some(Reverse((_, at, merged))) = heap.pop() {
            let right = next[at];
            // What a place and the one after it make only grows longer, so an old offer makes another token.
            let current = (ids[at] != NONE && right < length).then(|| self.merges.get((ids[at], ids[right])));
            if current.flatten().is_none_or(|(_, token)| token != merged) {
                continue;
            }
            ids[at] = merged;
            ids[right] = NONE;
            next[at] = next[right];
            if next[at] < length {
                previous[next[at]] = at;
                offer(heap, at, merged, ids[next[at]]);
            }
            if previous[at] < length {
                offer(heap, previous[at], ids[previous[at]], merged);
            }
        }
        ids.retain(|&id| id != NONE);
    }
}

/// The two tokens of a merge, which is a list or a text with a blank.
pub(super) fn parts(merge: &Value) -> Option<(&str, &str)> {
    match merge.as_str() {
        Some(text) => text.split_once(' '),
        None => merge[0].as_str().zip(merge[1].as_str()),
    }
}

/// The first place of the lowest rank, if there is a merge at all.
fn lowest(ranks: &[u32]) -> Option<usize> {
    let (mut place, mut lowest) = (None, NONE);
    for (at, &rank) in ranks.iter().enumerate() {
        if rank < lowest {
            (place, lowest) = (Some(at), rank);
        }
    }
    place
}

/// Room that is used again from word to word.
#[derive(Default)]
struct Scratch {
    ids: Vec<u32>,
    ranks: Vec<u32>,
    heap: BinaryHeap<Reverse<(u32, usize, u32)>>,
    next: Vec<usize>,
    previous: Vec<usize>,
}

/// Tokens that are looked for in a text before anything else, the longest first.
struct AddedTokens {
    ids: BTreeMap<Vec<u8>, u32>,
    begins: [bool; 256],
    /// Lengths that occur, the longest first.
    lengths: Vec<usize>,
}

impl AddedTokens {
    /// All of a file's, and those that are not control tokens; nothing where one of them takes more than its own text.
    fn of(added: &Value) -> Option<(Self, Self)> {
        let (mut all, mut plain) = (BTreeMap::new(), BTreeMap::new());
        let tokens: &[Value] = added.as_array().map_or(&[], Vec::as_slice);
        for token in tokens {
            let takes_more = ["single_word", "lstrip", "rstrip"].iter().any(|field| token[field] == true);
            // The library looks for the two kinds one after the other; with one kind there is one search.
            if takes_more || token["normalized"] != tokens[0]["normalized"] {
                return None;
            }
            let content = token["content"].as_str()?.as_bytes().to_vec();
            let id = u32::try_from(token["id"].as_u64()?).ok()?;
            if token["special"] != true {
                plain.insert(content.clone(), id);
            }
            all.insert(content, id);
        }
        Some((Self::new(all), Self::new(plain)))
    }

    fn new(ids: BTreeMap<Vec<u8>, u32>) -> Self {
        let mut begins = [false; 256];
        for first in ids.keys().filter_map(|token| token.first()) {
            begins[*first as usize] = true;
        }
        let lengths: BTreeSet<usize> = ids.keys().map(Vec::len).filter(|&length| length > 0).collect();
        Self { ids, begins, lengths: lengths.into_iter().rev().collect() }
    }

    /// The first token from `start` on: where it begins, its length and its id.
    fn find(&self, text: &str, start: usize) -> Option<(usize, usize, u32)> {
        let bytes = text.as_bytes();
        let places = (start..bytes.len()).filter(|&at| self.begins[bytes[at] as usize]);
        places
            .flat_map(|at| self.lengths.iter().map(move |&length| (at, length)))
            .find_map(|(at, length)| Some((at, length, *self.ids.get(bytes.get(at..at + length)?)?)))
    }
}
