//! Collection and verification of a whole store, and the disposable files beside it.

#![expect(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dag_cache::{Digest, LeaseAttempt, Output, Record, View, Writer, gc, verify};
use serde_json::json;

const HOUR: Duration = Duration::from_hours(1);

fn commit(writer: &Writer, name: &str, output: Output) -> Digest {
    let manifest = name.as_bytes().to_vec();
    let outputs = BTreeMap::from([("out".to_owned(), output)]);
    let action = Digest::of(&manifest);
    writer.commit(&Record { action, manifest, outputs, metrics: BTreeMap::new(), owed: 0 }).unwrap();
    action
}

/// Makes a file look two hours old.
fn age(path: &Path) {
    let file = fs::File::open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.set_modified(modified - 2 * HOUR).unwrap();
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn collection_keeps_roots_recent_use_and_records() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let writer = Writer::open(&root).unwrap();
    fs::create_dir(dir.path().join("tree")).unwrap();
    fs::write(dir.path().join("tree/file"), b"in a tree").unwrap();
    let tree = writer.put_path(&dir.path().join("tree")).unwrap();
    let outputs = [tree, writer.put_bytes(b"used").unwrap(), writer.put_bytes(b"unused").unwrap()];
    let actions: Vec<Digest> = ["root", "used", "unused"]
        .iter()
        .zip(outputs)
        .map(|(name, output)| commit(&writer, name, output))
        .collect();
    writer.sync().unwrap();
    for path in files(&root.join("blobs")).into_iter().chain(files(&root.join("records"))) {
        age(&path);
    }
    writer.finish().unwrap();
    writer.put_bytes(b"made just now").unwrap();
    writer.touch(&actions[1..2]);

    let plan = gc::plan(&root, &actions[..1], HOUR).unwrap();
    assert_eq!(plan.blobs.len(), 1);
    assert_eq!(plan.bytes(), 6);
    assert_eq!(plan.kept_blobs, 4);
    assert!(writer.view().has_output(&outputs[2]), "a plan removes nothing");
    // The index has folded the lists in and says the same; without it they would have to.
    assert_eq!(gc::plan(&root, &actions[..1], HOUR).unwrap().blobs, plan.blobs);

    let done = gc::apply(&plan).unwrap();
    assert_eq!((done.removed, done.bytes, done.kept), (1, 6, 0));
    assert!(writer.view().has_output(&outputs[0]) && writer.view().has_output(&outputs[1]));
    assert!(!writer.view().has_output(&outputs[2]));
    assert!(writer.view().summary(&actions[2]).unwrap().is_some(), "the record stays");
    assert_eq!(verify::verify(&root, false).unwrap().missing_outputs, 1);
}

#[test]
fn a_blob_put_again_after_the_plan_stays() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::open(dir.path()).unwrap();
    let output = writer.put_bytes(b"bytes").unwrap();
    age(&writer.view().blob_path(&output.digest));
    let plan = gc::plan(dir.path(), &[], HOUR).unwrap();
    assert_eq!(plan.blobs.len(), 1);
    writer.put_bytes(b"bytes").unwrap();
    assert_eq!(gc::apply(&plan).unwrap().kept, 1);
    assert!(writer.view().has_output(&output));
}

#[test]
fn what_was_made_under_a_living_lease_stays_without_any_grace() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::open(dir.path()).unwrap();
    let LeaseAttempt::Held(lease) = writer.lease(&Digest::of(b"a"), "me").unwrap() else { panic!("free") };
    let output = writer.put_bytes(b"about to be named").unwrap();
    assert!(gc::plan(dir.path(), &[], Duration::ZERO).unwrap().blobs.is_empty());
    drop(lease);
    let plan = gc::plan(dir.path(), &[], Duration::ZERO).unwrap();
    gc::apply(&plan).unwrap();
    assert!(plan.blobs.is_empty() || !writer.view().has_output(&output));
}

