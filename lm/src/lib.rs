//! The embedded language-model runtime: load, tokenise, generate, score, train.

pub mod sampler;
pub mod template;
pub mod tokenizer;
pub mod weights;
