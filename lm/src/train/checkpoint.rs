//! Checkpoints: one file, replaced atomically, that resumes a run to the bit.

use std::path::Path;

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;
use serde::{Deserialize, Serialize};

use super::{Position, TrainConfig, TrainError, Trainer};
use crate::model::Config;

/// Raised when the layout changes; an older checkpoint is then refused, and the run starts again.
const VERSION: u32 = 1;
const FILE: &str = "checkpoint.safetensors";
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

fn checksum(parts: [&[f32]; 3]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        for chunk in part.chunks(1 << 14) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|number| number.to_le_bytes()).collect();
            hasher.update(&bytes);
        }
    }
    hasher.finalize().to_hex().to_string()
}

pub(super) fn save(trainer: &Trainer, dir: &Path) -> Result<(), TrainError> {
    let path = dir.join(FILE);
    let fault = |reason: String| TrainError::Checkpoint { path: path.clone(), reason };
    let parts = [&trainer.weights, &trainer.moments.first, &trainer.moments.second];
    let state = State {
        version: VERSION,
        position: trainer.position,
        config: trainer.config.clone(),
        model: trainer.model.clone(),
        checksum: checksum(parts.map(Vec::as_slice)),
    };
    let state = serde_json::to_string(&state).map_err(|error| fault(error.to_string()))?;
    let tensors = ["weights", "first", "second"].into_iter().zip(parts);
    let tensors: Vec<(&str, Tensor)> = tensors
        .map(|(name, part)| Ok((name, Tensor::from_slice(part, part.len(), &Device::Cpu)?)))
        .collect::<candle_core::Result<_>>()
        .map_err(|error| fault(error.to_string()))?;
    let tensors = tensors.iter().map(|(name, tensor)| (*name, tensor));
    let bytes = safetensors::serialize(tensors, Some([(STATE.to_owned(), state)].into()))
        .map_err(|error| fault(error.to_string()))?;
    std::fs::create_dir_all(dir)
        .and_then(|()| crate::atomic::write(&path, &bytes))
        .map_err(|error| fault(error.to_string()))
}

pub(super) fn load(trainer: &mut Trainer, dir: &Path) -> Result<(), TrainError> {
    let path = dir.join(FILE);
    let fault = |reason: String| TrainError::Checkpoint { path: path.clone(), reason };
    let bytes = std::fs::read(&path).map_err(|error| fault(error.to_string()))?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| fault(error.to_string()))?;
    let state = state(&metadata).map_err(&fault)?;
    if state.version != VERSION {
        return Err(fault(format!("it has version {}, this program writes {VERSION}", state.version)));
    }
    if state.config != trainer.config || state.model != trainer.model {
        return Err(fault("it belongs to a run with another configuration".to_owned()));
    }
    let stored = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .map_err(|error| fault(error.to_string()))?;
    let [weights, first, second] = ["weights", "first", "second"].map(|name| {
        let tensor = stored.get(name).ok_or_else(|| fault(format!("`{name}` is missing")))?;
        let values = tensor.to_vec1::<f32>().map_err(|error| fault(error.to_string()))?;
        match values.len() == trainer.weights.len() {
            true => Ok(values),
            false => Err(fault(format!(
                "`{name}` has {} places, the model {}",
                values.len(),
                trainer.weights.len()
            ))),
        }
    });
    let (weights, first, second) = (weights?, first?, second?);
    if checksum([&weights, &first, &second]) != state.checksum {
        return Err(fault("its checksum is not that of its contents".to_owned()));
    }
    trainer.weights = weights;
    trainer.moments.first = first;
    trainer.moments.second = second;
    trainer.position = state.position;
    Ok(())
}

fn state(metadata: &Metadata) -> Result<State, String> {
    let entries = metadata.metadata().as_ref().ok_or("it says nothing about its run")?;
    let text = entries.get(STATE).ok_or("it says nothing about its run")?;
    serde_json::from_str(text).map_err(|error| error.to_string())
}
