//! `evaluate`: sample a benchmark from a model, grade it, give its numbers with their errors.
//!
//! Sampling and grading are apart: every response is a record (see `records`), and grading reads records.
//! So another grader, or another grading policy, grades what is stored and asks no model anything.
pub mod account;
mod nemo_skills;
pub mod score;

use std::path::Path;

use dag_engine::Digest;
use dag_engine::task::{
    ArtifactType, Environment, Estimate, EstimateInputs, Fault, Missing, Ports, ServiceUse, Task, TaskCx,
    TaskError,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::backend::{self, Backend, BackendRun, Failure, Message, ModelSpec, Reply, Sampling};
use crate::expression::{Scope, Template};
use crate::math::{self, Policy, Verdict};
use crate::records::{Prompt, Records, draw};
use crate::responses::{self, Asked};
use crate::survey;
use crate::table::{ColumnKind, Row, Schema, TableReader, TableWriter};
use account::Counter;
use score::{Graded, Metrics};

/// The params of `evaluate`. The defaults are the paper's: temperature 0.6, top-p 0.95, eight samples.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Which model answers; the one in the port `model` if it is left out.
    #[serde(default)]
    pub model: ModelSpec,
    /// The conversation that is put to the model; its texts are templates over the columns of the problems.
    #[serde(default = "ask_the_problem")]
    pub messages: Vec<Message>,
    /// How many responses to each problem.
    #[serde(default = "eight")]
    pub repeats: u32,
    /// Zero takes the likeliest token every time.
    #[serde(default = "temperature")]
    pub temperature: f64,
    /// The share of probability from which tokens are drawn.
    #[serde(default = "top_p")]
    pub top_p: f64,
    /// How many of the likeliest tokens are drawn from; all if it is left out.
    #[serde(default)]
    pub top_k: Option<u32>,
    /// Tokens less likely than this share of the likeliest are not drawn.
    #[serde(default)]
    pub min_p: Option<f64>,
    /// Makes tokens of the prompt and of the response so far less probable, as transformers does; one changes nothing.
    #[serde(default = "unit")]
    pub repetition_penalty: f64,
    /// Longest response in tokens; a longer one is cut off there and counted as truncated.
    #[serde(default = "longest")]
    pub max_tokens: u32,
    /// Texts that end a response.
    #[serde(default)]
    pub stop: Vec<String>,
    /// So many tokens inside `<think>`, then the thinking is ended for the model and it goes on; for the embedded runtime.
    #[serde(default)]
    pub thinking_budget: Option<u32>,
    /// How much a served model shall think: `low`, `medium`, `high`.
    #[serde(default)]
    pub reasoning_effort: Option<String>,
    /// Variables for the model's chat template, such as `enable_thinking: false`.
    #[serde(default)]
    pub template: Map<String, Value>,
    /// Another number draws other responses.
    #[serde(default)]
    pub seed: u64,
    /// The column with the gold answer.
    #[serde(default = "answer")]
    pub answer: String,
    /// How answers are found and compared.
    #[serde(default)]
    pub grading: Policy,
    /// What the benchmark is called in `nemo-skills/metrics.json`, which is in the form of NeMo-Skills.
    #[serde(default = "benchmark")]
    pub benchmark: String,
}

fn benchmark() -> String {
    "benchmark".into()
}

fn ask_the_problem() -> Vec<Message> {
    vec![Message { role: "user".into(), content: "{{ problem }}".into() }]
}

fn eight() -> u32 {
    8
}

fn unit() -> f64 {
    1.0
}

fn temperature() -> f64 {
    0.6
}

fn top_p() -> f64 {
    0.95
}

fn longest() -> u32 {
    32_768
}

fn answer() -> String {
    "answer".into()
}

impl Params {
    fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            max_tokens: self.max_tokens,
            repetition_penalty: self.repetition_penalty,
            stop: self.stop.clone(),
            thinking_budget: self.thinking_budget,
            logprobs: false,
            reasoning_effort: self.reasoning_effort.clone(),
            template: self.template.clone(),
        }
    }
}

/// The task kind.
pub struct Evaluate;

impl Task for Evaluate {
    const KIND: &'static str = "evaluate";
    // The grader decides bytes of the output, so its version is part of this one.
    const VERSION: u32 = 3000 + math::VERSION;
    const ABOUT: &'static str =
        "samples a benchmark from a model, grades it, and gives its numbers with their errors";
    type Params = Params;
    type Run = BackendRun;

