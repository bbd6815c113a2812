//! The embedded language-model runtime: load, tokenise, generate, score, train.

mod atomic;
pub mod device;
pub mod generate;
pub mod kernels;
pub mod model;
pub mod sampler;
pub mod template;
pub mod tokenizer;
