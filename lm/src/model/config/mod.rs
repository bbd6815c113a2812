//! The shape of a model, as `config.json` of a Hugging Face directory says it.

mod experts;
mod hybrid;
mod rope;

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ModelError;
use crate::kernels::attention::Heads;
use crate::kernels::mamba::MambaShape;
use crate::kernels::rope::Rotation;
pub use experts::Experts;
use hybrid::Hybrid;
pub use rope::{RopeParameters, Scaling};

/// The shape of a decoder.
///
/// Keys that do not change the arithmetic are kept as they are and written back; a key that would change it and is not
/// supported (other rotary scalings, biases where the family has none, another activation, quantised weights) is refused
/// instead of computing something else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the keys of the file")]
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
    /// The longest sequence; [`Config::context`] may be shorter.
    pub max_position_embeddings: usize,
    /// Added to the mean square before the root.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// The same in newer directories, with any scaling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_parameters: Option<RopeParameters>,
    /// How the rotary frequencies are scaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeParameters>,
    /// Attention to the last so many tokens only; see [`Config::context`]. Without the key it is 4096, as in transformers.
    #[serde(default = "sliding_window")]
    pub sliding_window: Option<usize>,
    /// Whether Qwen models have the window at all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub use_sliding_window: bool,
    /// Whether the output projection is the embedding.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Whether all attention projections have biases; not supported. Qwen2 has its own without this key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attention_bias: bool,
    /// Whether feed-forward projections have biases; not supported.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mlp_bias: bool,
    /// The token that starts a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos_token_id: Option<Value>,
    /// The token or tokens that end a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eos_token_id: Option<Value>,
    /// All other keys, as they were.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The model classes that the runtime computes. They differ in a few options of one decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama, and SmolLM2, which is one.
    Llama,
    /// Mistral: a Llama whose heads need not fill the hidden size.
    Mistral,
    /// Qwen2 and Qwen2.5: biases on queries, keys and values.
    Qwen2,
    /// Qwen3: queries and keys are normalised per head.
    Qwen3,
    /// Qwen3 with mixtures of experts.
    Qwen3Moe,
    /// Nemotron-H: Mamba-2 blocks, attention without positions, and feed-forward blocks with a squared ReLU, in any order.
    NemotronH,
}

/// What a residual block does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// Attention over the sequence.
    Attention,
    /// A feed-forward block.
    Feed,
    /// A mixture of feed-forward blocks.
    Experts,
    /// A selective state space.
    Mamba,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3, Self::Qwen3Moe, Self::NemotronH];

    /// Every family with its class name in transformers.
    const CLASSES: [(Self, &str); 6] = [
        (Self::Llama, "LlamaForCausalLM"),
        (Self::Mistral, "MistralForCausalLM"),
        (Self::Qwen2, "Qwen2ForCausalLM"),
        (Self::Qwen3, "Qwen3ForCausalLM"),
        (Self::Qwen3Moe, "Qwen3MoeForCausalLM"),
        (Self::NemotronH, "NemotronHForCausalLM"),
    ];

    /// The class in transformers.
    pub fn class(self) -> &'static str {
        Self::CLASSES.iter().find(|(family, _)| *family == self).map_or("", |(_, class)| class)
    }
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

#[expect(clippy::unnecessary_wraps, reason = "serde wants the type of the field")]
fn sliding_window() -> Option<usize> {
    Some(4096)
}

