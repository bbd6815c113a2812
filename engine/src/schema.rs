//! JSON Schema (draft 2020-12) of experiment files, with the params and options of every task kind, for editors.
//!
//! The schema is more lenient than the compiler, because a file may be half of an experiment: what `extends` and profiles
//! complete is not required here, and a `$(…)` may stand anywhere. Faults of names and types it does find.

use serde_json::{Map, Value, json};

use crate::graph::{ENGINE_OPTIONS, SERVICE_FIELDS, SERVICE_OPTIONS};
use crate::registry::Registry;
use crate::spec::SECTIONS;

/// Where the schema of a `$(…)` stands.
const TEMPLATE: &str = "#/$defs/variable";

/// The schema of an experiment file whose nodes are of the kinds in `registry`.
pub fn schema(registry: &Registry) -> Value {
    let mut definitions = Map::new();
    definitions.insert(
        "variable".into(),
        json!({ "type": "string", "pattern": "\\$\\(", "description": "a variable, such as $(pack.max_tokens)" }),
    );
    definitions.insert("executor".into(), json!({}));
    let executor = executors(registry, &mut definitions);
    definitions.insert("executor".into(), executor);
    let mut run_defaults = engine_options();
    run_defaults.remove("publish");
    let mut kinds = Vec::new();
    let mut by_kind = Vec::new();
    for kind in registry.kinds() {
        let Some(((about, version), (params, run))) = registry.about(kind).zip(registry.schemas(kind)) else {
            continue;
        };
        kinds.push(json!({ "const": kind, "description": format!("{about} (version {version})") }));
        let params = adopt(params.to_value(), &format!("{kind}.with"), &mut definitions);
        definitions.insert(format!("{kind}.with"), params);
        let run = adopt(run.to_value(), &format!("{kind}.run"), &mut definitions);
        let own = run.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        run_defaults.insert(
            kind.to_owned(),
            json!({ "description": format!("options of all `{kind}` nodes"), "type": "object" }),
        );
        let mut options = engine_options();
        options.extend(own);
        let strict = run.get("additionalProperties").is_none_or(|more| *more == json!(false))
            && run.get("anyOf").is_none();
        definitions.insert(
            format!("{kind}.run"),
            json!({ "type": "object", "properties": options, "additionalProperties": !strict }),
        );
        by_kind.push(json!({
            "if": { "properties": { "task": { "const": kind } }, "required": ["task"] },
            "then": { "properties": {
                "with": or_variable(json!({ "$ref": format!("#/$defs/{kind}.with") })),
                "run": or_variable(json!({ "$ref": format!("#/$defs/{kind}.run") })),
            } },
        }));
    }
    definitions.insert("node".into(), node(&kinds, &by_kind));
    definitions.insert("axis".into(), axis());
    definitions.insert("service".into(), service());
    definitions.insert(
        "engine".into(),
        json!({ "type": "object", "properties": run_defaults, "additionalProperties": false }),
    );
    let mut sections = Map::new();
    for name in SECTIONS {
        sections.insert(name.to_owned(), section(name));
    }
    definitions.insert(
        "profile".into(),
        json!({
            "type": ["object", "null"],
            "description": "overlays these fields; any other name is a param",
            "properties": sections,
        }),
    );
    let mut properties = sections;
    properties.insert(
        "name".into(),
        json!({ "type": "string", "description": "the experiment's name; that of the file if absent" }),
    );
    properties.insert(
        "about".into(),
        json!({ "type": "string", "description": "the question the experiment asks" }),
    );
    properties.insert(
        "extends".into(),
        json!({ "type": "string", "description": "a file that this one is laid over; relative to this one" }),
    );
    properties.insert("profile".into(), json!({ "type": "string", "description": "the profile that is used unless `--profile` names another" }));
    properties.insert(
        "profiles".into(),
        json!({ "type": "object", "additionalProperties": { "$ref": "#/$defs/profile" }, "description": "named overlays: a size, a machine" }),
    );
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dag experiment",
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
        "$defs": definitions,
    })
}

fn section(name: &str) -> Value {
    let map_of = |item: Value, about: &str| json!({ "type": ["object", "null"], "additionalProperties": item, "description": about });
    match name {
        "seed" => {
            json!({ "type": "integer", "minimum": 0, "description": "the seed of the tasks that use one" })
        }
        "params" => {
            json!({ "type": ["object", "null"], "description": "values of your own, used as $(name.field)" })
        }
        "arms" => map_of(
            json!({ "type": ["object", "null"] }),
            "the treatments that are compared; `$(arm)` and `$(arm.field)` in nodes over `arm`",
        ),
        "axes" => map_of(json!({ "$ref": "#/$defs/axis" }), "lists of values that nodes are repeated over"),
        "nodes" => map_of(
            json!({ "anyOf": [{ "$ref": "#/$defs/node" }, { "type": "null" }] }),
            "the steps of the experiment",
        ),
        "limits" => map_of(
            json!({ "type": "integer", "minimum": 1 }),
            "named limits and their capacity, for `run: { limits }`",
        ),
        "services" => map_of(
            json!({ "anyOf": [{ "$ref": "#/$defs/service" }, { "type": "null" }] }),
            "servers that are started when nodes ask them: `run: { service: NAME }`; in no key",
        ),
        "remote" => remote(),
        _ => json!({ "$ref": "#/$defs/engine", "description": "how nodes are run; defaults, in no key" }),
    }
}

