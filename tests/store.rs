//! What a store holds, read from its files as `docs/cache-format.md` describes them and not through the code under test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// The record of every action, by its name. A record holds the digest of every artifact of its action.
pub(crate) fn records(store: &Path) -> BTreeMap<String, String> {
    let all = ["records", "provisional"].into_iter().flat_map(|folder| files(&store.join(folder)));
    all.map(|path| (name(&path), fs::read_to_string(&path).unwrap())).collect()
}

/// How often each key is in the record logs, by stream and key. Intents do not count.
pub(crate) fn logged(store: &Path) -> BTreeMap<(String, String), u32> {
    const HEADER: usize = 64;
    let mut found = BTreeMap::new();
    let segments = files(&store.join("logs"));
    for path in segments.iter().filter(|path| path.extension().is_some_and(|ending| ending == "segment")) {
        let stream = name(path.parent().unwrap());
        let bytes = fs::read(path).unwrap();
        let mut at = HEADER;
        // A torn frame at the end was never stored.
        while bytes.len() >= at + HEADER && bytes[at..].starts_with(b"DAGF") {
            let length = u32::from_le_bytes(bytes[at + 12..at + 16].try_into().unwrap()) as usize;
            let is_whole = bytes.len() >= at + HEADER + length;
            if is_whole && bytes[at + 4] == 0 {
                let key = blake3::Hash::from_slice(&bytes[at + 16..at + 48]).unwrap().to_hex().to_string();
                *found.entry((stream.clone(), key)).or_insert(0) += 1;
            }
            at += HEADER + length;
        }
    }
    found
}

/// The events of every run, oldest first.
pub(crate) fn journals(store: &Path) -> Vec<Vec<Value>> {
    let mut runs = files(&store.join("runs"));
    runs.retain(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    runs.sort();
    let events = |run: &PathBuf| {
        let text = fs::read_to_string(run).unwrap_or_default();
        // The last line of a killed run may be torn.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    runs.iter().map(events).collect()
}

/// Of one run, how many records each node made and how many it took from the store.
pub(crate) fn counts(journal: &[Value]) -> BTreeMap<String, (u64, u64)> {
    let mut counts = BTreeMap::new();
    for event in
        journal.iter().filter(|event| event["event"] == "node_progress" || event["event"] == "node_finished")
    {
        let number = |field: &str| event[field].as_u64().unwrap_or(0);
        // Totals of the node so far, so the last event says it all.
        counts.insert(event["node"].as_str().unwrap().to_owned(), (number("done"), number("reused")));
    }
    counts
}
