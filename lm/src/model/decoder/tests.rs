//! The decoder against candle's models, and against itself in other company.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, mamba2, mistral, qwen2, qwen3, qwen3_moe};
use serde_json::json;

use super::*;
use crate::model::{Family, RopeParameters, of_family, varied};

fn shape(family: Family) -> Config {
    let mut config = Config::small(50, 48, 2, 16, 128);
    config.num_attention_heads = 4;
    config.num_key_value_heads = Some(2);
    if matches!(family, Family::Llama | Family::Qwen2) {
        // Candle's have no other.
        config.head_dim = Some(12);
    }
    config.tie_word_embeddings = false;
    of_family(config, family)
}

fn tokens(count: usize) -> Vec<u32> {
    (0..count as u32).map(|index| (index * 7 + index * index) % 50).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Logits after the last token, by candle.
type Reference = Box<dyn FnMut(&Tensor) -> candle_core::Result<Tensor>>;

fn reference(family: Family, dir: &Path) -> Reference {
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    // Keys that candle wants to be told.
    for (key, value) in [("sliding_window", 128), ("max_window_layers", 2)] {
        json[key] = value.into();
    }
    for key in ["use_sliding_window", "attention_bias"] {
        json[key] = false.into();
    }
    let files = [dir.join("model.safetensors")];
    let place = candle_core::Device::Cpu;
    // SAFETY: nobody changes the file.
    let weights = unsafe { VarBuilder::from_mmaped_safetensors(&files, DType::F32, &place).unwrap() };
    match family {
        Family::Llama => {
            let config: llama::LlamaConfig = serde_json::from_value(json).unwrap();
            let config = config.into_config(false);
            let model = llama::Llama::load(weights, &config).unwrap();
            Box::new(move |input| {
                model.forward(input, 0, &mut llama::Cache::new(true, DType::F32, &config, &place)?)
            })
        }
        Family::Mistral => {
            json["sliding_window"] = serde_json::Value::Null;
            let mut model = mistral::Model::new(&serde_json::from_value(json).unwrap(), weights).unwrap();
            Box::new(move |input| {
                model.clear_kv_cache();
                model.forward(input, 0)
            })
        }
        Family::Qwen2 => {
            let config = serde_json::from_value(json).unwrap();
            let mut model = qwen2::ModelForCausalLM::new(&config, weights).unwrap();
            Box::new(move |input| {
                model.clear_kv_cache();
                model.forward(input, 0)
            })
        }
        Family::Qwen3Moe => {
            let config = serde_json::from_value(json).unwrap();
            let mut model = qwen3_moe::ModelForCausalLM::new(&config, weights).unwrap();
            Box::new(move |input| {
                model.clear_kv_cache();
                model.forward(input, 0)
            })
        }
        Family::NemotronH => {
            json["state_size"] = json["ssm_state_size"].clone();
            let config: mamba2::Config = serde_json::from_value(json).unwrap();
            let model = mamba2::Model::new(&config, weights.pp("backbone")).unwrap();
            Box::new(move |input| {
                let mut state = mamba2::State::new(1, &config, DType::F32, &place)?;
                let mut logits = None;
                for token in input.flatten_all()?.to_vec1::<u32>()? {
                    logits = Some(model.forward(&Tensor::new(&[token], &place)?, &mut state)?);
                }
                logits.ok_or_else(|| candle_core::Error::msg("no token"))
            })
        }
        Family::Qwen3 => {
            let config = serde_json::from_value(json).unwrap();
            let mut model = qwen3::ModelForCausalLM::new(&config, weights).unwrap();
            Box::new(move |input| {
                model.clear_kv_cache();
                model.forward(input, 0)
            })
        }
    }
}

/// The weights are random and wide enough that attention is far from uniform.
#[test]
fn logits_are_those_of_the_reference() {
    let llama3 = RopeParameters {
        rope_type: Some("llama3".to_owned()),
        factor: Some(8.0),
        low_freq_factor: Some(1.0),
        high_freq_factor: Some(4.0),
        original_max_position_embeddings: Some(64),
        ..RopeParameters::default()
    };
    // Candle has no hybrid, but a model of Mamba-2 blocks alone, with one group, a padded vocabulary and a tied head.
    let mut mamba = Config { tie_word_embeddings: true, vocab_size: 64, ..shape(Family::NemotronH) };
    mamba.num_hidden_layers = 3;
    let options =
        [("hybrid_override_pattern", "MMM".into()), ("n_groups", 1.into()), ("mamba_num_heads", 6.into())];
    for (key, value) in
        options.into_iter().chain([("mamba_head_dim", 16.into()), ("time_step_limit", json!([0, 1e9]))])
    {
        mamba.other.insert(key.to_owned(), value);
    }
    for config in [
        shape(Family::Mistral),
        shape(Family::Llama),
        Config { rope_scaling: Some(llama3), ..shape(Family::Llama) },
        shape(Family::Qwen2),
        shape(Family::Qwen3),
        shape(Family::Qwen3Moe),
        mamba,
    ] {
        let (dir, family) = (tempfile::tempdir().unwrap(), config.family().unwrap());
        varied(&config, 5, dir.path());
        let model = Decoder::load(dir.path(), Precision::AsStored, 2).unwrap();
        let mut reference = reference(family, dir.path());
        for length in [1, 2, 40, 101] {
            let tokens = tokens(length);
            let mut cache = model.cache();
            let ours = model.forward(&mut [Turn { cache: &mut cache, tokens: &tokens }]);
            let input = Tensor::from_slice(&tokens, (1, length), &candle_core::Device::Cpu).unwrap();
            let theirs = reference(&input).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let largest = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(theirs.iter().any(|logit| logit.abs() > 0.1));
            assert!(largest < 1e-4, "{family:?}, length {length}: {largest}");
        }
    }
}

#[test]
fn company_turns_and_threads_change_no_bit() {
    for family in Family::ALL {
        company(family);
    }
}

fn company(family: Family) {
    let dir = tempfile::tempdir().unwrap();
    varied(&shape(family), 6, dir.path());
    let all = tokens(90);
    let alone = {
        let model = Decoder::load(dir.path(), Precision::AsStored, 1).unwrap();
        let mut cache = model.cache();
        model.forward(&mut [Turn { cache: &mut cache, tokens: &all }])
    };
    let model = Decoder::load(dir.path(), Precision::AsStored, 3).unwrap();
    let (mut cache, mut other) = (model.cache(), model.cache());
    model.forward(&mut [Turn { cache: &mut cache, tokens: &all[..37] }]);
    let mut fork = cache.clone();
    for token in 37..90 {
        let tokens = &all[token..=token];
        let mut turns = [Turn { cache: &mut other, tokens }, Turn { cache: &mut cache, tokens }];
        let logits = model.forward(&mut turns);
        if token == 89 {
            assert_eq!(bits(&alone), bits(&logits[50..]));
        }
    }
    let logits = model.forward(&mut [Turn { cache: &mut fork, tokens: &all[37..] }]);
    assert_eq!(bits(&alone), bits(&logits));
    assert_eq!((cache.len(), fork.len(), other.len()), (90, 90, 53));
}
