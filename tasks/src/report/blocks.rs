//! Blocks: the page's data in compressed pieces that a page opened from disk can load.
//!
//! A page from disk may not fetch the files beside it, but it may add them as scripts. So a block is a script of one line,
//! `block("12", "…")`, around JSON that is compressed (zlib, which browsers inflate themselves) and written in base64: no text of a
//! model or a data set is ever in a file where a browser could take it for markup or code. Where all blocks together are small
//! they are put into the page itself, so that it is one file to pass on.
use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dag_engine::task::TaskError;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde::Serialize;

/// The folder of the block files, beside the page.
pub(super) const FOLDER: &str = "data";
/// A block is closed once its JSON is this long: some hundred short responses, or a few of the longest. A browser opens one in some
/// tens of milliseconds.
const BLOCK_BYTES: usize = 1 << 20;
/// Blocks that are together no longer than this are put into the page.
const INLINE_BYTES: usize = 1 << 20;

/// Where a record is: its block, and its number in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) block: u32,
    pub(super) index: u32,
}

/// A block for the page itself: its name and its base64.
pub(super) type Inline = (String, String);

/// Takes records one after another and writes them as blocks.
pub(super) struct Blocks {
    folder: PathBuf,
    /// The JSON array that is being filled.
    open: Vec<u8>,
    records: u32,
    number: u32,
    /// Blocks that may yet go into the page; none any more once they are too long for it.
    waiting: Option<Vec<Inline>>,
}

impl Blocks {
    /// Block files would be written below `page`, the folder of the page.
    pub(super) fn new(page: &Path) -> Self {
        Self { folder: page.join(FOLDER), open: Vec::new(), records: 0, number: 0, waiting: Some(Vec::new()) }
    }

    /// Adds a record.
    pub(super) fn push(&mut self, record: &impl Serialize) -> Result<Place, TaskError> {
        self.open.push(if self.open.is_empty() { b'[' } else { b',' });
        serde_json::to_writer(&mut self.open, record).map_err(|error| unwritable(&error))?;
        let place = Place { block: self.number, index: self.records };
        self.records += 1;
        if self.open.len() >= BLOCK_BYTES {
            self.close()?;
        }
        Ok(place)
    }

    /// Ends the last block and adds `index`, the block that is loaded first. What it gives belongs into the page.
    pub(super) fn finish(mut self, index: &impl Serialize) -> Result<Vec<Inline>, TaskError> {
        self.close()?;
        let json = serde_json::to_vec(index).map_err(|error| unwritable(&error))?;
        self.add("index".to_owned(), &json)?;
        Ok(self.waiting.unwrap_or_default())
    }

    fn close(&mut self) -> Result<(), TaskError> {
        if self.open.is_empty() {
            return Ok(());
        }
        let mut json = std::mem::take(&mut self.open);
        json.push(b']');
        self.add(self.number.to_string(), &json)?;
        self.number += 1;
        self.records = 0;
        Ok(())
    }

    fn add(&mut self, name: String, json: &[u8]) -> Result<(), TaskError> {
        let block = encode(json).map_err(|error| TaskError::io(&self.folder, error))?;
        let Some(waiting) = &mut self.waiting else { return self.write(&name, &block) };
        waiting.push((name, block));
        if waiting.iter().map(|(_, block)| block.len()).sum::<usize>() > INLINE_BYTES {
            std::fs::create_dir_all(&self.folder).map_err(|error| TaskError::io(&self.folder, error))?;
            for (name, block) in self.waiting.take().unwrap_or_default() {
                self.write(&name, &block)?;
            }
        }
        Ok(())
    }

    fn write(&self, name: &str, block: &str) -> Result<(), TaskError> {
        let path = self.folder.join(format!("{name}.js"));
        std::fs::write(&path, format!("block(\"{name}\",\"{block}\")\n"))
            .map_err(|error| TaskError::io(path, error))
    }
}

fn unwritable(error: &serde_json::Error) -> TaskError {
    TaskError::failed(format!("a response cannot be written as JSON: {error}"))
}

/// Compressed, in base64.
fn encode(json: &[u8]) -> std::io::Result<String> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(json)?;
    Ok(STANDARD.encode(encoder.finish()?))
}

/// The JSON in a block, for tests.
#[cfg(test)]
pub(super) fn decode(block: &str) -> serde_json::Value {
    let mut json = Vec::new();
    let mut decoder = flate2::write::ZlibDecoder::new(&mut json);
    decoder.write_all(&STANDARD.decode(block).unwrap()).unwrap();
    decoder.finish().unwrap();
    serde_json::from_slice(&json).unwrap()
}

/// The JSON of a block in the report at `folder`, in the page or beside it, for tests.
#[cfg(test)]
pub(super) fn read(folder: &Path, name: &str) -> serde_json::Value {
    let file = folder.join(FOLDER).join(format!("{name}.js"));
    let (text, start, end) = if file.exists() {
        (std::fs::read_to_string(&file).unwrap(), format!("block(\"{name}\",\""), "\")\n")
    } else {
        let page = std::fs::read_to_string(folder.join("index.html")).unwrap();
        (page, format!("data-block=\"{name}\">"), "</script>")
    };
    let at = text.find(&start).unwrap_or_else(|| panic!("no block {name}")) + start.len();
    decode(&text[at..][..text[at..].find(end).unwrap()])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOSTILE: &str = "</script><script>alert(1)</script>\u{2028}\u{202e}\0\"\\";

    #[test]
    fn a_few_records_stay_in_the_page() {
        let directory = tempfile::tempdir().unwrap();
        let mut blocks = Blocks::new(directory.path());
        assert_eq!(blocks.push(&HOSTILE).unwrap(), Place { block: 0, index: 0 });
        assert_eq!(blocks.push(&json!({"a": 1})).unwrap(), Place { block: 0, index: 1 });
        let inline = blocks.finish(&json!(["items"])).unwrap();
        let [(first, records), (second, index)] = inline.as_slice() else { panic!("{inline:?}") };
        assert_eq!((first.as_str(), second.as_str()), ("0", "index"));
        assert_eq!((decode(records), decode(index)), (json!([HOSTILE, {"a": 1}]), json!(["items"])));
        assert!(!directory.path().join(FOLDER).exists());
    }

    #[test]
    fn many_go_beside_it_and_each_is_where_its_place_says() {
        let directory = tempfile::tempdir().unwrap();
        let mut blocks = Blocks::new(directory.path());
        // Text that hardly compresses, so that the page's limit is reached.
        let text = |seed: u64| -> String {
            let part = |at: u64| format!("{:016x}", dag_engine::seed::derive(seed, &[&at.to_le_bytes()]));
            (0..1500).map(part).collect()
        };
        let places: Vec<Place> =
            (0..130).map(|seed| blocks.push(&format!("{HOSTILE}{}", text(seed))).unwrap()).collect();
        assert_eq!(blocks.finish(&json!({"items": 130})).unwrap(), []);
        assert!(places.last().unwrap().block >= 2);
        // Every tenth, for each opens a whole block.
        for (seed, place) in (0..).zip(&places).step_by(10) {
            let block = read(directory.path(), &place.block.to_string());
            assert_eq!(block[place.index as usize], format!("{HOSTILE}{}", text(seed)));
        }
        assert_eq!(read(directory.path(), "index"), json!({"items": 130}));
        for file in std::fs::read_dir(directory.path().join(FOLDER)).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let is_plain =
                |character: char| character.is_ascii_alphanumeric() || "+/=(),\"\n".contains(character);
            assert!(text.starts_with("block(\"") && text.chars().all(is_plain));
        }
    }
}
