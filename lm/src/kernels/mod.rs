//! The arithmetic of the CPU runtime: plain loops over `f32` slices, vectorised by the compiler.
//!
//! Results are the same bytes whatever the thread count, the batch and the vector width, because
//!
//! * an element of a product is one chain of fused multiply-adds over the inner dimension, in order;
//! * a sum over a row uses [`math::LANES`] partial sums and one fixed tree, whatever the instruction set;
//! * threads share out rows and columns, never the terms of one sum.
//!
//! Every multiply-add that may be fused is written `mul_add`, so no instruction set rounds differently from another.

pub mod activation;
pub mod attention;
pub mod bias;
pub mod mamba;
pub mod math;
pub mod matmul;
pub mod norm;
pub mod quantised;
pub mod rope;
pub(crate) mod share;

pub use matmul::{Matrix, Panels, matmul, matmul_packed};

/// The widest instruction set that both the kernels and this machine know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Whatever the target guarantees.
    Baseline,
    /// 256-bit vectors with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 512-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// What this machine offers; the standard library caches the answer.
pub(crate) fn level() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
        {
            return Level::Avx512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Level::Avx2;
        }
    }
    Level::Baseline
}

/// Compiles a function once per [`Level`] and calls the widest at run time.
///
/// The body is ordinary Rust; the compiler vectorises each copy for its instruction set.
macro_rules! vectorised {
    ($($(#[$meta:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $output:ty)? $body:block)*) => {$(
        $(#[$meta])*
        $visibility fn $name($($argument: $type),*) $(-> $output)? {
            // Always, or the body would not be compiled inside each wrapper for its instruction set.
            #[inline(always)]
            fn body($($argument: $type),*) $(-> $output)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $type),*) $(-> $output)? { body($($argument),*) }
                #[target_feature(enable = "avx512f,avx2,fma")]
                fn avx512($($argument: $type),*) $(-> $output)? { body($($argument),*) }
                match $crate::kernels::level() {
                    // SAFETY: `level` saw the features that the wrapper is compiled for.
                    $crate::kernels::Level::Avx512 => return unsafe { avx512($($argument),*) },
                    // SAFETY: as above.
                    $crate::kernels::Level::Avx2 => return unsafe { avx2($($argument),*) },
                    $crate::kernels::Level::Baseline => {}
                }
            }
            body($($argument),*)
        }
    )*};
}
pub(crate) use vectorised;
