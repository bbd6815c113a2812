//! Where a tokenizer comes from: Hugging Face's files, or the vocabulary of another format, rewritten as those.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::configuration::Written;
use super::{FILES, TOKENIZER_FILE, TokenizerError, gguf, tekken, tiktoken};

/// Mistral's vocabulary.
const TEKKEN_FILE: &str = "tekken.json";

/// Reads the tokenizer of a model directory, or one vocabulary file. Where a directory has a `tokenizer.json`, that is the
/// vocabulary; configuration files beside a vocabulary of another format win over what it says itself.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, Vec<u8>>, TokenizerError> {
    if !path.is_dir() {
        let name = path.file_name().and_then(|name| name.to_str());
        return if name.is_some_and(is_vocabulary) {
            rewrite(path)
        } else {
            Ok([(TOKENIZER_FILE.to_owned(), read_file(path)?)].into())
        };
    }
    let mut files = BTreeMap::new();
    for name in FILES {
        let path = path.join(name);
        match fs::read(&path) {
            Ok(bytes) => drop(files.insert(name.to_owned(), bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(TokenizerError::Io { path, source }),
        }
    }
    if !files.contains_key(TOKENIZER_FILE) {
        let mut rewritten = rewrite(&vocabulary_in(path)?)?;
        rewritten.append(&mut files);
        files = rewritten;
    }
    Ok(files)
}

fn is_vocabulary(name: &str) -> bool {
    let has = |extension| Path::new(name).extension().is_some_and(|found| found == extension);
    name == TEKKEN_FILE || has("gguf") || has("tiktoken")
}

/// The one vocabulary of another format in a directory.
fn vocabulary_in(directory: &Path) -> Result<PathBuf, TokenizerError> {
    let fault = |source| TokenizerError::Io { path: directory.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(fault)? {
        let name = entry.map_err(fault)?.file_name();
        found.extend(name.to_str().filter(|name| is_vocabulary(name)).map(str::to_owned));
    }
    found.sort();
    match found.as_slice() {
        [name] => Ok(directory.join(name)),
        [] => Err(TokenizerError::NoVocabulary { directory: directory.to_owned() }),
        _ => Err(TokenizerError::SeveralVocabularies { directory: directory.to_owned(), found }),
    }
}

/// Reads a vocabulary of another format and writes it as Hugging Face's files.
fn rewrite(path: &Path) -> Result<BTreeMap<String, Vec<u8>>, TokenizerError> {
    let io = |source| TokenizerError::Io { path: path.to_owned(), source };
    let written: Result<Written, String> = match path.extension().and_then(|extension| extension.to_str()) {
        // A model's weights lie in the same file, so it is not read as a whole.
        Some("gguf") => gguf::read(&mut BufReader::new(File::open(path).map_err(io)?)),
        Some("tiktoken") => {
            let specials = path.with_file_name(tiktoken::SPECIALS_FILE);
            let specials = specials.is_file().then(|| read_file(&specials)).transpose()?;
            let encoding = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            tiktoken::read(encoding, &read_file(path)?, specials.as_deref())
        }
        _ => tekken::read(&read_file(path)?),
    };
    let written = written.map_err(|reason| TokenizerError::content(&path.to_string_lossy(), reason))?;
    Ok(written.into_files())
}

fn read_file(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    fs::read(path).map_err(|source| TokenizerError::Io { path: path.to_owned(), source })
}
