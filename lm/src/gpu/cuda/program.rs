//! Kernels: compiled by NVRTC for the GPU that is there, looked up by name, launched.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr;
use std::sync::{Arc, Mutex};

use cudarc::driver::result::{function, launch_kernel, module};
use cudarc::driver::sys::{self, CUfunction_attribute};
use cudarc::nvrtc::{result as compiler, sys as compiler_sys};

use super::super::driver::{Argument, GpuError, Kernels, Launch};
use super::super::sources::{PRELUDE, Source};
use super::device::{Answer, Device};
use super::held;

/// Arguments of a kernel, at most.
const MOST_ARGUMENTS: usize = 32;

/// Bytes of shared memory that a block may have on every GPU without asking for more.
const UNASKED: c_int = 48 << 10;

/// What NVRTC made, by source and options: every model of a process asks for the same kernels, and they take seconds.
static COMPILED: Mutex<BTreeMap<String, Arc<Vec<u8>>>> = Mutex::new(BTreeMap::new());

/// Compiled kernels, loaded.
#[derive(Debug)]
pub(super) struct Program {
    device: Arc<Device>,
    module: sys::CUmodule,
    functions: Mutex<BTreeMap<&'static str, Function>>,
}

#[derive(Clone, Copy, Debug)]
struct Function {
    handle: sys::CUfunction,
    /// Bytes of dynamic shared memory that it can have, and that it can have without being asked for more.
    most: c_int,
    granted: c_int,
}

// SAFETY: handles of the driver, good on every thread whose context is that of the device.
unsafe impl Send for Program {}
// SAFETY: as above.
unsafe impl Sync for Program {}

impl Drop for Program {
    fn drop(&mut self) {
        // Its kernels may still run. Nothing can be done about a failure.
        if self.device.synchronise().is_ok() {
            // SAFETY: the module is loaded, and nobody can launch its kernels any more.
            let _ = unsafe { module::unload(self.module) };
        }
    }
}

impl Program {
    pub(super) fn load(
        device: &Arc<Device>,
        source: Source,
        defines: &[(&str, usize)],
    ) -> Result<Self, GpuError> {
        let image = compile(source, defines, device.capability)?;
        device.enter()?;
        let what = format!("loading the kernels of `{}`", source.name);
        // SAFETY: NVRTC made the image: machine code, or text that ends in a zero.
        let module = unsafe { module::load_data(image.as_ptr().cast()) }.to(&what)?;
        Ok(Self { device: device.clone(), module, functions: Mutex::default() })
    }

    /// The kernel, which may be launched with so many bytes of dynamic shared memory.
    fn function(&self, kernel: &'static str, shared: usize) -> Result<sys::CUfunction, GpuError> {
        let mut functions = held(&self.functions);
        let function = match functions.entry(kernel) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(entry) => entry.insert(self.look_up(kernel)?),
        };
        let shared = c_int::try_from(shared).unwrap_or(c_int::MAX);
        if shared > function.most {
            let reason = format!("a block of this GPU has {} bytes of shared memory for it", function.most);
            return Err(GpuError::Failed { what: format!("the kernel `{kernel}` with {shared}"), reason });
        }
        if shared > function.granted {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is one of the module's.
            unsafe { function::set_function_attribute(function.handle, attribute, shared) }
                .to("asking for shared memory")?;
            function.granted = shared;
        }
        Ok(function.handle)
    }

    fn look_up(&self, kernel: &str) -> Result<Function, GpuError> {
        let what = format!("looking up the kernel `{kernel}`");
        // As KERNEL in prelude.cuh names it.
        let name = CString::new(format!("kernel_{kernel}")).to(&what)?;
        let fixed = CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        // SAFETY: the module is loaded.
        unsafe {
            let handle = module::get_function(self.module, name).to(&what)?;
            let fixed = function::get_function_attribute(handle, fixed).to(&what)?;
            Ok(Function { handle, most: self.device.shared - fixed, granted: UNASKED - fixed })
        }
    }
}

