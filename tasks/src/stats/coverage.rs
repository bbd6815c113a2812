//! How often the 95 % intervals of a report hold the true value, by simulation.
//!
//! `cargo test --locked --lib -- stats::coverage --nocapture` prints what docs/statistics.md tells.
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::{Mean, bootstrap, mean, paired_difference, score_mean};

/// Simulated benchmarks for every number; the error of a coverage near 95 % is then half a point.
const RUNS: usize = 1_800;

/// Uniform between 0 and 1.
struct Chance(ChaCha8Rng);

impl Chance {
    fn draw(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The mean of so many samples of an item that is solved with this chance.
    fn sampled(&mut self, chance: f64, samples: u32) -> f64 {
        (0..samples).filter(|_| self.draw() < chance).count() as f64 / f64::from(samples)
    }

    /// The true score of an item of a benchmark whose mean is `mean`: a third of the items are always solved or never, the
    /// others with a chance in between, as those of real benchmarks are.
    fn item(&mut self, mean: f64) -> f64 {
        let certain = f64::from(u8::from(self.draw() < mean));
        if self.draw() < 1.0 / 3.0 { certain } else { mean + (certain - mean) * self.draw() }
    }
}

/// The share of `RUNS` in which `holds`; the means of the benchmarks go through 5 % to 95 %.
fn coverage(seed: u64, mut holds: impl FnMut(&mut Chance, f64) -> bool) -> f64 {
    let mut chance = Chance(ChaCha8Rng::seed_from_u64(seed));
    let held = (0..RUNS).filter(|run| holds(&mut chance, 0.05 + 0.9 * (*run % 19) as f64 / 18.0)).count();
    held as f64 / RUNS as f64
}

fn of_a_mean(items: usize, samples: u32, interval: fn(&[f64]) -> Option<Mean>) -> f64 {
    coverage(1, |chance, mean| {
        let scores: Vec<f64> = (0..items)
            .map(|_| {
                let item = chance.item(mean);
                chance.sampled(item, samples)
            })
            .collect();
        interval(&scores).unwrap().interval.unwrap().holds(mean)
    })
}

/// Of the difference of two arms that share their items: the second solves each less often by up to a fifth of its chance.
fn of_a_difference(items: usize, samples: u32, draws: Option<usize>) -> f64 {
    coverage(2, |chance, mean| {
        let scores = (0..items).map(|_| {
            let item = chance.item(mean);
            let other = item * (1.0 - 0.2 * chance.draw());
            (chance.sampled(item, samples), chance.sampled(other, samples))
        });
        let (a, b): (Vec<f64>, Vec<f64>) = scores.unzip();
        let truth = 0.1 * mean;
        match draws {
            Some(draws) => bootstrap(&a, &b, draws, 3).unwrap().interval.holds(truth),
            None => paired_difference(&a, &b).unwrap().interval.unwrap().holds(truth),
        }
    })
}

#[track_caller]
fn check(what: &str, found: f64) {
    println!("{what}: {:.1} %", 100.0 * found);
    assert!((0.93..=0.97).contains(&found), "{what}: {found}");
}

#[test]
fn of_a_proportion() {
    check("Wilson, 100 items, one sample each", of_a_mean(100, 1, score_mean));
    check("Wilson, 500 items, one sample each", of_a_mean(500, 1, score_mean));
    println!("Wilson, 30 items, one sample each: {:.1} %", 100.0 * of_a_mean(30, 1, score_mean));
}

#[test]
fn of_a_mean_of_eight_samples() {
    check("Wilson by effective size, 100 items, eight samples each", of_a_mean(100, 8, score_mean));
    println!("Student's t, 100 items, eight samples each: {:.1} %", 100.0 * of_a_mean(100, 8, mean));
    println!("Student's t, 30 items, eight samples each: {:.1} %", 100.0 * of_a_mean(30, 8, mean));
    println!(
        "Wilson by effective size, 30 items, eight samples each: {:.1} %",
        100.0 * of_a_mean(30, 8, score_mean)
    );
}

#[test]
fn of_paired_differences() {
    check("paired t, 100 items, one sample each", of_a_difference(100, 1, None));
    check("paired t, 100 items, eight samples each", of_a_difference(100, 8, None));
    println!("paired t, 30 items, one sample each: {:.1} %", 100.0 * of_a_difference(30, 1, None));
    println!("paired t, 30 items, eight samples each: {:.1} %", 100.0 * of_a_difference(30, 8, None));
}

#[test]
fn of_the_paired_bootstrap() {
    check("paired bootstrap, 100 items, eight samples each", of_a_difference(100, 8, Some(200)));
    println!(
        "paired bootstrap, 30 items, eight samples each: {:.1} %",
        100.0 * of_a_difference(30, 8, Some(200))
    );
}
