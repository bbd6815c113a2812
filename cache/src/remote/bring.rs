//! From the shared cache to the store: records when a plan asks for them, blobs when somebody needs their bytes, segments
//! when a stream is opened. Everything is checked before it gets a name here.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::parallel::each;
use super::sign::{self, Bad, What};
use super::tally::{TroubleKind, add};
use super::{Remote, blob_name, known, record_name, stream_folder};
use crate::atomic::{self, Staged};
use crate::guard::lock;
use crate::{CacheError, Digest, Layout, Output, OutputKind, Record, TreeFile, blob, log, tree};

/// Records are asked for so many at once.
const ASKED_AT_ONCE: usize = 32;
/// So many files of one output are looked for, or fetched, at once.
const FILES_AT_ONCE: usize = 8;
/// So many segments of one stream are fetched at once.
const SEGMENTS_AT_ONCE: usize = 4;
/// A record is a manifest and a few lines.
const LARGEST_RECORD: u64 = 64 << 20;

impl Remote {
    /// Asks for the records of actions, each once per process, many at a time. What can be used is [`Self::learned`] then.
    pub(crate) fn ask_records(&self, layout: &Layout, actions: &[Digest]) {
        let mut open: Vec<Digest> = {
            let asked = lock(&self.0.asked);
            actions.iter().filter(|action| !asked.contains_key(action)).copied().collect()
        };
        open.sort_unstable();
        open.dedup();
        each(&open, ASKED_AT_ONCE, |action| {
            let found = self.look(layout, action).map(Arc::new);
            add(&self.0.tally.records, u64::from(found.is_some()));
            lock(&self.0.asked).insert(*action, found);
        });
    }

    /// The record that was found for an action.
    pub(crate) fn learned(&self, action: &Digest) -> Option<Arc<Record>> {
        lock(&self.0.asked).get(action)?.clone()
    }

    /// All records that were found.
    pub(crate) fn all_learned(&self) -> Vec<Arc<Record>> {
        lock(&self.0.asked).values().flatten().cloned().collect()
    }

    /// The record of an action, if it is there, is what its name and signature say, is complete, and every blob it names
    /// can be had.
    pub(super) fn look(&self, layout: &Layout, action: &Digest) -> Option<Record> {
        let name = record_name(action);
        let object = self.ask(TroubleKind::Unreadable, &name, |place| place.get(&name, LARGEST_RECORD))??;
        let bytes = match sign::open(self.0.options.key.as_ref(), action, &object) {
            Ok(bytes) => bytes,
            Err(bad) => {
                self.refuse_signature(&name, bad);
                return None;
            }
        };
        let record = match Record::decode(action, bytes) {
            Ok(record) => record,
            Err(what) => {
                self.refuse(TroubleKind::Damaged, &name, &what);
                return None;
            }
        };
        add(&self.0.tally.bytes, object.len() as u64);
        // What is owed can be made better than it is, here as well as there.
        if record.owed > 0 {
            return None;
        }
        for (port, output) in &record.outputs {
            let Err(missing) = self.has_output(layout, output) else { continue };
            // One with wrong bytes has been counted as such.
            if !self.is_broken(&blob_name(&missing)) {
                let what =
                    format!("`{name}`: the blob {} of its output `{port}` is not there", missing.short());
                self.0.tally.count(TroubleKind::MissingBlob, || what);
            }
            return None;
        }
        Some(record)
    }

    fn refuse_signature(&self, name: &str, bad: Option<Bad>) {
        match bad {
            Some(Bad::Unsigned) => self.refuse(TroubleKind::Unsigned, name, "it has no signature"),
            Some(Bad::Wrong) => {
                self.refuse(
                    TroubleKind::WronglySigned,
                    name,
                    "its signature is not that of its key and bytes",
                );
            }
            None => self.refuse(TroubleKind::Damaged, name, "it does not begin like a record"),
        }
    }

    /// Looks for the blobs of outputs, many at once.
    pub(crate) fn ask_outputs(&self, layout: &Layout, outputs: &[Output]) {
        each(outputs, ASKED_AT_ONCE, |output| {
            // What is not there is remembered.
            let _ = self.has_output(layout, output);
        });
    }

    /// Whether every blob of an output is here or there; else one that is not.
    fn has_output(&self, layout: &Layout, output: &Output) -> Result<(), Digest> {
        let there = |digest: &Digest, bytes: u64| {
            if blob::has(layout, digest, bytes) || self.has_blob(digest, bytes) {
                Ok(())
            } else {
                Err(*digest)
            }
        };
        match output.kind {
            OutputKind::File => there(&output.digest, output.bytes),
            OutputKind::Tree => {
                let files = self.tree(layout, &output.digest).ok_or(output.digest)?;
                let missing = Mutex::new(None);
                each(&files, FILES_AT_ONCE, |file| {
                    if let Err(digest) = there(&file.digest, file.bytes) {
                        lock(&missing).get_or_insert(digest);
                    }
                });
                lock(&missing).map_or(Ok(()), Err)
            }
        }
    }

    /// The files of a tree, whose list is fetched where it is not here.
    fn tree(&self, layout: &Layout, digest: &Digest) -> Option<Vec<TreeFile>> {
        self.bring(layout, digest, None).ok()?;
        tree::decode(&blob::read(layout, digest).ok()?).ok()
    }

    /// Whether a blob is there with its size; asked once.
    pub(crate) fn has_blob(&self, digest: &Digest, bytes: u64) -> bool {
        if let Some(&present) = lock(&self.0.present).get(digest) {
            return present;
        }
        let name = blob_name(digest);
        let found = self.ask(TroubleKind::Unreadable, &name, |place| place.size(&name)).flatten();
        if let Some(found) = found.filter(|found| *found != bytes) {
            self.refuse(TroubleKind::WrongBytes, &name, &format!("it has {found} bytes, not {bytes}"));
        }
        let present = found == Some(bytes);
        lock(&self.0.present).insert(*digest, present);
        present
    }

