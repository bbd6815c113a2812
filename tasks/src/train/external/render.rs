//! Packs as files that a trainer reads: shards of safetensors, the order in which packs are taken, and for Megatron a Parquet file.
//!
//! Nothing is lost and nothing is added: no padding, no shift. Packs are read one at a time, so that memory does not grow with
//! them. docs/training.md has the layout.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{Int8Builder, Int32Builder, ListBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use dag_engine::task::{TaskCx, TaskError};
use dag_lm::train::{self, Position};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};

use super::super::course::Course;
use super::super::params::DataForm;
use super::follow::Expected;

/// Raised when the layout changes.
const VERSION: u32 = 1;
/// Tokens in a shard, about: a gigabyte.
const SHARD: u64 = 1 << 28;
/// Tokens in a row group of the Parquet file, about.
const GROUP: usize = 1 << 22;

/// The packs of each step, one after the other: step `n` takes the `n`-th `batch` of them.
pub(super) fn order(course: &Course, batch: usize) -> Vec<usize> {
    train::order(
        course.seed,
        Position::default(),
        course.packs.store.len(),
        course.config.steps as usize * batch,
    )
}

/// What is known of each step from the order.
pub(super) fn expected(course: &Course, order: &[usize], batch: usize) -> Vec<Expected> {
    let sum = |of: &[u64], step: &[usize]| step.iter().map(|&pack| of[pack]).sum();
    let of = |step: &[usize]| Expected {
        tokens: sum(&course.packs.tokens, step),
        loss_tokens: sum(&course.packs.loss_tokens, step),
    };
    order.chunks(batch).map(of).collect()
}

/// Writes the packs into `folder`, unless an earlier attempt has done so.
pub(super) fn render(
    course: &mut Course,
    order: &[usize],
    batch: usize,
    form: DataForm,
    folder: &Path,
    cx: &TaskCx,
) -> Result<(), TaskError> {
    render_in(course, order, batch, form, folder, SHARD, cx)
}

fn render_in(
    course: &mut Course,
    order: &[usize],
    batch: usize,
    form: DataForm,
    folder: &Path,
    shard: u64,
    cx: &TaskCx,
) -> Result<(), TaskError> {
    if folder.is_dir() {
        return Ok(());
    }
    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(|error| TaskError::io(&partial, error))?;
    }
    fs::create_dir_all(&partial).map_err(|error| TaskError::io(&partial, error))?;
    cx.progress().message("writing the packs for the trainer");
    let shards = cut(&course.packs.tokens, shard);
    let mut named = Vec::new();
    for (number, packs) in shards.iter().enumerate() {
        let name = format!("packs-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        write_shard(course, packs.clone(), &partial.join(&name), cx)?;
        let sum = |of: &[u64]| of[packs.clone()].iter().sum::<u64>();
        named.push(json!({
            "file": name, "packs": packs.len(), "tokens": sum(&course.packs.tokens), "loss_tokens": sum(&course.packs.loss_tokens),
        }));
    }
    write_order(order, batch, &partial.join("order.safetensors"))?;
    if form == DataForm::Megatron {
        write_parquet(course, &partial.join("packs.idx.parquet"), cx)?;
    }
    let index = index(course, order, batch, &named);
    let text = serde_json::to_string_pretty(&index).map_err(|error| TaskError::failed(error.to_string()))?;
    let path = partial.join("index.json");
    fs::write(&path, text + "\n").map_err(|error| TaskError::io(path, error))?;
    fs::rename(&partial, folder).map_err(|error| TaskError::io(folder, error))
}

fn index(course: &Course, order: &[usize], batch: usize, shards: &[Value]) -> Value {
    let packs = &course.packs;
    // The longest as a trainer counts it: inputs lose the last token of every sample.
    let inputs = packs.tokens.iter().zip(&packs.starts).map(|(tokens, starts)| tokens - starts.len() as u64);
    json!({
        "version": VERSION,
        "packs": packs.store.len(),
        "samples": packs.starts.iter().map(Vec::len).sum::<usize>(),
        "tokens": packs.tokens.iter().sum::<u64>(),
        "loss_tokens": packs.loss_tokens.iter().sum::<u64>(),
        "max_tokens": packs.stats.get("max_tokens"),
        "longest": inputs.max(),
        "shards": shards,
        "order": { "file": "order.safetensors", "steps": order.len() / batch, "batch": batch },
        "end_token": course.tokenizer.eos_id(),
        "pad_token": course.tokenizer.pad_id(),
    })
}

/// Packs in groups of about so many tokens, in their order.
fn cut(tokens: &[u64], most: u64) -> Vec<Range<usize>> {
    let (mut shards, mut start, mut sum) = (Vec::new(), 0, 0);
    for (pack, tokens) in tokens.iter().enumerate() {
        if pack > start && sum + tokens > most {
            shards.push(start..pack);
            (start, sum) = (pack, 0);
        }
        sum += tokens;
    }
    shards.push(start..tokens.len());
    shards
}

/// A file in the safetensors format, written tensor by tensor.
struct Safetensors {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Safetensors {
    /// Begins a file with these tensors: name, element type, bytes of an element, shape.
    fn create(path: &Path, tensors: &[(&str, &str, u64, Vec<u64>)]) -> Result<Self, TaskError> {
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".to_owned(), json!({ "format": format!("dag-packs-{VERSION}") }));
        let mut end = 0;
        for (name, dtype, width, shape) in tensors {
            let start = end;
            end += width * shape.iter().product::<u64>();
            header.insert(
                (*name).to_owned(),
                json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }),
            );
        }
        let mut header = Value::Object(header).to_string();
        // Numbers of eight bytes come first, and begin where eight bytes do.
        while !header.len().is_multiple_of(8) {
            header.push(' ');
        }
        let failed = |error| TaskError::io(path, error);
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed)?);
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
        file.write_all(header.as_bytes()).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file })
    }

    fn write<const WIDTH: usize>(
        &mut self,
        elements: impl Iterator<Item = [u8; WIDTH]>,
    ) -> Result<(), TaskError> {
        for element in elements {
            self.file.write_all(&element).map_err(|error| TaskError::io(&self.path, error))?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), TaskError> {
        self.file.flush().map_err(|error| TaskError::io(&self.path, error))
    }
}

