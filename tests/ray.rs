//! Ray, for real: a head on this machine (`scripts/ray_cluster.sh`), in namespaces of its own.
//!
//! One test starts the head and runs, inside, this very binary with the test below that is ignored elsewhere.

use std::path::{Path, PathBuf};

use crate::cluster::run_within;
use crate::store;
use crate::support::experiments;

const FILE: &str = "experiments/smoke.yaml";

/// The virtual environment with Ray in it.
#[expect(clippy::disallowed_methods, reason = "Ray lies where the caller of the tests says")]
fn venv() -> PathBuf {
    let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools");
    let tools = std::env::var("DAG_TEST_TOOLS").map_or_else(|_| usual(), PathBuf::from);
    std::env::var("DAG_RAY_VENV").map_or_else(|_| tools.join("ray"), PathBuf::from)
}

#[test]
fn on_a_head_of_ray() {
    let venv = venv();
    run_within("ray_cluster.sh", venv.as_os_str(), &[("DAG_RAY_VENV", venv.as_os_str())], "ray::inside::");
}

mod inside {
    use super::*;

    #[test]
    #[ignore = "runs beside a head of Ray"]
    fn jobs_of_ray_give_the_bytes_of_a_local_run() {
        let (local, cluster) = (experiments(), experiments());
        local.dag(&["run", FILE]).expect(0);
        let on_ray = ["--set", "nodes.r1_traces.run.executor=ray", "--set", "nodes.size.run.executor=ray"];
        let arguments: Vec<&str> = ["run", FILE].into_iter().chain(on_ray).collect();
        let ran = cluster.dag(&arguments).expect(0);
        assert!(ran.stderr.contains("26 ran"), "{}", ran.stderr);
        let [here, there] = [&local, &cluster].map(|sandbox| {
            let mut records = store::records(&sandbox.path(".dag"));
            // `wc` prints the path of the file that it was given, and no two runs give it the same.
            records.retain(|_, record| !record.contains("\"kind\":\"command\""));
            records
        });
        assert_eq!(here.len(), 25);
        assert!(here == there, "the records differ");
        let jobs = std::fs::read_dir(cluster.path(".dag/jobs")).unwrap().count();
        assert_eq!(jobs, 2, "two nodes were jobs");
        // A failure is told in the words of the task.
        cluster.write(
            "wrong.yaml",
            "name: wrong\nnodes:\n  made:\n    task: command\n    with: { argv: [sh, -c, 'echo told >&2; exit 3'], outputs: [x] }\n    run: { executor: ray }\n",
        );
        let ran = cluster.dag(&["run", "wrong.yaml"]).expect(1);
        assert!(ran.stderr.contains("told"), "{}", ran.stderr);
    }
}
