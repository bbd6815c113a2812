//! `sample`: responses to prompts from a model, so many of each.
//!
//! Every response is a record (see `records`): nothing is asked twice. The prompts are walked twice, once to ask for what
//! is missing and once to write the table in order, so that no response waits in memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dag_engine::task::{
    ArtifactType, Environment, Estimate, EstimateInputs, Fault, Missing, Ports, ServiceUse, Task, TaskCx,
    TaskError,
};
use dag_engine::{Digest, canonical};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::backend::{
    self, Backend, BackendRun, Failure, FailureKind, FinishReason, GivenSpec, Message, ModelSpec, Reply,
    Sampling,
};
use crate::expression::{Scope, Template};
use crate::records::{Prompt, Records, draw};
use crate::responses;
use crate::survey;
use crate::table::{ColumnKind, Row, TableReader, TableWriter};

/// The column of the tokens' log-probabilities.
const LOGPROBS: &str = "logprobs";

/// The params of `sample`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Which model answers; the one in the port `model` if it is left out.
    #[serde(default)]
    pub model: ModelSpec,
    /// The conversation that is put to the model; its texts are templates over the columns of the prompts.
    #[serde(default = "ask_the_problem")]
    pub messages: Vec<Message>,
    /// How many responses to each prompt.
    #[serde(default = "one")]
    pub repeats: u32,
    /// Zero takes the likeliest token every time.
    #[serde(default = "unit")]
    pub temperature: f64,
    /// The share of probability from which tokens are drawn.
    #[serde(default = "unit")]
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
    /// Longest response in tokens.
    #[serde(default = "longest")]
    pub max_tokens: u32,
    /// Texts that end a response.
    #[serde(default)]
    pub stop: Vec<String>,
    /// So many tokens inside `<think>`, then the thinking is ended for the model and it goes on; for the embedded runtime.
    #[serde(default)]
    pub thinking_budget: Option<u32>,
    /// Whether to keep the log-probability of every token, in the column `logprobs`, as a chat completion has them.
    #[serde(default)]
    pub logprobs: bool,
    /// How much a served model shall think: `low`, `medium`, `high`.
    #[serde(default)]
    pub reasoning_effort: Option<String>,
    /// Variables for the model's chat template, such as `enable_thinking: false`.
    #[serde(default)]
    pub template: Map<String, Value>,
    /// Another number draws other responses.
    #[serde(default)]
    pub seed: u64,
}

fn ask_the_problem() -> Vec<Message> {
    vec![Message { role: "user".into(), content: "{{ problem }}".into() }]
}

fn one() -> u32 {
    1
}

fn unit() -> f64 {
    1.0
}

fn longest() -> u32 {
    4096
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
            logprobs: self.logprobs,
            reasoning_effort: self.reasoning_effort.clone(),
            template: self.template.clone(),
        }
    }
}

/// The task kind.
pub struct SampleTask;

impl Task for SampleTask {
    const KIND: &'static str = "sample";
    // 2: channels of harmony are read.
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "responses to prompts from a model, so many of each";
    type Params = Params;
    type Run = BackendRun;

    fn ports(params: &Params) -> Ports {
        let ports = Ports::new().input("prompts", ArtifactType::Table);
        let ports = if params.model.enters() { ports.input("model", ArtifactType::Model) } else { ports };
        ports.output("responses", ArtifactType::Table)
    }