fn remote() -> Value {
    let address =
        json!({ "type": "string", "description": "s3://bucket/folder, gs://…, az://…, file:///folder" });
    let option = |about: &str| json!({ "type": "boolean", "default": true, "description": about });
    let options = json!({
        "type": "object",
        "properties": {
            "url": address,
            "sign": or_variable(option("whether records must be signed with DAG_REMOTE_KEY")),
            "write": or_variable(option("whether what is made goes there")),
        },
        "additionalProperties": false,
    });
    json!({ "anyOf": [address, options, { "type": "null" }], "description": "where results are shared; in no key" })
}

fn node(kinds: &[Value], by_kind: &[Value]) -> Value {
    let reference = json!({ "type": "string", "description": "NODE, NODE.PORT, NODE@VALUE, NODE@*" });
    let references = json!({ "type": "array", "items": reference });
    json!({
        "type": "object",
        "properties": {
            "task": { "description": "the task kind", "oneOf": kinds },
            "about": { "type": "string" },
            "over": {
                "description": "the axes it is repeated over",
                "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
            },
            "inputs": or_variable(json!({
                "type": ["object", "null"],
                "description": "what enters its ports",
                "additionalProperties": { "anyOf": [reference, references, { "type": "null" }] },
            })),
            "with": { "description": "the params of the task: all of them are in the key" },
            "run": { "description": "how to run it: in no key" },
            "when": or_variable(json!({ "type": "boolean", "description": "whether it exists at a place of its axes" })),
        },
        "additionalProperties": false,
        "allOf": by_kind,
    })
}

fn service() -> Value {
    let field = |name: &str| match name {
        "about" => json!({ "type": "string" }),
        "argv" => json!({
            "type": "array", "items": { "type": ["string", "number"] }, "minItems": 1,
            "description": "the program and its arguments; {port}, {host} and {model} stand for what they say",
        }),
        "replicas" => {
            json!({ "type": "integer", "minimum": 1, "default": 1, "description": "how many of it there are" })
        }
        "health" => {
            json!({ "type": "string", "default": "/health", "description": "the path that answers 200 once it can be asked" })
        }
        "start_within" => {
            json!({ "type": ["number", "string"], "default": "20m", "description": "how long it may take to begin" })
        }
        "hang_after" => {
            json!({ "type": ["number", "string"], "default": "5m", "description": "how long its health may go unanswered before it is started again; 0: for ever" })
        }
        "lease" => {
            json!({ "type": ["number", "string"], "default": "30s", "description": "how long it outlives a run that dies without a word" })
        }
        "host" => {
            json!({ "type": "string", "description": "the address under which others reach it; the machine's own by default" })
        }
        "port" => {
            json!({ "type": "integer", "minimum": 1, "maximum": 65535, "description": "its port; a free one if it is left out" })
        }
        "env" => json!({
            "type": ["object", "null"], "additionalProperties": { "type": ["string", "number", "boolean"] },
            "description": "further environment variables; $(env:NAME) reaches no file",
        }),
        _ => {
            let options =
                engine_options().into_iter().filter(|(name, _)| SERVICE_OPTIONS.contains(&name.as_str()));
            json!({ "type": "object", "properties": options.collect::<Map<_, _>>(), "additionalProperties": false,
                "description": "where each replica runs, and what it holds" })
        }
    };
    let fields: Map<String, Value> =
        SERVICE_FIELDS.iter().map(|name| ((*name).to_owned(), or_variable(field(name)))).collect();
    json!({ "type": "object", "properties": fields, "additionalProperties": false })
}

fn axis() -> Value {
    let range = json!({
        "type": "object",
        "properties": { "range": { "description": "n, or [from, to): the last is left out" } },
        "required": ["range"],
        "additionalProperties": false,
    });
    let values = json!({ "type": "object", "additionalProperties": { "type": ["object", "null"] } });
    json!({ "anyOf": [{ "type": ["array", "null"] }, range, values, { "$ref": TEMPLATE }] })
}

