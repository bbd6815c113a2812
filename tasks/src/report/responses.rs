//! What the page's browser of responses shows: every problem, and what each arm answered.
//!
//! Each table of graded responses is read once, in its own order, and written on as blocks (see `blocks`). What stays in memory, and is
//! the block that the page loads first, is the index: the texts of the problems, and four small numbers for each response.
use std::path::Path;

use dag_engine::context::Input;
use dag_engine::task::{TaskCx, TaskError};
use indexmap::map::Entry;
use indexmap::{IndexMap, IndexSet};
use math_core::MathDisplay;
use serde::Serialize;
use serde_json::Value;

use super::blocks::{Blocks, Inline, Place};
use super::gather::arm_label;
use super::mathml::{Piece, Renderer};
use super::page::class_of;
use super::{Params, Trace};
use crate::responses::{id_of, text};
use crate::table::{Row, TableReader};

/// A problem's text in the index, where it is searched and listed, ends here; in full it is in a block.
const SEARCHED: usize = 2000;

/// The columns that are read, those of them that a table has.
const COLUMNS: [&str; 19] = [
    "id",
    "repeat",
    "record_key",
    "messages",
    "response",
    "reasoning",
    "answer_text",
    "finish_reason",
    "output_tokens",
    "error",
    "problem",
    "answer",
    "extracted",
    "rung",
    "correct",
    "verdict",
    "rule",
    "vote",
    "no_answer",
];

/// The index of all responses.
#[derive(Debug, Default, Serialize)]
pub(super) struct Index {
    /// Those who answered: an arm, or one replicate of it.
    pub(super) columns: Vec<Column>,
    /// As a list of pairs: names are anyone's, and a browser would sort those that are numbers.
    #[serde(serialize_with = "indexmap::map::serde_seq::serialize")]
    benchmarks: IndexMap<String, Benchmark>,
    /// What the commands name.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<Trace>,
}

/// Who answered.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Column {
    pub(super) arm: String,
    pub(super) is_base: bool,
    /// Which of several replicates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) replicate: Option<String>,
    /// The class of its colour, as in the figures.
    class: String,
}

/// One benchmark.
#[derive(Debug, Default, Serialize)]
struct Benchmark {
    /// For each column: where its node stands on its axes. None where it has no results here.
    nodes: Vec<Option<Vec<String>>>,
    #[serde(serialize_with = "indexmap::map::serde_seq::serialize")]
    items: IndexMap<String, Item>,
}

/// A problem.
#[derive(Debug, Default, Serialize)]
struct Item {
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    gold: Option<String>,
    /// Where the whole text is.
    place: [u32; 2],
    /// For each column its responses: repeat, facts, tokens, and where its text is, if it is there.
    responses: Vec<Vec<Vec<u64>>>,
}

/// Bits of what is known of a response.
mod fact {
    pub(super) const CORRECT: u64 = 1;
    pub(super) const TRUNCATED: u64 = 2;
    pub(super) const NO_ANSWER: u64 = 4;
    /// It could not be had.
    pub(super) const FAILED: u64 = 8;
    /// Its gold answer is beyond the grader.
    pub(super) const UNGRADABLE: u64 = 16;
    /// Its tokens are not known.
    pub(super) const UNCOUNTED: u64 = 32;
}

/// A problem as a block holds it.
#[derive(Serialize)]
struct Problem<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    /// The text with its formulas, where it has any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shown: Vec<Piece>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gold: Vec<Piece>,
    /// What was put to the model.
    #[serde(skip_serializing_if = "Value::is_null")]
    messages: Value,
}

/// A response as a block holds it.
#[derive(Serialize)]
struct Response<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<&'a str>,
    /// The answer with its formulas, where it has any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shown: Vec<Piece>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extracted: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    extracted_shown: Vec<Piece>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rung: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// Writes the blocks below `page`, and gives those that belong into the page itself, with the index.
pub(super) fn write(params: &Params, cx: &TaskCx, page: &Path) -> Result<(Index, Vec<Inline>), TaskError> {
    let mut writer = Writer {
        most: params.responses.unwrap_or(u32::MAX),
        renderer: Renderer::new(),
        blocks: Blocks::new(page),
        index: Index { trace: params.trace.clone(), ..Index::default() },
    };
    for (port, is_base) in [("results", false), ("base", true)] {
        for input in cx.inputs(port) {
            let arm = if is_base { params.base_label.clone() } else { arm_label(params, input) };
            let column = writer.column(params, input, arm, is_base);
            writer.read(params, input, column)?;
        }
    }
    if writer.index.columns.is_empty() {
        return Ok((writer.index, Vec::new()));
    }
    writer.index.square();
    let inline = writer.blocks.finish(&writer.index)?;
    Ok((writer.index, inline))
}

