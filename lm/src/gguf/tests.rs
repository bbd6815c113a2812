//! GGUF files: those that candle writes, and those that nobody should write.

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{Device as Place, Tensor};
use proptest::prelude::*;

use super::*;
use crate::model::{self, Decoder, Precision, RopeParameters, Scaling, Turn, init, varied};

/// A llama whose heads, widths and vocabulary fit every block size.
fn shape(class: &str) -> Config {
    let mut config = Config::small(64, 256, 2, 64, 128);
    config.architectures = vec![class.to_owned()];
    config.intermediate_size = 512;
    config.num_key_value_heads = Some(2);
    config.tie_word_embeddings = false;
    config.rope_theta = Some(500_000.0);
    config
}

/// Rows of heads as the converter of llama.cpp orders them: `reshape(heads, 2, dim/2).swapaxes(1, 2)`.
fn neighbours(tensor: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let (rows, columns) = tensor.dims2()?;
    tensor.reshape((heads, 2, rows / heads / 2, columns))?.transpose(1, 2)?.reshape((rows, columns))
}

/// Writes the model in `dir` as a GGUF file by candle's writer, its matrices as `kind`.
fn write(dir: &Path, architecture: &str, kind: GgmlDType, path: &Path) {
    let (config, places, weights) = model::load(dir).unwrap();
    let heads = config.heads();
    let key = |name: &str| format!("{architecture}.{name}");
    let number = |value: usize| gguf_file::Value::U32(value as u32);
    let mut metadata = vec![
        ("general.architecture".to_owned(), gguf_file::Value::String(architecture.to_owned())),
        (key("embedding_length"), number(config.hidden_size)),
        (key("block_count"), number(config.num_hidden_layers)),
        (key("context_length"), number(config.max_position_embeddings)),
        (key("feed_forward_length"), number(config.intermediate_size)),
        (key("attention.head_count"), number(heads.queries)),
        (key("attention.head_count_kv"), number(heads.keys)),
        (key("attention.layer_norm_rms_epsilon"), gguf_file::Value::F32(config.rms_norm_eps as f32)),
        (key("rope.freq_base"), gguf_file::Value::F32(config.theta() as f32)),
        (
            "tokenizer.ggml.tokens".to_owned(),
            gguf_file::Value::Array(vec![gguf_file::Value::String("a".into()); 64]),
        ),
    ];
    metadata.push((key("attention.key_length"), number(heads.dim)));
    metadata.push((key("attention.value_length"), number(heads.dim)));
    let tensors: Vec<(String, QTensor)> = places
        .parameters
        .iter()
        .map(|parameter| {
            let data = &weights[parameter.places.clone()];
            let mut tensor = Tensor::from_slice(data, parameter.shape.as_slice(), &Place::Cpu).unwrap();
            if architecture == "llama" && parameter.name.contains("q_proj") {
                tensor = neighbours(&tensor, heads.queries).unwrap();
            } else if architecture == "llama" && parameter.name.contains("k_proj") {
                tensor = neighbours(&tensor, heads.keys).unwrap();
            }
            let kind = if parameter.is_matrix() { kind } else { GgmlDType::F32 };
            (names::stored(&parameter.name), QTensor::quantize(&tensor, kind).unwrap())
        })
        .collect();
    let metadata: Vec<(&str, &gguf_file::Value)> =
        metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

fn logits(path: &Path) -> Vec<f32> {
    let model = Decoder::load(path, Precision::Float32, 1).unwrap();
    model.forward(&mut [Turn { cache: &mut model.cache(), tokens: &tokens() }])
}

fn tokens() -> Vec<u32> {
    (0..40).map(|index| index * index % 64).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_file_is_the_model_that_was_written() {
    for (class, architecture) in
        [("LlamaForCausalLM", "llama"), ("Qwen2ForCausalLM", "qwen2"), ("Qwen3ForCausalLM", "qwen3")]
    {
        let dir = tempfile::tempdir().unwrap();
        let (made, file, converted) =
            (dir.path().join("made"), dir.path().join("model.gguf"), dir.path().join("converted"));
        std::fs::create_dir(&made).unwrap();
        varied(&shape(class), 3, &made);
        write(&made, architecture, GgmlDType::F32, &file);
        model::convert(&file, Precision::Float32, &converted).unwrap();
        let weights = |path: &Path| bits(&model::load(path).unwrap().2);
        assert_eq!(weights(&made), weights(&converted), "{architecture}");
        assert_eq!(bits(&logits(&made)), bits(&logits(&file)), "{architecture}");
        let (config, found) = (Config::load(&made).unwrap(), Config::load(&converted).unwrap());
        assert_eq!(
            (config.heads(), config.family(), config.context()),
            (found.heads(), found.family(), found.context())
        );
        assert!((config.rms_norm_eps - found.rms_norm_eps).abs() < 1e-15, "{}", found.rms_norm_eps);
    }
}

/// The bound of each type is what its bits can tell apart in a block, with a little to spare.
#[test]
fn quantised_weights_are_close_to_what_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let (made, file) = (dir.path().join("made"), dir.path().join("model.gguf"));
    init(&shape("LlamaForCausalLM"), 4, &made).unwrap();
    let exact = model::load(&made).unwrap().2;
    let norm = exact.iter().map(|weight| weight * weight).sum::<f32>().sqrt();
    for (kind, element, bound) in [
        (GgmlDType::F16, ElementType::F16, 3e-4),
        (GgmlDType::BF16, ElementType::BF16, 3e-3),
        (GgmlDType::Q8_0, ElementType::Q8_0, 0.01),
        (GgmlDType::Q6K, ElementType::Q6_K, 0.03),
        (GgmlDType::Q5K, ElementType::Q5_K, 0.06),
        (GgmlDType::Q5_1, ElementType::Q5_1, 0.06),
        (GgmlDType::Q5_0, ElementType::Q5_0, 0.06),
        (GgmlDType::Q4K, ElementType::Q4_K, 0.12),
        (GgmlDType::Q4_1, ElementType::Q4_1, 0.12),
        (GgmlDType::Q4_0, ElementType::Q4_0, 0.12),
        (GgmlDType::Q3K, ElementType::Q3_K, 0.25),
        (GgmlDType::Q2K, ElementType::Q2_K, 0.5),
    ] {
        write(&made, "llama", kind, &file);
        let (_, places, weights) = model::load(&file).unwrap();
        let error = exact.iter().zip(&weights).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt() / norm;
        assert!(error > 0.0 && error < bound, "{kind:?}: {error}");
        // The bytes that a kernel would compute on are those same numbers.
        let query = places.parameters.iter().find(|parameter| parameter.name.contains("q_proj")).unwrap();
        let gguf = Gguf::open(&file).unwrap();
        let blocks = gguf.blocks(query).unwrap();
        assert_eq!((blocks.element, blocks.rows, blocks.columns), (element, 256, 256));
        let floats = blocks.element.dequantise(&blocks.bytes).unwrap();
        assert_eq!(bits(&floats), bits(&weights[query.places.clone()]));
    }
}

/// Computed as stored, logits differ by the rounding of activations; they do not depend on company, cut or threads.
#[test]
fn a_model_is_computed_as_it_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let (made, file, kept) = (dir.path().join("made"), dir.path().join("file.gguf"), dir.path().join("kept"));
    varied(&shape("LlamaForCausalLM"), 5, &made);
    for (kind, is_smaller) in [
        (GgmlDType::Q4_0, true),
        (GgmlDType::Q4_1, true),
        (GgmlDType::Q5_0, true),
        (GgmlDType::Q5_1, true),
        (GgmlDType::Q8_0, true),
        (GgmlDType::Q4K, true),
        (GgmlDType::Q5K, true),
        (GgmlDType::Q6K, true),
        (GgmlDType::Q3K, false),
    ] {
        write(&made, "llama", kind, &file);
        model::convert(&file, Precision::AsStored, &kept).unwrap();
        let load = |precision, threads| Decoder::load(&kept, precision, threads).unwrap();
        let (wide, stored) = (load(Precision::Float32, 1), load(Precision::AsStored, 1));
        assert_eq!(stored.weight_bytes() * 2 < wide.weight_bytes(), is_smaller, "{kind:?}");
        let tokens = tokens();
        let once = |model: &Decoder, tokens: &[u32]| {
            model.forward(&mut [Turn { cache: &mut model.cache(), tokens }])
        };
        let (exact, found) = (once(&wide, &tokens), once(&stored, &tokens));
        let norm =
            |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>().sqrt();
        let error =
            norm(&mut exact.iter().zip(&found).map(|(a, b)| a - b)) / norm(&mut exact.iter().copied());
        assert!(error < 0.03 && (error > 0.0) == is_smaller, "{kind:?}: {error}");
        assert_eq!(bits(&exact), bits(&logits(&file)), "{kind:?}");
        let threads = load(Precision::AsStored, 3);
        let (mut first, mut second) = (threads.cache(), threads.cache());
        for part in tokens[..39].chunks(7) {
            threads.forward(&mut [Turn { cache: &mut first, tokens: part }]);
        }
        let last = Turn { cache: &mut first, tokens: &tokens[39..] };
        let other = Turn { cache: &mut second, tokens: &tokens[3..20] };
        let together = threads.forward(&mut [other, last]);
        assert_eq!(bits(&together[64..]), bits(&found), "{kind:?}");
    }
}

