//! A whole report from made-up results: its numbers, its files, and that no text of a model escapes into it.
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::table::{ColumnKind, Row, Schema, TableWriter};

fn table(path: &Path, schema: Schema, rows: impl IntoIterator<Item = Value>) {
    let mut writer = TableWriter::create(path, schema).unwrap();
    for row in rows {
        let Value::Object(row) = row else { panic!("not a row") };
        writer.write(&row as &Row).unwrap();
    }
    writer.finish().unwrap();
}

/// Results on `items` problems with 4 samples each; problem i is solved with a chance of about `skill`,
/// harder the larger i is, in a way that is the same for every arm.
fn results(folder: &Path, items: u64, skill: f64, tokens: f64) {
    use ColumnKind::{Bool, Int, Str};
    let schema = Schema::new([
        ("id", Str),
        ("repeat", Int),
        ("correct", Bool),
        ("vote", Str),
        ("output_tokens", Int),
        ("finish_reason", Str),
        ("verdict", Str),
    ]);
    let rows = (0..items).flat_map(|item| {
        (0..4_u64).map(move |repeat| {
            let noise = dag_engine::seed::derive(item, &[&repeat.to_le_bytes()]) as f64 / u64::MAX as f64;
            let solved = noise < (skill + 0.45 - 0.9 * item as f64 / items as f64).clamp(0.02, 0.98);
            let length = (tokens * (0.4 + 2.0 * item as f64 / items as f64) * (0.5 + noise)).round() as u64;
            let truncated = length > 30_000;
            json!({
                "id": format!("problem-{item}"), "repeat": repeat, "correct": solved && !truncated,
                "vote": if truncated { Value::Null } else if solved { json!("7/1") } else { json!(format!("{}/1", item % 3)) },
                "output_tokens": length.min(30_000), "finish_reason": if truncated { "length" } else { "stop" },
                "verdict": if solved { "correct" } else { "incorrect" },
            })
        })
    });
    table(&folder.join("graded.parquet"), schema, rows);
}

fn model(folder: &Path, floor: f64, epochs: f64) {
    let training = folder.join("training");
    std::fs::create_dir_all(&training).unwrap();
    let lines: Vec<String> = (1..=400_u32)
        .map(|step| {
            let wobble = f64::from(step * 7919 % 101) / 900.0;
            let loss = floor + 2.4 * (-f64::from(step) / 60.0).exp() + wobble;
            format!("{}\n", json!({"step": step, "loss": loss, "lr": 1e-3, "grad_norm": 1.0, "loss_tokens": 5000, "tokens": 6000}))
        })
        .collect();
    std::fs::write(training.join("loss.jsonl"), lines.concat()).unwrap();
    let summary = json!({"steps": 400, "epochs": epochs, "packs": 1234, "unique_problems": 1600, "exposures": (1600.0 * epochs) as u64,
                         "loss_tokens": 2_000_000, "final_loss": floor});
    std::fs::write(training.join("summary.json"), summary.to_string()).unwrap();
}

const HOSTILE: &str = "<script>alert('r1')</script>";