    /// Fetches a blob that is not here, if it is there. Its bytes are hashed on the way, and have no name before.
    /// An error is one of this machine; whatever is wrong there leaves the blob missing.
    pub(crate) fn bring(
        &self,
        layout: &Layout,
        digest: &Digest,
        bytes: Option<u64>,
    ) -> Result<(), CacheError> {
        let gate = Arc::clone(lock(&self.0.fetching).entry(*digest).or_default());
        let _one_at_a_time = lock(&gate);
        let name = blob_name(digest);
        let absent = lock(&self.0.present).get(digest) == Some(&false);
        if absent || self.is_broken(&name) || layout.blob(digest).exists() {
            return Ok(());
        }
        let size =
            bytes.or_else(|| self.ask(TroubleKind::Unreadable, &name, |place| place.size(&name)).flatten());
        let Some(size) = size else { return Ok(()) };
        let mut staged = Staged::create(layout)?;
        let Some(found) = self.fetch(&name, size, &mut staged)? else { return Ok(()) };
        if found != *digest {
            lock(&self.0.present).insert(*digest, false);
            self.refuse(TroubleKind::WrongBytes, &name, &format!("its bytes are those of {}", found.short()));
            return Ok(());
        }
        blob::publish(layout, staged, digest)?;
        lock(&self.0.present).insert(*digest, true);
        add(&self.0.tally.blobs, 1);
        add(&self.0.tally.bytes, size);
        Ok(())
    }

    /// Fetches an object into a file; gives the digest of what came, `None` if nothing did.
    fn fetch(&self, name: &str, size: u64, staged: &mut Staged) -> Result<Option<Digest>, CacheError> {
        let mut hasher = blake3::Hasher::new();
        let mut failed = None;
        let came = self.ask(TroubleKind::Unreadable, name, |place| {
            place.read(name, size, &mut |piece| {
                hasher.update(piece);
                staged.write_all(piece).map_err(|error| {
                    let told = io::Error::other(error.to_string());
                    failed = Some(error);
                    told
                })
            })
        });
        match failed {
            Some(error) => Err(error),
            None => Ok((came == Some(true)).then(|| Digest::from(hasher.finalize()))),
        }
    }

    /// Fetches what is missing of some blobs, several at a time.
    pub(crate) fn bring_all(&self, layout: &Layout, blobs: &[(Digest, u64)]) -> Result<(), CacheError> {
        let failed = Mutex::new(None);
        each(blobs, FILES_AT_ONCE, |(digest, bytes)| {
            if blob::has(layout, digest, *bytes) {
                return;
            }
            if let Err(error) = self.bring(layout, digest, Some(*bytes)) {
                lock(&failed).get_or_insert(error);
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Fetches the segments of a stream that are not here, once per process, so that what others asked need not be asked
    /// again. Only a failure of this machine is an error.
    pub(crate) fn bring_stream(&self, layout: &Layout, stream: &Digest) -> Result<(), CacheError> {
        if !lock(&self.0.streams).insert(*stream) {
            return Ok(());
        }
        let folder = stream_folder(stream);
        let listed = self.ask(TroubleKind::Unreadable, &folder, |place| place.list(&folder));
        let known = known::read(layout, stream)?;
        let mut wanted = Vec::new();
        for (file, size) in listed.into_iter().flatten() {
            let name = format!("{folder}/{file}");
            let Some((digest, text)) = parse_segment(&file) else { continue };
            if known.contains(&digest) {
                continue;
            }
            match sign::check(self.0.options.key.as_ref(), What::Segment, stream, &digest, text) {
                Ok(()) => wanted.push((name, digest, size)),
                Err(bad) => self.refuse_signature(&name, Some(bad)),
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        atomic::create_dir(&layout.log(stream))?;
        let failed = Mutex::new(None);
        each(&wanted, SEGMENTS_AT_ONCE, |(name, digest, size)| {
            if let Err(error) = self.bring_segment(layout, stream, name, digest, *size) {
                lock(&failed).get_or_insert(error);
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn bring_segment(
        &self,
        layout: &Layout,
        stream: &Digest,
        name: &str,
        digest: &Digest,
        size: u64,
    ) -> Result<(), CacheError> {
        let mut staged = Staged::create(layout)?;
        let Some(found) = self.fetch(name, size, &mut staged)? else { return Ok(()) };
        if found != *digest {
            self.refuse(TroubleKind::Damaged, name, &format!("its bytes are those of {}", found.short()));
            return Ok(());
        }
        if let Err(what) = log::take_in(layout, stream, staged)? {
            self.refuse(TroubleKind::Damaged, name, &what);
            return Ok(());
        }
        known::add(layout, stream, digest)?;
        add(&self.0.tally.segments, 1);
        add(&self.0.tally.bytes, size);
        Ok(())
    }

    /// The segments of a stream that are there, whoever signed them.
    pub(super) fn segments(&self, stream: &Digest) -> Option<Vec<String>> {
        let folder = stream_folder(stream);
        let listed = self.ask(TroubleKind::Unreadable, &folder, |place| place.list(&folder))?;
        Some(listed.into_iter().map(|(file, _)| file).collect())
    }
}

/// The digest and the signature in the name of a segment's object.
fn parse_segment(file: &str) -> Option<(Digest, &str)> {
    let (digest, text) = file.split_once('.')?;
    Some((digest.parse().ok()?, text))
}
