//! `Manifest`: the canonical bytes of everything that decides a step's output.
//!
//! K1: equal manifests, equal keys; the bytes that are stored are the bytes that were hashed, so `dag explain` reads
//! from them and cannot drift from the key. K2: wall time, paths, hosts, thread counts, names of nodes and everything
//! under `run:` are not in a manifest.

use dag_cache::Digest;
use serde_json::{Map, Value, json};

use crate::canonical;
use crate::registry::Step;

/// Version of the manifest's own layout. A change of it makes every node of every store run again.
pub const SCHEMA: u32 = 1;

/// One input of a manifest: an artifact (for an action key) or a recipe (for a node key).
#[derive(Debug, Clone)]
pub struct ManifestInput<'a> {
    /// The port.
    pub port: &'a str,
    /// What enters it.
    pub digest: Digest,
    /// For a gathered input, its coordinates as (axis, value).
    pub coordinates: Option<&'a [(std::sync::Arc<str>, std::sync::Arc<str>)]>,
}

/// Everything that decides a step's output, as canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest(Vec<u8>);

impl Manifest {
    /// The manifest of `step` on `inputs` (in port order, gathered ones in the order of their coordinates), with the
    /// content of the files its params name, and the experiment's seed where the step uses it.
    pub fn new<'a>(
        step: &dyn Step,
        inputs: impl IntoIterator<Item = ManifestInput<'a>>,
        files: &[(String, Vec<Digest>)],
        seed: Option<u64>,
    ) -> Self {
        let mut ports = Map::new();
        for input in inputs {
            match input.coordinates {
                None => {
                    ports.insert(input.port.to_owned(), json!(input.digest.to_string()));
                }
                Some(coordinates) => {
                    let at: Map<_, _> =
                        coordinates.iter().map(|(axis, value)| (axis.to_string(), json!(&**value))).collect();
                    let entry = json!({ "at": at, "artifact": input.digest.to_string() });
                    match ports.entry(input.port.to_owned()).or_insert_with(|| Value::Array(Vec::new())) {
                        Value::Array(gathered) => gathered.push(entry),
                        other => *other = Value::Array(vec![entry]),
                    }
                }
            }
        }
        // A path is in no key: where the params name a file, its content stands in the manifest.
        let mut params = step.params().clone();
        for (pointer, digests) in files {
            if let Some(slot) = params.pointer_mut(pointer) {
                *slot = json!({ "content": digests.iter().map(Digest::to_string).collect::<Vec<_>>() });
            }
        }
        let mut manifest = Map::new();
        manifest.insert("schema".into(), json!(SCHEMA));
        manifest.insert("kind".into(), json!(step.kind()));
        manifest.insert("version".into(), json!(step.version()));
        manifest.insert("params".into(), params);
        manifest.insert("inputs".into(), Value::Object(ports));
        if let Some(seed) = seed {
            manifest.insert("seed".into(), json!(seed));
        }
        Self(canonical::to_bytes(&Value::Object(manifest)))
    }

    /// The bytes that are hashed and stored.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The digest of the bytes.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.0)
    }
}