/// The options that the engine itself reads.
/// Who may run a task: this process, or one of the executors with its options.
fn executors(registry: &Registry, definitions: &mut Map<String, Value>) -> Value {
    let mut names = vec![json!("local")];
    let mut properties = Map::new();
    for executor in registry.executors() {
        let mut options =
            adopt(executor.schema().to_value(), &format!("executor.{}", executor.name()), definitions);
        if let Value::Object(map) = &mut options {
            map.insert("description".into(), json!(executor.about()));
        }
        names.push(json!(executor.name()));
        properties.insert(executor.name().to_owned(), options);
    }
    json!({ "anyOf": [
        { "enum": names },
        { "type": "object", "properties": properties, "additionalProperties": false, "maxProperties": 1 },
    ], "description": "who runs it, if not the process of the run itself" })
}

fn engine_options() -> Map<String, Value> {
    let option = |name: &str| match name {
        "cpus" => json!({ "type": "integer", "minimum": 0, "description": "threads it may keep busy" }),
        "gpus" => {
            json!({ "type": "integer", "minimum": 0, "description": "GPUs it needs, each by its own id" })
        }
        "memory" => json!({ "type": ["integer", "string"], "description": "bytes to reserve, such as 8GiB" }),
        "limits" => {
            json!({ "type": "object", "additionalProperties": { "type": "integer" }, "description": "named limits it counts against" })
        }
        "retries" => {
            json!({ "type": "integer", "minimum": 0, "description": "how often a transient failure is tried again" })
        }
        "timeout" => {
            json!({ "type": ["number", "string"], "description": "how long an attempt may take, such as 90s or 2h" })
        }
        "executor" => json!({ "$ref": "#/$defs/executor" }),
        "shards" => {
            json!({ "type": "integer", "minimum": 1, "description": "among how many workers its records are shared, where an executor runs it" })
        }
        _ => {
            json!({ "type": "object", "additionalProperties": { "type": "string" }, "description": "output → path of a copy" })
        }
    };
    ENGINE_OPTIONS.iter().map(|name| ((*name).to_owned(), or_variable(option(name)))).collect()
}

/// Takes a schema of schemars into this document: its definitions move to the root under a prefix of their own, and
/// every value in it may be a variable.
fn adopt(mut schema: Value, prefix: &str, definitions: &mut Map<String, Value>) -> Value {
    if let Value::Object(map) = &mut schema {
        map.remove("$schema");
        map.remove("title");
        if let Some(Value::Object(inner)) = map.remove("$defs") {
            for (name, mut definition) in inner {
                soften(&mut definition, prefix);
                definitions.insert(format!("{prefix}.{name}"), definition);
            }
        }
    }
    soften(&mut schema, prefix);
    schema
}

