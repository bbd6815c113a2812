//! Checkpoints: one file, replaced atomically, that resumes a run to the bit.

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata};
use serde::{Deserialize, Serialize};

use super::{Position, TrainConfig, TrainError, Trainer, engine};
use crate::model::Config;
use crate::weights::{Saved, bytes};

/// Raised when the layout changes; an older checkpoint is then refused, and the run starts again.
const VERSION: u32 = 1;
const FILE: &str = "checkpoint.safetensors";
/// The tensors: what is trained, and its moments.
const NAMES: [&str; 3] = ["weights", "first", "second"];
/// The metadata entry that holds [`State`].
const STATE: &str = "state";

/// All that is not a tensor. Configuration and checksum say whether the tensors are this run's, and whole.
#[derive(Serialize, Deserialize)]
struct State {
    version: u32,
    position: Position,
    config: TrainConfig,
    model: Config,
    checksum: String,
}

fn checksum(parts: [&[u8]; 3]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().to_hex().to_string()
}

pub(super) fn save(trainer: &Trainer, dir: &Path) -> Result<(), TrainError> {
    let path = dir.join(FILE);
    let fault = |reason: String| TrainError::Checkpoint { path: path.clone(), reason };
    let engine::State { trained, first, second } = trainer.engine.state()?;
    let parts = [&*trained, &*first, &*second];
    let [weights, first, second] = parts.map(bytes);
    let state = State {
        version: VERSION,
        position: trainer.position,
        config: trainer.config.clone(),
        model: trainer.model.clone(),
        checksum: checksum([&weights, &first, &second]),
    };
    let state = serde_json::to_string(&state).map_err(|error| fault(error.to_string()))?;
    let saved = parts.map(|elements| Saved { shape: vec![elements.len()], elements });
    std::fs::create_dir_all(dir)
        .and_then(|()| {
            crate::atomic::write_with(&path, |partial| {
                let about = Some([(STATE.to_owned(), state)].into());
                safetensors::serialize_to_file(NAMES.into_iter().zip(saved), about, partial)
                    .map_err(io::Error::other)
            })
        })
        .map_err(|error| fault(error.to_string()))
}

pub(super) fn load(trainer: &mut Trainer, dir: &Path) -> Result<(), TrainError> {
    let path = dir.join(FILE);
    let fault = |reason: String| TrainError::Checkpoint { path: path.clone(), reason };
    let file = File::open(&path).map_err(|error| fault(error.to_string()))?;
    // SAFETY: the checkpoint is in this node's own folder, and replaced by a rename, never rewritten.
    let map = unsafe { Mmap::map(&file) }.map_err(|error| fault(error.to_string()))?;
    let (_, metadata) = SafeTensors::read_metadata(&map).map_err(|error| fault(error.to_string()))?;
    let state = state(&metadata).map_err(&fault)?;
    if state.version != VERSION {
        return Err(fault(format!("it has version {}, this program writes {VERSION}", state.version)));
    }
    if state.config != trainer.config || state.model != trainer.model {
        return Err(fault("it belongs to a run with another configuration".to_owned()));
    }
    let stored = SafeTensors::deserialize(&map).map_err(|error| fault(error.to_string()))?;
    let places = trainer.trained_len();
    let part = |name| {
        let tensor = stored.tensor(name).map_err(|error| fault(error.to_string()))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != [places] {
            let (dtype, shape) = (tensor.dtype(), tensor.shape());
            return Err(fault(format!(
                "`{name}` is {dtype:?} of shape {shape:?}, the model has {places} places"
            )));
        }
        Ok(tensor.data())
    };
    let [weights, first, second] = [part(NAMES[0])?, part(NAMES[1])?, part(NAMES[2])?];
    // Nothing is taken over before all of it is known to be whole.
    if checksum([weights, first, second]) != state.checksum {
        return Err(fault("its checksum is not that of its contents".to_owned()));
    }
    trainer.engine.restore(weights, first, second)?;
    trainer.position = state.position;
    Ok(())
}

fn state(metadata: &Metadata) -> Result<State, String> {
    let entries = metadata.metadata().as_ref().ok_or("it says nothing about its run")?;
    let text = entries.get(STATE).ok_or("it says nothing about its run")?;
    serde_json::from_str(text).map_err(|error| error.to_string())
}
