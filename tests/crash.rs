//! Killed at random instants of the whole run, it ends with the bytes of a run that was left alone, and nothing is done twice
//! that was kept.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::store;
use crate::support::{SMALL, Sandbox, experiments, kill};

const FILE: &str = "experiments/mistral-nemo.yaml";
/// Steps of a training between two checkpoints.
const CHECKPOINT_EVERY: u64 = 100;
/// Records that may be in flight in one node, which a kill may cost: the sequences decoded side by side.
const IN_FLIGHT: u64 = 16;

/// A generator of random numbers; its first number is its seed.
pub(crate) struct Random(u64);

impl Random {
    /// From the environment variable `DAG_CRASH_SEED`, or from the clock. It is printed, so that a failure can be repeated.
    #[expect(clippy::disallowed_methods, reason = "another run of the test shall try other instants")]
    #[expect(clippy::print_stderr, reason = "a failure is repeated with this number")]
    pub(crate) fn new() -> Self {
        let given = std::env::var("DAG_CRASH_SEED").ok().map(|text| text.parse().expect("a number"));
        let seed = given.unwrap_or_else(|| {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            since.unwrap().as_nanos() as u64
        });
        eprintln!("DAG_CRASH_SEED={seed}");
        Self(seed)
    }

    /// From a number, for what shall be the same every time.
    pub(crate) fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// From zero to below one (splitmix64).
    pub(crate) fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Runs the experiment to its end in one store; in another kills it `kills` times at instants spread over that time, then
/// lets it end; and compares.
#[expect(clippy::print_stderr, reason = "what was lost is worth reading where nothing fails, too")]
fn kill_and_compare(set: &[&str], kills: usize) {
    let arguments: Vec<&str> = ["run", FILE].into_iter().chain(set.iter().copied()).collect();
    let whole = experiments();
    let start = Instant::now();
    whole.dag(&arguments).expect(0);
    let length = start.elapsed();

    let mut random = Random::new();
    let mut instants: Vec<Duration> = (0..kills).map(|_| length.mul_f64(random.share())).collect();
    instants.sort();
    let broken = experiments();
    let mut before = Duration::ZERO;
    let mut killed = 0;
    for instant in instants {
        // Each run goes on where the last one was killed, so the gaps between the instants add up to the whole.
        let mut child = broken.start(&arguments);
        std::thread::sleep(instant.saturating_sub(before));
        before = instant;
        if child.try_wait().unwrap().is_none() {
            kill(&child, libc::SIGKILL);
            killed += 1;
        }
        child.wait().unwrap();
    }
    broken.dag(&arguments).expect(0);
    broken.dag(&["verify"]).expect(0);
    assert!(killed * 2 >= kills, "only {killed} of {kills} kills met a living process");

    let [kept, found] = [&whole, &broken].map(|sandbox| store::records(&sandbox.path(".dag")));
    assert!(kept.len() >= 20, "{} records", kept.len());
    let differ: Vec<(&String, Option<&String>)> = kept
        .iter()
        .map(|(action, record)| (record, found.get(action)))
        .filter(|(record, found)| *found != Some(*record))
        .collect();
    // The names are digests of what an action reads, so one other artifact makes every action after it another one.
    assert!(differ.is_empty() && kept.len() == found.len(), "not as without kills: {differ:#?}");
    for page in ["report.json", "table.csv", "loss.csv", "report.md"] {
        let path = format!("reports/mistral-nemo/{page}");
        assert_eq!(whole.read(&path), broken.read(&path), "{page}");
    }

    let [needed, logged] = [&whole, &broken].map(|sandbox| store::logged(&sandbox.path(".dag")));
    assert!(logged.values().all(|times| *times == 1), "a record is in the logs twice");
    assert!(needed.keys().eq(logged.keys()), "the records are those of a run without kills");
    let work = Work::of(&broken);
    let lost_records = work.records.saturating_sub(needed.len() as u64);
    eprintln!(
        "{killed} kills over {:.0} s: {} records needed, {} told as made; {} steps needed, {} told as made",
        length.as_secs_f64(),
        needed.len(),
        work.records,
        work.steps_needed,
        work.steps
    );
    assert!(lost_records <= killed as u64 * 2 * IN_FLIGHT, "{lost_records} records were made again");
    // Two nodes may be training when a kill comes.
    let lost_steps = work.steps - work.steps_needed;
    assert!(lost_steps <= killed as u64 * 2 * CHECKPOINT_EVERY, "{lost_steps} steps were made again");
    assert!(
        work.longest_setback <= CHECKPOINT_EVERY,
        "a training went back by {} steps, more than to its last checkpoint",
        work.longest_setback
    );
}

/// What all runs in a store did together, by their journals.
#[derive(Default)]
struct Work {
    records: u64,
    steps: u64,
    steps_needed: u64,
    longest_setback: u64,
}

impl Work {
    fn of(sandbox: &Sandbox) -> Self {
        let mut work = Self::default();
        let mut reached: BTreeMap<String, u64> = BTreeMap::new();
        for journal in store::journals(&sandbox.path(".dag")) {
            // The other kinds count the rows of their tables, which are no records of a log.
            let is_asking = |event: &&Value| event["kind"] == "sample" || event["kind"] == "evaluate";
            let started = journal.iter().filter(|event| event["event"] == "node_started").filter(is_asking);
            let counts = store::counts(&journal);
            work.records +=
                started.filter_map(|event| Some(counts.get(event["node"].as_str()?)?.0)).sum::<u64>();
            for (node, steps) in steps(&journal) {
                work.steps += steps.len() as u64;
                let reached = reached.entry(node).or_default();
                if let Some(first) = steps.first() {
                    work.longest_setback = work.longest_setback.max((*reached + 1).saturating_sub(*first));
                }
                *reached = steps.last().copied().unwrap_or(0).max(*reached);
            }
        }
        work.steps_needed = reached.values().sum();
        work
    }
}

/// The steps that each training made in one run.
fn steps(journal: &[Value]) -> BTreeMap<String, Vec<u64>> {
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for event in journal {
        for point in
            event["points"].as_array().into_iter().flatten().filter(|point| point["series"] == "loss")
        {
            let node = event["node"].as_str().unwrap().to_owned();
            found.entry(node).or_default().push(point["x"].as_f64().unwrap() as u64);
        }
    }
    found
}

#[test]
fn killed_again_and_again_it_ends_with_the_same_bytes() {
    kill_and_compare(&SMALL, 6);
}

/// `cargo test --release --test main -- --ignored --nocapture killed_at_twenty_instants`; a quarter of an hour on two cores.
#[test]
#[ignore = "runs the whole experiment twice and more"]
fn killed_at_twenty_instants_of_the_full_run() {
    kill_and_compare(&[], 20);
}
