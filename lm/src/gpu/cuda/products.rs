//! Matrix products, by cuBLAS.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;

use cudarc::cublas::result;
use cudarc::cublas::sys::{
    self, cublasComputeType_t, cublasGemmAlgo_t, cublasGemmEx, cublasMath_t, cublasOperation_t,
    cublasSetMathMode, cublasSetWorkspace_v2, cudaDataType,
};

use super::super::driver::{Address, GpuError, Operand, Product};
use super::device::{Answer, Device};

/// What NVIDIA recommends for Hopper. cuBLAS would else allocate its own, which no recording allows.
const WORKSPACE: usize = 32 << 20;

/// An open cuBLAS, for one thread at a time.
#[derive(Debug)]
pub(super) struct Products {
    device: Arc<Device>,
    handle: sys::cublasHandle_t,
    workspace: Address,
}

// SAFETY: a handle may go from thread to thread.
unsafe impl Send for Products {}

impl Drop for Products {
    fn drop(&mut self) {
        if self.device.synchronise().is_ok() {
            // SAFETY: the handle is destroyed once.
            let _ = unsafe { result::destroy_handle(self.handle) };
            self.device.free(self.workspace);
        }
    }
}

impl Products {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self, GpuError> {
        device.enter()?;
        let handle = result::create_handle().to("starting cuBLAS")?;
        let mut products = Self { device: device.clone(), handle, workspace: 0 };
        products.workspace = device.allocate(WORKSPACE)?;
        let workspace = products.workspace as *mut c_void;
        // SAFETY: handle, stream and workspace live as long as this. The stream comes first: setting it takes the workspace away.
        unsafe {
            result::set_stream(handle, device.stream.cast()).to("starting cuBLAS")?;
            cublasSetWorkspace_v2(handle, workspace, WORKSPACE).result().to("starting cuBLAS")?;
            // Where a sum is split, its parts are added as 32-bit floats too. Atomics are off unless asked for.
            let mode = cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
            cublasSetMathMode(handle, mode).result().to("starting cuBLAS")?;
        }
        Ok(products)
    }

    pub(super) fn multiply(&mut self, product: &Product) -> Result<(), GpuError> {
        self.device.enter()?;
        let failed = |reason: String| GpuError::Failed { what: format!("{product:?}"), reason };
        let size = |number: usize| c_int::try_from(number).map_err(|error| failed(error.to_string()));
        let Product { rows, columns, inner, left, right, to, stride, to_floats, accumulate } = *product;
        let operation = |operand: Operand| {
            if operand.transposed { cublasOperation_t::CUBLAS_OP_T } else { cublasOperation_t::CUBLAS_OP_N }
        };
        let elements = cudaDataType::CUDA_R_16BF;
        let (one, more) = (1.0_f32, if accumulate { 1.0_f32 } else { 0.0 });
        // cuBLAS reads columns where we have rows, so every matrix is its transpose there: toᵀ = rightᵀ · leftᵀ.
        // SAFETY: the factors live through the call; that the operands are memory of this GPU is for the caller.
        let done = unsafe {
            cublasGemmEx(
                self.handle,
                operation(right),
                operation(left),
                size(columns)?,
                size(rows)?,
                size(inner)?,
                ptr::from_ref(&one).cast(),
                right.address as *const c_void,
                elements,
                size(right.stride)?,
                left.address as *const c_void,
                elements,
                size(left.stride)?,
                ptr::from_ref(&more).cast(),
                to as *mut c_void,
                if to_floats { cudaDataType::CUDA_R_32F } else { elements },
                size(stride)?,
                cublasComputeType_t::CUBLAS_COMPUTE_32F,
                cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        done.result().map_err(|error| failed(error.to_string()))
    }
}
