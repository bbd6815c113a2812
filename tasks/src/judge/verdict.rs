//! Reading a judge's words: which verdict they hold, and by which rule it was found.
//!
//! What is no verdict is never counted as one: a judge that was cut off, that contradicts itself or that says something
//! else has its own category, and what becomes of it is a policy of the node. In doubt there is no verdict: to ask once
//! more is cheap, and a match where there is none puts a wrong trace among the training data.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::backend::{Failure, FinishReason, Reply};

/// What judging one response came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The response reaches the reference answer.
    Match,
    /// It reaches another.
    Mismatch,
    /// It reaches none.
    NoAnswer,
    /// The judge says both, or says it with a negation.
    Ambiguous,
    /// The judge says neither, or the rules understand an answer not.
    Unparsable,
    /// The judge was cut off.
    Truncated,
    /// There is no response to judge, or none of the judge.
    Error,
}

impl Verdict {
    /// Those that decide nothing.
    pub const UNDECIDED: [Self; 4] = [Self::Ambiguous, Self::Unparsable, Self::Truncated, Self::Error];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Match => "match",
            Self::Mismatch => "mismatch",
            Self::NoAnswer => "no_answer",
            Self::Ambiguous => "ambiguous",
            Self::Unparsable => "unparsable",
            Self::Truncated => "truncated",
            Self::Error => "error",
        }
    }

    /// The verdict of a name in tables.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Match, Self::Mismatch, Self::NoAnswer]
            .into_iter()
            .chain(Self::UNDECIDED)
            .find(|verdict| verdict.name() == name)
    }

    /// Whether the response is right; `None` where nothing can be said.
    pub fn is_match(self) -> Option<bool> {
        match self {
            Self::Match => Some(true),
            Self::Mismatch | Self::NoAnswer => Some(false),
            Self::Ambiguous | Self::Unparsable | Self::Truncated | Self::Error => None,
        }
    }
}

/// Reads a judge's response: the verdict, and the rule that found it. `synonyms`: take `EQUIVALENT`, `YES` and their
/// opposites where neither word of the prompt is there.
pub fn read(reply: &Result<Reply, Failure>, synonyms: bool) -> (Verdict, &'static str) {
    let Ok(reply) = reply else { return (Verdict::Error, "failure") };
    if reply.finish_reason == FinishReason::Length {
        return (Verdict::Truncated, "length");
    }
    // A server that takes the thinking out may leave a tag in what it calls the answer.
    let text = &reply.answer_text;
    let text = text.rsplit_once("</think>").map_or(text.as_str(), |(_, after)| after);
    let is_open = reply.reasoning.is_some() && !reply.response.contains("</think>");
    if text.contains("<think>") || text.trim().is_empty() && is_open {
        return (Verdict::Truncated, "open_thinking");
    }
    if text.trim().is_empty() {
        return (Verdict::Error, "empty");
    }
    let words = find(text, &VERDICTS);
    if !words.is_empty() {
        return decide(text, &words);
    }
    let words = if synonyms { find(text, &SYNONYMS) } else { Vec::new() };
    match decide(text, &words) {
        (verdict, _) if !words.is_empty() => (verdict, "synonym"),
        _ => (Verdict::Unparsable, "nothing_found"),
    }
}

/// Whole words, letter case ignored; underscores and asterisks around a word are no part of it.
///
/// `MISMATCH` stands first, because `MATCH` is a part of it. Whatever signs stand between its halves and whatever is before
/// it, it is one word: of all misreadings that of `MIS‑MATCH` as `MATCH` would be the worst. `MATCHES`, `MATCHED` and
/// `MATCHING` are no verdicts: they are how prose talks about the parts of a solution, and the prompt asks for the bare word.
static VERDICTS: LazyLock<Regex> = LazyLock::new(|| {
    compile(r"(?i)(?:(?<no>mis[^\p{L}\p{N}]{0,6}match)|(?:^|[^\p{L}\p{N}])(?<yes>match))(?:$|[^\p{L}\p{N}])")
});
static SYNONYMS: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"(?i)(?:^|[^\p{L}\p{N}])(?:(?<no>not\s+equivalent|inequivalent|incorrect|different|no)|(?<yes>equivalent|correct|yes))(?:$|[^\p{L}\p{N}])",
    )
});
/// A stretch in double asterisks, which may stand apart, or in double underscores; one that is still open at the end
/// counts.
static BOLD: LazyLock<Regex> =
    LazyLock::new(|| compile(r"\*\s?\*[^*]{1,120}(?:\*\s?\*|$)|__[^_]{1,120}(?:__|$)"));
