//! The shared cache as the store sees it, on a place in memory: what is asked, how often, and what is believed.

#![expect(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use dag_cache::{
    Body, Digest, Objects, Piece, Record, Remote, RemoteError, RemoteOptions, SigningKey, TroubleKind, View,
    Writer,
};
use serde_json::json;

/// Objects in memory, with a note of every question.
#[derive(Default)]
struct Memory {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    asked: Mutex<Vec<String>>,
    is_down: AtomicBool,
    /// So many questions must be on their way before any is answered.
    together: AtomicUsize,
    waiting: Mutex<usize>,
    arrived: Condvar,
}

#[derive(Clone, Default)]
struct Place(Arc<Memory>);

impl Place {
    fn ask(&self, what: &str, name: &str) -> Result<(), RemoteError> {
        self.0.asked.lock().unwrap().push(format!("{what} {name}"));
        if self.0.is_down.load(Ordering::SeqCst) {
            return Err(RemoteError::Failed { name: name.to_owned(), what: "no answer".to_owned() });
        }
        let together = self.0.together.load(Ordering::SeqCst);
        if together > 0 && what == "get" {
            let mut waiting = self.0.waiting.lock().unwrap();
            *waiting += 1;
            self.0.arrived.notify_all();
            let enough = |waiting: &mut usize| *waiting < together;
            let (_waiting, late) =
                self.0.arrived.wait_timeout_while(waiting, Duration::from_secs(10), enough).unwrap();
            assert!(!late.timed_out(), "questions are asked one after the other");
        }
        Ok(())
    }

    fn questions(&self, what: &str) -> usize {
        self.0.asked.lock().unwrap().iter().filter(|asked| asked.starts_with(what)).count()
    }

    fn remote(&self) -> Remote {
        let key = SigningKey::new("the key of a team in a test").unwrap();
        Remote::new(Box::new(self.clone()), RemoteOptions { key: Some(key), write: true })
    }

    fn writer(&self, root: &Path) -> Writer {
        Writer::open(root).unwrap().with_remote(Some(self.remote()))
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let objects = self.0.objects.lock().unwrap();
        objects.keys().filter(|name| name.starts_with(folder)).cloned().collect()
    }
}

impl Objects for Place {
    fn url(&self) -> &'static str {
        "memory://"
    }

    fn get(&self, name: &str, _most: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        self.ask("get", name)?;
        Ok(self.0.objects.lock().unwrap().get(name).cloned())
    }

    fn size(&self, name: &str) -> Result<Option<u64>, RemoteError> {
        self.ask("size", name)?;
        Ok(self.0.objects.lock().unwrap().get(name).map(|bytes| bytes.len() as u64))
    }

    fn read(&self, name: &str, bytes: u64, piece: &mut Piece<'_>) -> Result<bool, RemoteError> {
        self.ask("read", name)?;
        let Some(found) = self.0.objects.lock().unwrap().get(name).cloned() else { return Ok(false) };
        if found.len() as u64 != bytes {
            return Ok(false);
        }
        found.chunks(3).try_for_each(piece)?;
        Ok(true)
    }

    fn put(&self, name: &str, body: Body<'_>, replace: bool) -> Result<bool, RemoteError> {
        self.ask("put", name)?;
        let bytes = match body {
            Body::Bytes(bytes) => bytes,
            Body::File(file, size) => {
                let mut bytes = vec![0; size as usize];
                file.read_exact_at(&mut bytes, 0)?;
                bytes
            }
        };
        let mut objects = self.0.objects.lock().unwrap();
        if !replace && objects.contains_key(name) {
            return Ok(false);
        }
        objects.insert(name.to_owned(), bytes);
        Ok(true)
    }

    fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, RemoteError> {
        self.ask("list", folder)?;
        let prefix = format!("{folder}/");
        let objects = self.0.objects.lock().unwrap();
        let named = objects.iter();
        Ok(named
            .filter_map(|(name, bytes)| Some((name.strip_prefix(&prefix)?.to_owned(), bytes.len() as u64)))
            .collect())
    }
}

fn manifest(number: u32) -> Vec<u8> {
    format!("manifest {number}").into_bytes()
}

fn action(number: u32) -> Digest {
    Digest::of(&manifest(number))
}

fn commit(writer: &Writer, number: u32, owed: u64) {
    let outputs =
        BTreeMap::from([("rows".to_owned(), writer.put_bytes(format!("rows {number}").as_bytes()).unwrap())]);
    let record = Record {
        action: action(number),
        manifest: manifest(number),
        outputs,
        metrics: BTreeMap::new(),
        owed,
    };
    writer.commit(&record).unwrap();
}

#[test]
fn many_records_are_asked_for_at_once_and_each_once() {
    const ACTIONS: u32 = 320;
    let place = Place::default();
    let made = tempfile::tempdir().unwrap();
    let writer = place.writer(made.path());
    (0..ACTIONS).for_each(|number| commit(&writer, number, 0));
    writer.finish().unwrap();
    assert_eq!(place.names("records/").len(), ACTIONS as usize);

    place.0.together.store(16, Ordering::SeqCst);
    let fresh = tempfile::tempdir().unwrap();
    let view = View::open(fresh.path()).with_remote(Some(place.remote()));
    let actions: Vec<Digest> = (0..2 * ACTIONS).map(action).collect();
    for _ in 0..2 {
        assert!(view.ask(&actions));
        let found = actions.iter().filter(|action| view.summary(action).unwrap().is_some()).count();
        assert_eq!(found, ACTIONS as usize);
    }
    assert_eq!(place.questions("get records/"), 2 * ACTIONS as usize);
    assert_eq!(place.questions("read"), 0, "no bytes before somebody needs them");
    let output = view.record(&action(7)).unwrap().unwrap().outputs["rows"];
    assert!(view.has_output(&output) && !view.is_here(&output));
    assert_eq!(view.read_blob(&output.digest).unwrap(), b"rows 7");
    assert!(view.is_here(&output));
}

