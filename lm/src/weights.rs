//! Model weights as a directory of safetensors files: opened by memory map, digested, saved.
//!
//! A directory holds either `model.safetensors` or the shards that `model.safetensors.index.json` names,
//! as transformers writes them. The digest covers names, types, shapes and bytes of the tensors in the order of their
//! names, so that it does not depend on how they are spread over files.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, TensorInfo, View};
use safetensors::{SafeTensorError, SafeTensors};

/// The one file of an unsharded model.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The file that lists the shards of a sharded model.
pub const WEIGHTS_INDEX_FILE: &str = "model.safetensors.index.json";

/// What can be wrong with weights.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file could not be read or written.
    #[error("cannot access `{path}`: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Neither a weights file nor an index of shards is there.
    #[error("`{0}` holds neither `model.safetensors` nor `model.safetensors.index.json`")]
    Absent(PathBuf),
    /// The index of shards is not of the expected form.
    #[error("`{path}` is not an index of safetensors shards: {reason}")]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file is not in the safetensors format, or is cut off.
    #[error("`{path}` is not a safetensors file: {source}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: safetensors::SafeTensorError,
    },
    /// Two shards hold the same tensor.
    #[error("tensor `{name}` is in `{path}` and in another file too")]
    Duplicate {
        /// The tensor.
        name: String,
        /// The second file that holds it.
        path: PathBuf,
    },
    /// A tensor that was asked for is not there.
    #[error("there is no tensor `{name}` in `{path}`")]
    MissingTensor {
        /// The tensor.
        name: String,
        /// The directory.
        path: PathBuf,
    },
    /// A tensor is there that the model has no use for: it is another model than its configuration says.
    #[error("tensor `{name}` in `{path}` is none of the model that the configuration describes")]
    Unexpected {
        /// The tensor.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// An element is not a number that can be computed with.
    #[error("element {index} of tensor `{name}` in `{path}` is {value}")]
    NotFinite {
        /// The tensor.
        name: String,
        /// The file.
        path: PathBuf,
        /// The element, in row-major order.
        index: usize,
        /// What it is.
        value: f32,
    },
    /// A tensor has another shape than the model's configuration says.
    #[error("tensor `{name}` in `{path}` has shape {found:?}; the configuration wants {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// The file.
        path: PathBuf,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape that was asked for.
        expected: Vec<usize>,
    },
    /// A tensor's element type is none that the runtime computes with.
    #[error("tensor `{name}` in `{path}` has the unsupported element type {found:?}")]
    ElementType {
        /// The tensor.
        name: String,
        /// The file.
        path: PathBuf,
        /// The type in the file.
        found: Dtype,
    },
    /// The tensor library refused.
    #[error("tensor `{name}`: {source}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What it said.
        source: candle_core::Error,
    },
}

/// One memory-mapped file and the header it begins with.
struct Shard {
    path: PathBuf,
    map: Mmap,
    data_start: usize,
    metadata: Metadata,
}

/// The tensors of a model directory, mapped into memory and read when asked for.
pub struct Weights {
    directory: PathBuf,
    shards: Vec<Shard>,
    /// Tensor name to the shard that holds it.
    index: BTreeMap<String, usize>,
}

impl Weights {
    /// Opens the weights of a model directory; checks the headers, reads no tensor.
    pub fn open(directory: &Path) -> Result<Self, WeightsError> {
        let mut weights =
            Self { directory: directory.to_owned(), shards: Vec::new(), index: BTreeMap::new() };
        for path in shard_paths(directory)? {
            let shard = Shard::open(path)?;
            for name in shard.metadata.offset_keys() {
                if weights.index.insert(name.clone(), weights.shards.len()).is_some() {
                    return Err(WeightsError::Duplicate { name, path: shard.path });
                }
            }
            weights.shards.push(shard);
        }
        Ok(weights)
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// Whether a tensor is there.
    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// The names of all tensors and their shapes, sorted by name.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.names().filter_map(|name| Some((name, self.shape(name)?)))
    }