/// Makes a report of two arms, one of hostile name, and an untrained base; gives its folder.
fn report(directory: &Path, first_arm: &str) -> std::path::PathBuf {
    let mut cx = TaskCx::for_test(directory);
    let benchmarks = [("gsm8k", 300, 0.85, 0.2), ("math-500", 200, 0.6, 1.0), ("aime25", 30, 0.3, 5.0)];
    for (benchmark, items, skill, length) in benchmarks {
        for (arm, gain, tokens) in [(first_arm, 0.1, 9000.0), ("gpt-oss", 0.02, 2200.0)] {
            let folder = directory.join(format!("{}-{benchmark}", arm.len()));
            results(&folder, items, skill + gain, tokens * length);
            cx =
                cx.input_at("results", folder, &[("arm", arm), ("replicate", "1"), ("benchmark", benchmark)]);
        }
        let folder = directory.join(format!("base-{benchmark}"));
        results(&folder, items, skill - 0.35, 600.0 * length);
        cx = cx.input_at("base", folder, &[("benchmark", benchmark)]);
    }
    for (arm, floor, epochs) in [(first_arm, 0.42, 3.07), ("gpt-oss", 0.31, 13.6)] {
        let folder = directory.join(format!("model-{}", arm.len()));
        model(&folder, floor, epochs);
        cx = cx.input_at("training", folder, &[("arm", arm), ("replicate", "1")]);
        let packs = directory.join(format!("packs-{}", arm.len()));
        std::fs::create_dir_all(&packs).unwrap();
        std::fs::write(
            packs.join("stats.json"),
            json!({"dropped": {"too_long": 31}, "efficiency": 0.998}).to_string(),
        )
        .unwrap();
        cx = cx.input_at("packs", packs, &[("arm", arm)]);
        let judged = directory.join(format!("judged-{}", arm.len()));
        let rows = (0..2000).map(|i| json!({"verdict": if i % 9 == 0 { "mismatch" } else if i % 113 == 0 { "truncated" } else { "match" }}));
        table(&judged, Schema::new([("verdict", ColumnKind::Str)]), rows);
        cx = cx.input_at("judged", judged, &[("arm", arm)]);
    }
    for (name, rows) in [("problems", 2000), ("both", 1600)] {
        let path = directory.join(name);
        table(&path, Schema::new([("id", ColumnKind::Int)]), (0..rows).map(|id| json!({ "id": id })));
        cx = cx.input("funnel", path);
    }
    let mut cx = cx.build().unwrap();
    let params = Params {
        title: "Learning to reason from R1 or gpt-oss".into(),
        funnel: vec!["problems".into(), "both teachers correct".into()],
        ..serde_json::from_value(json!({})).unwrap()
    };
    Report::run(&params, &mut cx).unwrap();
    cx.output("report")
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap()
}

#[test]
fn the_files_agree_and_the_page_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let folder = report(directory.path(), HOSTILE);
    let page = read(&folder, "index.html");
    assert!(!page.contains(HOSTILE) && page.contains("&lt;script&gt;"));
    assert!(page.contains("default-src 'none'") && !page.contains("src=\""));
    // The one address is a name, that of MathML.
    assert_eq!(page.matches("http").count() - page.matches("http-equiv").count(), 1);
    assert!(!page.contains("NaN") && !page.contains("style=\""));
    assert!(!read(&folder, "report.md").contains("<script"));

    let found: Value = serde_json::from_str(&read(&folder, "report.json")).unwrap();
    assert_eq!((found["k"].as_u64(), found["cells"].as_array().unwrap().len()), (Some(4), 9));
    assert_eq!(found["comparisons"].as_array().unwrap().len(), 3);
    assert_eq!(found["against_base"].as_array().unwrap().len(), 6);
    let [first, second] =
        [0, 1].map(|cell: usize| found["cells"][cell]["pass_at_1"]["mean"].as_f64().unwrap());
    let difference = &found["comparisons"][0]["pass_at_1"];
    assert!((difference["mean"].as_f64().unwrap() - (first - second)).abs() < 1e-12);
    // The arms share the noise of every sample, so the pairing is tight.
    assert!(difference["correlation"].as_f64().unwrap() > 0.9);
    assert!(found["cells"][2]["is_base"].as_bool().unwrap());

    let csv = read(&folder, "table.csv");
    assert_eq!(csv.lines().count(), 10);
    assert!(csv.lines().all(|line| line.split(',').count() == 33), "{csv}");
    assert_eq!(read(&folder, "loss.csv").lines().count(), 801);
    // The arms saw their problems 3 and 13.6 times: whoever reads the comparison is told, in every form.
    let warning = found["warnings"][0].as_str().unwrap();
    assert!(warning.contains("gpt-oss 13.6") && warning.ends_with("tells."), "{warning}");
    for name in ["report.txt", "report.md", "index.html"] {
        assert!(read(&folder, name).contains("Warning: The comparison of arms is confounded"), "{name}");
    }
    // Three benchmarks, pooled as equals: the mean of the three differences.
    let mean = |differences: &Value| {
        let each =
            differences.as_array().unwrap().iter().map(|one| one["pass_at_1"]["mean"].as_f64().unwrap());
        each.sum::<f64>() / 3.0
    };
    let pooled = &found["pooled"][0];
    assert!((pooled["mean"].as_f64().unwrap() - mean(&found["comparisons"])).abs() < 1e-12);
    assert_eq!((&pooled["benchmarks"], found["pooled"].as_array().unwrap().len()), (&json!(3), 1));
    let cell = &found["cells"][0];
    assert!(cell["these_problems"].as_f64().unwrap() < cell["pass_at_1"]["standard_error"].as_f64().unwrap());
    let text = read(&folder, "report.txt");
    assert!(
        text.contains("pass@4 %") && text.contains("both teachers correct") && text.contains("13.600"),
        "{text}"
    );
}

