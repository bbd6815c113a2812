//! A GPU for tests: kernels compiled by the system's C++ compiler and run on the CPU, in order, one thread at a time.
//!
//! Memory starts as NaNs, and has guards around it that are looked at when it is freed: what reads what nobody wrote, or writes
//! beyond an end, does not stay unseen.

use std::alloc::{self, Layout};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use half::bf16;

use super::driver::{
    Address, Argument, Driver, Gpu, GpuError, Kernels, Landing, Launch, Operand, Product, Recording,
};
use super::sources::{PRELUDE, Source};

/// Bytes around an allocation that nobody may write.
const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xa5;

/// What elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Elements {
    /// As on a GPU.
    Bf16,
    /// 32-bit floats, to hold results against the CPU's.
    Floats,
}

/// The emulator, where there is a C++ compiler; else it says that the test is skipped.
pub(crate) fn gpu(elements: Elements) -> Option<Gpu> {
    if Command::new("c++").arg("--version").output().is_err() {
        eprintln!("skipped: there is no C++ compiler to compile the GPU's kernels for the CPU");
        return None;
    }
    Some(Arc::new(Emulator { elements, memory: Memory::default() }))
}

/// Compiled kernels, or what the compiler said, by source, options and kind of elements: tests of one process share them.
static COMPILED: Mutex<BTreeMap<String, Arc<OnceLock<Compiled>>>> = Mutex::new(BTreeMap::new());

type Compiled = Result<Arc<Library>, String>;

#[derive(Debug)]
struct Emulator {
    elements: Elements,
    memory: Memory,
}

/// What is allocated.
#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<BTreeMap<Address, Layout>>>);

impl Memory {
    /// Whether so many bytes from an address on lie in one allocation.
    fn check(&self, address: Address, bytes: usize, what: &str) {
        let allocations = held(&self.0);
        let (start, layout) = allocations.range(..=address).next_back().expect("an address of this GPU");
        let room = layout.size() - 2 * GUARD;
        assert!(address + bytes as u64 <= start + room as u64, "{what} beyond the end of memory");
    }

    fn read(&self, from: Address, to: &mut [u8]) {
        if !to.is_empty() {
            self.check(from, to.len(), "a download");
            // SAFETY: checked.
            unsafe { std::ptr::copy(from as *const u8, to.as_mut_ptr(), to.len()) };
        }
    }
}

/// What was fetched: at once, as everything here is done at once.
#[derive(Debug)]
struct Fetched {
    memory: Memory,
    room: usize,
    bytes: Vec<u8>,
}

impl Landing for Fetched {
    fn fetch(&mut self, from: Address, bytes: usize) -> Result<(), GpuError> {
        assert!(bytes <= self.room, "{bytes} bytes to a landing of {}", self.room);
        self.bytes.resize(bytes, 0);
        self.memory.read(from, &mut self.bytes);
        Ok(())
    }

    fn wait(&mut self) -> Result<&[u8], GpuError> {
        Ok(&self.bytes)
    }
}

/// A shared library of kernels. It is never closed.
#[derive(Debug)]
struct Library {
    handle: usize,
    /// One launch at a time: a block's threads are static variables.
    turn: Mutex<()>,
}

#[repr(C)]
struct Started {
    grid: [u32; 3],
    threads: u32,
    shared: u32,
    count: u32,
    arguments: *const *const c_void,
    sizes: *const u32,
}

