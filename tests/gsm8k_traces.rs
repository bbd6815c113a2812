//! `experiments/gsm8k-traces.yaml` on the real traces: the funnel counts, every pair that is lost has its reason, and where
//! our verdict is not that of the labels the traces came with, `docs/gsm8k-traces.md` says why.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Ran, Sandbox, experiments, shared};

const FILE: &str = "experiments/gsm8k-traces.yaml";
/// The training in the graph is made tiny; the data are all there.
const SMALL: [&str; 6] =
    ["--set", "train.steps=2", "--set", "evaluate.repeats=1", "--set", "evaluate.max_tokens=16"];

fn dag(sandbox: &Sandbox, command: &str, data: &Path, more: &[&str]) -> Ran {
    let data = format!("data={}", data.display());
    let (before, after) = more.split_at(more.len().min(1));
    let arguments = [command, FILE].into_iter().chain(before.iter().copied()).chain(["--set", &data]);
    let arguments: Vec<&str> = arguments.chain(SMALL).chain(after.iter().copied()).collect();
    sandbox.dag(&arguments).expect(0)
}

fn show(sandbox: &Sandbox, data: &Path, node: &str) -> Value {
    dag(sandbox, "show", data, &[node, "--json", "--head", "2000"]).json()
}

fn rows(shown: &Value) -> &[Value] {
    shown["content"]["rows"].as_array().unwrap()
}

/// The labels of a file of traces, by problem.
fn labels(path: &Path) -> BTreeMap<String, Option<bool>> {
    let text = fs::read_to_string(path).unwrap();
    let label = |line: &str| {
        let trace: Value = serde_json::from_str(line).unwrap();
        (trace["problem_id"].as_str().unwrap().to_owned(), trace["correct"].as_bool())
    };
    text.lines().map(label).collect()
}

/// The problems in the first column of the table under a heading of the document.
fn documented(heading: &str) -> BTreeSet<String> {
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/gsm8k-traces.md")).unwrap();
    let section = text.split(&format!("## {heading}\n")).nth(1).expect("the document has this heading");
    let section = section.split("\n## ").next().unwrap();
    let ids = section.lines().filter_map(|line| line.strip_prefix("| gsm8k-test-")?.split(' ').next());
    ids.map(|id| format!("gsm8k-test-{id}")).collect()
}

#[test]
fn the_real_traces_go_through_the_whole_graph() {
    let Some(data) = shared("data") else { return };
    let traces = ["r1distill_qwen1.5b_gsm8k", "gptoss120b_gsm8k"]
        .map(|file| data.join(format!("traces/{file}.jsonl")));
    if !traces.iter().all(|path| path.exists()) {
        eprintln!("skipped: no traces in `{}`", data.display());
        return;
    }
    let sandbox = experiments();
    let ran = dag(&sandbox, "run", &data, &[]);
    assert!(ran.stdout.contains("untrained base"), "{}", ran.stdout);

    // The funnel: what enters a node leaves it, kept or dropped with its reason.
    let [r1, oss] = ["judged@r1", "judged@gpt-oss"].map(|node| show(&sandbox, &data, node));
    assert_eq!((rows(&r1).len(), rows(&oss).len()), (1000, 1319));
    let (kept, dropped) =
        (show(&sandbox, &data, "both_correct"), show(&sandbox, &data, "both_correct.dropped"));
    let metrics = &kept["metrics"];
    assert_eq!(metrics["rows"], rows(&kept).len());
    assert_eq!(metrics["dropped"], rows(&dropped).len());
    assert_eq!(rows(&kept).len() + rows(&dropped).len(), 1319);
    let [r1_verdicts, oss_verdicts] = [&r1, &oss].map(|judged| {
        let verdict = |row: &Value| (row["id"].as_str().unwrap().to_owned(), row["match"].as_bool());
        rows(judged).iter().map(verdict).collect::<BTreeMap<_, _>>()
    });
    for row in rows(&dropped) {
        let id = row["id"].as_str().unwrap();
        let mut reasons = Vec::new();
        if r1_verdicts.contains_key(id) {
            for (side, verdicts) in [("gpt_oss", &oss_verdicts), ("r1", &r1_verdicts)] {
                if verdicts[id] != Some(true) {
                    reasons.push(format!("not {side}.match"));
                }
            }
        } else {
            reasons.push("absent from r1".to_owned());
        }
        assert_eq!(row["reason"], reasons.join(", "), "{id}");
    }
    let lost = rows(&dropped).iter().find(|row| row["reason"] == "not r1.match").unwrap();
    let where_lost = format!("id == '{}'", lost["id"].as_str().unwrap());
    let traced = dag(&sandbox, "trace", &data, &["both_correct", "--where", &where_lost]);
    for words in [
        "both_correct.dropped",
        "judged@r1.judged",
        "r1_traces.records",
        "problems.records",
        "reason=not r1.match",
    ] {
        assert!(traced.stdout.contains(words), "no `{words}` in the trail:\n{}", traced.stdout);
    }

    // Against the labels: every difference is in the document, and the document names no other.
    let [r1_labels, oss_labels] = traces.each_ref().map(|path| labels(path));
    let kept: BTreeSet<&str> = rows(&kept).iter().map(|row| row["id"].as_str().unwrap()).collect();
    let (mut only_labels, mut only_ours, mut agreed) = (BTreeSet::new(), BTreeSet::new(), 0);
    for (id, label) in &r1_labels {
        match (*label == Some(true) && oss_labels[id] == Some(true), kept.contains(id.as_str())) {
            (true, false) => drop(only_labels.insert(id.clone())),
            (false, true) => drop(only_ours.insert(id.clone())),
            (true, true) => agreed += 1,
            (false, false) => {}
        }
    }
    eprintln!("{} pairs kept, {agreed} of {} by the labels", kept.len(), agreed + only_labels.len());
    assert_eq!(only_labels, documented("Right by the labels, dropped here"));
    assert_eq!(only_ours, documented("Kept here, not right by the labels"));
    let settled = documented("Once dropped, kept now");
    assert_eq!(settled.len(), 40);
    assert!(
        settled.iter().all(|id| kept.contains(id.as_str())),
        "the document says that all of these are kept"
    );

    // The lengths of the traces are those that were measured by other means.
    let stats: Value =
        serde_json::from_str(&fs::read_to_string(data.join("traces/STATS.json")).unwrap()).unwrap();
    for (judged, path) in [(&r1, &traces[0]), (&oss, &traces[1])] {
        let file = path.file_name().unwrap().to_str().unwrap();
        let stats = stats.as_array().unwrap().iter().find(|stats| stats["file"] == file).unwrap();
        let thinking = |row: &Value| {
            let response = row["response"].as_str().unwrap();
            let inside = response.strip_prefix("<think>\n").unwrap().split("\n</think>\n").next().unwrap();
            inside.chars().count()
        };
        let mean = rows(judged).iter().map(thinking).sum::<usize>() as f64 / rows(judged).len() as f64;
        let expected = stats["mean_reasoning_chars"].as_f64().unwrap();
        assert!((mean - expected).abs() <= 1.0, "{file}: {mean} characters of thinking, {expected} measured");
    }
}