impl Kernels for Program {
    fn launch(&self, kernel: &'static str, launch: Launch, arguments: &[Argument]) -> Result<(), GpuError> {
        self.device.enter()?;
        let function = self.function(kernel, launch.shared)?;
        assert!(arguments.len() <= MOST_ARGUMENTS, "`{kernel}` has {} arguments", arguments.len());
        // The driver reads as many bytes from each slot as the kernel's parameter has; numbers start at its lowest.
        let mut slots = [0_u64; MOST_ARGUMENTS];
        let mut pointers = [ptr::null_mut::<c_void>(); MOST_ARGUMENTS];
        for ((argument, slot), pointer) in arguments.iter().zip(&mut slots).zip(&mut pointers) {
            *slot = match *argument {
                Argument::Address(address) => address,
                Argument::U32(number) => u64::from(number),
                Argument::F32(number) => u64::from(number.to_bits()),
            };
            *pointer = ptr::from_mut(slot).cast();
        }
        let blocks = launch.grid.map(|blocks| blocks as u32);
        // SAFETY: the slots live until the driver has copied them; that they are as the kernel wants them, and that its addresses
        // are memory of this GPU, is for the wrapper that each kernel has.
        let launched = unsafe {
            launch_kernel(
                function,
                (blocks[0], blocks[1], blocks[2]),
                (launch.threads as u32, 1, 1),
                launch.shared as u32,
                self.device.stream,
                &mut pointers[..arguments.len()],
            )
        };
        // Words only where they are needed: launches are many.
        launched.or_else(|error| Err(error).to(&format!("the kernel `{kernel}`, {launch:?}")))
    }
}

/// A program of NVRTC.
struct Compilation(compiler_sys::nvrtcProgram);

impl Drop for Compilation {
    fn drop(&mut self) {
        // SAFETY: the program was created and is destroyed once.
        let _ = unsafe { compiler::destroy_program(self.0) };
    }
}

/// Compiles for a GPU of this capability, such as 90: machine code, or where NVRTC does not know it yet, the driver's assembly
/// language for the newest that it knows.
pub(super) fn compile(
    source: Source,
    defines: &[(&str, usize)],
    capability: u32,
) -> Result<Arc<Vec<u8>>, GpuError> {
    let fault = |reason: String| GpuError::Compile { source_name: source.name, reason };
    let known = architectures().map_err(|error| fault(error.to_string()))?;
    let newest = known.iter().copied().filter(|&one| one <= capability).max();
    let newest = newest.ok_or_else(|| fault(format!("NVRTC knows only the GPUs {known:?}")))?;
    let kind = if newest == capability { "sm" } else { "compute" };
    // Neither fast approximations nor small numbers flushed to zero: kernels ask for what they want (`exp2_`), and the
    // optimiser's moments may be small.
    let mut options = vec![format!("--gpu-architecture={kind}_{newest}"), "-std=c++17".to_owned()];
    options.extend(defines.iter().map(|(name, number)| format!("-D{name}={number}")));

    let key = format!("{} {options:?}", source.name);
    let mut compiled = held(&COMPILED);
    if let Some(image) = compiled.get(&key) {
        return Ok(image.clone());
    }
    let text = format!("#line 1 \"prelude.cuh\"\n{PRELUDE}\n{}", source.text);
    let text = CString::new(text).map_err(|error| fault(error.to_string()))?;
    let name = CString::new(source.name).map_err(|error| fault(error.to_string()))?;
    let program = compiler::create_program(&text, Some(&name)).map_err(|error| fault(error.to_string()))?;
    let program = Compilation(program);
    // SAFETY: the program is one, and the text outlives it.
    let image = unsafe {
        if let Err(error) = compiler::compile_program(program.0, &options) {
            let log = compiler::get_program_log(program.0).unwrap_or_default();
            let log: Vec<u8> = log.iter().map(|&unit| unit.cast_unsigned()).collect();
            let log = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy().into_owned();
            return Err(fault(format!("{error}\n{log}")));
        }
        match kind {
            "sm" => machine_code(program.0),
            _ => compiler::get_ptx(program.0)
                .map(|text| text.iter().map(|&unit| unit.cast_unsigned()).collect()),
        }
        .map_err(|error| fault(error.to_string()))?
    };
    let image = Arc::new(image);
    compiled.insert(key, image.clone());
    Ok(image)
}

/// The capabilities that NVRTC compiles for.
fn architectures() -> Result<Vec<u32>, compiler::NvrtcError> {
    let mut count = 0;
    // SAFETY: the list is as long as NVRTC says.
    let list = unsafe {
        compiler_sys::nvrtcGetNumSupportedArchs(&raw mut count).result()?;
        let mut list: Vec<c_int> = vec![0; count as usize];
        compiler_sys::nvrtcGetSupportedArchs(list.as_mut_ptr()).result()?;
        list
    };
    Ok(list.into_iter().map(c_int::cast_unsigned).collect())
}

/// The machine code of a compiled program.
unsafe fn machine_code(program: compiler_sys::nvrtcProgram) -> Result<Vec<u8>, compiler::NvrtcError> {
    let mut size = 0;
    // SAFETY: the caller's program is compiled, and the code as long as NVRTC says.
    unsafe {
        compiler_sys::nvrtcGetCUBINSize(program, &raw mut size).result()?;
        let mut code = vec![0_u8; size];
        compiler_sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()).result()?;
        Ok(code)
    }
}