#[test]
fn what_an_interrupted_action_left_goes_unless_it_is_taken_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::open(dir.path()).unwrap();
    let scratch = |name: &str| {
        let action = Digest::of(name.as_bytes());
        let folder = writer.view().layout().scratch(&action);
        fs::create_dir_all(folder.join("checkpoints")).unwrap();
        fs::write(folder.join("checkpoints/1"), b"weights").unwrap();
        (action, folder)
    };
    let [(_, old), (held, resumed), (_, recent)] = ["old", "resumed", "recent"].map(scratch);
    for folder in [&old, &resumed] {
        for path in [folder.join("checkpoints/1"), folder.join("checkpoints"), folder.clone()] {
            age(&path);
        }
    }
    age(&recent);
    let lease = writer.lease(&held, "run 1").unwrap();
    assert!(matches!(lease, LeaseAttempt::Held(_)));
    let plan = gc::plan(dir.path(), &[], HOUR).unwrap();
    let named: Vec<_> = plan.strays.iter().map(|stray| (&stray.path, stray.bytes)).collect();
    assert_eq!(named, [(&old, 7)]);
    gc::apply(&plan).unwrap();
    assert_eq!([&old, &resumed, &recent].map(|folder| folder.exists()), [false, true, true]);

    drop(lease);
    let plan = gc::plan(dir.path(), &[], HOUR).unwrap();
    let _lease = writer.lease(&held, "run 2").unwrap();
    let done = gc::apply(&plan).unwrap();
    assert!(resumed.exists() && done.kept == 1, "taken up again after the plan was made");
}

