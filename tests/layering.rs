//! The edges between the crates are the allowed ones: `cli → { tasks → { engine, lm }, cluster → engine, remote }`, and
//! `{ engine, cluster, remote } → cache`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Manifest folder, and the crates of ours that it may name. The command line may also name what lies below `tasks`,
/// but neither the model runtime nor the libraries that only one crate is meant to know.
const ALLOWED: [(&str, &[&str]); 7] = [
    (".", &["dag-tasks", "dag-cluster", "dag-engine", "dag-cache", "dag-remote"]),
    ("cluster", &["dag-engine", "dag-cache"]),
    ("tasks", &["dag-engine", "dag-lm"]),
    ("engine", &["dag-cache"]),
    ("lm", &[]),
    ("cache", &[]),
    ("remote", &["dag-cache"]),
];

/// Libraries that belong to some crates only.
const CONFINED: [(&str, &[&str]); 9] = [
    ("sled", &["cache"]),
    ("candle-core", &["lm"]),
    ("candle-nn", &["lm"]),
    ("candle-transformers", &["lm"]),
    ("petgraph", &["engine"]),
    ("serde_yaml", &["engine"]),
    ("clap", &["."]),
    ("tokio", &["cluster", "remote", "tasks"]),
    ("object_store", &["remote"]),
];

/// The names under `[dependencies]` of a manifest; the root's other tables are not dependencies of the command line.
fn dependencies(folder: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap();
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with('[') {
            inside = line == "[dependencies]"
                || (line.starts_with("[target.") && line.ends_with(".dependencies]"));
        } else if let (true, Some((name, _))) = (inside && !line.starts_with('#'), line.split_once('=')) {
            names.insert(name.trim().split('.').next().unwrap().to_owned());
        }
    }
    assert!(!names.is_empty(), "{} has no dependencies that this test can read", path.display());
    names
}

#[test]
fn crates_name_only_what_they_may() {
    for (folder, allowed) in ALLOWED {
        for name in dependencies(folder).iter().filter(|name| name.starts_with("dag-")) {
            assert!(allowed.contains(&name.as_str()), "`{folder}` must not depend on `{name}`");
        }
    }
}

#[test]
fn libraries_stay_where_they_belong() {
    for (folder, _) in ALLOWED {
        let names = dependencies(folder);
        for (library, homes) in CONFINED {
            assert!(
                !names.contains(library) || homes.contains(&folder),
                "`{folder}` must not depend on `{library}`"
            );
        }
    }
}

#[test]
fn every_crate_is_a_default_member() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let list = |key: &str| {
        manifest
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .map(|list| list.trim_start_matches([' ', '=']).to_owned())
    };
    let members = list("members").expect("the workspace lists its members");
    assert_eq!(
        list("default-members").as_deref(),
        Some(members.as_str()),
        "plain `cargo test` would skip a crate"
    );
    for (folder, _) in ALLOWED {
        assert!(members.contains(&format!("\"{folder}\"")), "`{folder}` is no member");
    }
}
