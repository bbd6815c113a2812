//! `dag grade`: the grader by itself, on one answer or on a file of cases.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::path::Path;
use std::sync::Arc;

use dag_engine::params::bind_typed;
use dag_engine::spec::source::{Sources, Span};
use dag_engine::spec::{Diagnostics, yaml};
use dag_tasks::math::{self, Canonical, Graded, Policy, Refusal};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::args::Grade;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::text::Text;

/// Cases between two writes: a file of a hundred thousand is read, graded and written in a second or two.
const BATCH: usize = 1000;

pub fn run(arguments: &Grade, context: &Context) -> Outcome {
    let policy = policy(&arguments.policy)?;
    match (&arguments.file, &arguments.gold, &arguments.prediction) {
        (Some(file), ..) => every_case(file, arguments, &policy, context),
        (None, Some(gold), Some(prediction)) => {
            let graded = math::grade_any(gold, prediction, &policy);
            if context.json {
                return context.printer.json(&Told::new(None, gold, graded, &policy, arguments.explain));
            }
            let mut text = verdict(&graded).line();
            if arguments.explain {
                text = text.then(explained(gold, &graded, &policy));
            }
            context.printer.data(&text)
        }
        _ => Err(Failure::user("`dag grade` takes a gold answer and a prediction, or `--file`")),
    }
}

/// Grades a file line by line. It is not held in memory.
fn every_case(path: &Path, arguments: &Grade, policy: &Policy, context: &Context) -> Outcome {
    let name = path.display().to_string();
    let unreadable = |error: std::io::Error| Failure::user(format!("`{name}` cannot be read: {error}"));
    let mut reader: Box<dyn BufRead> = if name == "-" {
        Box::new(stdin().lock())
    } else {
        Box::new(BufReader::with_capacity(1 << 20, File::open(path).map_err(unreadable)?))
    };
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut lines: Vec<Told> = Vec::new();
    let mut words = Text::new();
    let mut line = Vec::new();
    for number in 1_usize.. {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(unreadable)? == 0 {
            break;
        }
        let text = line.trim_ascii_end();
        if text.is_empty() {
            continue;
        }
        let case = case(text).map_err(|fault| {
            Failure::user(format!("{name}:{number}: {fault}"))
                .hint("a case is an object such as {\"gold\": \"1/2\", \"prediction\": \"\\\\boxed{0.5}\"}, one a line")
        });
        let case = match case {
            Ok(case) => case,
            Err(failure) => {
                // What was graded before it is not lost.
                context.printer.json_lines(&lines)?;
                context.printer.data(&words)?;
                return Err(failure);
            }
        };
        let graded = math::grade_any(&case.gold, &case.prediction, policy);
        *counts.entry(graded.verdict.name()).or_default() += 1;
        if context.json {
            lines.push(Told::new(case.id, &case.gold, graded, policy, arguments.explain));
        } else {
            let id = case.id.map_or_else(
                || number.to_string(),
                |id| id.as_str().map_or_else(|| id.to_string(), str::to_owned),
            );
            words = words.then(verdict(&graded)).plain("  ").faint(id).line();
            if arguments.explain {
                words = words.then(explained(&case.gold, &graded, policy));
            }
        }
        if number % BATCH == 0 {
            context.printer.json_lines(&std::mem::take(&mut lines))?;
            context.printer.data(&std::mem::take(&mut words))?;
        }
    }
    context.printer.json_lines(&lines)?;
    context.printer.data(&words)?;
    let total: u64 = counts.values().sum();
    let counted: Vec<String> = counts.iter().map(|(verdict, count)| format!("{count} {verdict}")).collect();
    context.printer.note(&Text::new().plain(format!("{total} graded: {}", counted.join(", "))).line());
    Ok(())
}

struct Case {
    id: Option<Value>,
    gold: String,
    prediction: String,
}

fn case(line: &[u8]) -> Result<Case, String> {
    let value: Value = serde_json::from_slice(line).map_err(|error| format!("this is no JSON: {error}"))?;
    let Value::Object(mut fields) = value else { return Err("this is no object".to_owned()) };
    let mut take = |name: &str| match fields.remove(name) {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Number(number)) => Ok(number.to_string()),
        // A response that never came has no answer.
        Some(Value::Null) if name == "prediction" => Ok(String::new()),
        Some(_) => Err(format!("`{name}` is neither a text nor a number")),
        None => Err(format!("there is no `{name}`")),
    };
    let (gold, prediction) = (take("gold")?, take("prediction")?);
    Ok(Case { id: fields.remove("id"), gold, prediction })
}