#[test]
fn every_kind_of_file_may_be_lost_cut_or_damaged() {
    type Harm = fn(&mut Vec<u8>);
    let harms: [(&str, Option<Harm>); 4] = [
        ("lost", None),
        ("emptied", Some(Vec::clear)),
        ("cut", Some(|bytes| bytes.truncate(bytes.len() / 2))),
        (
            "flipped",
            Some(|bytes| {
                let middle = bytes.len() / 2;
                if let Some(byte) = bytes.get_mut(middle) {
                    *byte ^= 4;
                }
            }),
        ),
    ];
    let build = |root: &Path| {
        let writer = Writer::open(root).unwrap();
        let output = writer.put_bytes(b"rows").unwrap();
        let action = commit(&writer, "node", output);
        let log = writer.record_log(&Digest::of(b"s"), &json!({"model": "m"})).unwrap();
        if log.get(&Digest::of(b"k")).unwrap().is_none() {
            log.put(&Digest::of(b"k"), b"response").unwrap();
        }
        writer.touch(&[action]);
        writer.finish().unwrap();
        drop(log);
        action
    };
    let sample = tempfile::tempdir().unwrap();
    build(sample.path());
    gc::plan(sample.path(), &[], HOUR).unwrap();
    let classes = files(sample.path());
    assert!(classes.len() > 8, "{classes:?}");
    for class in &classes {
        let name = class.strip_prefix(sample.path()).unwrap();
        for (what, harm) in harms {
            let dir = tempfile::tempdir().unwrap();
            let action = build(dir.path());
            gc::plan(dir.path(), &[], HOUR).unwrap();
            let path = dir.path().join(name);
            if !path.exists() {
                continue;
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            match harm {
                None => fs::remove_file(&path).unwrap(),
                Some(harm) => {
                    let mut bytes = fs::read(&path).unwrap();
                    harm(&mut bytes);
                    fs::write(&path, bytes).unwrap();
                }
            }
            let context = format!("{} {what}", name.display());

            // Reading either gives what was written or nothing.
            let view = View::open(dir.path());
            let output = view.record(&action).unwrap().map(|record| record.outputs["out"]);
            if let Some(output) = output {
                let whole = view.read_blob(&output.digest).is_ok_and(|bytes| bytes == b"rows");
                assert!(whole || !view.has_output(&output), "{context}");
            }
            let logged = view.find_logged(&Digest::of(b"k")).unwrap();
            assert!(logged.is_none_or(|payload| payload == b"response"), "{context}");

            // The same work again repairs it.
            verify::verify(dir.path(), true).unwrap();
            let action = build(dir.path());
            let view = View::open(dir.path());
            let output = view.summary(&action).unwrap().unwrap().outputs["out"];
            assert_eq!(view.read_blob(&output.digest).unwrap(), b"rows", "{context}");
            assert_eq!(
                view.find_logged(&Digest::of(b"k")).unwrap().as_deref(),
                Some(&b"response"[..]),
                "{context}"
            );
            let report = verify::verify(dir.path(), false).unwrap();
            let harmed_log = name.starts_with("logs");
            assert!(report.faults.is_empty() || harmed_log, "{context}: {:?}", report.faults);
        }
    }
}

#[test]
fn verification_names_every_fault_and_repairs_what_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::open(dir.path()).unwrap();
    let output = writer.put_bytes(b"rows").unwrap();
    let kept = commit(&writer, "kept", output);
    writer.finish().unwrap();
    assert_eq!(verify::verify(dir.path(), false).unwrap().faults, []);

    let blob = writer.view().blob_path(&writer.put_bytes(b"to be damaged").unwrap().digest);
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&blob, b"to be Damaged").unwrap();
    let record = writer.view().layout().record(&Digest::of(b"a record"));
    fs::create_dir_all(record.parent().unwrap()).unwrap();
    fs::write(&record, b"dag-record 1 nonsense\n").unwrap();
    fs::write(dir.path().join("tmp/123-4"), b"half").unwrap();
    fs::create_dir_all(dir.path().join("leases")).unwrap();
    fs::write(writer.view().layout().lease(&kept), b"a dead process").unwrap();
    fs::write(dir.path().join("blobs/stranger"), b"").unwrap();

    let report = verify::verify(dir.path(), false).unwrap();
    let faulty: Vec<_> = report.faults.iter().map(|fault| fault.path.clone()).collect();
    for path in [&blob, &record, &dir.path().join("blobs/stranger")] {
        assert!(faulty.contains(path), "{} not in {faulty:?}", path.display());
    }
    let left: Vec<_> = report.left_overs.iter().map(|fault| fault.path.clone()).collect();
    assert_eq!(left, [writer.view().layout().lease(&kept), dir.path().join("tmp/123-4")]);
    assert!(report.repaired.is_empty());
    let json = serde_json::to_value(&report).unwrap();
    assert!(json["faults"][0]["path"].is_string() && json["faults"][0]["what"].is_string());

    verify::verify(dir.path(), true).unwrap();
    let left = verify::verify(dir.path(), false).unwrap().faults;
    assert!(left.iter().all(|fault| fault.path.ends_with("stranger")), "{left:?}");
    assert!(writer.view().record(&kept).unwrap().is_some());
}

#[test]
fn a_useless_index_is_put_aside_and_nothing_else_suffers() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::open(dir.path()).unwrap();
    let output = writer.put_bytes(b"rows").unwrap();
    let action = commit(&writer, "node", output);
    writer.touch(&[action]);
    writer.finish().unwrap();
    let index = writer.view().layout().index();
    for round in 0..12_usize {
        age(&writer.view().blob_path(&output.digest));
        assert!(gc::plan(dir.path(), &[], HOUR).unwrap().blobs.is_empty(), "the last use is known");
        let database = index.join("db");
        match round {
            0 => fs::remove_dir_all(&index).unwrap(),
            1 => fs::write(&database, b"").unwrap(),
            2 => fs::write(index.join("conf"), b"nonsense").unwrap(),
            _ => {
                let mut bytes = fs::read(&database).unwrap();
                let at = bytes.len() * round / 13;
                bytes[at] ^= 1 << (round % 8);
                fs::write(&database, bytes).unwrap();
            }
        }
        writer.touch(&[action]);
    }
}
