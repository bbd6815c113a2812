//! The checkpoints a trainer has left: which is the newest that is whole.

use std::fs;
use std::path::{Path, PathBuf};

/// A checkpoint that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// Steps done.
    pub(super) step: u64,
    /// Its folder.
    pub(super) path: PathBuf,
}

/// The newest whole checkpoint in a folder.
pub(super) fn newest(folder: &Path) -> Option<Checkpoint> {
    fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let step = step_of(&path)?;
            Some(Checkpoint { step, path })
        })
        .max_by_key(|checkpoint| checkpoint.step)
}

/// The step of a checkpoint by the name of its folder; none if that is no checkpoint, or not a whole one.
fn step_of(path: &Path) -> Option<u64> {
    // Pointers such as `LATEST` are links to folders that are listed themselves.
    if fs::symlink_metadata(path).ok()?.file_type().is_symlink() || !path.is_dir() {
        return None;
    }
    let name = path.file_name()?.to_str()?;
    if let Some(step) = name.strip_prefix("step_") {
        // The protocol's own: written under another name and renamed when it is whole.
        return step.parse().ok();
    }
    if let Some(step) = name.strip_prefix("checkpoint-") {
        // That of transformers, which write the state of the trainer last.
        let state = fs::read(path.join("trainer_state.json")).ok()?;
        let state: serde_json::Value = serde_json::from_slice(&state).ok()?;
        return state.get("global_step")?.as_u64().filter(|state| step.parse() == Ok(*state));
    }
    // NeMo-Automodel's, which counts steps from zero and marks what is not whole yet.
    let (epoch, step) = name.strip_prefix("epoch_")?.split_once("_step_")?;
    let is_whole = epoch.parse::<u64>().is_ok() && !path.join(".incomplete").exists();
    step.parse::<u64>().ok().filter(|_| is_whole).map(|step| step + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_the_one_that_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(newest(&at("absent")), None);
        for name in ["step_5", "step_10", "step_20.partial", "other", "step_x"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("step_99"), "a file").unwrap();
        assert_eq!(newest(dir.path()), Some(Checkpoint { step: 10, path: at("step_10") }));

        fs::create_dir(at("checkpoint-30")).unwrap();
        assert_eq!(newest(dir.path()).unwrap().step, 10);
        for torn in ["", "{\"global_step\": 3", "{\"global_step\": 25}"] {
            fs::write(at("checkpoint-30/trainer_state.json"), torn).unwrap();
            assert_eq!(newest(dir.path()).unwrap().step, 10, "{torn}");
        }
        fs::write(at("checkpoint-30/trainer_state.json"), "{\"global_step\": 30}").unwrap();
        assert_eq!(newest(dir.path()).unwrap().step, 30);

        for name in ["epoch_0_step_39", "epoch_0_step_49", "epoch_0_step_59.reserving-1"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("epoch_0_step_49/.incomplete"), "").unwrap();
        std::os::unix::fs::symlink("epoch_0_step_49", at("LATEST")).unwrap();
        assert_eq!(newest(dir.path()), Some(Checkpoint { step: 40, path: at("epoch_0_step_39") }));
    }
}
