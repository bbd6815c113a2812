//! Tokens per second of generation with a small model, over slots and threads.
//!
//! `cargo run --release -p dag-lm --example generate_speed [HIDDEN SLOTS THREADS]`

#![expect(clippy::print_stdout, reason = "an example's output")]

use std::error::Error;
use std::ops::ControlFlow;
use std::time::Instant;

use dag_lm::device::Device;
use dag_lm::generate::{Limits, Request, generate};
use dag_lm::model::{Config, Model, Precision, init};
use dag_lm::sampler::Sampling;
use dag_lm::tokenizer::{Specials, Tokenizer};

fn main() -> Result<(), Box<dyn Error>> {
    let alphabet = "0123456789+-*=?;#, \nabcdefghijklmnopqrstuvwxyz";
    let tokenizer = Tokenizer::character(alphabet, &Specials::chat())?;
    let directory = std::env::temp_dir().join(format!("generate-speed-{}", std::process::id()));
    let chosen: Vec<usize> =
        std::env::args().skip(1).map(|number| number.parse()).collect::<Result<_, _>>()?;
    let table = [(1, 1), (16, 1), (32, 1), (64, 1), (16, 2), (32, 2), (64, 2)];
    let rows: Vec<[usize; 3]> = match chosen[..] {
        [hidden, slots, threads] => vec![[hidden, slots, threads]],
        _ => [64, 128]
            .into_iter()
            .flat_map(|hidden| table.map(|(slots, threads)| [hidden, slots, threads]))
            .collect(),
    };
    println!("hidden  slots  threads   tokens/s");
    for [hidden, slots, threads] in rows {
        init(&Config::small(tokenizer.vocab_size(), hidden, 3, 32, 512), 1, &directory)?;
        let model = Model::load(&directory, Precision::AsStored, &Device::Cpu { threads: 1 })?;
        let prompt = tokenizer.encode("<|user|>17*4-9+6?<|end|><|assistant|><think>\n")?;
        let requests = (0..60_u64).map(|index| Request {
            prompt: prompt.clone(),
            samples: (0..8).map(|sample| index * 8 + sample).collect(),
            sampling: Sampling { temperature: 0.6, top_p: 0.95, ..Sampling::default() },
            max_tokens: if slots == 1 { 20 } else { 100 + index as usize * 3 },
            stop_tokens: vec![],
            stop: vec![],
            thinking: None,
        });
        let (mut tokens, start) = (0, Instant::now());
        let flow = generate(&model, &tokenizer, requests, &Limits::new(slots, threads), &mut |finished| {
            tokens += finished.tokens.len();
            ControlFlow::Continue(())
        })?;
        assert!(flow.is_continue());
        println!(
            "{hidden:>6}  {slots:>5}  {threads:>7}  {:>9.0}",
            tokens as f64 / start.elapsed().as_secs_f64()
        );
    }
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}