#[test]
fn a_partial_result_is_neither_given_nor_kept_when_a_whole_one_is_there() {
    let place = Place::default();
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let partial = place.writer(one.path());
    commit(&partial, 1, 3);
    partial.finish().unwrap();
    assert_eq!(place.names(""), [""; 0]);
    let whole = place.writer(other.path());
    commit(&whole, 1, 0);
    whole.finish().unwrap();
    let again = place.writer(one.path());
    again.view().ask(&[action(1)]);
    assert_eq!(again.view().summary(&action(1)).unwrap().unwrap().owed, 0);
    again.finish().unwrap();
    assert_eq!(View::open(one.path()).record(&action(1)).unwrap().unwrap().owed, 0, "kept from then on");
}

#[test]
fn a_record_becomes_durable_without_its_blobs() {
    let place = Place::default();
    let (made, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let writer = place.writer(made.path());
    commit(&writer, 1, 0);
    writer.finish().unwrap();
    let writer = place.writer(fresh.path());
    writer.view().ask(&[action(1)]);
    writer.keep_learned().unwrap();
    // Before anything made the directory of blobs.
    writer.sync().unwrap();
    assert!(writer.view().layout().record(&action(1)).exists());
    assert!(!writer.view().layout().blobs().exists());
}

#[test]
fn a_place_that_is_down_is_left_alone_after_three_questions() {
    let place = Place::default();
    place.0.is_down.store(true, Ordering::SeqCst);
    let dir = tempfile::tempdir().unwrap();
    let writer = place.writer(dir.path());
    for number in 0..50 {
        writer.view().ask(&[action(number)]);
        commit(&writer, number, 0);
    }
    writer.finish().unwrap();
    // Those on their way at the same time cannot know of each other.
    assert!(place.0.asked.lock().unwrap().len() < 20, "{:?}", place.0.asked.lock().unwrap());
    let report = writer.remote_report().unwrap();
    let counts: Vec<(TroubleKind, u64)> =
        report.troubles.iter().map(|trouble| (trouble.kind, trouble.count)).collect();
    assert_eq!(counts[0], (TroubleKind::Unreadable, 50));
    assert_eq!(counts[1].0, TroubleKind::Unwritten);
    assert_eq!(View::open(dir.path()).faults(), []);
}

#[test]
fn responses_come_once_even_when_they_were_merged_since() {
    let place = Place::default();
    let stream = Digest::of(b"stream");
    let open = |writer: &Writer| writer.record_log(&stream, &json!({})).unwrap();
    for machine in 0..12_u8 {
        let dir = tempfile::tempdir().unwrap();
        let writer = place.writer(dir.path());
        let log = open(&writer);
        log.put(&Digest::of(&[machine]), &[machine; 40]).unwrap();
        drop(log);
        writer.finish().unwrap();
    }
    let segments = place.names("logs/").len();
    assert_eq!(segments, 12);
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let writer = place.writer(dir.path());
        let log = open(&writer);
        for machine in 0..12_u8 {
            assert_eq!(log.get(&Digest::of(&[machine])).unwrap(), Some(vec![machine; 40]));
        }
        // An entry of its own, so that it seals and merges.
        log.put(&Digest::of(b"own"), b"own").unwrap();
        drop(log);
        writer.finish().unwrap();
    }
    // Every machine fetched what those before it had given, and the last one each once for all its runs.
    assert_eq!(place.questions("read logs/"), (0..12).sum::<usize>() + 12);
}

#[test]
fn a_segment_that_was_changed_or_moved_is_not_taken() {
    let place = Place::default();
    let (ours, theirs) = (Digest::of(b"ours"), Digest::of(b"theirs"));
    let dir = tempfile::tempdir().unwrap();
    let writer = place.writer(dir.path());
    writer.record_log(&theirs, &json!({})).unwrap().put(&Digest::of(b"k"), b"v").unwrap();
    writer.finish().unwrap();
    let name = place.names("logs/")[0].clone();
    let bytes = place.0.objects.lock().unwrap()[&name].clone();
    let mut flipped = bytes.clone();
    flipped[70] ^= 1;
    place.0.objects.lock().unwrap().insert(name.clone(), flipped);
    let moved = name.replace(&theirs.to_string(), &ours.to_string());
    place.0.objects.lock().unwrap().insert(moved, bytes);
    let fresh = tempfile::tempdir().unwrap();
    let writer = place.writer(fresh.path());
    for stream in [ours, theirs] {
        assert_eq!(writer.record_log(&stream, &json!({})).unwrap().get(&Digest::of(b"k")).unwrap(), None);
        let files = fs::read_dir(writer.view().layout().log(&stream)).unwrap();
        assert_eq!(files.count(), 1, "nothing but what the stream is");
    }
    let report = writer.remote_report().unwrap();
    let kinds: Vec<TroubleKind> = report.troubles.iter().map(|trouble| trouble.kind).collect();
    assert_eq!(kinds, [TroubleKind::WronglySigned, TroubleKind::Damaged]);
}
