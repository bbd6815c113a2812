//! Last use: which actions runs used, and when.
//!
//! A run that finds everything done must cost next to nothing, so it only writes one list of the actions it used. The
//! list is named after its content and its modification time is when: a thousand equal runs leave one file.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::atomic::{self, Staged};
use crate::layout::named;
use crate::{CacheError, Digest, Layout, crash};

/// Notes that `actions` are used now.
pub(crate) fn touch(layout: &Layout, actions: &[Digest]) -> Result<(), CacheError> {
    let actions: BTreeSet<&Digest> = actions.iter().collect();
    if actions.is_empty() {
        return Ok(());
    }
    let bytes: Vec<u8> = actions.into_iter().flat_map(|action| *action.as_bytes()).collect();
    let path = layout.touched().join(Digest::of(&bytes).to_string());
    if let Ok(file) = File::options().write(true).open(&path)
        && file.metadata().is_ok_and(|metadata| metadata.len() == bytes.len() as u64)
    {
        // Writing a byte it has already sets its time to the file system's present one, whose clock may not be ours.
        return file.write_all_at(&bytes[..1], 0).map_err(CacheError::io("touch", &path));
    }
    let mut staged = Staged::create(layout)?;
    staged.write_all(&bytes)?;
    staged.publish_unsynced(&path, 0o644)?;
    crash::point("touched.written");
    Ok(())
}

/// What one run used, and when.
pub(crate) struct List {
    pub(crate) path: PathBuf,
    pub(crate) used: SystemTime,
    pub(crate) actions: Vec<Digest>,
}

/// Every list there is. Damaged ones are left out: their loss costs only the order of collection.
pub(crate) fn lists(layout: &Layout) -> Result<Vec<List>, CacheError> {
    let mut lists = Vec::new();
    for path in atomic::list(&layout.touched())? {
        let Some(bytes) = atomic::read(&path)? else { continue };
        let Ok(used) = fs::metadata(&path).and_then(|metadata| metadata.modified()) else { continue };
        if path.file_name().and_then(named) == Some(Digest::of(&bytes)) {
            let actions = bytes.chunks_exact(32).filter_map(Digest::from_slice).collect();
            lists.push(List { path, used, actions });
        }
    }
    Ok(lists)
}