    fn check(params: &Params) -> Vec<Fault> {
        let mut faults = params.sampling().check(&params.model, "");
        match &params.model {
            ModelSpec::Given(_) if params.repeats > 1 => {
                faults.push(Fault::new("/repeats", "responses that are given are as many as there are"));
            }
            ModelSpec::Given(_) => {}
            model => faults.extend(backend::check(model, "/model")),
        }
        if params.repeats == 0 {
            faults.push(Fault::new("/repeats", "zero responses to each prompt are no responses"));
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
        match params.model {
            ModelSpec::Scripted(_) => true,
            ModelSpec::Given(_) => false,
            ModelSpec::Embedded | ModelSpec::Openai(_) | ModelSpec::Served(_) => {
                params.sampling().is_random()
            }
        }
    }

    fn splits(params: &Params) -> bool {
        !matches!(params.model, ModelSpec::Given(_))
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
        let most = inputs.most("prompts").map(|rows| rows * u64::from(params.repeats));
        let prompts = inputs
            .artifact("prompts")
            .and_then(|(path, _)| Prompts::new(TableReader::open(path).ok()?, &params.messages).ok());
        let rendered = prompts.as_ref().and_then(|prompts| prompts.rendered().ok());
        let wanted = rendered.map(|rendered| {
            rendered.map(|prompt| Ok(Prompt { messages: prompt?.messages, repeats: 0..params.repeats }))
        });
        survey::of_prompts(inputs, &params.model, &params.sampling(), params.seed, wanted, most)
    }

    fn run(params: &Params, cx: &mut TaskCx) -> Result<(), TaskError> {
        let reader = TableReader::open(&cx.input("prompts")?.path)?;
        let prompts = Prompts::new(reader, &params.messages)?;
        match &params.model {
            ModelSpec::Given(given) => take_given(given, &prompts, cx),
            model => ask(params, model, &prompts, cx),
        }
    }
}

/// The prompts, rendered row by row.
struct Prompts {
    reader: TableReader,
    roles: Vec<(String, Template)>,
}

impl Prompts {
    fn new(reader: TableReader, messages: &[Message]) -> Result<Self, TaskError> {
        let roles = messages
            .iter()
            .map(|message| Ok((message.role.clone(), Template::parse(&message.content)?)))
            .collect::<Result<_, String>>()
            .map_err(TaskError::failed)?;
        Ok(Self { reader, roles })
    }

    fn path(&self) -> &Path {
        self.reader.path()
    }

    /// Every row with its id and its conversation.
    fn rendered(&self) -> Result<impl Iterator<Item = Result<Rendered, TaskError>> + '_, TaskError> {
        let rows = self.reader.rows()?;
        Ok(rows.zip(1_u64..).map(|(row, number)| {
            let row = row?;
            let at = |what: String| TaskError::input(self.path(), Some(number), what);
            let id = responses::id_of(&row).ok_or_else(|| at("the row has no `id`".into()))?;
            let scope = Scope::of(&row);
            let render = |(role, template): &(String, Template)| {
                Ok(Message { role: role.clone(), content: template.render(&scope)? })
            };
            let messages = self.roles.iter().map(render).collect::<Result<_, String>>();
            let messages = messages.map_err(|what| at(format!("`messages` of `{id}`: {what}")))?;
            Ok(Rendered { row, id, messages })
        }))
    }
}

struct Rendered {
    row: Row,
    id: String,
    messages: Vec<Message>,
}

/// Asks a model for what is not stored yet, then writes what is.
fn ask(params: &Params, model: &ModelSpec, prompts: &Prompts, cx: &mut TaskCx) -> Result<(), TaskError> {
    let run: BackendRun = cx.run_options()?;
    let sampling = params.sampling();
    let backend = Backend::open(model, cx.optional("model"), &run, cx)?;
    let mut records = Records::open(cx, &backend, &sampling, draw(cx.seed(), params.seed))?;
    cx.progress().total(prompts.reader.len() * u64::from(params.repeats));
    let mut wanted = prompts
        .rendered()?
        .map(|prompt| Ok(Prompt { messages: prompt?.messages, repeats: 0..params.repeats }));
    records.ask(cx, &backend, &sampling, &mut wanted)?;
    drop(wanted);
    if cx.shard().is_some() {
        return records.settle(cx, run.allowed_failures());
    }
    let mut table = Responses::create(cx.output("responses"), prompts, params.logprobs)?;
    for prompt in prompts.rendered()? {
        let prompt = prompt?;
        for repeat in 0..params.repeats {
            let key = records.key(&prompt.messages, repeat);
            table.write(&prompt, repeat, &key, &records.outcome(&key, &backend)?)?;
        }
    }
    table.finish(cx)?;
    records.settle(cx, run.allowed_failures())
}

