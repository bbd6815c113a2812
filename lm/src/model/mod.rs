//! Models of the Llama family: their shape, their weights, and running them with a cache.
//!
//! [`Config`] says the shape, [`Places`] where each weight lies in one flat slice, [`Model`] runs the weights for generation.
//! Training keeps what the way back needs and lives in [`crate::train`]; both use the same kernels on the same layout, so a
//! token has the same logits, to the bit, in either.

mod config;
mod decoder;
mod parameters;
mod tape;

use std::path::{Path, PathBuf};

pub use config::{Config, RopeParameters};
pub use decoder::{Cache, Model, Turn};
pub(crate) use parameters::load;
pub use parameters::{LayerPlaces, Parameter, Places};
pub(crate) use tape::{Batch, Tape};

/// What can be wrong with a model directory or a device.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file cannot be read or written.
    #[error("failed to access `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A description is not what it should be.
    #[error("`{}` is not a valid description: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The model would be computed wrongly.
    #[error("the model needs {what}, which is not supported")]
    Unsupported {
        /// What it needs.
        what: String,
    },
    /// The weights cannot be read or written.
    #[error(transparent)]
    Weights(#[from] crate::weights::WeightsError),
    /// The threads cannot be started.
    #[error("failed to start the worker threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// The device is not one that this build can use.
    #[error("{0} is not usable here")]
    Device(String),
}

impl ModelError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// Writes a model directory with random weights: `config.json` and `model.safetensors`.
pub fn init(config: &Config, seed: u64, dir: &Path) -> Result<(), ModelError> {
    config.check()?;
    let places = Places::new(config);
    save(config, &places, &parameters::random(config, &places, seed), dir)
}

/// Writes a model directory that transformers reads.
pub(crate) fn save(config: &Config, places: &Places, weights: &[f32], dir: &Path) -> Result<(), ModelError> {
    std::fs::create_dir_all(dir).map_err(|source| ModelError::io(dir, source))?;
    let path = dir.join("config.json");
    let mut json =
        serde_json::to_value(config).map_err(|source| ModelError::Config { path: path.clone(), source })?;
    json["torch_dtype"] = "float32".into();
    let text = serde_json::to_string_pretty(&json)
        .map_err(|source| ModelError::Config { path: path.clone(), source })?;
    crate::atomic::write(&path, format!("{text}\n").as_bytes())
        .map_err(|source| ModelError::io(&path, source))?;
    crate::weights::save(dir, &parameters::named(places, weights))?;
    Ok(())
}
