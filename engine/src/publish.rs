//! Published copies: artifacts put beside the experiment file for people, as `run: { publish }` asks.
//!
//! A copy is written beside its place and renamed into it, and only if its content differs. Of a directory every file
//! is treated so by itself: files beside them that are not the artifact's stay, since they may be somebody's work.

use std::fs;
use std::path::Path;

use dag_cache::{CacheError, Output, OutputKind, View};

use crate::files;
use crate::stat_cache::StatCache;

/// Whether what lies at `to` is a copy of `output`.
pub(crate) fn is_current(view: &View, cache: &mut StatCache, output: &Output, to: &Path) -> bool {
    match output.kind {
        OutputKind::File => cache.file(to).is_ok_and(|file| file.digest == output.digest),
        OutputKind::Tree => view.tree(&output.digest).is_ok_and(|files| {
            files
                .iter()
                .all(|file| cache.file(&to.join(&file.path)).is_ok_and(|found| found.digest == file.digest))
        }),
    }
}

/// Puts a copy of `output` at `to`. Returns whether anything had to be written.
pub(crate) fn publish(
    view: &View,
    cache: &mut StatCache,
    output: &Output,
    to: &Path,
) -> Result<bool, CacheError> {
    if is_current(view, cache, output, to) {
        return Ok(false);
    }
    match output.kind {
        OutputKind::File => copy(view, output, to)?,
        OutputKind::Tree => {
            for file in view.tree(&output.digest)? {
                let to = to.join(&file.path);
                if cache.file(&to).is_ok_and(|found| found.digest == file.digest) {
                    continue;
                }
                copy(view, &Output { kind: OutputKind::File, digest: file.digest, bytes: file.bytes }, &to)?;
            }
        }
    }
    Ok(true)
}

fn copy(view: &View, output: &Output, to: &Path) -> Result<(), CacheError> {
    let failed = |source| CacheError::Io { action: "publish", path: to.to_owned(), source };
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let beside = files::beside(to);
    let placed = view.export(output, &beside).and_then(|()| fs::rename(&beside, to).map_err(failed));
    if placed.is_err() {
        // Left over only if the disk fails twice; the name says whose it is.
        let _ = fs::remove_file(&beside);
    }
    placed
}
