//! Speed and memory of training on a GPU: a Llama of 1.1 billion random weights, on packs of several lengths.
//!
//! `cargo run --release -p dag-lm --features cuda --example gpu_train_speed -- [GPU]`
#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::time::Instant;

use dag_lm::model::Config;
use dag_lm::train::{Pack, Recompute, TrainConfig, Trainer};

const GIB: f64 = (1_u64 << 30) as f64;
/// Steps that are measured, and tokens in all of them about.
const STEPS: usize = 20;
const TOKENS: usize = 200_000;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let gpu: usize = std::env::args().nth(1).map_or(Ok(0), |gpu| gpu.parse())?;
    let mut model = Config::small(32_768, 2048, 16, 64, 65_536);
    model.num_key_value_heads = Some(8);
    model.intermediate_size = 8192;
    model.tie_word_embeddings = false;
    let start = Instant::now();
    let mut trainer = Trainer::with_random_weights(&model, &TrainConfig::new(1000, 1e-5), gpu)?;
    println!("there after {:.1} s, {:.2} GiB", start.elapsed().as_secs_f64(), gibibytes(&trainer));
    println!("packs x tokens: tokens/s (ms a step), GiB in all, loss of the first and the last step");
    // Memory only grows: what needs least comes first.
    for (recompute, packs, tokens) in [
        (Recompute::Auto, 4, 1024),
        (Recompute::Auto, 2, 2048),
        (Recompute::Always, 4, 1024),
        (Recompute::Always, 2, 2048),
    ] {
        trainer.set_recompute(recompute);
        steps(&mut trainer, packs, tokens)?;
    }
    forward(&mut trainer, 4, 1024)?;
    trainer.set_recompute(Recompute::Auto);
    steps(&mut trainer, 1, 16_384)?;
    steps(&mut trainer, 1, 60_000)
}

fn gibibytes(trainer: &Trainer) -> f64 {
    trainer.gpu_bytes().unwrap_or(0) as f64 / GIB
}

/// Times whole steps.
fn steps(trainer: &mut Trainer, packs: usize, tokens: usize) -> Outcome<()> {
    let packs = random(packs, tokens);
    let step: Vec<&Pack> = packs.iter().collect();
    // The first step makes room, the second finds cuBLAS's kernels loaded.
    let first = trainer.step(&step)?.loss;
    let mut last = trainer.step(&step)?.loss;
    let count = (TOKENS / (packs.len() * tokens)).clamp(3, STEPS);
    let start = Instant::now();
    for _ in 0..count {
        last = trainer.step(&step)?.loss;
    }
    let seconds = start.elapsed().as_secs_f64() / count as f64;
    println!(
        "{} x {tokens}: {:.0} ({:.1}), {:.2}, {first:.3} {last:.3}",
        packs.len(),
        (packs.len() * tokens) as f64 / seconds,
        seconds * 1e3,
        gibibytes(trainer),
    );
    Ok(())
}

/// Times the way there alone, and the loss.
fn forward(trainer: &mut Trainer, packs: usize, tokens: usize) -> Outcome<()> {
    let packs = random(packs, tokens);
    trainer.score(&packs)?;
    let start = Instant::now();
    for _ in 0..STEPS {
        trainer.score(&packs)?;
    }
    let each = start.elapsed().as_secs_f64() / STEPS as f64;
    println!("{} x {tokens} forward alone, a pack at a time: {:.1} ms", packs.len(), each * 1e3);
    Ok(())
}

/// Packs of one sample, all of it labels but the first token.
fn random(packs: usize, tokens: usize) -> Vec<Pack> {
    let mut state = 1_u32;
    let mut token = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state % 32_768
    };
    let mut pack = || Pack {
        tokens: (0..tokens).map(|_| token()).collect(),
        loss_mask: (0..tokens).map(|place| u8::from(place > 0)).collect(),
        starts: vec![0],
    };
    (0..packs).map(|_| pack()).collect()
}
