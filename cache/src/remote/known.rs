//! Which segments of a shared cache a stream already holds: merging gives segments other names and bytes, so what was
//! taken or given is noted beside them. A lost note costs fetching again what is there.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use crate::{CacheError, Digest, Layout, atomic};

fn path(layout: &Layout, stream: &Digest) -> PathBuf {
    layout.log(stream).join("remote.known")
}

/// The segments noted so far. A line that a crash cut is no digest.
pub(super) fn read(layout: &Layout, stream: &Digest) -> Result<BTreeSet<Digest>, CacheError> {
    let bytes = atomic::read(&path(layout, stream))?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).lines().filter_map(|line| line.parse().ok()).collect())
}

/// Notes one more.
pub(super) fn add(layout: &Layout, stream: &Digest, segment: &Digest) -> Result<(), CacheError> {
    let path = path(layout, stream);
    let file = OpenOptions::new().create(true).append(true).open(&path);
    // One write of one line, so that two processes do not mix theirs.
    file.and_then(|mut file| file.write_all(format!("{segment}\n").as_bytes()))
        .map_err(CacheError::io("write", &path))
}
