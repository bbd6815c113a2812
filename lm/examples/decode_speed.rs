//! Seconds of prefill and decoding, on request; `scripts/bench_decode.py` compares them with those of transformers.
//!
//! `cargo run --release --example decode_speed -- MODEL THREADS [float32|cuda]` loads a model directory or a GGUF file, whose
//! weights stay as they are stored or, with `float32`, become 32-bit numbers; with `cuda` the first GPU computes. For every
//! line `BATCH PROMPT TOKENS` on its standard input answers BATCH prompts of PROMPT tokens with TOKENS tokens each, greedily. It
//! writes two numbers: the seconds until all have their first token, and the seconds of the other tokens.

#![expect(clippy::print_stdout, reason = "an example's output")]

use std::error::Error;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use dag_lm::device::Device;
use dag_lm::generate::{Limits, Request, generate};
use dag_lm::model::{Model, Precision};
use dag_lm::sampler::Sampling;
use dag_lm::tokenizer::Tokenizer;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (path, threads, how) = match arguments.as_slice() {
        [path, threads] => (path, threads, ""),
        [path, threads, how] if ["float32", "cuda"].contains(&how.as_str()) => (path, threads, how.as_str()),
        _ => return Err("usage: decode_speed MODEL THREADS [float32|cuda]".into()),
    };
    let (path, threads) = (PathBuf::from(path), threads.parse()?);
    let precision = if how == "float32" { Precision::Float32 } else { Precision::AsStored };
    let device = if how == "cuda" { Device::Cuda(0) } else { Device::Cpu { threads } };
    let model = Model::load(&path, precision, &device)?;
    let ids = model.config().vocab_size.min(41_000) as u32 - 1000;
    let tokenizer = Tokenizer::load(&path)?;
    for line in std::io::stdin().lines() {
        let numbers: Vec<usize> = line?.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [batch, prompt, tokens] = numbers[..] else { return Err("a line is BATCH PROMPT TOKENS".into()) };
        let seconds = |tokens: usize| -> Result<f64, Box<dyn Error>> {
            let requests = (0..batch).map(|index| Request {
                prompt: (0..prompt)
                    .map(|place| 1000 + (index * 7919 + place * 104_729) as u32 % ids)
                    .collect(),
                samples: vec![0],
                sampling: Sampling::GREEDY,
                max_tokens: tokens,
                stop_tokens: vec![],
                stop: vec![],
                thinking: None,
            });
            let start = Instant::now();
            let flow =
                generate(&model, &tokenizer, requests, &Limits::new(batch, threads), &mut |finished| {
                    assert_eq!(finished.tokens.len(), tokens, "nothing ends a response early");
                    ControlFlow::Continue(())
                })?;
            assert!(flow.is_continue());
            Ok(start.elapsed().as_secs_f64())
        };
        let first = seconds(1)?;
        println!("{first} {}", seconds(tokens)? - first);
    }
    Ok(())
}
