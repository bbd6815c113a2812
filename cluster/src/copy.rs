//! A copy of this program in the store: workers run the very program that ordered their work, wherever they are and whatever
//! is built meanwhile.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use dag_cache::Layout;

use crate::folder::nonce;

/// Where the copy is; made if it is not there.
pub(crate) fn program(layout: &Layout) -> io::Result<PathBuf> {
    // The kernel's own name for it finds the program even when another one has taken its place on the disk.
    let bytes = fs::read("/proc/self/exe").or_else(|_| fs::read(std::env::current_exe()?))?;
    let folder = layout.programs();
    let path = folder.join(blake3::hash(&bytes).to_hex().as_str());
    fs::create_dir_all(&folder)?;
    let beside = folder.join(format!(".{}", nonce()?));
    if path.is_file() {
        // In use again, which collection must see: the time is that of a new file, since no clock is at hand here.
        let now = fs::File::create_new(&beside)?.metadata()?.modified()?;
        fs::remove_file(&beside)?;
        fs::File::open(&path)?.set_modified(now)?;
        return Ok(path);
    }
    let write = || {
        fs::write(&beside, &bytes)?;
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
