//! The paper's experiment at a thousandth of its size, from the hub to the report: everything as `--profile paper` has it but
//! the sizes, against a hub, a teacher and a judge on the loopback.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{ArrayBuilder, ListBuilder, StringBuilder, StructBuilder};
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Fields, Schema};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use crate::hub_server::HubServer;
use crate::mock::{Behaviour, Mock, judge};
use crate::support::{Ran, Sandbox, experiments};

const FILE: &str = "experiments/mistral-nemo.yaml";
/// Problems in the made split, each with three responses: 2,043 rows for the 2,044,407 of the real one.
const PROBLEMS: u32 = 681;
/// Everything by 1,000, and a training and an evaluation that only show that they run.
const SMALL: [&str; 18] = [
    // The trainer that is built in, for there are no GPUs here.
    "--set",
    "train.backend=embedded",
    "--set",
    "train.trainer=null",
    "--set",
    "trainer_run=null",
    "--set",
    "take=300",
    "--set",
    "pack.max_tokens=1000",
    "--set",
    "train.steps=2",
    "--set",
    "train.batch=1",
    "--set",
    "evaluate.repeats=1",
    "--set",
    "evaluate.max_tokens=4",
];

/// What the n-th problem asks, and its answer.
fn problem(number: u32) -> (String, u32) {
    let (first, second) = (number % 97 + 2, number / 97 + 3);
    (format!("Compute ${first} + {second}$ and give the sum."), first + second)
}

/// A problem of the split that is also in the benchmark, in another setting.
const LEAKED: &str = "compute $2 + 3$,  and give the sum";

/// gpt-oss: reckons, and is wrong in one problem of ten.
fn teacher(asked: &str) -> String {
    let numbers: Vec<u32> =
        asked.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect();
    let sum: u32 = numbers.iter().sum();
    let said = if sum % 10 == 7 { sum + 1 } else { sum };
    format!("<think>\nAdd.\n</think>\n\nThe sum is $\\boxed{{{said}}}$.")
}

/// The schema of the real data set: texts, and messages as a list of structs with lists of structs in them.
fn messages_field() -> Fields {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let list = |name: &str, fields: Fields| {
        Field::new(name, DataType::List(Arc::new(Field::new("item", DataType::Struct(fields), true))), true)
    };
    let function = DataType::Struct(Fields::from(vec![text("name"), text("arguments")]));
    let call = Fields::from(vec![text("id"), text("type"), Field::new("function", function, true)]);
    Fields::from(vec![text("role"), text("content"), list("tool_calls", call)])
}

/// A shard of the split, with the rows that `lack` names left without their ground truth.
fn shard(path: &Path, rows: impl Iterator<Item = u32>, without_truth: bool) -> Vec<u8> {
    let (mut uuids, mut metadata) = (Vec::new(), Vec::new());
    let fields = messages_field();
    let mut messages = ListBuilder::new(StructBuilder::from_fields(fields.clone(), 0));
    for row in rows {
        let (asked, sum) = problem(row / 3);
        uuids.push(format!("uuid-{row}"));
        let truth = json!({ "expected_answer": sum.to_string(), "problem_source": "made" });
        metadata.push(if without_truth { "{}".to_owned() } else { truth.to_string() });
        let answer = format!(
            "<think>\nLet me think, in way {}. I add the two numbers, and check the sum again.\n</think>\n\nIt is $\\boxed{{{sum}}}$.",
            row % 3
        );
        for (role, content) in [("user", asked), ("assistant", answer)] {
            let message = messages.values();
            message.field_builder::<StringBuilder>(0).unwrap().append_value(role);
            message.field_builder::<StringBuilder>(1).unwrap().append_value(content);
            message.field_builder::<ListBuilder<Box<dyn ArrayBuilder>>>(2).unwrap().append(true);
            message.append(true);
        }
        messages.append(true);
    }
    let count = uuids.len();
    let same = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text; count])) };
    let messages: ArrayRef = Arc::new(messages.finish());
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("uuid", Arc::new(StringArray::from(uuids))),
        ("license", same("CC BY 4.0")),
        ("generator", same("DeepSeek-R1-0528")),
        ("version", same("v1")),
        ("category", same("math")),
        ("reasoning", same("on")),
        ("messages", messages),
        ("metadata", Arc::new(StringArray::from(metadata))),
    ];
    let fields: Vec<Field> =
        columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let batch =
        RecordBatch::try_new(Arc::clone(&schema), columns.into_iter().map(|(_, column)| column).collect());
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema, None).unwrap();
    writer.write(&batch.unwrap()).unwrap();
    writer.close().unwrap();
    fs::read(path).unwrap()
}

