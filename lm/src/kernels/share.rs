//! Sharing one piece of work out to the threads of the current pool, in contiguous ranges.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

/// Ranges per thread: more than one, so that a thread slowed down by other work on the machine is not waited for.
const RANGES_PER_THREAD: usize = 3;

/// Calls `run` on ranges that cover `0..total`, each at least `grain` long (but for the last) and starting at a multiple of it.
///
/// `run` must give the same results however the range is cut.
pub(crate) fn share(total: usize, grain: usize, run: impl Fn(Range<usize>) + Sync) {
    let grains = total.div_ceil(grain.max(1));
    let threads = rayon::current_num_threads();
    let pieces = if threads == 1 { 1 } else { grains.min(threads * RANGES_PER_THREAD) };
    if pieces <= 1 {
        return run(0..total);
    }
    let bound = |piece: usize| (piece * grains / pieces * grain).min(total);
    (0..pieces).into_par_iter().for_each(|piece| run(bound(piece)..bound(piece + 1)));
}

/// A mutable slice that several threads write at once, each its own places.
pub(crate) struct Shared<'a> {
    pointer: *mut f32,
    length: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: access goes through `slice`, whose caller promises that no two threads touch the same place.
unsafe impl Sync for Shared<'_> {}
// SAFETY: as above; `f32` has no thread affinity.
unsafe impl Send for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(crate) fn new(slice: &'a mut [f32]) -> Self {
        Self { pointer: slice.as_mut_ptr(), length: slice.len(), borrow: PhantomData }
    }

    /// Number of places.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// The first place, for a caller that writes rows interleaved with those of other threads.
    pub(crate) fn pointer(&self) -> *mut f32 {
        self.pointer
    }

    /// The places `range`.
    ///
    /// # Safety
    /// While the returned slice lives, nothing else reads or writes `range`.
    #[expect(
        clippy::mut_from_ref,
        reason = "this is the point of the type; the caller keeps the ranges disjoint"
    )]
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &mut [f32] {
        assert!(
            range.start <= range.end && range.end <= self.length,
            "range {range:?} lies outside {} places",
            self.length
        );
        // SAFETY: in bounds by the assertion, exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn ranges_cover_everything_once() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        for total in [0, 1, 7, 64, 1000] {
            for grain in [1, 4, 100] {
                let seen = Mutex::new(vec![0; total]);
                pool.install(|| {
                    share(total, grain, |range| {
                        assert!(range.is_empty() || range.start % grain == 0);
                        for place in range {
                            seen.lock().unwrap()[place] += 1;
                        }
                    });
                });
                assert!(seen.into_inner().unwrap().iter().all(|&times| times == 1));
            }
        }
    }
}
