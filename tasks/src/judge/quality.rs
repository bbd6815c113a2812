//! How good verdicts are: against labels, and against the rules.

use serde_json::{Value, json};

use super::verdict::Verdict;
use crate::stats::{self, Interval};

/// So many of so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) count: u64,
    pub(crate) of: u64,
}

impl Share {
    /// The share itself; `None` of nothing.
    pub(crate) fn value(self) -> Option<f64> {
        (self.of > 0).then(|| self.count as f64 / self.of as f64)
    }

    /// Wilson's 95 % interval; `None` of nothing.
    pub(crate) fn interval(self) -> Option<Interval> {
        stats::wilson(self.count as usize, self.of as usize)
    }

    /// As a metric.
    pub(super) fn to_json(self) -> Value {
        let interval = self.interval();
        json!({
            "count": self.count,
            "of": self.of,
            "share": self.value(),
            "low": interval.map(|ends| ends.low),
            "high": interval.map(|ends| ends.high),
        })
    }
}

/// Verdicts counted by what the labels say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct AgainstLabels {
    /// Right responses that are called a match, no match, and neither.
    right: [u64; 3],
    /// The same of wrong ones.
    wrong: [u64; 3],
}

impl AgainstLabels {
    pub(crate) fn add(&mut self, is_right: bool, verdict: Verdict) {
        let counts = if is_right { &mut self.right } else { &mut self.wrong };
        counts[match verdict.is_match() {
            Some(true) => 0,
            Some(false) => 1,
            None => 2,
        }] += 1;
    }

    /// How many responses have a label.
    pub(crate) fn labelled(&self) -> u64 {
        self.right.iter().chain(&self.wrong).sum()
    }

    /// Of what is called a match, so much is right.
    pub(crate) fn precision(&self) -> Share {
        Share { count: self.right[0], of: self.right[0] + self.wrong[0] }
    }

    /// Of what is right, so much is called a match; what has no verdict is missed.
    pub(crate) fn recall(&self) -> Share {
        Share { count: self.right[0], of: self.right.iter().sum() }
    }

    /// Of everything, so much is called what it is; what has no verdict is not.
    pub(crate) fn accuracy(&self) -> Share {
        Share { count: self.right[0] + self.wrong[1], of: self.labelled() }
    }

    /// As a metric.
    pub(super) fn to_json(self) -> Value {
        json!({
            "labelled": self.labelled(),
            "true_match": self.right[0],
            "false_match": self.wrong[0],
            "true_mismatch": self.wrong[1],
            "false_mismatch": self.right[1],
            "without_verdict": self.right[2] + self.wrong[2],
            "precision": self.precision().to_json(),
            "recall": self.recall().to_json(),
            "accuracy": self.accuracy().to_json(),
        })
    }
}

/// Whether two verdicts differ; `None` where one of them decides nothing.
pub(crate) fn disagree(one: Verdict, other: Verdict) -> Option<bool> {
    Some(one.is_match()? != other.is_match()?)
}

/// How often a model and the rules agree, where both decide.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Agreement {
    /// What the model says, then what the rules say: a match first.
    counts: [[u64; 2]; 2],
}

impl Agreement {
    pub(crate) fn add(&mut self, model: Verdict, rules: Verdict) {
        if let (Some(model), Some(rules)) = (model.is_match(), rules.is_match()) {
            self.counts[usize::from(!model)][usize::from(!rules)] += 1;
        }
    }

    /// So many of those that both decide are decided alike.
    pub(crate) fn agreed(&self) -> Share {
        let [[both, _], [_, neither]] = self.counts;
        Share { count: both + neither, of: self.counts.iter().flatten().sum() }
    }

    /// Beyond chance.
    pub(crate) fn kappa(&self) -> Option<f64> {
        stats::cohens_kappa(self.counts)
    }

    /// As a metric.
    pub(super) fn to_json(self) -> Value {
        let [[both, model], [rules, neither]] = self.counts;
        json!({
            "match_of_both": both,
            "match_of_model_only": model,
            "match_of_rules_only": rules,
            "match_of_neither": neither,
            "agreed": self.agreed().to_json(),
            "kappa": self.kappa(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precision_and_recall_by_hand() {
        let mut counts = AgainstLabels::default();
        for (is_right, verdict, times) in [
            (true, Verdict::Match, 6),
            (true, Verdict::NoAnswer, 1),
            (true, Verdict::Truncated, 1),
            (false, Verdict::Match, 2),
            (false, Verdict::Mismatch, 4),
            (false, Verdict::Ambiguous, 2),
        ] {
            (0..times).for_each(|_| counts.add(is_right, verdict));
        }
        assert_eq!(counts.precision(), Share { count: 6, of: 8 });
        assert_eq!(counts.recall(), Share { count: 6, of: 8 });
        assert_eq!(counts.accuracy(), Share { count: 10, of: 16 });
        let metric = counts.to_json();
        assert_eq!((&metric["without_verdict"], &metric["false_mismatch"]), (&json!(3), &json!(1)));
        assert_eq!(metric["precision"]["share"], json!(0.75));
        assert_eq!(AgainstLabels::default().precision().to_json()["share"], Value::Null);
    }

    #[test]
    fn only_what_both_decide_agrees_or_differs() {
        let mut agreement = Agreement::default();
        for (model, rules) in [
            (Verdict::Match, Verdict::Match),
            (Verdict::Match, Verdict::NoAnswer),
            (Verdict::Mismatch, Verdict::NoAnswer),
            (Verdict::Unparsable, Verdict::Match),
            (Verdict::Match, Verdict::Unparsable),
        ] {
            agreement.add(model, rules);
        }
        assert_eq!(agreement.agreed(), Share { count: 2, of: 3 });
        assert!((agreement.kappa().unwrap() - 0.4).abs() < 1e-12, "(2/3 − 4/9) / (5/9)");
        assert_eq!(disagree(Verdict::Match, Verdict::NoAnswer), Some(true));
        assert_eq!(disagree(Verdict::Mismatch, Verdict::NoAnswer), Some(false));
        assert_eq!(disagree(Verdict::Match, Verdict::Unparsable), None);
    }
}