impl Index {
    /// Gives every list an entry for every column.
    fn square(&mut self) {
        let columns = self.columns.len();
        for benchmark in self.benchmarks.values_mut() {
            benchmark.nodes.resize(columns, None);
            for item in benchmark.items.values_mut() {
                item.responses.resize(columns, Vec::new());
            }
        }
    }
}

struct Writer {
    /// How many responses to a problem are kept with their texts.
    most: u32,
    renderer: Renderer,
    blocks: Blocks,
    index: Index,
}

impl Writer {
    /// The column of an input: one for each replicate of each arm.
    fn column(&mut self, params: &Params, input: &Input, arm: String, is_base: bool) -> usize {
        let replicate = input.coordinates.get(&params.replicate_axis).cloned();
        let columns = &mut self.index.columns;
        let is_it =
            |column: &Column| column.arm == arm && column.is_base == is_base && column.replicate == replicate;
        columns.iter().position(is_it).unwrap_or_else(|| {
            let arms: IndexSet<&str> =
                columns.iter().filter(|column| !column.is_base).map(|column| column.arm.as_str()).collect();
            let class = class_of(is_base, arms.get_index_of(arm.as_str()).unwrap_or(arms.len()));
            columns.push(Column { arm, is_base, replicate, class });
            columns.len() - 1
        })
    }

    fn read(&mut self, params: &Params, input: &Input, column: usize) -> Result<(), TaskError> {
        let name =
            input.coordinates.get(&params.benchmark_axis).cloned().unwrap_or_else(|| "benchmark".to_owned());
        let nodes = &mut self.index.benchmarks.entry(name.clone()).or_default().nodes;
        if nodes.len() <= column {
            nodes.resize(column + 1, None);
        }
        nodes[column] = Some(input.coordinates.values().cloned().collect());
        let table = TableReader::open(input.path.join("graded.parquet"))?;
        let columns: Vec<&str> = table.schema().names().filter(|name| COLUMNS.contains(name)).collect();
        for row in table.rows_of(&columns)? {
            self.row(&name, column, &row?)?;
        }
        Ok(())
    }

    fn row(&mut self, benchmark: &str, column: usize, row: &Row) -> Result<(), TaskError> {
        let Self { most, renderer, blocks, index } = self;
        let (Some(id), Some(benchmark)) = (id_of(row), index.benchmarks.get_mut(benchmark)) else {
            return Ok(());
        };
        let item = match benchmark.items.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(item(row, renderer, blocks)?),
        };
        if item.responses.len() <= column {
            item.responses.resize(column + 1, Vec::new());
        }
        let responses = &mut item.responses[column];
        let repeat = row.get("repeat").and_then(Value::as_u64).unwrap_or(responses.len() as u64);
        let tokens = row.get("output_tokens").and_then(Value::as_u64).unwrap_or_default();
        let mut known = vec![repeat, facts(row), tokens];
        if responses.len() < *most as usize {
            let Place { block, index } = blocks.push(&response(row, renderer))?;
            known.extend([u64::from(block), u64::from(index)]);
        }
        responses.push(known);
        Ok(())
    }
}

/// A problem, from the first of its responses. All arms were asked the same.
fn item(row: &Row, renderer: &Renderer, blocks: &mut Blocks) -> Result<Item, TaskError> {
    let messages = row.get("messages").cloned().unwrap_or_default();
    let asked = messages.as_array().and_then(|all| all.last()?.get("content")?.as_str());
    let text = text(row, "problem").or(asked);
    let gold = match row.get("answer") {
        Some(Value::String(gold)) => Some(gold.clone()),
        Some(Value::Number(gold)) => Some(gold.to_string()),
        _ => None,
    };
    let problem = Problem {
        text,
        shown: text.map_or_else(Vec::new, |text| renderer.pieces(text)),
        gold: gold.as_deref().map_or_else(Vec::new, |gold| answer_shown(gold, renderer)),
        messages: if asked == text { Value::Null } else { messages.clone() },
    };
    let Place { block, index } = blocks.push(&problem)?;
    let text = text.unwrap_or_default().chars().take(SEARCHED).collect();
    Ok(Item { text, gold, place: [block, index], responses: Vec::new() })
}

