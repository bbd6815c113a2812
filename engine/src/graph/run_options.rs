//! `run:` to [`RunOptions`]: the engine's own options, and those of the task kind.
//!
//! The `run:` of the whole file holds defaults: options of the engine for all nodes, and under the name of a task kind
//! what holds for its nodes only.

use std::path::PathBuf;

use serde_json::Value as Json;

use super::fault::visit_environment;
use super::{Placement, RunOptions};
use crate::artifact::Ports;
use crate::registry::Registry;
use crate::spec::tree::{Field, Map, Tree, Value};
use crate::spec::{Diagnostic, Experiment};

/// The engine's own options.
pub(crate) const ENGINE_OPTIONS: [&str; 9] =
    ["cpus", "gpus", "memory", "limits", "retries", "timeout", "publish", "executor", "shards"];

/// The executor that is the process of the run itself.
const LOCAL: &str = "local";

/// What holds for a node of `kind`, in layers that [`joined`] lays over one another once their variables are filled in:
/// the file's defaults, those of the kind, the node's own. Maps are one layer already; a whole `run: $(…)` is its own.
///
/// The defaults of other kinds are left out here; [`check_defaults`] has looked at them.
pub(super) fn layers(defaults: Option<&Field>, kind: &str, own: Option<&Field>) -> Vec<Tree> {
    let defaults = defaults.and_then(|field| Some((field.tree.as_map()?, field.tree.span)));
    let common = defaults.map(|(map, span)| {
        let engine = map.iter().filter(|(name, _)| ENGINE_OPTIONS.contains(&&***name));
        let kept: Map = engine.map(|(name, field)| (name.clone(), field.clone())).collect();
        Tree::new(span, Value::Map(kept.into()))
    });
    let of_kind = defaults.and_then(|(map, _)| map.get(kind));
    let mut layers: Vec<Tree> = common.into_iter().collect();
    for above in [of_kind, own].into_iter().flatten() {
        match layers.last_mut() {
            Some(below) if below.as_map().is_some() && above.tree.as_map().is_some() => {
                *below = below.overlaid(&above.tree);
            }
            _ => layers.push(above.tree.clone()),
        }
    }
    layers
}

/// The filled layers as one; one that says nothing hides nothing.
pub(super) fn joined(layers: Vec<Tree>) -> Option<Tree> {
    layers.into_iter().reduce(|below, above| match above.value {
        Value::Null => below,
        _ => below.overlaid(&above),
    })
}

/// Faults of the defaults' names: neither an option nor a kind.
pub(super) fn check_defaults(defaults: Option<&Field>, kinds: &[&str], faults: &mut Vec<Diagnostic>) {
    for (name, field) in defaults.and_then(|field| field.tree.as_map()).into_iter().flatten() {
        if &**name == "publish" {
            faults.push(
                Diagnostic::at(field.key, "`publish` belongs to a node")
                    .help("write it under the node's `run:`"),
            );
        } else if kinds.contains(&&**name) {
            if field.tree.as_map().is_none() && !field.tree.templated {
                faults.push(Diagnostic::at(field.tree.span, format!("the options of `{name}` are a map")));
            }
        } else if !ENGINE_OPTIONS.contains(&&**name) {
            faults.push(
                Diagnostic::at(
                    field.key,
                    format!("`{name}` is neither an option of the engine nor a task kind"),
                )
                .suggest(name, ENGINE_OPTIONS.into_iter().chain(kinds.iter().copied()))
                .help("options of one task kind stand under its name, such as `sample: { concurrency: 64 }`"),
            );
        }
    }
}

/// Reads the engine's options out of a filled `run:`; what is left is the task's.
pub(super) fn read(
    tree: &Tree,
    ports: &Ports,
    experiment: &Experiment,
    registry: &Registry,
    faults: &mut Vec<Diagnostic>,
) -> RunOptions {
    let mut options = RunOptions::default();
    let mut task = serde_json::Map::new();
    let Some(map) = tree.as_map() else {
        if !matches!(tree.value, Value::Null) {
            faults.push(Diagnostic::at(tree.span, format!("`run` is a map, not {}", tree.what())));
        }
        options.task = Json::Object(task);
        return options;
    };
    for (name, field) in map {
        let value = &field.tree;
        if value.environment && matches!(value.value, Value::Null) {
            // The environment does not set it; there is a warning.
            continue;
        }
        match &**name {
            "cpus" => options.cpus = count(name, value, faults),
            "gpus" => options.gpus = count(name, value, faults),
            "retries" => options.retries = count(name, value, faults).unwrap_or(0),
            "memory" => {
                options.memory = quantity(value, &MEMORY, "`memory` is bytes, such as `8GiB`", faults)
                    .map(|bytes| bytes as u64);
            }
            "timeout" => {
                options.timeout =
                    quantity(value, &TIME, "`timeout` is seconds, or such as `90s`, `10m`, `2h`", faults);
            }
            "limits" => read_limits(value, experiment, &mut options, faults),
            "publish" => read_publish(value, ports, experiment, &mut options, faults),
            "executor" => options.executor = read_executor(value, registry, faults),
            "shards" => {
                options.shards = count(name, value, faults).filter(|&shards| {
                    if shards == 0 {
                        faults.push(Diagnostic::at(value.span, "`shards` is one or more"));
                    }
                    shards > 0
                });
            }
            _ => {
                let mut pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
                visit_environment(value, &mut pointer, &mut |pointer, _| {
                    options.secrets.push(pointer.to_owned());
                });
                task.insert(name.to_string(), value.to_json());
            }
        }
    }
    options.task = Json::Object(task);
    options
}

