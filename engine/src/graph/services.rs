//! `services:` to [`Service`]s, and which of them the nodes ask.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::RunOptions;
use super::fault::visit_environment;
use super::run_options::{self, TIME, count, quantity};
use crate::artifact::Ports;
use crate::registry::{Registry, Step};
use crate::service::{MODEL, PORT, Service};
use crate::spec::interpolate::Scope;
use crate::spec::tree::{Field, Tree, Value};
use crate::spec::{Diagnostic, Experiment};
use crate::task::Resources;

/// The fields of a service.
pub(crate) const SERVICE_FIELDS: [&str; 11] = [
    "about",
    "argv",
    "replicas",
    "health",
    "start_within",
    "hang_after",
    "lease",
    "host",
    "port",
    "env",
    "run",
];
/// The options of the engine that a service has.
pub(crate) const SERVICE_OPTIONS: [&str; 4] = ["cpus", "gpus", "memory", "executor"];

/// Reads all services, variables filled in.
pub(super) fn read(
    experiment: &Experiment,
    registry: &Registry,
    scope: &Scope<'_>,
    faults: &mut Vec<Diagnostic>,
) -> BTreeMap<String, Arc<Service>> {
    let mut services = BTreeMap::new();
    let Some(section) = &experiment.services else { return services };
    for (name, field) in section.tree.as_map().into_iter().flatten() {
        if matches!(field.tree.value, Value::Null) {
            continue;
        }
        let Some(tree) = scope.fill_operational(&field.tree, &[], faults) else { continue };
        if let Some(service) = read_service(name, field, &tree, experiment, registry, faults) {
            services.insert(name.to_string(), Arc::new(service));
        }
    }
    services
}

fn read_service(
    name: &str,
    field: &Field,
    tree: &Tree,
    experiment: &Experiment,
    registry: &Registry,
    faults: &mut Vec<Diagnostic>,
) -> Option<Service> {
    let Some(map) = tree.as_map() else {
        faults.push(
            Diagnostic::at(tree.span, format!("a service is a map, not {}", tree.what()))
                .help("the smallest is `{ argv: [PROGRAM, --port, \"{port}\"] }`"),
        );
        return None;
    };
    let mut service = Service {
        name: name.to_owned(),
        argv: Vec::new(),
        replicas: 1,
        health: "/health".to_owned(),
        start_within: 1200.0,
        hang_after: 300.0,
        lease: 30.0,
        host: None,
        port: None,
        env: BTreeMap::new(),
        secrets: std::collections::BTreeSet::new(),
        resources: Resources::default(),
        executor: None,
    };
    let before = faults.len();
    for (key, entry) in map {
        let value = &entry.tree;
        let time = |faults: &mut Vec<Diagnostic>| {
            let expected = format!("`{key}` is seconds, or such as `90s`, `10m`, `2h`");
            quantity(value, &TIME, &expected, faults)
        };
        match &**key {
            "about" => {}
            "argv" => service.argv = read_argv(value, faults),
            "replicas" => match count(key, value, faults) {
                Some(0) => faults.push(Diagnostic::at(value.span, "`replicas` is one or more")),
                replicas => service.replicas = replicas.unwrap_or(1),
            },
            "health" => match value.as_text().filter(|path| path.starts_with('/')) {
                Some(path) => service.health = path.to_string(),
                None => faults.push(Diagnostic::at(value.span, "`health` is a path such as `/health`")),
            },
            "start_within" => service.start_within = time(faults).unwrap_or(1.0),
            "hang_after" => service.hang_after = time(faults).unwrap_or(0.0),
            "lease" => service.lease = time(faults).unwrap_or(1.0).max(1.0),
            "host" => match value.as_text().filter(|host| !host.is_empty()) {
                Some(host) => service.host = Some(host.to_string()),
                None => faults.push(Diagnostic::at(value.span, "`host` is the name or address of a machine")),
            },
            "port" => match count(key, value, faults).and_then(|port| u16::try_from(port).ok()) {
                Some(port) if port > 0 => service.port = Some(port),
                _ => faults.push(Diagnostic::at(value.span, "`port` is a number from 1 to 65535")),
            },
            "env" => read_env(value, &mut service, faults),
            "run" => read_run(value, &mut service, experiment, registry, faults),
            _ => faults.push(
                Diagnostic::at(entry.key, format!("a service has no field `{key}`"))
                    .suggest(key, SERVICE_FIELDS),
            ),
        }
    }
    if !map.contains_key("argv") {
        faults.push(
            Diagnostic::at(field.key, format!("the service `{name}` has no `argv`")).help(
                "write the program and its arguments: `argv: [vllm, serve, MODEL, --port, \"{port}\"]`",
            ),
        );
    } else if faults.len() == before {
        let has_port = service.argv.iter().any(|word| word.contains(PORT));
        if !has_port && service.port.is_none() {
            faults.push(
                Diagnostic::at(
                    map["argv"].tree.span,
                    format!("nothing tells `{name}` at which port to listen"),
                )
                .help("write `\"{port}\"` where its argument stands, or give the one it has as `port:`"),
            );
        }
        if service.replicas > 1 && service.executor.is_none() && service.port.is_some() {
            faults.push(
                Diagnostic::at(map["port"].tree.span, "several replicas on one machine cannot share a port")
                    .help("leave `port` out, and write `\"{port}\"` in `argv`: each then gets a free one"),
            );
        }
    }
    (faults.len() == before).then_some(service)
}

