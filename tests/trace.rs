//! `dag trace`: from every number of the table back to the rows behind it, and from every row on to the numbers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::{Ran, SMALL, Sandbox, experiments};

const FILE: &str = "experiments/mistral-nemo.yaml";

fn dag(sandbox: &Sandbox, command: &str, more: &[&str]) -> Ran {
    let arguments: Vec<&str> = [command, FILE].into_iter().chain(SMALL).chain(more.iter().copied()).collect();
    sandbox.dag(&arguments).expect(0)
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The ids of the rows of `node` that stand behind `cell`.
fn behind(sandbox: &Sandbox, cell: &str, node: &str) -> BTreeSet<String> {
    let sources = dag(sandbox, "trace", &[cell, "--json"]).json();
    let source = array(&sources).iter().find(|source| source["node"] == node);
    let rows = source.map(|source| &source["rows"]);
    assert!(rows.is_none_or(|rows| rows["exact"] == true), "{cell} from {node}: {rows:?}");
    let ids = rows.map(|rows| array(&rows["ids"])).unwrap_or_default();
    ids.iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// Every node that a row of `node` had a part in, with the ids of these rows: as a whole, and with a row of its own.
fn ahead(sandbox: &Sandbox, node: &str) -> [BTreeMap<String, BTreeSet<String>>; 2] {
    let trails = dag(sandbox, "trace", &[node, "--forward", "--head", "100000", "--json"]).json();
    let mut found = [BTreeMap::new(), BTreeMap::new()];
    for trail in array(&trails) {
        let id = trail["rows"][0]["record"]["id"].as_str().unwrap();
        for (found, part) in found.iter_mut().zip(["influenced", "rows"]) {
            for one in array(&trail[part]) {
                let reached: &mut BTreeSet<String> =
                    found.entry(one["node"].as_str().unwrap().to_owned()).or_default();
                reached.insert(id.to_owned());
            }
        }
    }
    found
}

#[test]
fn every_cell_leads_to_its_source_rows_and_they_lead_to_it() {
    let sandbox = experiments();
    dag(&sandbox, "run", &[]);
    let lineage = dag(&sandbox, "trace", &["table", "--json"]).json();
    let cells: Vec<&str> = array(&lineage)
        .iter()
        .filter(|source| source["task"] == "evaluate")
        .map(|source| source["node"].as_str().unwrap())
        .collect();
    assert_eq!(cells.len(), 9, "{cells:?}");

    let [trained_on, rows] = ahead(&sandbox, "problems");
    for cell in &cells {
        let back = behind(&sandbox, cell, "problems");
        assert_eq!(back, trained_on.get(*cell).cloned().unwrap_or_default(), "{cell}");
        assert_eq!(back.is_empty(), cell.starts_with("base_evaluated"), "{cell}");
    }
    // Some problems were lost at the judge, and are seen where they were lost but in no number.
    assert!(trained_on["evaluated@r1/1/short-sums"].len() < rows["problems"].len());
    assert_eq!(
        rows["both_correct"], rows["problems"],
        "kept or dropped, each stands in an output of the filter"
    );

    for benchmark in ["short-sums", "long-sums", "longer-than-trained"] {
        let node = format!("benchmark_problems@{benchmark}");
        let [_, asked] = ahead(&sandbox, &node);
        for cell in cells.iter().filter(|cell| cell.ends_with(benchmark)) {
            assert_eq!(behind(&sandbox, cell, &node), asked[*cell], "{cell}");
            assert_eq!(asked[*cell].len(), 6, "{cell}");
        }
        assert!(asked.keys().all(|node| node.ends_with(benchmark)), "{:?}", asked.keys());
    }
}

#[test]
fn a_record_is_followed_to_its_tokens_and_to_the_steps_that_took_them() {
    let sandbox = experiments();
    dag(&sandbox, "run", &[]);
    let kept = dag(&sandbox, "show", &["both_correct", "--head", "1", "--json"]).json();
    let id = kept["content"]["rows"][0]["id"].as_str().unwrap().to_owned();
    let meant = format!("id == '{id}'");
    let shown = dag(&sandbox, "trace", &["problems", "--where", &meant, "--forward"]).stdout;
    for words in
        ["→ r1_traces.responses", "→ judged@gpt-oss.judged", "→ packs@r1.packs", ", tokens ", "verdict=match"]
    {
        assert!(shown.contains(words), "no `{words}`:\n{shown}");
    }
    let trails = dag(&sandbox, "trace", &["problems", "--where", &meant, "--forward", "--json"]).json();
    let [trail] = array(&trails) else { panic!("{trails}") };
    for arm in ["r1", "gpt-oss"] {
        let packs: Vec<&Value> =
            array(&trail["rows"]).iter().filter(|row| row["node"] == format!("packs@{arm}")).collect();
        let [pack] = packs.as_slice() else { panic!("{packs:?}") };
        assert!(pack["note"].as_str().unwrap().starts_with("pack "), "{pack}");
    }
    let model = format!("trained on it at step {}", trail["influenced"][0]["steps"][0]);
    assert!(shown.contains(&model), "{shown}");

    // Back again, from the same record: the whole way to the row of the data set.
    let back = dag(&sandbox, "trace", &["both_correct", "--where", &meant]).stdout;
    for words in ["← judged@r1.judged", "← oss_traces.responses", "← problems.records"] {
        assert!(back.contains(words), "no `{words}`:\n{back}");
    }
    // A model holds no records, and says where to look for them.
    let arguments: Vec<&str> =
        ["trace", FILE].into_iter().chain(SMALL).chain(["trained@r1/1", "--forward"]).collect();
    let refused = sandbox.dag(&arguments).expect(2);
    assert!(refused.stderr.contains("holds no table of records"), "{}", refused.stderr);
}
