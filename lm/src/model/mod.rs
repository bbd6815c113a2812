//! Decoders: their shape, their weights, and running them with a cache.
//!
//! [`Config`] says the shape, [`Places`] where each weight lies in one flat slice, [`Model`] runs the weights for generation.
//! Training keeps what the way back needs and lives in [`crate::train`]; both use the same kernels on the same layout, so a
//! token has the same logits, to the bit, in either.

mod adapters;
pub(crate) mod config;
mod decoder;
pub mod on_gpu;
pub(crate) mod parameters;
mod source;
mod tape;

use std::path::{Path, PathBuf};

use crate::device::Device;

pub use adapters::Lora;
pub(crate) use adapters::{Adapter, Adapters};
pub use config::{BlockKind, Config, Experts, Family, RopeParameters, Scaling};
pub(crate) use decoder::Workspace;
pub use decoder::{Cache, Decoder, Precision, Turn};
pub use parameters::{
    AttentionPlaces, BlockPlaces, ExpertsPlaces, FeedPlaces, MambaPlaces, MixerPlaces, Parameter, Places,
};
pub(crate) use source::Source;
pub use tape::Recompute;
pub(crate) use tape::{Batch, Gradients, Tape, Weights};

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
    /// The adapters do not fit the model.
    #[error("the adapters do not fit the model: {0}")]
    Adapters(String),
    /// The weights cannot be read or written.
    #[error(transparent)]
    Weights(#[from] crate::weights::WeightsError),
    /// A GGUF file cannot be used.
    #[error(transparent)]
    Gguf(#[from] crate::gguf::GgufError),
    /// The threads cannot be started.
    #[error("failed to start the worker threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// The GPU does not do what it should.
    #[error(transparent)]
    Gpu(#[from] crate::gpu::GpuError),
}

/// A model ready to generate, on the device it was loaded on.
#[derive(Debug)]
pub enum Model {
    /// On the CPU.
    Cpu(Box<Decoder>),
    /// On a GPU.
    Gpu(Box<on_gpu::Decoder>),
}

impl Model {
    /// Loads a model directory or a GGUF file. On a GPU all weights become 16-bit floats (bfloat16), whatever the precision.
    pub fn load(path: &Path, precision: Precision, device: &Device) -> Result<Self, ModelError> {
        match *device {
            Device::Cpu { threads } => Ok(Self::Cpu(Box::new(Decoder::load(path, precision, threads)?))),
            Device::Cuda(ordinal) => {
                let gpu = crate::gpu::open(ordinal)?;
                Ok(Self::Gpu(Box::new(on_gpu::Decoder::load(path, &gpu)?)))
            }
        }
    }

    /// The shape of the model.
    pub fn config(&self) -> &Config {
        match self {
            Self::Cpu(decoder) => decoder.config(),
            Self::Gpu(decoder) => decoder.config(),
        }
    }
}

impl ModelError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// A slice of `length` places with any contents.
pub(crate) fn room(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    buffer.resize(length, 0.0);
    buffer
}

/// Writes a model directory with random weights: `config.json` and `model.safetensors`.
pub fn init(config: &Config, seed: u64, dir: &Path) -> Result<(), ModelError> {
    config.check()?;
    let places = Places::new(config);
    save(config, &places, &parameters::random(config, &places, seed), dir)
}

/// The shape of a model, held against the files; reads no weight.
pub(crate) fn shape(path: &Path) -> Result<(Config, Places), ModelError> {
    let (config, source) = Source::open(path)?;
    let places = Places::new(&config);
    source.check(&places)?;
    Ok((config, places))
}

/// Reads all weights of a model, in the order of their places.
pub(crate) fn load(path: &Path) -> Result<(Config, Places, Vec<f32>), ModelError> {
    let (config, source) = Source::open(path)?;
    let places = Places::new(&config);
    source.check(&places)?;
    let mut weights = Vec::with_capacity(places.total());
    for parameter in &places.parameters {
        weights.extend(source.read(parameter)?);
    }
    Ok((config, places, weights))
}

/// Makes a GGUF file a model directory: with the file itself as [`crate::gguf::MODEL_FILE`], or with its weights widened to 32
/// bits, as transformers reads them. Its tokenizer is another matter.
pub fn convert(gguf: &Path, precision: Precision, dir: &Path) -> Result<Config, ModelError> {
    match precision {
        Precision::Float32 => {
            let (config, places, weights) = load(gguf)?;
            save(&config, &places, &weights, dir)?;
            Ok(config)
        }
        Precision::AsStored => {
            let (config, source) = Source::open(gguf)?;
            source.check(&Places::new(&config))?;
            save_config(&config, dir)?;
            let copy = dir.join(crate::gguf::MODEL_FILE);
            std::fs::copy(gguf, &copy).map_err(|source| ModelError::io(&copy, source))?;
            Ok(config)
        }
    }
}

/// The digest of all tensors of a model: their names, types, shapes and bytes, in whatever files they lie.
pub fn digest(path: &Path) -> Result<blake3::Hash, ModelError> {
    Ok(Source::open(path)?.1.digest())
}

/// Reads every weight of a model once, so that a fault comes to light before anything is computed with it.
pub fn verify(path: &Path) -> Result<Config, ModelError> {
    let (config, source) = Source::open(path)?;
    let places = Places::new(&config);
    source.check(&places)?;
    for parameter in &places.parameters {
        source.read(parameter)?;
    }
    Ok(config)
}

/// Writes a model directory that transformers reads.
pub(crate) fn save(config: &Config, places: &Places, weights: &[f32], dir: &Path) -> Result<(), ModelError> {
    save_config(config, dir)?;
    crate::weights::save(dir, parameters::named(places, weights))?;
    Ok(())
}

fn save_config(config: &Config, dir: &Path) -> Result<(), ModelError> {
    std::fs::create_dir_all(dir).map_err(|source| ModelError::io(dir, source))?;
    let path = dir.join("config.json");
    let mut json =
        serde_json::to_value(config).map_err(|source| ModelError::Config { path: path.clone(), source })?;
    json["torch_dtype"] = "float32".into();
    let text = serde_json::to_string_pretty(&json)
        .map_err(|source| ModelError::Config { path: path.clone(), source })?;
    crate::atomic::write(&path, format!("{text}\n").as_bytes())
        .map_err(|source| ModelError::io(&path, source))
}

/// [`init`] with scales and biases that are not all the same, so that a test notices one that is left out.
#[cfg(test)]
pub(crate) fn varied(config: &Config, seed: u64, dir: &Path) {
    config.check().unwrap();
    let places = Places::new(config);
    let mut weights = parameters::random(config, &places, seed);
    for vector in places.parameters.iter().filter(|parameter| !parameter.is_matrix()) {
        for (index, weight) in weights[vector.places.clone()].iter_mut().enumerate() {
            *weight += 0.3 * (index as f32 * 1.7 + seed as f32).sin();
        }
    }
    save(config, &places, &weights, dir).unwrap();
}

/// The same shape in a family; a hybrid has blocks of every kind.
#[cfg(test)]
pub(crate) fn of_family(config: Config, family: Family) -> Config {
    let mut config = Config { architectures: vec![family.class().to_owned()], ..config };
    if family == Family::NemotronH {
        let options = serde_json::json!({
            "hybrid_override_pattern": "M-M*-M", "mamba_num_heads": 4, "mamba_head_dim": 12, "ssm_state_size": 10,
            "n_groups": 2, "conv_kernel": 4, "time_step_limit": [0.001, 100.0]
        });
        config.other = options.as_object().cloned().unwrap_or_default();
        config.num_hidden_layers = 6;
    }
    if family == Family::Qwen3Moe {
        let options = serde_json::json!({
            "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": true,
            "decoder_sparse_step": 2
        });
        config.other = options.as_object().cloned().unwrap_or_default();
        config.num_hidden_layers = 4;
    }
    config
}
