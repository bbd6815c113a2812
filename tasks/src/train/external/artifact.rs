//! The model that a trainer has written: checked against the base, and made an artifact with the base's tokenizer.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use dag_engine::task::TaskError;
use dag_lm::tokenizer::Tokenizer;
use dag_lm::weights::{WEIGHTS_FILE, WEIGHTS_INDEX_FILE, Weights};
use serde_json::{Map, Value};

/// Numbers of a configuration that a training does not change.
const FIXED: [&str; 8] = [
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "tie_word_embeddings",
];

/// What is known of a model that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// The type of its numbers, as `torch_dtype` has it.
    pub(super) dtype: &'static str,
    /// How many there are.
    pub(super) parameters: u64,
}

/// Whether a base can be handed to a trainer: a directory with safetensors.
pub(super) fn check_base(base: &Path) -> Result<(), TaskError> {
    match Weights::open(base) {
        Ok(_) => Ok(()),
        Err(_) if base.join(dag_lm::gguf::MODEL_FILE).is_file() => Err(TaskError::Missing {
            what: "the base is a GGUF file, which trainers do not read".into(),
            help: "take it with `dequantise: true`, or from a directory with safetensors".into(),
        }),
        Err(error) => {
            Err(TaskError::failed(format!("the base has no weights that a trainer could read: {error}")))
        }
    }
}

/// Takes the model in `from`, which must be the base with other numbers, to `to`.
///
/// Weights are the trainer's. Configuration and tokenizer are the base's own, since trainers write them anew in the form of
/// their library's version; what they wrote is held against it.
pub(super) fn take(from: &Path, base: &Path, tokenizer: &Tokenizer, to: &Path) -> Result<Facts, TaskError> {
    let wrong = |what: String| {
        TaskError::failed(format!("the trainer ended well, and the model it wrote cannot be used: {what}"))
    };
    if !from.is_dir() {
        return Err(wrong(format!("there is no folder `{}`", from.display())));
    }
    let written = read_config(&from.join("config.json")).map_err(wrong)?;
    let mut config = read_config(&base.join("config.json")).map_err(TaskError::failed)?;
    for name in FIXED {
        if let (Some(before), Some(after)) = (config.get(name), written.get(name))
            && before != after
        {
            return Err(wrong(format!(
                "`{name}` in its `config.json` is {after}, and {before} in the base's"
            )));
        }
    }
    let facts = check_weights(from, base).map_err(wrong)?;
    fs::create_dir_all(to).map_err(|error| TaskError::io(to, error))?;
    for entry in fs::read_dir(from).map_err(|error| TaskError::io(from, error))? {
        let path = entry.map_err(|error| TaskError::io(from, error))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if name == WEIGHTS_INDEX_FILE || name.ends_with(".safetensors") {
            move_file(&path, &to.join(name))?;
        }
    }
    // A field that newer libraries write under a shorter name.
    for name in ["torch_dtype", "dtype"] {
        if config.contains_key(name) || name == "torch_dtype" {
            config.insert(name.to_owned(), facts.dtype.into());
        }
    }
    let text = serde_json::to_string_pretty(&config).map_err(|error| TaskError::failed(error.to_string()))?;
    let path = to.join("config.json");
    fs::write(&path, text + "\n").map_err(|error| TaskError::io(&path, error))?;
    let generation = base.join("generation_config.json");
    if generation.is_file() {
        let copy = to.join("generation_config.json");
        let bytes = fs::read(&generation).map_err(|error| TaskError::io(&generation, error))?;
        fs::write(&copy, bytes).map_err(|error| TaskError::io(&copy, error))?;
    }
    tokenizer.save(to).map_err(|error| TaskError::failed(error.to_string()))?;
    Ok(facts)
}

