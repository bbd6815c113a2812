//! Token sequences on disk, read back by number: what packing and training need of millions of tokens without the memory.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use dag_engine::task::TaskError;

/// Sequences that are being written.
pub(crate) struct TokenWriter {
    path: PathBuf,
    file: BufWriter<File>,
    ends: Vec<u64>,
}

/// Sequences to read, in any order.
pub(crate) struct TokenReader {
    path: PathBuf,
    file: File,
    /// Where each sequence ends, in tokens.
    ends: Vec<u64>,
}

/// A token takes four bytes, of which the highest bit says whether it is a label: no vocabulary has two thousand million.
const WIDTH: u64 = 4;
const LABEL: u32 = 1 << 31;

impl TokenWriter {
    /// A new file at `path`, replacing what an interrupted run has left.
    pub(crate) fn create(path: PathBuf) -> Result<Self, TaskError> {
        let file = File::create(&path).map_err(|error| TaskError::io(&path, error))?;
        Ok(Self { path, file: BufWriter::with_capacity(1 << 20, file), ends: Vec::new() })
    }

    /// Appends a sequence; sequences are numbered from zero.
    pub(crate) fn push(&mut self, tokens: &[u32], loss_mask: &[u8]) -> Result<(), TaskError> {
        assert_eq!(tokens.len(), loss_mask.len(), "every token has its place in the mask");
        let failed = |error| TaskError::io(&self.path, error);
        for (token, mask) in tokens.iter().zip(loss_mask) {
            if *token >= LABEL {
                return Err(TaskError::failed(format!("{token} is no token of any vocabulary")));
            }
            let place = if *mask == 0 { *token } else { *token | LABEL };
            self.file.write_all(&place.to_le_bytes()).map_err(failed)?;
        }
        self.ends.push(self.ends.last().copied().unwrap_or(0) + tokens.len() as u64);
        Ok(())
    }

    /// The sequences, to be read.
    pub(crate) fn finish(mut self) -> Result<TokenReader, TaskError> {
        self.file.flush().map_err(|error| TaskError::io(&self.path, error))?;
        TokenReader::open(&self.path, self.ends)
    }
}

impl TokenReader {
    fn open(path: &Path, ends: Vec<u64>) -> Result<Self, TaskError> {
        let file = File::open(path).map_err(|error| TaskError::io(path, error))?;
        Ok(Self { path: path.to_owned(), file, ends })
    }

    /// How many sequences there are.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The sequence with a number: its tokens and its loss mask.
    pub(crate) fn read(&mut self, index: usize) -> Result<(Vec<u32>, Vec<u8>), TaskError> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        let count = self.ends[index] - start;
        let mut bytes = vec![0; (count * WIDTH) as usize];
        self.file
            .seek(SeekFrom::Start(start * WIDTH))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|error| TaskError::io(&self.path, error))?;
        let places = bytes.chunks_exact(WIDTH as usize);
        let places = places.map(|place| u32::from_le_bytes([place[0], place[1], place[2], place[3]]));
        Ok(places.map(|place| (place & !LABEL, u8::from(place & LABEL != 0))).unzip())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_read_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = TokenWriter::create(dir.path().join("tokens")).unwrap();
        let sequences = [vec![1, 2, 70_000], vec![], vec![LABEL - 1]];
        for tokens in &sequences {
            writer.push(tokens, &vec![1; tokens.len()]).unwrap();
        }
        assert!(writer.push(&[LABEL], &[0]).is_err());
        writer.push(&[5, LABEL - 1, 7], &[0, 0, 1]).unwrap();
        let mut reader = writer.finish().unwrap();
        assert_eq!(reader.read(3).unwrap(), (vec![5, LABEL - 1, 7], vec![0, 0, 1]));
        assert_eq!(reader.len(), 4);
        for index in [2, 0, 1, 0] {
            assert_eq!(
                reader.read(index).unwrap(),
                (sequences[index].clone(), vec![1; sequences[index].len()])
            );
        }
    }
}
