//! Files that are either there whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Writes a file beside its place, makes it durable, and renames it into place.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with(path, |partial| File::create(partial)?.write_all(bytes))
}

/// [`write`] for contents that are written piece by piece: `fill` writes the file it is given the path of.
pub(crate) fn write_with(path: &Path, fill: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    fill(partial)?;
    File::open(partial)?.sync_all()?;
    fs::rename(partial, path)?;
    // The rename itself is durable only when the directory is.
    File::open(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?
        .sync_all()
}
