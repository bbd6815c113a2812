//! `model`: a base model, made here from an architecture and a seed or taken from a directory.

use std::fs;
use std::path::{Path, PathBuf};

use dag_engine::task::{
    ArtifactType, Environment, Fault, FileKind, FileRef, Missing, NoRun, Ports, Task, TaskCx, TaskError,
};
use dag_lm::model::{self, Config};
use dag_lm::tokenizer::{Specials, Tokenizer};
use dag_lm::weights::Weights;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::records::draw;

/// The scheme of a model on the Hugging Face hub.
const HUB: &str = "hf://";

/// The params of `model`: either `path`, or `architecture` and `tokenizer`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// A model directory in Hugging Face's layout, a GGUF file (`….gguf`), whose weights become 32-bit numbers, or a model on
    /// the hub (`hf://mistralai/Mistral-Nemo-Base-2407`).
    #[serde(default)]
    pub path: Option<String>,
    /// Revision of a model on the hub.
    #[serde(default)]
    pub revision: Option<String>,
    /// The shape of a model that is made here, with random weights.
    #[serde(default)]
    pub architecture: Option<Architecture>,
    /// The tokenizer of a model that is made here.
    #[serde(default)]
    pub tokenizer: Option<TokenizerSpec>,
    /// A file with a chat template, instead of the model's own or the built-in one.
    #[serde(default)]
    pub chat_template: Option<String>,
    /// Another number makes other weights.
    #[serde(default)]
    pub seed: u64,
}

/// The shape of a decoder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// The family.
    #[serde(default)]
    pub family: Family,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Width of a head.
    #[serde(default = "head_dim")]
    pub head_dim: usize,
    /// Heads that ask; the width divided by that of a head if it is left out.
    #[serde(default)]
    pub heads: Option<usize>,
    /// Heads that are asked; as many if it is left out.
    #[serde(default)]
    pub kv_heads: Option<usize>,
    /// Width of the feed-forward part; about 8/3 of the residual stream if it is left out.
    #[serde(default)]
    pub intermediate: Option<usize>,
    /// Longest sequence.
    #[serde(default = "positions")]
    pub max_positions: usize,
}

fn head_dim() -> usize {
    32
}
fn positions() -> usize {
    1024
}

/// The families that can be made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Mistral: grouped attention, rotary positions, gated feed-forward, no bias.
    #[default]
    Mistral,
}

/// A tokenizer that is made here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizerSpec {
    /// What a token is.
    pub kind: TokenizerKind,
    /// The characters it knows, for `kind: characters`; printable ASCII and the line break if it is left out.
    #[serde(default)]
    pub alphabet: Option<String>,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerKind {
    /// A character of an alphabet.
    Characters,
    /// A byte, so that every text has tokens.
    Bytes,
}

impl TokenizerSpec {
    fn make(&self, template: Option<&str>) -> Result<Tokenizer, TaskError> {
        let specials = Specials::chat();
        let tokenizer = match self.kind {
            TokenizerKind::Bytes => Tokenizer::bytes(&specials),
            TokenizerKind::Characters => {
                let ascii: String = std::iter::once('\n').chain(' '..='~').collect();
                Tokenizer::character(self.alphabet.as_deref().unwrap_or(&ascii), &specials)
            }
        };
        let tokenizer = tokenizer.map_err(|error| TaskError::failed(error.to_string()))?;
        Ok(match template {
            Some(source) => tokenizer.with_chat_template(source),
            None => tokenizer,
        })
    }
}

impl Architecture {
    fn config(&self, tokenizer: &Tokenizer) -> Config {
        let mut config = Config::small(
            tokenizer.vocab_size(),
            self.hidden,
            self.layers,
            self.head_dim,
            self.max_positions,
        );
        if let Some(heads) = self.heads {
            config.num_attention_heads = heads;
            config.num_key_value_heads = Some(heads);
        }
        if let Some(heads) = self.kv_heads {
            config.num_key_value_heads = Some(heads);
        }
        if let Some(intermediate) = self.intermediate {
            config.intermediate_size = intermediate;
        }
        config.bos_token_id = tokenizer.bos_id().map(|id| json!(id));
        config.eos_token_id = tokenizer.eos_id().map(|id| json!(id));
        config
    }
}

/// The task kind.
pub struct ModelTask;

impl Task for ModelTask {
    const KIND: &'static str = "model";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "a base model, made here or taken from a directory";
    type Params = Params;
    type Run = NoRun;

    fn ports(_: &Params) -> Ports {
        Ports::new().output("model", ArtifactType::Model)
    }