fn read_argv(tree: &Tree, faults: &mut Vec<Diagnostic>) -> Vec<String> {
    let Value::List(items) = &tree.value else {
        faults.push(Diagnostic::at(tree.span, "`argv` is a list: the program, then each of its arguments"));
        return Vec::new();
    };
    visit_environment(tree, &mut String::new(), &mut |_, word| {
        faults.push(
            Diagnostic::at(word.span, "the environment may not stand in `argv`, which is written to a file")
                .help("hand it on as a variable: `env: { NAME: $(env:NAME) }`"),
        );
    });
    let words = items.iter().map(|item| match &item.value {
        Value::Text(text) => Some(text.to_string()),
        Value::Number(_, written) => Some(written.to_string()),
        _ => {
            faults.push(Diagnostic::at(item.span, format!("an argument is a text, not {}", item.what())));
            None
        }
    });
    let words: Vec<String> = words.collect::<Vec<_>>().into_iter().flatten().collect();
    if items.is_empty() {
        faults.push(Diagnostic::at(tree.span, "`argv` names no program"));
    }
    words
}

fn read_env(tree: &Tree, service: &mut Service, faults: &mut Vec<Diagnostic>) {
    let Some(map) = tree.as_map() else {
        if !matches!(tree.value, Value::Null) {
            faults.push(Diagnostic::at(tree.span, "`env` is a map from names to values"));
        }
        return;
    };
    for (name, field) in map {
        let value = match &field.tree.value {
            Value::Text(text) => text.to_string(),
            Value::Number(_, written) => written.to_string(),
            Value::Bool(value) => value.to_string(),
            // What the environment does not set is null, with a warning.
            Value::Null => continue,
            _ => {
                let what = field.tree.what();
                faults.push(Diagnostic::at(field.tree.span, format!("a variable is a text, not {what}")));
                continue;
            }
        };
        if field.tree.environment {
            service.secrets.insert(name.to_string());
        }
        service.env.insert(name.to_string(), value);
    }
}

fn read_run(
    tree: &Tree,
    service: &mut Service,
    experiment: &Experiment,
    registry: &Registry,
    faults: &mut Vec<Diagnostic>,
) {
    for (name, field) in tree.as_map().into_iter().flatten() {
        if !SERVICE_OPTIONS.contains(&&**name) {
            faults.push(
                Diagnostic::at(field.key, format!("the `run` of a service has no field `{name}`"))
                    .suggest(name, SERVICE_OPTIONS),
            );
            return;
        }
    }
    let options = run_options::read(tree, &Ports::new(), experiment, registry, faults);
    let default = Resources::default();
    service.resources = Resources {
        cpus: options.cpus.unwrap_or(default.cpus),
        gpus: options.gpus.unwrap_or(default.gpus),
        memory: options.memory.unwrap_or(default.memory),
    };
    if let Some(placement) = &options.executor
        && !registry.executor(&placement.name).is_some_and(|executor| executor.hosts_services())
    {
        let span = tree.get("executor").map_or(tree.span, |field| field.tree.span);
        let hosts = registry.executors().filter(|executor| executor.hosts_services());
        let hosts: Vec<String> = hosts.map(|executor| format!("`{}`", executor.name())).collect();
        faults.push(
            Diagnostic::at(span, format!("`{}` runs no services", placement.name))
                .help(format!("services run on `local` or {}", hosts.join(", "))),
        );
    }
    service.executor = options.executor;
}

/// Which services the node asks: put into its options, and what is wrong with them into `faults`.
pub(super) fn connect(
    step: &dyn Step,
    filled: &Tree,
    services: &BTreeMap<String, Arc<Service>>,
    experiment: &Experiment,
    options: &mut RunOptions,
    faults: &mut Vec<Diagnostic>,
) {
    for used in step.services(&options.task) {
        let span = filled.pointer(&used.pointer).map_or(filled.span, |(_, tree)| tree.span);
        let Some(service) = services.get(&used.name) else {
            let known = experiment.services.as_ref().and_then(|field| field.tree.as_map());
            // One that is there but faulty has been reported.
            if known.is_none_or(|known| !known.contains_key(&*used.name)) {
                let fault = Diagnostic::at(span, format!("there is no service `{}`", used.name));
                faults.push(fault.suggest(&used.name, services.keys().map(String::as_str)).help(format!(
                    "describe it at the top of the file: `services: {{ {}: {{ argv: … }} }}`",
                    used.name
                )));
            }
            continue;
        };
        match (used.model, service.serves_model()) {
            (Some(port), false) => faults.push(
                Diagnostic::at(
                    span,
                    format!("the service `{}` does not serve the model that enters `{port}`", used.name),
                )
                .help(format!("write `\"{MODEL}\"` in its `argv` where the folder of the model is to stand")),
            ),
            (None, true) => faults.push(
                Diagnostic::at(
                    span,
                    format!(
                        "the service `{}` serves a model that enters a node, and none enters this one",
                        used.name
                    ),
                )
                .help("write `with: { model: { backend: served } }` and `inputs: { model: NODE }`"),
            ),
            _ => options.services.push(used),
        }
    }
}