/// A negation that reaches up to the end of a text, in English and in the languages that judges fall into.
static NEGATION: LazyLock<Regex> = LazyLock::new(|| {
    before(
        r"(?:\b(?:no|not|never|without|neither|nor|cannot|non|fail(?:s|ed)?|nicht|keine?|pas)|n['’]t|\b(?:не|нет)|[不没沒非未无無][是有]?)",
        "an?|the|be|any|all|at|in|fact|quite|fully|exactly|exact|strictly|completely|really|actually|necessarily|even|to|do|does|seem|appear|considered|good|perfect|true|real|full|un|une|es|ein|eine",
    )
});
/// A word before the verdict that takes half of it back.
static HEDGE: LazyLock<Regex> = LazyLock::new(|| {
    before(
        r"\b(?:partial(?:ly)?|near(?:ly)?|almost|close|false|half|possibl[ey]|probabl[ey]|potential(?:ly)?|approximate(?:ly)?)",
        "an?|the|to|be|exact|perfect|full",
    )
});
/// What takes a verdict back behind it: `MATCH: no`, `"match": false`, `MATCH is not given`.
static DENIAL: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r#"(?i)^[\s*_`"'”’\])]*(?:[:=]+[\s*_`"'“‘\[(]*(?:no|nope|not|false|0)\s*(?:$|[,;!})\]"'”’*_`]|\.(?:\s|$))|(?:is|was|does|do|has|can|could|would|should)\s*(?:not\b|n['’]t\b|false\b)|ではな|ではあり|でない|しない|不[成是]|아니|아님)"#,
    )
});
/// A verdict that is put as a question.
static QUESTION: LazyLock<Regex> = LazyLock::new(|| compile(r#"^[\s*_`"'”’\])]*[?？]"#));
/// What stands between two verdicts that are offered as alternatives.
static ALTERNATIVE: LazyLock<Regex> = LazyLock::new(|| {
    compile(r#"(?i)^[\s*_`"'“”‘’\[\]()]*(?:or|and|vs\.?|oder|或|[/|,])?[\s*_`"'“”‘’\[\]()]*$"#)
});

/// `words`, then any of `fillers`, then marks only, up to the end of a text.
fn before(words: &str, fillers: &str) -> Regex {
    compile(&format!(r#"(?i){words}(?:[\s\-‐‑]+(?:{fillers}))*[\s\-‐‑–*_`"'“”‘’«\[(]*$"#))
}

fn compile(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern of our own is valid")
}

/// A verdict's word in a text.
struct Word {
    range: Range<usize>,
    is_match: bool,
    is_bold: bool,
    /// What speaks against taking it as it stands.
    doubt: Option<&'static str>,
}

fn find(text: &str, pattern: &Regex) -> Vec<Word> {
    let bold: Vec<_> = BOLD.find_iter(text).map(|found| found.range()).collect();
    let mut words = Vec::new();
    let mut start = 0;
    while let Some(groups) = pattern.captures_at(text, start) {
        let is_match = groups.name("yes").is_some();
        let Some(word) = groups.name("yes").or_else(|| groups.name("no")) else { break };
        words.push(Word {
            range: word.range(),
            is_match,
            is_bold: bold.iter().any(|range| range.contains(&word.start())),
            doubt: doubt(&text[..word.start()], &text[word.end()..]),
        });
        // The character after one word may be the one before the next.
        start = word.end();
    }
    words
}

fn doubt(before: &str, after: &str) -> Option<&'static str> {
    if NEGATION.is_match(before) || DENIAL.is_match(after) {
        Some("negated")
    } else if HEDGE.is_match(before) || QUESTION.is_match(after) {
        Some("hedged")
    } else {
        None
    }
}

fn decide(text: &str, words: &[Word]) -> (Verdict, &'static str) {
    let verdict = |is_match| if is_match { Verdict::Match } else { Verdict::Mismatch };
    // What is set in bold is meant as the verdict; a judge that weighs both writes its last word last.
    if let Some(at) = words.iter().rposition(|word| word.is_bold) {
        let last = &words[at];
        let is_alternative = |one: &Word, other: &Word| {
            one.is_match != other.is_match && ALTERNATIVE.is_match(&text[one.range.end..other.range.start])
        };
        // Neighbours that offer the other word, as the prompt does, leave the choice open.
        let around = &words[at.saturating_sub(1)..words.len().min(at + 2)];
        return match last.doubt {
            Some(doubt) => (Verdict::Ambiguous, doubt),
            None if around.windows(2).any(|pair| is_alternative(&pair[0], &pair[1])) => {
                (Verdict::Ambiguous, "both")
            }
            None => (verdict(last.is_match), "bold"),
        };
    }
    let Some(first) = words.first() else { return (Verdict::Unparsable, "nothing_found") };
    if let Some(doubt) = words.iter().find_map(|word| word.doubt) {
        return (Verdict::Ambiguous, doubt);
    }
    if words.iter().any(|word| word.is_match != first.is_match) {
        return (Verdict::Ambiguous, "both");
    }
    (verdict(first.is_match), "plain")
}

#[cfg(test)]
mod tests;
