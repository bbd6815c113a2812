//! Responses of ragged lengths: continuous batching against batches that wait for their longest response.
//!
//! `cargo run --release -p dag-lm --example ragged -- [MODEL [REQUESTS MEAN SLOTS THREADS ROUNDS]]`: MODEL is a model directory or
//! a GGUF file; without it, or as `tiny`, a model with 3 layers of width 64 and random weights. Lengths are log-normal with σ = 0.8
//! and the mean MEAN (400). The ways take turns, ROUNDS times:
//!
//! * `continuous`: a slot whose response is complete takes the next request;
//! * `draining`: requests in batches of SLOTS; complete rows leave the batch, and the next batch waits for the longest;
//! * `static`: the same, and every row is computed until the longest is complete, as a padded batch is.
//!
//! Rates count the tokens that were asked for.

#![expect(clippy::print_stdout, reason = "an example's output")]

use std::error::Error;
use std::f64::consts::TAU;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use dag_lm::device::Device;
use dag_lm::generate::{GenerateError, Limits, Request, generate};
use dag_lm::model::{Config, Model, Precision, init};
use dag_lm::sampler::Sampling;
use dag_lm::tokenizer::{Specials, Tokenizer};

const SIGMA: f64 = 0.8;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |place: usize, otherwise: usize| arguments.get(place).map_or(Ok(otherwise), |number| number.parse());
    let (count, mean, slots) = (number(1, 512)?, number(2, 400)?, number(3, 32)?);
    let (threads, rounds) = (number(4, 2)?, number(5, 3)?);
    let (model, tokenizer) = open(arguments.first().map_or("tiny", String::as_str), threads)?;
    let lengths = lengths(count, mean as f64, model.config().context() - 32);
    let prompt = tokenizer.encode("17*4-9+6?")?;
    let limits = Limits::new(slots, threads);
    let requests = |lengths: &[usize], longest: Option<usize>| -> Vec<Request> {
        let request = |(index, &length): (usize, &usize)| Request {
            prompt: prompt.clone(),
            samples: vec![index as u64],
            sampling: Sampling { temperature: 0.6, top_p: 0.95, ..Sampling::default() },
            max_tokens: longest.unwrap_or(length),
            stop_tokens: vec![],
            stop: vec![],
            thinking: None,
        };
        lengths.iter().enumerate().map(request).collect()
    };
    let answer = |requests: Vec<Request>| -> Result<(), GenerateError> {
        let flow =
            generate(&model, &tokenizer, requests.into_iter(), &limits, &mut |_| ControlFlow::Continue(()))?;
        assert!(flow.is_continue());
        Ok(())
    };
    let asked: usize = lengths.iter().sum();
    println!(
        "{count} requests, {asked} tokens, the longest {}; {slots} slots, {threads} threads",
        lengths.iter().max().unwrap_or(&0)
    );
    println!("continuous  draining  static  tokens/s;  continuous is faster by");
    for _ in 0..rounds {
        let mut rates = [0.0; 3];
        for (way, rate) in rates.iter_mut().enumerate() {
            let start = Instant::now();
            if way == 0 {
                answer(requests(&lengths, None))?;
            } else {
                for batch in lengths.chunks(slots) {
                    answer(requests(batch, batch.iter().max().copied().filter(|_| way == 2)))?;
                }
            }
            *rate = asked as f64 / start.elapsed().as_secs_f64();
        }
        let [continuous, draining, padded] = rates;
        println!(
            "{continuous:>10.0}  {draining:>8.0}  {padded:>6.0}            {:.2}× and {:.2}×",
            continuous / draining,
            continuous / padded
        );
    }
    Ok(())
}

fn open(model: &str, threads: usize) -> Result<(Model, Tokenizer), Box<dyn Error>> {
    let device = Device::Cpu { threads };
    if model != "tiny" {
        let path = PathBuf::from(model);
        return Ok((Model::load(&path, Precision::AsStored, &device)?, Tokenizer::load(&path)?));
    }
    let alphabet = "0123456789+-*=?;#, \nabcdefghijklmnopqrstuvwxyz";
    let tokenizer = Tokenizer::character(alphabet, &Specials::chat())?;
    let directory = std::env::temp_dir().join(format!("ragged-{}", std::process::id()));
    init(&Config::small(tokenizer.vocab_size(), 64, 3, 32, 4096), 1, &directory)?;
    let model = Model::load(&directory, Precision::AsStored, &device)?;
    std::fs::remove_dir_all(&directory)?;
    Ok((model, tokenizer))
}

/// Log-normal lengths with this mean, each from 1 to `longest`.
fn lengths(count: usize, mean: f64, longest: usize) -> Vec<usize> {
    let mut state = 17_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    };
    // By Box and Muller; the mean of a log-normal is exp(μ + σ²/2).
    let mut normal = || (-2.0 * uniform().ln()).sqrt() * (TAU * uniform()).cos();
    let location = mean.ln() - SIGMA * SIGMA / 2.0;
    (0..count).map(|_| ((location + SIGMA * normal()).exp() as usize).clamp(1, longest)).collect()
}
