//! The store through its public surface: what is put is read back, and damage is noticed and survived.

#![expect(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use dag_cache::{CacheError, Digest, Output, Record, View, Writer};
use serde_json::json;

fn record(manifest: &str, outputs: &[(&str, Output)]) -> Record {
    Record {
        action: Digest::of(manifest.as_bytes()),
        manifest: manifest.as_bytes().to_vec(),
        outputs: outputs.iter().map(|(port, output)| ((*port).to_owned(), *output)).collect(),
        metrics: BTreeMap::from([("rows".to_owned(), json!(3))]),
        owed: 0,
    }
}

/// Flips one bit of a file, read-only or not.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_store_that_does_not_exist_is_empty_and_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("none");
    let view = View::open(&root);
    let key = Digest::of(b"k");
    assert_eq!(view.record(&key).unwrap(), None);
    assert_eq!(view.summary(&key).unwrap(), None);
    assert_eq!(view.find_logged(&key).unwrap(), None);
    assert!(matches!(view.read_blob(&key), Err(CacheError::MissingBlob { .. })));
    assert!(!root.exists());
}

#[test]
fn files_and_trees_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::open(&dir.path().join("store")).unwrap();
    let source = dir.path().join("made");
    fs::create_dir_all(source.join("a/b")).unwrap();
    fs::write(source.join("a/b/deep"), b"deep").unwrap();
    fs::write(source.join("top"), b"top").unwrap();
    symlink("a/b/deep", source.join("alias")).unwrap();
    let tree = writer.put_path(&source).unwrap();
    let file = writer.put_path(&source.join("top")).unwrap();
    assert_eq!((tree.bytes, file.bytes), (11, 3));
    assert_eq!(file, writer.put_bytes(b"top").unwrap());
    assert!(writer.view().has_output(&tree) && writer.view().has_output(&file));

    let linked = dir.path().join("linked");
    writer.view().materialize(&tree, &linked).unwrap();
    assert_eq!(fs::read(linked.join("a/b/deep")).unwrap(), b"deep");
    assert!(fs::symlink_metadata(linked.join("alias")).unwrap().is_symlink());
    assert_eq!(fs::metadata(linked.join("top")).unwrap().permissions().mode() & 0o222, 0);

    let copied = dir.path().join("copied");
    writer.view().export(&tree, &copied).unwrap();
    assert_eq!(fs::read(copied.join("alias")).unwrap(), b"deep");
    fs::write(copied.join("top"), b"mine to change").unwrap();
    writer.view().export(&file, &dir.path().join("one")).unwrap();
    assert_eq!(fs::read(dir.path().join("one")).unwrap(), b"top");
}

#[test]
fn what_cannot_be_an_output_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::open(&dir.path().join("store")).unwrap();
    let link = dir.path().join("link");
    symlink("/etc/hostname", &link).unwrap();
    assert!(matches!(writer.put_path(&link), Err(CacheError::Refused { .. })));
    assert!(matches!(writer.put_path(Path::new("/dev/null")), Err(CacheError::Refused { .. })));
    assert!(matches!(writer.put_path(&dir.path().join("gone")), Err(CacheError::Io { .. })));
}

#[test]
fn a_record_needs_its_blobs_and_its_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::open(dir.path()).unwrap();
    let absent = Output { digest: Digest::of(b"absent"), ..writer.put_bytes(b"absen").unwrap() };
    assert!(matches!(writer.commit(&record("m", &[("out", absent)])), Err(CacheError::BadRecord { .. })));
    let other = Record { action: Digest::of(b"other"), ..record("m", &[]) };
    assert!(matches!(writer.commit(&other), Err(CacheError::BadRecord { .. })));
    assert!(!dir.path().join("records").exists());
}

#[test]
fn a_committed_record_is_seen_by_every_view_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::open(dir.path()).unwrap();
    let reader = View::open(dir.path());
    let output = writer.put_bytes(b"rows").unwrap();
    for number in 0..20 {
        let record = record(&format!("m{number}"), &[("kept", output)]);
        assert_eq!(reader.summary(&record.action).unwrap(), None);
        writer.commit(&record).unwrap();
        assert_eq!(reader.summary(&record.action).unwrap().unwrap().outputs, record.outputs);
        if number % 7 == 0 {
            writer.finish().unwrap();
        }
        let fresh = View::open(dir.path());
        assert_eq!(fresh.summary(&record.action).unwrap().unwrap().outputs, record.outputs);
        assert_eq!(fresh.record(&record.action).unwrap(), Some(record.clone()));
        let partial = Record { owed: 2, ..record.clone() };
        writer.commit(&partial).unwrap();
        assert_eq!(fresh.summary(&record.action).unwrap().unwrap().owed, 2);
        assert_eq!(reader.summary(&record.action).unwrap().unwrap().owed, 2);
        if number % 3 == 0 {
            writer.forget(&record.action).unwrap();
            assert_eq!(fresh.summary(&record.action).unwrap(), None);
            assert_eq!(fresh.record(&record.action).unwrap(), None);
        }
    }
    assert_eq!(reader.faults(), []);
}

