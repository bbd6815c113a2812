//! A response is the same bytes in any company.

use std::collections::BTreeMap;

use super::*;
use crate::model::{Config, Decoder, Precision, Turn, init};
use crate::tokenizer::Specials;

const ALPHABET: &str = "0123456789+-*=?;#, \nabcdefghijklmnopqrstuvwxyz";
const CONTEXT: usize = 96;

pub(super) fn tokenizer() -> Tokenizer {
    Tokenizer::character(ALPHABET, &Specials::chat()).unwrap()
}

fn model(threads: usize) -> Model {
    Model::Cpu(Box::new(model_of(threads, CONTEXT)))
}

pub(super) fn model_of(threads: usize, context: usize) -> Decoder {
    let directory = tempfile::tempdir().unwrap();
    // More rows than tokens, as models pad their vocabularies.
    let mut config = Config::small(tokenizer().vocab_size() + 11, 32, 2, 16, context);
    config.num_key_value_heads = Some(1);
    init(&config, 3, directory.path()).unwrap();
    Decoder::load(directory.path(), Precision::AsStored, threads).unwrap()
}

/// A budget for thinking that the prompt has opened.
pub(super) fn thinking(tokenizer: &Tokenizer, tokens: usize) -> ThinkingBudget {
    ThinkingBudget { tokens, opened: true, close: tokenizer.encode("</think>").unwrap() }
}

/// Requests with prompts, parameters and lengths of many kinds.
fn requests(tokenizer: &Tokenizer) -> Vec<Request> {
    let request = |index: usize| Request {
        prompt: tokenizer.encode(&"<|user|>12+34*5?<|end|><|assistant|>".repeat(2)).unwrap()
            [..5 + (index * 7) % 12]
            .to_vec(),
        samples: (0..=index as u64 % 4).map(|sample| sample * 1000 + index as u64).collect(),
        sampling: match index % 3 {
            0 => Sampling { temperature: 0.9, top_p: 0.95, ..Sampling::default() },
            1 => Sampling { repetition_penalty: 1.4, ..Sampling::default() },
            _ => Sampling { temperature: 1.3, top_k: 9, min_p: 0.02, ..Sampling::default() },
        },
        max_tokens: [40, 7, 200, 0, 23][index % 5],
        stop_tokens: vec![tokenizer.eos_id().unwrap()],
        stop: if index % 4 == 1 { vec!["7".to_owned(), "ab".to_owned()] } else { vec![] },
        thinking: (index % 5 == 4).then(|| thinking(tokenizer, index % 7)),
    };
    (0..23).map(request).collect()
}

type Responses = BTreeMap<(usize, usize), Finished>;

fn run(model: &Model, requests: Vec<Request>, limits: &Limits) -> Responses {
    let mut responses = Responses::new();
    let flow = generate(model, &tokenizer(), requests.into_iter(), limits, &mut |finished| {
        let key = (finished.request, finished.sample);
        assert!(responses.insert(key, finished).is_none(), "{key:?} came twice");
        ControlFlow::Continue(())
    });
    assert!(flow.unwrap().is_continue());
    responses
}

fn bits(responses: &Responses) -> Vec<u64> {
    responses.values().flat_map(|finished| &finished.logprobs).map(|logprob| logprob.to_bits()).collect()
}

#[test]
fn slots_threads_and_memory_change_no_bit() {
    let requests = requests(&tokenizer());
    let expected = run(&model(1), requests.clone(), &Limits::new(1, 1));
    assert_eq!(expected.len(), requests.iter().map(|request| request.samples.len()).sum::<usize>());
    for (slots, threads, cache_bytes) in
        [(7, 1, usize::MAX), (32, 1, usize::MAX), (1, 2, 0), (7, 2, 60_000), (32, 2, 0)]
    {
        let found = run(
            &model(threads),
            requests.clone(),
            &Limits { slots, threads, cache_bytes: Some(cache_bytes) },
        );
        assert_eq!(found, expected, "{slots} slots, {threads} threads");
        assert_eq!(bits(&found), bits(&expected));
    }
}

#[test]
fn the_order_of_requests_changes_no_bit() {
    let requests = requests(&tokenizer());
    let expected = run(&model(1), requests.clone(), &Limits::new(5, 1));
    let reversed = run(&model(1), requests.iter().cloned().rev().collect(), &Limits::new(5, 2));
    for ((request, sample), finished) in &reversed {
        let other = &expected[&(requests.len() - 1 - request, *sample)];
        assert_eq!(
            (&finished.tokens, finished.logprob_sum().to_bits()),
            (&other.tokens, other.logprob_sum().to_bits())
        );
    }
    // Half of the samples now, the others later: an interruption in effect.
    let half = |keep: usize| {
        let mut half = requests.clone();
        for request in &mut half {
            let mut index = 0;
            request.samples.retain(|_| {
                index += 1;
                index % 2 == keep
            });
        }
        run(&model(1), half, &Limits::new(4, 1))
    };
    let (odd, even) = (half(1), half(0));
    for ((request, sample), finished) in &expected {
        let other = if sample % 2 == 0 { &odd } else { &even };
        assert_eq!(finished.tokens, other[&(*request, sample / 2)].tokens);
    }
}

