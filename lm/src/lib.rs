//! The embedded language-model runtime: load, tokenise, generate, score, train.

mod atomic;
pub mod device;
pub mod generate;
pub mod gguf;
pub mod gpu;
pub mod kernels;
pub(crate) mod loss;
pub mod model;
pub mod optimizer;
pub mod sampler;
pub mod template;
pub mod tokenizer;
pub mod train;
pub mod weights;
