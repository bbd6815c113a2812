//! What the tokens of a response went to, and how it ended.
//!
//! Three counts of tokens exist, and they differ: what whoever answered counts (`output_tokens`, control tokens and the end
//! token included), the text counted again with one reference tokenizer, which is the only one that compares models of
//! different vocabularies, and what is trained on, which is in the packs. A count that no tokenizer made is not given: the
//! share of characters is none.
use std::collections::BTreeSet;

use dag_engine::task::{TaskCx, TaskError};
use dag_lm::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::backend::Reply;

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// The end of a response in which loops are looked for, in characters; of a shorter one, all of it.
const TAIL: usize = 1024;
/// A response shorter than this has no room to go round.
const SHORTEST: usize = 256;
/// Characters whose coming again is a repetition.
const RUN: usize = 16;

/// Who counts tokens.
#[derive(Default)]
pub struct Counter {
    /// Counts the whole text of every model alike.
    reference: Option<Tokenizer>,
    /// Of the embedded model, which counted its own responses.
    own: Option<Tokenizer>,
}

/// The digests of the tokenizers behind the counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokenizers {
    /// Of `output_tokens`; not known of a server.
    pub usage: Option<String>,
    /// Of `reference_tokens`.
    pub reference: Option<String>,
    /// Of `thinking_tokens` and `answer_tokens`: the reference, or else the embedded model's own.
    pub parts: Option<String>,
}

/// What is known of a response's tokens and its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// Up to the end of the thinking, the end tag included.
    pub thinking: Option<u64>,
    /// After it.
    pub answer: Option<u64>,
    /// All of it, by the reference tokenizer.
    pub reference: Option<u64>,
    /// Whether it says the same again and again at its end.
    pub looped: bool,
    /// Whether thinking begins and never ends.
    pub unclosed: bool,
    /// Whether nothing is said but the thinking, which did end.
    pub empty_final: bool,
}

impl Counter {
    /// With the tokenizer of the port `tokenizer` as the reference, and that of an embedded `model` as its own.
    pub fn open(cx: &TaskCx) -> Result<Self, TaskError> {
        let load = |port: &str| {
            let Some(input) = cx.optional(port) else { return Ok(None) };
            Tokenizer::load(&input.path)
                .map(Some)
                .map_err(|error| TaskError::input(&input.path, None, error.to_string()))
        };
        Ok(Self { reference: load("tokenizer")?, own: load("model")? })
    }

    /// Which tokenizers count.
    pub fn tokenizers(&self) -> Tokenizers {
        let digest =
            |tokenizer: &Option<Tokenizer>| tokenizer.as_ref().map(|one| one.digest().to_hex().to_string());
        let (reference, usage) = (digest(&self.reference), digest(&self.own));
        Tokenizers { parts: reference.clone().or_else(|| usage.clone()), usage, reference }
    }

    /// The account of a response.
    pub fn account(&self, reply: &Reply) -> Account {
        let text = &reply.response;
        let unclosed = text.contains(OPEN) && !text.contains(CLOSE);
        let parts =
            self.reference.as_ref().or(self.own.as_ref()).and_then(|tokenizer| parts(tokenizer, text));
        let (thinking, answer) = parts.unzip();
        Account {
            thinking,
            answer,
            reference: self
                .reference
                .as_ref()
                .and_then(|tokenizer| Some(tokenizer.encode(text).ok()?.len() as u64)),
            looped: is_loop(text),
            unclosed,
            empty_final: !unclosed && reply.answer_text.trim().is_empty(),
        }
    }
}

/// Tokens of the thinking, its end tag included, and of what follows. Split at the token of the end tag where the vocabulary
/// has one; else the two sides are counted by themselves. `None` where the tokenizer cannot express the text.
fn parts(tokenizer: &Tokenizer, text: &str) -> Option<(u64, u64)> {
    let Some(end) = text.rfind(CLOSE).map(|at| at + CLOSE.len()) else {
        let all = tokenizer.encode(text).ok()?.len() as u64;
        return Some(if text.contains(OPEN) { (all, 0) } else { (0, all) });
    };
    if let Some(tag) = tokenizer.id(CLOSE) {
        let tokens = tokenizer.encode(text).ok()?;
        if let Some(at) = tokens.iter().rposition(|token| *token == tag) {
            return Some((at as u64 + 1, (tokens.len() - at - 1) as u64));
        }
    }
    let count = |side: &str| Some(tokenizer.encode(side).ok()?.len() as u64);
    Some((count(&text[..end])?, count(&text[end..])?))
}

