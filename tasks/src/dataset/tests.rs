//! `dataset` on files of every format, and its rules of selection.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::*;
use crate::table::testing::{rows, table};

fn params(value: Value) -> Params {
    serde_json::from_value(value).unwrap()
}

fn column(cx: &TaskCx, name: &str) -> Vec<Value> {
    rows(&cx.output("records")).iter().map(|row| row[name].clone()).collect()
}

/// Runs on rows given in the file.
fn run(dir: &Path, value: Value) -> Result<TaskCx, TaskError> {
    let mut cx = TaskCx::for_test(dir).seed(17).build()?;
    Dataset::run(&params(value), &mut cx).map(|()| cx)
}

/// Two problems as JSON lines, packed; gzip in two members, as `cat` of two packed files is.
fn packed(path: PathBuf, pack: impl Fn(fs::File) -> Box<dyn Write>) -> PathBuf {
    drop(fs::File::create(&path).unwrap());
    for line in ["{\"problem\": \"x\", \"answer\": \"1\"}\n", "{\"problem\": \"y\", \"answer\": \"2\"}\n"] {
        pack(fs::OpenOptions::new().append(true).open(&path).unwrap()).write_all(line.as_bytes()).unwrap();
    }
    path
}

#[test]
fn the_content_tells_the_format() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let files = [
        write(
            "a",
            "\u{feff}{\"problem\": \"x\", \"answer\": \"1\"}\n\n{\"problem\": \"y\", \"answer\": \"2\"}",
        ),
        write("b", " [{\"problem\": \"x\", \"answer\": \"1\"}, {\"problem\": \"y\", \"answer\": \"2\"}]"),
        write("c", "problem,answer\nx,1\ny,2\n"),
        packed(dir.path().join("e"), |out| Box::new(GzEncoder::new(out, Compression::default()))),
        packed(dir.path().join("f"), |out| Box::new(zstd::Encoder::new(out, 3).unwrap().auto_finish())),
        table(
            dir.path().join("d"),
            json!([{ "problem": "x", "answer": "1" }, { "problem": "y", "answer": "2" }]),
        ),
    ];
    let mut digests = Vec::new();
    for file in files {
        let mut cx = TaskCx::for_test(dir.path()).file("/source/path", file).build().unwrap();
        Dataset::run(&params(json!({ "source": { "path": "data" } })), &mut cx).unwrap();
        assert_eq!(column(&cx, "problem"), ["x", "y"]);
        digests.push(fs::read(cx.output("records")).unwrap());
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "the same rows are the same bytes");
}

#[test]
fn every_row_has_its_place_in_the_source() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let one = write("one.jsonl", "{\"id\": \"a\"}\n\n{\"id\": \"b\"}\n{\"id\": \"a\"}\n");
    let two = write("two.csv", "id\nc\n");
    let places = |files: &[PathBuf]| {
        let cx = files.iter().fold(TaskCx::for_test(dir.path()), |cx, file| cx.file("/source/path", file));
        let mut cx = cx.build().unwrap();
        Dataset::run(&params(json!({ "source": { "path": "*" }, "dedup": "id" })), &mut cx).unwrap();
        let keys: Vec<Value> =
            rows(&cx.output("records")).iter().map(|row| row["record_key"].clone()).collect();
        let places = rows(&cx.output("places"));
        assert_eq!(keys, places.iter().map(|row| row["record_key"].clone()).collect::<Vec<_>>());
        places.iter().map(|row| row["source_row"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(places(std::slice::from_ref(&one)), ["1", "3"]);
    assert_eq!(places(&[one, two]), ["1:1", "1:3", "2:2"]);
}

#[test]
fn a_bad_row_names_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.jsonl");
    fs::write(&path, "{\"problem\": \"x\"}\n{\"problem\": \"y\",}\n[3]\n").unwrap();
    let mut cx = TaskCx::for_test(dir.path()).file("/source/path", &path).build().unwrap();
    let error =
        Dataset::run(&params(json!({ "source": { "path": "data" } })), &mut cx).unwrap_err().to_string();
    assert!(error.contains("data.jsonl:2: the line is not JSON"), "{error}");
    Dataset::run(&params(json!({ "source": { "path": "data" }, "bad_rows": "drop" })), &mut cx).unwrap();
    assert_eq!((&cx.metrics()["rows"], &cx.metrics()["dropped_bad"]), (&json!(1), &json!(2)));
}

#[test]
fn columns_are_templates_and_keep_their_types() {
    let dir = tempfile::tempdir().unwrap();
    let source =
        json!({ "rows": [{ "question": "How many?", "answer": "2+2\n#### 1,004", "level": 3, "n": 7 }] });
    let columns = json!({
        "id": "q-{{ n }}",
        "problem": "{{ question }}",
        "answer": "{{ answer | extract('####\\\\s*(.+)') | replace(',', '') }}",
        "hard": "{{ level > 2 }}",
    });
    let cx = run(
        dir.path(),
        json!({ "source": source, "columns": columns, "select": ["id", "problem", "answer", "hard"] }),
    )
    .unwrap();
    let row = &rows(&cx.output("records"))[0];
    assert_eq!((&row["id"], &row["problem"]), (&json!("q-7"), &json!("How many?")));
    assert_eq!((&row["answer"], &row["hard"]), (&json!("1004"), &json!(true)));
    assert!(!row.contains_key("level") && row["record_key"].as_str().unwrap().len() == 64);
}

fn numbered(count: u64) -> Value {
    json!(
        (0..count)
            .map(|number| json!({ "id": format!("p{number}"), "problem": format!("problem {number}") }))
            .collect::<Vec<_>>()
    )
}

#[test]
fn rows_that_are_added_disturb_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let taken = |count, shuffle| {
        let value = json!({ "source": { "rows": numbered(count) }, "take": 20, "shuffle": shuffle });
        column(&run(dir.path(), value).unwrap(), "id")
    };
    let few = taken(100, false);
    assert_eq!(few.len(), 20);
    // Of twice the rows about half the places go to new ones; the old that stay are among those taken before.
    let many = taken(200, false);
    let stayed = many.iter().filter(|id| few.contains(id)).count();
    let old = many.iter().filter(|id| id.as_str().unwrap()[1..].parse::<u64>().unwrap() < 100).count();
    assert_eq!(stayed, old);
    assert!((3..18).contains(&stayed), "{stayed}");
    let shuffled = taken(100, true);
    assert_ne!(shuffled, few);
    let sorted = |mut ids: Vec<Value>| {
        ids.sort_by_key(ToString::to_string);
        ids
    };
    assert_eq!(sorted(shuffled), sorted(few));
}

