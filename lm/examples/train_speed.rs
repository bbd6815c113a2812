//! Speed of a training step at the miniature's shape, and of the products inside it beside candle's own.
//!
//! `cargo run --release -p dag-lm --example train_speed -- [threads]`
#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::time::Instant;

use candle_core::Tensor;
use dag_lm::device::Device;
use dag_lm::kernels::matmul::Into;
use dag_lm::kernels::{Matrix, matmul};
use dag_lm::model::{Config, init};
use dag_lm::train::{Pack, TrainConfig, Trainer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let threads: usize = std::env::args().nth(1).map_or(Ok(1), |threads| threads.parse())?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    println!("product m×k×n: GFLOP/s here, GFLOP/s of candle");
    for (m, k, n) in [
        (1, 64, 512),
        (1, 512, 512),
        (8, 512, 512),
        (64, 64, 64),
        (512, 64, 192),
        (2048, 64, 352),
        (2048, 512, 512),
    ] {
        let rounds = (400_000_000 / (m * k * n)).max(1);
        let speed = |start: Instant| 2e-9 * (rounds * m * k * n) as f64 / start.elapsed().as_secs_f64();
        let (a, b) = (vec![0.5_f32; m * k], vec![0.25_f32; n * k]);
        let mut c = vec![0.0; m * n];
        let ours = pool.install(|| {
            let start = Instant::now();
            for _ in 0..rounds {
                matmul(&mut c, Matrix::new(&a, m, k), Matrix::new(&b, n, k).transposed(), Into::Replace);
            }
            speed(start)
        });
        let (a, b) = (
            Tensor::from_vec(a, (m, k), &candle_core::Device::Cpu)?,
            Tensor::from_vec(b, (n, k), &candle_core::Device::Cpu)?,
        );
        let theirs = pool.install(|| -> candle_core::Result<f64> {
            let start = Instant::now();
            for _ in 0..rounds {
                a.matmul(&b.t()?)?;
            }
            Ok(speed(start))
        })?;
        println!("{m:5}×{k}×{n}: {ours:.1} {theirs:.1}");
    }

    let dir = std::env::temp_dir().join(format!("train-speed-{}", std::process::id()));
    init(&Config::small(40, 64, 3, 32, 512), 1, &dir)?;
    let steps = 200;
    let mut trainer = Trainer::new(&dir, &TrainConfig::new(steps, 3e-3), &Device::Cpu { threads })?;
    std::fs::remove_dir_all(&dir)?;
    // Four samples of 128 tokens to a pack, four packs to a step.
    let tokens: Vec<u32> = (0..512_u32).map(|place| place * place % 37).collect();
    let loss_mask = (0..512).map(|place| u8::from(place % 128 > 20)).collect();
    let pack = Pack { tokens, loss_mask, starts: vec![0, 128, 256, 384] };
    let start = Instant::now();
    for _ in 0..steps {
        trainer.step(&[&pack; 4])?;
    }
    let step = start.elapsed().as_secs_f64() / steps as f64;
    println!("{threads} threads: {:.2} ms a step of 2048 tokens, {:.0} tokens/s", step * 1e3, 2048.0 / step);
    Ok(())
}
