//! Many questions at once: a thread waits for an answer, so there are as many threads as questions on their way.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Does `work` for every item, on at most `most` threads.
pub(crate) fn each<T: Sync>(items: &[T], most: usize, work: impl Fn(&T) + Sync) {
    if let [only] = items {
        return work(only);
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..most.min(items.len()) {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(item);
                }
            });
        }
    });
}
