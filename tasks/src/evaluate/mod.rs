//! `evaluate`: sample a benchmark from a model, grade it, give its numbers with their errors.
pub mod score;
