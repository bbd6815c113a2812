//! Several processes on one store, and processes that die: this test binary runs itself as the other process.

#![expect(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command};

use dag_cache::{CacheError, Digest, LeaseAttempt, Record, View, Writer, gc, verify};
use serde_json::json;

const ROLE: &str = "DAG_CACHE_TEST_ROLE";
const ROOT: &str = "DAG_CACHE_TEST_ROOT";
const ACTIONS: u32 = 60;

fn start(role: &str, root: &Path, crash: Option<String>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "as_another_process", "--nocapture"]).env(ROLE, role).env(ROOT, root);
    if let Some(crash) = crash {
        command.env("DAG_CRASH", crash);
    }
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command.spawn().unwrap()
}

/// The same as a process of another machine, on a store that machines share.
fn start_on(machine: &str, role: &str, root: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "as_another_process", "--nocapture"]).env(ROLE, role).env(ROOT, root);
    command.env("DAG_STORE_SHARED", "1").env("DAG_TEST_MACHINE", machine).env("DAG_TEST_PRESENCE", "20,400");
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command.spawn().unwrap()
}

fn manifest(number: u32) -> Vec<u8> {
    format!("manifest {number}").into_bytes()
}

fn stream() -> Digest {
    Digest::of(b"stream")
}

/// A run in small: for every action without a record, takes the lease, produces a blob and a log entry, commits.
fn work(root: &Path) {
    let writer = Writer::open(root).unwrap();
    let log = writer.record_log(&stream(), &json!({"model": "m"})).unwrap();
    let mut waiting: Vec<u32> = (0..ACTIONS).collect();
    let mut used = Vec::new();
    while let Some(number) = waiting.pop() {
        let manifest = manifest(number);
        let action = Digest::of(&manifest);
        used.push(action);
        if writer.view().summary(&action).unwrap().is_some() {
            continue;
        }
        let LeaseAttempt::Held(_lease) = writer.lease(&action, "test").unwrap() else {
            waiting.insert(0, number);
            continue;
        };
        // Somebody may have committed it between the look and the lease.
        if writer.view().summary(&action).unwrap().is_some() {
            continue;
        }
        if log.get(&action).unwrap().is_none() {
            log.intent(&action).unwrap();
            log.put(&action, format!("response {number}").as_bytes()).unwrap();
        }
        let output = writer.put_bytes(format!("rows {number}").as_bytes()).unwrap();
        let outputs = BTreeMap::from([("rows".to_owned(), output)]);
        // Telling who did it would make records differ; that nobody did it twice is counted in the log.
        writer.commit(&Record { action, manifest, outputs, metrics: BTreeMap::new(), owed: 0 }).unwrap();
        if number % 20 == 0 {
            writer.sync().unwrap();
            log.sync().unwrap();
        }
    }
    writer.touch(&used);
    writer.finish().unwrap();
}

fn check(root: &Path) {
    let view = View::open(root);
    for number in 0..ACTIONS {
        let action = Digest::of(&manifest(number));
        let record = view.record(&action).unwrap().unwrap();
        assert_eq!(view.summary(&action).unwrap().unwrap().outputs, record.outputs);
        assert_eq!(
            view.read_blob(&record.outputs["rows"].digest).unwrap(),
            format!("rows {number}").into_bytes()
        );
        assert_eq!(view.find_logged(&action).unwrap(), Some(format!("response {number}").into_bytes()));
    }
    assert_eq!(view.faults(), []);
}

/// Writes until files may not grow any more, as on a full disk, then checks that nothing half-written is left.
fn fill(root: &Path) {
    let writer = Writer::open(root).unwrap();
    let log = writer.record_log(&stream(), &json!({})).unwrap();
    let limit = libc::rlimit { rlim_cur: 8192, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: both calls only change how this process is told about large files; nothing else runs in it.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
    }
    assert!(matches!(writer.put_bytes(&[7; 9000]), Err(CacheError::Io { .. })));
    let key = |number: u32| Digest::of(&number.to_le_bytes());
    // Incompressible, so that the sixth does not fit.
    let payload =
        |number: u32| (0..45).flat_map(|part| *key(number * 1000 + part).as_bytes()).collect::<Vec<u8>>();
    let stored =
        (0..20).take_while(|number| log.put(&key(*number), &payload(*number)).is_ok()).count() as u32;
    assert_eq!(stored, 5);
    log.put(&key(100), b"a small one still fits").unwrap();
    (0..stored).for_each(|number| assert_eq!(log.get(&key(number)).unwrap(), Some(payload(number))));
    assert_eq!(log.get(&key(stored)).unwrap(), None);
    assert_eq!(log.faults(), []);
}

