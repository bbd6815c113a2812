//! Tests that run inside something this machine starts for them: a cluster of Slurm, a head of Ray.
//!
//! A script of the repository makes it, in namespaces of its own, and runs this very binary in there, with tests that are
//! ignored elsewhere.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use crate::support::Sandbox;

/// Runs the ignored tests whose names begin with `tests` within what `scripts/SCRIPT run PLACE` makes. Skips, saying so,
/// where it cannot be had.
#[expect(clippy::print_stderr, reason = "a test that skips says so")]
pub(crate) fn run_within(script: &str, place: &OsStr, environment: &[(&str, &OsStr)], tests: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script);
    let check = Command::new(&path).arg("check").envs(environment.iter().copied()).output().unwrap();
    if !check.status.success() {
        let why = String::from_utf8_lossy(&check.stdout).trim().to_owned();
        eprintln!("skipped: {why}; `scripts/{script}` says what it needs");
        return;
    }
    let status = Command::new(&path)
        .arg("run")
        .arg(place)
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--test-threads=1", "--nocapture", tests])
        .status()
        .unwrap();
    if status.code() == Some(3) {
        eprintln!("skipped: what `scripts/{script}` starts does not come up here; what it said is above");
        return;
    }
    assert!(status.success(), "the tests within failed");
}

/// The same in a cluster of Slurm of two nodes.
pub(crate) fn run_on_slurm(tests: &str) {
    // A short path: munge refuses others.
    let folder = tempfile::Builder::new().prefix("dag-slurm").tempdir().unwrap();
    run_within("slurm_cluster.sh", folder.path().as_os_str(), &[], tests);
}

/// Where the cluster is that this process runs in.
#[expect(clippy::disallowed_methods, reason = "the cluster says where it is by the environment")]
pub(crate) fn slurm() -> String {
    std::env::var("SLURM_CONF").expect("these tests run in a cluster: see `on_a_cluster_of_two_nodes`")
}

/// Starts `dag` beside the cluster, its words in `log`.
pub(crate) fn start(sandbox: &Sandbox, arguments: &[&str], log: &str) -> Child {
    let log = fs::File::options().create(true).append(true).open(sandbox.path(log)).unwrap();
    let mut command = sandbox.command(arguments);
    command.env("SLURM_CONF", slurm()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}