#[test]
fn responses_end_as_they_should() {
    let tokenizer = tokenizer();
    let requests = requests(&tokenizer);
    let responses = run(&model(1), requests.clone(), &Limits::new(8, 1));
    let mut reasons = [0; 4];
    for ((request, _), finished) in &responses {
        let request = &requests[*request];
        let room = request.max_tokens.min(CONTEXT - request.prompt.len());
        let whole = tokenizer.decode(&finished.tokens).unwrap();
        let last_is_stop = finished.tokens.last().is_some_and(|token| request.stop_tokens.contains(token));
        let stopped_by = request.stop.iter().filter_map(|stop| whole.find(stop.as_str())).min();
        assert!(finished.tokens.len() <= room);
        assert!(finished.tokens.iter().all(|&token| (token as usize) < tokenizer.vocab_size()));
        match (last_is_stop, stopped_by) {
            (_, Some(end)) => {
                assert_eq!((finished.reason, finished.text.as_str()), (FinishReason::Stop, &whole[..end]));
                reasons[0] += 1;
            }
            (true, None) => {
                assert_eq!(
                    (finished.reason, format!("{}<|end|>", finished.text)),
                    (FinishReason::Stop, whole)
                );
                reasons[1] += 1;
            }
            (false, None) => {
                assert_eq!((finished.reason, finished.tokens.len()), (FinishReason::Length, room));
                assert_eq!(finished.text, whole);
                reasons[if room == request.max_tokens { 2 } else { 3 }] += 1;
            }
        }
    }
    assert!(reasons.iter().all(|&count| count > 0), "every way to end is tried: {reasons:?}");
}

#[test]
fn decoding_gives_the_logits_of_one_pass() {
    let decoder = model_of(1, CONTEXT);
    let (tokenizer, model) = (tokenizer(), model(1));
    let prompt = tokenizer.encode("<|user|>1+2?<|end|><|assistant|>").unwrap();
    let request = Request {
        prompt: prompt.clone(),
        samples: vec![9],
        sampling: Sampling::default(),
        max_tokens: 50,
        stop_tokens: vec![],
        stop: vec![],
        thinking: None,
    };
    let responses = run(&model, vec![request], &Limits::new(1, 1));
    let finished = &responses[&(0, 0)];
    // Every prefix in a pass of its own; the log-probabilities add up to the same bits.
    let mut sampler = crate::sampler::Sampler::default();
    assert_eq!(finished.tokens.len(), finished.logprobs.len());
    for (position, &token) in finished.tokens.iter().enumerate() {
        let prefix = [&prompt, &finished.tokens[..position]].concat();
        let logits = decoder.forward(&mut [Turn { cache: &mut decoder.cache(), tokens: &prefix }]);
        let drawn = sampler
            .draw(&logits[..tokenizer.vocab_size()], &Sampling::default(), [].into_iter(), 9, position as u64)
            .unwrap();
        assert_eq!(drawn.token, token);
        assert_eq!(drawn.logprob.to_bits(), finished.logprobs[position].to_bits());
    }
}

#[test]
fn thinking_ends_where_its_budget_does() {
    let (tokenizer, model) = (tokenizer(), model(1));
    let close = tokenizer.id("</think>").unwrap();
    let request = |thinking| Request {
        prompt: tokenizer.encode("<|user|>1+2?<|end|><|assistant|><think>").unwrap(),
        samples: (0..20).collect(),
        sampling: Sampling::default(),
        max_tokens: 40,
        stop_tokens: vec![tokenizer.eos_id().unwrap()],
        stop: vec![],
        thinking,
    };
    let free = run(&model, vec![request(None)], &Limits::new(4, 1));
    let mut forced = 0;
    for budget in [0, 1, 9] {
        let bound = run(&model, vec![request(Some(thinking(&tokenizer, budget)))], &Limits::new(4, 1));
        for (key, finished) in bound {
            let free = &free[&key];
            let ended = free.tokens.iter().position(|&token| token == close).unwrap_or(free.tokens.len());
            if ended <= budget {
                continue;
            }
            // As without a budget until it is spent; then the tag, with the log-probability it had; then on.
            assert_eq!(
                (&finished.tokens[..budget], finished.tokens[budget]),
                (&free.tokens[..budget], close)
            );
            assert_eq!(finished.logprobs[..budget], free.logprobs[..budget]);
            assert!(finished.logprobs[budget] < 0.0);
            assert!(finished.tokens.len() > budget + 1 || finished.reason == FinishReason::Length);
            forced += 1;
        }
    }
    assert!(forced > 30, "{forced}");
}

#[test]
fn the_receiver_may_stop_it() {
    for threads in [1, 2] {
        let (tokenizer, model) = (tokenizer(), model(1));
        let endless = requests(&tokenizer).into_iter().cycle();
        let mut received = 0;
        let flow = generate(&model, &tokenizer, endless, &Limits::new(6, threads), &mut |_| {
            received += 1;
            if received == 10 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(flow.unwrap().is_break());
        assert_eq!(received, 10);
    }
}

#[test]
fn requests_that_cannot_be_answered_are_errors() {
    let (tokenizer, model) = (tokenizer(), model(1));
    let fault = |change: &dyn Fn(&mut Request)| {
        let mut requests = requests(&tokenizer);
        change(&mut requests[4]);
        let fault = generate(&model, &tokenizer, requests.into_iter(), &Limits::new(3, 2), &mut |_| {
            ControlFlow::Continue(())
        });
        fault.unwrap_err().to_string()
    };
    assert_eq!(fault(&|request| request.prompt.clear()), "the prompt of request 4 is empty");
    assert_eq!(
        fault(&|request| request.prompt = vec![1; CONTEXT]),
        "the prompt of request 4 has 96 tokens; the model's context is 96"
    );
    let foreign = fault(&|request| request.prompt[1] = 4000);
    assert!(foreign.starts_with("request 4 holds token 4000"), "{foreign}");
    let foreign = fault(&|request| request.thinking.as_mut().unwrap().close = vec![4000]);
    assert!(foreign.starts_with("request 4 holds token 4000"), "{foreign}");
    assert_eq!(fault(&|request| request.sampling.top_p = 2.0), "request 4: `top_p` cannot be 2");
}
