//! Memory and time of training steps on packs of one length.
//!
//! `cargo run --release -p dag-lm --example train_memory -- MODEL TOKENS SAMPLE RECOMPUTE [STEPS] [THREADS] [PACKS]`: PACKS packs
//! of TOKENS tokens a step, in samples of SAMPLE; `scripts/bench_train.py` compares it with PyTorch. MODEL is a path, or `small` for one of the miniature's shape; RECOMPUTE is `true`, `false` or
//! `auto`. Linux only: it reads its own peak from `/proc`.
#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::path::Path;
use std::time::Instant;

use dag_lm::device::Device;
use dag_lm::model::{Config, init};
use dag_lm::train::{Pack, Recompute, TrainConfig, Trainer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, tokens, sample, recompute, rest @ ..] = arguments.as_slice() else {
        return Err(
            "usage: train_memory MODEL TOKENS SAMPLE true|false|auto [STEPS] [THREADS] [PACKS]".into()
        );
    };
    let (tokens, sample): (u32, usize) = (tokens.parse()?, sample.parse()?);
    let number = |index: usize, default| rest.get(index).map_or(Ok(default), |text| text.parse::<usize>());
    let (steps, threads, packs) = (number(0, 1)?, number(1, 2)?, number(2, 1)?);
    let folder = std::env::temp_dir().join(format!("train-memory-{}", std::process::id()));
    let is_small = model == "small";
    if is_small {
        init(&Config::small(40, 64, 3, 32, 1 << 17), 1, &folder)?;
    }
    let path = if is_small { folder.as_path() } else { Path::new(model) };
    let mut trainer = Trainer::new(path, &TrainConfig::new(steps as u64, 1e-5), &Device::Cpu { threads })?;
    if is_small {
        std::fs::remove_dir_all(&folder)?;
    }
    trainer.set_recompute(match recompute.as_str() {
        "true" => Recompute::Always,
        "false" => Recompute::Never,
        _ => Recompute::Auto,
    });
    let loaded = peak()?;
    let vocabulary = trainer.model().vocab_size as u32;
    let pack = Pack {
        tokens: (0..tokens).map(|place| place.wrapping_mul(2_654_435_761) % vocabulary).collect(),
        // Three quarters are labels, as the responses of a pack are.
        loss_mask: (0..tokens as usize).map(|place| u8::from(place % sample > sample / 4)).collect(),
        starts: (0..tokens).step_by(sample).collect(),
    };
    for step in 1..=steps {
        let start = Instant::now();
        let stats = trainer.step(&vec![&pack; packs])?;
        println!("step {step}: {:.3} s, loss {:.6}", start.elapsed().as_secs_f64(), stats.loss);
    }
    println!("{loaded:.2} GiB after loading, {:.2} GiB at most", peak()?);
    Ok(())
}

/// The largest resident size so far, in GiB.
fn peak() -> Result<f64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .ok_or("no peak in `/proc/self/status`")?;
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes / f64::from(1 << 20))
}
