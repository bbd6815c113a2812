//! GGUF files: one file with a model's description, its vocabulary and its weights, quantised or not.
//!
//! A file is mapped into memory and checked when it is opened. [`Gguf::floats`] gives weights by the names and in the order
//! that transformers uses; [`Gguf::blocks`] gives their bytes as they are stored, for kernels that compute on them.

mod element;
mod header;
mod names;
mod unpack;

use std::borrow::Cow;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::model::config::Config;
use crate::model::parameters::{Parameter, Places};
pub use element::ElementType;
use header::{Header, TensorInfo};
pub use header::{Metadata, Value};

/// What can be wrong with a GGUF file.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file cannot be read.
    #[error("failed to read `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not in the format, or cut off.
    #[error("`{}` is not a valid GGUF file: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The model cannot be computed.
    #[error("`{}` describes a model that is not supported: {reason}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it needs.
        reason: String,
    },
    /// A tensor is not what the model needs.
    #[error("tensor `{name}` in `{}` {reason}", path.display())]
    Tensor {
        /// The tensor, as the file calls it.
        name: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The name of the file in a model directory whose weights it holds.
pub const MODEL_FILE: &str = "model.gguf";

/// A GGUF file, mapped into memory.
pub struct Gguf {
    path: PathBuf,
    map: Mmap,
    header: Header,
}

/// A matrix as a file stores it: `rows` rows of `columns` elements in blocks of [`ElementType::block`].
#[derive(Debug)]
pub struct Blocks<'a> {
    /// How elements are stored.
    pub element: ElementType,
    /// Outputs of the projection.
    pub rows: usize,
    /// Inputs of the projection.
    pub columns: usize,
    /// The blocks of the first row, then those of the next.
    pub bytes: Cow<'a, [u8]>,
}

/// The metadata of a file, among it its vocabulary (`tokenizer.ggml.…`) and its chat template (`tokenizer.chat_template`).
pub fn metadata(path: &Path) -> Result<Metadata, GgufError> {
    Ok(Gguf::open(path)?.header.metadata)
}

impl Gguf {
    /// Opens a file and checks its header; reads no weight.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let io = |source| GgufError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        // SAFETY: model files are read-only artifacts; nothing truncates or rewrites them while they are mapped.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let header =
            Header::parse(&map).map_err(|reason| GgufError::Format { path: path.to_owned(), reason })?;
        Ok(Self { path: path.to_owned(), map, header })
    }

    /// The metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.header.metadata
    }

    /// The shape of the model, as a directory of its kind would describe it.
    pub fn config(&self) -> Result<Config, GgufError> {
        let unsupported = |reason| GgufError::Unsupported { path: self.path.clone(), reason };
        let mut config = names::config(&self.header).map_err(unsupported)?;
        if let Some(info) = self.header.tensors.get(names::ROPE_FACTORS) {
            let factors = info
                .element
                .dequantise(&self.map[info.places.clone()])
                .map_err(|error| self.fault(names::ROPE_FACTORS, &format!("cannot be read: {error}")))?;
            let scaling = names::llama3_scaling(&factors, config.theta()).map_err(unsupported)?;
            config.rope_scaling = Some(scaling);
        }
        Ok(config)
    }

    /// Whether every weight is there in its shape, and no other.
    pub(crate) fn check(&self, places: &Places) -> Result<(), GgufError> {
        for parameter in &places.parameters {
            self.find(parameter)?;
        }
        let names: Vec<String> =
            places.parameters.iter().map(|parameter| names::stored(&parameter.name)).collect();
        let known = |name: &String| names.contains(name) || name == names::ROPE_FACTORS;
        match self.header.tensors.keys().find(|name| !known(name)) {
            Some(name) => Err(self.fault(name, "is none of the model that the metadata describes")),
            None => Ok(()),
        }
    }

    /// A weight's elements in row-major order, as transformers has them.
    pub(crate) fn floats(&self, parameter: &Parameter) -> Result<Vec<f32>, GgufError> {
        let Blocks { element, bytes, .. } = self.blocks(parameter)?;
        let fault = |reason: &str| self.fault(&names::stored(&parameter.name), reason);
        let floats =
            element.dequantise(&bytes).map_err(|error| fault(&format!("cannot be read: {error}")))?;
        match floats.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(fault(&format!("has {} as element {index}", floats[index]))),
            None => Ok(floats),
        }
    }

    /// A weight as it is stored, its rows in the order that transformers has them.
    pub fn blocks(&self, parameter: &Parameter) -> Result<Blocks<'_>, GgufError> {
        let info = self.find(parameter)?;
        let bytes = &self.map[info.places.clone()];
        let columns = info.shape.last().copied().unwrap_or(1);
        let rows = info.shape[..info.shape.len() - 1].iter().product();
        let bytes = match names::turned_heads(&self.header, &parameter.name) {
            Some(heads) => Cow::Owned(names::paired_by_halves(bytes, rows, heads)),
            None => Cow::Borrowed(bytes),
        };
        Ok(Blocks { element: info.element, rows, columns, bytes })
    }

    /// The digest of all tensors.
    pub(crate) fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"dag-lm gguf 1");
        for (name, info) in &self.header.tensors {
            let bytes = &self.map[info.places.clone()];
            let head = format!("\n{name} {:?} {:?} {}\n", info.element, info.shape, bytes.len());
            hasher.update(head.as_bytes());
            hasher.update(bytes);
        }
        hasher.finalize()
    }

    fn find(&self, parameter: &Parameter) -> Result<&TensorInfo, GgufError> {
        let name = names::stored(&parameter.name);
        match self.header.tensors.get(&name) {
            Some(info) if info.shape == parameter.shape => Ok(info),
            Some(info) => {
                let (found, expected) = (&info.shape, &parameter.shape);
                Err(self.fault(&name, &format!("has shape {found:?}; the metadata wants {expected:?}")))
            }
            None => Err(self.fault(&name, "is missing")),
        }
    }

    fn fault(&self, name: &str, reason: &str) -> GgufError {
        GgufError::Tensor { name: name.to_owned(), path: self.path.clone(), reason: reason.to_owned() }
    }
}

#[cfg(test)]
mod tests;
