//! The one test binary: each file here drives the built `dag`, or reads the repository.
//!
//! One binary, because each would link the model runtime again; so every file must be listed below.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod batches;
mod cli_commands;
mod cli_errors;
mod cli_live;
mod cli_run;
mod cluster;
mod crash;
mod edit_matrix;
mod grading;
mod gsm8k_traces;
mod hub;
#[expect(dead_code, reason = "the library's own tests ask for more of it")]
#[path = "../tasks/src/hub/testing.rs"]
mod hub_server;
mod judge;
mod layering;
mod ledger;
mod main_job;
mod mock;
mod money;
mod paper;
mod published;
mod ray;
mod regrade;
mod remote;
mod report;
mod reuse;
mod served;
mod services;
mod slurm;
mod smollm2;
mod store;
mod support;
mod tls;
mod trace;
mod trainers;

/// A file that is not listed would never be compiled, and its tests would pass by not existing.
#[test]
fn every_file_here_is_listed() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let listed = std::fs::read_to_string(folder.join("main.rs")).unwrap();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let is_module = path.extension().is_some_and(|extension| extension == "rs") && name != "main";
        if is_module || path.join("mod.rs").exists() {
            assert!(listed.contains(&format!("mod {name};")), "tests/main.rs does not list `{name}`");
        }
    }
}
