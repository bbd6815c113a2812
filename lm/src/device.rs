//! Where tensors live and how many threads work on them.

use std::sync::Arc;

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// Whether this program can use GPUs of NVIDIA's; it was built with the feature `cuda` then.
pub const HAS_CUDA: bool = cfg!(feature = "cuda");

/// The device a model is loaded on.
///
/// On a CPU results are the same bytes whatever the number of threads; on a GPU they may differ between runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The CPU, with this many threads.
    Cpu {
        /// Threads that share the work of one product.
        threads: usize,
    },
    /// The CUDA device with this ordinal; needs the feature `cuda`.
    Cuda(usize),
}

/// Threads that do the work of a model on the CPU.
pub(crate) fn pool(threads: usize) -> Result<Arc<ThreadPool>, ThreadPoolBuildError> {
    ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .thread_name(|index| format!("lm-{index}"))
        .build()
        .map(Arc::new)
}
