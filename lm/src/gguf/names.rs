//! What a GGUF file calls things, and what transformers calls them.

use serde_json::{Map, Value as Json, json};

use super::Value;
use super::header::{Header, Metadata};
use crate::model::config::{Config, RopeParameters, Scaling};

/// The tensor that divides the rotary frequencies of Llama 3.1 and later, one number per pair of a head's elements.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The architectures that are known, and the class that each is in transformers.
const ARCHITECTURES: [(&str, &str); 3] =
    [("llama", "LlamaForCausalLM"), ("qwen2", "Qwen2ForCausalLM"), ("qwen3", "Qwen3ForCausalLM")];

/// The parts of a name inside a layer, there and here.
const PARTS: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// What a file calls the weight that transformers calls `name`.
pub(super) fn stored(name: &str) -> String {
    match name {
        "model.embed_tokens.weight" => return "token_embd.weight".to_owned(),
        "model.norm.weight" => return "output_norm.weight".to_owned(),
        "lm_head.weight" => return "output.weight".to_owned(),
        _ => {}
    }
    let inside = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    let named = inside.and_then(|(layer, rest)| {
        let (part, kind) = rest.rsplit_once('.')?;
        let (_, part) = PARTS.iter().find(|(theirs, _)| *theirs == part)?;
        Some(format!("blk.{layer}.{part}.{kind}"))
    });
    named.unwrap_or_else(|| name.to_owned())
}

/// The number of heads of a projection whose rows the file holds in another order: those of queries and keys of the
/// architecture `llama`, which turns neighbouring elements of a head where transformers turns one of each half.
pub(super) fn turned_heads(header: &Header, name: &str) -> Option<usize> {
    if architecture(&header.metadata).ok()? != "llama" {
        return None;
    }
    let key = if name.contains(".q_proj.") {
        "llama.attention.head_count"
    } else if name.contains(".k_proj.") {
        if header.metadata.contains_key("llama.attention.head_count_kv") {
            "llama.attention.head_count_kv"
        } else {
            "llama.attention.head_count"
        }
    } else {
        return None;
    };
    header.metadata.get(key)?.as_unsigned().map(|heads| heads as usize)
}

/// The rows of heads, put from pairs of neighbours into halves: row `2i + half` of a head goes to `half · dim/2 + i`.
pub(super) fn paired_by_halves(bytes: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let (row, dim) = (bytes.len() / rows.max(1), rows / heads.max(1));
    let mut ordered = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact((dim * row).max(1)) {
        for half in 0..2 {
            for index in 0..dim / 2 {
                ordered.extend_from_slice(&head[(2 * index + half) * row..][..row]);
            }
        }
    }
    ordered
}

fn architecture(metadata: &Metadata) -> Result<&str, String> {
    let name = metadata.get("general.architecture").and_then(Value::as_str);
    name.ok_or_else(|| "`general.architecture` is missing".to_owned())
}

/// The metadata of one architecture, whose keys are taken one by one: one that is left over is not understood.
struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
    taken: Vec<String>,
}

impl<'a> Keys<'a> {
    fn get(&mut self, key: &str) -> Option<&'a Value> {
        let key = format!("{}.{key}", self.architecture);
        let value = self.metadata.get(&key);
        self.taken.push(key);
        value
    }

    fn number(&mut self, key: &str) -> Result<Option<f64>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_number() {
                Some(number) => Ok(Some(number)),
                None => Err(format!("`{}.{key}` is not a number", self.architecture)),
            },
        }
    }

    fn size(&mut self, key: &str) -> Result<Option<usize>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_unsigned() {
                Some(size) => Ok(Some(size as usize)),
                None => Err(format!("`{}.{key}` is not one size for all layers", self.architecture)),
            },
        }
    }

    fn needed(&mut self, key: &str) -> Result<usize, String> {
        self.size(key)?.ok_or_else(|| format!("`{}.{key}` is missing", self.architecture))
    }

    /// Refuses a key that was not taken: it may change what the model computes.
    fn finish(self) -> Result<(), String> {
        let prefix = format!("{}.", self.architecture);
        match self.metadata.keys().find(|key| key.starts_with(&prefix) && !self.taken.contains(key)) {
            Some(key) => Err(format!("`{key}` is not understood")),
            None => Ok(()),
        }
    }
}