    fn check(params: &Params) -> Vec<Fault> {
        let mut faults = Vec::new();
        match (&params.path, &params.architecture, &params.tokenizer) {
            (Some(_), None, None) | (None, Some(_), Some(_)) => {}
            (None, Some(_), None) => {
                let fault = Fault::new("/architecture", "a model that is made here needs a `tokenizer` too");
                faults.push(fault.help("for example `tokenizer: { kind: bytes }`"));
            }
            _ => faults.push(Fault::new("", "a model is a `path`, or an `architecture` with a `tokenizer`")),
        }
        if let Some(Architecture { hidden, layers, head_dim, max_positions, .. }) = params.architecture {
            let sizes = [
                ("hidden", hidden),
                ("layers", layers),
                ("head_dim", head_dim),
                ("max_positions", max_positions),
            ];
            for (field, _) in sizes.into_iter().filter(|(_, size)| *size == 0) {
                faults.push(Fault::new(format!("/architecture/{field}"), "a size is at least 1"));
            }
        }
        if params.revision.is_some() && !params.is_on_hub() {
            faults.push(Fault::new("/revision", format!("this is for a path that begins with `{HUB}`")));
        }
        faults
    }

    fn files(params: &Params) -> Vec<FileRef> {
        let refer = |pointer: &str, path: &String, kind| FileRef {
            pointer: pointer.into(),
            pattern: path.trim_end_matches('/').to_owned(),
            kind,
        };
        let path = params.path.iter().filter(|_| !params.is_on_hub());
        let template = params.chat_template.iter();
        let kind = if params.is_gguf() { FileKind::File } else { FileKind::Tree };
        path.map(|path| refer("/path", path, kind))
            .chain(template.map(|path| refer("/chat_template", path, FileKind::File)))
            .collect()
    }

    fn uses_seed(params: &Params) -> bool {
        params.architecture.is_some()
    }

    fn preflight(params: &Params, _run: &NoRun, _environment: &dyn Environment) -> Vec<Missing> {
        params.missing().into_iter().collect()
    }

    fn run(params: &Params, cx: &mut TaskCx) -> Result<(), TaskError> {
        if let Some(Missing { what, help }) = params.missing() {
            return Err(TaskError::Missing { what, help });
        }
        let template = match cx.files("/chat_template").first() {
            Some(path) => Some(fs::read_to_string(path).map_err(|error| TaskError::io(path, error))?),
            None => None,
        };
        let folder = cx.output("model");
        let failed = |error: &dyn std::fmt::Display| TaskError::failed(error.to_string());
        let tokenizer = if let (Some(architecture), Some(tokenizer)) =
            (&params.architecture, &params.tokenizer)
        {
            let tokenizer = tokenizer.make(template.as_deref())?;
            let config = architecture.config(&tokenizer);
            model::init(&config, draw(cx.seed(), params.seed), &folder).map_err(|error| failed(&error))?;
            tokenizer
        } else {
            let vocabulary = match cx.files("/path") {
                [file] if params.is_gguf() => {
                    model::convert(file, &folder).map_err(|error| failed(&error))?;
                    file.clone()
                }
                files => {
                    copy_flat(files, &folder)?;
                    folder.clone()
                }
            };
            let tokenizer = Tokenizer::load(&vocabulary).map_err(|error| failed(&error))?;
            cx.metric("weights", check(&folder, &tokenizer)?);
            let Some(source) = &template else { return Ok(()) };
            tokenizer.with_chat_template(source)
        };
        tokenizer.save(&folder).map_err(|error| TaskError::failed(error.to_string()))?;
        cx.metric("vocabulary", tokenizer.vocab_size());
        Ok(())
    }
}

/// Whether a model that was taken can be computed with: its weights are all there and numbers, and every token has a row of
/// the embedding. Returns the digest of the weights.
fn check(folder: &Path, tokenizer: &Tokenizer) -> Result<String, TaskError> {
    let failed = |error: &dyn std::fmt::Display| TaskError::failed(error.to_string());
    let config = model::verify(folder).map_err(|error| failed(&error))?;
    let tokens = tokenizer.vocab_size();
    if tokens > config.vocab_size {
        let rows = config.vocab_size;
        let what =
            format!("the tokenizer has {tokens} tokens and the model rows for {rows}: it is another model's");
        return Err(TaskError::input(folder, None, what));
    }
    let weights = Weights::open(folder).map_err(|error| failed(&error))?;
    Ok(weights.digest().to_hex().to_string())
}

impl Params {
    fn is_gguf(&self) -> bool {
        self.path.as_ref().is_some_and(|path| {
            Path::new(path).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
        })
    }

    fn is_on_hub(&self) -> bool {
        self.path.as_ref().is_some_and(|path| path.starts_with(HUB))
    }

