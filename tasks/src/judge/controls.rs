//! The control set: questions whose right verdict is known, which put the judge to the test.
//!
//! A response beside the reference of another row must hardly ever be a match, and a reference as the answer to itself
//! nearly always. A judge that says `MATCH` to everything passes the second test and fails the first, one that does not
//! understand its prompt fails the second.

use std::collections::{BTreeMap, BTreeSet};

use dag_engine::seed;
use dag_engine::task::{TaskCx, TaskError};
use serde_json::{Value, json};

use super::juror::Juror;
use super::material::Material;
use super::params::Params;
use super::quality::Share;
use crate::backend::Message;
use crate::math;
use crate::records::Records;
use crate::responses;
use crate::table::{ColumnKind, Row, Schema, TableWriter};

/// How many more rows than controls are kept as givers of other references. They are the next in rank, so that more
/// controls leave the pairs of the others as they were.
const SPARE: usize = 64;

/// The kinds of controls. Their names stand in tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A response beside the reference of another row.
    OtherReference,
    /// A reference as the answer to itself.
    OwnReference,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::OtherReference => "other_reference",
            Self::OwnReference => "own_reference",
        }
    }
}

/// A question whose right verdict is known.
struct Control {
    kind: Kind,
    /// The row that the answer is from.
    id: String,
    answer: String,
    reference: String,
}

/// The controls of a node.
pub(super) struct Controls {
    chosen: Vec<Control>,
    /// Of the responses, how many have no row with a reference that differs.
    unpaired: u64,
}

/// A row that may become a control.
struct Candidate {
    id: String,
    shown: String,
    reference: String,
    /// The answer that the rules find in the response.
    answer: Option<String>,
}

impl Controls {
    /// Chooses by rank, which follows from the seed and from what a row holds: rows added elsewhere change little.
    pub(super) fn choose(params: &Params, material: &Material, seed: u64) -> Result<Self, TaskError> {
        let wanted = params.controls as usize;
        let mut ranked: BTreeMap<u64, Candidate> = BTreeMap::new();
        if wanted > 0 {
            for judged in material.rows(params)? {
                let judged = judged?;
                let Some(response) = judged.response() else { continue };
                let Some(shown) = params.part.of(response, &params.grading) else { continue };
                let rank = seed::derive(seed, &[b"control", shown.as_bytes(), judged.reference.as_bytes()]);
                if ranked.len() == wanted + SPARE
                    && ranked.last_key_value().is_some_and(|(last, _)| rank > *last)
                {
                    continue;
                }
                let answer = math::extract(response, &params.grading).map(|found| found.answer);
                let id = responses::id_of(&judged.row).unwrap_or_default();
                ranked.insert(rank, Candidate { id, shown, reference: judged.reference, answer });
                if ranked.len() > wanted + SPARE {
                    ranked.pop_last();
                }
            }
        }
        let candidates: Vec<Candidate> = ranked.into_values().collect();
        let mut controls = Self { chosen: Vec::new(), unpaired: 0 };
        // Equal questions are one record and one trial, however many rows they come from.
        let mut seen = BTreeSet::new();
        let mut add = |kind: Kind, id: &str, answer: &str, reference: &str| {
            if seen.insert((answer.to_owned(), reference.to_owned())) {
                let [id, answer, reference] = [id, answer, reference].map(str::to_owned);
                controls.chosen.push(Control { kind, id, answer, reference });
            }
        };
        for (at, own) in candidates.iter().enumerate().take(wanted) {
            let others = candidates[at + 1..].iter().chain(&candidates[..at]);
            match others.map(|other| &other.reference).find(|reference| own.differs_from(reference, params)) {
                Some(reference) => add(Kind::OtherReference, &own.id, &own.shown, reference),
                None => controls.unpaired += 1,
            }
            add(Kind::OwnReference, &own.id, &own.reference, &own.reference);
        }
        Ok(controls)
    }