#[test]
fn duplicates_exclusions_and_conditions_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let data = json!([
        { "problem": "a  b", "level": 1 },
        { "problem": "a b", "level": 2 },
        { "problem": "c", "level": 0 },
        { "problem": "test one", "level": 1 },
        { "problem": "d", "level": 1 },
    ]);
    let test = table(dir.path().join("test"), json!([{ "id": "t", "problem": "test  one" }]));
    let mut cx = TaskCx::for_test(dir.path()).input("exclude", test).build().unwrap();
    let value = json!({ "source": { "rows": data }, "dedup": "problem", "where": "level > 0" });
    Dataset::run(&params(value), &mut cx).unwrap();
    assert_eq!(column(&cx, "problem"), ["a  b", "d"]);
    for (metric, count) in
        [("rows_in", 5), ("rows", 2), ("dropped_where", 1), ("dropped_duplicate", 1), ("dropped_excluded", 1)]
    {
        assert_eq!(cx.metrics()[metric], json!(count), "{metric}");
    }
}

#[test]
fn rows_near_to_a_benchmark_are_left_out_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let long = "How many of the first one hundred whole numbers are multiples of both three and five";
    let tested = |name: &str, problem: &str| {
        table(dir.path().join(name), json!([{ "id": format!("{name}-0"), "problem": problem }]))
    };
    let data = json!([
        { "id": "a", "problem": "What is  $1+1$?" },
        { "id": "b", "problem": "what is 1 + 1" },
        { "id": "c", "problem": "what is 1 - 1" },
        { "id": "d", "problem": format!("Think. {long}, and which is the largest?") },
    ]);
    let run = |overlap: Value| {
        let mut cx = TaskCx::for_test(dir.path())
            .input_at("exclude", tested("sums", "What is $1+1$?"), &[("benchmark", "sums")])
            .input_at("exclude", tested("long", &format!("{long}?")), &[("benchmark", "long")])
            .build()
            .unwrap();
        let mut value = json!({ "source": { "rows": data } });
        value["overlap"] = overlap;
        Dataset::run(&params(value), &mut cx).unwrap();
        cx
    };
    let cx = run(json!(13));
    assert_eq!(column(&cx, "id"), ["c"]);
    let dropped: Vec<_> = rows(&cx.output("dropped"))
        .iter()
        .map(|row| ["id", "reason", "met", "met_at"].map(|name| row[name].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(
        dropped,
        [
            ["a", "exact", "sums-0", "sums"],
            ["b", "normalised", "sums-0", "sums"],
            ["d", "overlap", "long-0", "long"]
        ]
    );
    for (metric, count) in
        [("dropped_excluded", 3), ("excluded_exact", 1), ("excluded_normalised", 1), ("excluded_overlap", 1)]
    {
        assert_eq!(cx.metrics()[metric], json!(count), "{metric}");
    }
    let cx = run(json!(0));
    assert_eq!(column(&cx, "id"), ["c", "d"]);
}

#[test]
fn threads_decide_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let made = |threads: usize| {
        let source = json!({ "generator": "arithmetic", "count": 700 });
        let value = json!({ "source": source, "take": 300, "shuffle": true, "columns": { "long": "{{ problem }}!" } });
        let mut cx = TaskCx::for_test(dir.path()).seed(17).threads(threads).build().unwrap();
        Dataset::run(&params(value), &mut cx).unwrap();
        fs::read(cx.output("records")).unwrap()
    };
    assert_eq!(made(1), made(4));
}