/// Takes the responses that the prompts already hold, and reads them as if they had been sampled.
fn take_given(given: &GivenSpec, prompts: &Prompts, cx: &mut TaskCx) -> Result<(), TaskError> {
    let mut table = Responses::create(cx.output("responses"), prompts, false)?;
    let mut repeats: BTreeMap<String, u32> = BTreeMap::new();
    for column in given.columns() {
        if prompts.reader.schema().kind(column).is_none() {
            return Err(TaskError::input(prompts.path(), None, format!("there is no column `{column}`")));
        }
    }
    for prompt in prompts.rendered()? {
        let prompt = prompt?;
        let repeat = repeats.entry(prompt.id.clone()).or_default();
        let outcome = read_given(given, &prompt.row);
        let key = canonical::digest(&json!({
            "given": given.name,
            "messages": prompt.messages,
            "response": outcome.as_ref().ok().map(|reply| &reply.response),
            "repeat": *repeat,
        }));
        table.write(&prompt, *repeat, &key, &outcome)?;
        *repeat += 1;
    }
    table.finish(cx)
}

fn read_given(given: &GivenSpec, row: &Row) -> Result<Reply, Failure> {
    let column = |name: &Option<String>| name.as_ref().and_then(|name| row.get(name));
    let answer = responses::text(row, &given.column).unwrap_or_default();
    let reasoning = column(&given.reasoning).and_then(Value::as_str);
    if answer.trim().is_empty() && reasoning.is_none_or(|reasoning| reasoning.trim().is_empty()) {
        return Err(Failure::new(FailureKind::Empty, format!("the column `{}` is empty", given.column)));
    }
    let finish_reason = match column(&given.finish_reason).and_then(Value::as_str) {
        Some("length") => FinishReason::Length,
        _ => FinishReason::Stop,
    };
    let output_tokens = column(&given.output_tokens).and_then(Value::as_u64);
    Ok(Reply::of_parts(reasoning, answer, finish_reason, None, output_tokens))
}

/// The table of responses while it is written, and the facts about it.
struct Responses {
    writer: TableWriter,
    /// Whether there is a column for them.
    logprobs: bool,
    truncated: u64,
    failed: u64,
    output_tokens: u64,
}

impl Responses {
    fn create(path: PathBuf, prompts: &Prompts, logprobs: bool) -> Result<Self, TaskError> {
        let schema = responses::schema(prompts.reader.schema());
        let schema = if logprobs { schema.with(LOGPROBS, ColumnKind::Json) } else { schema };
        let writer = TableWriter::create(path, schema)?;
        Ok(Self { writer, logprobs, truncated: 0, failed: 0, output_tokens: 0 })
    }

    fn write(
        &mut self,
        prompt: &Rendered,
        repeat: u32,
        key: &Digest,
        outcome: &Result<Reply, Failure>,
    ) -> Result<(), TaskError> {
        match outcome {
            Ok(reply) => {
                self.truncated += u64::from(reply.finish_reason == FinishReason::Length);
                self.output_tokens += reply.output_tokens.unwrap_or(0);
            }
            Err(_) => self.failed += 1,
        }
        let asked = responses::Asked { id: &prompt.id, repeat, key, messages: &prompt.messages };
        let mut row = responses::row(&prompt.row, &asked, outcome);
        if self.logprobs {
            row.insert(LOGPROBS.to_owned(), json!(outcome.as_ref().ok().map(|reply| &reply.logprobs)));
        }
        self.writer.write(&row)?;
        Ok(())
    }

    fn finish(self, cx: &mut TaskCx) -> Result<(), TaskError> {
        cx.metric("rows", self.writer.finish()?);
        cx.metric("truncated", self.truncated);
        cx.metric("without_response", self.failed);
        cx.metric("output_tokens", self.output_tokens);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
