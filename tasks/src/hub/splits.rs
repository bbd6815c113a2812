//! Which files are a split of a data set: by its card, else by the usual names.
//!
//! The card is the `README.md`; its front matter may list configurations with the files of each split. Where it does not,
//! names tell: `CONFIG/SPLIT-00000-of-00002.parquet`, `data/SPLIT-….parquet`, `SPLIT.jsonl`, `CONFIG/SPLIT/0000.parquet`.

use std::collections::BTreeSet;
use std::path::Path;

use dag_engine::spec::source::Sources;
use dag_engine::spec::yaml;
use indexmap::IndexMap;
use regex::Regex;
use serde::Deserialize;

/// Files that hold rows.
const ENDINGS: [&str; 4] = ["parquet", "jsonl", "json", "csv"];
/// What may follow: text that is packed.
const PACKED: [&str; 2] = [".gz", ".zst"];
/// Folders that are no configuration.
const PLAIN_FOLDERS: [&str; 3] = ["data", "dataset", "datasets"];
/// Words that make a split of a longer name: `gsm8k-test.jsonl`.
const WORDS: [&str; 7] = ["train", "test", "validation", "valid", "val", "dev", "eval"];
/// The configuration of a data set that has but one.
const DEFAULT: &str = "default";

/// The files of each split, by configuration and split, in the order of the card or of the names.
type Splits = IndexMap<String, IndexMap<String, Vec<String>>>;

/// The files of `split` in `config` among `names`, sorted; `card` is the text of the card.
pub(super) fn choose(
    card: Option<&str>,
    names: &[String],
    config: Option<&str>,
    split: Option<&str>,
) -> Result<Vec<String>, String> {
    let front = card.and_then(front_matter).transpose()?.unwrap_or_default();
    let (splits, preferred) = match front.configs {
        Some(configs) if !configs.is_empty() => (by_card(&configs, names)?, preferred(&configs)),
        _ => (by_name(names), None),
    };
    let listed = |found: Vec<&String>| {
        let quoted: Vec<String> = found.into_iter().map(|name| format!("`{name}`")).collect();
        quoted.join(", ")
    };
    if splits.is_empty() {
        return Err(format!("it holds no file of rows ({})", ENDINGS.join(", ")));
    }
    let config = match config.or(preferred.as_deref()) {
        Some(config) => config,
        None => match splits.keys().collect::<Vec<_>>().as_slice() {
            [only] => only.as_str(),
            _ if splits.contains_key(DEFAULT) => DEFAULT,
            _ => {
                return Err(format!(
                    "it has several configurations: give `config` as one of {}",
                    listed(splits.keys().collect())
                ));
            }
        },
    };
    let Some(found) = splits.get(config) else {
        return Err(format!("it has no configuration `{config}`, but {}", listed(splits.keys().collect())));
    };
    let files = match split {
        Some(split) => found.get(split).ok_or_else(|| {
            format!(
                "its configuration `{config}` has no split `{split}`, but {}",
                listed(found.keys().collect())
            )
        })?,
        None => match found.values().collect::<Vec<_>>().as_slice() {
            [only] => *only,
            _ => {
                return Err(format!(
                    "it has several splits: give `split` as one of {}",
                    listed(found.keys().collect())
                ));
            }
        },
    };
    if files.is_empty() {
        return Err(format!("its card names files for `{config}` that are not there"));
    }
    Ok(files.clone())
}

/// Those of `names` that match a pattern of the kind of shells (`data/*.parquet`, `**/train-*`), sorted.
pub(super) fn matching(pattern: &str, names: &[String]) -> Result<Vec<String>, String> {
    let mut expression = String::from("^");
    let mut rest = pattern.trim_start_matches("./").chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '*' if rest.next_if_eq(&'*').is_some() => {
                // `**/` is any folders, none included.
                expression += if rest.next_if_eq(&'/').is_some() { "(?:.*/)?" } else { ".*" };
            }
            '*' => expression += "[^/]*",
            '?' => expression += "[^/]",
            '[' => {
                expression += "[";
                if rest.next_if_eq(&'!').is_some() {
                    expression += "^";
                }
                for c in rest.by_ref() {
                    if c == ']' {
                        break;
                    }
                    expression += &if c == '-' { "-".to_owned() } else { regex::escape(&c.to_string()) };
                }
                expression += "]";
            }
            c => expression += &regex::escape(&c.to_string()),
        }
    }
    let expression =
        Regex::new(&(expression + "$")).map_err(|error| format!("`{pattern}` is no pattern: {error}"))?;
    let mut found: Vec<String> = names.iter().filter(|name| expression.is_match(name)).cloned().collect();
    found.sort_unstable();
    Ok(found)
}