#[test]
fn ids_are_unique_or_derived() {
    let dir = tempfile::tempdir().unwrap();
    let twice =
        json!({ "source": { "rows": [{ "id": 1, "x": 1 }, { "id": 1, "x": 2 }] }, "exclude_by": "x" });
    assert!(
        run(dir.path(), twice).is_err_and(|error| error.to_string().contains("the id `1` is there twice"))
    );
    let same = json!({ "source": { "rows": [{ "x": 1 }, { "x": 1 }, { "x": 2 }] } });
    let cx = run(dir.path(), same).unwrap();
    assert_eq!(
        (cx.metrics()["rows"].clone(), cx.metrics()["dropped_identical"].clone()),
        (json!(2), json!(1))
    );
}

#[test]
fn generated_problems_are_the_same_again_and_a_larger_count_only_adds() {
    let dir = tempfile::tempdir().unwrap();
    let made = |count: u64, seed: u64| {
        let source = json!({ "generator": "arithmetic", "count": count, "steps": [2, 4], "modulus": 10, "seed": seed });
        column(&run(dir.path(), json!({ "source": source })).unwrap(), "problem")
    };
    let few = made(10, 0);
    assert_eq!(few, made(20, 0)[..10]);
    assert_ne!(few, made(10, 1));
}

#[test]
fn faults_name_their_place() {
    let faults =
        |value| Dataset::check(&params(value)).into_iter().map(|fault| fault.pointer).collect::<Vec<_>>();
    assert_eq!(faults(json!({ "source": { "path": "x" }, "take": 3 })), [""; 0]);
    assert_eq!(faults(json!({ "source": {} })), ["/source"]);
    assert_eq!(faults(json!({ "source": { "path": "x", "count": 3 } })), ["/source/count"]);
    assert_eq!(
        faults(json!({ "source": { "path": "x" }, "where": "a >", "columns": { "b": "{{" } })),
        ["/columns/b", "/where"]
    );
}

#[test]
fn a_benchmark_is_the_same_from_whichever_file() {
    let dir = tempfile::tempdir().unwrap();
    let full = |answer: &str| format!("It is <<1+1={answer}>>{answer}.\n#### {answer}");
    let authors = json!([
        { "question": "One?", "answer": full("1,002") },
        { "question": "Two?", "answer": full("3") },
    ]);
    let copy = json!([
        { "id": "x0", "problem": "One?", "answer": "1002", "answer_full": full("1,002") },
        { "id": "x1", "problem": "Two?", "answer": "3", "answer_full": full("3") },
    ]);
    let source = json!({ "benchmark": "gsm8k", "path": "FILE" });
    let mut digests = Vec::new();
    for (name, rows) in [("authors", authors), ("copy", copy)] {
        let file = table(dir.path().join(name), rows);
        let mut cx = TaskCx::for_test(dir.path()).file("/source/path", file).build().unwrap();
        Dataset::run(&params(json!({ "source": source })), &mut cx).unwrap();
        assert_eq!(column(&cx, "id"), ["gsm8k-0", "gsm8k-1"]);
        assert_eq!(column(&cx, "answer"), ["1002", "3"]);
        digests.push(fs::read(cx.output("records")).unwrap());
    }
    assert_eq!(digests[0], digests[1]);
    let file = table(dir.path().join("other"), json!([{ "question": "One?", "answer": "####" }]));
    let mut cx = TaskCx::for_test(dir.path()).file("/source/path", file).build().unwrap();
    let error = Dataset::run(&params(json!({ "source": source })), &mut cx).unwrap_err().to_string();
    assert!(error.contains("other:1: the answer `` is none that gsm8k can have"), "{error}");
}

