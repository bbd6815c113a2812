//! Reading a judge's words: which verdict they hold, and by which rule it was found.
//!
//! What is no verdict is never counted as one: a judge that was cut off, that contradicts itself or that says something
//! else has its own category, and what becomes of it is a policy of the node.

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
    if reply.answer_text.trim().is_empty() {
        let is_open = reply.reasoning.is_some() && !reply.response.contains("</think>");
        return if is_open { (Verdict::Truncated, "open_thinking") } else { (Verdict::Error, "empty") };
    }
    let words = find(&reply.answer_text, &VERDICTS);
    if !words.is_empty() {
        return decide(&words);
    }
    let words = if synonyms { find(&reply.answer_text, &SYNONYMS) } else { Vec::new() };
    match decide(&words) {
        (verdict, _) if !words.is_empty() => (verdict, "synonym"),
        _ => (Verdict::Unparsable, "nothing_found"),
    }
}

/// `MISMATCH` stands first, because `MATCH` is a part of it.
static VERDICTS: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?<no>mis[\s\-*_]{0,3}match)|(?<yes>match)"));
static SYNONYMS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?<no>not\s+equivalent|inequivalent|incorrect|different|no)|(?<yes>equivalent|correct|yes)")
});
/// A stretch in double asterisks or underscores; one that is still open at the end counts.
static BOLD: LazyLock<Regex> = LazyLock::new(|| compile(r"\*\*[^*]{1,120}(?:\*\*|$)|__[^_]{1,120}(?:__|$)"));
/// A negation that reaches up to the end of a text.
static NEGATION: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r#"(?i)(?:\b(?:no|not|never|without|neither|nor|cannot)|n['’]t)(?:\s+(?:an?|the|be|exactly|exact|really|to|do|does|good|perfect))*[\s*_`"'\[(]*$"#,
    )
});

/// Whole words, letter case ignored. Underscores and asterisks around a word are no part of it.
fn pattern(words: &str) -> Regex {
    compile(&format!(r"(?i)(?:^|[^\p{{L}}\p{{N}}])(?:{words})(?:$|[^\p{{L}}\p{{N}}])"))
}

fn compile(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern of our own is valid")
}

/// A verdict's word in a text.
struct Word {
    is_match: bool,
    is_bold: bool,
    is_negated: bool,
}

fn find(text: &str, pattern: &Regex) -> Vec<Word> {
    let bold: Vec<_> = BOLD.find_iter(text).map(|found| found.range()).collect();
    let mut words = Vec::new();
    let mut start = 0;
    while let Some(groups) = pattern.captures_at(text, start) {
        let is_match = groups.name("yes").is_some();
        let Some(word) = groups.name("yes").or_else(|| groups.name("no")) else { break };
        words.push(Word {
            is_match,
            is_bold: bold.iter().any(|range| range.contains(&word.start())),
            is_negated: NEGATION.is_match(&text[..word.start()]),
        });
        // The character after one word may be the one before the next.
        start = word.end();
    }
    words
}

