//! Descriptions that are understood, and those that are refused.

use super::*;

fn nemo() -> serde_json::Value {
    serde_json::json!({
        "architectures": ["MistralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "head_dim": 128,
        "hidden_act": "silu", "hidden_size": 5120, "initializer_range": 0.02, "intermediate_size": 14336,
        "max_position_embeddings": 131_072, "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 40,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1_000_000.0, "sliding_window": null,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 131_072
    })
}

#[test]
fn heads_may_be_narrower_than_the_hidden_size() {
    let config: Config = serde_json::from_value(nemo()).unwrap();
    config.check().unwrap();
    assert_eq!(config.heads(), Heads { queries: 32, keys: 8, dim: 128 });
    assert!((config.theta() - 1e6).abs() < 1e-9);
}

#[test]
fn what_would_be_computed_wrongly_is_refused() {
    for (key, value) in [
        ("architectures", serde_json::json!(["GptOssForCausalLM"])),
        ("hidden_act", serde_json::json!("gelu")),
        ("rope_scaling", serde_json::json!({"rope_type": "llama3", "factor": 8.0})),
        ("rope_parameters", serde_json::json!({"rope_type": "yarn", "rope_theta": 1e4})),
        ("attention_bias", serde_json::json!(true)),
        ("mlp_bias", serde_json::json!(true)),
        ("quantization_config", serde_json::json!({"quant_method": "fp8"})),
        ("num_key_value_heads", serde_json::json!(5)),
        ("head_dim", serde_json::json!(7)),
        ("num_attention_heads", serde_json::json!(0)),
        ("vocab_size", serde_json::json!(1_u64 << 40)),
        ("num_hidden_layers", serde_json::json!(usize::MAX)),
    ] {
        let mut json = nemo();
        json[key] = value;
        let config: Config = serde_json::from_value(json).unwrap();
        assert!(matches!(config.check(), Err(ModelError::Unsupported { .. })), "{key}");
    }
}

#[test]
fn a_hybrid_says_its_blocks_in_letters_or_words() {
    let text = r#"{
        "architectures": ["NemotronHForCausalLM"], "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
        "num_attention_heads": 4, "num_key_value_heads": 2, "attention_head_dim": 24, "max_position_embeddings": 512,
        "layer_norm_epsilon": 1e-5, "BLOCKS", "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 32,
        "n_groups": 2, "conv_kernel": 4, "time_step_limit": [0.0, LIMIT], "mlp_hidden_act": "relu2"
    }"#;
    let letters = r#""hybrid_override_pattern": "M-*M""#;
    let words = r#""layers_block_type": ["linear_attention", "mlp", "full_attention", "linear_attention"]"#;
    let parse = |blocks: &str, limit: &str| {
        let config = Config::parse(&text.replace(r#""BLOCKS""#, blocks).replace("LIMIT", limit)).unwrap();
        config.check().map(|()| config)
    };
    for (blocks, limit) in [(letters, "Infinity"), (words, r#"{"__float__": "Infinity"}"#)] {
        let config = parse(blocks, limit).unwrap();
        let [mamba, feed, attention] =
            [BlockKind::Mamba, BlockKind::Feed, BlockKind::Attention].map(|kind| vec![kind]);
        assert_eq!(config.layers(), [mamba.clone(), feed, attention, mamba]);
        let (shape, has_bias) = config.mamba().unwrap();
        assert_eq!((shape.inner(), shape.channels(), shape.row(), has_bias), (128, 256, 392, true));
        assert!(shape.limit.1.is_infinite() && config.heads().dim == 24 && config.num_hidden_layers == 4);
    }
    let experts = parse(r#""hybrid_override_pattern": "MEM""#, "1.0").unwrap_err().to_string();
    assert!(experts.contains("a block of the kind `E`"), "{experts}");
}

#[test]
fn a_sliding_window_bounds_the_context() {
    let context = |class: &str, change: &[(&str, Value)]| {
        let mut json = nemo();
        json["architectures"] = serde_json::json!([class]);
        json.as_object_mut().unwrap().remove("sliding_window");
        for (key, value) in change {
            json[*key] = value.clone();
        }
        serde_json::from_value::<Config>(json).unwrap().context()
    };
    assert_eq!(context("MistralForCausalLM", &[]), 4096);
    assert_eq!(context("MistralForCausalLM", &[("sliding_window", Value::Null)]), 131_072);
    assert_eq!(context("Qwen2ForCausalLM", &[("sliding_window", 8192.into())]), 131_072);
    assert_eq!(context("Qwen2ForCausalLM", &[("use_sliding_window", true.into())]), 4096);
    assert_eq!(context("LlamaForCausalLM", &[]), 131_072);
}

#[test]
fn keys_that_are_not_understood_are_written_back() {
    let config: Config = serde_json::from_value(nemo()).unwrap();
    let written = serde_json::to_value(&config).unwrap();
    assert_eq!(written["initializer_range"], nemo()["initializer_range"]);
    assert_eq!(serde_json::from_value::<Config>(written).unwrap(), config);
}
