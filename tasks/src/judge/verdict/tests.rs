//! The table of written outputs: what judges say, and what is read.

use proptest::prelude::*;

use super::Verdict::{Ambiguous, Error, Match, Mismatch, Truncated, Unparsable};
use super::*;
use crate::backend::FailureKind;

fn said(text: &str, finish_reason: FinishReason, synonyms: bool) -> (Verdict, &'static str) {
    read(&Ok(Reply::of_text(text, finish_reason, None, None)), synonyms)
}

/// What a judge that ends by itself says, the verdict and the rule.
const SAID: &[(&str, Verdict, &str)] = &[
    // In bold, as the prompt asks for it.
    ("**MATCH**", Match, "bold"),
    ("**MISMATCH**", Mismatch, "bold"),
    ("**match**", Match, "bold"),
    ("**Mismatch.**", Mismatch, "bold"),
    ("***MATCH***", Match, "bold"),
    ("__MATCH__", Match, "bold"),
    ("`**MISMATCH**`", Mismatch, "bold"),
    ("**`MATCH`**", Match, "bold"),
    ("**[MATCH]**", Match, "bold"),
    ("**\"MATCH\"**", Match, "bold"),
    ("**Verdict: MATCH**", Match, "bold"),
    ("- **Verdict:** **MISMATCH**", Mismatch, "bold"),
    ("Both are 5.\n\n**MATCH**.", Match, "bold"),
    // Asterisks that stand apart, are split, are broken over lines or are left open.
    ("** MATCH **", Match, "bold"),
    ("* *MATCH* *", Match, "bold"),
    ("**MATCH\n**", Match, "bold"),
    ("**\nMISMATCH\n**", Mismatch, "bold"),
    ("**\r\nMATCH\r\n**", Match, "bold"),
    ("**MATCH", Match, "bold"),
    ("**MIS**MATCH", Mismatch, "bold"),
    ("**MIS** **MATCH**", Mismatch, "bold"),
    ("**MIS\nMATCH**", Mismatch, "bold"),
    // Without.
    ("MATCH", Match, "plain"),
    ("mismatch", Mismatch, "plain"),
    ("Verdict: MATCH.", Match, "plain"),
    ("Verdict: MISMATCH", Mismatch, "plain"),
    ("*MATCH*", Match, "plain"),
    ("_MATCH_", Match, "plain"),
    ("`MATCH`", Match, "plain"),
    ("[MISMATCH]", Mismatch, "plain"),
    (r"\boxed{\text{MATCH}}", Match, "plain"),
    ("<b>MISMATCH</b>", Mismatch, "plain"),
    ("> MATCH", Match, "plain"),
    ("MATCH. Again: MATCH", Match, "plain"),
    ("**Verdict:** MATCH", Match, "plain"),
    // One word, whatever joins it.
    ("MIS-MATCH", Mismatch, "plain"),
    ("mis-match", Mismatch, "plain"),
    ("MIS\u{2011}MATCH", Mismatch, "plain"),
    ("MIS\u{200b}MATCH", Mismatch, "plain"),
    ("mis match", Mismatch, "plain"),
    ("结果为MIS-MATCH", Mismatch, "plain"),
    // Both: the last in bold counts, unless the two are offered as alternatives.
    ("It could be **MATCH**, yet the sign differs: **MISMATCH**", Mismatch, "bold"),
    ("**MISMATCH**? They agree after all. **MATCH**", Match, "bold"),
    ("I must answer **MATCH** or **MISMATCH**. They agree. **MATCH**", Match, "bold"),
    ("The trace says \"**MATCH**\", but 4 is not 5.\n**MISMATCH**", Mismatch, "bold"),
    ("MISMATCH at first sight, then **MATCH**", Match, "bold"),
    ("MATCH or MISMATCH", Ambiguous, "both"),
    ("MATCH, no: MISMATCH", Ambiguous, "both"),
    ("I must answer **MISMATCH** or **MATCH**.", Ambiguous, "both"),
    ("**MATCH/MISMATCH**", Ambiguous, "both"),
    ("**MATCH** or MISMATCH", Ambiguous, "both"),
    // Negated.
    ("NO MATCH", Ambiguous, "negated"),
    ("no match", Ambiguous, "negated"),
    ("**NO MATCH**", Ambiguous, "negated"),
    ("NO_MATCH", Ambiguous, "negated"),
    ("non-match", Ambiguous, "negated"),
    ("This is not a MATCH", Ambiguous, "negated"),
    ("not a MISMATCH", Ambiguous, "negated"),
    ("This isn't a match", Ambiguous, "negated"),
    ("This isn’t quite a match", Ambiguous, "negated"),
    ("They do not **MATCH**", Ambiguous, "negated"),
    ("The two fail to match.", Ambiguous, "negated"),
    ("Match: no", Ambiguous, "negated"),
    ("MATCH is not given", Ambiguous, "negated"),
    ("Das ist kein MATCH", Ambiguous, "negated"),
    ("这不是 **MATCH**", Ambiguous, "negated"),
    ("**MATCH**ではありません", Ambiguous, "negated"),
    ("The forms do not match at first sight, but 1/2 = 0.5. **MATCH**", Match, "bold"),
    ("No difference is left: **MATCH**", Match, "bold"),
    ("**MATCH**: no difference is left.", Match, "bold"),
    // Half taken back.
    ("partial match", Ambiguous, "hedged"),
    ("**NEAR MATCH**", Ambiguous, "hedged"),
    ("Is it a **MATCH**?", Ambiguous, "hedged"),
    // In the shape of JSON.
    (r#"{"verdict": "MATCH"}"#, Match, "plain"),
    ("```json\n{\"verdict\": \"MISMATCH\", \"reason\": \"4 is not 5\"}\n```", Mismatch, "plain"),
    (r#"{"match": true}"#, Match, "plain"),
    (r#"{"match": false}"#, Ambiguous, "negated"),
    (r#"{"match": 0}"#, Ambiguous, "negated"),
    (r#"{"equivalent": true}"#, Unparsable, "nothing_found"),
    // Other forms of the word are prose.
    ("The answer MATCHES.", Unparsable, "nothing_found"),
    ("**MATCHES**", Unparsable, "nothing_found"),
    ("The final answers matched, matching in all digits.", Unparsable, "nothing_found"),
    ("**MISMATCHED**", Unparsable, "nothing_found"),
    ("REMATCH", Unparsable, "nothing_found"),
    ("The answers are equivalent.", Unparsable, "nothing_found"),
    ("I cannot decide this.", Unparsable, "nothing_found"),
    ("**5**", Unparsable, "nothing_found"),
    // Thinking is no answer.
    ("<think>**MATCH** or not?</think>**MISMATCH**", Mismatch, "bold"),
    ("The trace says **MATCH**, I think.</think>MISMATCH", Mismatch, "plain"),
    ("<think>a</think>**MATCH**<think>b</think>**MISMATCH**", Mismatch, "bold"),
    ("<think>**MATCH**</think>", Error, "empty"),
    ("<think>It is a **MATCH**", Truncated, "open_thinking"),
    ("**MATCH** <think>or is it", Truncated, "open_thinking"),
    ("<think>a</think>**MATCH** <think>or is it", Truncated, "open_thinking"),
    ("", Error, "empty"),
    (" \n ", Error, "empty"),
    // Other languages around it.
    ("**MATCH** 一致", Match, "bold"),
    ("判定：MATCH。", Match, "plain"),
    ("Résultat : les deux valeurs diffèrent. **MISMATCH**", Mismatch, "bold"),
    ("Ответ совпадает: **MATCH**", Match, "bold"),
];

#[test]
fn what_judges_say() {
    for (text, verdict, rule) in SAID {
        assert_eq!(said(text, FinishReason::Stop, false), (*verdict, *rule), "{text:?}");
    }
    let distinct: std::collections::BTreeSet<&str> = SAID.iter().map(|(text, ..)| *text).collect();
    assert_eq!(distinct.len(), SAID.len(), "a case is written twice");
}

#[test]
fn a_word_of_the_prompt_goes_before_every_synonym() {
    for (text, verdict, rule) in SAID.iter().filter(|(_, verdict, _)| *verdict != Unparsable) {
        assert_eq!(said(text, FinishReason::Stop, true), (*verdict, *rule), "{text:?}");
    }
}

#[test]
fn what_is_cut_off_is_no_verdict() {
    for (text, ..) in SAID {
        assert_eq!(said(text, FinishReason::Length, false), (Truncated, "length"));
    }
    for kind in [FailureKind::Timeout, FailureKind::Empty, FailureKind::Filtered] {
        assert_eq!(read(&Err(Failure::new(kind, "")), false), (Error, "failure"));
    }
}

#[test]
fn a_tag_that_a_server_leaves_in_the_answer_is_seen() {
    let reply = |answer: &str| Reply::of_parts(Some("so"), answer, FinishReason::Stop, None, None);
    assert_eq!(read(&Ok(reply("**MATCH**</think>**MISMATCH**")), false), (Mismatch, "bold"));
    assert_eq!(read(&Ok(reply("<think>**MATCH**")), false), (Truncated, "open_thinking"));
    assert_eq!(read(&Ok(reply("")), false), (Error, "empty"));
}

#[test]
fn synonyms_only_where_they_are_asked_for() {
    for (text, verdict) in [
        ("Yes", Match),
        ("No.", Mismatch),
        ("They are not equivalent", Mismatch),
        ("**EQUIVALENT**", Match),
        ("incorrect", Mismatch),
        ("not correct", Ambiguous),
        ("correct? incorrect?", Ambiguous),
        (r#"{"equivalent": true}"#, Match),
        (r#"{"equivalent": false}"#, Ambiguous),
    ] {
        assert_eq!(said(text, FinishReason::Stop, true), (verdict, "synonym"), "{text}");
        assert_eq!(said(text, FinishReason::Stop, false), (Unparsable, "nothing_found"), "{text}");
    }
    assert_eq!(said("Yes, **MISMATCH**", FinishReason::Stop, true), (Mismatch, "bold"));
    assert_eq!(said("It MATCHES", FinishReason::Stop, true), (Unparsable, "nothing_found"));
}

#[test]
fn every_verdict_has_a_name() {
    for name in ["match", "mismatch", "no_answer", "ambiguous", "unparsable", "truncated", "error"] {
        assert_eq!(Verdict::named(name).map(Verdict::name), Some(name));
    }
    assert_eq!(Verdict::named("maybe"), None);
}

proptest! {
    /// Whatever stands around it, a text whose only word is `MISMATCH` is never a match.
    #[test]
    fn a_mismatch_is_never_a_match(before in r"[ \*_`\[\(a-z\n]{0,12}", joint in r"[ \-\*_\n‑]{0,3}", after in r"[ \*_`\]\)a-z\n]{0,12}") {
        let text = format!("{before}MIS{joint}MATCH{after}");
        prop_assume!(!before.contains("match") && !after.contains("match"));
        prop_assert_ne!(said(&text, FinishReason::Stop, false).0, Match, "{:?}", text);
    }

    #[test]
    fn nothing_panics(text in r"(\*\*|\*|_|MATCH|MISMATCH|mis|not|no|or|<think>|</think>|[ -~]|é|不|\n){0,40}") {
        for synonyms in [false, true] {
            let _ = said(&text, FinishReason::Stop, synonyms);
        }
    }
}
