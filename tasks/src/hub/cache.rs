//! The folder of one repository, in the layout of Hugging Face's own tools.
//!
//! `blobs/` holds contents by their tags, `snapshots/COMMIT/` the names as links to them, `refs/` what revisions were at
//! when they were last fetched. Ours alone is `listings/`, which says what a commit holds: without it, a commit of which
//! only some files were fetched could not be told from a whole one.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::address::{Address, is_commit};
use super::error::HubError;
use super::settings::Settings;

pub(super) struct Folder {
    root: PathBuf,
    locks: PathBuf,
}

impl Folder {
    pub(super) fn of(settings: &Settings, address: &Address) -> Self {
        let name = format!("{}--{}", address.kind().plural(), address.repository().replace('/', "--"));
        Self { root: settings.cache.join(&name), locks: settings.cache.join(".locks").join(name) }
    }

    /// The commit that `revision` was at.
    pub(super) fn reference(&self, revision: &str) -> Option<String> {
        let text = fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Notes that `revision` is at `commit`.
    pub(super) fn remember(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if self.reference(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        write(&self.root.join("refs").join(revision), commit.as_bytes())
    }

    /// The names of all files of a commit, if they were ever listed.
    pub(super) fn listing(&self, commit: &str) -> Option<Vec<String>> {
        let text = fs::read_to_string(self.root.join("listings").join(commit)).ok()?;
        Some(text.lines().map(str::to_owned).collect())
    }

    pub(super) fn keep_listing(&self, commit: &str, names: &[String]) -> Result<(), HubError> {
        if names.iter().any(|name| name.contains('\n')) {
            return Ok(());
        }
        write(&self.root.join("listings").join(commit), names.join("\n").as_bytes())
    }

    /// The names of the files of a commit that are here, sorted.
    pub(super) fn present(&self, commit: &str) -> Vec<String> {
        let root = self.root.join("snapshots").join(commit);
        let (mut found, mut open) = (Vec::new(), vec![root.clone()]);
        while let Some(folder) = open.pop() {
            for path in fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
                if path.is_dir() {
                    open.push(path);
                } else if let Some(name) = path.strip_prefix(&root).ok().and_then(Path::to_str)
                    && path.exists()
                {
                    found.push(name.to_owned());
                }
            }
        }
        found.sort_unstable();
        found
    }

    /// Where a file of a commit is.
    pub(super) fn place(&self, commit: &str, name: &str) -> Result<PathBuf, HubError> {
        // A name comes from elsewhere, and must not lead out of the folder.
        if name.is_empty() || !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(strange(name, "is no name of a file"));
        }
        Ok(self.root.join("snapshots").join(commit).join(name))
    }

    /// Where the content with this tag is.
    pub(super) fn blob(&self, tag: &str) -> Result<PathBuf, HubError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if tag.is_empty() || tag.len() > 128 || !tag.chars().all(is_plain) {
            return Err(strange(tag, "is no tag of a file's content"));
        }
        Ok(self.root.join("blobs").join(tag))
    }

    /// Where it is while it comes.
    pub(super) fn part(&self, tag: &str) -> Result<PathBuf, HubError> {
        Ok(self.blob(tag)?.with_file_name(format!("{tag}.incomplete")))
    }

    /// Who holds this fetches it; the same lock as Hugging Face's tools take.
    pub(super) fn lock(&self, tag: &str) -> Result<PathBuf, HubError> {
        self.blob(tag)?;
        Ok(self.locks.join(format!("{tag}.lock")))
    }

    /// Gives the content with this tag its name in a commit.
    pub(super) fn link(&self, commit: &str, name: &str, tag: &str) -> Result<(), HubError> {
        let (place, blob) = (self.place(commit, name)?, self.blob(tag)?);
        let up = "../".repeat(name.split('/').count() + 1);
        let target = Path::new(&up).join("blobs").join(tag);
        let failed = |error| HubError::io(&place, error);
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        if !blob.exists() {
            return Err(HubError::io(blob, io::ErrorKind::NotFound.into()));
        }
        let beside = beside(&place);
        std::os::unix::fs::symlink(target, &beside).map_err(failed)?;
        fs::rename(&beside, &place).map_err(failed)
    }
}

fn strange(name: &str, why: &str) -> HubError {
    HubError::Strange { what: format!("`{name}`"), why: why.to_owned() }
}

/// Puts a small file into its place whole.
fn write(path: &Path, bytes: &[u8]) -> Result<(), HubError> {
    let failed = |error| HubError::io(path, error);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let beside = beside(path);
    fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path)).map_err(failed)
}

/// A free name in the same folder.
fn beside(path: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}-{number}", std::process::id()))
}
