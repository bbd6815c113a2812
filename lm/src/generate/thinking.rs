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

impl Thinking {
    pub(super) fn new(budget: &ThinkingBudget) -> Self {
        Self { open: budget.opened, spent: 0, forced: 0, since: 0 }
    }

    /// The token that has to come next, if the thinking has to end.
    pub(super) fn forces(&self, budget: &ThinkingBudget) -> Option<u32> {
        (self.open && self.spent >= budget.tokens).then(|| budget.close.get(self.forced).copied()).flatten()
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
    fn a_second_round_of_thinking_gets_what_the_first_has_left() {
        let wanted = ["<think>", "a", "</think>", "b", "<think>", "c", "d", "e"];
        assert_eq!(said(3, false, &wanted), "<think>a</think>b<think>c</think>de");
    }
}
