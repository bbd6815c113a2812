//! Rows put into another order in bounded memory: written to buckets on disk, each small enough to sort.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Lines, Write};
use std::path::{Path, PathBuf};

use dag_engine::task::TaskError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Positions in one bucket, unless that would make too many files.
const BUCKET: u64 = 2048;
const MOST_FILES: u64 = 256;

/// Items on their way into the order of their positions.
pub(crate) struct Spill {
    folder: PathBuf,
    width: u64,
    files: Vec<BufWriter<File>>,
}

impl Spill {
    /// A spill below `scratch` for positions from 0 to below `positions`.
    pub(crate) fn create(scratch: &Path, positions: u64) -> Result<Self, TaskError> {
        let folder = scratch.join("spill");
        std::fs::create_dir_all(&folder).map_err(|error| TaskError::io(&folder, error))?;
        let width = BUCKET.max(positions.div_ceil(MOST_FILES));
        let create = |index| {
            let path = bucket(&folder, index);
            File::create(&path).map(BufWriter::new).map_err(|error| TaskError::io(path, error))
        };
        let files = (0..positions.div_ceil(width)).map(create).collect::<Result<_, _>>()?;
        Ok(Self { folder, width, files })
    }

    /// Puts an item at a position. Several may share one; they come back in the order they were put.
    pub(crate) fn put(&mut self, position: u64, item: &impl Serialize) -> Result<(), TaskError> {
        let failed = |error: std::io::Error| TaskError::io(&self.folder, error);
        let file = &mut self.files[(position / self.width) as usize];
        serde_json::to_writer(&mut *file, &(position, item)).map_err(|error| failed(error.into()))?;
        file.write_all(b"\n").map_err(failed)
    }

    /// All items in the order of their positions.
    pub(crate) fn finish<T: DeserializeOwned>(mut self) -> Result<Sorted<T>, TaskError> {
        for file in &mut self.files {
            file.flush().map_err(|error| TaskError::io(&self.folder, error))?;
        }
        Ok(Sorted {
            buckets: (0..self.files.len() as u64).rev().collect(),
            folder: self.folder,
            items: Vec::new(),
        })
    }
}

fn bucket(folder: &Path, index: u64) -> PathBuf {
    folder.join(format!("{index}.jsonl"))
}

/// The items of a [`Spill`], one bucket in memory at a time.
pub(crate) struct Sorted<T> {
    folder: PathBuf,
    buckets: Vec<u64>,
    /// The rest of the current bucket, last first.
    items: Vec<(u64, T)>,
}

impl<T: DeserializeOwned> Sorted<T> {
    fn load(&self, index: u64) -> Result<Vec<(u64, T)>, TaskError> {
        let path = bucket(&self.folder, index);
        let failed = |error| TaskError::io(&path, error);
        let lines: Lines<_> = BufReader::new(File::open(&path).map_err(failed)?).lines();
        let mut items: Vec<(u64, T)> = Vec::new();
        for line in lines {
            let item = serde_json::from_str(&line.map_err(failed)?).map_err(|error| failed(error.into()))?;
            items.push(item);
        }
        std::fs::remove_file(&path).map_err(failed)?;
        items.sort_by_key(|(position, _)| *position);
        items.reverse();
        Ok(items)
    }
}

impl<T: DeserializeOwned> Iterator for Sorted<T> {
    type Item = Result<(u64, T), TaskError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.items.pop() {
                return Some(Ok(item));
            }
            let bucket = self.buckets.pop()?;
            match self.load(bucket) {
                Ok(items) => self.items = items,
                Err(error) => {
                    self.buckets.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_back_in_the_order_of_their_positions() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::create(dir.path(), 5000).unwrap();
        for item in 0..5000_u64 {
            let position = item * 7919 % 5000;
            spill.put(position, &item).unwrap();
            if position == 3 {
                spill.put(position, &(item + 1)).unwrap();
            }
        }
        let items: Vec<(u64, u64)> = spill.finish().unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(items.len(), 5001);
        assert!(items.is_sorted_by_key(|(position, _)| *position));
        assert_eq!(items[4].1, items[3].1 + 1, "equal positions keep their order");
        assert!(
            items
                .iter()
                .filter(|(position, _)| *position != 3)
                .all(|(position, item)| item * 7919 % 5000 == *position)
        );
    }
}
