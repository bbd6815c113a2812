//! Loss and gradient norm of every step of a training, for comparison with other implementations.
//!
//! `cargo run --release -p dag-lm --example train_steps -- MODEL JOB OUT`: JOB is a JSON file
//! `{"config": {…}, "steps": [[pack, …], …]}` with the fields of `TrainConfig` and `Pack`. Writes a line
//! `loss gradient-norm` per step, and the trained model into the folder OUT.
#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::fs;
use std::path::PathBuf;

use dag_lm::device::Device;
use dag_lm::train::{Pack, TrainConfig, Trainer};
use serde::Deserialize;

/// A training, step by step.
#[derive(Deserialize)]
struct Job {
    config: TrainConfig,
    steps: Vec<Vec<Pack>>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<PathBuf> = std::env::args().skip(1).map(PathBuf::from).collect();
    let [model, job, out] = arguments.as_slice() else {
        return Err("usage: train_steps MODEL JOB OUT".into());
    };
    let Job { config, steps } = serde_json::from_slice(&fs::read(job)?)?;
    let mut trainer = Trainer::new(model, &config, &Device::Cpu { threads: 2 })?;
    for packs in &steps {
        let stats = trainer.step(&packs.iter().collect::<Vec<_>>())?;
        println!("{:.9} {:.9}", stats.loss, stats.grad_norm);
    }
    Ok(trainer.save_model(out)?)
}
