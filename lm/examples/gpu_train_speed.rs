//! Speed and memory of training on a GPU: a Llama of 1.1 billion random weights, on packs of several lengths.
//!
//! `cargo run --release -p dag-lm --features cuda --example gpu_train_speed -- [GPU]`
#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::time::Instant;

use dag_lm::model::Config;
use dag_lm::train::{Pack, Recompute, TrainConfig, Trainer};

/// Packs of a step, the tokens of each, and steps to measure.
const SHAPES: [(usize, usize, usize); 3] = [(4, 1024, 20), (2, 2048, 20), (1, 60_000, 3)];
const GIB: f64 = (1_u64 << 30) as f64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gpu: usize = std::env::args().nth(1).map_or(Ok(0), |gpu| gpu.parse())?;
    let mut model = Config::small(32_768, 2048, 16, 64, 65_536);
    model.num_key_value_heads = Some(8);
    model.intermediate_size = 8192;
    model.tie_word_embeddings = false;
    let start = Instant::now();
    let mut trainer = Trainer::with_random_weights(&model, &TrainConfig::new(1000, 1e-5), gpu)?;
    let weights = trainer.gpu_bytes().unwrap_or(0) as f64 / GIB;
    println!(
        "there after {:.1} s: {weights:.2} GiB of weights, gradients and moments",
        start.elapsed().as_secs_f64()
    );
    println!(
        "packs x tokens, activations: tokens/s, ms a step; ms of it forward; GiB in all; loss of the first and last step"
    );
    // Memory only grows: what needs least comes first.
    for recompute in [Recompute::Always, Recompute::Never] {
        for (packs, tokens, steps) in SHAPES {
            if recompute == Recompute::Never && tokens > 16_384 {
                // More than 55 GiB of activations.
                continue;
            }
            trainer.set_recompute(recompute);
            measure(&mut trainer, recompute, packs, tokens, steps)?;
        }
    }
    Ok(())
}

fn measure(
    trainer: &mut Trainer,
    recompute: Recompute,
    packs: usize,
    tokens: usize,
    steps: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let packs: Vec<Pack> = (0..packs as u32).map(|number| pack(number, tokens as u32)).collect();
    let step: Vec<&Pack> = packs.iter().collect();
    // The first step makes room, the second finds cuBLAS's kernels loaded.
    let first = trainer.step(&step)?.loss;
    let mut last = trainer.step(&step)?.loss;
    let start = Instant::now();
    for _ in 0..steps {
        last = trainer.step(&step)?.loss;
    }
    let seconds = start.elapsed().as_secs_f64() / steps as f64;
    let start = Instant::now();
    for _ in 0..steps {
        trainer.score(&packs)?;
    }
    let forward = start.elapsed().as_secs_f64() / steps as f64;
    let memory = trainer.gpu_bytes().unwrap_or(0) as f64 / GIB;
    let activations = if recompute == Recompute::Always { "computed again" } else { "kept" };
    println!(
        "{} x {tokens}, {activations}: {:.0}, {:.1}; {:.1}; {memory:.2}; {first:.3} {last:.3}",
        packs.len(),
        (packs.len() * tokens) as f64 / seconds,
        seconds * 1e3,
        forward * 1e3,
    );
    Ok(())
}

/// One sample, all of it labels but the first token.
fn pack(number: u32, tokens: u32) -> Pack {
    let mut state = number.wrapping_mul(2_654_435_769) | 1;
    let token = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state % 32_768
    };
    Pack {
        tokens: (0..tokens).map(token).collect(),
        loss_mask: (0..tokens).map(|place| u8::from(place > 0)).collect(),
        starts: vec![0],
    }
}
