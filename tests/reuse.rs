//! Nothing is paid twice: edits that ask a model for nothing, for the new rows only, or run nothing at all.

use serde_json::{Value, json};

use crate::mock::{Behaviour, Mock, judge};
use crate::store;
use crate::support::{Ran, Sandbox};

/// Problems from a file, answered by a scripted teacher and judged by a model.
const JUDGING: &str = r"
name: judging
seed: 17
params: { synonyms: false, temperature: 0.6 }
nodes:
  problems:
    task: dataset
    with: { source: { path: problems.jsonl } }
  answers:
    task: sample
    inputs: { prompts: problems }
    with: { model: { backend: scripted, teacher: terse, error_rate: 0.3 } }
  judged:
    task: judge
    inputs: { responses: answers, references: problems }
    with:
      by: model
      model: { backend: openai, name: a-judge }
      part: whole
      shortcuts: []
      retries: 0
      synonyms: $(synonyms)
      temperature: $(temperature)
      max_without_verdict: 1
    run: { base_url: $(address), concurrency: 8 }
  right:
    task: filter
    inputs: { answers: judged }
    with: { keep: match }
";

/// A line of the data file: `n` makes the problem, and so the answer to it, unlike any other.
fn problem(n: u32) -> Value {
    json!({ "id": format!("p{n}"), "problem": format!("{n}+7*3 mod 1000?"), "answer": ((n + 7) * 3 % 1000).to_string() })
}

fn data(numbers: impl IntoIterator<Item = u32>) -> String {
    numbers.into_iter().map(|n| problem(n).to_string() + "\n").collect()
}

/// A sandbox with that experiment and so many problems.
pub(crate) fn judging(server: &Mock, rows: u32) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("judging.yaml", &JUDGING.replace("$(address)", server.address()));
    sandbox.write("problems.jsonl", &data(0..rows));
    sandbox
}

fn run(sandbox: &Sandbox, set: &[&str]) -> Ran {
    let arguments: Vec<&str> = ["run", "judging.yaml"].into_iter().chain(set.iter().copied()).collect();
    sandbox.dag(&arguments).expect(0)
}

fn rows(sandbox: &Sandbox, node: &str, set: &[&str]) -> Vec<Value> {
    let arguments = ["show", "judging.yaml", node, "--json", "--head", "1000"];
    let arguments: Vec<&str> = arguments.into_iter().chain(set.iter().copied()).collect();
    let shown = sandbox.dag(&arguments).expect(0).json();
    shown["content"]["rows"].as_array().unwrap().clone()
}

/// How many answers and how many verdicts the last run made and took from the store.
fn made_and_reused(sandbox: &Sandbox) -> [(u64, u64); 2] {
    let journals = store::journals(&sandbox.path(".dag"));
    let counts = store::counts(journals.last().unwrap());
    [counts["answers"], counts["judged"]]
}

/// The line that sums a run up.
fn summary(ran: &Ran) -> &str {
    ran.stderr.lines().find(|line| line.starts_with("4 nodes")).unwrap_or_default()
}

#[test]
fn another_parser_reads_the_stored_verdicts_and_asks_nobody() {
    const ROWS: u32 = 240;
    let server = Mock::start(Behaviour::of(judge));
    let sandbox = judging(&server, ROWS);
    run(&sandbox, &[]);
    assert_eq!(server.calls(), u64::from(ROWS), "every response is judged once");
    let strict = rows(&sandbox, "judged", &[]);

    let other = ["--set", "synonyms=true"];
    let ran = run(&sandbox, &other);
    assert_eq!(server.calls(), u64::from(ROWS), "another parser makes no call");
    assert!(
        summary(&ran).starts_with("4 nodes: 2 ran, 2 up to date; 0 records made, 240 reused"),
        "{}",
        ran.stderr
    );

    let lenient = rows(&sandbox, "judged", &other);
    let mut changed = 0;
    for (before, after) in strict.iter().zip(&lenient) {
        let of = |row: &Value, fields: [&str; 3]| fields.map(|field| row[field].clone());
        let said = ["id", "judge_record_key", "judge_response"];
        assert_eq!(of(before, said), of(after, said), "the judge's words are those that are stored");
        let read = ["verdict", "match", "rule"];
        if before["judge_response"].as_str().unwrap().contains("equivalent") {
            assert_eq!(of(before, read), [json!("unparsable"), Value::Null, json!("nothing_found")]);
            assert_eq!(of(after, read), [json!("match"), json!(true), json!("synonym")]);
            changed += 1;
        } else {
            assert_eq!(of(before, read), of(after, read));
        }
    }
    assert!((40..200).contains(&changed), "{changed} verdicts are read otherwise");
    let kept = |set: &[&str]| rows(&sandbox, "right", set).len();
    assert_eq!(kept(&other), kept(&[]) + changed);

    // The count can tell: what does change the question asks everything again.
    run(&sandbox, &["--set", "temperature=0.7"]);
    assert_eq!(server.calls(), 2 * u64::from(ROWS));
}

