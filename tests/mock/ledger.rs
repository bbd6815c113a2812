//! The ledger: every request that arrived, what went wrong with it, and what was billed.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::fault::Fault;
use super::wire::Request;

/// What is known of one key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entry {
    /// When each of its requests arrived.
    pub(crate) arrivals: Vec<Instant>,
    /// What went wrong, in order.
    pub(crate) faults: Vec<Fault>,
    /// How often an answer was billed.
    pub(crate) billed: u64,
}

/// What the server saw. Its keys are the `Idempotency-Key`s of the requests.
#[derive(Default)]
pub(crate) struct Ledger {
    entries: Mutex<BTreeMap<String, Entry>>,
    /// The heads of all requests, where tests look for what must not be there.
    heads: Mutex<Vec<String>>,
}

impl Ledger {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request; gives how many there were before with its key.
    pub(super) fn arrived(&self, request: &Request) -> usize {
        self.seen(request);
        let mut entries = self.entries();
        let entry = entries.entry(request.key.clone()).or_default();
        entry.arrivals.push(Instant::now());
        entry.arrivals.len() - 1
    }

    /// Keeps the head of a request.
    pub(super) fn seen(&self, request: &Request) {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).push(request.head.clone());
    }

    pub(super) fn failed(&self, request: &Request, fault: Fault) {
        self.entries().entry(request.key.clone()).or_default().faults.push(fault);
    }

    pub(super) fn bill(&self, request: &Request) {
        self.bill_key(&request.key);
    }

    /// Bills a request of a batch, which is known by its own name only.
    pub(super) fn bill_key(&self, key: &str) {
        self.entries().entry(key.to_owned()).or_default().billed += 1;
    }

    /// How many answers were billed.
    pub(crate) fn billed(&self) -> u64 {
        self.entries().values().map(|entry| entry.billed).sum()
    }

    /// How many requests arrived.
    pub(crate) fn arrived_in_all(&self) -> u64 {
        self.entries().values().map(|entry| entry.arrivals.len() as u64).sum()
    }

    /// Every key with what is known of it.
    pub(crate) fn all(&self) -> BTreeMap<String, Entry> {
        self.entries().clone()
    }

    /// The heads of all requests so far.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
