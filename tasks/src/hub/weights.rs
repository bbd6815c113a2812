//! Which files of a repository are a model: its configuration, tokenizer and chat template, and one set of weights.

use serde::Deserialize;

/// Says in which file each tensor is.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// The weights of a model in one file.
const SINGLE: &str = "model.safetensors";
/// Files beside the weights, where they are there.
const BESIDE: [&str; 11] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tekken.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
];

/// Of the index, what is read.
#[derive(Deserialize)]
struct Index {
    weight_map: std::collections::BTreeMap<String, String>,
}

/// The files to fetch among `names`; `index` is the text of [`INDEX`] where there is one.
///
/// A repository often holds the same weights twice (`consolidated.safetensors`, `pytorch_model.bin`): those that the index
/// names are enough.
pub(super) fn of_model(names: &[String], index: Option<&str>) -> Result<Vec<String>, String> {
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let mut chosen: Vec<String> = BESIDE.into_iter().filter(|name| has(name)).map(str::to_owned).collect();
    if let Some(index) = index {
        let index: Index =
            serde_json::from_str(index).map_err(|error| format!("`{INDEX}` is no index: {error}"))?;
        let mut files: Vec<String> = index.weight_map.into_values().collect();
        files.sort_unstable();
        files.dedup();
        if let Some(absent) = files.iter().find(|file| !has(file)) {
            return Err(format!("`{INDEX}` names `{absent}`, which is not there"));
        }
        chosen.push(INDEX.to_owned());
        chosen.extend(files);
    } else if has(SINGLE) {
        chosen.push(SINGLE.to_owned());
    } else {
        let at_root = |ending: &str| -> Vec<String> {
            names.iter().filter(|name| name.ends_with(ending) && !name.contains('/')).cloned().collect()
        };
        let (safetensors, gguf) = (at_root(".safetensors"), at_root(".gguf"));
        match (safetensors.as_slice(), gguf.as_slice()) {
            ([only], _) => chosen.push(only.clone()),
            // A GGUF file has all in itself.
            ([], [only]) => return Ok(vec![only.clone()]),
            ([], []) => return Err("it holds no weights (`*.safetensors` or `*.gguf`)".to_owned()),
            ([], several) => {
                return Err(format!(
                    "it holds {} GGUF files: name one as `hf://OWNER/NAME/{}`",
                    several.len(),
                    several[0]
                ));
            }
            (several, _) => {
                return Err(format!("it holds {} files of weights and no `{INDEX}`", several.len()));
            }
        }
    }
    if !has("config.json") {
        return Err("there is no `config.json`; this is no model".to_owned());
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str], index: Option<&str>) -> Result<Vec<String>, String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        of_model(&names, index)
    }

    #[test]
    fn weights_are_fetched_once() {
        let index = r#"{ "weight_map": { "a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors" } }"#;
        let names = [
            "README.md",
            "config.json",
            "consolidated.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            INDEX,
            "tekken.json",
        ];
        assert_eq!(
            of(&names, Some(index)).unwrap(),
            ["config.json", "tekken.json", INDEX, names[3], names[4]]
        );
        assert!(of(&names[..3], Some(index)).unwrap_err().contains("model-00001-of-00002"));
        assert_eq!(of(&["config.json", SINGLE, "x.gguf"], None).unwrap(), ["config.json", SINGLE]);
        assert_eq!(of(&["a.Q4_0.gguf"], None).unwrap(), ["a.Q4_0.gguf"]);
        assert!(of(&["a.gguf", "b.gguf"], None).unwrap_err().contains("hf://OWNER/NAME/a.gguf"));
        assert!(of(&["README.md"], None).is_err() && of(&[SINGLE], None).is_err());
    }
}
