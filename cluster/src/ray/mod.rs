//! Ray: a node's task as one job, through Ray's Jobs HTTP interface alone.
//!
//! One job per node and never one per shard: Ray starts two processes for each, which takes a second or more.

mod http;

use std::collections::BTreeMap;
use std::path::PathBuf;

use dag_engine::call::Delivery;
use dag_engine::executor::{Executor, Site};
use dag_engine::order::Order;
use dag_engine::params::{BindError, bind_typed};
use dag_engine::task::{Environment, Missing, TaskError};
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::drive::{Drive, drive};
use crate::folder::{Generation, Part, Submission};
use crate::queue::{Ending, Handle, Queue, Refused, Standing, Standings, Trouble};
use crate::script::{Start, keep, quoted, script};
use crate::time::Time;
use http::{Answer, Client};

/// Where a head on this machine listens.
const ADDRESS: &str = "http://127.0.0.1:8265";

/// What `run: { executor: { ray: … } }` holds. All of it is operational: none is in a key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// The address of the head's dashboard, which serves the Jobs interface; `http://127.0.0.1:8265`.
    address: Option<String>,
    /// Resources of one's own naming that the job holds, beside `cpus`, `gpus` and `memory` under `run:`.
    resources: BTreeMap<String, f64>,
    /// Environment variables for the job. They are shown to everybody who can see the dashboard.
    env: BTreeMap<String, String>,
    /// Hands on what `run:` takes from the environment, though everybody who can see the dashboard sees it there.
    show_secrets: bool,
    /// Shell lines before the worker.
    prelude: Option<String>,
    /// How long a job may be over without a word of its worker before it counts as lost; 30 s.
    grace: Option<Time>,
}

/// Runs tasks as jobs of Ray.
pub(crate) struct Ray;

impl Executor for Ray {
    fn name(&self) -> &'static str {
        "ray"
    }

    fn about(&self) -> &'static str {
        "jobs of Ray, through its Jobs HTTP interface"
    }

    fn check(&self, options: &Value) -> Result<(), BindError> {
        let options: Options = bind_typed(options)?;
        let is_span = options.grace.as_ref().is_none_or(|grace| grace.span().is_some());
        let fault = |pointer: &str, message: String| Err(BindError { pointer: pointer.to_owned(), message });
        match Client::new(options.address.as_deref().unwrap_or(ADDRESS)) {
            Err(what) => fault("/address", what),
            Ok(_) if !is_span => fault("/grace", "a span of time is such as `90s` or `30m`".to_owned()),
            Ok(_) => Ok(()),
        }
    }

    fn schema(&self) -> Schema {
        schemars::schema_for!(Options)
    }

    fn preflight(&self, options: &Value, _environment: &dyn Environment) -> Vec<Missing> {
        let Ok(options) = bind_typed::<Options>(options) else { return Vec::new() };
        let address = options.address.as_deref().unwrap_or(ADDRESS);
        let asked = Client::new(address).map_err(Trouble).and_then(|client| client.get("api/version"));
        let what = match asked {
            Ok(answer) if answer.is_success() => return Vec::new(),
            Ok(answer) => format!("Ray at `{address}`, which answers {}", answer.about()),
            Err(Trouble(what)) => format!("Ray at `{address}` ({what})"),
        };
        let help =
            "start a head with `ray start --head`, or say where one is: `executor: { ray: { address: … } }`";
        vec![Missing { what, help: help.to_owned() }]
    }

    fn execute(&self, order: &Order, options: &Value, site: &Site) -> Result<Delivery, TaskError> {
        let options: Options = bind_typed(options).map_err(|error| TaskError::failed(error.message))?;
        if !site.secrets.is_empty() && !options.show_secrets {
            return Err(TaskError::failed(
                "`run:` takes a value from the environment, and Ray would show it to everybody who can see its dashboard; \
                 name the variable instead where the option takes a name (as `api_key` does), or allow it: \
                 `executor: { ray: { show_secrets: true } }`",
            ));
        }
        let client = Client::new(options.address.as_deref().unwrap_or(ADDRESS)).map_err(TaskError::failed)?;
        let mut order = order.clone();
        order.shards = 1;
        let grace = options.grace.as_ref().and_then(Time::span).unwrap_or(std::time::Duration::from_secs(30));
        let queue = Jobs { client, options: &options, order: &order, site };
        drive(&Drive { queue: &queue, order: &order, site, grace })
    }
}