    /// The shape of a tensor, if it is there.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.shards[*self.index.get(name)?].metadata.info(name)?.shape)
    }

    /// The element type of every tensor as the file names it: `BF16`.
    pub fn element_types(&self) -> impl Iterator<Item = &'static str> {
        let infos = self.index.iter().filter_map(|(name, &shard)| self.shards[shard].metadata.info(name));
        infos.map(|info| match info.dtype {
            Dtype::F32 => "F32",
            Dtype::BF16 => "BF16",
            Dtype::F16 => "F16",
            _ => "of another type",
        })
    }

    /// Whether the index of shards, if there is one, names each tensor in the file that holds it, and no other.
    pub fn check_index(&self) -> Result<(), WeightsError> {
        let path = self.directory.join(WEIGHTS_INDEX_FILE);
        if self.directory.join(WEIGHTS_FILE).is_file() {
            return Ok(());
        }
        let entries = weight_map(&path)?;
        let fault = |reason: String| Err(WeightsError::Index { path: path.clone(), reason });
        for (name, file) in &entries {
            let shard = self.index.get(name).map(|&shard| &self.shards[shard].path);
            let holds = shard.and_then(|path| path.file_name()).zip(file.as_str());
            if holds.is_none_or(|(held, named)| held != named) {
                return fault(format!("it names `{name}` in {file}, which does not hold it"));
            }
        }
        match self.names().find(|name| !entries.contains_key(*name)) {
            Some(name) => fault(format!("it does not name `{name}`, which a shard holds")),
            None => Ok(()),
        }
    }

    /// Whether a tensor is there in the shape and in an element type that can be computed with; reads no element.
    pub fn check(&self, name: &str, expected: &[usize]) -> Result<(), WeightsError> {
        self.typed(name, expected).map(|_| ())
    }

    /// Whether two tensors are the same in every byte.
    pub(crate) fn are_equal(&self, one: &str, other: &str) -> bool {
        match (self.find(one), self.find(other)) {
            (Ok((_, one, one_bytes)), Ok((_, other, other_bytes))) => {
                one.dtype == other.dtype && one.shape == other.shape && one_bytes == other_bytes
            }
            _ => false,
        }
    }

    /// The fault that a tensor is there which the model has no use for.
    pub(crate) fn unexpected(&self, name: &str) -> WeightsError {
        let path = self.find(name).map_or(&self.directory, |(shard, ..)| &shard.path);
        WeightsError::Unexpected { name: name.to_owned(), path: path.clone() }
    }

    /// A tensor's elements as 32-bit floats, in row-major order; 16-bit types are widened exactly.
    pub fn floats(&self, name: &str, expected: &[usize]) -> Result<Vec<f32>, WeightsError> {
        let (shard, dtype, bytes) = self.typed(name, expected)?;
        let fault = |source| WeightsError::Tensor { name: name.to_owned(), source };
        let floats: Vec<f32> = Tensor::from_raw_buffer(bytes, dtype, expected, &Device::Cpu)
            .and_then(|tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1())
            .map_err(fault)?;
        match floats.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(WeightsError::NotFinite {
                name: name.to_owned(),
                path: shard.path.clone(),
                index,
                value: floats[index],
            }),
            None => Ok(floats),
        }
    }

    /// The digest of all tensors: what they are, not in which files they lie.
    pub fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"dag-lm weights 1");
        for (name, &shard) in &self.index {
            let Some((info, bytes)) = self.shards[shard].find(name) else { continue };
            let head = format!("\n{name} {:?} {:?} {}\n", info.dtype, info.shape, bytes.len());
            hasher.update(head.as_bytes());
            hasher.update(bytes);
        }
        hasher.finalize()
    }

    fn find(&self, name: &str) -> Result<(&Shard, &TensorInfo, &[u8]), WeightsError> {
        let shard = self.index.get(name).map(|&shard| &self.shards[shard]);
        let found = shard.and_then(|shard| shard.find(name).map(|(info, bytes)| (shard, info, bytes)));
        found.ok_or_else(|| WeightsError::MissingTensor {
            name: name.to_owned(),
            path: self.directory.clone(),
        })
    }

    /// A tensor of the expected shape, its element type and its bytes.
    fn typed(&self, name: &str, expected: &[usize]) -> Result<(&Shard, DType, &[u8]), WeightsError> {
        let (shard, info, bytes) = self.find(name)?;
        if info.shape != expected {
            return Err(WeightsError::Shape {
                name: name.to_owned(),
                path: shard.path.clone(),
                found: info.shape.clone(),
                expected: expected.to_vec(),
            });
        }
        match info.dtype {
            Dtype::F32 => Ok((shard, DType::F32, bytes)),
            Dtype::BF16 => Ok((shard, DType::BF16, bytes)),
            Dtype::F16 => Ok((shard, DType::F16, bytes)),
            found => {
                Err(WeightsError::ElementType { name: name.to_owned(), path: shard.path.clone(), found })
            }
        }
    }
}