fn push_split(server: &HubServer, sandbox: &Sandbox, without_truth: bool) {
    let half = PROBLEMS * 3 / 2;
    let first = shard(&sandbox.path("shard"), 0..half, false);
    let second = shard(&sandbox.path("shard"), half..PROBLEMS * 3, without_truth);
    let card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: math\n    path: data/math-*\n  - split: chat\n    \
                path: data/chat-*\n---\n";
    server.push(
        "datasets/nvidia/Nemotron-Post-Training-Dataset-v1",
        "main",
        &[
            ("README.md", card.as_bytes()),
            ("data/chat-00000-of-00001.parquet", b"not asked for"),
            ("data/math-00000-of-00002.parquet", &first),
            ("data/math-00001-of-00002.parquet", &second),
        ],
    );
}

fn lines(rows: &[Value]) -> Vec<u8> {
    rows.iter().flat_map(|row| format!("{row}\n").into_bytes()).collect()
}

fn push_benchmarks(server: &HubServer) {
    let gsm8k = lines(&[
        json!({ "question": "Tom has 2 apples and buys 3. How many?", "answer": "2+3=<<2+3=5>>5\n#### 5" }),
        json!({ "question": LEAKED, "answer": "So 5.\n#### 5" }),
    ]);
    let math = lines(&[json!({
        "problem": "Find $x$ if $x^2 = 4$ and $x > 0$.", "solution": "$\\boxed{2}$", "answer": "2", "subject": "Algebra",
        "level": 1, "unique_id": "test/algebra/1.json",
    })]);
    let aime = lines(&[json!({ "id": "0", "problem": "How many?", "answer": "016" })]);
    server.push(
        "datasets/openai/gsm8k",
        "main",
        &[("main/test.jsonl", &gsm8k), ("socratic/test.jsonl", b"")],
    );
    server.push("datasets/HuggingFaceH4/MATH-500", "main", &[("test.jsonl", &math)]);
    server.push("datasets/math-ai/aime25", "main", &[("test.jsonl", &aime)]);
}

/// A vocabulary of bytes with Mistral-Nemo's special tokens.
fn tekken() -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let encoded = |byte: u8| {
        let [first, second] =
            [byte >> 2, (byte & 3) << 4].map(|index| char::from(DIGITS[usize::from(index)]));
        format!("{first}{second}==")
    };
    let vocabulary: Vec<Value> = (0..=255_u8)
        .map(|byte| json!({ "rank": byte, "token_bytes": encoded(byte), "token_str": null }))
        .collect();
    let names = [
        "<unk>",
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_RESULTS]",
    ];
    let more = ["[/TOOL_RESULTS]", "[TOOL_CALLS]", "<pad>", "[PREFIX]", "[MIDDLE]", "[SUFFIX]"];
    let special: Vec<Value> = names
        .iter()
        .chain(&more)
        .enumerate()
        .map(|(rank, name)| json!({ "rank": rank, "token_str": name, "is_control": true }))
        .collect();
    json!({
        "config": {
            "pattern": "[^\\r\\n\\p{L}\\p{N}]?[\\p{L}]+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s+",
            "num_vocab_tokens": 256, "default_vocab_size": 276, "default_num_special_tokens": 20, "version": "v3",
        },
        "vocab": vocabulary,
        "special_tokens": special,
    })
    .to_string()
}

/// A tiny model of Mistral's architecture with that vocabulary, its weights by an index.
fn push_model(server: &HubServer, sandbox: &Sandbox) {
    sandbox.write("tokenizer/tekken.json", &tekken());
    let experiment = "name: tiny\nnodes:\n  tiny:\n    task: model\n    with:\n      architecture: { hidden: 16, layers: 1, head_dim: 8, \
                      max_positions: 1024 }\n      tokenizer: { kind: files, path: tokenizer }\n";
    sandbox.write("tiny.yaml", experiment);
    sandbox.dag(&["run", "tiny.yaml"]).expect(0);
    sandbox.dag(&["export", "tiny.yaml", "tiny", "tiny"]).expect(0);
    let weights = fs::read(sandbox.path("tiny/model.safetensors")).unwrap();
    let length = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let header: BTreeMap<String, Value> = serde_json::from_slice(&weights[8..8 + length]).unwrap();
    let map: BTreeMap<&str, &str> = header
        .keys()
        .filter(|name| *name != "__metadata__")
        .map(|name| (name.as_str(), "model-00001-of-00001.safetensors"))
        .collect();
    let index = json!({ "metadata": {}, "weight_map": map }).to_string();
    let config = fs::read(sandbox.path("tiny/config.json")).unwrap();
    server.push(
        "mistralai/Mistral-Nemo-Base-2407",
        "main",
        &[
            ("config.json", &config),
            ("consolidated.safetensors", b"the same weights once more"),
            ("model-00001-of-00001.safetensors", &weights),
            ("model.safetensors.index.json", index.as_bytes()),
            ("tekken.json", tekken().as_bytes()),
        ],
    );
}