    /// How many questions they are.
    pub(super) fn len(&self) -> u64 {
        self.chosen.len() as u64
    }

    /// What to ask.
    pub(super) fn questions<'a>(
        &'a self,
        material: &'a Material,
    ) -> impl Iterator<Item = Result<Vec<Message>, TaskError>> + 'a {
        self.chosen.iter().map(|control| Ok(material.question(&control.answer, &control.reference)))
    }

    /// Writes the table of controls and tells what they came to; fails where they show that the judge cannot be trusted.
    pub(super) fn finish(
        &self,
        params: &Params,
        material: &Material,
        juror: &Juror,
        records: &Records,
        cx: &mut TaskCx,
    ) -> Result<(), TaskError> {
        let schema = Schema::new([
            ("control", ColumnKind::Str),
            ("id", ColumnKind::Str),
            ("answer", ColumnKind::Str),
            ("reference", ColumnKind::Str),
            ("verdict", ColumnKind::Str),
            ("match", ColumnKind::Bool),
            ("rule", ColumnKind::Str),
            ("judge_record_key", ColumnKind::Str),
            ("judge_response", ColumnKind::Str),
        ]);
        let mut writer = TableWriter::create(cx.output("controls"), schema)?;
        let mut outcome = Outcome::default();
        let mut without_verdict = 0_u64;
        // A match that should be none, and the reverse.
        let mut examples = (String::new(), String::new());
        for control in &self.chosen {
            let opinion = juror.opinion(records, &material.question(&control.answer, &control.reference))?;
            let is_match = opinion.verdict.is_match();
            outcome.add(control.kind, is_match);
            let example = match control.kind {
                Kind::OtherReference if is_match == Some(true) => Some(&mut examples.0),
                Kind::OwnReference if is_match != Some(true) => Some(&mut examples.1),
                _ => None,
            };
            if let Some(example) = example.filter(|example| example.is_empty()) {
                *example =
                    format!(". So of `{}` beside `{}`{}", control.id, control.reference, opinion.quoted());
            }
            without_verdict += u64::from(is_match.is_none());
            let row = json!({
                "control": control.kind.name(),
                "id": control.id,
                "answer": control.answer,
                "reference": control.reference,
                "verdict": opinion.verdict.name(),
                "match": is_match,
                "rule": opinion.rule,
                "judge_record_key": opinion.key,
                "judge_response": opinion.words,
            });
            let Value::Object(row) = row else { unreachable!("it is written as an object") };
            writer.write(&row as &Row)?;
        }
        writer.finish()?;
        cx.metric(
            "controls",
            json!({
                "asked": self.len(),
                "without_verdict": without_verdict,
                "unpaired": self.unpaired,
                "false_match": outcome.false_match.to_json(),
                "true_match": outcome.true_match.to_json(),
            }),
        );
        for warning in outcome.check(params, &examples)? {
            cx.warn(&warning);
        }
        Ok(())
    }
}

impl Candidate {
    /// Whether nothing that is known of its response or of its own reference equals `reference`.
    fn differs_from(&self, reference: &str, params: &Params) -> bool {
        let squeezed =
            |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_lowercase();
        let known = [Some(&self.reference), self.answer.as_ref()];
        squeezed(&self.shown) != squeezed(reference)
            && known.into_iter().flatten().all(|own| {
                squeezed(own) != squeezed(reference)
                    && math::compare(reference, own, &params.grading).0 != math::Verdict::Correct
            })
    }
}

/// What the controls came to. One without a verdict is no match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Matches beside the reference of another row.
    pub(crate) false_match: Share,
    /// Matches of a reference with itself.
    pub(crate) true_match: Share,
}

impl Default for Outcome {
    fn default() -> Self {
        let none = Share { count: 0, of: 0 };
        Self { false_match: none, true_match: none }
    }
}

