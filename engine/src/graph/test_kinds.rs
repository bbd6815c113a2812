//! Task kinds for the tests of compiling: one with every kind of param, and the names of the paper's graph.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::artifact::{Arity, ArtifactType, Ports};
use crate::context::TaskCx;
use crate::registry::Registry;
use crate::task::{Fault, FileKind, FileRef, NoRun, Task, TaskError};

/// Makes a table: a task with every kind of param.
struct Make;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MakeParams {
    #[serde(default)]
    count: u32,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    rates: Vec<f64>,
    #[serde(default)]
    model: Option<Model>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(tag = "backend", rename_all = "lowercase", deny_unknown_fields)]
enum Model {
    Embedded { path: String },
    Served { name: String },
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MakeRun {
    #[serde(default)]
    concurrency: Option<u32>,
    #[serde(default)]
    url: Option<String>,
}

impl Task for Make {
    const KIND: &'static str = "make";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "makes a table";
    type Params = MakeParams;
    type Run = MakeRun;
    fn ports(_: &MakeParams) -> Ports {
        Ports::new()
            .optional("prompts", ArtifactType::Table)
            .output("rows", ArtifactType::Table)
            .output("log", ArtifactType::File)
    }
    fn check(params: &MakeParams) -> Vec<Fault> {
        let wrong = params.rates.iter().position(|rate| *rate > 1.0);
        wrong
            .map(|at| Fault::new(format!("/rates/{at}"), "a rate is at most 1").help("rates are not percent"))
            .into_iter()
            .collect()
    }
    fn files(params: &MakeParams) -> Vec<FileRef> {
        let path = params.path.iter();
        path.map(|path| FileRef { pointer: "/path".into(), pattern: path.clone(), kind: FileKind::File })
            .collect()
    }
    fn uses_seed(params: &MakeParams) -> bool {
        params.count > 0
    }
    fn run(_: &MakeParams, _: &mut TaskCx) -> Result<(), TaskError> {
        Ok(())
    }
}

/// A kind that takes any params.
macro_rules! loose {
    ($name:ident, $kind:literal, $ports:expr) => {
        struct $name;
        impl Task for $name {
            const KIND: &'static str = $kind;
            const VERSION: u32 = 1;
            const ABOUT: &'static str = "takes any params";
            type Params = BTreeMap<String, Json>;
            type Run = NoRun;
            fn ports(_: &Self::Params) -> Ports {
                $ports
            }
            fn run(_: &Self::Params, _: &mut TaskCx) -> Result<(), TaskError> {
                Ok(())
            }
        }
    };
}

use ArtifactType::{Model as ModelType, Packs, Report, Results, Table};
loose!(Dataset, "dataset", Ports::new().many("exclude", Table).output("rows", Table));
loose!(BaseModel, "model", Ports::new().output("model", ModelType));
loose!(Sample, "sample", Ports::new().input("prompts", Table).output("responses", Table));
loose!(
    Judge,
    "judge",
    Ports::new().input("responses", Table).input("references", Table).output("judged", Table)
);
loose!(
    Filter,
    "filter",
    Ports::new().open_inputs(Table, Arity::One).output("kept", Table).output("dropped", Table)
);
loose!(
    Pack,
    "pack",
    Ports::new().input("examples", Table).input("tokenizer", ModelType).output("packs", Packs)
);
loose!(
    Train,
    "train",
    Ports::new().input("base", ModelType).input("packs", Packs).output("model", ModelType)
);
loose!(
    Evaluate,
    "evaluate",
    Ports::new().input("model", ModelType).input("problems", Table).output("results", Results)
);
loose!(
    Gather,
    "report",
    Ports::new()
        .many("results", ArtifactType::Any)
        .many("base", Results)
        .many("training", ModelType)
        .output("report", Report)
);

pub(super) fn registry() -> Registry {
    Registry::new()
        .with::<Make>()
        .with::<Dataset>()
        .with::<BaseModel>()
        .with::<Sample>()
        .with::<Judge>()
        .with::<Filter>()
        .with::<Pack>()
        .with::<Train>()
        .with::<Evaluate>()
        .with::<Gather>()
}