#[test]
fn ten_more_rows_ask_for_ten_more_records() {
    let server = Mock::start(Behaviour::of(judge));
    let sandbox = judging(&server, 40);
    run(&sandbox, &[]);
    let before = rows(&sandbox, "judged", &[]);

    sandbox.write("problems.jsonl", &data(0..50));
    let ran = run(&sandbox, &[]);
    assert_eq!(server.calls(), 50);
    // The rows of the table itself are records that are made each time: 50 of them, and ten of each kind that costs.
    assert!(summary(&ran).contains("; 70 records made, 80 reused;"), "{}", ran.stderr);
    assert_eq!(made_and_reused(&sandbox), [(10, 40), (10, 40)]);
    let after = rows(&sandbox, "judged", &[]);
    assert_eq!((after.len(), &after[..40]), (50, &before[..]), "the others are as they were");

    // Rows in front move the others and disturb them as little.
    sandbox.write("problems.jsonl", &data((50..60).chain(0..50)));
    run(&sandbox, &[]);
    assert_eq!((made_and_reused(&sandbox), server.calls()), ([(10, 50), (10, 50)], 60));
}

#[test]
fn edits_that_change_no_byte_of_an_output_run_nothing_after_it() {
    let server = Mock::start(Behaviour::of(judge));
    let sandbox = judging(&server, 20);
    run(&sandbox, &[]);
    let up_to_date = "4 nodes, all up to date; 0 ran";

    let file = sandbox.read("judging.yaml");
    sandbox.write("judging.yaml", &file.replace("nodes:", "# a remark\nnodes: # and another"));
    assert_eq!(summary(&run(&sandbox, &[])), up_to_date, "a comment");

    let other = file.replace(
        "{ backend: scripted, teacher: terse, error_rate: 0.3 }",
        "{ error_rate: 0.3, teacher: terse, backend: scripted }",
    );
    let other = other
        .replace("      by: model\n", "")
        .replace("      max_without_verdict: 1\n", "      max_without_verdict: 1\n      by: model\n");
    assert_ne!(other, file);
    sandbox.write("judging.yaml", &other);
    assert_eq!(summary(&run(&sandbox, &[])), up_to_date, "the order of `with`");

    // The same rows with other spacing, fields in another order and letters written as escapes.
    let reformatted = |n: u32| {
        let row = problem(n);
        format!(
            "{{\"answer\" : {},  \"problem\":{}, \"id\":\"\\u0070{n}\" }}\n",
            row["answer"], row["problem"]
        )
    };
    sandbox.write("problems.jsonl", &(0..20).map(reformatted).collect::<String>());
    let plan = sandbox.dag(&["plan", "judging.yaml", "--json"]).expect(0).json();
    assert_eq!(plan["counts"]["hits"], 0, "the file is another one: {plan}");
    let ran = run(&sandbox, &[]);
    assert!(
        summary(&ran).starts_with("4 nodes: 1 ran, 3 up to date"),
        "only the table is made again: {}",
        ran.stderr
    );
    assert_eq!(server.calls(), 20);

    // It can tell: one other answer is judged, and nothing else.
    let edited = sandbox.read("problems.jsonl").replacen("\"answer\" : \"21\"", "\"answer\" : \"22\"", 1);
    sandbox.write("problems.jsonl", &edited);
    let ran = run(&sandbox, &[]);
    assert!(summary(&ran).starts_with("4 nodes: 4 ran, 0 up to date"), "{}", ran.stderr);
    assert_eq!((made_and_reused(&sandbox), server.calls()), ([(0, 20), (1, 19)], 21));
}
