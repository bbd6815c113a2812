//! The options of mixtures of experts.

use serde::Deserialize;
use serde_json::{Map, Value};

/// The keys that only families with experts have.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Experts {
    /// Experts of a block.
    #[serde(alias = "num_local_experts")]
    pub num_experts: usize,
    /// Experts that compute a token.
    pub num_experts_per_tok: usize,
    /// Elements per token inside an expert.
    pub moe_intermediate_size: usize,
    /// Whether the weights of the chosen experts are made to add up to 1.
    #[serde(default)]
    pub norm_topk_prob: bool,
    /// Every how many layers have experts.
    #[serde(default = "every")]
    decoder_sparse_step: usize,
    /// Layers without.
    #[serde(default)]
    mlp_only_layers: Option<Vec<usize>>,
}

fn every() -> usize {
    1
}

impl Experts {
    /// Reads the options from what a configuration holds beside the common keys; says what of them is not supported.
    pub(super) fn read(other: &Map<String, Value>) -> Result<Self, String> {
        let experts: Self = serde_json::from_value(Value::Object(other.clone()))
            .map_err(|error| format!("a mixture of experts without its options ({error})"))?;
        let sizes = [
            ("num_experts", experts.num_experts, 1 << 11),
            ("num_experts_per_tok", experts.num_experts_per_tok, experts.num_experts),
            ("moe_intermediate_size", experts.moe_intermediate_size, 1 << 20),
            ("decoder_sparse_step", experts.decoder_sparse_step, 1 << 10),
        ];
        match sizes.into_iter().find(|&(_, size, most)| size == 0 || size > most) {
            Some((key, size, most)) => Err(format!("`{key}: {size}`, not 1 to {most}")),
            None => Ok(experts),
        }
    }

    /// Whether a layer has experts.
    pub(super) fn are_in(&self, layer: usize) -> bool {
        let is_plain = self.mlp_only_layers.as_ref().is_some_and(|layers| layers.contains(&layer));
        !is_plain && (layer + 1).is_multiple_of(self.decoder_sparse_step)
    }
}