/// Rewrites references, lets variables stand for values, and requires nothing but the tags that tell variants apart.
fn soften(schema: &mut Value, prefix: &str) {
    let Value::Object(map) = schema else { return };
    if let Some(Value::String(reference)) = map.get_mut("$ref")
        && let Some(name) = reference.strip_prefix("#/$defs/")
    {
        *reference = format!("#/$defs/{prefix}.{name}");
    }
    if let Some(one_of) = map.remove("oneOf") {
        // With less required, more than one variant may fit.
        map.insert("anyOf".into(), one_of);
    }
    let is_tag = |map: &Map<String, Value>, name: &Value| {
        let property = name.as_str().and_then(|name| map.get("properties")?.get(name));
        property.is_some_and(|property| property.get("const").is_some())
    };
    if let Some(Value::Array(required)) = map.remove("required") {
        let tags: Vec<Value> = required.into_iter().filter(|name| is_tag(map, name)).collect();
        if !tags.is_empty() {
            map.insert("required".into(), Value::Array(tags));
        }
    }
    for key in ["anyOf", "allOf", "prefixItems"] {
        if let Some(Value::Array(schemas)) = map.get_mut(key) {
            for schema in schemas {
                soften(schema, prefix);
            }
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key).filter(|inner| inner.is_object()) {
            soften(inner, prefix);
            *inner = or_variable(inner.take());
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        for property in properties.values_mut() {
            let tag = property.get("const").is_some();
            soften(property, prefix);
            if !tag {
                *property = or_variable(property.take());
            }
        }
    }
}

/// `schema`, or a `$(…)`; what it says about itself stays outside, where editors look.
fn or_variable(mut schema: Value) -> Value {
    let mut outer = Map::new();
    if let Value::Object(map) = &mut schema {
        for key in ["description", "default"] {
            if let Some(value) = map.remove(key) {
                outer.insert(key.to_owned(), value);
            }
        }
        if map.is_empty() {
            return Value::Object(outer);
        }
    }
    outer.insert("anyOf".into(), json!([schema, { "$ref": TEMPLATE }]));
    Value::Object(outer)
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::artifact::{ArtifactType, Ports};
    use crate::context::TaskCx;
    use crate::task::{NoRun, Task, TaskError};

    struct Sample;
    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Params {
        /// Which model.
        model: Model,
        temperature: f64,
        #[serde(default)]
        stop: Vec<String>,
    }
    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(tag = "backend", rename_all = "lowercase")]
    enum Model {
        Embedded {
            path: String,
        },
        Served {
            name: String,
            #[serde(default)]
            quantisation: Option<u8>,
        },
    }
    impl Task for Sample {
        const KIND: &'static str = "sample";
        const VERSION: u32 = 1;
        const ABOUT: &'static str = "responses of a model";
        type Params = Params;
        type Run = NoRun;
        fn ports(_: &Params) -> Ports {
            Ports::new().output("rows", ArtifactType::Table)
        }
        fn run(_: &Params, _: &mut TaskCx) -> Result<(), TaskError> {
            Ok(())
        }
    }

    /// As much of JSON Schema as the schema above uses.
    fn fits(root: &Value, schema: &Value, value: &Value) -> bool {
        let Value::Object(map) = schema else { return *schema != json!(false) };
        let of = |schema: &Value| fits(root, schema, value);
        let is = |kind: &str| match kind {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_u64() || value.is_i64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            _ => value.is_null(),
        };
        map.iter().all(|(key, rule)| match key.as_str() {
            "$ref" => of(root
                .pointer(rule.as_str().unwrap().strip_prefix('#').unwrap())
                .expect("the definition exists")),
            "type" => match rule {
                Value::Array(kinds) => kinds.iter().any(|kind| is(kind.as_str().unwrap())),
                kind => is(kind.as_str().unwrap()),
            },
            "const" => rule == value,
            "pattern" => value.as_str().is_none_or(|text| text.contains("$(")),
            "anyOf" | "oneOf" => rule.as_array().unwrap().iter().any(of),
            "allOf" => rule.as_array().unwrap().iter().all(of),
            "if" => !of(rule) || of(&map["then"]),
            "required" => value.as_object().is_none_or(|object| {
                rule.as_array().unwrap().iter().all(|name| object.contains_key(name.as_str().unwrap()))
            }),
            "properties" => value.as_object().is_none_or(|object| {
                object.iter().all(|(name, value)| rule.get(name).is_none_or(|rule| fits(root, rule, value)))
            }),
            "additionalProperties" => value.as_object().is_none_or(|object| {
                let known = |name: &str| map.get("properties").is_some_and(|known| known.get(name).is_some());
                object.iter().all(|(name, value)| known(name) || fits(root, rule, value))
            }),
            "items" => value.as_array().is_none_or(|items| items.iter().all(|item| fits(root, rule, item))),
            _ => true,
        })
    }

    fn accepts(text: &str) -> bool {
        let schema = schema(&Registry::new().with::<Sample>());
        fits(&schema, &schema, &serde_yaml::from_str(text).unwrap())
    }

    #[test]
    fn experiments_fit() {
        for text in [
            "nodes: { a: { task: sample, with: { model: { backend: served, name: x }, temperature: 0.6 } } }",
            "nodes: { a: { task: sample, with: { model: $(model), temperature: $(t), stop: [a, $(stop)] } } }",
            "nodes: { a: { task: sample, with: $(all), run: { gpus: $(gpus), memory: 8GiB } } }",
            "name: x\nextends: y.yaml\nprofile: p\nprofiles: { p: { take: 1, nodes: { a: { with: { x: 1 } }, b: null } } }",
            "remote: s3://bucket/folder",
            "remote: { url: $(place), sign: false, write: $(w) }\nprofiles: { alone: { remote: null } }",
            "seed: 1\narms: { r1: { traces: x } }\naxes: { s: { range: 10 }, t: [1, 2], u: { a: { b: 1 } } }\nlimits: { server: 2 }\nrun: { cpus: 2, sample: {} }",
            "nodes: { a: { task: sample, over: [s], inputs: { p: [x@*, y], q: null }, when: $(s.on) } }",
        ] {
            assert!(accepts(text), "{text}");
        }
    }

    #[test]
    fn mistakes_do_not() {
        for text in [
            "nodse: {}",
            "nodes: { a: { tsak: sample } }",
            "nodes: { a: { task: smaple } }",
            "nodes: { a: { task: sample, with: { temprature: 1 } } }",
            "nodes: { a: { task: sample, with: { temperature: hot } } }",
            "nodes: { a: { task: sample, with: { model: { backend: sevred, name: x } } } }",
            "nodes: { a: { task: sample, run: { gpu: 1 } } }",
            "run: { publish: { a: b } }",
            "axes: { s: 1 }",
        ] {
            assert!(!accepts(text), "{text}");
        }
    }
}