#[test]
fn the_scaling_of_llama_3_is_found_again() {
    let parameters = |factor| RopeParameters {
        rope_type: Some("llama3".to_owned()),
        factor: Some(factor),
        low_freq_factor: Some(1.0),
        high_freq_factor: Some(4.0),
        original_max_position_embeddings: Some(8192),
        ..RopeParameters::default()
    };
    let plain = Scaling::None.frequencies(500_000.0, 64);
    let factors =
        |scaled: &[f32]| plain.iter().zip(scaled).map(|(plain, scaled)| plain / scaled).collect::<Vec<f32>>();
    for factor in [8.0, 32.0] {
        let scaled = parameters(factor).scaling().unwrap().frequencies(500_000.0, 64);
        let found = names::llama3_scaling(&factors(&scaled), 500_000.0).unwrap();
        assert_eq!(found, parameters(factor));
    }
    let linear = Scaling::Linear { factor: 2.0 }.frequencies(500_000.0, 64);
    assert!(names::llama3_scaling(&factors(&linear), 500_000.0).is_err());
}

/// A header by hand: every text and number where the format has it.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn new(tensors: u64, entries: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(3).u64(tensors).u64(entries)
    }

    fn u32(mut self, number: u32) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn u64(mut self, number: u64) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn text(self, text: &str) -> Self {
        let mut with = self.u64(text.len() as u64);
        with.0.extend(text.as_bytes());
        with
    }

    fn fault(self) -> String {
        Header::parse(&self.0).unwrap_err()
    }
}

