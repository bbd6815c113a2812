//! Record logs against a map, whatever happens to their files.

#![expect(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dag_cache::{Digest, RecordLog, View, Writer};
use proptest::prelude::*;
use serde_json::json;

fn stream() -> Digest {
    Digest::of(b"a model")
}

fn open(root: &Path) -> (Writer, Arc<RecordLog>) {
    let writer = Writer::open(root).unwrap();
    let log = writer.record_log(&stream(), &json!({"model": "m"})).unwrap();
    (writer, log)
}

fn key(number: u8) -> Digest {
    Digest::of(&[number])
}

fn segments(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(View::open(root).layout().log(&stream())).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "segment"));
    paths.sort();
    paths
}

/// Leaves the log as a killed process would: nothing sealed, nothing synced.
fn abandon(root: &Path, entries: &[(u8, Vec<u8>)]) {
    let copy = tempfile::tempdir().unwrap();
    let (writer, log) = open(root);
    for (number, payload) in entries {
        log.put(&key(*number), payload).unwrap();
    }
    let unsealed = segments(root).pop();
    if let Some(path) = unsealed.filter(|_| !entries.is_empty()) {
        let kept = copy.path().join("kept");
        fs::copy(&path, &kept).unwrap();
        drop((log, writer));
        fs::copy(kept, path).unwrap();
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, Vec<u8>),
    Get(u8),
    Seal,
    Reopen,
    Sync,
}

fn step() -> impl Strategy<Value = Step> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        (0..5000_usize).prop_map(|length| b"a response that repeats itself; ".repeat(length / 32)),
        Just(b"DAGFDAGFDAGF".repeat(9)),
    ];
    prop_oneof![
        4 => (any::<u8>(), payload).prop_map(|(number, payload)| Step::Put(number, payload)),
        4 => any::<u8>().prop_map(Step::Get),
        1 => Just(Step::Seal),
        1 => Just(Step::Reopen),
        1 => Just(Step::Sync),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_log_is_a_map_that_keeps_the_first_value(steps in prop::collection::vec(step(), 1..80)) {
        let dir = tempfile::tempdir().unwrap();
        let mut model: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        let (mut writer, mut log) = open(dir.path());
        // Another process's view of the same stream.
        let (_other_writer, other) = open(dir.path());
        for step in steps {
            match step {
                Step::Put(number, payload) => {
                    log.put(&key(number), &payload).unwrap();
                    model.entry(number).or_insert(payload);
                }
                Step::Get(number) => {
                    prop_assert_eq!(log.get(&key(number)).unwrap(), model.get(&number).cloned());
                    prop_assert_eq!(other.get(&key(number)).unwrap(), model.get(&number).cloned());
                }
                Step::Seal => log.seal().unwrap(),
                Step::Sync => log.sync().unwrap(),
                Step::Reopen => {
                    drop((writer, log));
                    (writer, log) = open(dir.path());
                }
            }
        }
        drop((writer, log));
        let (writer, log) = open(dir.path());
        for (number, payload) in &model {
            let found = log.get(&key(*number)).unwrap();
            prop_assert_eq!(found.as_ref(), Some(payload));
        }
        prop_assert_eq!(log.faults(), []);
        let keys: Vec<Digest> = model.keys().map(|number| key(*number)).collect();
        let found = writer.find_logged(&keys).unwrap();
        prop_assert!(found.iter().map(Option::as_ref).eq(model.values().map(Some)));
    }

    #[test]
    fn harm_to_a_segment_costs_only_the_entries_it_hit(
        entries in prop::collection::btree_map(any::<u8>(), prop::collection::vec(any::<u8>(), 0..300), 1..20),
        sealed: bool,
        cut: bool,
        at: prop::sample::Index,
        bit in 0..8_u8,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let list: Vec<_> = entries.clone().into_iter().collect();
        abandon(dir.path(), &list);
        if sealed {
            // One more entry makes a second segment; sealing leaves the first as it is.
            let (_writer, log) = open(dir.path());
            log.seal().unwrap();
        }
        let path = segments(dir.path()).remove(0);
        let length = fs::metadata(&path).unwrap().len() as usize;
        let at = at.index(length);
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        if cut {
            file.set_len(at as u64).unwrap();
        } else {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at as u64).unwrap();
            file.write_all_at(&[byte[0] ^ (1 << bit)], at as u64).unwrap();
        }
        let (_writer, log) = open(dir.path());
        let mut lost = 0;
        for (number, payload) in &entries {
            match log.get(&key(*number)).unwrap() {
                Some(found) => prop_assert_eq!(&found, payload),
                None => lost += 1,
            }
        }
        if cut {
            let whole = entries.len() - lost;
            prop_assert!(at >= length || whole < entries.len());
        } else {
            prop_assert!(lost <= 1, "{lost} entries lost by one bit");
            prop_assert!(lost == 0 || !log.faults().is_empty() || at >= 64);
        }
        for (number, payload) in &entries {
            log.put(&key(*number), payload).unwrap();
            let found = log.get(&key(*number)).unwrap();
            prop_assert_eq!(found.as_ref(), Some(payload), "a lost entry can be stored again");
        }
    }
}

