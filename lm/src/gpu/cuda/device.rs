//! A GPU's context and the one stream on which everything is done.

use std::ffi::c_int;
use std::fmt::Display;
use std::sync::Arc;

use cudarc::driver::result::{self, DriverError, ctx, device, mem_pool, primary_ctx, stream};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUmemPool_attribute, CUresult};

use super::super::driver::{Address, GpuError};

/// A result of the driver, or of a library, as ours.
pub(super) trait Answer<T> {
    /// The error says what was asked.
    fn to(self, what: &str) -> Result<T, GpuError>;
}

impl<T, E: Display> Answer<T> for Result<T, E> {
    fn to(self, what: &str) -> Result<T, GpuError> {
        self.map_err(|error| GpuError::Failed { what: what.to_owned(), reason: error.to_string() })
    }
}

/// What all parts of an open GPU hold: it goes when the last of them does.
#[derive(Debug)]
pub(super) struct Device {
    number: sys::CUdevice,
    context: sys::CUcontext,
    pub(super) stream: sys::CUstream,
    pool: sys::CUmemoryPool,
    /// Such as 90 for 9.0.
    pub(super) capability: u32,
    pub(super) processors: usize,
    /// Shared memory that a block can have, with the static part.
    pub(super) shared: c_int,
}

// SAFETY: the driver's functions may be called from any thread that made the context its own, which `enter` does.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Drop for Device {
    fn drop(&mut self) {
        // Nothing can be done about a failure here.
        let _ = self.enter();
        // SAFETY: nobody else holds the stream or the context any more.
        unsafe {
            let _ = stream::synchronize(self.stream);
            let _ = stream::destroy(self.stream);
            // The next program on this GPU may be another one's.
            let _ = mem_pool::trim_to(self.pool, 0);
            let _ = primary_ctx::release(self.number);
        }
    }
}

impl Device {
    /// Opens a GPU; the libraries are there.
    pub(super) fn open(ordinal: usize) -> Result<Arc<Self>, GpuError> {
        let unavailable = |reason: String| Err(GpuError::Unavailable(reason));
        if let Err(error) = result::init() {
            return unavailable(format!("the driver does not start: {error}"));
        }
        let count = device::get_count().to("counting the GPUs")?;
        let Some(number) = c_int::try_from(ordinal).ok().filter(|&number| number < count) else {
            return unavailable(format!(
                "there is no GPU {ordinal}: the driver shows {count}, counted from 0 among those that CUDA_VISIBLE_DEVICES names"
            ));
        };
        let number = device::get(number).to("opening the GPU")?;
        // SAFETY: the number is that of a GPU.
        let about =
            |attribute| unsafe { device::get_attribute(number, attribute).to("asking about the GPU") };
        let major = about(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = about(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        if major < 8 {
            let name = device::get_name(number).unwrap_or_default();
            return unavailable(format!(
                "GPU {ordinal} ({name}) has compute capability {major}.{minor}; products of 16-bit numbers need 8.0 or more"
            ));
        }
        let processors = about(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize;
        let shared = about(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let capability = (major * 10 + minor) as u32;
        // SAFETY: the number is that of a GPU; the context is made the thread's own before the stream is made.
        unsafe {
            let context = primary_ctx::retain(number).to("opening the GPU")?;
            let opened = (|| {
                ctx::set_current(context)?;
                let pool = device::get_default_mem_pool(number)?;
                // Memory that is given back stays with this process: it is asked for again at once.
                let mut keep = u64::MAX;
                let threshold = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
                mem_pool::set_attribute(pool, threshold, (&raw mut keep).cast())?;
                Ok((pool, stream::create(stream::StreamKind::NonBlocking)?))
            })();
            if opened.is_err() {
                let _ = primary_ctx::release(number);
            }
            let (pool, stream) = opened.map_err(|error: DriverError| error).to("opening the GPU")?;
            Ok(Arc::new(Self { number, context, stream, pool, capability, processors, shared }))
        }
    }

    /// Makes the context the calling thread's own; every call of the driver comes after that.
    pub(super) fn enter(&self) -> Result<(), GpuError> {
        // SAFETY: the context is open.
        unsafe { ctx::set_current(self.context) }.to("entering the GPU's context")
    }

    pub(super) fn synchronise(&self) -> Result<(), GpuError> {
        self.enter()?;
        // SAFETY: the stream is open.
        unsafe { stream::synchronize(self.stream) }.to("what it was asked before")
    }

    pub(super) fn allocate(&self, bytes: usize) -> Result<Address, GpuError> {
        self.enter()?;
        // SAFETY: the stream and the pool are open.
        let allocated = unsafe {
            result::malloc_async(self.stream, bytes).or_else(|error| {
                if error.0 != CUresult::CUDA_ERROR_OUT_OF_MEMORY {
                    return Err(error);
                }
                // What was given back may be too small in each piece: it goes back to the driver, which joins the pieces.
                stream::synchronize(self.stream)?;
                mem_pool::trim_to(self.pool, 0)?;
                result::malloc_async(self.stream, bytes)
            })
        };
        match allocated {
            Err(error) if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                Err(GpuError::OutOfMemory { bytes })
            }
            allocated => allocated.to("an allocation"),
        }
    }

    /// Gives memory back once everything asked for so far is done.
    pub(super) fn free(&self, address: Address) {
        // A failure is one of what was asked before, and the next call says so too.
        if address != 0 && self.enter().is_ok() {
            // SAFETY: the address is that of an allocation, given back once.
            let _ = unsafe { result::free_async(address, self.stream) };
        }
    }

    /// What the driver has left, and what the pool holds and nobody uses.
    pub(super) fn free_bytes(&self) -> Result<usize, GpuError> {
        self.enter()?;
        let (left, _) = result::mem_get_info().to("asking for its memory")?;
        let held = |attribute| {
            let mut bytes = 0_u64;
            // SAFETY: both attributes are numbers of 64 bits.
            unsafe { mem_pool::get_attribute(self.pool, attribute, (&raw mut bytes).cast()) }
                .to("asking for its memory")?;
            Ok(bytes as usize)
        };
        let reserved = held(CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
        let used = held(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
        Ok(left + reserved.saturating_sub(used))
    }
}