#[test]
fn benchmarks_know_their_place() {
    let source = |value: Value| params(json!({ "source": value }));
    let files = Dataset::files(&source(json!({ "benchmark": "math-500" })));
    assert_eq!(
        (files[0].pointer.as_str(), files[0].pattern.as_str()),
        ("/source/benchmark", "dataset hf://datasets/HuggingFaceH4/MATH-500@main")
    );
    assert!(
        Dataset::check(&source(json!({ "benchmark": "gsm8k", "split": "train", "revision": "main" })))
            .is_empty()
    );
    let fault = &Dataset::check(&source(json!({ "benchmark": "aime25", "split": "dev" })))[0];
    assert_eq!(
        (fault.pointer.as_str(), fault.message.as_str()),
        ("/source/split", "aime25 has no split `dev`, but `test`")
    );
}

/// The published files, where they are.
#[test]
fn the_real_benchmarks_are_read() {
    let shared = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let root = std::env::var_os("DAG_SHARED").map_or_else(|| shared.into(), std::path::PathBuf::from);
    let read = |benchmark: &str, split: Option<&str>, file: &str| {
        let dir = tempfile::tempdir().unwrap();
        let path = root.join("data/benchmarks").join(file);
        if !path.exists() {
            eprintln!("skipped: no `{}`; set DAG_SHARED to the folder that has it", path.display());
            return None;
        }
        let mut cx = TaskCx::for_test(dir.path()).file("/source/path", path).build().unwrap();
        let source = json!({ "benchmark": benchmark, "split": split, "path": "FILE" });
        Dataset::run(&params(json!({ "source": source })), &mut cx).unwrap();
        Some(rows(&cx.output("records")))
    };
    for (benchmark, split, file, count) in [
        ("gsm8k", None, "gsm8k_test.jsonl", 1319),
        ("gsm8k", Some("train"), "gsm8k_train.jsonl", 7473),
        ("math-500", None, "math500.jsonl", 500),
        ("aime24", None, "aime2024.jsonl", 30),
        ("aime24", None, "aime2024_nemo.jsonl", 30),
        ("aime25", None, "aime2025_preview.jsonl", 30),
    ] {
        let Some(found) = read(benchmark, split, file) else { return };
        assert_eq!(found.len(), count, "{file}");
        assert!(found.iter().all(|row| !row["answer"].as_str().unwrap().is_empty()), "{file}");
    }
    // The two writings of one contest agree in ids and answers, and differ in wording.
    let [one, other] =
        ["aime2025.jsonl", "aime2025_nemo.jsonl"].map(|file| read("aime25", None, file).unwrap());
    for (one, other) in one.iter().zip(&other) {
        assert_eq!((&one["id"], &one["answer"]), (&other["id"], &other["answer"]));
    }
}

#[test]
fn what_lies_elsewhere_is_named_in_full() {
    let files = |source: Value| Dataset::files(&params(json!({ "source": source })));
    let hub =
        files(json!({ "path": "hf://openai/gsm8k", "revision": "v2", "config": "main", "split": "test" }));
    assert_eq!(hub[0].pattern, "dataset hf://datasets/openai/gsm8k@v2");
    let digest = format!("blake3:{}", "0".repeat(64));
    let web = files(json!({ "path": "https://a.example/x", "digest": digest }));
    assert_eq!(web[0].pattern, format!("{digest} https://a.example/x"));
}

#[test]
fn what_lies_elsewhere_has_its_own_faults() {
    let faults = |source: Value| {
        let faults = Dataset::check(&params(json!({ "source": source })));
        faults.into_iter().map(|fault| fault.pointer).collect::<Vec<_>>()
    };
    let digest = format!("sha256:{}", "0".repeat(64));
    assert_eq!(faults(json!({ "path": "hf://openai/gsm8k@v1", "split": "test" })), [""; 0]);
    assert_eq!(faults(json!({ "path": "hf://openai/gsm8k@v1", "revision": "v2" })), ["/source/path"]);
    assert_eq!(faults(json!({ "path": "hf://openai/gsm8k/x.jsonl", "split": "test" })), ["/source/path"]);
    assert_eq!(faults(json!({ "path": "x.jsonl", "split": "test" })), ["/source/split"]);
    assert_eq!(faults(json!({ "path": "https://a.example/x", "digest": digest })), [""; 0]);
    assert_eq!(faults(json!({ "path": "https://a.example/x" })), ["/source"]);
    assert_eq!(faults(json!({ "path": "https://a.example/x", "digest": "sha256:12" })), ["/source/digest"]);
    assert_eq!(faults(json!({ "path": "http://a.example/x", "digest": digest })), ["/source/path"]);
    assert_eq!(faults(json!({ "path": "x.jsonl", "digest": digest })), ["/source/digest"]);
}
