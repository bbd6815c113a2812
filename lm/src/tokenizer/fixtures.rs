//! Real vocabularies against ids from the libraries they belong to: mistral-common, tiktoken, Hugging Face's tokenizers.

use std::fs;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Map;

use super::*;
use crate::template::{ChatTemplate, Message};

/// A text or a conversation, and its ids.
#[derive(Deserialize)]
struct Row {
    #[serde(default)]
    messages: Vec<Message>,
    #[serde(default)]
    add_generation_prompt: bool,
    text: String,
    ids: Vec<u32>,
}

/// A file of the shared data, or nothing, and then says so.
fn shared(name: &str) -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let root = std::env::var_os("DAG_SHARED").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    present(root.join("data/tokenizer").join(name), "set DAG_SHARED to the folder that has it")
}

/// A file that `scripts/fetch_test_models.py` fetches, or nothing, and then says so.
fn fetched(name: &str) -> Option<PathBuf> {
    let target = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/test-models");
    let root = std::env::var_os("DAG_TEST_MODELS").map_or_else(|| PathBuf::from(target), PathBuf::from);
    present(root.join(name), "run `python3 scripts/fetch_test_models.py`")
}

fn present(path: PathBuf, remedy: &str) -> Option<PathBuf> {
    if !path.exists() {
        eprintln!("skipped: no `{}`; {remedy}", path.display());
        return None;
    }
    Some(path)
}

fn rows(path: PathBuf) -> Vec<Row> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// gpt-oss's vocabulary, from its two files in a folder of their own.
fn gpt_oss() -> Option<Tokenizer> {
    let (ranks, specials) = (shared("o200k_base.tiktoken")?, shared("gpt_oss_special_tokens.json")?);
    let directory = tempfile::tempdir().unwrap();
    fs::copy(ranks, directory.path().join("o200k_base.tiktoken")).unwrap();
    fs::copy(specials, directory.path().join(tiktoken::SPECIALS_FILE)).unwrap();
    Some(Tokenizer::load(directory.path()).unwrap())
}

/// Texts have these ids, written control tokens taken as text, and the ids these texts.
fn check_texts(tokenizer: &Tokenizer, rows: &[Row]) {
    assert!(rows.len() > 300, "{} texts", rows.len());
    assert!(tokenizer.encoder.is_some());
    for row in rows {
        assert_eq!(tokenizer.encode_plain(&row.text).unwrap(), row.ids, "{:?}", row.text);
        assert_eq!(tokenizer.encode_by_library(&row.text, true).unwrap(), row.ids, "{:?}", row.text);
        assert_eq!(tokenizer.decode(&row.ids).unwrap(), row.text);
    }
}

/// What is saved is a `tokenizer.json` that gives the same tokenizer.
fn check_saved(tokenizer: &Tokenizer) {
    let directory = tempfile::tempdir().unwrap();
    tokenizer.save(directory.path()).unwrap();
    let saved = Tokenizer::load(directory.path()).unwrap();
    assert_eq!(saved.digest(), tokenizer.digest());
    assert_eq!(saved.encode("a  b").unwrap(), tokenizer.encode("a  b").unwrap());
}

/// Conversations have these texts and ids.
fn check_chats(tokenizer: &Tokenizer, rows: &[Row]) {
    assert_eq!(rows.len(), 20);
    let template = ChatTemplate::of(tokenizer).unwrap();
    for row in rows {
        let text = template.render(&row.messages, row.add_generation_prompt, &Map::new()).unwrap();
        assert_eq!(text, row.text);
        assert_eq!(tokenizer.encode(&text).unwrap(), row.ids, "{text:?}");
    }
}

#[test]
fn mistral_nemo_is_as_mistral_common_has_it() {
    let (Some(vocabulary), Some(texts), Some(chats)) = (
        fetched("mistral-nemo/tekken.json"),
        shared("mistral_nemo_texts.jsonl"),
        shared("mistral_nemo_chats.jsonl"),
    ) else {
        return;
    };
    let tokenizer = Tokenizer::load(&vocabulary).unwrap();
    assert_eq!(tokenizer.vocab_size(), 131_072);
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()), (Some(1), Some(2), Some(11)));
    assert_eq!((tokenizer.id("[INST]"), tokenizer.id("<SPECIAL_999>")), (Some(3), Some(999)));
    check_texts(&tokenizer, &rows(texts));
    check_chats(&tokenizer, &rows(chats));
    check_saved(&tokenizer);
}

