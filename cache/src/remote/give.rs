//! From the store to the shared cache: blobs, then the record that names them; sealed segments by their digests.
//!
//! A run gives in the background what it makes, and waits for that only at its end. Nothing here fails a run.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::parallel::each;
use super::sign::{self, What};
use super::tally::{TroubleKind, add};
use super::{Body, Remote, blob_name, known, record_name, stream_folder};
use crate::guard::lock;
use crate::{CacheError, Digest, Layout, OutputKind, View, blob, log};

/// So many records or segments are on their way at once.
const GIVEN_AT_ONCE: usize = 4;
/// A push waits for more answers at once, since most of what it asks is there already.
const PUSHED_AT_ONCE: usize = 16;
/// So many blobs of one record are on their way at once.
const BLOBS_AT_ONCE: usize = 4;
/// Up to this size a blob is sent without asking first whether it is there, which costs no less.
const SMALL: u64 = 64 << 10;

/// Something that is to go to the shared cache.
pub(crate) enum Gift {
    /// The record of an action, with the blobs it names.
    Record(Digest),
    /// A sealed segment of a stream, open for reading: a merge may remove its name any time.
    Segment(Digest, File),
}

impl Remote {
    /// Gives some records and, if `streams`, every sealed segment of the store; what is there already is left out.
    pub(crate) fn push(&self, view: &View, actions: &[Digest], streams: bool) -> Result<(), CacheError> {
        each(actions, PUSHED_AT_ONCE, |action| {
            // Looked at first, so that what is there and wrong is replaced.
            if self.look(view.layout(), action).is_none() {
                self.give_record(view, action);
            }
        });
        if !streams {
            return Ok(());
        }
        let mut by_stream: BTreeMap<Digest, Vec<PathBuf>> = BTreeMap::new();
        for (stream, path) in log::sealed(view.layout())? {
            by_stream.entry(stream).or_default().push(path);
        }
        for (stream, paths) in by_stream {
            let Some(there) = self.segments(&stream) else { continue };
            each(&paths, GIVEN_AT_ONCE, |path| {
                // Gone when it was merged meanwhile: the next push finds what it became.
                let Ok(file) = File::open(path) else { return };
                self.give_segment(view.layout(), &stream, file, &there);
            });
        }
        Ok(())
    }

    /// Gives a record after every blob it names. One that is owed something stays here: the next run makes it better.
    pub(crate) fn give_record(&self, view: &View, action: &Digest) -> bool {
        let name = record_name(action);
        let failed = |what: String| {
            self.0.tally.count(TroubleKind::Unwritten, || format!("`{name}`: {what}"));
            false
        };
        let record = match view.record_here(action) {
            Ok(Some(record)) if record.owed == 0 => record,
            Ok(_) => return true,
            Err(error) => return failed(error.to_string()),
        };
        let mut blobs = BTreeMap::new();
        for output in record.outputs.values() {
            match output.kind {
                OutputKind::File => {
                    blobs.insert(output.digest, output.bytes);
                }
                OutputKind::Tree => {
                    let files = match view.tree(&output.digest) {
                        Ok(files) => files,
                        Err(error) => return failed(error.to_string()),
                    };
                    let list = view.layout().blob(&output.digest);
                    let bytes = std::fs::metadata(list).map_or(0, |metadata| metadata.len());
                    blobs.insert(output.digest, bytes);
                    blobs.extend(files.into_iter().map(|file| (file.digest, file.bytes)));
                }
            }
        }
        let blobs: Vec<(Digest, u64)> = blobs.into_iter().collect();
        let whole = AtomicBool::new(true);
        each(&blobs, BLOBS_AT_ONCE, |(digest, bytes)| {
            if !self.give_blob(view, digest, *bytes) {
                whole.store(false, Ordering::Relaxed);
            }
        });
        // A record whose blobs are not all there would be a miss for everybody.
        if !whole.into_inner() {
            return false;
        }
        let object = match record.encode() {
            Ok(bytes) => sign::seal(self.0.options.key.as_ref(), action, &bytes),
            Err(error) => return failed(error.to_string()),
        };
        let size = object.len() as u64;
        let Some(written) = self.put(&name, Body::Bytes(object)) else { return false };
        if written {
            add(&self.0.tally.given_records, 1);
            add(&self.0.tally.given_bytes, size);
        }
        true
    }

