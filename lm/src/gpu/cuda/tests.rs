//! What can be told of CUDA without a GPU; and with one, what no other driver does.

use super::super::Buffer;
use super::super::driver::GpuError;
use super::super::sources::STREAM;
use super::{libraries, open, program};

#[test]
fn a_gpu_that_is_not_there_is_refused_with_a_next_step() {
    // No machine has a thousand: either the libraries or the driver refuse it.
    let Err(GpuError::Unavailable(reason)) = open(999) else { panic!("there is a GPU 999") };
    let known =
        ["LD_LIBRARY_PATH", "NVIDIA's driver", "the driver shows", "a newer driver", "does not start"];
    assert!(known.iter().any(|step| reason.contains(step)), "{reason}");
}

#[test]
fn the_compiler_gives_machine_code_and_says_what_is_wrong() {
    if let Err(error) = libraries::open_one("nvrtc", "") {
        eprintln!("skipped: {error}");
        return;
    }
    let code = program::compile(STREAM, &[("HIDDEN", 64)], 90).unwrap();
    assert_eq!(code[..4], *b"\x7fELF");
    assert!(std::sync::Arc::ptr_eq(&code, &program::compile(STREAM, &[("HIDDEN", 64)], 90).unwrap()));
    // A GPU that no compiler knows yet gets the driver's assembly language.
    let text = program::compile(STREAM, &[("HIDDEN", 64)], 999).unwrap();
    assert!(String::from_utf8_lossy(&text).contains(".visible .entry kernel_rms_norm("));
    let broken = super::Source {
        name: "broken.cu",
        text: "#line 1 \"broken.cu\"\n\nKERNEL(broken, 32, float* x) { y; }",
    };
    let Err(GpuError::Compile { reason, .. }) = program::compile(broken, &[("HEAD", 64)], 90) else {
        panic!("it compiles")
    };
    assert!(reason.contains("broken.cu(2)") && reason.contains('y'), "{reason}");
}

#[test]
fn memory_that_is_not_there_is_refused() {
    let gpu = match open(0) {
        Ok(gpu) => gpu,
        Err(error) => {
            eprintln!("skipped: {error}");
            return;
        }
    };
    let refused = Buffer::<u32>::new(&gpu, 1 << 40);
    assert!(matches!(refused, Err(GpuError::OutOfMemory { bytes }) if bytes == 4 << 40), "{refused:?}");
    // The GPU can still be used, and what was given back is free again.
    let free = gpu.free_bytes().unwrap();
    let taken = Buffer::<u32>::zeros(&gpu, 64 << 20).unwrap();
    assert_eq!(taken.download(0..1).unwrap(), [0]);
    assert!(gpu.free_bytes().unwrap() <= free - (256 << 20));
    drop(taken);
    // What waits also sees to it that all before it is done.
    let one = Buffer::<u32>::zeros(&gpu, 1).unwrap();
    one.download(0..1).unwrap();
    drop(one);
    assert!(gpu.free_bytes().unwrap() >= free - (1 << 20));
}
