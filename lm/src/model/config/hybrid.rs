//! The options of Nemotron-H: which block stands where, and the shape of its Mamba-2 blocks.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::BlockKind;
use crate::kernels::mamba::MambaShape;

/// The keys that only this family has.
#[derive(Deserialize)]
pub(super) struct Hybrid {
    /// A letter per block: `M` Mamba-2, `*` attention, `-` feed-forward, `E` a mixture of experts.
    #[serde(rename = "hybrid_override_pattern")]
    pattern: Option<String>,
    /// The same in words, in newer directories.
    layers_block_type: Option<Vec<String>>,
    mamba_num_heads: usize,
    mamba_head_dim: usize,
    ssm_state_size: usize,
    n_groups: usize,
    conv_kernel: usize,
    #[serde(default = "yes")]
    use_conv_bias: bool,
    #[serde(default)]
    use_bias: bool,
    #[serde(default)]
    mamba_proj_bias: bool,
    #[serde(default = "relu2")]
    mlp_hidden_act: String,
    #[serde(default = "silu")]
    mamba_hidden_act: String,
    time_step_limit: Option<[Value; 2]>,
    #[serde(default)]
    num_nextn_predict_layers: usize,
}

fn yes() -> bool {
    true
}

fn relu2() -> String {
    "relu2".to_owned()
}

fn silu() -> String {
    "silu".to_owned()
}

/// Fills in the keys that other families have and this one calls otherwise or leaves out.
pub(super) fn complete(json: &mut Value) {
    let pattern = json["hybrid_override_pattern"].as_str().map(|pattern| pattern.chars().count());
    let layers = json["layers_block_type"].as_array().map(Vec::len).or(pattern);
    let copies = [
        ("num_hidden_layers", layers.map(|count| json!(count))),
        ("rms_norm_eps", json.get("layer_norm_epsilon").cloned()),
        ("head_dim", json.get("attention_head_dim").cloned()),
    ];
    for (key, value) in copies {
        if let (true, Some(value)) = (json.get(key).is_none_or(Value::is_null), value) {
            json[key] = value;
        }
    }
}

impl Hybrid {
    /// Reads the options from what a configuration holds beside the common keys; says what of them is not supported.
    pub(super) fn read(other: &Map<String, Value>) -> Result<Self, String> {
        let hybrid: Self = serde_json::from_value(Value::Object(other.clone()))
            .map_err(|error| format!("a hybrid without its options ({error})"))?;
        let shape = hybrid.mamba()?;
        let refusals = [
            (
                hybrid.use_bias || hybrid.mamba_proj_bias,
                "biases on the projections of Mamba blocks".to_owned(),
            ),
            (hybrid.mlp_hidden_act != "relu2", format!("the activation `{}`", hybrid.mlp_hidden_act)),
            (hybrid.mamba_hidden_act != "silu", format!("the activation `{}`", hybrid.mamba_hidden_act)),
            (hybrid.num_nextn_predict_layers > 0, "the prediction of several tokens".to_owned()),
            (
                shape.groups == 0 || !shape.heads.is_multiple_of(shape.groups),
                format!("{} Mamba heads in {} groups", shape.heads, shape.groups),
            ),
        ];
        let sizes = [
            ("mamba_num_heads", shape.heads, 1 << 12),
            ("mamba_head_dim", shape.dim, 1 << 10),
            ("ssm_state_size", shape.state, 1 << 10),
            ("n_groups", shape.groups, 1 << 12),
            ("conv_kernel", shape.kernel, 1 << 6),
        ];
        if let Some((key, size, most)) = sizes.into_iter().find(|&(_, size, most)| size == 0 || size > most) {
            return Err(format!("`{key}: {size}`, not 1 to {most}"));
        }
        hybrid.blocks()?;
        match refusals.into_iter().find(|(refused, _)| *refused) {
            Some((_, what)) => Err(what),
            None => Ok(hybrid),
        }
    }

    /// The blocks in order.
    pub(super) fn blocks(&self) -> Result<Vec<BlockKind>, String> {
        let kind = |name: &str| match name {
            "M" | "mamba" | "linear_attention" => Ok(BlockKind::Mamba),
            "*" | "attention" | "full_attention" => Ok(BlockKind::Attention),
            "-" | "mlp" => Ok(BlockKind::Feed),
            other => Err(format!("a block of the kind `{other}`")),
        };
        match (&self.layers_block_type, &self.pattern) {
            (Some(names), _) => names.iter().map(|name| kind(name)).collect(),
            (None, Some(pattern)) => {
                pattern.chars().map(|letter| kind(letter.encode_utf8(&mut [0; 4]))).collect()
            }
            (None, None) => Err("a hybrid without `hybrid_override_pattern`".to_owned()),
        }
    }

    /// Whether the convolutions of its Mamba blocks have biases.
    pub(super) fn has_convolution_bias(&self) -> bool {
        self.use_conv_bias
    }

    /// The shape of its Mamba blocks.
    pub(super) fn mamba(&self) -> Result<MambaShape, String> {
        let limit =
            |index: usize, default: f32| match self.time_step_limit.as_ref().map(|limits| &limits[index]) {
                None => Ok(default),
                // JSON has no infinity; transformers writes it as an object, others as the largest number.
                Some(value) if value["__float__"] == "Infinity" => Ok(f32::INFINITY),
                Some(value) => match value.as_f64() {
                    Some(number) => Ok(number as f32),
                    None => Err(format!("the time step limit `{value}`")),
                },
            };
        let limit = (limit(0, 0.0)?, limit(1, f32::INFINITY)?);
        if limit.0.is_nan() || limit.0 > limit.1 {
            return Err(format!("time steps from {} to {}", limit.0, limit.1));
        }
        Ok(MambaShape {
            heads: self.mamba_num_heads,
            dim: self.mamba_head_dim,
            groups: self.n_groups,
            state: self.ssm_state_size,
            kernel: self.conv_kernel,
            limit,
        })
    }
}
