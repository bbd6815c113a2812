//! Where the weights of a model come from: a Hugging Face directory or a GGUF file.

use std::path::Path;

use super::{Config, ModelError, Parameter, Places};
use crate::gguf::{Gguf, MODEL_FILE};
use crate::weights::{Weights, WeightsError};

/// Weights that are read one at a time, by the names that transformers gives them.
pub(crate) enum Source {
    /// Safetensors files.
    Directory(Weights),
    /// A GGUF file.
    Gguf(Gguf),
}

impl Source {
    /// Opens a model directory, whose weights may be a GGUF file, or a GGUF file alone, and says what model it is. Reads no
    /// weight.
    pub(crate) fn open(path: &Path) -> Result<(Config, Self), ModelError> {
        if path.is_file() {
            let gguf = Gguf::open(path)?;
            let config = gguf.config()?;
            config.check()?;
            return Ok((config, Self::Gguf(gguf)));
        }
        let config = Config::load(path)?;
        let file = path.join(MODEL_FILE);
        let source = match Weights::open(path) {
            Err(_) if file.is_file() => Self::Gguf(Gguf::open(&file)?),
            weights => Self::Directory(weights?),
        };
        Ok((config, source))
    }

    /// Whether every weight is there in its shape, and no other: so that nothing is allocated for a description that the file
    /// does not bear out, and nothing is computed without a weight that the model was trained with.
    pub(crate) fn check(&self, places: &Places) -> Result<(), ModelError> {
        match self {
            Self::Gguf(gguf) => gguf.check(places)?,
            Self::Directory(weights) => check_directory(weights, places)?,
        }
        Ok(())
    }

    /// A weight's elements in row-major order, widened to 32 bits.
    pub(crate) fn read(&self, parameter: &Parameter) -> Result<Vec<f32>, ModelError> {
        Ok(match self {
            Self::Directory(weights) => weights.floats(&parameter.name, &parameter.shape)?,
            Self::Gguf(gguf) => gguf.floats(parameter)?,
        })
    }

    /// The digest of all tensors: what they are, not in which files they lie.
    pub(crate) fn digest(&self) -> blake3::Hash {
        match self {
            Self::Directory(weights) => weights.digest(),
            Self::Gguf(gguf) => gguf.digest(),
        }
    }
}