#[test]
fn smollm2_is_as_its_file_says() {
    let (Some(model), Some(texts), Some(chats)) = (
        fetched("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
        shared("smollm2_texts.jsonl"),
        shared("smollm2_chats.jsonl"),
    ) else {
        return;
    };
    let tokenizer = Tokenizer::load(&model).unwrap();
    assert_eq!(tokenizer.vocab_size(), 49_152);
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (Some(1), Some(2)));
    check_texts(&tokenizer, &rows(texts));
    check_chats(&tokenizer, &rows(chats));
    check_saved(&tokenizer);
}

#[test]
fn gpt_oss_is_as_tiktoken_has_it() {
    let (Some(tokenizer), Some(texts)) = (gpt_oss(), shared("gpt_oss_texts.jsonl")) else { return };
    assert_eq!((tokenizer.vocab_size(), tokenizer.eos_id()), (200_019, Some(200_002)));
    check_texts(&tokenizer, &rows(texts));
    check_saved(&tokenizer);
}

/// The prompts that vLLM was given for gpt-oss: a system message with a tool, instructions, a problem.
#[test]
fn harmony_prompts_are_as_openai_renders_them() {
    let (Some(tokenizer), Some(prompts)) = (gpt_oss(), shared("gpt_oss_harmony_prompts.jsonl")) else {
        return;
    };
    let template = ChatTemplate::of(&tokenizer).unwrap();
    let prompts = rows(prompts);
    assert_eq!(prompts.len(), 20);
    for row in prompts {
        let between = |start: &str, end: &str| {
            let rest = row.text.split_once(start).unwrap().1;
            rest.split_once(end).unwrap().0.to_owned()
        };
        let kwargs = serde_json::json!({
            "reasoning_effort": between("\nReasoning: ", "\n"),
            "builtin_tools": { "python": between("\n## python\n\n", "\n\n# Valid channels") },
        });
        let messages = [
            Message::new("developer", between("# Instructions\n\n", "<|end|>")),
            Message::new("user", between("<|start|>user<|message|>", "<|end|>")),
        ];
        let text = template.render(&messages, true, kwargs.as_object().unwrap()).unwrap();
        assert_eq!(text, row.text);
        assert_eq!(tokenizer.encode(&text).unwrap(), row.ids);
    }
}

/// The paper's format: Nemotron's template on Mistral's vocabulary, some reserved ids of which get its control strings.
#[test]
fn mistral_nemo_takes_nemotrons_template() {
    let Some(vocabulary) = fetched("mistral-nemo/tekken.json") else { return };
    let source = include_str!("../../../experiments/nemotron-nano-v2.jinja");
    let plain = Tokenizer::load(&vocabulary).unwrap();
    let digest = plain.digest();
    let think = ["<think>".to_owned(), "</think>".to_owned()];
    let faults = |tokenizer: &Tokenizer, as_text: &[String]| {
        crate::template::gate(tokenizer, &ChatTemplate::of(tokenizer).unwrap(), as_text)
    };
    let unnamed = plain.with_chat_template(source);
    assert!(faults(&unnamed, &think).iter().any(|fault| fault.to_string().contains("`<SPECIAL_11>` is")));

    let names = (10..13).map(|id| (format!("<SPECIAL_{id}>"), Reserved::Id(id))).collect();
    let tokenizer = unnamed.with_special_tokens(&names).unwrap().with_end_token("<SPECIAL_12>").unwrap();
    assert_ne!(tokenizer.digest(), digest);
    assert_eq!(faults(&tokenizer, &think), []);
    assert_eq!(faults(&tokenizer, &[]).len(), 2, "the thinking tags");
    let messages = [Message::new("user", "1+1?"), Message::new("assistant", "<think>\nsum\n</think>\n\n2")];
    let example = ChatTemplate::of(&tokenizer).unwrap().example(&tokenizer, &messages).unwrap();
    let labels: Vec<u32> = example
        .tokens
        .iter()
        .zip(&example.loss_mask)
        .filter(|(_, mask)| **mask == 1)
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(tokenizer.decode(&labels).unwrap(), "sum\n</think>\n\n2\n<SPECIAL_12>");
    assert_eq!((example.tokens[0], labels.last()), (10, Some(&12)));

    // With ids of their own the thinking tags pass, and are no control tokens.
    let names = [
        ("<think>".to_owned(), Reserved::Token("<SPECIAL_20>".to_owned())),
        ("</think>".to_owned(), Reserved::Id(21)),
    ];
    let tokenizer = tokenizer.with_special_tokens(&names.into()).unwrap();
    assert_eq!(faults(&tokenizer, &[]), []);
    assert_eq!((tokenizer.id("<think>"), tokenizer.control_token_in("<think></think>")), (Some(20), None));
    check_saved(&tokenizer);
}
