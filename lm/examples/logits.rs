//! Logits after the last token of every prompt, for comparison with other implementations.
//!
//! `cargo run --release -p dag-lm --example logits -- MODEL PROMPTS LOGITS [BATCH] [as-stored]`: MODEL is a model directory or a GGUF
//! file, PROMPTS a file with a JSON array of token ids per line, LOGITS a file to be written: a row of 32-bit floats per prompt.
//! BATCH prompts, of whatever lengths, pass the model together. Weights become 32-bit numbers, or stay as a GGUF file has them.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use dag_lm::model::{Decoder, Precision, Turn};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<PathBuf> = std::env::args().skip(1).map(PathBuf::from).collect();
    let [path, prompts, logits, rest @ ..] = arguments.as_slice() else {
        return Err("usage: logits MODEL PROMPTS LOGITS [BATCH] [as-stored]".into());
    };
    let batch: usize = rest.first().map_or(Ok(8), |batch| batch.to_string_lossy().parse())?;
    let precision = if rest.len() > 1 { Precision::AsStored } else { Precision::Float32 };
    let model = Decoder::load(path, precision, 2)?;
    let prompts: Vec<Vec<u32>> =
        fs::read_to_string(prompts)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let mut file = std::io::BufWriter::new(fs::File::create(logits)?);
    for prompts in prompts.chunks(batch.max(1)) {
        let mut caches: Vec<_> = prompts.iter().map(|_| model.cache()).collect();
        let mut turns: Vec<Turn<'_>> =
            caches.iter_mut().zip(prompts).map(|(cache, tokens)| Turn { cache, tokens }).collect();
        for logit in model.forward(&mut turns) {
            file.write_all(&logit.to_le_bytes())?;
        }
    }
    Ok(file.flush()?)
}