fn check_directory(weights: &Weights, places: &Places) -> Result<(), WeightsError> {
    for parameter in &places.parameters {
        weights.check(&parameter.name, &parameter.shape)?;
    }
    let mut known: Vec<&str> = places.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    known.sort_unstable();
    for name in weights.names().filter(|name| known.binary_search(name).is_err()) {
        // Derived numbers that some directories store; and the head of a tied model, if it is indeed the embedding.
        let derived = name.ends_with(".rotary_emb.inv_freq");
        let tied = name == "lm_head.weight" && weights.are_equal(name, &places.parameters[0].name);
        if !derived && !tied {
            return Err(weights.unexpected(name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;
    use crate::model::{init, verify};
    use crate::weights::{Saved, WEIGHTS_FILE, WEIGHTS_INDEX_FILE, save};

    fn shape() -> Config {
        let mut config = Config::small(50, 32, 2, 16, 64);
        config.architectures = vec!["Qwen2ForCausalLM".to_owned()];
        config
    }

    /// The fault of a model that was good before `damage`.
    fn fault(damage: impl Fn(&Path)) -> String {
        let dir = tempfile::tempdir().unwrap();
        init(&shape(), 1, dir.path()).unwrap();
        verify(dir.path()).unwrap();
        damage(dir.path());
        verify(dir.path()).unwrap_err().to_string()
    }

    /// Writes the weights again, changed.
    fn rewrite(dir: &Path, change: impl Fn(&mut BTreeMap<String, (Vec<usize>, Vec<f32>)>)) {
        let weights = Weights::open(dir).unwrap();
        let read = |parameter: &Parameter| {
            let elements = weights.floats(&parameter.name, &parameter.shape).unwrap();
            (parameter.name.clone(), (parameter.shape.clone(), elements))
        };
        let mut tensors = Places::new(&shape()).parameters.iter().map(read).collect();
        drop(weights);
        change(&mut tensors);
        let saved = tensors
            .iter()
            .map(|(name, (shape, elements))| (name.clone(), Saved { shape: shape.clone(), elements }));
        save(dir, saved.collect()).unwrap();
    }

    #[test]
    fn a_tensor_that_is_not_as_described_is_named_with_its_file() {
        let missing = fault(|dir| {
            rewrite(dir, |tensors| drop(tensors.remove("model.layers.1.self_attn.k_proj.bias")));
        });
        assert!(
            missing.starts_with("there is no tensor `model.layers.1.self_attn.k_proj.bias` in `"),
            "{missing}"
        );
        let shape = fault(|dir| {
            rewrite(dir, |tensors| tensors.get_mut("model.norm.weight").unwrap().0 = vec![16, 2]);
        });
        assert!(shape.contains("`model.norm.weight`") && shape.contains(WEIGHTS_FILE), "{shape}");
        assert!(shape.ends_with("has shape [16, 2]; the configuration wants [32]"), "{shape}");
        for value in [f32::NAN, f32::NEG_INFINITY] {
            let bad = fault(|dir| {
                rewrite(dir, |tensors| {
                    tensors.get_mut("model.layers.0.mlp.up_proj.weight").unwrap().1[77] = value;
                });
            });
            assert!(
                bad.starts_with("element 77 of tensor `model.layers.0.mlp.up_proj.weight` in `"),
                "{bad}"
            );
            assert!(bad.contains(WEIGHTS_FILE) && bad.ends_with(&format!(" is {value}")), "{bad}");
        }
        let more = fault(|dir| {
            let tensor = (vec![32], vec![1.0; 32]);
            rewrite(dir, |tensors| {
                drop(tensors.insert("model.layers.0.self_attn.q_norm.weight".to_owned(), tensor.clone()));
            });
        });
        assert!(
            more.contains("`model.layers.0.self_attn.q_norm.weight`")
                && more.contains("is none of the model"),
            "{more}"
        );
    }

    #[test]
    fn a_head_beside_a_tied_embedding_must_be_the_embedding() {
        let dir = tempfile::tempdir().unwrap();
        init(&shape(), 1, dir.path()).unwrap();
        let copy = |tensors: &mut BTreeMap<String, (Vec<usize>, Vec<f32>)>| {
            let head = tensors["model.embed_tokens.weight"].clone();
            tensors.insert("lm_head.weight".to_owned(), head);
        };
        rewrite(dir.path(), copy);
        verify(dir.path()).unwrap();
        let other = fault(|dir| {
            rewrite(dir, |tensors| {
                copy(tensors);
                tensors.get_mut("lm_head.weight").unwrap().1[0] += 1.0;
            });
        });
        assert!(other.starts_with("tensor `lm_head.weight` in `"), "{other}");
    }

    #[test]
    fn files_that_are_cut_off_or_lie_about_their_length_are_refused() {
        let weights = |dir: &Path| dir.join(WEIGHTS_FILE);
        for keep in [0, 4, 8, 100] {
            let cut = fault(|dir| {
                let bytes = fs::read(weights(dir)).unwrap();
                fs::write(weights(dir), &bytes[..keep]).unwrap();
            });
            assert!(cut.contains(WEIGHTS_FILE), "{cut}");
        }
        for length in [u64::MAX, 1 << 40, 1 << 26] {
            let huge = fault(|dir| {
                let mut bytes = fs::read(weights(dir)).unwrap();
                bytes[..8].copy_from_slice(&length.to_le_bytes());
                fs::write(weights(dir), &bytes).unwrap();
            });
            assert!(huge.contains(WEIGHTS_FILE), "{huge}");
        }
        // A header whose tensor is larger than any memory, in a file of a few bytes.
        let header = r#"{"model.norm.weight":{"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,8]}}"#;
        let huge = fault(|dir| {
            let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 8]].concat();
            fs::write(weights(dir), bytes).unwrap();
        });
        assert!(huge.contains(WEIGHTS_FILE), "{huge}");
    }

    #[test]
    fn a_description_is_held_against_the_file_before_memory_is_taken() {
        let describe = |key: &'static str, value: serde_json::Value| {
            fault(|dir| {
                let path = dir.join("config.json");
                let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
                json[key] = value.clone();
                fs::write(&path, json.to_string()).unwrap();
            })
        };
        // 2 TiB of embedding, if it were believed.
        let wide = describe("vocab_size", (1_u64 << 24).into());
        assert!(wide.contains("`model.embed_tokens.weight`"), "{wide}");
        let deep = describe("num_hidden_layers", 1000.into());
        assert!(deep.contains("`model.layers.2."), "{deep}");
        let endless = describe("hidden_size", u64::MAX.into());
        assert!(endless.contains("`hidden_size: 18446744073709551615`"), "{endless}");
        let unknown = describe("architectures", serde_json::json!(["RwkvForCausalLM"]));
        assert!(
            unknown.contains("the architecture `RwkvForCausalLM`; known are LlamaForCausalLM"),
            "{unknown}"
        );
        let wordy = describe("hidden_size", "many".into());
        assert!(wordy.contains("config.json") && wordy.contains("invalid type"), "{wordy}");
    }

    #[test]
    fn an_index_must_name_files_that_are_there() {
        let absent = fault(|dir| {
            fs::remove_file(dir.join(WEIGHTS_FILE)).unwrap();
            let index = r#"{"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}"#;
            fs::write(dir.join(WEIGHTS_INDEX_FILE), index).unwrap();
        });
        assert!(absent.contains("model-00001-of-00002.safetensors"), "{absent}");
    }
}
