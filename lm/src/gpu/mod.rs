//! Models on a GPU.
//!
//! The kernels are CUDA C of our own ([`sources`]), compiled when a model is loaded, for its head size and for the GPU that
//! is there; matrix products are cuBLAS's. What drives them is a [`driver::Driver`]: CUDA behind the feature `cuda`, and in tests an
//! emulator that compiles the same kernels for the CPU, so that everything but the hardware is tested on any machine.

mod arena;
mod attention;
mod buffer;
#[cfg(feature = "cuda")]
mod cuda;
mod decoder;
mod draw;
mod driver;
#[cfg(test)]
mod emulator;
mod experts;
mod mamba;
mod pages;
mod products;
mod sources;
mod stream;
pub(crate) mod tape;

pub(crate) use attention::{PAGE, Turn};
pub(crate) use buffer::{Buffer, Element, View};
pub use decoder::Decoder;
pub(crate) use decoder::{Entering, Session, Size};
pub(crate) use draw::Draw;
pub use driver::GpuError;
pub(crate) use driver::{Argument, Driver, Gpu, Kernels, Launch, Product};
pub(crate) use pages::Ledger;

/// Opens the GPU with this number, counted from 0.
pub(crate) fn open(ordinal: usize) -> Result<Gpu, GpuError> {
    #[cfg(feature = "cuda")]
    return cuda::open(ordinal);
    #[cfg(not(feature = "cuda"))]
    Err(GpuError::Unavailable(format!(
        "this program was built without CUDA, and so without GPU {ordinal}; build it with `--features cuda`"
    )))
}

#[cfg(test)]
pub(crate) mod tests;
