//! NVIDIA's libraries, opened at run time: the driver, the compiler NVRTC and cuBLAS.

use std::ffi::{CStr, CString, c_int};

use cudarc::cublas::sys::{cublasGetProperty, libraryPropertyType};
use cudarc::driver::sys::cuDriverGetVersion;
use cudarc::nvrtc::sys::nvrtcVersion;

use super::super::driver::GpuError;

/// Opens all of them, so that cudarc, which panics over a library that is missing, finds each; the error says which is not there,
/// or does not go with the driver.
pub(super) fn open() -> Result<(), GpuError> {
    open_one("cuda", "it comes with NVIDIA's driver")?;
    let advice = "install it from the CUDA toolkit or from PyPI, and put its folder in LD_LIBRARY_PATH; docs/cuda.md has the steps";
    open_one("nvrtc", advice)?;
    open_one("cublas", advice)?;
    let (mut driver, mut compiler, mut products): (c_int, c_int, c_int) = (0, 0, 0);
    // SAFETY: the libraries are there; each function fills in a number.
    unsafe {
        cuDriverGetVersion(&raw mut driver);
        nvrtcVersion(&raw mut compiler, &raw mut products);
        cublasGetProperty(libraryPropertyType::MAJOR_VERSION, &raw mut products);
    }
    let driver = driver / 1000;
    for (library, major) in [("nvrtc", compiler), ("cublas", products)] {
        if major > driver {
            return Err(GpuError::Unavailable(format!(
                "`lib{library}` is of CUDA {major}, and the driver knows only CUDA {driver}; install the libraries of CUDA {driver}, \
                 or a newer driver"
            )));
        }
    }
    Ok(())
}

/// Opens a library under any name that cudarc would look for, for the rest of the process.
pub(super) fn open_one(library: &str, advice: &str) -> Result<(), GpuError> {
    let mut reason = String::new();
    for name in cudarc::get_lib_name_candidates(library) {
        let path = CString::new(name.as_str()).expect("a name without zeros");
        // SAFETY: NVIDIA's libraries run nothing of ours when they are opened; `dlerror` gives a string until the next call.
        let error = unsafe {
            if !libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL).is_null() {
                return Ok(());
            }
            CStr::from_ptr(libc::dlerror()).to_string_lossy().into_owned()
        };
        // Most names exist nowhere; what matters is one that does and wants another library that does not.
        if !error.starts_with(&name) {
            reason = format!(" ({error})");
        }
    }
    Err(GpuError::Unavailable(format!("`lib{library}` cannot be opened{reason}; {advice}")))
}
