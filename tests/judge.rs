//! The judge at a shell: what each edit of it asks, its controls, and the queue of what the rules see otherwise.

use serde_json::{Value, json};

use crate::mock::{Behaviour, Mock};
use crate::support::{Ran, Sandbox};

const ROWS: u64 = 30;

/// Problems with distinct answers, labelled; a teacher that is wrong now and then; a judge behind a server.
const JUDGED: &str = r"
name: judged
seed: 17
params: { controls: 0, synonyms: false, part: final, label: null, max_false: 1.0, policy: drop }
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
      prompt_file: prompt.md
      shortcuts: [no_answer]
      part: $(part)
      controls: $(controls)
      synonyms: $(synonyms)
      label: $(label)
      without_verdict: $(policy)
      max_control_false_match: $(max_false)
    run: { base_url: $(address), concurrency: 8 }
";

/// A judge that takes answers for equal that are both even or both odd.
fn lenient(question: &str) -> String {
    let block = |tag: &str| {
        let inside = question.split(&format!("<{tag}>\n")).nth(1).unwrap();
        inside.split(&format!("\n</{tag}>")).next().unwrap().to_owned()
    };
    let (answer, reference) = (block("GENERATED_ANSWER"), block("CORRECT_ANSWER"));
    let boxed = answer.rsplit("\\boxed{").next().unwrap().split('}').next().unwrap().to_owned();
    let [found, right] = [boxed.as_str(), reference.as_str()].map(|text| text.parse::<i64>().unwrap());
    let verdict = if (found - right) % 2 == 0 { "MATCH" } else { "MISMATCH" };
    format!("<think>\n{boxed} or {reference}?\n</think>\n\n**{verdict}**")
}

fn judged(server: &Mock) -> Sandbox {
    let problem = |n: u64| {
        let answer = (n + 7) * 3 % 1000;
        // The label is that of the problem: whether its reference is even, which no judge knows.
        json!({ "id": format!("p{n}"), "problem": format!("{n}+7*3 mod 1000?"), "answer": answer.to_string(), "even": answer.is_multiple_of(2) })
            .to_string()
            + "\n"
    };
    let sandbox = Sandbox::new();
    sandbox.write("judged.yaml", &JUDGED.replace("$(address)", server.address()));
    sandbox.write("problems.jsonl", &(0..ROWS).map(problem).collect::<String>());
    sandbox.write("prompt.md", "Say **MATCH** or **MISMATCH**.\n");
    sandbox
}

fn dag(sandbox: &Sandbox, command: &[&str], set: &[&str]) -> Ran {
    let set = set.iter().flat_map(|set| ["--set", *set]);
    let arguments: Vec<&str> = command.iter().copied().chain(set).collect();
    sandbox.dag(&arguments)
}

fn rows(shown: &Value) -> &Vec<Value> {
    shown["content"]["rows"].as_array().unwrap()
}

#[test]
fn edits_of_a_judge_ask_what_they_must() {
    let server = Mock::start(Behaviour::of(lenient));
    let sandbox = judged(&server);
    let calls = |set: &[&str]| {
        let before = server.calls();
        dag(&sandbox, &["run", "judged.yaml"], set).expect(0);
        server.calls() - before
    };
    assert_eq!(calls(&[]), ROWS);
    assert_eq!(calls(&[]), 0, "a second run");
    for set in ["synonyms=true", "policy=count_as_mismatch", "label=even", "max_false=0.9"] {
        assert_eq!(calls(&[set]), 0, "{set}");
    }

    let controls = ["controls=5"];
    let plan = dag(&sandbox, &["plan", "judged.yaml", "--json"], &controls).expect(0).json();
    assert_eq!(plan["estimate"]["records"], json!(ROWS + 10), "{plan}");
    assert_eq!(calls(&controls), 10, "only the controls");
    assert_eq!(calls(&["controls=5", "max_false=0.9"]), 0);
    assert_eq!(calls(&["controls=7"]), 4);

    // The last word is the box, which is all that follows the thinking: what is shown is the same. The word before is not.
    assert_eq!(calls(&["part={last_words: 1}"]), 0);
    assert_eq!(calls(&["part={last_words: 2}"]), ROWS);
    assert_eq!(calls(&["part=final"]), 0);

    sandbox.write("prompt.md", "Say **MATCH** or **MISMATCH**, and think.\n");
    assert_eq!(calls(&controls), ROWS + 10, "another prompt");
}

#[test]
fn the_queue_of_disagreements_is_looked_at_from_a_shell() {
    let server = Mock::start(Behaviour::of(lenient));
    let sandbox = judged(&server);
    let set = ["controls=5", "label=even"];
    dag(&sandbox, &["run", "judged.yaml"], &set).expect(0);
    let show = |node: &str, condition: &[&str]| {
        let command = ["show", "judged.yaml", node, "--json", "--head", "1000"];
        dag(&sandbox, &[&command[..], condition].concat(), &set).expect(0).json()
    };
    let all = show("judged", &[]);
    let queue = show("judged", &["--where", "disagrees"]);
    let expected: Vec<&Value> = rows(&all)
        .iter()
        .filter(|row| row["match"] == json!(true) && row["rules_verdict"] == "mismatch")
        .collect();
    assert!(!expected.is_empty(), "the judge is lenient where the teacher errs");
    assert_eq!(rows(&queue).iter().collect::<Vec<_>>(), expected);
    let agreement = &all["metrics"]["agreement"];
    assert_eq!(agreement["match_of_model_only"], json!(expected.len()));
    assert_eq!(agreement["agreed"]["count"], json!(rows(&all).len() - expected.len()));
    let kappa = agreement["kappa"].as_f64().unwrap();
    assert!(kappa > 0.0 && kappa < 1.0, "{agreement}");
    assert_eq!(all["metrics"]["quality"]["model"]["labelled"], json!(ROWS));

    let controls = show("judged.controls", &["--where", "control == 'other_reference' and match"]);
    let false_match = &all["metrics"]["controls"]["false_match"];
    assert_eq!(false_match["of"], json!(5));
    assert_eq!(false_match["count"], json!(rows(&controls).len()));
}
