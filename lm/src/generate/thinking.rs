//! A bound on thinking: so many tokens inside `<think>`, then the end tag is written for the model.
//!
//! Tags are looked for in the text and not among the tokens, because a vocabulary without tokens for them spells them in more
//! than one way.

use crate::template::{THINK_CLOSE, THINK_OPEN};

/// How long a response may think.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThinkingBudget {
    /// Tokens that may be drawn inside the thinking, over the whole response.
    pub tokens: usize,
    /// Whether the prompt has opened the thinking already.
    pub opened: bool,
    /// The tokens of [`THINK_CLOSE`], which are then forced.
    pub close: Vec<u32>,
}

/// Where a sequence stands in its thinking.
#[derive(Debug)]
pub(super) struct Thinking {
    open: bool,
    /// Tokens drawn inside the thinking.
    spent: usize,
    /// Tokens of the end tag already forced.
    forced: usize,
    /// The token after the last tag: an earlier one is not found again.
    since: usize,
}

/// What is known of a token before the one before it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreseen {
    /// It has to be this one.
    Forced(u32),
    /// It may be any.
    Free,
    /// That depends on the one before it.
    Unsure,
}

impl Thinking {
    pub(super) fn new(budget: &ThinkingBudget) -> Self {
        Self { open: budget.opened, spent: 0, forced: 0, since: 0 }
    }

    /// The token that has to come next, if the thinking has to end.
    pub(super) fn forces(&self, budget: &ThinkingBudget) -> Option<u32> {
        (self.open && self.spent >= budget.tokens).then(|| budget.close.get(self.forced).copied()).flatten()
    }

    /// What has to come after the next token.
    pub(super) fn foresees(&self, budget: &ThinkingBudget) -> Foreseen {
        match self.forces(budget) {
            Some(_) => {
                budget.close.get(self.forced + 1).map_or(Foreseen::Free, |&token| Foreseen::Forced(token))
            }
            // The next one may open the thinking, or close it; neither matters while there is something left to spend.
            None if self.spent + usize::from(self.open) < budget.tokens => Foreseen::Free,
            None => Foreseen::Unsure,
        }
    }

    /// The first token in which the next tag can lie, of a response of `length` tokens.
    pub(super) fn tail(&self, length: usize) -> usize {
        // A token has a byte at least, so a tag lies within this many; a few more for a character cut in two.
        length.saturating_sub(THINK_CLOSE.len() + 4).max(self.since)
    }

    /// Notes the last token of a response of now `length` tokens, whose [`Thinking::tail`] reads `tail`.
    pub(super) fn note(&mut self, budget: &ThinkingBudget, length: usize, tail: &str) {
        if self.forces(budget).is_some() {
            self.forced += 1;
            if self.forced == budget.close.len() {
                self.turn(length);
            }
            return;
        }
        self.spent += usize::from(self.open);
        if tail.contains(if self.open { THINK_CLOSE } else { THINK_OPEN }) {
            self.turn(length);
        }
    }

    fn turn(&mut self, length: usize) {
        *self = Self { open: !self.open, spent: self.spent, forced: 0, since: length };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Drives a budget over what a model would like to say, a piece of text per token; the end tag is tokens 1 and 2.
    fn said(tokens: usize, opened: bool, wanted: &[&str]) -> String {
        let budget = ThinkingBudget { tokens, opened, close: vec![1, 2] };
        let mut thinking = Thinking::new(&budget);
        let mut pieces: Vec<&str> = Vec::new();
        let mut wanted = wanted.iter();
        loop {
            let piece = match thinking.forces(&budget) {
                Some(token) => ["</thi", "nk>"][token as usize - 1],
                None => match wanted.next() {
                    Some(piece) => piece,
                    None => return pieces.concat(),
                },
            };
            pieces.push(piece);
            let tail = pieces[thinking.tail(pieces.len())..].concat();
            thinking.note(&budget, pieces.len(), &tail);
        }
    }

    #[test]
    fn tags_are_found_however_they_are_spelled() {
        let wanted = ["<th", "ink>", "a", "b", "c", "</", "think", ">", "d"];
        assert_eq!(said(2, false, &wanted), "<think>ab</think>c</think>d");
        assert_eq!(said(6, false, &wanted), "<think>abc</think>d");
        assert_eq!(said(2, true, &["a", "b", "c"]), "ab</think>c");
        assert_eq!(said(0, true, &["a"]), "</think>a");
        assert_eq!(said(0, false, &["no", " thinking"]), "no thinking");
    }

    #[test]
    fn what_is_forced_after_the_next_token_is_known_ahead_or_said_to_be_unknown() {
        let budget = ThinkingBudget { tokens: 2, opened: false, close: vec![1, 2] };
        // Every way in which eight pieces can follow each other.
        let pieces = ["a", "<think>", "</think>"];
        let mut sure = 0;
        for way in 0..3_usize.pow(8) {
            let mut thinking = Thinking::new(&budget);
            let mut foreseen = Foreseen::Unsure;
            let mut written: Vec<&str> = Vec::new();
            for place in 0..8 {
                let forced = thinking.forces(&budget);
                if foreseen != Foreseen::Unsure {
                    assert_eq!(forced.map_or(Foreseen::Free, Foreseen::Forced), foreseen, "{written:?}");
                    sure += 1;
                }
                foreseen = thinking.foresees(&budget);
                let wanted = pieces[way / 3_usize.pow(place) % 3];
                written.push(forced.map_or(wanted, |token| ["</thi", "nk>"][token as usize - 1]));
                let tail = written[thinking.tail(written.len())..].concat();
                thinking.note(&budget, written.len(), &tail);
            }
        }
        assert!(sure > 3_usize.pow(8), "it is known at all: {sure}");
    }

    #[test]
    fn a_second_round_of_thinking_gets_what_the_first_has_left() {
        let wanted = ["<think>", "a", "</think>", "b", "<think>", "c", "d", "e"];
        assert_eq!(said(3, false, &wanted), "<think>a</think>b<think>c</think>de");
    }
}
