//! Reader: looks up in all segments of a stream, and notices what other processes append.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::segment::{Place, Segment, is_living, number_of};
use crate::guard::lock;
use crate::summary::Stamp;
use crate::{CacheError, Digest, Fault, Layout, atomic};

/// The directory is listed again after this many misses, whatever its time says: two processes that begin a segment
/// within one tick of the file system's clock leave it with one time.
const LIST_EVERY: u32 = 64;

/// Reads a stream. Waits for nobody; a miss costs one `stat` of the directory and of each segment being written.
pub(crate) struct Reader {
    directory: PathBuf,
    stream: Digest,
    /// Whether other machines write here too.
    shared: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    segments: BTreeMap<u32, Segment>,
    /// The segment this process writes, which it knows itself.
    own: Option<u32>,
    listed: Option<Stamp>,
    misses: u32,
    faults: BTreeSet<Fault>,
}

impl Reader {
    pub(crate) fn open(layout: &Layout, stream: &Digest) -> Result<Self, CacheError> {
        let (directory, shared) = (layout.log(stream), layout.is_shared());
        let reader = Self { directory, stream: *stream, shared, state: Mutex::default() };
        reader.refresh(&mut lock(&reader.state))?;
        Ok(reader)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    pub(crate) fn stream(&self) -> Digest {
        self.stream
    }

    /// Leaves a segment to this process's writer, or takes the last one back.
    pub(crate) fn set_own(&self, number: Option<u32>) {
        let mut state = lock(&self.state);
        state.own = number;
        if let Some(number) = number {
            state.segments.remove(&number);
        }
        state.listed = None;
    }

    pub(crate) fn faults(&self) -> Vec<Fault> {
        lock(&self.state).faults.iter().cloned().collect()
    }

    pub(crate) fn report(&self, fault: Fault) {
        lock(&self.state).faults.insert(fault);
    }

    /// Whether the key is known without looking again.
    pub(crate) fn has(&self, key: &Digest) -> bool {
        let mut state = lock(&self.state);
        // After a segment was sealed, its keys are known only from its file.
        if state.listed.is_none() && self.refresh(&mut state).is_err() {
            return false;
        }
        state.segments.values().any(|segment| segment.find(key).is_some())
    }

    pub(crate) fn get(&self, key: &Digest) -> Result<Option<Vec<u8>>, CacheError> {
        loop {
            let (number, place) = {
                let mut state = lock(&self.state);
                let mut found = find(&state, key);
                if found.is_none() {
                    self.refresh(&mut state)?;
                    found = find(&state, key);
                }
                let Some(found) = found else { return Ok(None) };
                found
            };
            // Read without the lock: a look-up must not wait for another one's disk.
            let read = match place.read(&self.stream, key) {
                // Another machine has merged the segment and removed it: what was there is elsewhere now.
                Err(CacheError::Io { source, .. })
                    if source.kind() == io::ErrorKind::StaleNetworkFileHandle =>
                {
                    let mut state = lock(&self.state);
                    state.segments.remove(&number);
                    state.listed = None;
                    continue;
                }
                other => other?,
            };
            match read {
                Ok(payload) => return Ok(Some(payload)),
                Err(fault) => {
                    let mut state = lock(&self.state);
                    state.faults.insert(fault);
                    if let Some(segment) = state.segments.get_mut(&number) {
                        segment.forget(key);
                    }
                }
            }
        }
    }

    /// The least keys of all, in order.
    pub(crate) fn least_keys(&self, count: usize) -> Vec<Digest> {
        let state = lock(&self.state);
        let mut keys: BTreeSet<Digest> = BTreeSet::new();
        for segment in state.segments.values() {
            keys.extend(segment.values().into_iter().map(|(key, _)| key));
        }
        keys.into_iter().take(count).collect()
    }

    /// Intents without an outcome in segments nobody is writing.
    pub(crate) fn unknown(&self) -> Vec<Digest> {
        let mut state = lock(&self.state);
        // What cannot be read now is not known to be unknown.
        let _ = self.refresh(&mut state);
        let dead =
            state.segments.values().filter(|segment| segment.is_sealed() || !is_living(segment.path()));
        let intents: BTreeSet<Digest> = dead.flat_map(Segment::intents).copied().collect();
        intents.into_iter().filter(|key| find(&state, key).is_none()).collect()
    }

    fn refresh(&self, state: &mut State) -> Result<(), CacheError> {
        let stamp = Stamp::of(&self.directory).map_err(CacheError::io("inspect", &self.directory))?;
        let mut faults = Vec::new();
        state.misses += 1;
        if stamp.is_some() && (stamp != state.listed || state.misses.is_multiple_of(LIST_EVERY)) {
            self.relist(state, &mut faults)?;
            state.listed = stamp;
        }
        for segment in state.segments.values_mut() {
            segment.follow(&self.stream, &mut faults)?;
        }
        state.faults.extend(faults);
        Ok(())
    }

    fn relist(&self, state: &mut State, faults: &mut Vec<Fault>) -> Result<(), CacheError> {
        let mut before = std::mem::take(&mut state.segments);
        for path in atomic::list(&self.directory)? {
            let Some(number) = number_of(&path).filter(|number| state.own != Some(*number)) else { continue };
            let inode =
                std::fs::metadata(&path).ok().map(|metadata| std::os::unix::fs::MetadataExt::ino(&metadata));
            let segment = match before.remove(&number) {
                Some(known) if inode == Some(known.inode()) => Some(known),
                _ => Segment::open(&path, &self.stream, faults)?,
            };
            if let Some(segment) = segment {
                state.segments.insert(number, segment);
            }
        }
        Ok(())
    }
}

/// The newest place of a key.
fn find(state: &State, key: &Digest) -> Option<(u32, Place)> {
    let newest_first = state.segments.iter().rev();
    newest_first.into_iter().find_map(|(number, segment)| Some((*number, segment.find(key)?)))
}