    /// Keeps an object, replacing one that was found wrong; whether it was written, `None` when that failed.
    fn put(&self, name: &str, body: Body<'_>) -> Option<bool> {
        let replace = self.is_broken(name);
        let written = self.ask(TroubleKind::Unwritten, name, |place| place.put(name, body, replace));
        if written.is_some() && replace {
            lock(&self.0.broken).remove(name);
        }
        written
    }

    fn give_blob(&self, view: &View, digest: &Digest, bytes: u64) -> bool {
        let name = blob_name(digest);
        let known = lock(&self.0.present).get(digest).copied();
        let there = match known {
            Some(there) => there,
            None => bytes > SMALL && self.has_blob(digest, bytes),
        };
        if there && !self.is_broken(&name) {
            return true;
        }
        // Hashed, unless this process did that: what is wrong here must not get there.
        let file = view.verified_path(digest).and_then(|_| blob::open(view.layout(), digest));
        let mut file = match file {
            Ok(file) => file,
            Err(error) => {
                self.0.tally.count(TroubleKind::Unwritten, || format!("`{name}`: {error}"));
                return false;
            }
        };
        let body = if bytes <= SMALL {
            let mut all = Vec::with_capacity(bytes as usize);
            if let Err(error) = file.read_to_end(&mut all) {
                self.0.tally.count(TroubleKind::Unwritten, || format!("`{name}`: {error}"));
                return false;
            }
            Body::Bytes(all)
        } else {
            Body::File(&file, bytes)
        };
        let Some(written) = self.put(&name, body) else { return false };
        lock(&self.0.present).insert(*digest, true);
        if written {
            add(&self.0.tally.given_blobs, 1);
            add(&self.0.tally.given_bytes, bytes);
        }
        true
    }

    /// Gives a sealed segment, unless its object is among those that are `there`.
    fn give_segment(&self, layout: &Layout, stream: &Digest, mut file: File, there: &[String]) {
        let hashed = || -> std::io::Result<(Digest, u64)> {
            let found = Digest::of_reader(&mut file)?;
            file.rewind()?;
            Ok(found)
        };
        let folder = stream_folder(stream);
        let (digest, bytes) = match { hashed }() {
            Ok(found) => found,
            Err(error) => {
                self.0.tally.count(TroubleKind::Unwritten, || format!("a segment of `{folder}`: {error}"));
                return;
            }
        };
        let text = sign::signature(self.0.options.key.as_ref(), What::Segment, stream, &digest);
        let object = format!("{digest}.{text}");
        if there.contains(&object) {
            return;
        }
        let name = format!("{folder}/{object}");
        let Some(written) = self.put(&name, Body::File(&file, bytes)) else { return };
        // A note that is not kept costs fetching the segment once.
        let _ = known::add(layout, stream, &digest);
        if written {
            add(&self.0.tally.given_segments, 1);
            add(&self.0.tally.given_bytes, bytes);
        }
    }
}

/// Gives in the background.
pub(crate) struct Uploads {
    remote: Remote,
    view: View,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sender: Option<Sender<Gift>>,
    workers: Vec<JoinHandle<()>>,
}

impl Uploads {
    pub(crate) fn new(remote: Remote, view: View) -> Self {
        Self { remote, view, state: Mutex::default() }
    }

    /// Has something given soon. The first of them starts the threads.
    pub(crate) fn give(&self, gift: Gift) {
        let mut state = lock(&self.state);
        if state.sender.is_none() {
            let (sender, receiver) = channel();
            let receiver = Arc::new(Mutex::new(receiver));
            state.sender = Some(sender);
            state.workers = (0..GIVEN_AT_ONCE)
                .map(|_| {
                    let (remote, view) = (self.remote.clone(), self.view.clone());
                    let receiver = Arc::clone(&receiver);
                    std::thread::spawn(move || work(&remote, &view, &receiver))
                })
                .collect();
        }
        if let Some(sender) = &state.sender {
            // It fails only when every worker panicked, and then there is nobody to give it to.
            let _ = sender.send(gift);
        }
    }

    /// Waits until everything is given.
    pub(crate) fn finish(&self) {
        let State { sender, workers } = std::mem::take(&mut *lock(&self.state));
        drop(sender);
        for worker in workers {
            // One that panicked has given what it could.
            let _ = worker.join();
        }
    }
}

fn work(remote: &Remote, view: &View, gifts: &Mutex<Receiver<Gift>>) {
    loop {
        let Ok(gift) = lock(gifts).recv() else { return };
        match gift {
            Gift::Record(action) => {
                remote.give_record(view, &action);
            }
            Gift::Segment(stream, file) => remote.give_segment(view.layout(), &stream, file, &[]),
        }
    }
}