/// Not a test of its own: what [`start`] runs.
#[test]
fn as_another_process() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let root = Path::new(&root);
    match std::env::var_os(ROLE).unwrap().to_str().unwrap() {
        "work" => work(root),
        "die" => {
            let writer = Writer::open(root).unwrap();
            let log = writer.record_log(&stream(), &json!({})).unwrap();
            log.intent(&Digest::of(b"asked, not answered")).unwrap();
            let LeaseAttempt::Held(_lease) = writer.lease(&Digest::of(b"a"), "dead").unwrap() else {
                panic!()
            };
            let manifest = manifest(0);
            let action = Digest::of(&manifest);
            let outputs = BTreeMap::from([("rows".to_owned(), writer.put_bytes(b"rows 0").unwrap())]);
            writer.commit(&Record { action, manifest, outputs, metrics: BTreeMap::new(), owed: 0 }).unwrap();
            std::process::abort();
        }
        "collect" => {
            let plan = gc::plan(root, &[], std::time::Duration::ZERO).unwrap();
            gc::apply(&plan).unwrap();
        }
        "fill" => fill(root),
        "hold" => {
            let writer = Writer::open(root).unwrap();
            let log = writer.record_log(&stream(), &json!({})).unwrap();
            log.put(&Digest::of(b"kept"), b"paid for").unwrap();
            let LeaseAttempt::Held(_lease) = writer.lease(&Digest::of(&manifest(0)), "a holder").unwrap()
            else {
                panic!()
            };
            std::fs::write(root.join("held"), "").unwrap();
            loop {
                std::thread::park();
            }
        }
        "take" => {
            let writer = Writer::open(root).unwrap();
            let began = std::time::Instant::now();
            let mut waits = 0_u32;
            while matches!(writer.lease(&Digest::of(&manifest(0)), "me").unwrap(), LeaseAttempt::Busy { .. })
            {
                waits += 1;
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            let told = json!({ "waits": waits, "milliseconds": began.elapsed().as_millis() as u64 });
            std::fs::write(root.join("taken"), told.to_string()).unwrap();
        }
        "segments" => {
            // Enough small segments that a merge is due.
            for number in 0..9_u8 {
                let writer = Writer::open(root).unwrap();
                let log = writer.record_log(&stream(), &json!({})).unwrap();
                log.put(&Digest::of(&[number]), b"x").unwrap();
            }
        }
        role => panic!("no role `{role}`"),
    }
}

