//! What a GPU answers is what the CPU answers, with any number of slots and pages.

use std::collections::BTreeMap;

use super::super::desk::Worker as _;
use super::super::tests::{thinking, tokenizer};
use super::*;
use crate::gpu::tests::gpus;
use crate::model::{self, Config, Family, Model, Precision, of_family, varied};
use crate::sampler::{Sampler, Sampling};

const CONTEXT: usize = 150;

fn config(family: Family) -> Config {
    // More rows than tokens, as models pad their vocabularies.
    let mut config = Config::small(tokenizer().vocab_size() + 11, 48, 2, 16, CONTEXT);
    config.num_attention_heads = 4;
    config.num_key_value_heads = Some(2);
    of_family(config, family)
}

/// Prompts from one token to more than a page, with one sample and several.
fn requests(sampling: Sampling, tokens: usize) -> Vec<Request> {
    let tokenizer = tokenizer();
    let text = "12+34*5?abc#x=9;".repeat(9);
    let request = |(index, length): (usize, usize)| Request {
        prompt: tokenizer.encode(&text[index..index + length]).unwrap(),
        samples: (0..=index as u64 % 3).map(|sample| 100 * sample + index as u64).collect(),
        sampling,
        max_tokens: [tokens, 3, 0, tokens / 2][index % 4],
        stop_tokens: vec![tokenizer.eos_id().unwrap()],
        stop: vec![],
        thinking: (index == 4).then(|| thinking(&tokenizer, 2)),
    };
    [1, 7, 3, 64, 65, 130, 66].into_iter().enumerate().map(request).collect()
}

type Responses = BTreeMap<(usize, usize), Finished>;

fn run(model: &Model, requests: Vec<Request>, limits: &Limits) -> Result<Responses, GenerateError> {
    let mut responses = Responses::new();
    let flow = super::super::generate(model, &tokenizer(), requests.into_iter(), limits, &mut |finished| {
        let key = (finished.request, finished.sample);
        assert!(responses.insert(key, finished).is_none(), "{key:?} came twice");
        ControlFlow::Continue(())
    });
    flow.map(|_| responses)
}

#[test]
fn the_most_probable_responses_are_those_of_the_cpu() {
    for tested in gpus().into_iter().filter(|tested| tested.exact) {
        for family in [Family::Mistral, Family::Qwen2, Family::Qwen3, Family::Qwen3Moe, Family::NemotronH] {
            let directory = tempfile::tempdir().unwrap();
            varied(&config(family), 3, directory.path());
            let requests = requests(Sampling::GREEDY, 9);
            let limits = Limits::new(5, 2);
            let on_cpu = model::Decoder::load(directory.path(), Precision::Float32, 2).unwrap();
            let expected = run(&Model::Cpu(Box::new(on_cpu)), requests.clone(), &limits).unwrap();
            let on_gpu = Model::Gpu(Box::new(Decoder::load(directory.path(), &tested.gpu).unwrap()));
            let found = run(&on_gpu, requests, &limits).unwrap();
            assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
            for (key, expected) in &expected {
                let found = &found[key];
                assert_eq!(
                    (&found.tokens, &found.text, found.reason),
                    (&expected.tokens, &expected.text, expected.reason),
                    "{family:?} {key:?}"
                );
                for (found, expected) in found.logprobs.iter().zip(&expected.logprobs) {
                    assert!((found - expected).abs() < 1e-4, "{family:?} {key:?}: {found} {expected}");
                }
            }
        }
    }
}

#[test]
fn rounded_weights_change_little() {
    for tested in gpus() {
        let directory = tempfile::tempdir().unwrap();
        varied(&config(Family::Qwen3), 5, directory.path());
        let on_cpu = model::Decoder::load(directory.path(), Precision::Float32, 2).unwrap();
        let on_gpu = Model::Gpu(Box::new(Decoder::load(directory.path(), &tested.gpu).unwrap()));
        let requests = requests(Sampling::GREEDY, 6);
        let found = run(&on_gpu, requests.clone(), &Limits::new(9, 2)).unwrap();
        let (vocabulary, bound) = (tokenizer().vocab_size(), f64::from(tested.bound(1e-3, 0.15)));
        for ((request, sample), finished) in found {
            // What the CPU holds of the same tokens after the same ones.
            let mut seen = requests[request].prompt.clone();
            for (&token, logprob) in finished.tokens.iter().zip(finished.logprobs) {
                let logits = on_cpu.forward(&mut [model::Turn { cache: &mut on_cpu.cache(), tokens: &seen }]);
                let held = Sampler::default().force(&logits[..vocabulary], token).unwrap().logprob;
                assert!((held - logprob).abs() < bound, "{request} {sample}: {logprob} for {held}");
                seen.push(token);
            }
        }
    }
}

