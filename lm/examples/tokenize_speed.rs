//! Encoding speed: megabytes of text per second on one thread.
//!
//! `cargo run --release -p dag-lm --example tokenize_speed -- VOCABULARY TEXTS [SAVE]`: a tokenizer's folder or vocabulary
//! file, and a file with one JSON string a line. With SAVE the tokenizer is written there, for other libraries to load.
//! `scripts/bench_tokenizers.py` runs it beside Python's libraries.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use dag_lm::tokenizer::Tokenizer;

#[expect(clippy::print_stdout, reason = "its figures are what it is for")]
fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [vocabulary, texts, save @ ..] = arguments.as_slice() else {
        return Err("usage: tokenize_speed VOCABULARY TEXTS [SAVE]".into());
    };
    let begin = Instant::now();
    let tokenizer = Tokenizer::load(Path::new(vocabulary))?;
    let load = begin.elapsed().as_secs_f64();
    if let [folder, ..] = save {
        std::fs::create_dir_all(folder)?;
        tokenizer.save(Path::new(folder))?;
    }
    let texts: Vec<String> =
        std::fs::read_to_string(texts)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let bytes: usize = texts.iter().map(String::len).sum();
    let begin = Instant::now();
    let mut tokens = 0;
    for text in &texts {
        tokens += tokenizer.encode_plain(text)?.len();
    }
    let speed = bytes as f64 / 1e6 / begin.elapsed().as_secs_f64();
    println!(
        "{}",
        serde_json::json!({ "load_s": load, "mb_per_s": speed, "bytes": bytes, "tokens": tokens })
    );
    Ok(())
}
