//! What tests of kernels share: GPUs to test on, and numbers to test with.

use half::bf16;

use super::Gpu;
use super::emulator::{self, Elements};

/// A GPU to test on.
pub(crate) struct Tested {
    pub(crate) gpu: Gpu,
    /// Whether its elements are 32-bit floats, so that only the order of sums distinguishes it from the CPU.
    pub(crate) exact: bool,
}

impl Tested {
    /// Numbers as the GPU holds them, for the CPU to compute with.
    pub(crate) fn rounded(&self, numbers: &[f32]) -> Vec<f32> {
        let round = |&number: &f32| if self.exact { number } else { bf16::from_f32(number).to_f32() };
        numbers.iter().map(round).collect()
    }

    /// The first bound where elements are floats, else the second.
    pub(crate) fn bound(&self, exact: f32, rounded: f32) -> f32 {
        if self.exact { exact } else { rounded }
    }
}

/// All GPUs there are to test on: the emulator with either kind of elements, where there is a C++ compiler; and, in a program
/// built with CUDA, a real one where there is one.
pub(crate) fn gpus() -> Vec<Tested> {
    let emulated = [Elements::Floats, Elements::Bf16].into_iter().filter_map(|elements| {
        Some(Tested { gpu: emulator::gpu(elements)?, exact: elements == Elements::Floats })
    });
    emulated.chain(real()).collect()
}

/// A real GPU with a stream of its own: what one test records must not catch what others ask for.
#[cfg(feature = "cuda")]
fn real() -> Option<Tested> {
    // One stays open, for the next is opened sooner then.
    static FIRST: std::sync::LazyLock<Option<Gpu>> = std::sync::LazyLock::new(|| {
        super::open(0).inspect_err(|error| eprintln!("not tested on a real GPU: {error}")).ok()
    });
    FIRST.as_ref()?;
    Some(Tested { gpu: super::open(0).unwrap(), exact: false })
}

#[cfg(not(feature = "cuda"))]
fn real() -> Option<Tested> {
    None
}

/// Numbers without a pattern, between -1 and 1.
pub(crate) fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_769).wrapping_add(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (f64::from(state) / f64::from(u32::MAX) * 2.0 - 1.0) as f32
    };
    (0..count).map(|_| next()).collect()
}

/// Whether two slices agree to within `bound`; a NaN agrees with nothing.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], expected: &[f32], bound: f32) {
    assert_eq!(got.len(), expected.len());
    for (place, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() <= bound, "place {place}: {got} instead of {expected}");
    }
}
