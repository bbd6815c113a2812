//! `Manifest`: the canonical bytes of everything that decides a step's output.
//!
//! K1: equal manifests, equal keys; the bytes that are stored are the bytes that were hashed, so `dag explain` reads
//! from them and cannot drift from the key. K2: wall time, paths, hosts, thread counts, names of nodes and everything
//! under `run:` are not in a manifest; but whether a step has a GPU is, where that changes its bytes.

use std::io::Write as _;
use std::ops::Range;

use dag_cache::Digest;

use crate::canonical;
use crate::registry::Step;
use crate::remote::Content;

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
    /// content of the files its params name, the experiment's seed where the step uses it, and the device where that decides
    /// the output.
    pub fn new<'a>(
        step: &dyn Step,
        inputs: impl IntoIterator<Item = ManifestInput<'a>>,
        files: &[(&str, &[Content])],
        seed: Option<u64>,
        device: Option<&str>,
    ) -> Self {
        // Written out here, keys in sorted order, and not by way of a JSON tree: planning a hundred thousand nodes makes
        // a hundred thousand manifests. The test below holds it to the canonical encoding.
        let mut inputs: Vec<ManifestInput<'a>> = inputs.into_iter().collect();
        // Stable, so that what enters one port stays in its order.
        inputs.sort_by_key(|input| input.port);
        let mut out = Vec::with_capacity(512 + inputs.len() * 96);
        out.push(b'{');
        if let Some(device) = device {
            out.extend_from_slice(b"\"device\":");
            canonical::write_string(device, &mut out);
            out.push(b',');
        }
        out.extend_from_slice(b"\"inputs\":{");
        for (number, port) in inputs.chunk_by(|a, b| a.port == b.port).enumerate() {
            if number > 0 {
                out.push(b',');
            }
            canonical::write_string(port[0].port, &mut out);
            out.push(b':');
            write_port(port, &mut out);
        }
        out.extend_from_slice(b"},\"kind\":");
        canonical::write_string(step.kind(), &mut out);
        out.extend_from_slice(b",\"params\":");
        write_params(step.params(), files, &mut out);
        write!(out, ",\"schema\":{SCHEMA}").expect("writing to memory does not fail");
        if let Some(seed) = seed {
            write!(out, ",\"seed\":{seed}").expect("writing to memory does not fail");
        }
        write!(out, ",\"version\":{}}}", step.version()).expect("writing to memory does not fail");
        Self(out)
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

/// What enters one port: the digest of a single artifact, or a list with coordinates of gathered ones.
fn write_port(inputs: &[ManifestInput<'_>], out: &mut Vec<u8>) {
    if let [ManifestInput { digest, coordinates: None, .. }] = inputs {
        return write!(out, "\"{digest}\"").expect("writing to memory does not fail");
    }
    out.push(b'[');
    for (number, input) in inputs.iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        write!(out, "{{\"artifact\":\"{}\",\"at\":{{", input.digest)
            .expect("writing to memory does not fail");
        let mut at: Vec<_> = input.coordinates.unwrap_or_default().iter().collect();
        at.sort_unstable();
        for (number, (axis, value)) in at.into_iter().enumerate() {
            if number > 0 {
                out.push(b',');
            }
            canonical::write_string(axis, out);
            out.push(b':');
            canonical::write_string(value, out);
        }
        out.extend_from_slice(b"}}");
    }
    out.push(b']');
}

/// The params with the content of files in place of their paths: a path is in no key.
fn write_params(params: &[u8], files: &[(&str, &[Content])], out: &mut Vec<u8>) {
    let place = |&(pointer, contents)| Some((canonical::find(params, pointer)?, contents));
    let mut places: Vec<(Range<usize>, &[Content])> = files.iter().filter_map(place).collect();
    places.sort_unstable_by_key(|(range, _)| range.start);
    let mut written = 0;
    for (range, contents) in places {
        out.extend_from_slice(&params[written..range.start]);
        out.extend_from_slice(b"{\"content\":[");
        for (number, content) in contents.iter().enumerate() {
            if number > 0 {
                out.push(b',');
            }
            match content {
                Content::Digest(digest) => {
                    write!(out, "\"{digest}\"").expect("writing to memory does not fail");
                }
                Content::Identity(text) => canonical::write_string(text, out),
            }
        }
        out.extend_from_slice(b"]}");
        written = range.end;
    }
    out.extend_from_slice(&params[written..]);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::testing::registry;

    #[test]
    fn the_bytes_are_the_canonical_encoding() {
        let bound = registry().bind("echo", &json!({ "text": "a\"b", "file": "/some/where" })).unwrap();
        let step = bound.unwrap_or_else(|error| panic!("{error}"));
        let digest = |text: &str| Digest::of(text.as_bytes());
        let at: [(Arc<str>, Arc<str>); 2] = [("replicate".into(), "1".into()), ("arm".into(), "r1".into())];
        let input = |port, text, coordinates| ManifestInput { port, digest: digest(text), coordinates };
        let inputs = [
            input("z", "single", None),
            input("m", "first", Some(&at[..])),
            input("m", "second", Some(&[][..])),
            input("a", "lone", Some(&at[1..])),
        ];
        let contents = [Content::Digest(digest("content")), Content::Identity("hf://a/b@\"c".to_owned())];
        let files = [("/file", &contents[..])];
        let manifest = Manifest::new(&*step, inputs.clone(), &files, Some(17), None);
        let mut expected = json!({
            "schema": SCHEMA, "kind": "echo", "version": 1, "seed": 17,
            "params": { "text": "a\"b", "file": { "content": [digest("content").to_string(), "hf://a/b@\"c".to_owned()] } },
            "inputs": {
                "z": digest("single"),
                "m": [
                    { "at": { "replicate": "1", "arm": "r1" }, "artifact": digest("first") },
                    { "at": {}, "artifact": digest("second") },
                ],
                "a": [{ "at": { "arm": "r1" }, "artifact": digest("lone") }],
            },
        });
        assert_eq!(manifest.bytes(), canonical::to_bytes(&expected));
        assert_eq!(manifest.digest(), canonical::digest(&expected));
        let elsewhere = Manifest::new(&*step, inputs, &files, Some(17), Some("cuda"));
        expected["device"] = json!("cuda");
        assert_eq!(elsewhere.bytes(), canonical::to_bytes(&expected));
    }
}
