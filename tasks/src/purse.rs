//! What one node may still ask for: the run's budget in dollars, and a pilot's few records.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use dag_engine::Digest;
use dag_engine::allowance::Allowance;

use crate::backend::{Price, Raw, Usage};

/// The purse of one node.
pub(crate) struct Purse {
    allowance: Arc<Allowance>,
    price: Option<Price>,
    is_batch: bool,
    /// The longest response.
    most_tokens: u64,
    asked: Cell<u64>,
    /// What was set aside for each request in flight.
    reserved: RefCell<BTreeMap<Digest, f64>>,
    /// The most that one record cost so far.
    dearest: Cell<Option<f64>>,
}

/// What there is not enough of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Short {
    /// The pilot has its records.
    Pilot,
    /// The budget does not hold another record, unless what is in flight comes out cheaper than feared.
    Budget,
}

impl Purse {
    pub(crate) fn new(
        allowance: Arc<Allowance>,
        price: Option<Price>,
        is_batch: bool,
        most_tokens: u32,
    ) -> Self {
        Self {
            allowance,
            price,
            is_batch,
            most_tokens: u64::from(most_tokens),
            asked: Cell::default(),
            reserved: RefCell::default(),
            dearest: Cell::default(),
        }
    }

    /// Sets aside what a record may cost: as much as the dearest so far; before there is one, the longest response that it
    /// may have.
    pub(crate) fn take(&self, key: &Digest, prompt_bytes: usize) -> Result<(), Short> {
        if self.allowance.pilot().is_some_and(|most| self.asked.get() >= most) {
            return Err(Short::Pilot);
        }
        let usage = Usage { input: prompt_bytes as u64 / 4, cached: 0, output: self.most_tokens };
        let feared = self.price.map_or(0.0, |price| price.of(&usage, self.is_batch));
        let cost = self.dearest.get().map_or(feared, |dearest| dearest.min(feared));
        if !self.allowance.reserve(cost) {
            return Err(Short::Budget);
        }
        self.asked.set(self.asked.get() + 1);
        self.reserved.borrow_mut().insert(*key, cost);
        Ok(())
    }

    /// Whether anything is in flight that may give back what was set aside for it.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.reserved.borrow().is_empty()
    }

    /// Pays for a record; gives what it cost, where there is a price.
    pub(crate) fn pay(&self, key: &Digest, raw: Option<&Raw>) -> Option<f64> {
        let reserved = self.reserved.borrow_mut().remove(key).unwrap_or(0.0);
        let cost = raw.and_then(|raw| self.worth(raw));
        self.allowance.settle(reserved, cost.unwrap_or(0.0));
        if let Some(cost) = cost {
            self.dearest.set(Some(self.dearest.get().unwrap_or(0.0).max(cost)));
        }
        cost
    }

    /// What a record would cost, where there is a price.
    pub(crate) fn worth(&self, raw: &Raw) -> Option<f64> {
        self.price.map(|price| price.of(&raw.usage(), self.is_batch))
    }

    /// Whether records have a price.
    pub(crate) fn has_price(&self) -> bool {
        self.price.is_some()
    }

    /// What stopped the node, for people.
    pub(crate) fn why(&self, short: Short) -> String {
        match short {
            Short::Pilot => format!("the pilot has its {} records", self.asked.get()),
            Short::Budget => format!(
                "the budget of ${} does not hold another record: ${:.4} is spent",
                self.allowance.budget().unwrap_or(0.0),
                self.allowance.spent()
            ),
        }
    }
}

impl Drop for Purse {
    fn drop(&mut self) {
        // What was set aside for requests that never ended is no longer needed.
        self.reserved.borrow().values().for_each(|reserved| self.allowance.settle(*reserved, 0.0));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_purse_learns_what_records_cost() {
        let allowance = Arc::new(Allowance::new(Some(1.0), None));
        let price: Price = serde_json::from_value(json!({ "input": 0, "output": 1000 })).unwrap();
        let purse = Purse::new(Arc::clone(&allowance), Some(price), false, 400);
        let keys: Vec<Digest> = (0..9_u8).map(|number| Digest::of(&[number])).collect();
        // 400 tokens at a thousandth of a dollar each: two fit.
        assert_eq!((purse.take(&keys[0], 0), purse.take(&keys[1], 0)), (Ok(()), Ok(())));
        assert_eq!(purse.take(&keys[2], 0), Err(Short::Budget));
        let raw = Raw::Chat(json!({ "usage": { "completion_tokens": 100 } }));
        assert_eq!(purse.pay(&keys[0], Some(&raw)), Some(0.1));
        assert!(purse.is_waiting());
        purse.pay(&keys[1], None);
        let fit = keys[2..].iter().take_while(|key| purse.take(key, 0).is_ok()).count();
        assert_eq!(fit, 7, "0.1 spent, and seven more at 0.1 each");
        drop(purse);
        assert!(allowance.reserve(0.9) && !allowance.reserve(0.01));
    }

    #[test]
    fn a_pilot_has_its_records_and_no_more() {
        let purse = Purse::new(Arc::new(Allowance::new(None, Some(2))), None, false, 400);
        let taken: Vec<_> = (0..3_u8).map(|number| purse.take(&Digest::of(&[number]), 9)).collect();
        assert_eq!(taken, [Ok(()), Ok(()), Err(Short::Pilot)]);
    }
}