impl Outcome {
    fn add(&mut self, kind: Kind, is_match: Option<bool>) {
        let share = match kind {
            Kind::OtherReference => &mut self.false_match,
            Kind::OwnReference => &mut self.true_match,
        };
        share.of += 1;
        share.count += u64::from(is_match == Some(true));
    }

    /// Adds a row of the table of controls.
    pub(crate) fn add_row(&mut self, row: &Row) {
        let kind = [Kind::OtherReference, Kind::OwnReference]
            .into_iter()
            .find(|kind| row.get("control").and_then(Value::as_str) == Some(kind.name()));
        if let Some(kind) = kind {
            self.add(kind, row.get("match").and_then(Value::as_bool));
        }
    }

    /// Fails where the whole interval lies beyond a threshold, so that chance does not explain it; gives a warning where only
    /// the share does. The examples are a match that should be none, and the reverse.
    fn check(&self, params: &Params, examples: &(String, String)) -> Result<Vec<String>, TaskError> {
        let (most, least) = (params.max_control_false_match, params.min_control_true_match);
        let ends = |share: Share| share.interval().map_or((0.0, 1.0), |ends| (ends.low, ends.high));
        let passes = format!(
            "the judge says MATCH to {}; `max_control_false_match` allows {most}{}",
            described(self.false_match, "responses that are shown with the reference of another row"),
            examples.0,
        );
        let misses = format!(
            "the judge says MATCH to {}; `min_control_true_match` asks for {least}{}",
            described(self.true_match, "references that are their own answer"),
            examples.1,
        );
        let mut warnings = Vec::new();
        for (what, is_beyond, is_certain) in [
            (
                passes,
                self.false_match.value().is_some_and(|share| share > most),
                ends(self.false_match).0 > most,
            ),
            (
                misses,
                self.true_match.value().is_some_and(|share| share < least),
                ends(self.true_match).1 < least,
            ),
        ] {
            if is_certain {
                return Err(TaskError::failed(format!(
                    "{what}. Its verdicts cannot be trusted: try another prompt, part or judge; all that was said is kept"
                )));
            }
            if is_beyond {
                warnings.push(format!(
                    "{what}. So few controls do not tell it from chance; more `controls` would"
                ));
            }
        }
        Ok(warnings)
    }
}

fn described(share: Share, what: &str) -> String {
    let interval = share.interval().map_or_else(String::new, |ends| {
        format!(" (95 % interval {:.1} to {:.1} %)", 100.0 * ends.low, 100.0 * ends.high)
    });
    format!("{} of {} {what}{interval}", share.count, share.of)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of so many false matches and so many true ones.
    fn check(false_match: (u64, u64), true_match: (u64, u64)) -> (bool, usize) {
        let share = |(count, of)| Share { count, of };
        let outcome = Outcome { false_match: share(false_match), true_match: share(true_match) };
        let params: Params = serde_json::from_value(json!({ "by": "model", "controls": 20 })).unwrap();
        match outcome.check(&params, &(String::new(), String::new())) {
            Ok(warnings) => (true, warnings.len()),
            Err(_) => (false, 0),
        }
    }

    #[test]
    fn what_chance_may_explain_is_a_warning_and_what_it_cannot_a_failure() {
        assert_eq!(check((0, 20), (20, 20)), (true, 0));
        // 2 of 20 are 10 %, at least 2.8 % with 95 % confidence; 4 of 20 are at least 8.1 %.
        assert_eq!(check((1, 20), (20, 20)), (true, 0));
        assert_eq!(check((2, 20), (20, 20)), (true, 1));
        assert_eq!(check((4, 20), (20, 20)), (false, 0));
        // 17 of 20 are 85 %, at most 94.8 %; 14 of 20 are at most 85.5 %.
        assert_eq!(check((0, 20), (18, 20)), (true, 0));
        assert_eq!(check((2, 20), (17, 20)), (true, 2));
        assert_eq!(check((0, 20), (14, 20)), (false, 0));
        assert_eq!(check((0, 0), (0, 0)), (true, 0), "without controls nothing is known");
    }
}
