//! Writes a model directory with random weights in 16 bits, to measure speed with.
//!
//! `cargo run --release --example random_model -- DIR [HIDDEN LAYERS HEADS KEY_HEADS INNER VOCABULARY]`: without sizes a Llama of
//! 1.1 billion parameters (2048 16 32 8 8192 32768). Other programs read it too, so that all measure the same model. The numbers
//! are as large as those of trained models, but one block of noise serves all matrices: its responses mean nothing.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use dag_lm::model::{Config, Places};
use half::bf16;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (dir, sizes) = arguments.split_first().ok_or("usage: random_model DIR [SIZES]")?;
    let sizes: Vec<usize> = sizes.iter().map(|size| size.parse()).collect::<Result<_, _>>()?;
    let [hidden, layers, heads, key_heads, inner, vocabulary] = match sizes[..] {
        [] => [2048, 16, 32, 8, 8192, 32_768],
        _ => sizes.try_into().map_err(|_| "six sizes: HIDDEN LAYERS HEADS KEY_HEADS INNER VOCABULARY")?,
    };
    let dir = PathBuf::from(dir);
    fs::create_dir_all(&dir)?;
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary,
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": key_heads, "head_dim": hidden / heads, "hidden_act": "silu",
        "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "bos_token_id": 0, "eos_token_id": 1,
    });
    fs::write(dir.join("config.json"), format!("{config:#}\n"))?;
    let places = Places::new(&Config::parse(&config.to_string())?);

    let largest = places.parameters.iter().map(|parameter| parameter.places.len()).max().unwrap_or(0);
    let noise = noise(largest + places.parameters.len(), 1.0 / (hidden as f32).sqrt());
    let ones: Vec<u8> = std::iter::repeat_n(bf16::ONE.to_le_bytes(), hidden).flatten().collect();
    let mut tensors = BTreeMap::new();
    for (index, parameter) in places.parameters.iter().enumerate() {
        let bytes = if parameter.is_matrix() { &noise[2 * index..] } else { &ones[..] };
        let bytes = &bytes[..2 * parameter.places.len()];
        tensors
            .insert(parameter.name.as_str(), TensorView::new(Dtype::BF16, parameter.shape.clone(), bytes)?);
    }
    let about = Some([("format".to_owned(), "pt".to_owned())].into());
    safetensors::serialize_to_file(tensors, about, &dir.join("model.safetensors"))?;

    let words: BTreeMap<String, usize> = (0..vocabulary).map(|id| (format!(" {id}"), id)).collect();
    let special = |id: usize| {
        json!({ "id": id, "content": format!(" {id}"), "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [special(0), special(1)],
        "model": { "type": "WordLevel", "vocab": words, "unk_token": " 0" },
    });
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string())?;
    let about = json!({ "bos_token": " 0", "eos_token": " 1", "tokenizer_class": "PreTrainedTokenizerFast" });
    fs::write(dir.join("tokenizer_config.json"), about.to_string())?;
    Ok(())
}

/// So many numbers, about normal with this deviation, as the file holds them.
fn noise(count: usize, deviation: f32) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Two halves, of which each is uniform: their sum is not far from normal once four of them are added.
        (state as u32 as f32 + (state >> 32) as f32) / u32::MAX as f32 - 1.0
    };
    // A sum of four uniform numbers from -1/2 to 1/2 has the variance 4/12.
    let scale = deviation * 3_f32.sqrt();
    (0..count).flat_map(|_| bf16::from_f32((uniform() + uniform()) * scale).to_le_bytes()).collect()
}