/// The policy that the options make.
fn policy(options: &[String]) -> Result<Policy, Failure> {
    let mut fields = Map::new();
    fields.insert("last_number".to_owned(), json!(true));
    for option in options {
        let is_key = |key: &str| key.trim().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        if let Some((key, value)) = option.split_once('=').filter(|(key, _)| is_key(key)) {
            fields.insert(key.trim().to_owned(), read(option, value)?);
            continue;
        }
        let (name, text) = if option.trim_start().starts_with('{') {
            ("--policy", option.clone())
        } else {
            let text = std::fs::read_to_string(option).map_err(|error| {
                Failure::user(format!("`--policy {option}` is neither KEY=VALUE nor a file: {error}"))
                    .hint("write it as `--policy percent=factor`")
            })?;
            (option.as_str(), text)
        };
        match read(name, &text)? {
            Value::Object(more) => fields.extend(more),
            _ => return Err(Failure::user(format!("`{name}` holds no fields of `grading:`"))),
        }
    }
    bind_typed(&Value::Object(fields)).map_err(|error| {
        let field = error.pointer.trim_start_matches('/');
        let place = if field.is_empty() { String::new() } else { format!(" at `{field}`") };
        Failure::user(format!("the policy is wrong{place}: {}", error.message))
            .hint("docs/grading.md lists its fields")
    })
}

/// Reads YAML: a scalar, a flow list or map, or a whole document.
fn read(name: &str, text: &str) -> Result<Value, Failure> {
    let mut sources = Sources::default();
    let source = sources.add(name, Path::new(""), text);
    let mut faults = Vec::new();
    let tree = if text.contains('\n') || text.contains(": ") {
        yaml::parse(&sources, source, &mut faults)
    } else {
        yaml::parse_inline(text, Span { source, start: 0, length: 0 }, &mut faults)
    };
    match tree {
        Some(tree) if faults.is_empty() => Ok(tree.to_json()),
        _ => {
            let faults = Diagnostics::new(Arc::new(sources), faults);
            Err(Failure::user(format!("the policy cannot be read: {}", faults.to_string().trim())))
        }
    }
}

fn verdict(graded: &Graded) -> Text {
    let name = graded.verdict.name();
    let text = match graded.verdict {
        math::Verdict::Correct => Text::new().good(name),
        math::Verdict::Incorrect => Text::new().bad(name),
        _ => Text::new().warn(name),
    };
    text.plain("  ").plain(graded.rule.name())
}

/// How the answer was found, what both sides were taken for and what decided.
fn explained(gold: &str, graded: &Graded, policy: &Policy) -> Text {
    let row =
        |text: Text, name: &str, what: String| text.faint(format!("  {name}")).pad_to(14).plain(what).line();
    let side = |answer: &str| match math::canonical(answer, policy) {
        Ok(form) => taken(&form),
        Err(Refusal::Empty) => "empty".to_owned(),
        Err(Refusal::TooLong) => "too long to be looked at".to_owned(),
    };
    let gold = math::gold_answer(gold, policy);
    let mut text = row(Text::new(), "gold", format!("{}   {}", short(&gold), side(&gold)));
    text = match &graded.extracted {
        Some(found) => {
            let boxes = match found.boxes {
                0 | 1 => String::new(),
                count => format!(", the last of {count} boxes"),
            };
            let text = row(text, "prediction", format!("{}   {}", short(&found.answer), side(&found.answer)));
            row(text, "found", format!("{}{boxes}", found.rung.name()))
        }
        None => row(text, "found", "nothing".to_owned()),
    };
    row(text, "decided", graded.rule.about().to_owned())
}

fn taken(form: &Canonical) -> String {
    let shown = form.shown();
    if form.is_understood() { format!("{}: {shown}", form.name()) } else { form.name().to_owned() }
}

/// One line of it.
fn short(text: &str) -> String {
    const MOST: usize = 60;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= MOST {
        line
    } else {
        format!("{}…", line.chars().take(MOST).collect::<String>())
    }
}

/// A graded case for programs, its fields in the order of their names.
#[derive(Serialize)]
struct Told {
    answer: Option<String>,
    boxes: usize,
    /// What both sides were taken for, where that is asked for; `null` where there is nothing to take.
    #[serde(skip_serializing_if = "Option::is_none")]
    gold: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prediction: Option<Value>,
    rule: &'static str,
    rung: Option<&'static str>,
    verdict: &'static str,
}

impl Told {
    fn new(id: Option<Value>, gold: &str, graded: Graded, policy: &Policy, explain: bool) -> Self {
        let found = graded.extracted;
        let side = |answer: &str| json!(math::canonical(answer, policy).ok().map(|form| taken(&form)));
        let prediction = || found.as_ref().map_or(Value::Null, |found| side(&found.answer));
        Self {
            gold: explain.then(|| side(&math::gold_answer(gold, policy))),
            prediction: explain.then(prediction),
            id,
            rule: graded.rule.name(),
            verdict: graded.verdict.name(),
            rung: found.as_ref().map(|found| found.rung.name()),
            boxes: found.as_ref().map_or(0, |found| found.boxes),
            answer: found.map(|found| found.answer),
        }
    }
}
