//! A copy of this program in the store: workers run the very program that ordered their work, wherever they are and whatever
//! is built meanwhile.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use dag_cache::Layout;

use crate::folder::nonce;
use crate::queue::Refused;

/// Where the copy is; made if it is not there.
pub(crate) fn program(layout: &Layout) -> Result<PathBuf, Refused> {
    placed(&layout.programs())
        .map_err(|error| Refused::Wrong(format!("this program cannot be copied into the store: {error}")))
}

/// This program, which does not change while it runs.
fn bytes() -> io::Result<Vec<u8>> {
    // The kernel's own name for it finds the program even when another one has taken its place on the disk.
    fs::read("/proc/self/exe").or_else(|_| fs::read(std::env::current_exe()?))
}

fn placed(folder: &Path) -> io::Result<PathBuf> {
    // A hundred megabytes, and every job asks.
    static DIGEST: OnceLock<String> = OnceLock::new();
    if DIGEST.get().is_none() {
        // Another thread may have been faster; it has found the same.
        let _ = DIGEST.set(blake3::hash(&bytes()?).to_hex().to_string());
    }
    let path = folder.join(DIGEST.get().map_or("", String::as_str));
    fs::create_dir_all(folder)?;
    let beside = folder.join(format!(".{}", nonce()?));
    if path.is_file() {
        // In use again, which collection must see: the time is that of a new file, since no clock is at hand here.
        let now = fs::File::create_new(&beside)?.metadata()?.modified()?;
        fs::remove_file(&beside)?;
        fs::File::open(&path)?.set_modified(now)?;
        return Ok(path);
    }
    let write = || {
        fs::write(&beside, bytes()?)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o755))?;
        fs::File::open(&beside)?.sync_all()?;
        fs::rename(&beside, &path)
    };
    if let Err(error) = write() {
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    Ok(path)
}