fn facts(row: &Row) -> u64 {
    let is = |column: &str| row.get(column).and_then(Value::as_bool);
    let is_failed = text(row, "verdict") == Some("error");
    let has_no_answer = is("no_answer").unwrap_or(text(row, "vote").is_none());
    let known = [
        (fact::CORRECT, is("correct") == Some(true)),
        (fact::TRUNCATED, text(row, "finish_reason") == Some("length")),
        (fact::NO_ANSWER, has_no_answer && !is_failed),
        (fact::FAILED, is_failed),
        (fact::UNGRADABLE, is("correct").is_none() && !is_failed),
        (fact::UNCOUNTED, row.get("output_tokens").is_none_or(Value::is_null)),
    ];
    known.iter().filter(|(_, holds)| *holds).map(|(bit, _)| bit).sum()
}

fn response<'a>(row: &'a Row, renderer: &Renderer) -> Response<'a> {
    // Results of another program may hold the response whole.
    let answer = text(row, "answer_text").or(text(row, "response"));
    let extracted = text(row, "extracted");
    Response {
        key: text(row, "record_key"),
        thinking: text(row, "reasoning"),
        answer,
        shown: answer.map_or_else(Vec::new, |answer| renderer.pieces(answer)),
        extracted,
        extracted_shown: extracted.map_or_else(Vec::new, |answer| answer_shown(answer, renderer)),
        rung: text(row, "rung"),
        verdict: text(row, "verdict"),
        rule: text(row, "rule"),
        error: text(row, "error"),
    }
}

