//! `command` run on real programs.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use dag_engine::Registry;
use serde_json::{Value, json};

use super::*;

fn params(value: Value) -> Params {
    serde_json::from_value(value).unwrap()
}

/// The same program wherever the tests run: without an environment nothing is found by its name alone.
fn program(name: &str) -> String {
    let found = ["/usr/bin", "/bin"]
        .map(|folder| Path::new(folder).join(name))
        .into_iter()
        .find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("`{name}` is needed for this test")).to_str().unwrap().to_owned()
}

#[test]
fn arguments_arrive_as_they_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["; $() `x` ' \" \n * -rf", "-n", "{}", "ä"];
    let mut argv = vec![program("printf"), "%s|".to_owned()];
    argv.extend(words.map(str::to_owned));
    let mut cx = TaskCx::for_test(dir.path()).build().unwrap();
    Command::run(&params(json!({ "argv": argv, "stdout": "said" })), &mut cx).unwrap();
    assert_eq!(fs::read_to_string(cx.output("said")).unwrap(), words.join("|") + "|");
}

#[test]
fn inputs_files_and_outputs_are_paths() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("a", "1"), ("b", "2"), ("c", "3")] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let mut cx = TaskCx::for_test(dir.path())
        .input("parts", dir.path().join("a"))
        .input("parts", dir.path().join("b"))
        .file("/files/last", dir.path().join("c"))
        .build()
        .unwrap();
    let all = json!({ "argv": [program("cat"), "{inputs.parts}", "{files.last}"], "files": { "last": "c" }, "stdout": "all" });
    Command::run(&params(all), &mut cx).unwrap();
    assert_eq!(fs::read_to_string(cx.output("all")).unwrap(), "123");
    let copy = json!({ "argv": [program("cp"), "{files.last}", "{outputs.copy}"], "files": { "last": "c" }, "outputs": ["copy"] });
    Command::run(&params(copy), &mut cx).unwrap();
    assert_eq!(fs::read_to_string(cx.output("copy")).unwrap(), "3");
}

#[test]
fn a_failed_program_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let mut cx = TaskCx::for_test(dir.path()).build().unwrap();
    let failing =
        json!({ "argv": [program("sh"), "-c", "echo whole; echo broken >&2; exit 3"], "stdout": "out" });
    let error = Command::run(&params(failing), &mut cx).unwrap_err().to_string();
    assert!(error.contains("exit code 3") && error.contains("broken") && !error.contains("whole"), "{error}");
    let silent = json!({ "argv": [program("true")], "outputs": ["out2"] });
    let error = Command::run(&params(silent), &mut cx).unwrap_err().to_string();
    assert!(error.contains("did not write its output `out2`"), "{error}");
}

#[test]
fn a_stop_ends_the_whole_family() {
    let dir = tempfile::tempdir().unwrap();
    let mut cx = TaskCx::for_test(dir.path()).build().unwrap();
    let mark = dir.path().join("mark");
    // The grandchild would leave a mark after two seconds, had it lived.
    let script = format!("(sleep 2; echo x > {}) & sleep 60", mark.display());
    let env = json!({ "PATH": "/usr/bin:/bin" });
    let long = params(json!({ "argv": [program("sh"), "-c", script], "stdout": "out", "env": env }));
    let cancel = cx.cancel_token();
    let start = Instant::now();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        cancel.cancel();
    });
    assert!(matches!(Command::run(&long, &mut cx), Err(TaskError::Cancelled)));
    assert!(start.elapsed() < Duration::from_secs(10));
    std::thread::sleep(Duration::from_secs(2));
    assert!(!mark.exists());
}

#[test]
fn faults_name_their_place() {
    let faults =
        |value| Command::check(&params(value)).into_iter().map(|fault| fault.pointer).collect::<Vec<_>>();
    assert_eq!(faults(json!({ "argv": ["a"], "outputs": ["x"] })), [""; 0]);
    assert_eq!(faults(json!({ "argv": [] })), ["/argv", "/outputs"]);
    assert_eq!(
        faults(json!({ "argv": ["a", "{files.f}"], "outputs": ["../x", "y", "y"] })),
        ["/outputs/0", "/outputs/2", "/argv/1"]
    );
    assert_eq!(
        faults(
            json!({ "argv": ["a"], "stdout": "s", "types": { "t": "table" }, "env": { "E": "{outputs.s}" } })
        ),
        ["/types/t", "/env/E"]
    );
}

#[test]
fn the_first_output_is_the_declared_one() {
    let registry = Registry::new().with::<Command>();
    let step = registry
        .bind(
            "command",
            &json!({ "argv": ["a"], "outputs": ["x"], "stdout": "said", "types": { "x": "table" } }),
        )
        .unwrap()
        .unwrap();
    let outputs: Vec<_> =
        step.ports().outputs().iter().map(|port| (port.name.as_str(), port.gives)).collect();
    assert_eq!(outputs, [("x", ArtifactType::Table), ("said", ArtifactType::Any)]);
}
