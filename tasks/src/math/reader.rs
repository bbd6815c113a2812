//! The canonical forms of the answers that one grading meets: each text is read once, however often it is asked for.
use std::cell::RefCell;
use std::rc::Rc;

use super::Policy;
use super::canonical::{Canonical, Refusal, canonical};

type Reading = Result<Rc<Canonical>, Refusal>;

/// Reads answers under a policy and remembers them. Finding an answer asks whether it is understood, and comparing it asks
/// for its form; a gold answer may be compared with several texts.
pub(super) struct Reader<'p> {
    pub(super) policy: &'p Policy,
    /// A handful, so they are looked through.
    known: RefCell<Vec<(String, Reading)>>,
}

impl<'p> Reader<'p> {
    pub(super) fn new(policy: &'p Policy) -> Self {
        Self { policy, known: RefCell::default() }
    }

    /// The canonical form of an answer.
    pub(super) fn read(&self, answer: &str) -> Reading {
        if let Some((_, reading)) = self.known.borrow().iter().find(|(text, _)| text == answer) {
            return reading.clone();
        }
        let reading = canonical(answer, self.policy).map(Rc::new);
        // What is too long is refused by its length; there is nothing to remember.
        if !matches!(reading, Err(Refusal::TooLong)) {
            self.known.borrow_mut().push((answer.to_owned(), reading.clone()));
        }
        reading
    }

    /// Whether an answer is more than text.
    pub(super) fn understands(&self, answer: &str) -> bool {
        self.read(answer).is_ok_and(|form| form.is_understood())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_once() {
        let policy = Policy::default();
        let reader = Reader::new(&policy);
        let (first, again) = (reader.read("1/2").unwrap(), reader.read("1/2").unwrap());
        assert!(Rc::ptr_eq(&first, &again));
        assert_eq!(reader.read("0.5").unwrap().key(), first.key());
        assert_eq!(reader.read("$").unwrap_err(), Refusal::Empty);
        assert_eq!(reader.read(&"1".repeat(3000)).unwrap_err(), Refusal::TooLong);
    }
}
