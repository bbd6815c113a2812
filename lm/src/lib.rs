//! The embedded language-model runtime: load, generate, score, train.

mod atomic;
pub mod device;
pub mod kernels;
pub mod model;