#[test]
fn the_judge_is_summed_up_by_what_is_known_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let schema = Schema::new([
        ("verdict", ColumnKind::Str),
        ("rules_verdict", ColumnKind::Str),
        ("disagrees", ColumnKind::Bool),
        ("judge_label", ColumnKind::Bool),
    ]);
    let row = |verdict: &str, rules: &str, disagrees: Value, label: Value| json!({ "verdict": verdict, "rules_verdict": rules, "disagrees": disagrees, "judge_label": label });
    let rows = [
        row("match", "match", json!(false), json!(true)),
        row("match", "no_answer", json!(true), json!(false)),
        row("mismatch", "mismatch", json!(false), json!(true)),
        row("match", "match", Value::Null, json!(true)), // by a shortcut, not by the model
        row("truncated", "match", Value::Null, Value::Null),
    ];
    table(&directory.path().join("judged"), schema, rows);
    let schema = Schema::new([("control", ColumnKind::Str), ("match", ColumnKind::Bool)]);
    let control = |control: &str, is_match: Value| json!({ "control": control, "match": is_match });
    let controls = [
        control("other_reference", json!(true)),
        control("other_reference", json!(false)),
        control("own_reference", Value::Null),
    ];
    table(&directory.path().join("controls"), schema, controls);
    let mut cx = TaskCx::for_test(directory.path())
        .input_at("judged", directory.path().join("judged"), &[("arm", "r1")])
        .input_at("controls", directory.path().join("controls"), &[("arm", "r1")])
        .build()
        .unwrap();
    Report::run(&serde_json::from_value(json!({})).unwrap(), &mut cx).unwrap();
    let text = read(&cx.output("report"), "report.md");
    let line = text.lines().find(|line| line.contains("66.7 [")).unwrap_or_else(|| panic!("{text}"));
    let cells: Vec<&str> = line.split('|').map(|cell| cell.split('[').next().unwrap().trim()).collect();
    // Two of three agree, kappa (2/3 − 4/9) / (5/9); two of three matches are right, two of three right ones are found.
    assert_eq!(cells[1..8], ["r1", "66.7", "0.40", "66.7", "66.7", "50.0", "0.0"], "{line}");
    assert!(text.contains("How good the judge is"));
}

#[test]
fn equal_inputs_give_equal_bytes() {
    let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [first, second] = [one.path(), two.path()].map(|directory| report(directory, "r1"));
    for name in ["index.html", "report.md", "report.txt", "report.json", "table.csv", "loss.csv"] {
        assert_eq!(read(&first, name), read(&second, name), "{name}");
    }
}

