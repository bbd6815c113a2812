//! What a run may spend: money for all nodes together, or a pilot's few records for each.

use std::sync::{Mutex, PoisonError};

/// How far a run may go. Shared by all its tasks.
#[derive(Debug, Default)]
pub struct Allowance {
    /// Dollars; none for as many as it takes.
    budget: Option<f64>,
    /// Records that each node may ask for; none for all.
    pilot: Option<u64>,
    /// Dollars spent, and dollars that what is in flight may cost.
    money: Mutex<(f64, f64)>,
}

impl Allowance {
    /// At most `budget` dollars, and at most `pilot` records of each node.
    pub fn new(budget: Option<f64>, pilot: Option<u64>) -> Self {
        Self { budget, pilot, money: Mutex::default() }
    }

    /// Dollars the run may spend.
    pub fn budget(&self) -> Option<f64> {
        self.budget
    }

    /// Records that each node may ask for.
    pub fn pilot(&self) -> Option<u64> {
        self.pilot
    }

    /// Takes `dollars` for something about to be sent; false if the budget does not hold them any more.
    pub fn reserve(&self, dollars: f64) -> bool {
        let mut money = self.money.lock().unwrap_or_else(PoisonError::into_inner);
        if self.budget.is_some_and(|budget| money.0 + money.1 + dollars > budget) {
            return false;
        }
        money.1 += dollars;
        true
    }

    /// Says what came of a reservation: `spent` dollars of the `reserved`.
    pub fn settle(&self, reserved: f64, spent: f64) {
        let mut money = self.money.lock().unwrap_or_else(PoisonError::into_inner);
        money.0 += spent;
        money.1 = (money.1 - reserved).max(0.0);
    }

    /// Dollars that may still be spent, none for as many as it takes.
    pub fn left(&self) -> Option<f64> {
        let money = self.money.lock().unwrap_or_else(PoisonError::into_inner);
        self.budget.map(|budget| (budget - money.0 - money.1).max(0.0))
    }

    /// Dollars spent so far.
    pub fn spent(&self) -> f64 {
        self.money.lock().unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_holds_what_is_spent_and_what_is_in_flight() {
        let allowance = Allowance::new(Some(1.0), None);
        assert!(allowance.reserve(0.6) && !allowance.reserve(0.6));
        allowance.settle(0.6, 0.2);
        assert!(allowance.reserve(0.6) && !allowance.reserve(0.3));
        allowance.settle(0.6, 0.7);
        assert!((allowance.spent() - 0.9).abs() < 1e-12 && allowance.reserve(0.1));
        assert!(Allowance::default().reserve(1e9), "without a budget there is no end");
    }
}
