//! Record: manifest and output digests, one small file per action.
//!
//! A record file is readable in a terminal: a line with version and checksum, then the length of the manifest,
//! the manifest's own bytes, and the rest as JSON.

use std::collections::BTreeMap;
use std::io::Write as _;

use serde::{Deserialize, Serialize};

use crate::{CacheError, Digest};

/// The version of the bytes of a record file; another one is a miss.
const MAGIC: &str = "dag-record 1";

/// What an output is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputKind {
    /// One file: the blob is its bytes.
    File,
    /// A directory: the blob is the canonical JSON list of its files, each a blob of its own.
    Tree,
}

/// One output of an action: which blob, and how large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// A file or a directory.
    pub kind: OutputKind,
    /// The blob; of a tree, that of its list of files.
    pub digest: Digest,
    /// Size of the content: a file's bytes, or the sum over a tree's files.
    pub bytes: u64,
}

/// What an action produced.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The blake3 of the manifest; the record's name.
    pub action: Digest,
    /// The canonical bytes of everything that decides the outputs.
    pub manifest: Vec<u8>,
    /// The outputs by port.
    pub outputs: BTreeMap<String, Output>,
    /// Deterministic facts the task reported.
    pub metrics: BTreeMap<String, serde_json::Value>,
    /// How many of the node's own records failed and are owed by the next run; more than none is a partial result.
    pub owed: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    outputs: BTreeMap<String, Output>,
    metrics: BTreeMap<String, serde_json::Value>,
    owed: u64,
}

impl Record {
    /// The bytes of the record file.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, CacheError> {
        let bad = |what: String| CacheError::BadRecord { action: self.action, what };
        let found = Digest::of(&self.manifest);
        if found != self.action {
            return Err(bad(format!("its manifest is that of {}", found.short())));
        }
        let body = Body { outputs: self.outputs.clone(), metrics: self.metrics.clone(), owed: self.owed };
        let body = serde_json::to_vec(&body).map_err(|error| bad(error.to_string()))?;
        let mut content = Vec::with_capacity(self.manifest.len() + body.len() + 16);
        writeln!(content, "{}", self.manifest.len()).expect("writing to memory does not fail");
        content.extend_from_slice(&self.manifest);
        content.push(b'\n');
        content.extend_from_slice(&body);
        content.push(b'\n');
        let mut bytes = format!("{MAGIC} {}\n", Digest::of(&content)).into_bytes();
        bytes.extend_from_slice(&content);
        Ok(bytes)
    }

    /// The record in the file of `action`, or what is wrong with it.
    pub(crate) fn decode(action: &Digest, bytes: &[u8]) -> Result<Self, String> {
        let (first, content) = split_line(bytes).ok_or("it ends within its first line")?;
        let (magic, checksum) =
            first.rsplit_once(' ').ok_or_else(|| "it does not begin like a record".to_owned())?;
        if magic != MAGIC {
            return Err(format!("it begins with `{magic}`, not `{MAGIC}`"));
        }
        if checksum.parse() != Ok(Digest::of(content)) {
            return Err("its checksum does not match".to_owned());
        }
        let (length, rest) = split_line(content).ok_or("it has no manifest length")?;
        let length: usize = length.parse().map_err(|_| "its manifest length is not a number")?;
        let manifest = rest.get(..length).ok_or("it ends within its manifest")?;
        if Digest::of(manifest) != *action {
            return Err("its manifest is not the one it is named after".to_owned());
        }
        let body: Body = serde_json::from_slice(&rest[length..]).map_err(|error| error.to_string())?;
        let Body { outputs, metrics, owed } = body;
        Ok(Self { action: *action, manifest: manifest.to_vec(), outputs, metrics, owed })
    }
}

fn split_line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn example(manifest: &[u8]) -> Record {
        Record {
            action: Digest::of(manifest),
            manifest: manifest.to_vec(),
            outputs: BTreeMap::from([(
                "kept".to_owned(),
                Output { kind: OutputKind::File, digest: Digest::of(b"rows"), bytes: 4 },
            )]),
            metrics: BTreeMap::from([("rows".to_owned(), serde_json::json!(1))]),
            owed: 0,
        }
    }

    #[test]
    fn bytes_are_golden() {
        let record = example(b"{\"kind\":\"filter\"}");
        let text = String::from_utf8(record.encode().unwrap()).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        assert_eq!(first, format!("dag-record 1 {}", Digest::of(rest.as_bytes())));
        let blob = Digest::of(b"rows");
        let expected = format!(
            "17\n{{\"kind\":\"filter\"}}\n{{\"outputs\":{{\"kept\":{{\"kind\":\"file\",\"digest\":\"{blob}\",\"bytes\":4}}}},\"metrics\":{{\"rows\":1}},\"owed\":0}}\n"
        );
        assert_eq!(rest, expected);
    }

    #[test]
    fn a_manifest_that_is_not_the_action_is_refused() {
        let record = Record { action: Digest::of(b"other"), ..example(b"m") };
        assert!(matches!(record.encode(), Err(CacheError::BadRecord { .. })));
    }

    #[test]
    fn another_version_is_named() {
        let bytes = example(b"m").encode().unwrap();
        let newer = String::from_utf8(bytes).unwrap().replacen("dag-record 1", "dag-record 2", 1);
        let what = Record::decode(&Digest::of(b"m"), newer.as_bytes()).unwrap_err();
        assert!(what.contains("dag-record 2"), "{what}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(manifest: Vec<u8>, owed: u64) {
            let record = Record { owed, ..example(&manifest) };
            prop_assert_eq!(Record::decode(&record.action, &record.encode().unwrap()).unwrap(), record);
        }

        #[test]
        fn any_flipped_bit_or_cut_is_detected(manifest: Vec<u8>, at: prop::sample::Index, bit in 0..8_u8) {
            let record = example(&manifest);
            let bytes = record.encode().unwrap();
            let mut flipped = bytes.clone();
            flipped[at.index(bytes.len())] ^= 1 << bit;
            prop_assert!(Record::decode(&record.action, &flipped).is_err());
            prop_assert!(Record::decode(&record.action, &bytes[..at.index(bytes.len())]).is_err());
        }
    }
}
