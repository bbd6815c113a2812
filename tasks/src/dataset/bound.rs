//! The most rows that files can hold, without reading what is in them.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::source::{Format, sniff};
use super::unpack::is_packed;
use crate::table::TableReader;

/// Text files are counted up to this many bytes together; more would take longer than a plan may.
const MOST_BYTES: u64 = 1 << 30;

/// The most rows in `files`; `None` where that is not quickly known.
pub(super) fn rows(files: &[PathBuf], format: Option<Format>) -> Option<u64> {
    let bytes: u64 = files.iter().filter_map(|path| Some(path.metadata().ok()?.len())).sum();
    let rows = files.iter().map(|path| match format.map_or_else(|| sniff(path).ok(), Some)? {
        Format::Parquet => Some(TableReader::open(path).ok()?.len()),
        Format::Jsonl | Format::Csv if bytes <= MOST_BYTES && !is_packed(path) => lines(path),
        Format::Jsonl | Format::Csv | Format::Json => None,
    });
    (!files.is_empty()).then(|| rows.sum()).flatten()
}

/// Lines: as many as rows in JSON lines, and no fewer in CSV, where a row may have several.
fn lines(path: &Path) -> Option<u64> {
    let mut reader = BufReader::new(File::open(path).ok()?);
    let mut buffer = vec![0; 1 << 16];
    let (mut lines, mut last) = (0, b'\n');
    loop {
        let read = reader.read(&mut buffer).ok()?;
        let Some(end) = buffer[..read].last() else { break };
        lines += buffer[..read].split(|byte| *byte == b'\n').count() as u64 - 1;
        last = *end;
    }
    Some(lines + u64::from(last != b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_bounded_by_lines() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let files =
            [write("a", "{\"x\":1}\n{\"x\":2}"), write("b", "{\"x\":3}\n\n"), write("c", "x,y\n1,2\n")];
        assert_eq!(rows(&files, None), Some(6));
        assert_eq!(rows(&[write("d", "[{\"x\":1}]")], None), None);
        assert_eq!(rows(&[dir.path().join("gone")], None), None);
        assert_eq!(rows(&[], None), None);
    }
}