    fn missing(&self) -> Option<Missing> {
        let path = self.path.as_ref().filter(|_| self.is_on_hub())?;
        let name = &path[HUB.len()..];
        Some(Missing {
            what: format!("the model `{path}`: fetching from a hub is not built yet"),
            help: format!("download it (`hf download {name} --local-dir FOLDER`) and give `path: FOLDER`"),
        })
    }
}

/// Copies the files of a model directory; whatever else is below it (`.cache`, other formats' folders) is left.
fn copy_flat(files: &[PathBuf], folder: &Path) -> Result<(), TaskError> {
    fs::create_dir_all(folder).map_err(|error| TaskError::io(folder, error))?;
    let mut found = Vec::new();
    for path in files {
        if path.is_dir() {
            for entry in fs::read_dir(path).map_err(|error| TaskError::io(path, error))? {
                found.push(entry.map_err(|error| TaskError::io(path, error))?.path());
            }
        } else {
            found.push(path.clone());
        }
    }
    for path in found.into_iter().filter(|path| path.is_file()) {
        let Some(name) = path.file_name() else { continue };
        let to = folder.join(name);
        fs::copy(&path, &to).map_err(|error| TaskError::io(&path, error))?;
        // The copy belongs to the node, which may replace the chat template in it.
        let mut permissions = fs::metadata(&to).map_err(|error| TaskError::io(&to, error))?.permissions();
        #[expect(clippy::permissions_set_readonly_false, reason = "the file lies in a folder of our own")]
        permissions.set_readonly(false);
        fs::set_permissions(&to, permissions).map_err(|error| TaskError::io(&to, error))?;
    }
    if folder.join("config.json").is_file() {
        Ok(())
    } else {
        Err(TaskError::input(folder, None, "there is no `config.json`; this is no model directory"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn params(value: Value) -> Params {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_model_made_here_is_a_model_that_can_be_taken() {
        let dir = tempfile::tempdir().unwrap();
        let made = params(json!({
            "architecture": { "hidden": 32, "layers": 1, "head_dim": 16, "max_positions": 64 },
            "tokenizer": { "kind": "characters" },
        }));
        let mut cx = TaskCx::for_test(&dir.path().join("made")).seed(17).build().unwrap();
        ModelTask::run(&made, &mut cx).unwrap();
        let folder = cx.output("model");
        let tokenizer = Tokenizer::load(&folder).unwrap();
        assert!(Config::load(&folder).is_ok_and(|config| config.vocab_size == tokenizer.vocab_size()));

        let mut cx = TaskCx::for_test(&dir.path().join("taken")).file("/path", &folder).build().unwrap();
        ModelTask::run(&params(json!({ "path": "somewhere" })), &mut cx).unwrap();
        for name in ["config.json", "model.safetensors", "tokenizer.json"] {
            assert_eq!(
                fs::read(folder.join(name)).unwrap(),
                fs::read(cx.output("model").join(name)).unwrap()
            );
        }
    }

    #[test]
    fn a_model_with_the_tokenizer_of_another_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let made = params(json!({
            "architecture": { "hidden": 32, "layers": 1, "head_dim": 16, "max_positions": 64 },
            "tokenizer": { "kind": "characters", "alphabet": "0123456789" },
        }));
        let mut cx = TaskCx::for_test(&dir.path().join("made")).build().unwrap();
        ModelTask::run(&made, &mut cx).unwrap();
        let folder = cx.output("model");
        let take = |name: &str| {
            let mut cx = TaskCx::for_test(&dir.path().join(name)).file("/path", &folder).build().unwrap();
            ModelTask::run(&params(json!({ "path": "somewhere" })), &mut cx)?;
            Ok::<_, TaskError>(cx.metrics()["weights"].clone())
        };
        assert_eq!(take("good").unwrap(), Weights::open(&folder).unwrap().digest().to_hex().to_string());
        Tokenizer::bytes(&Specials::chat()).unwrap().save(&folder).unwrap();
        let fault = take("bad").unwrap_err().to_string();
        assert!(fault.contains("tokens and the model rows for"), "{fault}");
    }

    #[test]
    fn a_model_is_one_thing_or_the_other() {
        let faults = |value| ModelTask::check(&params(value)).len();
        assert_eq!(faults(json!({ "path": "x" })), 0);
        assert_eq!(faults(json!({})), 1);
        assert_eq!(faults(json!({ "path": "x", "tokenizer": { "kind": "bytes" } })), 1);
        assert_eq!(faults(json!({ "architecture": { "hidden": 0, "layers": 1 } })), 2);
    }

    #[test]
    fn a_model_on_the_hub_is_missing_and_says_how_to_get_it() {
        let missing = params(json!({ "path": "hf://mistralai/Mistral-Nemo-Base-2407" })).missing().unwrap();
        assert!(missing.help.contains("hf download mistralai/Mistral-Nemo-Base-2407"));
    }
}
