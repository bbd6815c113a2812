//! Packs as `pack` writes them, their tokens in a file that is read at random.

use std::fs;
use std::path::Path;

use dag_engine::task::{TaskCx, TaskError};
use dag_lm::train;
use serde_json::Value;

use super::params::Size;
use crate::table::{Row, TableReader};
use crate::token_store::{TokenReader, TokenWriter};

/// The packs, their tokens in a file that is read at random.
pub(super) struct Packs {
    pub(super) store: TokenReader,
    pub(super) starts: Vec<Vec<u32>>,
    pub(super) stats: Value,
    /// How many tokens of each are labels.
    pub(super) loss_tokens: Vec<u64>,
    /// How many tokens each has.
    pub(super) tokens: Vec<u64>,
}

impl Packs {
    pub(super) fn open(folder: &Path, cx: &TaskCx) -> Result<Self, TaskError> {
        let table = TableReader::open(folder.join("packs.parquet"))?;
        let mut writer = TokenWriter::create(cx.scratch().join("packs.tokens"))?;
        let (mut starts, mut loss_tokens, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for (number, row) in (1..).zip(table.rows_of(&["tokens", "loss_mask", "starts"])?) {
            let row = row?;
            let list = |name| {
                numbers(&row, name).ok_or_else(|| {
                    TaskError::input(table.path(), Some(number), format!("`{name}` is no list of numbers"))
                })
            };
            let (tokens, mask) = (list("tokens")?, list("loss_mask")?);
            if tokens.len() != mask.len() {
                return Err(TaskError::input(
                    table.path(),
                    Some(number),
                    "the loss mask is not as long as the tokens",
                ));
            }
            let mask: Vec<u8> = mask.into_iter().map(|mask| u8::from(mask != 0)).collect();
            writer.push(&tokens, &mask)?;
            loss_tokens.push(mask.iter().map(|mask| u64::from(*mask)).sum());
            lengths.push(tokens.len() as u64);
            starts.push(list("starts")?);
        }
        if starts.is_empty() {
            return Err(TaskError::input(table.path(), None, "there are no packs to train on"));
        }
        let path = folder.join("stats.json");
        let text = fs::read(&path).map_err(|error| TaskError::io(&path, error))?;
        let stats = serde_json::from_slice(&text)
            .map_err(|error| TaskError::input(&path, None, error.to_string()))?;
        Ok(Self { store: writer.finish()?, starts, stats, loss_tokens, tokens: lengths })
    }

    pub(super) fn size(&self) -> Size {
        let of = |name: &str| self.stats.get(name).and_then(Value::as_u64);
        Size { packs: Some(self.store.len() as u64), tokens: of("tokens"), examples: of("examples") }
    }

    pub(super) fn read(&mut self, pack: usize) -> Result<train::Pack, TaskError> {
        let (tokens, loss_mask) = self.store.read(pack)?;
        Ok(train::Pack { tokens, loss_mask, starts: self.starts[pack].clone() })
    }
}

fn numbers(row: &Row, name: &str) -> Option<Vec<u32>> {
    row.get(name)?.as_array()?.iter().map(|value| u32::try_from(value.as_u64()?).ok()).collect()
}