fn read_config(path: &Path) -> Result<Map<String, Value>, String> {
    let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Every tensor of the base, in its shape; all in one type of number.
fn check_weights(from: &Path, base: &Path) -> Result<Facts, String> {
    if from.join(WEIGHTS_FILE).is_file() && from.join(WEIGHTS_INDEX_FILE).is_file() {
        return Err(format!("it has both `{WEIGHTS_FILE}` and `{WEIGHTS_INDEX_FILE}`"));
    }
    let open = |folder: &Path| Weights::open(folder).map_err(|error| error.to_string());
    let (after, before) = (open(from)?, open(base)?);
    after.check_index().map_err(|error| error.to_string())?;
    // A head that is the embedding may be stored or not.
    let is_head = |name: &str| name == "lm_head.weight";
    let mut parameters = 0;
    for (name, shape) in before.shapes() {
        match after.shape(name) {
            None if is_head(name) || name.ends_with(".rotary_emb.inv_freq") => {}
            None => return Err(format!("tensor `{name}` is missing")),
            Some(found) if found != shape => {
                return Err(format!("tensor `{name}` has shape {found:?}, and {shape:?} in the base"));
            }
            Some(_) => parameters += shape.iter().map(|extent| *extent as u64).product::<u64>(),
        }
    }
    if let Some((name, _)) = after.shapes().find(|(name, _)| before.shape(name).is_none() && !is_head(name)) {
        return Err(format!("tensor `{name}` is none of the base's"));
    }
    let dtypes: BTreeSet<&str> = after.element_types().collect();
    match dtypes.into_iter().collect::<Vec<_>>().as_slice() {
        ["F32"] => Ok(Facts { dtype: "float32", parameters }),
        ["BF16"] => Ok(Facts { dtype: "bfloat16", parameters }),
        ["F16"] => Ok(Facts { dtype: "float16", parameters }),
        other => {
            Err(format!("its numbers are {}, and one of F32, BF16 and F16 is expected", other.join(" and ")))
        }
    }
}

/// Moves a file, by copying it where the two folders are on different disks.
fn move_file(from: &Path, to: &Path) -> Result<(), TaskError> {
    if fs::rename(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to).map(drop).map_err(|error| TaskError::io(to, error))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::ModelTask;
    use dag_engine::task::{Task, TaskCx};

    /// A base, and the same as a trainer's model, changed by `damage`; what is said of it.
    fn taken(damage: impl Fn(&Path)) -> Result<Facts, String> {
        let dir = tempfile::tempdir().unwrap();
        let mut cx = TaskCx::for_test(&dir.path().join("base")).build().unwrap();
        let model = json!({
            "architecture": { "hidden": 32, "layers": 1, "head_dim": 16, "max_positions": 64 },
            "tokenizer": { "kind": "characters" },
        });
        ModelTask::run(&serde_json::from_value(model).unwrap(), &mut cx).unwrap();
        let base = cx.output("model");
        let from = dir.path().join("from");
        fs::create_dir(&from).unwrap();
        for entry in fs::read_dir(&base).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), from.join(entry.file_name())).unwrap();
        }
        damage(&from);
        let to = dir.path().join("to");
        let tokenizer = Tokenizer::load(&base).unwrap();
        let facts = take(&from, &base, &tokenizer, &to).map_err(|error| error.to_string())?;
        assert_eq!(Tokenizer::load(&to).unwrap().digest(), tokenizer.digest());
        dag_lm::model::verify(&to).unwrap();
        Ok(facts)
    }

    /// Splits the one file of weights into two shards and an index.
    fn shard(from: &Path) {
        let bytes = fs::read(from.join(WEIGHTS_FILE)).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let mut names: Vec<&String> = header.keys().filter(|name| *name != "__metadata__").collect();
        names.sort_unstable();
        let mut map = Map::new();
        for (number, part) in names.chunks(names.len().div_ceil(2)).enumerate() {
            let file = format!("model-{number}.safetensors");
            let (mut own, mut data) = (Map::new(), Vec::<u8>::new());
            for name in part {
                let mut tensor = header[*name].clone();
                let bounds =
                    [0, 1].map(|end| tensor["data_offsets"][end].as_u64().unwrap() as usize + 8 + length);
                let start = data.len();
                data.extend(&bytes[bounds[0]..bounds[1]]);
                tensor["data_offsets"] = json!([start, data.len()]);
                own.insert((*name).clone(), tensor);
                map.insert((*name).clone(), file.clone().into());
            }
            let head = Value::Object(own).to_string();
            let mut whole = (head.len() as u64).to_le_bytes().to_vec();
            whole.extend(head.as_bytes());
            whole.extend(data);
            fs::write(from.join(file), whole).unwrap();
        }
        fs::remove_file(from.join(WEIGHTS_FILE)).unwrap();
        fs::write(from.join(WEIGHTS_INDEX_FILE), json!({ "weight_map": map }).to_string()).unwrap();
    }

    fn edit(path: &Path, change: impl Fn(&mut Value)) {
        let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        change(&mut value);
        fs::write(path, value.to_string()).unwrap();
    }

    #[test]
    fn a_whole_model_is_taken_in_one_file_or_in_shards() {
        let one = taken(|_| ()).unwrap();
        assert_eq!(one.dtype, "float32");
        assert!(one.parameters > 10_000);
        assert_eq!(taken(shard).unwrap(), one);
    }

    #[test]
    fn what_is_torn_or_another_model_is_named() {
        let fault = |damage: &dyn Fn(&Path)| taken(damage).unwrap_err();
        let gone = |name: &'static str| fault(&move |from: &Path| fs::remove_file(from.join(name)).unwrap());
        assert!(gone("config.json").contains("config.json"));
        assert!(gone(WEIGHTS_FILE).contains("holds neither"));
        let torn = fault(&|from| {
            let file = fs::OpenOptions::new().write(true).open(from.join(WEIGHTS_FILE)).unwrap();
            file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        });
        assert!(torn.contains("is not a safetensors file"), "{torn}");
        let lost = fault(&|from| {
            shard(from);
            fs::remove_file(from.join("model-1.safetensors")).unwrap();
        });
        assert!(lost.contains("model-1.safetensors"), "{lost}");
        let unlisted = fault(&|from| {
            shard(from);
            edit(&from.join(WEIGHTS_INDEX_FILE), |index| {
                index["weight_map"]["model.embed_tokens.weight"] = "model-1.safetensors".into();
            });
        });
        assert!(unlisted.contains("model.embed_tokens.weight"), "{unlisted}");
        let other = fault(&|from| edit(&from.join("config.json"), |config| config["vocab_size"] = 7.into()));
        assert!(other.contains("`vocab_size` in its `config.json` is 7"), "{other}");
        let renamed = fault(&|from| {
            let path = from.join(WEIGHTS_FILE);
            let bytes = fs::read(&path).unwrap();
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let head = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
            let mut whole = bytes[..8].to_vec();
            whole.extend(head.replace("model.norm.weight", "model.mean.weight").into_bytes());
            whole.extend(&bytes[8 + length..]);
            fs::write(path, whole).unwrap();
        });
        assert!(renamed.contains("tensor `model.norm.weight` is missing"), "{renamed}");
    }
}
