//! `model`: a base model, made here from an architecture and a seed, or taken from a directory or a hub.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dag_engine::task::{ArtifactType, Fault, FileKind, FileRef, NoRun, Ports, Task, TaskCx, TaskError};
use dag_lm::model::{self, Config, Precision};
use dag_lm::tokenizer::{Reserved, Specials, TOKENIZER_FILE, Tokenizer, TokenizerError};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::hub::{self, Address, Kind, Remote};
use crate::records::draw;

/// The params of `model`: either `path`, or `architecture` and `tokenizer`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// A model directory in Hugging Face's layout, a GGUF file (`….gguf`), or a model on the hub
    /// (`hf://mistralai/Mistral-Nemo-Base-2407`, `hf://OWNER/NAME@REVISION`, or one of its files as
    /// `hf://OWNER/NAME/….gguf`).
    #[serde(default)]
    pub path: Option<String>,
    /// Whether the weights of a GGUF file become 32-bit numbers. Else they stay as they are: responses are computed with them as
    /// they are stored, in less time and memory and less exactly; training widens them in either case. Of no effect on
    /// directories.
    #[serde(default)]
    pub dequantise: bool,
    /// Revision of a model on the hub: a branch, a tag or a commit. The commit that it is at stands in the key.
    #[serde(default, skip_serializing)]
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
    /// Special tokens that get another name, as a chat template of another model needs it: by the new name the token's id, or
    /// its present name. Ids keep their place, so weights stay what they are.
    #[serde(default)]
    pub special_tokens: BTreeMap<String, SpecialToken>,
    /// The token that ends a response, instead of the one that the tokenizer names.
    #[serde(default)]
    pub end_token: Option<String>,
    /// Another number makes other weights.
    #[serde(default)]
    pub seed: u64,
}

/// A special token of a vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SpecialToken {
    /// By its id.
    Id(u32),
    /// By its name.
    Name(String),
}

impl From<&SpecialToken> for Reserved {
    fn from(token: &SpecialToken) -> Self {
        match token {
            SpecialToken::Id(id) => Self::Id(*id),
            SpecialToken::Name(name) => Self::Token(name.clone()),
        }
    }
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
    /// The folder of the tokenizer, for `kind: files`.
    #[serde(default)]
    pub path: Option<String>,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerKind {
    /// A character of an alphabet.
    Characters,
    /// A byte, so that every text has tokens.
    Bytes,
    /// What the files of a folder say: a `tokenizer.json`, Mistral's `tekken.json`, the vocabulary in a `.gguf` file, or
    /// tiktoken's `o200k_base.tiktoken`.
    Files,
}

impl TokenizerSpec {
    /// The tokenizer; `folder` is where its files are, for those that have some.
    fn make(&self, folder: Option<&Path>) -> Result<Tokenizer, TokenizerError> {
        let specials = Specials::chat();
        match (self.kind, folder) {
            (TokenizerKind::Files, Some(folder)) => Tokenizer::load(folder),
            (TokenizerKind::Files, None) => Err(TokenizerError::Absent("path".to_owned())),
            (TokenizerKind::Bytes, _) => Tokenizer::bytes(&specials),
            (TokenizerKind::Characters, _) => {
                let ascii: String = std::iter::once('\n').chain(' '..='~').collect();
                Tokenizer::character(self.alphabet.as_deref().unwrap_or(&ascii), &specials)
            }
        }
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
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "a base model, made here or taken from a directory or a hub";
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
        if let Some(tokenizer) = &params.tokenizer {
            let from_files = tokenizer.kind == TokenizerKind::Files;
            if from_files != tokenizer.path.is_some() {
                let what = "a `path` is for `kind: files`, which needs one";
                faults.push(Fault::new("/tokenizer", what));
            }
            if tokenizer.alphabet.is_some() && tokenizer.kind != TokenizerKind::Characters {
                faults.push(Fault::new("/tokenizer/alphabet", "an alphabet is for `kind: characters`"));
            }
        }
        match params.address() {
            Some(address) => faults.extend(address.err().map(|what| Fault::new("/path", what))),
            None if params.revision.is_some() => {
                faults.push(Fault::new("/revision", "this is for a path that begins with `hf://`"));
            }
            None => {}
        }
        faults
    }