#[test]
fn slots_and_pages_change_no_response() {
    let Some(tested) = gpus().into_iter().next() else { return };
    let directory = tempfile::tempdir().unwrap();
    varied(&config(Family::Mistral), 3, directory.path());
    let decoder = Decoder::load(directory.path(), &tested.gpu).unwrap();
    let page = decoder.page_bytes();
    let model = Model::Gpu(Box::new(decoder));
    let requests = requests(Sampling { repetition_penalty: 1.2, ..Sampling::default() }, 12);
    let with = |slots, pages: Option<usize>| {
        let limits = Limits { cache_bytes: pages.map(|pages| pages * page), ..Limits::new(slots, 1) };
        let found = run(&model, requests.clone(), &limits).unwrap();
        found.into_iter().map(|(key, finished)| (key, finished.tokens)).collect::<Vec<_>>()
    };
    let expected = with(12, None);
    assert_eq!(expected.len(), requests.iter().map(|request| request.samples.len()).sum::<usize>());
    // The fewest there may be: what the longest sequence needs, and one.
    for (slots, pages) in [(1, None), (3, Some(0)), (12, Some(0)), (12, Some(6))] {
        assert_eq!(with(slots, pages), expected, "{slots} slots, {pages:?} pages");
    }
}

#[test]
fn where_pages_run_out_the_youngest_waits() {
    for tested in gpus() {
        let directory = tempfile::tempdir().unwrap();
        varied(&config(Family::Mistral), 3, directory.path());
        let decoder = Decoder::load(directory.path(), &tested.gpu).unwrap();
        let tokenizer = tokenizer();
        let request = |_| Request {
            prompt: tokenizer.encode(&"12+34*5?".repeat(7)).unwrap(),
            samples: vec![1, 2],
            sampling: Sampling::default(),
            max_tokens: 14,
            stop_tokens: vec![],
            stop: vec![],
            thinking: None,
        };
        let mut worker = Worker::new(&decoder, &tokenizer, 4, Some(0)).unwrap();
        (0..2).map(request).enumerate().for_each(|(number, request)| worker.take(number, request).unwrap());
        let (mut stops, mut finished) = (0, 0);
        while !worker.is_idle() {
            worker.admit().unwrap();
            let before = (worker.stopped.len(), worker.waiting.len());
            worker.step().unwrap();
            stops += usize::from((worker.stopped.len(), worker.waiting.len()) > before);
            // The first is never among those that wait.
            assert!(worker.stopped.iter().all(|sequence| sequence.rank() > (0, 0)));
            finished += worker.take_finished().len();
        }
        assert_eq!(finished, 4);
        assert!(stops > 0);
        let pages = worker.ledger.free();
        assert_eq!(pages, CONTEXT.div_ceil(PAGE) + 1, "all pages are free again");
    }
}

#[test]
fn sizes_without_kernels_are_refused() {
    let Some(tested) = gpus().into_iter().next() else { return };
    for (hidden, head, what) in
        [(36, 12, "a width that is no multiple of 8"), (48, 24, "heads of 24 elements")]
    {
        let directory = tempfile::tempdir().unwrap();
        varied(&Config::small(60, hidden, 1, head, 64), 3, directory.path());
        let error = Decoder::load(directory.path(), &tested.gpu).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn a_pass_begins_before_the_tokens_of_the_one_before_it_are_looked_at() {
    let Some(tested) = gpus().into_iter().next() else { return };
    let directory = tempfile::tempdir().unwrap();
    varied(&config(Family::Mistral), 3, directory.path());
    let decoder = Decoder::load(directory.path(), &tested.gpu).unwrap();
    let tokenizer = tokenizer();
    let mut worker = Worker::new(&decoder, &tokenizer, 2, None).unwrap();
    let request = Request {
        prompt: tokenizer.encode("12+34").unwrap(),
        samples: vec![1, 2],
        sampling: Sampling::default(),
        max_tokens: 6,
        stop_tokens: vec![],
        stop: vec![],
        thinking: None,
    };
    worker.take(0, request).unwrap();
    let mut ahead = 0;
    while !worker.is_idle() {
        worker.admit().unwrap();
        worker.step().unwrap();
        for running in worker.running.iter().filter(|running| running.row.is_some()) {
            assert_eq!(worker.session.ahead(), 1);
            assert_eq!(running.held, running.sequence.past().len() + 1, "one token is only on the GPU");
            ahead += 1;
        }
    }
    // Every token was awaited once.
    assert_eq!(ahead, 2 * 6);
    assert_eq!(worker.take_finished().len(), 2);
}
