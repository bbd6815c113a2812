//! Tokenizers that are made here, and faults in those that are not.

use super::*;
use proptest::prelude::*;

const ALPHABET: &str = "0123456789+-*=?;#, \nabcdefghijklmnopqrstuvwxyz<|>/é";

fn characters() -> Tokenizer {
    Tokenizer::character(ALPHABET, &Specials::chat()).unwrap()
}

#[test]
fn special_tokens_come_first_and_characters_follow() {
    let tokenizer = characters();
    assert_eq!(tokenizer.encode("<|pad|><|end|><think>01").unwrap(), [0, 1, 5, 7, 8]);
    assert_eq!((tokenizer.pad_id(), tokenizer.eos_id(), tokenizer.bos_id()), (Some(0), Some(1), None));
    assert_eq!(tokenizer.vocab_size(), 7 + ALPHABET.chars().count());
    assert_eq!(tokenizer.decode(&[5, 7, 8, 1]).unwrap(), "<think>01<|end|>");
    assert!(matches!(tokenizer.decode(&[999]), Err(TokenizerError::UnknownToken { id: 999 })));
}

#[test]
fn plain_text_holds_no_control_tokens() {
    let tokenizer = characters();
    let plain = tokenizer.encode_plain("<|end|>").unwrap();
    assert_eq!(plain.len(), 7);
    assert_eq!(tokenizer.decode(&plain).unwrap(), "<|end|>");
    assert_eq!(Tokenizer::bytes(&Specials::chat()).unwrap().encode_plain("<|end|>").unwrap().len(), 7);
}

#[test]
fn an_unknown_character_is_named() {
    let fault = characters().encode("17*4=?é\n\n\u{3c0}").unwrap_err();
    assert_eq!(fault.to_string(), "the vocabulary has no token for 'π' (byte 10 of the text)");
}

#[test]
fn dropped_and_unknown_tokens_are_errors() {
    // Byte-pair models without an unknown token leave characters out; those with one write it.
    let model = |unknown: &str| {
        format!(
            r#"{{"version": "1.0", "truncation": {{"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}},
            "added_tokens": [], "model": {{"type": "BPE", "vocab": {{"a": 0, "b": 1, "<unk>": 2}}, "merges": [], "unk_token": {unknown}}}}}"#
        )
    };
    for unknown in ["null", r#""<unk>""#] {
        let tokenizer = Tokenizer::from_json(&model(unknown)).unwrap();
        assert_eq!(tokenizer.encode("abab").unwrap(), [0, 1, 0, 1], "a stored truncation is not applied");
        let fault = tokenizer.encode("abxa").unwrap_err();
        assert!(
            matches!(fault, TokenizerError::UnknownCharacter { character: 'x', offset: 2 }),
            "{unknown}: {fault}"
        );
    }
}