fn failed(what: &str, reason: &str) -> GpuError {
    GpuError::Failed { what: what.to_owned(), reason: reason.to_owned() }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Kernels for Library {
    fn launch(&self, kernel: &'static str, launch: Launch, arguments: &[Argument]) -> Result<(), GpuError> {
        let symbol = CString::new(format!("emulate_{kernel}")).unwrap();
        // SAFETY: the handle is that of an open library.
        let function = unsafe { libc::dlsym(self.handle as *mut c_void, symbol.as_ptr()) };
        assert!(!function.is_null(), "there is no kernel `{kernel}`");
        let bits: Vec<(u64, u32)> = arguments
            .iter()
            .map(|argument| match *argument {
                Argument::Address(address) => (address, 8),
                Argument::U32(number) => (u64::from(number), 4),
                Argument::F32(number) => (u64::from(number.to_bits()), 4),
            })
            .collect();
        let pointers: Vec<*const c_void> =
            bits.iter().map(|(bits, _)| std::ptr::from_ref(bits).cast()).collect();
        let sizes: Vec<u32> = bits.iter().map(|&(_, size)| size).collect();
        let started = Started {
            grid: launch.grid.map(|blocks| u32::try_from(blocks).unwrap()),
            threads: u32::try_from(launch.threads).unwrap(),
            shared: u32::try_from(launch.shared).unwrap(),
            count: u32::try_from(arguments.len()).unwrap(),
            arguments: pointers.as_ptr(),
            sizes: sizes.as_ptr(),
        };
        let _turn = held(&self.turn);
        // SAFETY: `KERNEL` in emulator.h defines the function with this type; it checks the number and sizes of arguments.
        let fault = unsafe {
            let function: extern "C" fn(*const Started) -> *const c_char = std::mem::transmute(function);
            function(&raw const started)
        };
        if fault.is_null() {
            return Ok(());
        }
        // SAFETY: a fault is a constant string.
        Err(failed(kernel, &unsafe { CStr::from_ptr(fault) }.to_string_lossy()))
    }
}

impl Emulator {
    fn library(&self, source: Source, defines: &[(&str, usize)]) -> Result<Arc<Library>, GpuError> {
        let mut options: Vec<String> =
            defines.iter().map(|(name, number)| format!("-D{name}={number}")).collect();
        if self.elements == Elements::Floats {
            options.push("-DELEMENT_IS_FLOAT".to_owned());
        }
        let key = format!("{} {options:?}", source.name);
        let place = held(&COMPILED).entry(key).or_default().clone();
        let library = place.get_or_init(|| compile(source, &options));
        library.clone().map_err(|reason| GpuError::Compile { source_name: source.name, reason })
    }

    fn check(&self, address: Address, bytes: usize, what: &str) {
        self.memory.check(address, bytes, what);
    }

    fn number(&self, at: Address, index: usize) -> f32 {
        // SAFETY: `multiply` has checked the bounds.
        unsafe {
            match self.elements {
                Elements::Bf16 => (*(at as *const bf16).add(index)).to_f32(),
                Elements::Floats => *(at as *const f32).add(index),
            }
        }
    }

    fn matrix(&self, operand: Operand, rows: usize, columns: usize) -> Vec<f32> {
        let (stored_rows, stored_columns) =
            if operand.transposed { (columns, rows) } else { (rows, columns) };
        let last = (stored_rows - 1) * operand.stride + stored_columns;
        self.check(operand.address, last * self.element_bytes(), "a product reads");
        let mut matrix = vec![0.0; rows * columns];
        for row in 0..rows {
            for column in 0..columns {
                let (r, c) = if operand.transposed { (column, row) } else { (row, column) };
                matrix[row * columns + column] = self.number(operand.address, r * operand.stride + c);
            }
        }
        matrix
    }
}

fn compile(source: Source, options: &[String]) -> Compiled {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("prelude.cuh"), PRELUDE).unwrap();
    fs::write(dir.path().join("emulator.h"), include_str!("kernels/emulator.h")).unwrap();
    let text = format!("#include \"prelude.cuh\"\n{}", source.text);
    fs::write(dir.path().join("kernels.cpp"), text).unwrap();
    let output = Command::new("c++")
        .args(["-std=c++17", "-O1", "-fPIC", "-shared", "-ffp-contract=off", "-DEMULATED"])
        .args(["-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-Wno-unused-variable"])
        .args(["-Wno-unknown-pragmas"])
        // What is not aligned stops a GPU; emulator.h has what is called then.
        .args(["-fsanitize=alignment", "-fno-sanitize-recover=alignment"])
        .args(options)
        .args(["-o", "kernels.so", "kernels.cpp"])
        .current_dir(dir.path())
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let path = CString::new(dir.path().join("kernels.so").to_str().unwrap()).unwrap();
    // SAFETY: the library was just made and runs nothing when it is opened.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(!handle.is_null(), "the kernels of {} cannot be opened", source.name);
    Ok(Arc::new(Library { handle: handle as usize, turn: Mutex::new(()) }))
}

impl Driver for Emulator {
    fn element_bytes(&self) -> usize {
        match self.elements {
            Elements::Bf16 => 2,
            Elements::Floats => 4,
        }
    }