/// `local`, the name of an executor, or a map of one name with its options.
fn read_executor(tree: &Tree, registry: &Registry, faults: &mut Vec<Diagnostic>) -> Option<Placement> {
    let (name, options, span) = match (tree.as_text(), tree.as_map()) {
        (Some(name), _) => (name.to_string(), Json::Object(serde_json::Map::new()), tree.span),
        (None, Some(map)) if map.len() == 1 => {
            let (name, field) = map.iter().next()?;
            let options = match &field.tree.value {
                Value::Null => Json::Object(serde_json::Map::new()),
                _ => field.tree.to_json(),
            };
            (name.to_string(), options, field.key)
        }
        _ => {
            let help = "write `executor: local`, or such as `executor: { slurm: { partition: gpu } }`";
            faults.push(Diagnostic::at(tree.span, "`executor` names one executor").help(help));
            return None;
        }
    };
    if name == LOCAL {
        return None;
    }
    let Some(executor) = registry.executor(&name) else {
        let known = registry.executors().map(|executor| executor.name()).chain([LOCAL]);
        faults.push(Diagnostic::at(span, format!("there is no executor `{name}`")).suggest(&name, known));
        return None;
    };
    if let Err(error) = executor.check(&options) {
        let inner = tree.as_map().and_then(|map| map.values().next());
        let place = inner.and_then(|field| field.tree.pointer(&error.pointer)).map_or(span, |(key, _)| key);
        faults.push(Diagnostic::at(place, format!("the options of `{name}`: {}", error.message)));
        return None;
    }
    Some(Placement { name, options })
}

pub(super) fn count(name: &str, tree: &Tree, faults: &mut Vec<Diagnostic>) -> Option<u32> {
    let count = match &tree.value {
        Value::Number(number, _) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
        _ => None,
    };
    if count.is_none() {
        faults.push(Diagnostic::at(tree.span, format!("`{name}` is a whole number, zero or more")));
    }
    count
}

const MEMORY: [(&str, f64); 7] = [
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("B", 1.0),
];
pub(super) const TIME: [(&str, f64); 4] = [("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86400.0)];

/// A number, alone or with one of `units`.
pub(super) fn quantity(
    tree: &Tree,
    units: &[(&str, f64)],
    expected: &str,
    faults: &mut Vec<Diagnostic>,
) -> Option<f64> {
    let quantity = match &tree.value {
        Value::Number(number, _) => number.as_f64(),
        Value::Text(text) => units.iter().find_map(|(unit, factor)| {
            let number: f64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
            Some(number * factor)
        }),
        _ => None,
    };
    let quantity = quantity.filter(|quantity| quantity.is_finite() && *quantity >= 0.0);
    if quantity.is_none() {
        faults.push(Diagnostic::at(tree.span, expected));
    }
    quantity
}

fn read_limits(tree: &Tree, experiment: &Experiment, options: &mut RunOptions, faults: &mut Vec<Diagnostic>) {
    let Some(map) = tree.as_map() else {
        faults.push(Diagnostic::at(tree.span, "`limits` is a map: `{ judge-server: 1 }`"));
        return;
    };
    for (name, field) in map {
        let Some(slots) = count(name, &field.tree, faults) else { continue };
        match experiment.limits.get(&**name) {
            None => faults.push(
                Diagnostic::at(field.key, format!("there is no limit `{name}`"))
                    .suggest(name, experiment.limits.keys().map(String::as_str))
                    .help(format!("give its capacity at the top of the file: `limits: {{ {name}: 4 }}`")),
            ),
            Some(capacity) if slots > *capacity => faults.push(Diagnostic::at(
                field.tree.span,
                format!(
                    "`{name}` has a capacity of {capacity}, so a node that takes {slots} could never run"
                ),
            )),
            Some(_) => {
                options.limits.insert(name.to_string(), slots);
            }
        }
    }
}

fn read_publish(
    tree: &Tree,
    ports: &Ports,
    experiment: &Experiment,
    options: &mut RunOptions,
    faults: &mut Vec<Diagnostic>,
) {
    let Some(map) = tree.as_map() else {
        faults.push(Diagnostic::at(tree.span, "`publish` is a map from an output to a path"));
        return;
    };
    for (name, field) in map {
        if ports.find_output(name).is_none() {
            let outputs = ports.outputs().iter().map(|port| port.name.as_str());
            faults.push(
                Diagnostic::at(field.key, format!("there is no output `{name}`")).suggest(name, outputs),
            );
        } else if let Some(path) = field.tree.as_text().filter(|path| !path.is_empty()) {
            let path: PathBuf = experiment.resolve_path(field.tree.origin, path);
            options.publish.insert(name.to_string(), path);
        } else {
            faults.push(Diagnostic::at(
                field.tree.span,
                format!("a path is expected, not {}", field.tree.what()),
            ));
        }
    }
}
