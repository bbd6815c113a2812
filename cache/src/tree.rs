//! Trees: a directory as a sorted list of its files, each a blob of its own.
//!
//! Only files count: empty directories, permissions and times are not part of a tree, so that equal contents have
//! equal digests wherever they were made.

use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{CacheError, Digest};

/// One file of a tree. The fields are in the order of canonical JSON: by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeFile {
    /// The file's size.
    pub bytes: u64,
    /// The file's blob.
    pub digest: Digest,
    /// Where it lies in the tree: relative, with `/` between the parts.
    pub path: String,
}

/// The bytes of a tree's blob.
pub(crate) fn encode(files: &mut [TreeFile]) -> Vec<u8> {
    files.sort_by(|left, right| left.path.cmp(&right.path));
    serde_json::to_vec(files).expect("a list of plain fields is always JSON")
}

/// The files in a tree's blob, or what is wrong with it. No path leads out of the tree and no two are the same,
/// whoever wrote the blob.
pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<TreeFile>, String> {
    let files: Vec<TreeFile> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    for file in &files {
        let plain = Path::new(&file.path).components().all(|part| matches!(part, Component::Normal(_)));
        if file.path.is_empty() || !plain {
            return Err(format!("`{}` is not a path within a tree", file.path));
        }
    }
    if !files.is_sorted_by(|left, right| left.path < right.path) {
        return Err("its paths are not in order".to_owned());
    }
    Ok(files)
}

/// A file found under a directory: its place in the tree and where its bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) path: String,
    pub(crate) source: PathBuf,
}

/// All files under `root`. A symbolic link stands for the regular file it leads to when that lies under `root` too;
/// any other link, and anything that is neither file nor directory, is refused.
pub(crate) fn walk(root: &Path) -> Result<Vec<Found>, CacheError> {
    let canonical = root.canonicalize().map_err(CacheError::io("resolve", root))?;
    let mut found = Vec::new();
    let mut pending = vec![(canonical.clone(), String::new())];
    while let Some((directory, prefix)) = pending.pop() {
        for source in crate::atomic::list(&directory)? {
            let refuse = |what: &str| CacheError::Refused { path: source.clone(), what: what.to_owned() };
            let name = source.file_name().and_then(|name| name.to_str());
            let path = format!("{prefix}{}", name.ok_or_else(|| refuse("its name is not UTF-8"))?);
            let kind = fs::symlink_metadata(&source).map_err(CacheError::io("inspect", &source))?.file_type();
            if kind.is_dir() {
                pending.push((source, path + "/"));
            } else if kind.is_file() {
                found.push(Found { path, source });
            } else if kind.is_symlink() {
                let target = source.canonicalize().map_err(CacheError::io("resolve", &source))?;
                if !target.starts_with(&canonical) || !target.is_file() {
                    return Err(refuse("it is a link to something else than a file of the same output"));
                }
                found.push(Found { path, source: target });
            } else {
                return Err(refuse("it is neither a file nor a directory"));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn file(path: &str) -> TreeFile {
        TreeFile { bytes: 1, digest: Digest::of(b"x"), path: path.to_owned() }
    }

    #[test]
    fn bytes_are_canonical_and_sorted() {
        let bytes = encode(&mut [file("b"), file("a/c")]);
        let digest = Digest::of(b"x");
        let expected = format!(
            r#"[{{"bytes":1,"digest":"{digest}","path":"a/c"}},{{"bytes":1,"digest":"{digest}","path":"b"}}]"#
        );
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), expected);
        assert_eq!(decode(&bytes).unwrap(), [file("a/c"), file("b")]);
    }

    #[test]
    fn paths_that_lead_outside_are_refused() {
        for bad in ["", "/etc/passwd", "../x", "a/../../b", "./a", "a/.."] {
            assert!(decode(&encode(&mut [file(bad)])).is_err(), "{bad:?}");
        }
        assert!(decode(&encode(&mut [file("a"), file("a")])).is_err(), "the same path twice");
    }

    #[test]
    fn links_are_followed_only_inside() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/real"), b"x").unwrap();
        symlink("sub/real", dir.path().join("inside")).unwrap();
        let mut names: Vec<String> = walk(dir.path()).unwrap().into_iter().map(|found| found.path).collect();
        names.sort();
        assert_eq!(names, ["inside", "sub/real"]);

        symlink("/etc/hostname", dir.path().join("outside")).unwrap();
        assert!(matches!(walk(dir.path()), Err(CacheError::Refused { .. })));
        fs::remove_file(dir.path().join("outside")).unwrap();
        symlink("sub", dir.path().join("directory")).unwrap();
        assert!(matches!(walk(dir.path()), Err(CacheError::Refused { .. })));
    }
}
