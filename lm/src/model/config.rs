//! The shape of a model, as `config.json` of a Hugging Face directory says it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ModelError;
use crate::kernels::attention::Heads;

/// A decoder of the Llama family: Llama and Mistral.
///
/// Keys that do not change the arithmetic are ignored when read; a key that would (scaled rotary embeddings, a sliding window
/// shorter than the context, biases, another activation) is refused instead of computing something else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Class names as transformers knows them; the first one decides.
    #[serde(default = "mistral_class")]
    pub architectures: Vec<String>,
    /// The same in short.
    #[serde(default = "mistral")]
    pub model_type: String,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Elements per token between layers.
    pub hidden_size: usize,
    /// Elements per token inside a feed-forward block.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; as many as query heads if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_key_value_heads: Option<usize>,
    /// Elements per head; `hidden_size / num_attention_heads` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// The gate's activation; only `silu`.
    #[serde(default = "silu")]
    pub hidden_act: String,
    /// The longest sequence.
    pub max_position_embeddings: usize,
    /// Added to the mean square before the root.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// The same in newer directories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_parameters: Option<RopeParameters>,
    /// Scaled rotary embeddings; not supported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<serde_json::Value>,
    /// Attention to the last so many tokens only.
    #[serde(default)]
    pub sliding_window: Option<usize>,
    /// Whether the output projection is the embedding.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Whether attention projections have biases; not supported.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attention_bias: bool,
    /// The token that starts a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos_token_id: Option<serde_json::Value>,
    /// The token or tokens that end a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eos_token_id: Option<serde_json::Value>,
}

/// Rotary embeddings as newer directories describe them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeParameters {
    /// Base of the frequencies.
    pub rope_theta: f64,
    /// Only `default`.
    #[serde(default = "default_rope")]
    pub rope_type: String,
}

fn mistral_class() -> Vec<String> {
    vec!["MistralForCausalLM".to_owned()]
}

fn mistral() -> String {
    "mistral".to_owned()
}

fn silu() -> String {
    "silu".to_owned()
}

fn default_rope() -> String {
    "default".to_owned()
}

impl Config {
    /// Reads and checks `config.json` of a model directory.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("config.json");
        let bytes = std::fs::read(&path).map_err(|source| ModelError::io(&path, source))?;
        let config: Self = serde_json::from_slice(&bytes)
            .map_err(|source| ModelError::Config { path: path.clone(), source })?;
        config.check()?;
        Ok(config)
    }

    /// Refuses what the runtime would compute wrongly.
    pub fn check(&self) -> Result<(), ModelError> {
        let known = ["MistralForCausalLM", "LlamaForCausalLM"];
        let class = self.architectures.first().map_or("", String::as_str);
        let rope = self.rope_parameters.as_ref().map_or("default", |rope| rope.rope_type.as_str());
        let heads = self.heads();
        let refusals = [
            (
                !known.contains(&class),
                format!("the architecture `{class}`; known are {}", known.join(" and ")),
            ),
            (self.hidden_act != "silu", format!("the activation `{}`", self.hidden_act)),
            (
                self.rope_scaling.as_ref().is_some_and(|value| !value.is_null()),
                "scaled rotary embeddings".to_owned(),
            ),
            (rope != "default", format!("rotary embeddings of type `{rope}`")),
            (self.attention_bias, "biases in attention".to_owned()),
            (
                self.sliding_window.is_some_and(|window| window < self.max_position_embeddings),
                "a sliding window shorter than the context".to_owned(),
            ),
            (
                self.hidden_size == 0 || self.vocab_size == 0 || self.num_hidden_layers == 0,
                "a model without layers or width".to_owned(),
            ),
            (
                heads.dim == 0 || !heads.dim.is_multiple_of(2),
                format!("heads of {} elements; rotary embeddings need an even number", heads.dim),
            ),
            (
                heads.keys == 0 || !heads.queries.is_multiple_of(heads.keys),
                format!("{} query heads on {} key heads", heads.queries, heads.keys),
            ),
        ];
        match refusals.into_iter().find(|(refused, _)| *refused) {
            Some((_, what)) => Err(ModelError::Unsupported { what }),
            None => Ok(()),
        }
    }

    /// The heads of every attention layer.
    pub fn heads(&self) -> Heads {
        Heads {
            queries: self.num_attention_heads,
            keys: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            dim: self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1)),
        }
    }

    /// Base of the rotary frequencies.
    pub fn theta(&self) -> f64 {
        self.rope_parameters.as_ref().map(|rope| rope.rope_theta).or(self.rope_theta).unwrap_or(10_000.0)
    }

    /// A small Mistral with tied embeddings, full attention and a context of `positions` tokens.
    pub fn small(
        vocab_size: usize,
        hidden_size: usize,
        layers: usize,
        head_dim: usize,
        positions: usize,
    ) -> Self {
        Self {
            architectures: mistral_class(),
            model_type: mistral(),
            vocab_size,
            hidden_size,
            intermediate_size: (hidden_size * 8 / 3).next_multiple_of(16),
            num_hidden_layers: layers,
            num_attention_heads: (hidden_size / head_dim).max(1),
            num_key_value_heads: Some((hidden_size / head_dim).max(1)),
            head_dim: Some(head_dim),
            hidden_act: silu(),
            max_position_embeddings: positions,
            rms_norm_eps: 1e-5,
            rope_theta: Some(10_000.0),
            rope_parameters: None,
            rope_scaling: None,
            sliding_window: None,
            tie_word_embeddings: true,
            attention_bias: false,
            bos_token_id: None,
            eos_token_id: None,
        }
    }
}

#[cfg(test)]
mod tests {
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
            ("sliding_window", serde_json::json!(4096)),
            ("attention_bias", serde_json::json!(true)),
            ("num_key_value_heads", serde_json::json!(5)),
            ("head_dim", serde_json::json!(7)),
        ] {
            let mut json = nemo();
            json[key] = value;
            let config: Config = serde_json::from_value(json).unwrap();
            assert!(matches!(config.check(), Err(ModelError::Unsupported { .. })), "{key}");
        }
    }
}