impl Shard {
    fn open(path: PathBuf) -> Result<Self, WeightsError> {
        let io = |source| WeightsError::Io { path: path.clone(), source };
        let file = File::open(&path).map_err(io)?;
        // SAFETY: model files are read-only artifacts; nothing truncates or rewrites them while they are mapped.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        match SafeTensors::read_metadata(&map) {
            // The header is a length of eight bytes and then as many bytes of JSON.
            Ok((header, metadata)) => Ok(Self { data_start: header + 8, map, metadata, path }),
            Err(source) => Err(WeightsError::Format { path, source }),
        }
    }

    fn find(&self, name: &str) -> Option<(&TensorInfo, &[u8])> {
        let info = self.metadata.info(name)?;
        let (start, end) = info.data_offsets;
        Some((info, &self.map[self.data_start + start..self.data_start + end]))
    }
}

/// Which file holds which tensor, as an index of shards says.
fn weight_map(path: &Path) -> Result<serde_json::Map<String, serde_json::Value>, WeightsError> {
    let text = std::fs::read(path).map_err(|source| WeightsError::Io { path: path.to_owned(), source })?;
    let fault = |reason: String| WeightsError::Index { path: path.to_owned(), reason };
    let mut index: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| fault(error.to_string()))?;
    match index.get_mut("weight_map").map(serde_json::Value::take) {
        Some(serde_json::Value::Object(entries)) => Ok(entries),
        _ => Err(fault("it has no object `weight_map`".to_owned())),
    }
}

/// The safetensors files of a model directory, in the order of their names.
fn shard_paths(directory: &Path) -> Result<Vec<PathBuf>, WeightsError> {
    let single = directory.join(WEIGHTS_FILE);
    if single.is_file() {
        return Ok(vec![single]);
    }
    let path = directory.join(WEIGHTS_INDEX_FILE);
    if !path.is_file() {
        return Err(WeightsError::Absent(directory.to_owned()));
    }
    let entries = weight_map(&path)?;
    let mut files = BTreeSet::new();
    for (name, file) in &entries {
        // Only plain names: an index must not lead out of its directory.
        let Some(plain) = file.as_str().filter(|file| Path::new(file).file_name() == Some(file.as_ref()))
        else {
            let reason = format!("the entry of `{name}` is not a file name: {file}");
            return Err(WeightsError::Index { path, reason });
        };
        files.insert(directory.join(plain));
    }
    Ok(files.into_iter().collect())
}

/// One tensor to be saved: its shape and its elements in row-major order.
pub struct Saved<'a> {
    /// The extents of its axes.
    pub shape: Vec<usize>,
    /// As many elements as the product of the extents.
    pub elements: &'a [f32],
}

impl View for Saved<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        bytes(self.elements)
    }

    fn data_len(&self) -> usize {
        size_of_val(self.elements)
    }
}

/// Numbers as a file has them, without a copy where the machine has them so too: weights and moments are large.
pub(crate) fn bytes(elements: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        // SAFETY: the four bytes of every number are initialised, and bytes may lie anywhere.
        let bytes =
            unsafe { std::slice::from_raw_parts(elements.as_ptr().cast::<u8>(), size_of_val(elements)) };
        Cow::Borrowed(bytes)
    } else {
        Cow::Owned(elements.iter().flat_map(|element| element.to_le_bytes()).collect())
    }
}

