//! Glob patterns over the file system: `*`, `?` and `[…]` within a name, `**` for any depth.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// The regular files that match `pattern`, sorted by path. Names that begin with a dot match only a pattern that does.
pub(crate) fn find(pattern: &Path) -> io::Result<Vec<PathBuf>> {
    let components: Vec<Component<'_>> = pattern.components().collect();
    let mut found = Vec::new();
    walk(PathBuf::new(), &components, &mut found)?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn walk(at: PathBuf, rest: &[Component<'_>], found: &mut Vec<PathBuf>) -> io::Result<()> {
    let Some((first, deeper)) = rest.split_first() else {
        if at.is_file() {
            found.push(at);
        }
        return Ok(());
    };
    let name = first.as_os_str().as_encoded_bytes();
    if name == b"**" {
        walk(at.clone(), deeper, found)?;
        for entry in entries(&at)? {
            // Links to directories are not followed here, so that a link upwards is no endless tree.
            if entry.file_type()?.is_dir() && !hidden(&entry.file_name()) {
                walk(entry.path(), rest, found)?;
            }
        }
        return Ok(());
    }
    if !name.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[')) {
        return walk(at.join(first), deeper, found);
    }
    for entry in entries(&at)? {
        let entry_name = entry.file_name();
        if (!hidden(&entry_name) || name[0] == b'.') && matches(name, entry_name.as_encoded_bytes()) {
            walk(entry.path(), deeper, found)?;
        }
    }
    Ok(())
}

fn hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().first() == Some(&b'.')
}

/// What is in a directory; nothing, if it is none.
fn entries(at: &Path) -> io::Result<Vec<fs::DirEntry>> {
    let at = if at.as_os_str().is_empty() { Path::new(".") } else { at };
    match fs::read_dir(at) {
        Ok(entries) => entries.collect(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// Whether `name` matches `pattern`. On a mismatch only the last `*` takes one byte more, so the time is at most the
/// product of the lengths.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut position) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while position < name.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at, position));
            at += 1;
        } else if let Some(length) = matches_one(&pattern[at..], name[position]) {
            at += length;
            position += 1;
        } else if let Some((star_at, star_position)) = star {
            star = Some((star_at, star_position + 1));
            (at, position) = (star_at + 1, star_position + 1);
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

/// The length of the pattern's first element, if it matches `byte`.
fn matches_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern.first()? {
        b'?' => Some(1),
        b'[' => match class(pattern) {
            Some((length, members, negated)) => {
                let mut inside = false;
                let mut index = 0;
                while index < members.len() {
                    if members.get(index + 1) == Some(&b'-') && index + 2 < members.len() {
                        inside |= (members[index]..=members[index + 2]).contains(&byte);
                        index += 3;
                    } else {
                        inside |= members[index] == byte;
                        index += 1;
                    }
                }
                (inside != negated).then_some(length)
            }
            None => (byte == b'[').then_some(1),
        },
        literal => (literal == byte).then_some(1),
    }
}

/// The length, members and negation of the class that `pattern` begins with; `None` if it is never closed.
fn class(pattern: &[u8]) -> Option<(usize, &[u8], bool)> {
    let negated = pattern.get(1) == Some(&b'!');
    let start = if negated { 2 } else { 1 };
    // A `]` right at the start is a member.
    let end = pattern.iter().skip(start + 1).position(|&byte| byte == b']')? + start + 1;
    Some((end + 1, &pattern[start..end], negated))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (pattern, name, expected) in [
            ("*.jsonl", "a.jsonl", true),
            ("*.jsonl", "a.json", false),
            ("part-?", "part-1", true),
            ("part-?", "part-12", false),
            ("part-[0-4]*", "part-3.txt", true),
            ("part-[!0-4]", "part-3", false),
            ("[]a]x", "]x", true),
            ("[a", "[a", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn files_are_found_in_order_at_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["b.txt", "a.txt", "deep/c.txt", "deep/er/d.txt", "deep/e.md", ".hidden/f.txt"] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let names = |pattern: &str| -> Vec<String> {
            let found = find(&dir.path().join(pattern)).unwrap();
            found.iter().map(|path| path.strip_prefix(dir.path()).unwrap().display().to_string()).collect()
        };
        assert_eq!(names("*.txt"), ["a.txt", "b.txt"]);
        assert_eq!(names("**/*.txt"), ["a.txt", "b.txt", "deep/c.txt", "deep/er/d.txt"]);
        assert_eq!(names("deep/*"), ["deep/c.txt", "deep/e.md"]);
        assert!(names("none/*").is_empty());
    }
}
