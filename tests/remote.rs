//! A shared cache: what one person has made another takes, whatever is wrong there is a miss, and nothing fails a run.
//!
//! Every test runs against a folder, and against a real S3 server where `scripts/fetch_test_tools.sh` has installed one.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::cli_run::letters;
use crate::mock::{Behaviour, Mock, judge};
use crate::reuse::judging;
use crate::support::{Ran, Sandbox, tool, wait_until};

const KEY: &str = "the key of a team in a test";

/// A shared cache, and the folder where its objects lie as files.
struct Place {
    url: String,
    objects: PathBuf,
    environment: Vec<(&'static str, String)>,
    server: Option<Child>,
    _root: tempfile::TempDir,
}

impl Place {
    fn folder() -> Self {
        let root = tempfile::tempdir().unwrap();
        let objects = root.path().join("team/dag");
        let environment = vec![("DAG_REMOTE_KEY", KEY.to_owned())];
        Self { url: format!("file://{}", objects.display()), objects, environment, server: None, _root: root }
    }

    /// A server of the S3 protocol with real signatures; its objects are files in a folder.
    fn server() -> Option<Self> {
        let program = tool("s3s-fs")?;
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("team")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Command::new(program)
            .args(["--access-key", "key", "--secret-key", "secret", "--host", "127.0.0.1"])
            .args(["--port", &port.to_string()])
            .arg(root.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the server listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let environment = vec![
            ("DAG_REMOTE_KEY", KEY.to_owned()),
            ("AWS_ACCESS_KEY_ID", "key".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
        ];
        let (url, objects) = ("s3://team/dag".to_owned(), root.path().join("team/dag"));
        Some(Self { url, objects, environment, server: Some(server), _root: root })
    }

    fn dag(&self, sandbox: &Sandbox, arguments: &[&str]) -> Ran {
        let environment: Vec<(&str, &str)> =
            self.environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let arguments = [arguments, &["--remote", &self.url]].concat();
        sandbox.dag_with(&arguments, &environment)
    }

    fn object(&self, kind: &str, digest: &str) -> PathBuf {
        self.objects.join(kind).join(&digest[..2]).join(digest)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn everywhere(test: impl Fn(&Place)) {
    test(&Place::folder());
    if let Some(server) = Place::server() {
        test(&server);
    }
}

/// The action of each node of `letters.yaml`, all of which are up to date.
fn action(sandbox: &Sandbox, node: &str) -> String {
    // Not redacted: the digests are what is asked for.
    let output = sandbox.command(&["plan", "letters.yaml", "--json"]).output().unwrap();
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    let nodes = plan["nodes"].as_array().unwrap();
    let found = nodes.iter().find(|found| found["node"] == *node).unwrap();
    assert_eq!(found["decision"], "hit", "{found}");
    found["action"].as_str().unwrap().to_owned()
}

fn record(sandbox: &Sandbox, node: &str) -> Vec<u8> {
    let action = action(sandbox, node);
    fs::read(sandbox.path(format!(".dag/records/{}/{action}", &action[..2]))).unwrap()
}

/// The digest of the one output of a node.
fn output(sandbox: &Sandbox, node: &str) -> String {
    let record = String::from_utf8(record(sandbox, node)).unwrap();
    let body: Value = serde_json::from_str(record.trim_end().lines().last().unwrap()).unwrap();
    let outputs = body["outputs"].as_object().unwrap();
    outputs.values().next().unwrap()["digest"].as_str().unwrap().to_owned()
}

const NODES: [&str; 5] = ["copy@a", "copy@b", "greet@a", "greet@b", "join"];

/// A sandbox that has run everything, and given it to the shared cache.
fn made(place: &Place) -> Sandbox {
    let made = letters();
    let ran = place.dag(&made, &["run", "letters.yaml"]).expect(0);
    assert!(ran.stderr.contains("5 nodes: 5 ran"), "{}", ran.stderr);
    assert!(ran.stderr.contains(" to "), "what was given is told: {}", ran.stderr);
    made
}

#[test]
fn a_fresh_store_takes_everything_and_runs_nothing() {
    everywhere(|place| {
        let made = made(place);
        let fresh = letters();
        let plan = place.dag(&fresh, &["plan", "letters.yaml"]).expect(0);
        assert!(plan.stdout.contains("all up to date"), "{}", plan.stdout);
        let ran = place.dag(&fresh, &["run", "letters.yaml"]).expect(0);
        assert!(ran.stderr.contains("5 nodes, all up to date; 0 ran"), "{}", ran.stderr);
        assert!(ran.stderr.contains("5 nodes"), "{}", ran.stderr);
        assert_eq!(
            fresh.read("out/join.txt"),
            made.read("out/join.txt"),
            "its bytes came when they were needed"
        );
        for node in NODES {
            assert_eq!(record(&fresh, node), record(&made, node), "{node}");
        }
        // From then on it does without the shared cache.
        let alone = fresh.dag(&["run", "letters.yaml"]).expect(0);
        assert!(alone.stderr.contains("all up to date"), "{}", alone.stderr);
    });
}

#[test]
fn push_and_pull_move_all_and_then_nothing() {
    everywhere(|place| {
        let made = letters();
        made.dag(&["run", "letters.yaml"]).expect(0);
        let pushed = place.dag(&made, &["push", "letters.yaml", "--json"]).expect(0).json();
        assert_eq!(pushed["shared"]["given_records"], 5, "{pushed}");
        let again = place.dag(&made, &["push", "letters.yaml", "--json"]).expect(0).json();
        assert_eq!(
            (&again["shared"]["given_records"], &again["shared"]["given_blobs"]),
            (&json!(0), &json!(0))
        );

        let fresh = letters();
        let pulled = place.dag(&fresh, &["pull", "letters.yaml", "greet@a", "--json"]).expect(0).json();
        assert_eq!(pulled["shared"]["records"], 2, "greet@a and what it needs: {pulled}");
        place.dag(&fresh, &["pull", "letters.yaml"]).expect(0);
        let alone = fresh.dag(&["run", "letters.yaml"]).expect(0);
        assert!(alone.stderr.contains("all up to date; 0 ran"), "{}", alone.stderr);
        assert_eq!(fresh.read("out/join.txt"), made.read("out/join.txt"));
        fresh.dag(&["verify"]).expect(0);
    });
}

#[test]
fn what_is_poisoned_is_a_miss_counted_named_and_mended() {
    everywhere(|place| {
        let made = made(place);
        // Wrong bytes, of the right length, under the name of a blob; what reads it is gone, so that it is needed.
        let wrong = place.object("blobs", &output(&made, "copy@a"));
        fs::set_permissions(&wrong, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        fs::write(&wrong, "fjrst\n").unwrap();
        fs::remove_file(place.object("records", &action(&made, "greet@a"))).unwrap();
        // A blob that is missing.
        fs::remove_file(place.object("blobs", &output(&made, "greet@b"))).unwrap();
        // A signature that somebody made up.
        let forged = place.object("records", &action(&made, "join"));
        let object = String::from_utf8(fs::read(&forged).unwrap()).unwrap();
        let (first, rest) = object.split_once('\n').unwrap();
        let signature = first.strip_prefix("dag-signed 1 ").unwrap();
        fs::write(&forged, format!("dag-signed 1 {}\n{rest}", signature.chars().rev().collect::<String>()))
            .unwrap();
        // A record, rightly signed, under another key.
        let replayed = fs::read(place.object("records", &action(&made, "copy@a"))).unwrap();
        fs::write(place.object("records", &action(&made, "copy@b")), replayed).unwrap();

        let fresh = letters();
        let ran = place.dag(&fresh, &["run", "letters.yaml"]).expect(0);
        for told in ["2 objects of", "are wrongly signed", "names a blob that is missing", "has wrong bytes"]
        {
            assert!(ran.stderr.contains(told), "{told}: {}", ran.stderr);
        }
        for node in NODES {
            assert_eq!(record(&fresh, node), record(&made, node), "{node}");
        }
        assert_eq!(fresh.read("out/join.txt"), made.read("out/join.txt"));
        let log = fresh.dag(&["status", "latest", "--json"]).expect(0).json();
        let troubles = log["state"]["shared"]["troubles"].as_array().unwrap_or_else(|| panic!("{log}"));
        let counts: Vec<(&str, u64)> = troubles
            .iter()
            .map(|trouble| (trouble["kind"].as_str().unwrap(), trouble["count"].as_u64().unwrap()))
            .collect();
        assert_eq!(counts, [("wrongly_signed", 2), ("missing_blob", 1), ("wrong_bytes", 1)]);

        // What was made again has replaced what was wrong.
        let third = letters();
        let ran = place.dag(&third, &["run", "letters.yaml"]).expect(0);
        assert!(ran.stderr.contains("all up to date; 0 ran"), "{}", ran.stderr);
        assert!(!ran.stderr.contains("warning"), "{}", ran.stderr);
    });
}

#[test]
fn without_a_signature_a_record_is_a_miss_where_one_is_asked_for() {
    let place = Place::folder();
    let unsigned = format!("{}?sign=false", place.url);
    let made = letters();
    made.dag_with(&["run", "letters.yaml"], &[("DAG_REMOTE", &unsigned)]).expect(0);
    let fresh = letters();
    let ran = place.dag(&fresh, &["run", "letters.yaml"]).expect(0);
    assert!(ran.stderr.contains("5 ran") && ran.stderr.contains("are not signed"), "{}", ran.stderr);
    // Who does not ask takes them; and no key is no failure, only no sharing.
    let other = letters();
    let ran = other.dag_with(&["run", "letters.yaml"], &[("DAG_REMOTE", &unsigned)]).expect(0);
    assert!(ran.stderr.contains("all up to date"), "{}", ran.stderr);
    let alone = letters();
    let ran = alone.dag_with(&["run", "letters.yaml"], &[("DAG_REMOTE", &place.url)]).expect(0);
    assert!(ran.stderr.contains("5 ran") && ran.stderr.contains("DAG_REMOTE_KEY"), "{}", ran.stderr);
    alone.dag_with(&["push", "letters.yaml"], &[("DAG_REMOTE", &place.url)]).expect(2);
}

#[test]
fn a_place_that_does_not_answer_fails_no_run() {
    let sandbox = letters();
    let nowhere = [
        ("DAG_REMOTE", "s3://team/dag?sign=false"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    let ran = sandbox.dag_with(&["run", "letters.yaml"], &nowhere).expect(0);
    assert!(ran.stderr.contains("5 nodes: 5 ran"), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("could not be read") && ran.stderr.contains("could not be written"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
}

#[test]
fn the_file_names_it_and_it_is_in_no_key() {
    let place = Place::folder();
    let with = |options: &str| {
        let sandbox = letters();
        let text = sandbox.read("letters.yaml");
        sandbox.write("letters.yaml", &format!("remote: {{ url: \"{}\", {options} }}\n{text}", place.url));
        sandbox
    };
    let made = with("sign: false");
    made.dag(&["run", "letters.yaml"]).expect(0);
    let fresh = letters();
    fresh.dag(&["run", "letters.yaml"]).expect(0);
    assert_eq!(action(&made, "join"), action(&fresh, "join"));
    let reader = with("sign: false, write: false");
    let ran = reader.dag(&["run", "letters.yaml"]).expect(0);
    assert!(ran.stderr.contains("all up to date"), "{}", ran.stderr);
    with("sing: false").dag(&["check", "letters.yaml"]).expect(2);
}

#[test]
fn one_more_row_is_one_more_request_on_another_machine() {
    const ROWS: u32 = 40;
    everywhere(|place| {
        let server = Mock::start(Behaviour::of(judge));
        place.dag(&judging(&server, ROWS), &["run", "judging.yaml"]).expect(0);
        let before = server.calls();
        let ran = place.dag(&judging(&server, ROWS + 1), &["run", "judging.yaml"]).expect(0);
        assert_eq!(server.calls() - before, 1, "{}", ran.stderr);
        assert!(ran.stderr.contains("of responses"), "{}", ran.stderr);
    });
}

#[test]
fn the_key_is_in_no_object_and_no_journal() {
    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
    }
    let place = Place::folder();
    let made = made(&place);
    let all: Vec<PathBuf> =
        [place.objects.clone(), made.path(".dag")].iter().flat_map(|root| files(root)).collect();
    assert!(all.len() > 10);
    for path in all {
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(KEY.len()).any(|part| part == KEY.as_bytes()), "{}", path.display());
    }
}
