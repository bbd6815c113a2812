//! What can be told of CUDA without a GPU.

use super::super::driver::GpuError;
use super::super::sources::STREAM;
use super::{libraries, open, program};

#[test]
fn a_gpu_that_is_not_there_is_refused_with_a_next_step() {
    // No machine has a thousand: either the libraries or the driver refuse it.
    let Err(GpuError::Unavailable(reason)) = open(999) else { panic!("there is a GPU 999") };
    let known =
        ["LD_LIBRARY_PATH", "NVIDIA's driver", "CUDA_VISIBLE_DEVICES", "a newer driver", "does not start"];
    assert!(known.iter().any(|step| reason.contains(step)), "{reason}");
}

#[test]
fn the_compiler_gives_machine_code_and_says_what_is_wrong() {
    if let Err(error) = libraries::open_one("nvrtc", "") {
        eprintln!("skipped: {error}");
        return;
    }
    let code = program::compile(STREAM, &[], 90).unwrap();
    assert_eq!(code[..4], *b"\x7fELF");
    assert!(std::sync::Arc::ptr_eq(&code, &program::compile(STREAM, &[], 90).unwrap()));
    // A GPU that no compiler knows yet gets the driver's assembly language.
    let text = program::compile(STREAM, &[], 999).unwrap();
    assert!(String::from_utf8_lossy(&text).contains(".visible .entry rms_norm("));
    let broken = super::Source { name: "broken.cu", text: "\nKERNEL(broken, 32, float* x) { y; }" };
    let Err(GpuError::Compile { reason, .. }) = program::compile(broken, &[("HEAD", 64)], 90) else {
        panic!("it compiles")
    };
    assert!(reason.contains("broken.cu(2)") && reason.contains('y'), "{reason}");
}