    fn ports(params: &Params) -> Ports {
        let ports = Ports::new().input("problems", ArtifactType::Table);
        let ports = if params.model.enters() { ports.input("model", ArtifactType::Model) } else { ports };
        // The reference tokenizer, one for all models that are compared.
        ports.optional("tokenizer", ArtifactType::Model).output("results", ArtifactType::Results)
    }

    fn check(params: &Params) -> Vec<Fault> {
        let mut faults = params.sampling().check(&params.model, "");
        match &params.model {
            ModelSpec::Given(_) => {
                faults.push(Fault::new("/model", "an evaluation asks a model; it takes no given responses"));
            }
            model => faults.extend(backend::check(model, "/model")),
        }
        if params.repeats == 0 {
            faults.push(Fault::new("/repeats", "zero responses to each problem are no evaluation"));
        }
        if params.messages.is_empty() {
            faults.push(Fault::new("/messages", "a conversation has at least one message"));
        }
        for (index, message) in params.messages.iter().enumerate() {
            if let Err(what) = Template::parse(&message.content) {
                faults.push(Fault::new(format!("/messages/{index}/content"), what));
            }
        }
        faults
    }

    fn uses_seed(params: &Params) -> bool {
        matches!(params.model, ModelSpec::Scripted(_)) || params.sampling().is_random()
    }

    fn device(params: &Params, gpus: u32) -> Option<&'static str> {
        params.model.device(gpus)
    }

    fn check_run(params: &Params, run: &BackendRun) -> Vec<Fault> {
        backend::check_run(&params.model, run, "")
    }

    fn services(params: &Params, run: &BackendRun) -> Vec<ServiceUse> {
        backend::service_of(&params.model, run, "", "model").into_iter().collect()
    }

    fn preflight(params: &Params, run: &BackendRun, environment: &dyn Environment) -> Vec<Missing> {
        backend::preflight(&params.model, run, environment)
    }

    fn estimate(params: &Params, inputs: &EstimateInputs) -> Estimate {
        let most = inputs.most("problems").map(|rows| rows * u64::from(params.repeats));
        let problems = inputs.artifact("problems").and_then(|(path, _)| read_problems(params, path).ok());
        let wanted = problems.map(|problems| {
            let repeats = 0..params.repeats;
            problems
                .rows
                .into_iter()
                .map(move |problem| Ok(Prompt { messages: problem.messages, repeats: repeats.clone() }))
        });
        survey::of_prompts(inputs, &params.model, &params.sampling(), params.seed, wanted, most)
    }

    fn run(params: &Params, cx: &mut TaskCx) -> Result<(), TaskError> {
        let run: BackendRun = cx.run_options()?;
        let sampling = params.sampling();
        let problems = read_problems(params, &cx.input("problems")?.path)?;
        let backend = Backend::open(&params.model, cx.optional("model"), &run, cx)?.evaluated();
        let mut records = Records::open(cx, &backend, &sampling, draw(cx.seed(), params.seed))?;
        cx.progress().total(problems.rows.len() as u64 * u64::from(params.repeats));
        let prompt =
            |problem: &Problem| Prompt { messages: problem.messages.clone(), repeats: 0..params.repeats };
        records.ask(cx, &backend, &sampling, &mut problems.rows.iter().map(|problem| Ok(prompt(problem))))?;
        if cx.shard().is_some() {
            return records.settle(cx, run.allowed_failures());
        }

        let counter = Counter::open(cx)?;
        let folder = cx.output("results");
        let path = folder.join("graded.parquet");
        let mut table = TableWriter::create(&path, graded_schema(&problems.schema))?;
        for problem in &problems.rows {
            for repeat in 0..params.repeats {
                let key = records.key(&problem.messages, repeat);
                let outcome = records.outcome(&key, &backend)?;
                table.write(&graded_row(params, problem, repeat, &key, &outcome, &counter))?;
            }
        }
        let rows = table.finish()?;
        // From the table and not from memory: `report` reads the same, so the two cannot differ.
        let metrics = Metrics { tokenizers: counter.tokenizers(), ..Graded::read(&path)?.metrics() };
        write_json(&folder.join("metrics.json"), &metrics)?;
        let parity = folder.join("nemo-skills");
        std::fs::create_dir_all(&parity).map_err(|error| TaskError::io(&parity, error))?;
        write_json(&parity.join("metrics.json"), &nemo_skills::metrics(&params.benchmark, &path)?)?;
        tell(cx, rows, &metrics);
        records.settle(cx, run.allowed_failures())
    }
}