impl Config {
    /// Reads and checks `config.json` of a model directory.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("config.json");
        let bytes = std::fs::read(&path).map_err(|source| ModelError::io(&path, source))?;
        let config = Self::parse(&String::from_utf8_lossy(&bytes))
            .map_err(|source| ModelError::Config { path: path.clone(), source })?;
        config.check()?;
        Ok(config)
    }

    /// Reads the text of a `config.json`.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        // Python writes infinity (in `time_step_limit`), which JSON has not; no model means more by it than a large number.
        let mut json: Value = serde_json::from_str(text)
            .or_else(|_| serde_json::from_str(&text.replace("Infinity", "1e308")))?;
        if json["architectures"][0] == Family::NemotronH.class() {
            hybrid::complete(&mut json);
        }
        serde_json::from_value(json)
    }

    /// Refuses what the runtime would compute wrongly, and sizes that no model has.
    pub fn check(&self) -> Result<(), ModelError> {
        let refuse = |what: String| Err(ModelError::Unsupported { what });
        let Some(family) = self.family() else {
            let class = self.architectures.first().map_or("", String::as_str);
            let known: Vec<&str> = Family::CLASSES.iter().map(|(_, class)| *class).collect();
            return refuse(format!("the architecture `{class}`; known are {}", known.join(", ")));
        };
        self.check_sizes()?;
        if let Err(what) = self.scaling() {
            return refuse(what);
        }
        let options = match family {
            Family::NemotronH => Hybrid::read(&self.other).map(|_| ()),
            Family::Qwen3Moe => Experts::read(&self.other).map(|_| ()),
            _ => Ok(()),
        };
        if let Err(what) = options {
            return refuse(what);
        }
        let heads = self.heads();
        let refusals = [
            (self.hidden_act != "silu", format!("the activation `{}`", self.hidden_act)),
            (self.attention_bias, "biases on all projections of attention".to_owned()),
            (self.mlp_bias, "biases in the feed-forward block".to_owned()),
            (
                self.other.get("quantization_config").is_some_and(|value| !value.is_null()),
                "weights quantised in a way of its own (`quantization_config`)".to_owned(),
            ),
            (
                heads.dim == 0 || !heads.dim.is_multiple_of(2),
                format!("heads of {} elements; rotary embeddings need an even number", heads.dim),
            ),
            (
                heads.keys == 0 || !heads.queries.is_multiple_of(heads.keys),
                format!("{} query heads on {} key heads", heads.queries, heads.keys),
            ),
            (
                family == Family::Llama
                    && self.head_dim.is_none()
                    && !self.hidden_size.is_multiple_of(heads.queries),
                format!("{} heads in a width of {}", heads.queries, self.hidden_size),
            ),
        ];
        match refusals.into_iter().find(|(refused, _)| *refused) {
            Some((_, what)) => refuse(what),
            None => Ok(()),
        }
    }

    /// Every size is at least 1 and so small that no product of them overflows.
    fn check_sizes(&self) -> Result<(), ModelError> {
        let heads = self.heads();
        let sizes = [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 17),
            ("intermediate_size", self.intermediate_size, 1 << 20),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 10),
            ("num_attention_heads", heads.queries, 1 << 10),
            ("num_key_value_heads", heads.keys, 1 << 10),
            ("head_dim", heads.dim, 1 << 13),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 26),
        ];
        match sizes.into_iter().find(|&(_, size, most)| size == 0 || size > most) {
            Some((key, size, most)) => {
                Err(ModelError::Unsupported { what: format!("`{key}: {size}`, not 1 to {most}") })
            }
            None => Ok(()),
        }
    }

    /// The family, if it is known.
    pub fn family(&self) -> Option<Family> {
        let class = self.architectures.first()?;
        Family::CLASSES.iter().find(|(_, name)| name == class).map(|(family, _)| *family)
    }

    /// Whether queries, keys and values have biases.
    pub fn has_qkv_bias(&self) -> bool {
        self.family() == Some(Family::Qwen2)
    }

    /// Whether every query and key head is normalised before it is turned.
    pub fn has_head_norms(&self) -> bool {
        matches!(self.family(), Some(Family::Qwen3 | Family::Qwen3Moe))
    }

    /// Whether queries and keys are turned by their positions.
    pub fn has_rotation(&self) -> bool {
        self.family() != Some(Family::NemotronH)
    }

    /// The residual blocks of every layer, in order. Layers of Nemotron-H have one, the others two.
    pub fn layers(&self) -> Vec<Vec<BlockKind>> {
        if let Some(hybrid) = self.hybrid() {
            // Blocks that are not supported were refused by `check`.
            return hybrid.blocks().unwrap_or_default().into_iter().map(|kind| vec![kind]).collect();
        }
        let experts = self.experts();
        let feed = |layer| match &experts {
            Some(experts) if experts.are_in(layer) => BlockKind::Experts,
            _ => BlockKind::Feed,
        };
        (0..self.num_hidden_layers).map(|layer| vec![BlockKind::Attention, feed(layer)]).collect()
    }

    /// The mixtures of experts, if there are any.
    pub fn experts(&self) -> Option<Experts> {
        if self.family() == Some(Family::Qwen3Moe) { Experts::read(&self.other).ok() } else { None }
    }

    /// The shape of Mamba blocks, and whether their convolutions have biases, if there are any.
    pub fn mamba(&self) -> Option<(MambaShape, bool)> {
        let hybrid = self.hybrid()?;
        Some((hybrid.mamba().ok()?, hybrid.has_convolution_bias()))
    }

    fn hybrid(&self) -> Option<Hybrid> {
        if self.family() == Some(Family::NemotronH) { Hybrid::read(&self.other).ok() } else { None }
    }

    /// The heads of every attention layer.
    pub fn heads(&self) -> Heads {
        let dim = match self.family() {
            // The class has a default of its own.
            Some(Family::Qwen3) => 128,
            _ => self.hidden_size / self.num_attention_heads.max(1),
        };
        Heads {
            queries: self.num_attention_heads,
            keys: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            dim: self.head_dim.unwrap_or(dim),
        }
    }

    /// The longest sequence that the runtime takes: where attention has a sliding window, its length, within which full
    /// attention is the same.
    pub fn context(&self) -> usize {
        let slides = match self.family() {
            Some(Family::Mistral) => true,
            Some(Family::Qwen2 | Family::Qwen3 | Family::Qwen3Moe) => self.use_sliding_window,
            Some(Family::Llama | Family::NemotronH) | None => false,
        };
        let window = self.sliding_window.filter(|_| slides);
        window.map_or(self.max_position_embeddings, |window| window.min(self.max_position_embeddings))
    }

    /// The angles by which queries and keys are turned, if they are.
    pub(crate) fn rotation(&self) -> Option<Rotation> {
        self.frequencies().map(|frequencies| Rotation::new(frequencies, self.context()))
    }

    /// Radians per position of every pair of elements of a head, where they are turned.
    pub(crate) fn frequencies(&self) -> Option<Vec<f32>> {
        // A scaling that is not supported was refused by `check`.
        let scaling = self.scaling().unwrap_or(Scaling::None);
        let scaled = || scaling.frequencies(self.theta(), self.heads().dim);
        self.has_rotation().then(scaled)
    }

    fn scaling(&self) -> Result<Scaling, String> {
        let described = self.rope_scaling.as_ref().or(self.rope_parameters.as_ref());
        described.map_or(Ok(Scaling::None), RopeParameters::scaling)
    }

    /// Base of the rotary frequencies.
    pub fn theta(&self) -> f64 {
        let newer = self.rope_parameters.as_ref().and_then(|rope| rope.rope_theta);
        newer.or(self.rope_theta).unwrap_or(10_000.0)
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
            use_sliding_window: false,
            tie_word_embeddings: true,
            attention_bias: false,
            mlp_bias: false,
            bos_token_id: None,
            eos_token_id: None,
            other: Map::new(),
        }
    }
}

#[cfg(test)]
mod tests;