#[test]
fn four_processes_share_the_work_and_nothing_is_done_twice() {
    let dir = tempfile::tempdir().unwrap();
    let children: Vec<Child> = (0..4).map(|_| start("work", dir.path(), None)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    check(dir.path());
    let report = verify::verify(dir.path(), false).unwrap();
    assert_eq!(report.faults, []);
    assert_eq!((report.records, report.blobs), (u64::from(ACTIONS), u64::from(ACTIONS)));
    assert_eq!(report.entries, u64::from(ACTIONS), "every response was made once");
}

#[test]
fn machines_share_the_work_on_a_shared_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let machines = ["one", "two", "three"];
    let children: Vec<Child> = machines.iter().map(|machine| start_on(machine, "work", dir.path())).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    check(dir.path());
    let report = verify::verify(dir.path(), false).unwrap();
    assert_eq!(report.faults, []);
    assert_eq!(report.records, u64::from(ACTIONS));
    assert_eq!(report.entries, u64::from(ACTIONS), "every response was made once");
    assert!(!dir.path().join("index").exists() && !dir.path().join("index.lock").exists(), "no sled");
    let named = |folder: &str| {
        let entries = std::fs::read_dir(dir.path().join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(named("leases"), [""; 0]);
    assert!(!dir.path().join("provisional").exists());
    let left: Vec<String> = named(&format!("logs/{}", stream()));
    assert!(!left.iter().any(|name| name.ends_with(".writer")), "{left:?}");
}

/// Waits until a killed child runs no more.
fn wait_until_over(child: &Child) {
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    while !state().contains(") Z ") {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Starts a holder, lets it hold, kills it if it is to die, and gives what one who takes the lease tells.
fn taken_from(holder: &str, dies: bool, taker: &str) -> Option<serde_json::Value> {
    let dir = tempfile::tempdir().unwrap();
    let mut held = start_on(holder, "hold", dir.path());
    while !dir.path().join("held").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    if dies {
        held.kill().unwrap();
        // Until it is waited for it is a process that is over, which counts as gone.
        wait_until_over(&held);
    }
    let mut take = start_on(taker, "take", dir.path());
    let took = if dies {
        take.wait().unwrap().success()
    } else {
        // Three times as long as a silence counts as death: it must not be taken from one that beats.
        std::thread::sleep(std::time::Duration::from_millis(1200));
        take.try_wait().unwrap().is_some()
    };
    // Whoever is still there goes now; killing one that is gone is no error.
    for mut child in [take, held] {
        let _ = child.kill();
        child.wait().unwrap();
    }
    took.then(|| serde_json::from_slice(&std::fs::read(dir.path().join("taken")).unwrap()).unwrap())
}

#[test]
fn the_lease_of_a_dead_process_is_taken_at_once_on_its_machine_and_after_silence_elsewhere() {
    let near = taken_from("one", true, "one").unwrap();
    assert_eq!(near["waits"], 0, "{near}");
    let far = taken_from("one", true, "two").unwrap();
    assert!(far["milliseconds"].as_u64().unwrap() >= 400, "{far}");
}

#[test]
fn the_lease_of_a_living_process_stays_its_own() {
    assert_eq!(taken_from("one", false, "one"), None);
    assert_eq!(taken_from("one", false, "two"), None);
}

#[test]
fn an_open_segment_is_merged_only_where_its_writer_is_known_to_be_dead() {
    for (machine, survives) in [("two", true), ("one", false)] {
        let dir = tempfile::tempdir().unwrap();
        let mut held = start_on("one", "hold", dir.path());
        while !dir.path().join("held").exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        held.kill().unwrap();
        held.wait().unwrap();
        let open = dir.path().join(format!("logs/{}/00000001.segment", stream()));
        assert!(open.exists());
        assert!(start_on(machine, "segments", dir.path()).wait().unwrap().success());
        assert_eq!(open.exists(), survives, "seen from machine {machine}");
        // Merged or not, what was paid for is there.
        assert_eq!(
            View::open(dir.path()).find_logged(&Digest::of(b"kept")).unwrap(),
            Some(b"paid for".to_vec())
        );
    }
}

#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let dir = tempfile::tempdir().unwrap();
    assert!(start("fill", dir.path(), None).wait().unwrap().success());
    let report = verify::verify(dir.path(), false).unwrap();
    assert_eq!((report.faults, report.blobs, report.entries), (vec![], 0, 6));
}

#[test]
fn what_a_killed_process_committed_counts_and_its_lease_does_not() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!start("die", dir.path(), None).wait().unwrap().success());
    let action = Digest::of(&manifest(0));
    assert!(View::open(dir.path()).record(&action).unwrap().is_some());
    let writer = Writer::open(dir.path()).unwrap();
    assert!(matches!(writer.lease(&Digest::of(b"a"), "me").unwrap(), LeaseAttempt::Held(_)));
    let log = writer.record_log(&stream(), &json!({})).unwrap();
    assert_eq!(log.unknown(), [Digest::of(b"asked, not answered")]);
    writer.sync().unwrap();
    assert!(writer.view().layout().record(&action).exists(), "the next writer made it durable");
}

/// Killed at every crash point, at its first and seventh passing: the next run ends with everything right.
#[cfg(feature = "crash")]
#[test]
fn killed_at_any_point_the_next_run_completes() {
    let mut reached = std::collections::BTreeSet::new();
    for point in dag_cache::CRASH_POINTS {
        for hit in [1, 7] {
            let dir = tempfile::tempdir().unwrap();
            // Enough earlier runs that the last one merges segments and opens the index.
            for _ in 0..7 {
                let writer = Writer::open(dir.path()).unwrap();
                let log = writer.record_log(&stream(), &json!({})).unwrap();
                let before = verify::verify(dir.path(), false).unwrap().segments;
                log.put(&Digest::of(format!("earlier {before}").as_bytes()), b"x").unwrap();
            }
            for number in 0..16_u8 {
                Writer::open(dir.path()).unwrap().touch(&[Digest::of(&[number])]);
            }
            let role = if point.starts_with("gc.") {
                work(dir.path());
                "collect"
            } else {
                "work"
            };
            if !start(role, dir.path(), Some(format!("{point}:{hit}"))).wait().unwrap().success() {
                reached.insert(*point);
            }
            verify::verify(dir.path(), false).unwrap();
            if role == "collect" {
                // A record whose blobs were collected is a hit; whoever needs their bytes makes them again.
                let writer = Writer::open(dir.path()).unwrap();
                for number in 0..ACTIONS {
                    writer.put_bytes(format!("rows {number}").as_bytes()).unwrap();
                }
            }
            work(dir.path());
            check(dir.path());
        }
    }
    let missed: Vec<_> = dag_cache::CRASH_POINTS.iter().filter(|point| !reached.contains(*point)).collect();
    assert!(missed.is_empty(), "never reached: {missed:?}");
}