/// A bare answer such as `\frac{1}{2}`. One without a command reads as well as it is written.
fn answer_shown(answer: &str, renderer: &Renderer) -> Vec<Piece> {
    if !answer.contains(['\\', '^']) {
        return Vec::new();
    }
    if answer.contains('$') {
        return renderer.pieces(answer);
    }
    renderer.markup(answer, MathDisplay::Inline).map(Piece::Math).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use base64::Engine as _;
    use serde_json::json;

    use super::super::{Report, blocks};
    use super::*;
    use crate::table::testing::table;
    use dag_engine::task::Task;

    const HOSTILE: &str =
        "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u{2028}\u{202e}\0\"'`${alert(3)}";

    /// What `evaluate` writes of a response.
    fn row(id: &str, repeat: u64, correct: &Value, answer: &str) -> Value {
        json!({
            "id": id, "repeat": repeat, "record_key": format!("{repeat:064x}"),
            "messages": [{"role": "user", "content": "Solve: what is $x^2$?"}], "problem": "what is $x^2$?", "answer": r"\frac{1}{2}",
            "response": format!("<think>hm {HOSTILE}</think>{answer}"), "reasoning": format!("hm {HOSTILE}"), "answer_text": answer,
            "finish_reason": if repeat == 1 { "length" } else { "stop" }, "output_tokens": 10 + repeat, "error": null,
            "extracted": r"\frac12", "rung": "boxed", "correct": correct, "verdict": "correct", "rule": "rational", "vote": "1/2", "no_answer": false,
        })
    }

    /// A report on two arms: one answers two problems twice, the other, in another order, one of them once.
    fn report(directory: &Path, params: Value) -> PathBuf {
        let answer = format!(r"so \boxed{{\frac12}} {HOSTILE}");
        let r1 = [
            row(HOSTILE, 0, &json!(true), &answer),
            row(HOSTILE, 1, &json!(false), "cut"),
            row("7", 0, &json!(null), "?"),
            row("7", 1, &json!(true), "7"),
        ];
        let failed = json!({"id": "7", "repeat": 0, "verdict": "error", "error": "refused", "finish_reason": "error", "correct": null});
        let others = [failed, row(HOSTILE, 0, &json!(false), "no")];
        let mut cx = TaskCx::for_test(directory);
        for (arm, rows) in [("r1", json!(r1)), (HOSTILE, json!(others))] {
            let folder = directory.join(format!("arm{}", arm.len()));
            std::fs::create_dir_all(&folder).unwrap();
            table(folder.join("graded.parquet"), rows);
            cx = cx.input_at("results", folder, &[("arm", arm), ("benchmark", "aime")]);
        }
        let mut cx = cx.build().unwrap();
        Report::run(&serde_json::from_value(params).unwrap(), &mut cx).unwrap();
        cx.output("report")
    }

    #[test]
    fn every_response_is_where_the_index_says() {
        let directory = tempfile::tempdir().unwrap();
        let trace = json!({"file": "x.yaml", "results": "evaluated"});
        let folder = report(directory.path(), json!({ "trace": trace }));
        let index = blocks::read(&folder, "index");
        assert_eq!(
            index["columns"],
            json!([{"arm": "r1", "is_base": false, "class": "s0"}, {"arm": HOSTILE, "is_base": false, "class": "s1"}])
        );
        assert_eq!(index["trace"]["file"], "x.yaml");
        let [name, benchmark] = index["benchmarks"][0].as_array().unwrap().as_slice() else {
            panic!("{index}")
        };
        assert_eq!((name, &benchmark["nodes"][0]), (&json!("aime"), &json!(["r1", "aime"])));
        let items = benchmark["items"].as_array().unwrap();
        assert_eq!((&items[0][0], &items[1][0]), (&json!(HOSTILE), &json!("7")));
        let first = &items[0][1];
        let found = |place: &Value| {
            blocks::read(&folder, &place[0].to_string())[place[1].as_u64().unwrap() as usize].clone()
        };
        let problem = found(&first["place"]);
        assert_eq!(
            (&problem["text"], problem["messages"][0]["content"].as_str()),
            (&json!("what is $x^2$?"), Some("Solve: what is $x^2$?"))
        );
        assert!(problem["shown"][1][0].as_str().unwrap().starts_with("<math>"));
        assert!(problem["gold"][0][0].as_str().unwrap().contains("<mfrac>"));
        let responses = &first["responses"];
        assert_eq!(
            json!([responses[0][0][0], responses[0][0][1], responses[0][0][2]]),
            json!([0, fact::CORRECT, 10])
        );
        assert_eq!(responses[0][1][1], json!(fact::TRUNCATED));
        assert_eq!(items[1][1]["responses"][0][0][1], json!(fact::UNGRADABLE));
        assert_eq!(items[1][1]["responses"][1][0][1], json!(fact::FAILED | fact::UNCOUNTED));
        let place = |response: &Value| found(&json!([response[3], response[4]]));
        let right = place(&responses[0][0]);
        assert_eq!(right["thinking"], format!("hm {HOSTILE}"));
        assert!(
            right["answer"].as_str().unwrap().ends_with(HOSTILE)
                && right["shown"][1][0].as_str().unwrap().contains(r#"class="boxed""#)
        );
        assert_eq!(place(&responses[1][0])["answer"], "no");
        assert_eq!(place(&items[1][1]["responses"][1][0]), json!({"verdict": "error", "error": "refused"}));
    }

    #[test]
    fn the_page_holds_no_text_of_a_model_outside_its_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let folder = report(directory.path(), json!({ "title": HOSTILE }));
        let page = std::fs::read_to_string(folder.join("index.html")).unwrap();
        for part in ["alert(1)</script>", "<img", "\u{2028}", "\u{202e}", "\0", "refused", "<think>"] {
            assert!(!page.contains(part), "{part:?}");
        }
        // Two blocks, and the page's own script.
        assert_eq!(page.matches("<script").count(), 3);
        for (start, end) in [("<style>", "</style>"), ("<script>", "</script>")] {
            let text = page.split(start).nth(1).unwrap().split(end).next().unwrap();
            let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
            let hash = base64::engine::general_purpose::STANDARD.encode(digest);
            assert!(page.contains(&format!("'sha256-{hash}'")), "{start}");
        }
    }

    #[test]
    fn texts_beyond_the_number_asked_for_are_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let folder = report(directory.path(), json!({ "responses": 1 }));
        let index = blocks::read(&folder, "index");
        let responses = &index["benchmarks"][0][1]["items"][0][1]["responses"][0];
        assert_eq!((responses[0].as_array().unwrap().len(), responses[1].as_array().unwrap().len()), (5, 3));
        let none = report(&directory.path().join("none"), json!({ "responses": 0 }));
        assert_eq!(blocks::read(&none, "0").as_array().unwrap().len(), 2, "the problems");
    }
}
