//! What a GPU does for a model: memory, kernels, matrix products.
//!
//! Everything is done in the order in which it is asked for; only [`Driver::download`] and [`Landing::wait`] wait.

use std::fmt::Debug;
use std::sync::Arc;

use super::sources::Source;

/// Why a GPU did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// There is no such GPU, or no library to drive it.
    #[error("no GPU can be used: {0}")]
    Unavailable(String),
    /// Nobody wrote the kernels for this.
    #[error("not supported on a GPU: {0}; it can be computed on the CPU")]
    Unsupported(String),
    /// Its memory is full.
    #[error("the GPU has no room for {bytes} bytes more")]
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
    },
    /// A kernel cannot be compiled.
    #[error("the kernels of `{source_name}` cannot be compiled: {reason}")]
    Compile {
        /// Their file.
        source_name: &'static str,
        /// What the compiler said.
        reason: String,
    },
    /// Something it was asked failed.
    #[error("the GPU failed in {what}: {reason}")]
    Failed {
        /// What was asked.
        what: String,
        /// What the driver said.
        reason: String,
    },
}

/// An address in a GPU's memory.
pub(crate) type Address = u64;

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Argument {
    /// A pointer into the GPU's memory; 0 is none.
    Address(Address),
    /// An unsigned number of 32 bits.
    U32(u32),
    /// A float of 32 bits.
    F32(f32),
}

impl Argument {
    /// A pointer that is not given.
    pub(crate) const NONE: Self = Self::Address(0);
}

impl From<u32> for Argument {
    fn from(number: u32) -> Self {
        Self::U32(number)
    }
}

impl From<usize> for Argument {
    /// # Panics
    /// If the number needs more than 32 bits: no size that kernels are given does.
    fn from(number: usize) -> Self {
        Self::U32(u32::try_from(number).expect("a size of a kernel fits 32 bits"))
    }
}

impl From<f32> for Argument {
    fn from(number: f32) -> Self {
        Self::F32(number)
    }
}

/// How many threads run a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch {
    /// Blocks in x, y and z.
    pub(crate) grid: [usize; 3],
    /// Threads of a block: a multiple of 32.
    pub(crate) threads: usize,
    /// Bytes of dynamic shared memory.
    pub(crate) shared: usize,
}

impl Launch {
    /// So many blocks of so many threads.
    pub(crate) fn new(grid: [usize; 3], threads: usize) -> Self {
        Self { grid, threads, shared: 0 }
    }

    /// The same with shared memory.
    pub(crate) fn sharing(self, bytes: usize) -> Self {
        Self { shared: bytes, ..self }
    }
}

/// An operand of a product: a row-major matrix of elements in memory, or its transpose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand {
    /// Where it lies.
    pub(crate) address: Address,
    /// Elements from one stored row to the next.
    pub(crate) stride: usize,
    /// Whether the product reads its transpose.
    pub(crate) transposed: bool,
}

/// `to = left · right`, or `to += left · right`, of row-major matrices, summed in 32-bit floats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    /// Rows of `to`.
    pub(crate) rows: usize,
    /// Columns of `to`.
    pub(crate) columns: usize,
    /// Terms of every sum.
    pub(crate) inner: usize,
    /// `rows` × `inner`, as the product reads it.
    pub(crate) left: Operand,
    /// `inner` × `columns`, as the product reads it.
    pub(crate) right: Operand,
    /// Where the result goes.
    pub(crate) to: Address,
    /// Places from one row of the result to the next.
    pub(crate) stride: usize,
    /// Whether the result is 32-bit floats rather than elements.
    pub(crate) to_floats: bool,
    /// Whether it is added to what is there.
    pub(crate) accumulate: bool,
}

/// Compiled kernels.
pub(crate) trait Kernels: Debug + Send + Sync {
    /// Runs one.
    fn launch(&self, kernel: &'static str, launch: Launch, arguments: &[Argument]) -> Result<(), GpuError>;
}

/// Launches and products that were recorded and can be done again at once.
pub(crate) trait Recording: Debug + Send + Sync {
    /// Does them again, on whatever their memory holds now.
    fn replay(&self) -> Result<(), GpuError>;
}

/// Memory of the CPU's that the GPU copies to by itself.
pub(crate) trait Landing: Debug + Send {
    /// Begins to copy so many bytes, as they are after everything asked for so far and before what is asked for next.
    fn fetch(&mut self, from: Address, bytes: usize) -> Result<(), GpuError>;
    /// What was fetched last, once it is there and all that was asked for before it is done.
    fn wait(&mut self) -> Result<&[u8], GpuError>;
}

/// A GPU.
pub(crate) trait Driver: Debug + Send + Sync {
    /// Bytes of an element: 2 on a GPU.
    fn element_bytes(&self) -> usize;
    /// Multiprocessors: how many blocks keep it busy is a multiple of that.
    fn processors(&self) -> usize;
    /// Memory, 256-byte aligned, with any contents.
    fn allocate(&self, bytes: usize) -> Result<Address, GpuError>;
    /// Gives memory back once everything asked for so far is done.
    fn free(&self, address: Address);
    /// Copies to the GPU; `bytes` may be changed when it returns.
    fn upload(&self, bytes: &[u8], to: Address) -> Result<(), GpuError>;
    /// Copies from the GPU, after everything asked for so far.
    fn download(&self, from: Address, to: &mut [u8]) -> Result<(), GpuError>;
    /// Room for so many bytes to be fetched to.
    fn landing(&self, bytes: usize) -> Result<Box<dyn Landing>, GpuError>;
    /// Copies inside the GPU.
    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), GpuError>;
    /// Sets memory to zero.
    fn clear(&self, at: Address, bytes: usize) -> Result<(), GpuError>;
    /// Compiles kernels with these numbers defined.
    fn compile(&self, source: Source, defines: &[(&str, usize)]) -> Result<Arc<dyn Kernels>, GpuError>;
    /// Multiplies matrices.
    fn multiply(&self, product: &Product) -> Result<(), GpuError>;
    /// Records what `work` asks for instead of doing it; `None` where that is not possible. It may launch, multiply, copy and
    /// clear, and nothing else; meanwhile no other thread may ask this GPU for anything.
    fn record(
        &self,
        work: &mut dyn FnMut() -> Result<(), GpuError>,
    ) -> Result<Option<Box<dyn Recording>>, GpuError>;
    /// Bytes of memory that are free.
    fn free_bytes(&self) -> Result<usize, GpuError>;
}

/// A GPU that many share.
pub(crate) type Gpu = Arc<dyn Driver>;

#[cfg(test)]
mod tests;
