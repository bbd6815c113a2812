//! Where the weights of a model come from: a Hugging Face directory or a GGUF file.

use std::path::Path;

use super::{Config, ModelError, Parameter, Places};
use crate::gguf::Gguf;
use crate::weights::{Weights, WeightsError};

/// Weights that are read one at a time, by the names that transformers gives them.
pub(crate) enum Source {
    /// The safetensors files of a directory.
    Directory(Weights),
    /// A GGUF file.
    Gguf(Gguf),
}

impl Source {
    /// Opens a model directory or a GGUF file and says what model it is. Reads no weight.
    pub(crate) fn open(path: &Path) -> Result<(Config, Self), ModelError> {
        if path.is_file() {
            let gguf = Gguf::open(path)?;
            let config = gguf.config()?;
            config.check()?;
            return Ok((config, Self::Gguf(gguf)));
        }
        Ok((Config::load(path)?, Self::Directory(Weights::open(path)?)))
    }

    /// Whether every weight is there in its shape, and no other: so that nothing is allocated for a description that the file
    /// does not bear out, and nothing is computed without a weight that the model was trained with.
    pub(crate) fn check(&self, places: &Places) -> Result<(), ModelError> {
        match self {
            Self::Gguf(gguf) => gguf.check(places)?,
            Self::Directory(weights) => check_directory(weights, places)?,
        }
        Ok(())
    }

    /// A weight's elements in row-major order, widened to 32 bits.
    pub(crate) fn read(&self, parameter: &Parameter) -> Result<Vec<f32>, ModelError> {
        Ok(match self {
            Self::Directory(weights) => weights.floats(&parameter.name, &parameter.shape)?,
            Self::Gguf(gguf) => gguf.floats(parameter)?,
        })
    }
}

fn check_directory(weights: &Weights, places: &Places) -> Result<(), WeightsError> {
    for parameter in &places.parameters {
        weights.check(&parameter.name, &parameter.shape)?;
    }
    let mut known: Vec<&str> = places.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    known.sort_unstable();
    for name in weights.names().filter(|name| known.binary_search(name).is_err()) {
        // Derived numbers that some directories store; and the head of a tied model, if it is indeed the embedding.
        let derived = name.ends_with(".rotary_emb.inv_freq");
        let tied = name == "lm_head.weight" && weights.are_equal(name, &places.parameters[0].name);
        if !derived && !tied {
            return Err(weights.unexpected(name));
        }
    }
    Ok(())
}
