//! Another grading policy grades what is stored: no model is asked again, and `dag diff` names every verdict that changed.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::mock::{Behaviour, Mock};
use crate::support::Sandbox;

/// The answers of AIME 2025. Nine are below 100, and the official solutions print them as `070`.
const ANSWERS: [u32; 30] = [
    70, 588, 16, 117, 279, 504, 821, 77, 62, 81, 259, 510, 204, 60, 735, 468, 49, 82, 106, 336, 293, 237,
    610, 149, 907, 113, 19, 248, 104, 240,
];

const FILE: &str = r"
name: aime
nodes:
  problems: { task: dataset, with: { source: { path: problems.jsonl } } }
  graded:
    task: evaluate
    inputs: { problems: problems }
    with: { model: { backend: openai, name: padded }, repeats: 2, max_tokens: 64 }
    run: { base_url: SERVER }
";
const STRICT: &str = r"
name: aime
extends: aime.yaml
nodes:
  graded: { with: { grading: { leading_zeros: false } } }
";

/// Answers as AIME prints answers: three digits, zeros in front.
fn padded(asked: &str) -> String {
    let answer: u32 = asked.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
    format!("It is \\boxed{{{answer:03}}}.")
}

/// Runs the file, and says which run that was.
fn run_of(sandbox: &Sandbox, file: &str) -> String {
    sandbox.dag(&["run", file]).expect(0);
    // Not by `dag`, which hides what differs between two runs.
    let status = sandbox.command(&["status", "--json"]).output().unwrap().stdout;
    let runs: Value = serde_json::from_slice(&status).unwrap();
    runs[0]["run"].as_str().unwrap().to_owned()
}

#[test]
fn regrade_flips_exactly_the_answers_with_leading_zeros() {
    let server = Mock::start(Behaviour::of(padded));
    let sandbox = Sandbox::new();
    let problem = |(number, answer): (usize, &u32)| {
        json!({ "id": format!("aime25-{number}"), "problem": format!("Find {answer}"), "answer": answer })
            .to_string()
            + "\n"
    };
    sandbox.write("problems.jsonl", &ANSWERS.iter().enumerate().map(problem).collect::<String>());
    sandbox.write("aime.yaml", &FILE.replace("SERVER", server.address()));
    sandbox.write("strict.yaml", STRICT);

    let lenient = run_of(&sandbox, "aime.yaml");
    let asked = server.calls();
    let strict = run_of(&sandbox, "strict.yaml");
    assert_eq!(asked, 60);
    assert_eq!(server.calls(), asked, "what is stored is graded again, and no one is asked");

    let expected: BTreeSet<String> = (0..)
        .zip(ANSWERS)
        .filter(|(_, answer)| *answer < 100)
        .map(|(number, _): (usize, _)| format!("aime25-{number}"))
        .collect();
    assert_eq!(expected.len(), 9);
    for pair in [[lenient.as_str(), strict.as_str()], ["aime.yaml", "strict.yaml"]] {
        let found = sandbox.dag(&["diff", pair[0], pair[1], "--json"]).expect(0).json();
        let [regraded] = found["regraded"].as_array().unwrap().as_slice() else { panic!("{found}") };
        assert_eq!((&regraded["node"], &regraded["compared"]), (&json!("graded"), &json!(60)));
        let responses = regraded["responses"].as_array().unwrap();
        let ids: BTreeSet<String> =
            responses.iter().map(|response| response["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(ids, expected);
        assert_eq!(responses.len(), 18, "both samples of each");
        for response in responses {
            assert_eq!(response["verdict"][0], "correct");
            assert_ne!(response["verdict"][1], "correct");
            let [before, after] = [&response["rule"][0], &response["rule"][1]];
            assert!(before.is_string() && after.is_string(), "{response}");
        }
        let moved: Vec<&Value> = regraded["numbers"].as_array().unwrap().iter().collect();
        assert!(moved.contains(&&json!(["pass@1", 1.0, 0.7])), "{moved:?}");

        let shown = sandbox.dag(&["diff", pair[0], pair[1]]).expect(0).stdout;
        for words in
            ["18 of 60 responses judged otherwise, of 9 items", "aime25-2 #1", "correct (number) → ", "`016`"]
        {
            assert!(shown.contains(words), "no `{words}`:\n{shown}");
        }
    }
    // The other way round it is the other way round.
    let back = sandbox.dag(&["diff", &strict, &lenient]).expect(0).stdout;
    assert!(back.contains("pass@1 0.7000 → 1"), "{back}");
}