#[test]
fn a_flipped_byte_in_the_middle_is_found_and_later_entries_too() {
    let dir = tempfile::tempdir().unwrap();
    let payload = |number: u8| vec![number; 50];
    abandon(dir.path(), &(0..10).map(|number| (number, payload(number))).collect::<Vec<_>>());
    let path = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    // Frames are 64 + 50 bytes, after a header of 64: hit the header of the fourth and the body of the sixth.
    bytes[64 + 3 * 114 + 20] ^= 1;
    bytes[64 + 5 * 114 + 70] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (_writer, log) = open(dir.path());
    for number in 0..10 {
        let expected = (number != 3 && number != 5).then(|| payload(number));
        assert_eq!(log.get(&key(number)).unwrap(), expected, "entry {number}");
    }
    assert_eq!(log.faults().len(), 2);
    let report = dag_cache::verify::verify(dir.path(), false).unwrap();
    assert_eq!(report.entries, 9);
    assert_eq!(report.faults.len(), 2);
}

#[test]
fn many_segments_become_few_and_keep_everything() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..30_u8 {
        let (writer, log) = open(dir.path());
        log.put(&key(number), &[number; 10]).unwrap();
        writer.finish().unwrap();
        assert!(segments(dir.path()).len() < 10);
    }
    let (_writer, log) = open(dir.path());
    for number in 0..30_u8 {
        assert_eq!(log.get(&key(number)).unwrap(), Some(vec![number; 10]));
    }
}

#[test]
fn a_segment_of_another_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    abandon(dir.path(), &[(1, b"old".to_vec())]);
    let path = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[6] = 9;
    let checksum = *Digest::of(&bytes[..56]).as_bytes();
    bytes[56..64].copy_from_slice(&checksum[..8]);
    fs::write(&path, &bytes).unwrap();
    let (_writer, log) = open(dir.path());
    assert_eq!(log.get(&key(1)).unwrap(), None);
    assert_eq!(log.faults().len(), 1);
    for number in 0..20 {
        log.put(&key(number), b"new").unwrap();
        log.seal().unwrap();
    }
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(log.get(&key(1)).unwrap(), Some(b"new".to_vec()));
}

#[test]
fn intents_without_an_outcome_are_known_after_the_death_of_their_process() {
    let dir = tempfile::tempdir().unwrap();
    let (_living, other) = open(dir.path());
    other.intent(&key(9)).unwrap();
    {
        let (_writer, log) = open(dir.path());
        log.intent(&key(1)).unwrap();
        log.intent(&key(2)).unwrap();
        log.put(&key(2), b"an outcome").unwrap();
        log.intent(&key(3)).unwrap();
        log.void(&key(3)).unwrap();
        assert_eq!(log.unknown(), [], "what is in flight here or elsewhere is not unknown");
    }
    let (_writer, log) = open(dir.path());
    assert_eq!(log.unknown(), [key(1)]);
    for number in 20..40 {
        log.put(&key(number), b"x").unwrap();
        log.seal().unwrap();
    }
    assert_eq!(log.unknown(), [key(1)], "kept when segments are merged");
    log.put(&key(1), b"late").unwrap();
    assert_eq!(log.unknown(), []);
}

#[test]
fn a_key_is_claimed_by_one_and_waited_for_by_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (_writer, log) = open(dir.path());
    assert!(log.claim(&key(1)) && !log.claim(&key(1)) && log.claim(&key(2)));
    assert!(!log.wait(&key(1), Duration::from_millis(10)));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| log.wait(&key(1), Duration::from_mins(1)));
        log.put(&key(1), b"an outcome").unwrap();
        log.release(&key(1));
        assert!(waiting.join().unwrap());
    });
    assert!(log.claim(&key(1)));
}

#[test]
fn threads_share_one_log_and_no_key_is_stored_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, _keep) = open(dir.path());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let log = writer.record_log(&stream(), &json!({})).unwrap();
                for number in 0..=u8::MAX {
                    log.put(&key(number), &[number; 100]).unwrap();
                    assert_eq!(log.get(&key(number)).unwrap(), Some(vec![number; 100]));
                }
            });
        }
    });
    writer.finish().unwrap();
    let report = dag_cache::verify::verify(dir.path(), false).unwrap();
    assert_eq!((report.segments, report.entries, report.faults), (1, 256, vec![]));
}
