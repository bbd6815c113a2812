//! Models on a GPU: what [`super::decoder`] and [`super::tape`] do on the CPU, with the kernels of [`crate::gpu`].

mod decoder;
pub(crate) mod tape;

pub use decoder::Decoder;
pub(crate) use decoder::{Entering, Session, Size};