/// The configuration that the metadata and the shapes of the tensors describe.
pub(super) fn config(header: &Header) -> Result<Config, String> {
    let metadata = &header.metadata;
    let architecture = architecture(metadata)?;
    let Some((_, class)) = ARCHITECTURES.iter().find(|(name, _)| *name == architecture) else {
        let known = ARCHITECTURES.map(|(name, _)| name).join(", ");
        return Err(format!("its architecture is `{architecture}`; known are {known}"));
    };
    let mut keys = Keys { metadata, architecture, taken: Vec::new() };
    let embedding = header.tensors.get("token_embd.weight").ok_or("`token_embd.weight` is missing")?;
    let hidden = keys.needed("embedding_length")?;
    let heads = keys.needed("attention.head_count")?;
    let dim = match (keys.size("attention.key_length")?, keys.size("attention.value_length")?) {
        (Some(key), Some(value)) if key == value => key,
        (None, None) => hidden.checked_div(heads).unwrap_or(0),
        (key, value) => return Err(format!("keys of {key:?} elements and values of {value:?}")),
    };
    if let Some(turned) = keys.size("rope.dimension_count")?.filter(|&turned| turned != dim) {
        return Err(format!("{turned} of {dim} elements of a head are turned"));
    }
    // Said for completeness by some files; what they say stands in a shape already, or is zero.
    keys.get("vocab_size");
    if keys.size("expert_count")?.is_some_and(|experts| experts > 0) {
        return Err("its feed-forward blocks are mixtures of experts".to_owned());
    }
    keys.size("expert_used_count")?;
    let (scaling, theta) = (scaling(&mut keys)?, keys.number("rope.freq_base")?.unwrap_or(10_000.0));
    let config = Config {
        architectures: vec![(*class).to_owned()],
        model_type: architecture.to_owned(),
        vocab_size: embedding.shape[0],
        hidden_size: hidden,
        intermediate_size: keys.needed("feed_forward_length")?,
        num_hidden_layers: keys.needed("block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: Some(keys.size("attention.head_count_kv")?.unwrap_or(heads)),
        head_dim: Some(dim),
        hidden_act: "silu".to_owned(),
        max_position_embeddings: keys.needed("context_length")?,
        rms_norm_eps: keys
            .number("attention.layer_norm_rms_epsilon")?
            .ok_or("the epsilon of its normalisations is missing")?,
        rope_theta: Some(theta),
        rope_parameters: None,
        rope_scaling: match header.tensors.get(ROPE_FACTORS) {
            Some(_) if scaling.is_some() => return Err("its frequencies are scaled twice".to_owned()),
            Some(_) => None,
            None => scaling,
        },
        sliding_window: None,
        use_sliding_window: false,
        tie_word_embeddings: !header.tensors.contains_key("output.weight"),
        attention_bias: false,
        mlp_bias: false,
        bos_token_id: token(metadata, "tokenizer.ggml.bos_token_id"),
        eos_token_id: token(metadata, "tokenizer.ggml.eos_token_id"),
        other: Map::new(),
    };
    keys.finish()?;
    Ok(config)
}

fn token(metadata: &Metadata, key: &str) -> Option<Json> {
    metadata.get(key).and_then(Value::as_unsigned).map(|id| json!(id))
}

/// The scaling of the rotary frequencies that the metadata asks for.
fn scaling(keys: &mut Keys<'_>) -> Result<Option<RopeParameters>, String> {
    let kind = keys.get("rope.scaling.type").and_then(Value::as_str).unwrap_or("none");
    let factor = keys.number("rope.scaling.factor")?;
    let older = keys.number("rope.scale_linear")?;
    match (kind, factor.or(older)) {
        ("none", None) => Ok(None),
        ("none" | "linear", Some(factor)) => Ok(Some(RopeParameters {
            rope_type: Some("linear".to_owned()),
            factor: Some(factor),
            ..RopeParameters::default()
        })),
        (kind, _) => Err(format!("its rotary frequencies are scaled by `{kind}`")),
    }
}

/// The scaling of Llama 3.1 and later that gives these factors for the frequencies.
///
/// The file holds no other trace of it. Every model of the family has the same bounds and differs in the factor alone, which
/// is the largest; factors that do not follow from it are refused.
pub(super) fn llama3_scaling(factors: &[f32], theta: f64) -> Result<RopeParameters, String> {
    let factor = factors.iter().copied().fold(1.0, f32::max);
    let parameters = RopeParameters {
        rope_type: Some("llama3".to_owned()),
        factor: Some(f64::from(factor)),
        low_freq_factor: Some(1.0),
        high_freq_factor: Some(4.0),
        original_max_position_embeddings: Some(8192),
        ..RopeParameters::default()
    };
    let dim = 2 * factors.len();
    let scaled = parameters.scaling()?.frequencies(theta, dim);
    let plain = Scaling::None.frequencies(theta, dim);
    let fits = |((scaled, plain), factor): ((&f32, &f32), &f32)| {
        (f64::from(plain / scaled) / f64::from(*factor) - 1.0).abs() < 1e-4
    };
    if scaled.iter().zip(&plain).zip(factors).all(fits) {
        Ok(parameters)
    } else {
        Err(format!("`{ROPE_FACTORS}` are not the factors of Llama 3"))
    }
}
