//! NVIDIA's GPUs: memory, launches and graphs by the driver, kernels compiled by NVRTC, products by cuBLAS.
//!
//! The three are opened at run time, so a program built with CUDA starts where there is none. Of cudarc's versions `cuda-13000`
//! is the oldest that fits: a name with a version is looked for only up to the version's own, and PyPI's libraries of CUDA 13 have
//! no other; those of CUDA 12 are found after them. Every function that is called here is the same in both: cudarc opens each when
//! it is first called.

mod device;
mod libraries;
mod products;
mod program;
mod staging;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::result::{self, graph, stream};
use cudarc::driver::sys::{self, CUgraphInstantiate_flags, CUstreamCaptureMode};

use self::device::{Answer, Device};
use self::products::Products;
use self::program::Program;
use self::staging::{Downloads, Fetched, Uploads};
use super::driver::{Address, Driver, Gpu, GpuError, Kernels, Landing, Product, Recording};
use super::sources::Source;

/// Opens the GPU with this number.
pub(super) fn open(ordinal: usize) -> Result<Gpu, GpuError> {
    libraries::open()?;
    let device = Device::open(ordinal)?;
    Ok(Arc::new(Cuda {
        products: Mutex::new(Products::new(&device)?),
        uploads: Mutex::new(Uploads::new(&device)?),
        downloads: Mutex::new(Downloads::new(&device)?),
        recording: Mutex::default(),
        device,
    }))
}

/// What a mutex guards, also after a panic: all of it is whole between two calls of the driver.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Cuda {
    products: Mutex<Products>,
    uploads: Mutex<Uploads>,
    downloads: Mutex<Downloads>,
    /// While something is recorded, the memory that was given back since then.
    recording: Mutex<Option<Vec<Address>>>,
    device: Arc<Device>,
}

impl Cuda {
    /// Refuses what would become part of a recording and go wrong, or end it.
    fn unrecorded(&self, what: &str) -> Result<(), GpuError> {
        if held(&self.recording).is_none() {
            return Ok(());
        }
        let reason = "a recording holds launches, products, copies and zeros only".to_owned();
        Err(GpuError::Failed { what: format!("{what} while it records"), reason })
    }
}

impl Driver for Cuda {
    fn element_bytes(&self) -> usize {
        2
    }

    fn processors(&self) -> usize {
        self.device.processors
    }

    fn allocate(&self, bytes: usize) -> Result<Address, GpuError> {
        self.unrecorded("an allocation")?;
        self.device.allocate(bytes)
    }

    fn free(&self, address: Address) {
        match &mut *held(&self.recording) {
            Some(later) => later.push(address),
            None => self.device.free(address),
        }
    }

    fn upload(&self, bytes: &[u8], to: Address) -> Result<(), GpuError> {
        self.unrecorded("an upload")?;
        held(&self.uploads).copy(bytes, to)
    }

    fn download(&self, from: Address, to: &mut [u8]) -> Result<(), GpuError> {
        self.unrecorded("a download")?;
        held(&self.downloads).copy(from, to)
    }

    fn landing(&self, bytes: usize) -> Result<Box<dyn Landing>, GpuError> {
        Ok(Box::new(Fetched::new(&self.device, bytes)?))
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), GpuError> {
        if bytes == 0 {
            return Ok(());
        }
        self.device.enter()?;
        // SAFETY: that both are memory of this GPU is for the caller.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.device.stream) }.to("a copy")
    }

    fn clear(&self, at: Address, bytes: usize) -> Result<(), GpuError> {
        if bytes == 0 {
            return Ok(());
        }
        self.device.enter()?;
        // SAFETY: that it is memory of this GPU is for the caller.
        unsafe { result::memset_d8_async(at, 0, bytes, self.device.stream) }.to("zeros")
    }

    fn compile(&self, source: Source, defines: &[(&str, usize)]) -> Result<Arc<dyn Kernels>, GpuError> {
        Ok(Arc::new(Program::load(&self.device, source, defines)?))
    }

    fn multiply(&self, product: &Product) -> Result<(), GpuError> {
        held(&self.products).multiply(product)
    }

    fn record(
        &self,
        work: &mut dyn FnMut() -> Result<(), GpuError>,
    ) -> Result<Option<Box<dyn Recording>>, GpuError> {
        let Some(capture) = Capture::begin(self)? else { return Ok(None) };
        let worked = work();
        // Without a graph the driver could not record something of the work, and said so in it too.
        let Some(recorded) = capture.end() else { return Ok(None) };
        worked?;
        // SAFETY: the graph is whole; what is made of it does not need it.
        let made = unsafe {
            let made = graph::instantiate(recorded, CUgraphInstantiate_flags(0));
            let _ = graph::destroy(recorded);
            made
        };
        let Ok(graph) = made else { return Ok(None) };
        Ok(Some(Box::new(Graph { device: self.device.clone(), graph: Mutex::new(Replayed(graph)) })))
    }

    fn free_bytes(&self) -> Result<usize, GpuError> {
        self.device.free_bytes()
    }
}

/// A recording under way; it ends when this goes, also in a panic.
struct Capture<'a> {
    cuda: &'a Cuda,
}

impl<'a> Capture<'a> {
    /// `None` where the driver cannot record now.
    fn begin(cuda: &'a Cuda) -> Result<Option<Self>, GpuError> {
        cuda.unrecorded("a recording")?;
        cuda.device.enter()?;
        // A kernel of cuBLAS's may be loaded when it is first launched, in the recording: the other modes do not let it.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is open.
        if unsafe { stream::begin_capture(cuda.device.stream, mode) }.is_err() {
            return Ok(None);
        }
        *held(&cuda.recording) = Some(Vec::new());
        Ok(Some(Self { cuda }))
    }

    /// What was recorded, if it is whole.
    fn end(self) -> Option<sys::CUgraph> {
        let graph = self.finish();
        std::mem::forget(self);
        graph
    }

    fn finish(&self) -> Option<sys::CUgraph> {
        // SAFETY: the stream is open.
        let graph = self
            .cuda
            .device
            .enter()
            .ok()
            .and_then(|()| unsafe { stream::end_capture(self.cuda.device.stream).ok() });
        for address in held(&self.cuda.recording).take().into_iter().flatten() {
            self.cuda.device.free(address);
        }
        graph.filter(|graph| !graph.is_null())
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if let Some(recorded) = self.finish() {
            // SAFETY: the graph is destroyed once.
            let _ = unsafe { graph::destroy(recorded) };
        }
    }
}

#[derive(Debug)]
struct Replayed(sys::CUgraphExec);

// SAFETY: a handle of the driver's, for one thread at a time.
unsafe impl Send for Replayed {}

/// Recorded work.
#[derive(Debug)]
struct Graph {
    device: Arc<Device>,
    graph: Mutex<Replayed>,
}

impl Drop for Graph {
    fn drop(&mut self) {
        // It may be under way. Nothing can be done about a failure.
        if self.device.synchronise().is_ok() {
            // SAFETY: it is destroyed once.
            let _ = unsafe { graph::exec_destroy(held(&self.graph).0) };
        }
    }
}

impl Recording for Graph {
    fn replay(&self) -> Result<(), GpuError> {
        self.device.enter()?;
        // SAFETY: the graph and the stream are open.
        unsafe { graph::launch(held(&self.graph).0, self.device.stream) }.to("a recording")
    }
}