/// The problems of a benchmark. They are few, so they wait in memory.
struct Problems {
    schema: Schema,
    rows: Vec<Problem>,
}

struct Problem {
    row: Row,
    id: String,
    gold: String,
    /// Whether the grader understands the gold answer.
    is_gradable: bool,
    messages: Vec<Message>,
}

fn read_problems(params: &Params, path: &Path) -> Result<Problems, TaskError> {
    let templates: Vec<(&str, Template)> = params
        .messages
        .iter()
        .map(|message| Ok((message.role.as_str(), Template::parse(&message.content)?)))
        .collect::<Result<_, String>>()
        .map_err(TaskError::failed)?;
    let reader = TableReader::open(path)?;
    let rows = reader.rows()?.zip(1_u64..).map(|(row, number)| {
        let row = row?;
        let at = |what: String| TaskError::input(reader.path(), Some(number), what);
        let id = responses::id_of(&row).ok_or_else(|| at("the row has no `id`".into()))?;
        let gold = match row.get(&params.answer) {
            Some(Value::String(gold)) => gold.clone(),
            Some(Value::Number(gold)) => gold.to_string(),
            _ => return Err(at(format!("`{id}` has no gold answer in `{}`", params.answer))),
        };
        let scope = Scope::of(&row);
        let messages = templates.iter().map(|(role, template)| {
            let content =
                template.render(&scope).map_err(|what| at(format!("`messages` of `{id}`: {what}")))?;
            Ok(Message { role: (*role).to_owned(), content })
        });
        let messages = messages.collect::<Result<_, TaskError>>()?;
        let is_gradable = math::is_gradable(&gold, &params.grading);
        Ok(Problem { row, id, gold, is_gradable, messages })
    });
    Ok(Problems { rows: rows.collect::<Result<_, TaskError>>()?, schema: reader.schema().clone() })
}

/// The columns that grading adds to those of a response.
const COLUMNS: [(&str, ColumnKind); 7] = [
    ("extracted", ColumnKind::Str),
    ("rung", ColumnKind::Str),
    ("correct", ColumnKind::Bool),
    ("verdict", ColumnKind::Str),
    ("rule", ColumnKind::Str),
    ("vote", ColumnKind::Str),
    ("no_answer", ColumnKind::Bool),
];

/// The columns of an account, counts and then facts.
fn account_columns() -> impl Iterator<Item = (&'static str, ColumnKind)> {
    let kinds = [[ColumnKind::Int; 3], [ColumnKind::Bool; 3]].concat();
    score::ACCOUNT.into_iter().zip(kinds)
}

fn graded_schema(problems: &Schema) -> Schema {
    COLUMNS
        .into_iter()
        .chain(account_columns())
        .fold(responses::schema(problems), |schema, (name, kind)| schema.with(name, kind))
}

fn graded_row(
    params: &Params,
    problem: &Problem,
    repeat: u32,
    key: &Digest,
    outcome: &Result<Reply, Failure>,
    counter: &Counter,
) -> Row {
    let asked = Asked { id: &problem.id, repeat, key, messages: &problem.messages };
    let mut row = responses::row(&problem.row, &asked, outcome);
    let values = match outcome {
        Ok(reply) => {
            let graded = math::grade(&problem.gold, &reply.response, &params.grading);
            // Null where the gold answer is beyond the grader, whatever the response: the problem is then
            // left out for every model alike.
            let correct = problem.is_gradable.then_some(graded.verdict == Verdict::Correct);
            let found = graded.extracted.as_ref();
            [
                json!(found.map(|found| &found.answer)),
                json!(found.map(|found| found.rung.name())),
                json!(correct),
                json!(graded.verdict.name()),
                json!(graded.rule.name()),
                json!(found.map(|found| vote(&found.answer, &params.grading))),
                json!(found.is_none()),
            ]
        }
        Err(_) => {
            [Value::Null, Value::Null, Value::Null, json!("error"), Value::Null, Value::Null, Value::Null]
        }
    };
    row.extend(COLUMNS.iter().map(|(name, _)| (*name).to_owned()).zip(values));
    let account = match outcome {
        Ok(reply) => {
            let found = counter.account(reply);
            let facts = [found.looped, found.unclosed, found.empty_final].map(|fact| json!(fact));
            [json!(found.thinking), json!(found.answer), json!(found.reference)]
                .into_iter()
                .chain(facts)
                .collect()
        }
        Err(_) => vec![Value::Null; score::ACCOUNT.len()],
    };
    row.extend(score::ACCOUNT.into_iter().map(str::to_owned).zip(account));
    row
}