fn decide(words: &[Word]) -> (Verdict, &'static str) {
    let verdict = |is_match| if is_match { Verdict::Match } else { Verdict::Mismatch };
    // What is set in bold is meant as the verdict; a judge that weighs both writes its last word last.
    if let Some(last) = words.iter().rfind(|word| word.is_bold) {
        return if last.is_negated {
            (Verdict::Ambiguous, "negated")
        } else {
            (verdict(last.is_match), "bold")
        };
    }
    let Some(first) = words.first() else { return (Verdict::Unparsable, "nothing_found") };
    if words.iter().any(|word| word.is_negated) {
        return (Verdict::Ambiguous, "negated");
    }
    if words.iter().any(|word| word.is_match != first.is_match) {
        return (Verdict::Ambiguous, "both");
    }
    (verdict(first.is_match), "plain")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str, finish_reason: FinishReason, synonyms: bool) -> (Verdict, &'static str) {
        read(&Ok(Reply::of_text(text, finish_reason, None, None)), synonyms)
    }

    #[test]
    fn what_judges_say() {
        use Verdict::{Ambiguous, Error, Match, Mismatch, Truncated, Unparsable};
        let table: &[(&str, Verdict, &str)] = &[
            ("**MATCH**", Match, "bold"),
            ("**MISMATCH**", Mismatch, "bold"),
            ("**match**", Match, "bold"),
            ("**Mismatch.**", Mismatch, "bold"),
            ("** MATCH **", Match, "bold"),
            ("**MATCH\n**", Match, "bold"),
            ("**\nMISMATCH\n**", Mismatch, "bold"),
            ("__MATCH__", Match, "bold"),
            ("`**MISMATCH**`", Mismatch, "bold"),
            ("**[MATCH]**", Match, "bold"),
            ("**Verdict: MATCH**", Match, "bold"),
            ("**MATCH", Match, "bold"),
            ("Both are 5.\n\n**MATCH**.", Match, "bold"),
            ("It could be **MATCH**, yet the sign differs: **MISMATCH**", Mismatch, "bold"),
            ("I must answer **MATCH** or **MISMATCH**. They agree. **MATCH**", Match, "bold"),
            ("The forms do not match at first sight, but 1/2 = 0.5. **MATCH**", Match, "bold"),
            ("MATCH", Match, "plain"),
            ("mismatch", Mismatch, "plain"),
            ("Verdict: MISMATCH", Mismatch, "plain"),
            ("*MATCH*", Match, "plain"),
            ("_MATCH_", Match, "plain"),
            ("`MATCH`", Match, "plain"),
            ("[MISMATCH]", Mismatch, "plain"),
            ("MIS-MATCH", Mismatch, "plain"),
            ("**MIS**MATCH", Mismatch, "bold"),
            ("MATCH. Again: MATCH", Match, "plain"),
            ("MATCH or MISMATCH", Ambiguous, "both"),
            ("NO MATCH", Ambiguous, "negated"),
            ("This is not a MATCH", Ambiguous, "negated"),
            ("This isn't a match", Ambiguous, "negated"),
            ("They do not **MATCH**", Ambiguous, "negated"),
            ("not a MISMATCH", Ambiguous, "negated"),
            ("The final answers matched, matching in all digits.", Unparsable, "nothing_found"),
            ("REMATCH", Unparsable, "nothing_found"),
            ("The answers are equivalent.", Unparsable, "nothing_found"),
            ("I cannot decide this.", Unparsable, "nothing_found"),
            ("<think>**MATCH** or not?</think>**MISMATCH**", Mismatch, "bold"),
            ("The trace says **MATCH**, I think.</think>MISMATCH", Mismatch, "plain"),
            ("<think>**MATCH**</think>", Error, "empty"),
            ("<think>It is a **MATCH**", Truncated, "open_thinking"),
            ("", Error, "empty"),
            (" \n ", Error, "empty"),
            ("**MATCH** 一致", Match, "bold"),
        ];
        for (text, verdict, rule) in table {
            assert_eq!(said(text, FinishReason::Stop, false), (*verdict, *rule), "{text:?}");
        }
    }

    #[test]
    fn what_is_cut_off_is_no_verdict() {
        assert_eq!(said("**MATCH** because", FinishReason::Length, false), (Verdict::Truncated, "length"));
        let failed = Err(Failure::new(crate::backend::FailureKind::Timeout, ""));
        assert_eq!(read(&failed, false), (Verdict::Error, "failure"));
    }

    #[test]
    fn synonyms_only_where_they_are_asked_for() {
        for (text, verdict) in [
            ("Yes", Verdict::Match),
            ("No.", Verdict::Mismatch),
            ("They are not equivalent", Verdict::Mismatch),
            ("**EQUIVALENT**", Verdict::Match),
            ("incorrect", Verdict::Mismatch),
            ("correct? incorrect?", Verdict::Ambiguous),
        ] {
            assert_eq!(said(text, FinishReason::Stop, true), (verdict, "synonym"), "{text}");
            assert_eq!(said(text, FinishReason::Stop, false).0, Verdict::Unparsable);
        }
        assert_eq!(said("Yes, **MISMATCH**", FinishReason::Stop, true), (Verdict::Mismatch, "bold"));
    }
}