/// Whether a text goes round in circles at its end: of the runs of 16 characters in its last 1,024, three quarters have come
/// before there. Of a text that repeats a passage of up to 250 characters word for word that is so from the fourth time on;
/// of prose and of sums it is a fraction of that.
fn is_loop(text: &str) -> bool {
    let mut tail: Vec<char> = text.chars().rev().take(TAIL).collect();
    tail.reverse();
    if tail.len() < SHORTEST {
        return false;
    }
    let mut seen: BTreeSet<&[char]> = BTreeSet::new();
    let again = tail.windows(RUN).filter(|run| !seen.insert(run)).count();
    4 * again >= 3 * (tail.len() - RUN + 1)
}

#[cfg(test)]
mod tests {
    use dag_lm::tokenizer::Specials;

    use super::*;
    use crate::backend::FinishReason;

    fn of(counter: &Counter, text: &str) -> Account {
        counter.account(&Reply::of_text(text, FinishReason::Stop, None, None))
    }

    #[test]
    fn tokens_are_those_of_a_tokenizer_or_none() {
        let nobody = of(&Counter::default(), "<think>ab</think>c");
        assert_eq!((nobody.thinking, nobody.answer, nobody.reference), (None, None, None));

        // One token for each byte, and one for the tags.
        let tokenizer = || Tokenizer::bytes(&Specials::chat()).unwrap();
        let own = Counter { own: Some(tokenizer()), reference: None };
        let found = of(&own, "<think>ab</think>cde");
        assert_eq!((found.thinking, found.answer, found.reference), (Some(4), Some(3), None));
        assert_eq!(own.tokenizers().parts, own.tokenizers().usage);
        assert_eq!(own.tokenizers().reference, None);

        let both = Counter { own: Some(tokenizer()), reference: Some(tokenizer()) };
        for (text, thinking, answer) in [
            ("abc", 0, 3),
            ("<think>abc", 4, 0),
            ("<think>a</think>b</think>cd", 5, 2), // the last end tag counts
            ("", 0, 0),
        ] {
            let found = of(&both, text);
            assert_eq!((found.thinking, found.answer), (Some(thinking), Some(answer)), "{text}");
            assert_eq!(found.reference, Some(thinking + answer), "{text}");
        }
    }

    #[test]
    fn a_vocabulary_without_the_tag_counts_both_sides() {
        // The tag is eight characters of ordinary text.
        let specials = Specials { tags: Vec::new(), ..Specials::chat() };
        let counter = Counter { own: Some(Tokenizer::bytes(&specials).unwrap()), reference: None };
        let found = of(&counter, "ab</think>cde");
        let opened = Reply::of_text("ab</think>cde", FinishReason::Stop, None, None).response;
        assert_eq!((found.thinking, found.answer), (Some(opened.len() as u64 - 3), Some(3)));
    }

    #[test]
    fn how_it_ended() {
        let ends = |text: &str| {
            let found = of(&Counter::default(), text);
            (found.unclosed, found.empty_final)
        };
        assert_eq!(ends("<think>a</think>b"), (false, false));
        assert_eq!(ends("<think>a"), (true, false));
        assert_eq!(ends("<think>a</think> \n"), (false, true));
        assert_eq!(ends(""), (false, true));
        assert_eq!(ends("four"), (false, false));
    }

    #[test]
    fn loops_at_the_end() {
        let sums: Vec<String> =
            (0..60).map(|n| format!("{n} + {} = {}, so ", n * 7 % 13, n + n * 7 % 13)).collect();
        let sums = sums.concat();
        assert!(!is_loop(&sums), "sums are alike and not the same");
        let passage = "Wait, let me check that again. The sum of the two is not what it should be. ";
        assert!(is_loop(&format!("{sums}{}", passage.repeat(20))));
        assert!(is_loop(&"0".repeat(400)), "one character over and over");
        assert!(!is_loop(&"0".repeat(200)), "a long number");
        assert!(!is_loop(&format!("{}{sums}", passage.repeat(20))), "it found its way out");
        assert!(!is_loop(&passage.repeat(3)), "said three times");
        assert!(is_loop(&"ошибка, ещё раз. ".repeat(40)), "characters, not bytes");
    }
}
