//! Models on a GPU: what [`super::decoder`] does on the CPU, with the kernels of [`crate::gpu`].

mod decoder;

pub use decoder::Decoder;
pub(crate) use decoder::{Entering, Session, Size};