#[test]
fn hostile_headers_are_refused_before_anything_is_allocated() {
    let huge = u64::MAX / 2;
    let array = |kind, count| Bytes::new(0, 1).text("key").u32(9).u32(kind).u64(count);
    let tensor = |axes: &[u64], kind, offset| {
        let start = Bytes::new(1, 0).text("t").u32(axes.len() as u32);
        axes.iter()
            .fold(start, |bytes, axis| bytes.u64(*axis))
            .u32(kind)
            .u64(offset)
            .u64(0)
            .u64(0)
            .u64(0)
            .u64(0)
    };
    for (name, bytes, expected) in [
        ("no magic", Bytes(b"GGML".to_vec()).u32(3), "does not begin"),
        ("empty", Bytes::default(), "at byte 0"),
        ("version", Bytes(b"GGUF".to_vec()).u32(9), "version is 9"),
        ("entries", Bytes::new(0, huge), "at byte 24"),
        ("tensors", Bytes::new(huge, 0), "at byte 24"),
        ("text", Bytes::new(0, 1).u64(huge), "should go on for"),
        ("numbers", array(4, huge), "the value of `key`: an array of"),
        ("bytes", array(0, 1 << 30), "an array of 1073741824 values in the 0 bytes"),
        ("texts", array(8, huge), "an array of"),
        ("nested", array(9, 1), "an array of the type 9"),
        ("type", Bytes::new(0, 1).text("key").u32(99), "an unknown type 99"),
        ("twice", Bytes::new(0, 2).text("key").u32(4).u32(1).text("key").u32(4).u32(1), "says `key` twice"),
        ("alignment", Bytes::new(0, 1).text("general.alignment").u32(4).u32(0), "power of two"),
        ("axes", tensor(&[], 0, 0), "0 axes"),
        ("many axes", tensor(&[1, 1, 1, 1, 1], 0, 0), "5 axes"),
        ("element", tensor(&[1], 16, 0), "element type 16"),
        ("overflow", tensor(&[1 << 40, 1 << 40], 0, 0), "impossible shape"),
        ("length", tensor(&[1 << 20], 0, 0), "takes 4194304 bytes"),
        ("blocks", tensor(&[33], 2, 0), "blocks of 32"),
        ("offset", tensor(&[1], 0, u64::MAX - 31), "takes 4 bytes"),
        ("misaligned", tensor(&[1], 0, 4), "multiple of 32"),
    ] {
        let fault = bytes.fault();
        assert!(fault.contains(expected), "{name}: {fault}");
    }
}

