//! Models on a GPU.
//!
//! The kernels are CUDA C of our own ([`sources`]), compiled when a model is loaded, for its head size and for the GPU that
//! is there; matrix products are cuBLAS's. What drives them is a [`driver::Driver`]: CUDA behind the feature `cuda`, and in tests an
//! emulator that compiles the same kernels for the CPU, so that everything but the hardware is tested on any machine.

pub(crate) mod arena;
pub(crate) mod attention;
mod buffer;
#[cfg(feature = "cuda")]
mod cuda;
pub(crate) mod draw;
#[cfg_attr(not(feature = "cuda"), allow(dead_code))] // what only those read that drive a GPU
pub(crate) mod driver;
#[cfg(test)]
mod emulator;
pub(crate) mod experts;
pub(crate) mod mamba;
pub(crate) mod pages;
pub(crate) mod products;
#[cfg_attr(not(feature = "cuda"), allow(dead_code))] // as `driver`
mod sources;
pub(crate) mod stream;
pub(crate) mod training;

pub(crate) use attention::{PAGE, Turn};
pub(crate) use buffer::{Buffer, Element, View};
pub(crate) use draw::Draw;
pub(crate) use driver::Gpu;
pub use driver::GpuError;
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
