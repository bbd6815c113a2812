//! Memory is bounded at every step, and what is stopped for it ends as if it had not been.

use std::collections::BTreeMap;

use super::super::desk::Worker as _;
use super::super::tests::{model_of, thinking, tokenizer};
use super::*;
use crate::sampler::Sampling;

const CONTEXT: usize = 400;

/// Long responses, by request and sample, what the caches took at most, and how often one was stopped.
fn run(
    model: &Decoder,
    slots: usize,
    cache_bytes: usize,
) -> (BTreeMap<(usize, usize), Finished>, usize, usize) {
    let tokenizer = tokenizer();
    let request = |index: usize| Request {
        prompt: tokenizer.encode(&"12+34*5?".repeat(1 + index * 3 % 11)).unwrap(),
        samples: (0..3).map(|sample| sample * 100 + index as u64).collect(),
        sampling: Sampling { repetition_penalty: 1.1, ..Sampling::default() },
        max_tokens: 150 + index * 40,
        stop_tokens: vec![],
        stop: vec![],
        thinking: index.is_multiple_of(2).then(|| thinking(&tokenizer, 130)),
    };
    let mut requests = (0..6).map(request).enumerate();
    let mut worker = Worker::new(model, &tokenizer, slots, cache_bytes);
    let (mut finished, mut peak, mut stops) = (BTreeMap::new(), 0, 0);
    loop {
        worker.admit().unwrap();
        while worker.wants_request() {
            let Some((number, request)) = requests.next() else { break };
            worker.take(number, request).unwrap();
            worker.admit().unwrap();
        }
        finished.extend(
            worker
                .take_finished()
                .into_iter()
                .map(|finished| ((finished.request, finished.sample), finished)),
        );
        if worker.is_idle() {
            return (finished, peak, stops);
        }
        let stopped = worker.stopped.len();
        worker.step().unwrap();
        stops += worker.stopped.len() - stopped;
        let caches = worker.running.iter().map(|running| model.cache_bytes(running.cache.capacity()));
        peak = peak.max(worker.kept() + caches.sum::<usize>());
    }
}

#[test]
fn caches_stay_within_their_bytes() {
    let model = model_of(1, CONTEXT);
    let (expected, unbounded, stops) = run(&model, 8, usize::MAX);
    assert_eq!((expected.len(), stops), (18, 0));
    let largest = model.cache_bytes(CONTEXT);
    for (slots, cache_bytes) in [(8, 4 * largest), (8, 2 * largest), (3, 2 * largest)] {
        assert!(cache_bytes < unbounded, "the bound matters");
        let (found, peak, stops) = run(&model, slots, cache_bytes);
        assert_eq!(found, expected);
        assert!(peak <= cache_bytes, "{peak} of {cache_bytes} bytes");
        assert!(stops > 0, "{slots} slots in {cache_bytes} bytes");
    }
    // Less than one sequence needs: then one at a time, beside the prompt that others start from.
    let (found, peak, _) = run(&model, 8, 0);
    assert_eq!(found, expected);
    assert!(peak <= 2 * largest, "{peak} bytes");
}

#[test]
fn threads_that_share_a_step_change_no_bit() {
    let model = model_of(1, CONTEXT);
    let (expected, ..) = run(&model, 5, usize::MAX);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let (found, ..) = pool.install(|| run(&model, 5, usize::MAX));
    assert_eq!(found, expected);
}

#[test]
fn what_is_counted_is_what_a_cache_takes() {
    let model = model_of(1, CONTEXT);
    let mut cache = model.cache();
    for tokens in [1, 16, 17, 300] {
        cache.reserve(tokens);
        assert_eq!(cache.allocated(), model.cache_bytes(cache.capacity()));
    }
}