    fn files(params: &Params) -> Vec<FileRef> {
        let refer = |pointer: &str, path: &String, kind| FileRef {
            pointer: pointer.into(),
            pattern: path.trim_end_matches('/').to_owned(),
            kind,
        };
        let template = params.chat_template.iter();
        let tokenizer = params.tokenizer.iter().filter_map(|tokenizer| tokenizer.path.as_ref());
        let path = match (params.address(), &params.path) {
            (Some(Ok(address)), _) => {
                let pattern = Remote::pattern(&address);
                Some(FileRef { pointer: "/path".into(), pattern, kind: FileKind::Remote })
            }
            // One that cannot be read is a fault, and nothing is asked for it.
            (Some(Err(_)), _) | (None, None) => None,
            (None, Some(path)) if is_gguf(Path::new(path)) => Some(refer("/path", path, FileKind::File)),
            (None, Some(path)) => Some(refer("/path", path, FileKind::Tree)),
        };
        path.into_iter()
            .chain(tokenizer.map(|path| refer("/tokenizer/path", path, FileKind::Tree)))
            .chain(template.map(|path| refer("/chat_template", path, FileKind::File)))
            .collect()
    }

    fn uses_seed(params: &Params) -> bool {
        params.architecture.is_some()
    }

    fn run(params: &Params, cx: &mut TaskCx) -> Result<(), TaskError> {
        let template = match cx.files("/chat_template").first() {
            Some(path) => Some(fs::read_to_string(path).map_err(|error| TaskError::io(path, error))?),
            None => None,
        };
        let folder = cx.output("model");
        let failed = |error: &dyn std::fmt::Display| TaskError::failed(error.to_string());
        let tokenizer = if let (Some(architecture), Some(tokenizer)) =
            (&params.architecture, &params.tokenizer)
        {
            let tokenizer = tokenizer.make(cx.files("/tokenizer/path").first().map(PathBuf::as_path));
            let tokenizer =
                params.adapted(tokenizer.map_err(|error| failed(&error))?, template.as_deref())?;
            let config = architecture.config(&tokenizer);
            model::init(&config, draw(cx.seed(), params.seed), &folder).map_err(|error| failed(&error))?;
            tokenizer
        } else {
            let told = cx.files("/path").to_vec();
            let files = match told.first().and_then(|path| path.to_str()) {
                Some(address) if Address::is_meant(address) => hub::files_of_model(address, cx)?,
                _ => told,
            };
            let vocabulary = match files.as_slice() {
                [file] if is_gguf(file) => {
                    let precision = if params.dequantise { Precision::Float32 } else { Precision::AsStored };
                    model::convert(file, precision, &folder).map_err(|error| failed(&error))?;
                    file.clone()
                }
                files => {
                    copy_flat(files, &folder)?;
                    folder.clone()
                }
            };
            let tokenizer = Tokenizer::load(&vocabulary).map_err(|error| failed(&error))?;
            cx.metric("weights", check(&folder, &tokenizer)?);
            if folder.join(TOKENIZER_FILE).is_file() && !params.adapts() {
                return Ok(());
            }
            let tokenizer = params.adapted(tokenizer, template.as_deref())?;
            if let Some(id) = tokenizer.eos_id().filter(|_| params.end_token.is_some()) {
                set_end_token(&folder, id)?;
            }
            tokenizer
        };
        tokenizer.save(&folder).map_err(|error| failed(&error))?;
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
    Ok(model::digest(folder).map_err(|error| failed(&error))?.to_hex().to_string())
}

impl Params {
    /// The model on the hub that is meant, or why there is none; nothing if it is not on the hub.
    fn address(&self) -> Option<Result<Address, String>> {
        let path = self.path.as_ref().filter(|path| Address::is_meant(path))?;
        Some(Address::parse(path, Kind::Model, self.revision.as_deref()))
    }

    /// Whether the tokenizer is another than the model's own.
    fn adapts(&self) -> bool {
        self.chat_template.is_some() || self.end_token.is_some() || !self.special_tokens.is_empty()
    }