    fn processors(&self) -> usize {
        4
    }

    fn allocate(&self, bytes: usize) -> Result<Address, GpuError> {
        let layout = Layout::from_size_align(bytes + 2 * GUARD, 256).unwrap();
        // SAFETY: the size is not zero, and the guards and contents lie inside.
        let start = unsafe {
            let start = alloc::alloc(layout);
            start.write_bytes(GUARD_BYTE, layout.size());
            // A NaN in either kind of elements.
            start.add(GUARD).write_bytes(0xff, bytes);
            start
        };
        let address = start as u64 + GUARD as u64;
        held(&self.memory.0).insert(address, layout);
        Ok(address)
    }

    fn free(&self, address: Address) {
        if address == 0 {
            return;
        }
        let layout = held(&self.memory.0).remove(&address).expect("memory is freed once");
        let start = (address - GUARD as u64) as *mut u8;
        // SAFETY: the allocation is as long as its layout says.
        let whole = unsafe {
            let bytes = std::slice::from_raw_parts(start, layout.size());
            let guards = bytes[..GUARD].iter().chain(&bytes[layout.size() - GUARD..]);
            let whole = guards.copied().all(|byte| byte == GUARD_BYTE);
            alloc::dealloc(start, layout);
            whole
        };
        assert!(
            whole || std::thread::panicking(),
            "a kernel wrote beyond the end of {} bytes",
            layout.size() - 2 * GUARD
        );
    }

    fn upload(&self, bytes: &[u8], to: Address) -> Result<(), GpuError> {
        if !bytes.is_empty() {
            self.check(to, bytes.len(), "an upload");
            // SAFETY: checked.
            unsafe { std::ptr::copy(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        }
        Ok(())
    }

    fn download(&self, from: Address, to: &mut [u8]) -> Result<(), GpuError> {
        self.memory.read(from, to);
        Ok(())
    }

    fn landing(&self, bytes: usize) -> Result<Box<dyn Landing>, GpuError> {
        Ok(Box::new(Fetched { memory: self.memory.clone(), room: bytes, bytes: Vec::new() }))
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), GpuError> {
        self.check(from, bytes, "a copy");
        self.check(to, bytes, "a copy");
        // SAFETY: checked.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    fn clear(&self, at: Address, bytes: usize) -> Result<(), GpuError> {
        self.check(at, bytes, "zeros");
        // SAFETY: checked.
        unsafe { (at as *mut u8).write_bytes(0, bytes) };
        Ok(())
    }

    fn compile(&self, source: Source, defines: &[(&str, usize)]) -> Result<Arc<dyn Kernels>, GpuError> {
        Ok(self.library(source, defines)?)
    }

    fn multiply(&self, product: &Product) -> Result<(), GpuError> {
        let Product { rows, columns, inner, to, stride, to_floats, accumulate, .. } = *product;
        assert!(rows > 0 && columns > 0 && inner > 0, "an empty product");
        let left = self.matrix(product.left, rows, inner);
        let right = self.matrix(product.right, inner, columns);
        let bytes = if to_floats { 4 } else { self.element_bytes() };
        self.check(to, ((rows - 1) * stride + columns) * bytes, "a product writes");
        for row in 0..rows {
            let mut sums = vec![0.0_f32; columns];
            for (k, &left) in left[row * inner..][..inner].iter().enumerate() {
                for (sum, &right) in sums.iter_mut().zip(&right[k * columns..][..columns]) {
                    *sum = left.mul_add(right, *sum);
                }
            }
            for (column, sum) in sums.into_iter().enumerate() {
                let at = row * stride + column;
                // SAFETY: checked.
                unsafe {
                    if to_floats || self.elements == Elements::Floats {
                        let to = (to as *mut f32).add(at);
                        *to = if accumulate { *to + sum } else { sum };
                    } else {
                        let to = (to as *mut bf16).add(at);
                        *to = bf16::from_f32(if accumulate { (*to).to_f32() + sum } else { sum });
                    }
                }
            }
        }
        Ok(())
    }

    fn record(
        &self,
        _: &mut dyn FnMut() -> Result<(), GpuError>,
    ) -> Result<Option<Box<dyn Recording>>, GpuError> {
        Ok(None)
    }

    fn free_bytes(&self) -> Result<usize, GpuError> {
        Ok(1 << 30)
    }
}