/// Writes 32-bit tensors as `model.safetensors` into `directory`: equal tensors give equal bytes.
pub fn save(directory: &Path, tensors: BTreeMap<String, Saved<'_>>) -> Result<(), WeightsError> {
    save_as(&directory.join(WEIGHTS_FILE), tensors)
}

/// [`save`] to a file of another name.
pub(crate) fn save_as(path: &Path, tensors: BTreeMap<String, Saved<'_>>) -> Result<(), WeightsError> {
    let fault = |source| WeightsError::Format { path: path.to_owned(), source };
    for Saved { shape, elements } in tensors.values() {
        if shape.iter().product::<usize>() != elements.len() {
            return Err(fault(SafeTensorError::InvalidTensorView(Dtype::F32, shape.clone(), elements.len())));
        }
    }
    // transformers refuses a file that does not say which framework's layout it has.
    let about = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize_to_file(tensors, Some(about), path).map_err(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(shape: &[usize], elements: &'static [f32]) -> Saved<'static> {
        Saved { shape: shape.to_vec(), elements }
    }

    #[test]
    fn saved_tensors_are_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let tensors = BTreeMap::from([
            ("norm".to_owned(), saved(&[3], &[1.0, -2.5, f32::MIN_POSITIVE])),
            ("embed".to_owned(), saved(&[2, 2], &[0.0, 1.0, 2.0, 3.0])),
        ]);
        save(directory.path(), tensors).unwrap();
        let weights = Weights::open(directory.path()).unwrap();
        assert_eq!(weights.names().collect::<Vec<_>>(), ["embed", "norm"]);
        assert_eq!(weights.floats("norm", &[3]).unwrap(), [1.0, -2.5, f32::MIN_POSITIVE]);
        assert_eq!(weights.floats("embed", &[2, 2]).unwrap(), [0.0, 1.0, 2.0, 3.0]);
        assert!(matches!(weights.floats("embed", &[4]), Err(WeightsError::Shape { .. })));
        let missing = weights.floats("head", &[4]);
        assert!(matches!(missing, Err(WeightsError::MissingTensor { name, .. }) if name == "head"));
    }

    #[test]
    fn the_digest_ignores_the_split_into_files() {
        let [whole, split, other] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
        let a = || ("a".to_owned(), saved(&[2], &[1.0, 2.0]));
        let b = || ("b".to_owned(), saved(&[1], &[3.0]));
        save(whole.path(), BTreeMap::from([a(), b()])).unwrap();
        for (name, tensor) in [("one.safetensors", b()), ("two.safetensors", a())] {
            save(split.path(), BTreeMap::from([tensor])).unwrap();
            std::fs::rename(split.path().join(WEIGHTS_FILE), split.path().join(name)).unwrap();
        }
        let index = r#"{"weight_map": {"a": "two.safetensors", "b": "one.safetensors"}}"#;
        std::fs::write(split.path().join(WEIGHTS_INDEX_FILE), index).unwrap();
        save(other.path(), BTreeMap::from([a(), ("b".to_owned(), saved(&[1], &[4.0]))])).unwrap();
        let digest = |directory: &tempfile::TempDir| Weights::open(directory.path()).unwrap().digest();
        assert_eq!(digest(&whole), digest(&split));
        assert_ne!(digest(&whole), digest(&other));
    }

    #[test]
    fn faults_name_the_file() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(Weights::open(directory.path()), Err(WeightsError::Absent(_))));
        let index = directory.path().join(WEIGHTS_INDEX_FILE);
        std::fs::write(&index, r#"{"weight_map": {"a": "../secret"}}"#).unwrap();
        let fault = Weights::open(directory.path()).err().unwrap().to_string();
        assert!(fault.contains("../secret"), "{fault}");
        save(directory.path(), BTreeMap::from([("a".to_owned(), saved(&[2], &[1.0, 2.0]))])).unwrap();
        let path = directory.path().join(WEIGHTS_FILE);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(matches!(Weights::open(directory.path()), Err(WeightsError::Format { .. })));
    }
}