#[test]
fn a_vocabulary_holds_nothing_twice() {
    let fault = |alphabet| Tokenizer::character(alphabet, &Specials::chat()).err().unwrap().to_string();
    assert_eq!(fault("abca"), r#""a" is in the vocabulary twice"#);
}

#[test]
fn saved_files_give_the_same_tokenizer() {
    let directory = tempfile::tempdir().unwrap();
    let tokenizer = characters();
    tokenizer.save(directory.path()).unwrap();
    let loaded = Tokenizer::load(directory.path()).unwrap();
    assert_eq!(loaded.digest(), tokenizer.digest());
    assert_eq!(loaded.chat_template(), Some(crate::template::BUILT_IN));
    assert_ne!(characters().with_chat_template("{{ messages }}").digest(), tokenizer.digest());
    assert_ne!(Tokenizer::bytes(&Specials::chat()).unwrap().digest(), tokenizer.digest());
}

#[test]
fn a_byte_without_a_token_is_an_error() {
    let split = split::Split::of_gguf("gpt-2").unwrap();
    let tokens = BTreeMap::from([(0, "a".to_owned()), (1, "Ġ".to_owned())]);
    let vocabulary = byte_level::ByteLevel { tokens, merges: vec![], added: vec![], split };
    let json = vocabulary.to_json().unwrap();
    let tokenizer = Tokenizer::from_json(std::str::from_utf8(&json).unwrap()).unwrap();
    assert!(tokenizer.encoder.is_some());
    assert_eq!(tokenizer.encode("a a").unwrap(), [0, 1, 0]);
    let fault = tokenizer.encode("a ab").unwrap_err();
    assert!(matches!(fault, TokenizerError::UnknownCharacter { character: 'b', offset: 3 }), "{fault}");
}

/// Faulty files, each with what the error says of it.
#[test]
fn faulty_files_are_named_with_the_place() {
    let json = |vocabulary: &str, merges: &str, added: &str| {
        format!(
            r#"{{"added_tokens": [{added}], "model": {{"type": "BPE", "vocab": {vocabulary}, "merges": {merges}}}}}"#
        )
    };
    let tekken = |tokens: &str, size: u32| {
        format!(
            r#"{{"config": {{"pattern": "x", "default_vocab_size": {size}, "default_num_special_tokens": 2, "version": "v3"}}, "vocab": [{tokens}]}}"#
        )
    };
    let unknown = r#"{"id": 7, "content": "<x>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}"#;
    let cases = [
        ("tokenizer.json", "{\"model\": ".to_owned(), "EOF while parsing a value at line 1 column 10"),
        ("tokenizer.json", "[]".to_owned(), "`tokenizer.json` is not usable"),
        (
            "tokenizer.json",
            json(r#"{"a": 0, "b": 1}"#, r#"[["a", "b"]]"#, ""),
            r#"names "ab", which is no token"#,
        ),
        ("tokenizer.json", json(r#"{"a": 0}"#, r#"["a c"]"#, ""), r#"merge 0 ("a c") names "c""#),
        ("tokenizer.json", json(r#"{"a": 0}"#, r#"[["a"]]"#, ""), "merge 0 is not of two tokens"),
        ("tokenizer.json", json(r#"{"a": 0}"#, "[]", unknown), r#""<x>" has the id 7, and would be given 1"#),
        ("tokenizer.json", json(r#"{"a": 4294967294}"#, "[]", ""), r#"the token "a" has the id 4294967294"#),
        ("tekken.json", "{}".to_owned(), "missing field `config`"),
        (
            "tekken.json",
            tekken("", 1),
            "`default_num_special_tokens` (2) is more than `default_vocab_size` (1)",
        ),
        ("tekken.json", tekken("", 3), "it has 0 tokens and says that it has 1"),
        (
            "tekken.json",
            tekken(r#"{"rank": 0, "token_bytes": "?"}"#, 3),
            "`token_bytes` of rank 0 is not base64",
        ),
        ("tekken.json", tekken(r#"{"rank": 0, "token_bytes": "AA=="}"#, 3), "the byte 1 has no token"),
        ("o200k_base.tiktoken", "AA== 0\nAQ==".to_owned(), "line 2 has no rank"),
        ("o200k_base.tiktoken", "AA== 0\n\nAQ== 0".to_owned(), "line 3 has the rank of another line"),
        ("o200k_base.tiktoken", "A 0".to_owned(), "line 1 does not begin with base64"),
        ("o200k_base.tiktoken", "AA== x".to_owned(), "line 1 does not end with a rank"),
        ("other.tiktoken", "AA== 0".to_owned(), "the encoding `other` is not known"),
        ("model.gguf", "GGU".to_owned(), "`model.gguf` is not usable"),
        ("model.gguf", "no model at all".to_owned(), "unknown magic"),
    ];
    for (name, content, expected) in cases {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(name), &content).unwrap();
        let fault = Tokenizer::load(directory.path()).err().unwrap().to_string();
        let fault = fault.replace(&format!("{}/", directory.path().display()), "");
        assert!(fault.contains(expected), "{content}: {fault}");
        assert!(fault.contains(&format!("`{name}`")), "{fault}");
    }
    let directory = tempfile::tempdir().unwrap();
    let fault = Tokenizer::load(directory.path()).err().unwrap();
    assert!(matches!(fault, TokenizerError::NoVocabulary { .. }), "{fault}");
    std::fs::write(directory.path().join("a.gguf"), "").unwrap();
    std::fs::write(directory.path().join("b.gguf"), "").unwrap();
    let fault = Tokenizer::load(directory.path()).err().unwrap().to_string();
    assert!(fault.contains("several vocabularies and no `tokenizer.json`: a.gguf, b.gguf"), "{fault}");
}

/// A GGUF file of metadata alone.
fn gguf(pre: Option<&str>, model: &str) -> Vec<u8> {
    use candle_core::quantized::gguf_file::{Value, write};
    let strings =
        |texts: &[&str]| Value::Array(texts.iter().map(|&text| Value::String(text.to_owned())).collect());
    let letters: Vec<String> = (0..=u8::MAX).map(|byte| byte_level::letter(byte).to_string()).collect();
    let mut tokens: Vec<&str> = letters.iter().map(String::as_str).collect();
    tokens.extend(["<|end|>", "<tag>", "ab"]);
    let kinds =
        (0..tokens.len()).map(|id| Value::I32([1, 3, 4][(id >= 256) as usize + (id == 257) as usize]));
    let kinds = kinds.take(258).chain([Value::I32(1)]).collect();
    let mut metadata = vec![
        ("tokenizer.ggml.model", Value::String(model.to_owned())),
        ("tokenizer.ggml.tokens", strings(&tokens)),
        ("tokenizer.ggml.token_type", Value::Array(kinds)),
        ("tokenizer.ggml.merges", strings(&["a b"])),
        ("tokenizer.ggml.eos_token_id", Value::U32(256)),
        ("tokenizer.chat_template", Value::String("{{ eos_token }}".to_owned())),
    ];
    metadata.extend(pre.map(|pre| ("tokenizer.ggml.pre", Value::String(pre.to_owned()))));
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let mut bytes = std::io::Cursor::new(Vec::new());
    write(&mut bytes, &metadata, &[]).unwrap();
    bytes.into_inner()
}

#[test]
fn a_gguf_file_holds_a_tokenizer_whose_pre_tokenizer_must_be_known() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let load = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Tokenizer::load(&path)
    };
    let whole = gguf(Some("smollm"), "gpt2");
    let tokenizer = load(&whole).unwrap();
    assert_eq!(tokenizer.encode("ab<|end|><tag>").unwrap(), [258, 256, 257]);
    assert_eq!((tokenizer.eos_id(), tokenizer.chat_template()), (Some(256), Some("{{ eos_token }}")));
    assert_eq!(tokenizer.control_token_in("x <tag> <|end|>"), Some("<|end|>"));
    for (bytes, expected) in [
        (gguf(Some("other"), "gpt2"), "its pre-tokenizer \"other\" is not known"),
        (gguf(None, "gpt2"), "it does not name its pre-tokenizer"),
        (gguf(Some("default"), "llama"), "its vocabulary is of the kind \"llama\""),
    ] {
        let fault = load(&bytes).err().unwrap().to_string();
        assert!(fault.contains(expected) && fault.contains("model.gguf"), "{fault}");
    }
    // Cut off anywhere in its metadata, the file is refused.
    for length in (0..whole.len() - 64).step_by(97) {
        assert!(load(&whole[..length]).is_err(), "{length} bytes");
    }
}

/// A small byte-level vocabulary with merges, some of which overlap, and the pre-tokenizer of each format.
fn merging(split: split::Split) -> Tokenizer {
    let words =
        ["ab", "ba", "aa", "aaa", "aba", "abab", " a", " ab", "\n\n", "  ", "   ", "12", "é", "'s", "<t"];
    let mut ranks: BTreeMap<u32, Vec<u8>> = (0..=255_u8).map(|byte| (byte.into(), vec![byte])).collect();
    ranks.extend((256..).zip(words.map(|word| word.as_bytes().to_vec())));
    let token = |id, content: &str, control| byte_level::Added { id, content: content.to_owned(), control };
    let added = vec![token(300, "<think>", false), token(301, "<|end|>", true), token(302, "<|end|>x", true)];
    let json = byte_level::ByteLevel::from_ranks(&ranks, 0, added, split).unwrap().to_json().unwrap();
    Tokenizer::from_json(std::str::from_utf8(&json).unwrap()).unwrap()
}

fn splits() -> &'static [Tokenizer] {
    static MADE: OnceLock<Vec<Tokenizer>> = OnceLock::new();
    MADE.get_or_init(make_splits)
}

fn make_splits() -> Vec<Tokenizer> {
    let gguf = ["gpt-2", "smollm", "llama-bpe", "tekken", "gpt-4o", "smaug-bpe"];
    let gguf = gguf.map(|name| split::Split::of_gguf(name).unwrap());
    let tokenizers: Vec<Tokenizer> =
        gguf.into_iter().chain(split::Split::of_tiktoken("o200k_base")).map(merging).collect();
    assert!(tokenizers.iter().all(|tokenizer| tokenizer.encoder.is_some()));
    tokenizers
}

/// Texts of what pre-tokenizers tell apart.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[ab]{1,9}",
        "[ \t\n\r\u{a0}\u{3000}]{1,6}",
        "[a-zA-Z'sStTlLéǅʰ\u{301}ſ漢]{1,6}",
        "[0-9½Ⅷ٣]{1,5}",
        "\\PC{0,4}",
        any::<String>(),
        prop::sample::select(vec!["<|end|>", "<think>", "<|end|>x", "<t", "/\n", "'ll", " 'S"])
            .prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

#[test]
fn long_words_and_long_white_space_are_as_in_the_library() {
    let texts =
        ["ab".repeat(3000), "aab".repeat(40), " ".repeat(500) + "a", "\n \n".repeat(80), "é".repeat(99)];
    for tokenizer in splits() {
        for text in &texts {
            assert_eq!(tokenizer.encode(text).unwrap(), tokenizer.encode_by_library(text, false).unwrap());
        }
    }
}

proptest! {
    #[test]
    fn decoding_inverts_encoding(pieces in prop::collection::vec(prop_oneof![
        "[0-9a-z+*=?;#,<|>/ \né-]{0,12}",
        prop::sample::select(vec!["<|end|>", "<think>", "</think>", "<|user|>"]).prop_map(str::to_owned),
    ], 0..8)) {
        let text = pieces.concat();
        let tokenizer = characters();
        prop_assert_eq!(&tokenizer.decode(&tokenizer.encode(&text).unwrap()).unwrap(), &text);
        prop_assert_eq!(&tokenizer.decode(&tokenizer.encode_plain(&text).unwrap()).unwrap(), &text);
    }

    #[test]
    fn bytes_know_every_text(text in any::<String>()) {
        let tokenizer = Tokenizer::bytes(&Specials::chat()).unwrap();
        prop_assert_eq!(&tokenizer.decode(&tokenizer.encode(&text).unwrap()).unwrap(), &text);
        let plain = tokenizer.encode_plain(&text).unwrap();
        prop_assert_eq!(&tokenizer.decode(&plain).unwrap(), &text);
    }

    #[test]
    fn the_encoder_gives_the_librarys_ids(text in texts()) {
        for tokenizer in splits() {
            for plain in [false, true] {
                let ids = tokenizer.encoder.as_ref().unwrap().encode(&text, plain).unwrap();
                prop_assert_eq!(&ids, &tokenizer.encode_by_library(&text, plain).unwrap(), "{:?}", text);
                prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text.as_str());
            }
        }
    }
}