    /// A tokenizer with the names, the end token and the chat template that the params give it.
    fn adapted(&self, tokenizer: Tokenizer, template: Option<&str>) -> Result<Tokenizer, TaskError> {
        let failed =
            |pointer: &str, error: TokenizerError| TaskError::failed(format!("`{pointer}`: {error}"));
        let names = self.special_tokens.iter().map(|(name, token)| (name.clone(), token.into())).collect();
        let mut tokenizer =
            tokenizer.with_special_tokens(&names).map_err(|error| failed("special_tokens", error))?;
        if let Some(token) = &self.end_token {
            tokenizer = tokenizer.with_end_token(token).map_err(|error| failed("end_token", error))?;
        }
        Ok(match template {
            Some(source) => tokenizer.with_chat_template(source),
            None => tokenizer,
        })
    }
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
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

/// Writes another end token into the files by which other programs stop a response.
fn set_end_token(folder: &Path, id: u32) -> Result<(), TaskError> {
    for name in ["config.json", "generation_config.json"] {
        let path = folder.join(name);
        if !path.is_file() {
            continue;
        }
        let text = fs::read_to_string(&path).map_err(|error| TaskError::io(&path, error))?;
        let mut content: serde_json::Map<String, Value> =
            serde_json::from_str(&text).map_err(|error| TaskError::input(&path, None, error.to_string()))?;
        content.insert("eos_token_id".to_owned(), json!(id));
        let text =
            serde_json::to_string_pretty(&content).map_err(|error| TaskError::failed(error.to_string()))?;
        fs::write(&path, text + "\n").map_err(|error| TaskError::io(&path, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use dag_lm::weights::Weights;

    use super::*;
    use crate::hub::testing::HubServer;

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

    /// A real file, where `scripts/fetch_test_models.py` has brought it.
    #[test]
    fn a_gguf_file_becomes_a_model_directory() {
        let target = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/test-models");
        let root = std::env::var_os("DAG_TEST_MODELS").map_or_else(|| PathBuf::from(target), PathBuf::from);
        let file = root.join("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
        if !file.is_file() {
            eprintln!("skipped: no `{}`; run `python3 scripts/fetch_test_models.py`", file.display());
            return;
        }
        for (dequantise, weights) in [(true, "model.safetensors"), (false, "model.gguf")] {
            let dir = tempfile::tempdir().unwrap();
            let mut cx = TaskCx::for_test(dir.path()).file("/path", &file).build().unwrap();
            let params = params(json!({ "path": "model.gguf", "dequantise": dequantise }));
            ModelTask::run(&params, &mut cx).unwrap();
            let folder = cx.output("model");
            let config = Config::load(&folder).unwrap();
            assert_eq!((config.hidden_size, config.num_hidden_layers, config.vocab_size), (576, 30, 49_152));
            assert_eq!(Tokenizer::load(&folder).unwrap().vocab_size(), 49_152);
            assert!(cx.metrics().contains_key("weights"));
            assert!(folder.join(weights).is_file());
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
    fn special_tokens_get_other_names_and_keep_their_ids() {
        let dir = tempfile::tempdir().unwrap();
        let made = |more: Value| {
            let mut value = json!({
                "architecture": { "hidden": 32, "layers": 1, "head_dim": 16, "max_positions": 64 },
                "tokenizer": { "kind": "bytes" },
            });
            value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let mut cx = TaskCx::for_test(dir.path()).build().unwrap();
            ModelTask::run(&params(value), &mut cx)?;
            Ok::<_, TaskError>(Tokenizer::load(&cx.output("model")).unwrap())
        };
        let plain = made(json!({})).unwrap();
        let renamed = made(json!({
            "special_tokens": { "<SPECIAL_11>": "<|user|>", "<SPECIAL_12>": plain.id("<|pad|>").unwrap() },
            "end_token": "<SPECIAL_12>",
        }))
        .unwrap();
        assert_eq!(renamed.id("<SPECIAL_11>"), plain.id("<|user|>"));
        assert_eq!((renamed.id("<|user|>"), renamed.eos_id()), (None, plain.id("<|pad|>")));
        assert_ne!(renamed.digest(), plain.digest());
        let fault = made(json!({ "special_tokens": { "x": "a" } })).err().unwrap().to_string();
        assert!(fault.contains("`special_tokens`: token 104 (`a`) is part of ordinary text"), "{fault}");
        let fault = made(json!({ "end_token": "<|stop|>" })).err().unwrap().to_string();
        assert!(fault.contains("`end_token`: the vocabulary has no token `<|stop|>`"), "{fault}");
    }

    #[test]
    fn another_end_token_is_in_every_file_of_a_model_that_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let made = json!({
            "architecture": { "hidden": 32, "layers": 1, "head_dim": 16, "max_positions": 64 },
            "tokenizer": { "kind": "bytes" },
        });
        let mut cx = TaskCx::for_test(&dir.path().join("made")).build().unwrap();
        ModelTask::run(&params(made), &mut cx).unwrap();
        let taken = cx.output("model");
        fs::write(taken.join("generation_config.json"), r#"{"eos_token_id": [1, 2]}"#).unwrap();
        let mut cx = TaskCx::for_test(&dir.path().join("out")).file("/path", &taken).build().unwrap();
        ModelTask::run(&params(json!({ "path": "somewhere", "end_token": "<|pad|>" })), &mut cx).unwrap();
        let folder = cx.output("model");
        assert_eq!(Tokenizer::load(&folder).unwrap().eos(), Some("<|pad|>"));
        let read = |name| serde_json::from_slice::<Value>(&fs::read(folder.join(name)).unwrap()).unwrap();
        assert_eq!(
            (&read("config.json")["eos_token_id"], &read("config.json")["hidden_size"]),
            (&json!(0), &json!(32))
        );
        assert_eq!(read("generation_config.json"), json!({ "eos_token_id": 0 }));
    }

    #[test]
    fn a_tokenizer_may_come_from_files() {
        let dir = tempfile::tempdir().unwrap();
        Tokenizer::bytes(&Specials::chat()).unwrap().save(dir.path()).unwrap();
        let value = json!({
            "architecture": { "hidden": 32, "layers": 1, "head_dim": 16, "max_positions": 64 },
            "tokenizer": { "kind": "files", "path": "somewhere" },
        });
        assert!(ModelTask::check(&params(value.clone())).is_empty());
        let mut cx =
            TaskCx::for_test(&dir.path().join("out")).file("/tokenizer/path", dir.path()).build().unwrap();
        ModelTask::run(&params(value), &mut cx).unwrap();
        let tokenizer = Tokenizer::load(&cx.output("model")).unwrap();
        assert_eq!(tokenizer.digest(), Tokenizer::load(dir.path()).unwrap().digest());
    }

    #[test]
    fn a_model_is_one_thing_or_the_other() {
        let faults = |value| ModelTask::check(&params(value)).len();
        assert_eq!(faults(json!({ "path": "x" })), 0);
        assert_eq!(faults(json!({})), 1);
        assert_eq!(faults(json!({ "path": "x", "tokenizer": { "kind": "bytes" } })), 1);
        let shape = json!({ "hidden": 32, "layers": 1 });
        let made = |tokenizer: Value| json!({ "architecture": shape, "tokenizer": tokenizer });
        assert_eq!(faults(made(json!({ "kind": "files" }))), 1);
        assert_eq!(faults(made(json!({ "kind": "bytes", "path": "x" }))), 1);
        assert_eq!(faults(made(json!({ "kind": "bytes", "alphabet": "x" }))), 1);
        assert_eq!(faults(json!({ "architecture": { "hidden": 0, "layers": 1 } })), 2);
    }

    #[test]
    fn a_model_on_a_hub_is_the_same_as_in_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let made = params(json!({
            "architecture": { "hidden": 32, "layers": 1, "head_dim": 16, "max_positions": 64 },
            "tokenizer": { "kind": "characters" },
        }));
        let mut cx = TaskCx::for_test(&dir.path().join("made")).seed(17).build().unwrap();
        ModelTask::run(&made, &mut cx).unwrap();
        let folder = cx.output("model");
        let names = ["config.json", "model.safetensors", "tokenizer.json"];
        let files = names.map(|name| (name, fs::read(folder.join(name)).unwrap()));
        let mut pushed: Vec<(&str, &[u8])> =
            files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        pushed.push(("consolidated.safetensors", b"the same weights once more"));
        let server = HubServer::start();
        let commit = server.push("some/model", "main", &pushed);

        let hub = params(json!({ "path": "hf://some/model", "revision": "v1" }));
        assert_eq!(ModelTask::files(&hub)[0].pattern, "model hf://some/model@v1");
        let mut cx = TaskCx::for_test(&dir.path().join("fetched"))
            .env("HF_HOME", dir.path().to_str().unwrap())
            .env("HF_ENDPOINT", server.endpoint())
            .file("/path", format!("hf://some/model@{commit}"))
            .build()
            .unwrap();
        ModelTask::run(&hub, &mut cx).unwrap();
        let mut found: Vec<_> =
            fs::read_dir(cx.output("model")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        found.sort_unstable();
        assert_eq!(found, names);
        for (name, bytes) in files {
            assert_eq!(bytes, fs::read(cx.output("model").join(name)).unwrap());
        }
    }
}