/// What is read of the front matter of a card.
#[derive(Debug, Default, Deserialize)]
struct Front {
    configs: Option<Vec<Config>>,
}

#[derive(Debug, Deserialize)]
struct Config {
    #[serde(rename = "config_name")]
    name: Option<String>,
    #[serde(default)]
    default: bool,
    data_files: Option<DataFiles>,
    data_dir: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum DataFiles {
    One(String),
    Splits(Vec<SplitFiles>),
    Several(Vec<String>),
    ByName(IndexMap<String, Patterns>),
}

#[derive(Debug, Deserialize)]
struct SplitFiles {
    split: String,
    path: Patterns,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Patterns {
    One(String),
    Several(Vec<String>),
}

impl Patterns {
    fn files(&self, folder: &str, names: &[String]) -> Result<Vec<String>, String> {
        let patterns = match self {
            Self::One(pattern) => std::slice::from_ref(pattern),
            Self::Several(patterns) => patterns,
        };
        let mut found = BTreeSet::new();
        for pattern in patterns {
            found.extend(matching(&format!("{folder}{pattern}"), names)?);
        }
        Ok(found.into_iter().collect())
    }
}

impl Config {
    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(DEFAULT)
    }
}

/// The front matter of a card, if it has any.
fn front_matter(card: &str) -> Option<Result<Front, String>> {
    let text = card.trim_start_matches('\u{feff}').trim_start().strip_prefix("---")?;
    let end = text.find("\n---")?;
    let (mut sources, mut faults) = (Sources::default(), Vec::new());
    let source = sources.add("README.md", Path::new(""), &text[..end]);
    // Read as experiments are: a card comes from elsewhere, and must not blow up.
    let tree = yaml::parse(&sources, source, &mut faults);
    let front = match (tree, faults.first()) {
        (Some(tree), None) => Front::deserialize(&tree).map_err(|error| error.to_string()),
        (_, fault) => Err(fault.map_or_else(|| "it is no YAML".to_owned(), |fault| fault.message.clone())),
    };
    Some(front.map_err(|why| format!("the front matter of its card: {why}")))
}

fn preferred(configs: &[Config]) -> Option<String> {
    configs.iter().find(|config| config.default).map(|config| config.name().to_owned())
}

fn by_card(configs: &[Config], names: &[String]) -> Result<Splits, String> {
    let mut splits = Splits::new();
    for config in configs {
        let folder = match config.data_dir.as_deref().map(|folder| folder.trim_matches('/')) {
            Some(folder) if !folder.is_empty() => format!("{folder}/"),
            _ => String::new(),
        };
        let found = splits.entry(config.name().to_owned()).or_default();
        let everything = "train".to_owned();
        match &config.data_files {
            Some(DataFiles::Splits(listed)) => {
                for files in listed {
                    found.insert(files.split.clone(), files.path.files(&folder, names)?);
                }
            }
            Some(DataFiles::ByName(listed)) => {
                for (split, patterns) in listed {
                    found.insert(split.clone(), patterns.files(&folder, names)?);
                }
            }
            Some(DataFiles::One(pattern)) => {
                found.insert(everything, Patterns::One(pattern.clone()).files(&folder, names)?);
            }
            Some(DataFiles::Several(patterns)) => {
                found.insert(everything, Patterns::Several(patterns.clone()).files(&folder, names)?);
            }
            None => {
                let inside: Vec<String> =
                    names.iter().filter(|name| name.starts_with(&folder)).cloned().collect();
                for (split, files) in by_name(&inside).into_values().flatten() {
                    found.entry(split).or_default().extend(files);
                }
            }
        }
    }
    Ok(splits)
}

fn by_name(names: &[String]) -> Splits {
    let mut splits = Splits::new();
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_unstable();
    for name in sorted {
        let unpacked = PACKED.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
        let path = Path::new(unpacked);
        let is_hidden = name.split('/').any(|part| part.starts_with(['.', '_']));
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if is_hidden || !ENDINGS.contains(&ending) || name == "dataset_infos.json" {
            continue;
        }
        let mut folders: Vec<&str> = unpacked.split('/').collect();
        let file = folders.pop().unwrap_or_default();
        let stem = file.strip_suffix(ending).unwrap_or(file).trim_end_matches('.');
        let split = match without_shard(stem) {
            // The name is a number: the folder is the split.
            "" | "part" => folders.pop().unwrap_or("train"),
            stem => stem,
        };
        folders.retain(|folder| !PLAIN_FOLDERS.contains(folder));
        let config = if folders.is_empty() { DEFAULT.to_owned() } else { folders.join("/") };
        splits.entry(config).or_default().entry(split_word(split).to_owned()).or_default().push(name.clone());
    }
    splits
}

/// `train-00000-of-00002` as `train`: the stem without what numbers the parts of a split.
fn without_shard(stem: &str) -> &str {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let mut stem = stem;
    if let Some((rest, count)) = stem.rsplit_once("-of-")
        && is_number(count.split('-').next().unwrap_or_default())
    {
        stem = rest;
    }
    if is_number(stem) {
        return "";
    }
    match stem.rsplit_once(['-', '_', '.']) {
        // Two digits may be a year or a version: only padded numbers number parts.
        Some((rest, number)) if is_number(number) && number.len() >= 4 && number.starts_with('0') => rest,
        _ => stem,
    }
}

/// The word for a split in a longer name, set off from the rest; else the name.
fn split_word(name: &str) -> &str {
    let mut parts = name.split(|c: char| !c.is_ascii_alphanumeric());
    parts.find(|part| WORDS.contains(part)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_card_names_the_files() {
        let card = "---\nlicense: mit\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/train-*\n  - \
                    split: test\n    path: main/test-*\n- config_name: socratic\n  data_files:\n  - split: test\n    path: \
                    [socratic/test-*]\n---\n# Grade school\n";
        let files = names(&[
            "README.md",
            "main/test-00001-of-00002.parquet",
            "main/test-00000-of-00002.parquet",
            "main/train-00000-of-00001.parquet",
            "socratic/test-00000-of-00001.parquet",
        ]);
        assert_eq!(
            choose(Some(card), &files, Some("main"), Some("test")).unwrap(),
            ["main/test-00000-of-00002.parquet", "main/test-00001-of-00002.parquet"]
        );
        assert_eq!(choose(Some(card), &files, Some("socratic"), None).unwrap(), files[4..]);
        let error = |config, split| choose(Some(card), &files, config, split).unwrap_err();
        assert!(error(None, None).ends_with("`main`, `socratic`"));
        assert!(error(Some("other"), None).ends_with("`main`, `socratic`"));
        assert!(error(Some("main"), Some("dev")).ends_with("has no split `dev`, but `train`, `test`"));
        assert!(error(Some("main"), None).ends_with("`train`, `test`"));
        assert!(choose(Some("---\nconfigs: 3\n---\n"), &files, None, None).is_err());
    }

    #[test]
    fn without_a_card_names_tell() {
        for (files, config, split, chosen) in [
            (&["test.jsonl", "README.md", "dataset_infos.json"][..], None, Some("test"), 0),
            (
                &["data/math-00000-of-00001.parquet", "data/code-00000-of-00001.parquet"],
                None,
                Some("math"),
                0,
            ),
            (&["a/test-00000-of-00001.parquet", "b/test-00000-of-00001.parquet"], Some("b"), None, 1),
            (&["main/train/0000.parquet", "main/test/0000.parquet"], Some("main"), Some("test"), 1),
            (&["gsm8k_test.jsonl", "gsm8k_train.jsonl"], None, Some("train"), 1),
            (&["aime-2024.jsonl"], None, Some("aime-2024"), 0),
            (&["test.jsonl.zst", "train.jsonl.gz"], None, Some("train"), 1),
        ] {
            let files = names(files);
            assert_eq!(
                choose(Some("# no front matter"), &files, config, split),
                Ok(vec![files[chosen].clone()])
            );
        }
        assert!(choose(None, &names(&["model.safetensors"]), None, None).is_err());
    }

    #[test]
    fn patterns_are_those_of_shells() {
        let files = names(&["a.parquet", "data/a.parquet", "data/b/c.parquet", "data/x[1].csv"]);
        let found = |pattern| matching(pattern, &files).unwrap();
        assert_eq!(found("data/*.parquet"), ["data/a.parquet"]);
        assert_eq!(found("**/*.parquet"), ["a.parquet", "data/a.parquet", "data/b/c.parquet"]);
        assert_eq!(found("data/[ab].parquet"), ["data/a.parquet"]);
        assert_eq!(found("data/[!b].parquet"), ["data/a.parquet"]);
        assert_eq!(found("?.parquet"), ["a.parquet"]);
    }
}