/// A text that equal answers share. An answer too long to compare equals only itself.
fn vote(answer: &str, policy: &Policy) -> String {
    match math::canonical(answer, policy) {
        Ok(canonical) => canonical.key(),
        Err(_) => format!("unread:{}", Digest::of(answer.as_bytes()).short()),
    }
}

fn write_json(path: &Path, metrics: &impl Serialize) -> Result<(), TaskError> {
    let json = serde_json::to_vec_pretty(metrics)
        .map_err(|error| TaskError::failed(format!("the metrics cannot be written as JSON: {error}")))?;
    std::fs::write(path, json).map_err(|error| TaskError::io(path, error))
}

/// The numbers that `dag show` and the estimates of later nodes read.
fn tell(cx: &mut TaskCx, rows: u64, metrics: &Metrics) {
    let most = metrics.samples_per_item;
    cx.metric("rows", rows);
    cx.metric("items", metrics.items);
    cx.metric("truncated", metrics.truncated);
    cx.metric("no_answer", metrics.no_answer);
    for (name, share) in
        [("looped", metrics.looped), ("unclosed", metrics.unclosed), ("empty_final", metrics.empty_final)]
    {
        if share > 0.0 {
            cx.metric(name, share);
        }
    }
    for (name, means, k) in [
        ("pass@1".to_owned(), &metrics.pass_at, 1),
        (format!("pass@{most}"), &metrics.pass_at, most),
        (format!("majority@{most}"), &metrics.majority_at, most),
    ] {
        if let Some(mean) = means.get(&k) {
            cx.metric(&name, mean.mean);
        }
    }
    if let Some(tokens) = metrics.tokens {
        cx.metric("mean_tokens", tokens.mean);
    }
    if let Some(tokens) = metrics.reference_tokens {
        cx.metric("mean_reference_tokens", tokens);
    }
    if metrics.ungradable_items > 0 {
        cx.warn(&format!(
            "{} problems are left out: the grader does not understand their gold answers",
            metrics.ungradable_items
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::Chain;

    fn problems(directory: &Path, count: u64) -> std::path::PathBuf {
        let path = directory.join("problems.parquet");
        let columns = ["id", "problem", "answer", "topic"].map(|name| (name, ColumnKind::Str));
        let mut writer = TableWriter::create(&path, Schema::new(columns)).unwrap();
        for seed in 0..count {
            let chain = Chain::draw(seed, 2, 4, 10);
            // The last gold answer is beyond the grader.
            let gold = if seed + 1 == count { "see figure 3".to_owned() } else { chain.answer().to_string() };
            let row = json!({"id": format!("p{seed}"), "problem": chain.problem(), "answer": gold, "topic": "sums"});
            writer.write(row.as_object().unwrap()).unwrap();
        }
        writer.finish().unwrap();
        path
    }

    fn evaluate(directory: &Path, params: &Value) -> (Vec<Row>, Metrics) {
        let params: Params = serde_json::from_value(params.clone()).unwrap();
        assert_eq!(Evaluate::check(&params), []);
        let mut cx =
            TaskCx::for_test(directory).input("problems", problems(directory, 21)).seed(17).build().unwrap();
        Evaluate::run(&params, &mut cx).unwrap();
        let folder = cx.output("results");
        let rows = TableReader::open(folder.join("graded.parquet")).unwrap().rows().unwrap();
        let metrics = serde_json::from_slice(&std::fs::read(folder.join("metrics.json")).unwrap()).unwrap();
        (rows.collect::<Result<_, _>>().unwrap(), metrics)
    }

    #[test]
    fn a_teacher_without_errors_solves_everything_that_can_be_graded() {
        let directory = tempfile::tempdir().unwrap();
        let params = json!({"model": {"backend": "scripted", "teacher": "terse"}, "repeats": 3});
        let (rows, metrics) = evaluate(directory.path(), &params);
        assert_eq!(
            (rows.len(), metrics.items, metrics.ungradable_items, metrics.samples_per_item),
            (63, 20, 1, 3)
        );
        assert!(
            metrics.pass_at.values().chain(metrics.majority_at.values()).all(|mean| mean.mean > 1.0 - 1e-12)
        );
        assert_eq!((rows[0]["topic"].as_str(), rows[0]["rung"].as_str()), (Some("sums"), Some("boxed")));
        assert_eq!(
            (&rows[62]["correct"], rows[62]["verdict"].as_str()),
            (&Value::Null, Some("unparsable_gold"))
        );
    }

    #[test]
    fn the_same_numbers_in_the_form_of_nemo_skills() {
        let directory = tempfile::tempdir().unwrap();
        let model = json!({"backend": "scripted", "teacher": "terse", "error_rate": 0.4});
        let params = json!({"model": model, "repeats": 4, "benchmark": "aime25"});
        let (rows, metrics) = evaluate(directory.path(), &params);
        let path = directory.path().join("outputs/results/nemo-skills/metrics.json");
        let found: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let found = &found["aime25"];
        // The problem with an unreadable gold answer is theirs as well; nobody gets it right.
        let all = |mean: f64| 100.0 * mean * 20.0 / 21.0;
        for (mode, expected) in [("pass@1", metrics.pass_at[&1]), ("pass@4", metrics.pass_at[&4])] {
            assert!((found[mode]["symbolic_correct"].as_f64().unwrap() - all(expected.mean)).abs() < 1e-9);
        }
        assert_eq!(found["majority@4"]["num_entries"], json!(21));
        let tokens: u64 = rows.iter().filter_map(|row| row["output_tokens"].as_u64()).sum();
        assert_eq!(
            found["pass@1"].get("avg_tokens").and_then(Value::as_u64).unwrap_or(0),
            tokens / rows.len() as u64
        );
    }

    #[test]
    fn responses_are_counted_again_with_a_reference_tokenizer() {
        use dag_lm::tokenizer::{Specials, Tokenizer};
        let directory = tempfile::tempdir().unwrap();
        let reference = directory.path().join("reference");
        let tokenizer = Tokenizer::bytes(&Specials::chat()).unwrap();
        std::fs::create_dir_all(&reference).unwrap();
        tokenizer.save(&reference).unwrap();
        let params = json!({"model": {"backend": "scripted", "teacher": "verbose"}, "repeats": 1});
        let params: Params = serde_json::from_value(params).unwrap();
        let mut cx = TaskCx::for_test(directory.path())
            .input("problems", problems(directory.path(), 4))
            .input("tokenizer", &reference)
            .build()
            .unwrap();
        Evaluate::run(&params, &mut cx).unwrap();
        let folder = cx.output("results");
        let rows = TableReader::open(folder.join("graded.parquet")).unwrap().rows().unwrap();
        for row in rows {
            let row = row.unwrap();
            let count = |column: &str| row[column].as_u64().unwrap();
            let text = row["response"].as_str().unwrap();
            // Bytes, but for the two tags, which are a token each.
            assert_eq!(
                count("reference_tokens") as usize,
                text.len() - "<think></think>".len() + 2,
                "{text}"
            );
            assert_eq!(count("thinking_tokens") + count("answer_tokens"), count("reference_tokens"));
            assert!(
                count("answer_tokens") > 0 && count("thinking_tokens") > 2 && row["unclosed"] == json!(false)
            );
        }
        let metrics: Metrics =
            serde_json::from_slice(&std::fs::read(folder.join("metrics.json")).unwrap()).unwrap();
        assert_eq!(metrics.tokenizers.reference, Some(tokenizer.digest().to_hex().to_string()));
        assert_eq!(
            (metrics.tokenizers.usage, metrics.tokenizers.parts),
            (None, metrics.tokenizers.reference)
        );
    }

    #[test]
    fn another_grading_reads_the_same_records() {
        let directory = tempfile::tempdir().unwrap();
        let model = json!({"backend": "scripted", "teacher": "terse", "error_rate": 0.4});
        let (rows, metrics) = evaluate(directory.path(), &json!({"model": model, "repeats": 4}));
        assert!((0.3..0.9).contains(&metrics.pass_at[&1].mean), "{metrics:?}");
        assert!(metrics.pass_at[&4].mean > metrics.pass_at[&1].mean);
        let strict =
            json!({"model": model, "repeats": 4, "grading": {"phrases": [], "leading_zeros": false}});
        let (regraded, strict) = evaluate(directory.path(), &strict);
        assert_eq!(strict.pass_at[&4].mean.to_bits(), metrics.pass_at[&4].mean.to_bits());
        for column in ["record_key", "response"] {
            assert!(rows.iter().zip(&regraded).all(|(one, other)| one[column] == other[column]), "{column}");
        }
    }

    #[test]
    fn faults_are_found_before_anything_is_asked() {
        let params = json!({"model": {"backend": "given", "name": "x"}, "repeats": 0, "temperature": -1.0});
        let faults = Evaluate::check(&serde_json::from_value(params).unwrap());
        let pointers: Vec<&str> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/temperature", "/model", "/repeats"]);
    }
}