#[test]
fn faults_name_the_file_and_the_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let (made, file) = (dir.path().join("made"), dir.path().join("model.gguf"));
    init(&shape("LlamaForCausalLM"), 3, &made).unwrap();
    let fault = |architecture: &str| {
        write(&made, architecture, GgmlDType::F32, &file);
        Decoder::load(&file, Precision::Float32, 1).unwrap_err().to_string()
    };
    let unknown = fault("gemma3");
    assert!(unknown.contains("model.gguf") && unknown.contains("`gemma3`; known are llama"), "{unknown}");
    // The tensors of a llama under a description with biases.
    let missing = fault("qwen2");
    assert!(missing.contains("tensor `blk.0.attn_q.bias`") && missing.contains("is missing"), "{missing}");
    write(&made, "llama", GgmlDType::F32, &file);
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 4]).unwrap();
    let cut = Decoder::load(&file, Precision::Float32, 1).unwrap_err().to_string();
    assert!(cut.contains("the file has"), "{cut}");
    let mut poisoned = bytes.clone();
    let last = poisoned.len() - 4;
    poisoned[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&file, &poisoned).unwrap();
    let poisoned = model::verify(&file).unwrap_err().to_string();
    assert!(poisoned.contains("has NaN as element"), "{poisoned}");
    // Scales of blocks, too, before anything is computed with them.
    write(&made, "llama", GgmlDType::Q4_0, &file);
    let mut bytes = std::fs::read(&file).unwrap();
    let half = bytes.len() / 2;
    bytes[half..].fill(0xff);
    std::fs::write(&file, &bytes).unwrap();
    let poisoned = Decoder::load(&file, Precision::AsStored, 1).unwrap_err();
    assert!(poisoned.to_string().contains("has NaN as element"), "{poisoned}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Damage anywhere in the header gives a model or a fault, never a panic.
    #[test]
    fn a_damaged_header_is_a_fault(place in 0_usize..2600, value: u8, cut in 0_usize..2600) {
        static WHOLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let whole = WHOLE.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            init(&shape("Qwen3ForCausalLM"), 3, &dir.path().join("made")).unwrap();
            write(&dir.path().join("made"), "qwen3", GgmlDType::Q4_0, &dir.path().join("model.gguf"));
            std::fs::read(dir.path().join("model.gguf")).unwrap()
        });
        let mut damaged = whole.clone();
        damaged[place] = value;
        for bytes in [&damaged[..], &whole[..cut]] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("model.gguf");
            std::fs::write(&path, bytes).unwrap();
            if let Err(fault) = model::verify(&path) {
                prop_assert!(fault.to_string().len() < 400, "{fault}");
            }
        }
    }
}