/// The jobs of one order.
struct Jobs<'a> {
    client: Client,
    options: &'a Options,
    order: &'a Order,
    site: &'a Site,
}

impl Queue for Jobs<'_> {
    fn name(&self) -> &'static str {
        "ray"
    }

    fn submit(&self, generation: &Generation, submission: &Submission) -> Result<String, Refused> {
        let layout = self.site.view.layout();
        let program = crate::copy::program(layout)?;
        let log =
            self.log(generation, &Handle { name: submission.name.clone(), id: String::new() }, Part::Whole);
        // What the worker prints goes where everything else of the job is.
        let redirect = format!("exec >> {} 2>&1\n", quoted(&log.display().to_string()));
        let prelude = self.options.prelude.as_deref().unwrap_or_default();
        let start = Start {
            program: &program,
            store: layout.root(),
            node: &self.site.node,
            prelude: Some(&format!("{redirect}{prelude}")),
            launcher: &[],
            part: "whole",
            attempt: "ray",
            host: "\"$(hostname)\"",
            time: None,
        };
        let file = generation.script_file(submission.number);
        keep(&file, &script(generation, submission, &start))?;
        let mut env = self.options.env.clone();
        env.extend(self.site.secrets.clone());
        let resources = &self.order.resources;
        let mut body = json!({
            // Ours, so that a job whose answer was lost can be found, and is not taken twice.
            "submission_id": submission.name,
            "entrypoint": format!("exec sh {}", quoted(&file.display().to_string())),
            "entrypoint_num_cpus": resources.cpus,
            "entrypoint_num_gpus": resources.gpus,
            "entrypoint_resources": self.options.resources,
            "runtime_env": { "env_vars": env },
            "metadata": { "dag_node": self.site.node },
        });
        if resources.memory > 0 {
            body["entrypoint_memory"] = json!(resources.memory);
        }
        let answer = self.client.post("api/jobs/", &body).map_err(Refused::Trouble)?;
        if answer.is_success() || answer.text.contains("already exists") {
            return Ok(submission.name.clone());
        }
        Err(if answer.status >= 500 {
            Refused::Trouble(Trouble(answer.about()))
        } else {
            Refused::Wrong(answer.about())
        })
    }

    fn find(&self, name: &str) -> Result<Option<String>, Trouble> {
        Ok(self.job(name)?.map(|_| name.to_owned()))
    }

    fn standings(&self, jobs: &[Handle]) -> Result<Standings, Trouble> {
        let mut standings = Standings::new();
        for job in jobs {
            let Some(found) = self.job(&job.name)? else { continue };
            let status = found["status"].as_str().unwrap_or_default();
            let message = found["message"].as_str().unwrap_or_default();
            let standing = match status {
                "PENDING" => Standing::Waiting(message.lines().next().unwrap_or_default().to_owned()),
                "RUNNING" => Standing::Running(
                    found["driver_node_id"].as_str().unwrap_or_default().chars().take(8).collect(),
                ),
                "STOPPED" => Standing::Over(Ending::Cancelled),
                "SUCCEEDED" => Standing::Over(Ending::Completed),
                "FAILED" => Standing::Over(Ending::Failed),
                _ => continue,
            };
            standings.insert((job.name.clone(), Part::Whole), standing);
        }
        Ok(standings)
    }

    fn cancel(&self, jobs: &[Handle]) -> Result<(), Trouble> {
        for job in jobs {
            self.client.post(&format!("api/jobs/{}/stop", job.name), &json!({}))?;
        }
        Ok(())
    }

    fn forget(&self, _jobs: &[Handle]) {}

    fn log(&self, generation: &Generation, job: &Handle, _part: Part) -> PathBuf {
        generation.logs().join(format!("{}.log", job.name))
    }
}

impl Jobs<'_> {
    /// What Ray knows of a job; none where it does not know it.
    fn job(&self, name: &str) -> Result<Option<Value>, Trouble> {
        let answer: Answer = self.client.get(&format!("api/jobs/{name}"))?;
        match answer.status {
            404 => Ok(None),
            _ if answer.is_success() => Ok(serde_json::from_str(&answer.text).ok()),
            _ => Err(Trouble(answer.about())),
        }
    }
}