fn write_shard(course: &mut Course, packs: Range<usize>, path: &Path, cx: &TaskCx) -> Result<(), TaskError> {
    let of = &mut course.packs;
    let tokens: u64 = of.tokens[packs.clone()].iter().sum();
    let samples: u64 = of.starts[packs.clone()].iter().map(|starts| starts.len() as u64).sum();
    let count = packs.len() as u64;
    let mut file = Safetensors::create(
        path,
        &[
            ("pack_ends", "I64", 8, vec![count]),
            ("sample_ends", "I64", 8, vec![count]),
            ("starts", "I32", 4, vec![samples]),
            ("tokens", "I32", 4, vec![tokens]),
            ("loss_mask", "U8", 1, vec![tokens]),
        ],
    )?;
    let running = |sum: &mut i64, length: u64| {
        *sum += length.cast_signed();
        Some(sum.to_le_bytes())
    };
    file.write(of.tokens[packs.clone()].iter().copied().scan(0, running))?;
    file.write(of.starts[packs.clone()].iter().map(|starts| starts.len() as u64).scan(0, running))?;
    file.write(of.starts[packs.clone()].iter().flatten().map(|start| start.cast_signed().to_le_bytes()))?;
    // Twice through the packs, for the tensors lie one after the other.
    for pack in packs.clone() {
        if cx.cancelled() {
            return Err(TaskError::Cancelled);
        }
        file.write(of.store.read(pack)?.0.into_iter().map(|token| token.cast_signed().to_le_bytes()))?;
    }
    for pack in packs {
        file.write(of.store.read(pack)?.1.into_iter().map(|mask| [mask]))?;
    }
    file.finish()
}

fn write_order(order: &[usize], batch: usize, path: &Path) -> Result<(), TaskError> {
    let shape = vec![(order.len() / batch) as u64, batch as u64];
    let mut file = Safetensors::create(path, &[("order", "I64", 8, shape)])?;
    file.write(order.iter().map(|&pack| (pack as u64).to_le_bytes()))?;
    file.finish()
}

/// Packs as Megatron-Bridge reads them: `input_ids`, `loss_mask`, `seq_start_id`. Its masks are those of the inputs: a token
/// counts whose *next* is a label, so ours move to the left by one within each sample.
fn write_parquet(course: &mut Course, path: &Path, cx: &TaskCx) -> Result<(), TaskError> {
    let list = |name: &str, kind: DataType| {
        Field::new(name, DataType::List(Arc::new(Field::new("item", kind, true))), false)
    };
    let schema = Arc::new(Schema::new(vec![
        list("input_ids", DataType::Int32),
        list("loss_mask", DataType::Int8),
        list("seq_start_id", DataType::Int32),
    ]));
    let failed =
        |error: parquet::errors::ParquetError| TaskError::failed(format!("{}: {error}", path.display()));
    let properties =
        WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let file = File::create(path).map_err(|error| TaskError::io(path, error))?;
    let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties)).map_err(failed)?;
    let packs = &mut course.packs;
    let lengths: Vec<u64> = packs.tokens.clone();
    for group in cut(&lengths, GROUP as u64) {
        if cx.cancelled() {
            return Err(TaskError::Cancelled);
        }
        let mut tokens = ListBuilder::new(Int32Builder::new());
        let mut masks = ListBuilder::new(Int8Builder::new());
        let mut starts = ListBuilder::new(Int32Builder::new());
        for pack in group {
            let read = packs.read(pack)?;
            tokens.append_value(read.tokens.iter().map(|token| Some(token.cast_signed())));
            masks.append_value(of_inputs(&read).into_iter().map(|mask| Some(mask.cast_signed())));
            starts.append_value(read.starts.iter().map(|start| Some(start.cast_signed())));
        }
        let columns: Vec<ArrayRef> =
            vec![Arc::new(tokens.finish()), Arc::new(masks.finish()), Arc::new(starts.finish())];
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns)
            .map_err(|error| TaskError::failed(format!("{}: {error}", path.display())))?;
        writer.write(&batch).and_then(|()| writer.flush()).map_err(failed)?;
    }
    writer.close().map_err(failed)?;
    Ok(())
}

/// For each token, whether the next of its sample is a label.
fn of_inputs(pack: &train::Pack) -> Vec<u8> {
    let is_start = |place: usize| pack.starts.binary_search(&(place as u32)).is_ok();
    (1..=pack.tokens.len())
        .map(|next| if next == pack.tokens.len() || is_start(next) { 0 } else { pack.loss_mask[next] })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_hold_what_fits_and_at_least_a_pack() {
        assert_eq!(cut(&[5, 5, 5, 20, 1], 10), [0..2, 2..3, 3..4, 4..5]);
    }

    #[test]
    fn masks_of_inputs_look_at_the_next_token() {
        let pack =
            train::Pack { tokens: vec![1, 2, 3, 4, 5], loss_mask: vec![0, 0, 1, 0, 1], starts: vec![0, 3] };
        assert_eq!(of_inputs(&pack), [0, 1, 0, 1, 0]);
    }
}