#[test]
fn a_damaged_record_is_a_miss_and_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::open(dir.path()).unwrap();
    let record = record("m", &[]);
    writer.commit(&record).unwrap();
    writer.sync().unwrap();
    damage(&writer.view().layout().record(&record.action));
    let view = View::open(dir.path());
    assert_eq!(view.record(&record.action).unwrap(), None);
    assert_eq!(view.faults().len(), 1);
    writer.commit(&record).unwrap();
    assert_eq!(View::open(dir.path()).record(&record.action).unwrap(), Some(record));
}

#[test]
fn a_damaged_blob_is_never_served_and_can_be_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::open(&dir.path().join("store")).unwrap();
    let output = writer.put_bytes(b"some rows").unwrap();
    let view = View::open(&dir.path().join("store"));
    let to = dir.path().join("input");
    view.materialize(&output, &to).unwrap();
    fs::remove_file(&to).unwrap();

    damage(&view.blob_path(&output.digest));
    assert!(view.has_output(&output), "sizes are equal, only hashing tells");
    assert!(matches!(view.materialize(&output, &to), Err(CacheError::CorruptBlob { .. })));
    assert!(!to.exists() && !view.has_output(&output));
    assert!(matches!(view.export(&output, &to), Err(CacheError::MissingBlob { .. })));

    writer.put_bytes(b"some rows").unwrap();
    damage(&view.blob_path(&output.digest));
    assert!(matches!(view.export(&output, &to), Err(CacheError::CorruptBlob { .. })));
    assert!(!to.exists());
    writer.put_bytes(b"some rows").unwrap();
    view.export(&output, &to).unwrap();
    assert_eq!(fs::read(&to).unwrap(), b"some rows");
}

#[test]
fn a_damaged_or_missing_summary_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::open(dir.path()).unwrap();
    let record = record("m", &[]);
    writer.commit(&record).unwrap();
    writer.finish().unwrap();
    let summary = writer.view().layout().summary();
    for harm in 0..4 {
        match harm {
            0 => damage(&summary),
            1 => fs::write(&summary, b"").unwrap(),
            2 => fs::write(
                &summary,
                &fs::read(&summary).unwrap()[..40.min(fs::metadata(&summary).unwrap().len() as usize)],
            )
            .unwrap(),
            _ => fs::remove_file(&summary).unwrap(),
        }
        assert!(View::open(dir.path()).summary(&record.action).unwrap().is_some(), "harm {harm}");
        writer.finish().unwrap();
        let view = View::open(dir.path());
        assert!(view.summary(&record.action).unwrap().is_some());
        assert_eq!(view.faults(), []);
    }
}

#[test]
fn a_store_of_another_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let record = record("m", &[]);
    Writer::open(dir.path()).unwrap().commit(&record).unwrap();
    let version = dir.path().join("version");
    fs::write(&version, "dag-store 2\n").unwrap();
    assert!(matches!(Writer::open(dir.path()), Err(CacheError::Version { .. })));
    let view = View::open(dir.path());
    assert_eq!(view.record(&record.action).unwrap(), None);
    assert_eq!(view.faults().len(), 1);
    for damaged in ["", "dag-stor"] {
        fs::write(&version, damaged).unwrap();
        let writer = Writer::open(dir.path()).unwrap();
        assert!(writer.view().record(&record.action).unwrap().is_some());
        assert_eq!(fs::read_to_string(&version).unwrap(), "dag-store 1\n");
    }
}

#[test]
fn log_entries_are_seen_across_writers_and_survive_sealing() {
    let dir = tempfile::tempdir().unwrap();
    let stream = Digest::of(b"model");
    let about = json!({"model": "m"});
    let (one, two) = (Writer::open(dir.path()).unwrap(), Writer::open(dir.path()).unwrap());
    let (a, b) = (one.record_log(&stream, &about).unwrap(), two.record_log(&stream, &about).unwrap());
    let keys: Vec<Digest> = (0..40_u8).map(|number| Digest::of(&[number])).collect();
    for (number, key) in keys.iter().enumerate() {
        let text = format!("response {number} ").repeat(number);
        let (writing, reading) = if number % 2 == 0 { (&a, &b) } else { (&b, &a) };
        assert_eq!(reading.get(key).unwrap(), None);
        writing.put(key, text.as_bytes()).unwrap();
        writing.put(key, b"ignored").unwrap();
        assert_eq!(reading.get(key).unwrap().as_deref(), Some(text.as_bytes()));
        if number % 5 == 4 {
            writing.seal().unwrap();
            assert_eq!(writing.get(key).unwrap().as_deref(), Some(text.as_bytes()));
        }
    }
    drop((a, b));
    let log = one.record_log(&stream, &about).unwrap();
    for (number, key) in keys.iter().enumerate() {
        let text = format!("response {number} ").repeat(number);
        assert_eq!(log.get(key).unwrap().as_deref(), Some(text.as_bytes()));
        assert_eq!(one.view().find_logged(key).unwrap().as_deref(), Some(text.as_bytes()));
    }
    assert_eq!(log.faults(), []);
}