struct World {
    sandbox: Sandbox,
    hub: HubServer,
    teacher: Mock,
    judge: Mock,
}

impl World {
    fn new() -> Self {
        let world = Self {
            sandbox: experiments(),
            hub: HubServer::start(),
            teacher: Mock::start(Behaviour::of(teacher)),
            judge: Mock::start(Behaviour::of(judge)),
        };
        push_benchmarks(&world.hub);
        push_model(&world.hub, &world.sandbox);
        world
    }

    fn dag(&self, command: &str, more: &[&str]) -> Ran {
        let arguments: Vec<&str> = [command, FILE]
            .iter()
            .chain(more)
            .chain(&["--profile", "paper"])
            .chain(&SMALL)
            .copied()
            .collect();
        let environment = [
            ("HF_ENDPOINT", self.hub.endpoint()),
            ("GPT_OSS_URL", self.teacher.address()),
            ("GPT_OSS_KEY", "one"),
            ("JUDGE_URL", self.judge.address()),
            ("JUDGE_KEY", "two"),
        ];
        self.sandbox.dag_with(&arguments, &environment)
    }

    fn shown(&self, node: &str) -> Value {
        self.dag("show", &[node, "--json", "--head", "1000"]).expect(0).json()
    }
}

#[test]
fn the_paper_runs_at_a_thousandth_of_its_size() {
    let world = World::new();
    push_split(&world.hub, &world.sandbox, false);
    world.dag("run", &[]).expect(0);

    let problems = world.shown("problems");
    let metrics = &problems["metrics"];
    assert_eq!((&metrics["rows_in"], &metrics["rows"]), (&json!(2043), &json!(300)));
    assert_eq!((&metrics["excluded_normalised"], &metrics["excluded_overlap"]), (&json!(3), &json!(0)));
    assert_eq!(metrics["dropped_duplicate"], json!(2 * (PROBLEMS - 1)));
    let leaked = &world.shown("problems.dropped")["content"]["rows"][0];
    assert_eq!((&leaked["met"], &leaked["met_at"]), (&json!("gsm8k-1"), &json!("gsm8k")));
    // A thousandth of what the paper has: one response of each teacher, and those kept that both have right.
    assert_eq!(world.teacher.calls(), 300);
    let kept = world.shown("both_correct")["content"]["rows"].as_array().unwrap().len();
    assert!((200..300).contains(&kept), "{kept}");
    for arm in ["r1", "gpt-oss"] {
        assert!(world.shown(&format!("packs@{arm}"))["metrics"]["packs"].as_u64().unwrap() > 10);
    }
    assert!(world.sandbox.path("reports/mistral-nemo/report.md").is_file());

    // Only what is asked for was fetched, and nothing is fetched or asked twice.
    let seen = world.hub.seen();
    assert!(!seen.iter().any(|seen| seen.path.contains("chat-") || seen.path.contains("consolidated")));
    let (asked, judged) = (world.teacher.calls(), world.judge.calls());
    let again = world.dag("run", &[]).expect(0);
    assert!(again.stderr.contains("all up to date; 0 ran"), "{}", again.stderr);
    assert_eq!((world.teacher.calls(), world.judge.calls()), (asked, judged));
    let revisions = world.hub.seen().split_off(seen.len());
    assert!(revisions.iter().all(|seen| seen.path.contains("/revision/main")), "{revisions:?}");
}

#[test]
fn a_row_without_its_ground_truth_is_named() {
    let world = World::new();
    push_split(&world.hub, &world.sandbox, true);
    let failed = world.dag("run", &["problems"]).expect(1);
    let file = "data/math-00001-of-00002.parquet:1: the column `answer`: a value is required and not there: see where";
    assert!(failed.stderr.contains(file), "{}", failed.stderr);
}