#[test]
fn a_report_of_nothing_is_still_a_page() {
    let directory = tempfile::tempdir().unwrap();
    let mut cx = TaskCx::for_test(directory.path()).build().unwrap();
    Report::run(&serde_json::from_value(json!({})).unwrap(), &mut cx).unwrap();
    assert!(read(&cx.output("report"), "index.html").contains("<h1>Report</h1>"));
}

/// Results in which every problem is there twice, its two copies alike and of one `topic`.
fn twins(folder: &Path, skill: f64) {
    use ColumnKind::{Bool, Int, Str};
    let names = [
        ("id", Str),
        ("topic", Int),
        ("correct", Bool),
        ("vote", Str),
        ("output_tokens", Int),
        ("finish_reason", Str),
        ("verdict", Str),
    ];
    let rows = (0..80_u64).map(|item| {
        let topic = item / 2;
        let right = dag_engine::seed::derive(topic, &[b"twin"]) as f64 / (u64::MAX as f64) < skill;
        json!({ "id": format!("{item}"), "topic": topic, "correct": right, "vote": "7", "output_tokens": 10 * (topic + 1),
                "finish_reason": if topic < 2 { "length" } else { "stop" }, "verdict": "correct",
                "looped": topic == 0, "thinking_tokens": 6 * (topic + 1), "answer_tokens": 4 * (topic + 1) })
    });
    let schema =
        Schema::new(names).with("looped", Bool).with("thinking_tokens", Int).with("answer_tokens", Int);
    table(&folder.join("graded.parquet"), schema, rows);
}

#[test]
fn clusters_budgets_and_what_tokens_went_to() {
    let directory = tempfile::tempdir().unwrap();
    let results = |params: Value, name: &str| -> (Value, String) {
        let mut cx = TaskCx::for_test(&directory.path().join(name));
        for (arm, skill) in [("a", 0.7), ("b", 0.4)] {
            let folder = directory.path().join(format!("{name}-{arm}"));
            twins(&folder, skill);
            cx = cx.input_at("results", folder, &[("arm", arm), ("benchmark", "x")]);
        }
        let mut cx = cx.build().unwrap();
        Report::run(&serde_json::from_value(params).unwrap(), &mut cx).unwrap();
        let folder = cx.output("report");
        (serde_json::from_str(&read(&folder, "report.json")).unwrap(), read(&folder, "report.txt"))
    };
    let (plain, _) = results(json!({}), "plain");
    let (clustered, text) = results(json!({ "cluster": "topic", "budgets": [100, 1000] }), "clustered");
    // Forty pairs of equal problems tell as much as forty problems: the error is larger by √2, but for the N − 1.
    for pointer in ["/cells/0/pass_at_1/standard_error", "/comparisons/0/pass_at_1/standard_error"] {
        let [plain, clustered] =
            [&plain, &clustered].map(|found| found.pointer(pointer).unwrap().as_f64().unwrap());
        let expected = 2.0_f64.sqrt() * (79.0 / 80.0 * 40.0 / 39.0_f64).sqrt();
        assert!((clustered / plain - expected).abs() < 1e-9, "{pointer}: {}", clustered / plain);
    }
    let within = |budget: &str| clustered["budgets"][0]["at"][budget]["mean"].as_f64().unwrap();
    let all = clustered["cells"][0]["pass_at_1"]["mean"].as_f64().unwrap();
    assert!(within("100") < all && (within("1000") - all).abs() < 1e-12);
    // What occurs has a column, what does not has none.
    for header in ["Thinking tokens", "Answer tokens", "Looped %", "≤ 100", "≤ 1,000"] {
        assert!(text.contains(header), "{header} is not in\n{text}");
    }
    assert!(
        !text.contains("Unclosed %") && !text.contains("Reference tokens") && !text.contains("Warning"),
        "{text}"
    );
    // Both arms were cut off, so the ratio of lengths may be either way.
    assert_eq!(clustered["comparisons"][0]["token_ratio"]["bound"], json!("unknown"));
}
