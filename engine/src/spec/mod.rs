//! `Experiment`: an experiment as written, its files joined and its profile chosen.
//!
//! # Which value wins
//!
//! From weakest to strongest: what `extends` brings, the file, the chosen profile, the parameters of the arm a node is in,
//! `--set`. Maps merge, everything else is replaced. Values of one's own stand under `params:`. A profile may overlay
//! `seed`, `params`, `arms`, `axes`, `nodes`, `run`, `limits`, `services` and `remote`; any other name in it is a param, and so it is with
//! `--set`. An entry of `arms`, `axes`, `nodes` or `services` that is overlaid by null is gone.
//!
//! Reading goes on after a fault wherever it can: the faults travel in the [`Experiment`], and
//! [`compile`](crate::graph::compile()) reports them together with its own.

pub mod diagnostic;
mod document;
pub mod expand;
pub mod interpolate;
pub mod shared;
pub mod source;
pub mod tree;
mod typed;
pub mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;

pub use self::diagnostic::{Diagnostic, Diagnostics, Severity};
use self::document::Document;
pub(crate) use self::document::{FIELDS, SECTIONS, normalised};
use self::expand::Axis;
use self::interpolate::{Piece, Scope, visit_templates};
pub use self::shared::RemoteSpec;
use self::source::{SourceId, Sources, Span};
use self::tree::{Field, Tree, Value};
use crate::task::Environment;

/// What reading an experiment needs beside its file.
pub struct LoadOptions<'a> {
    /// The profile to use instead of the file's default.
    pub profile: Option<String>,
    /// Values to use instead of those of the file, as (`a.b`, value).
    pub sets: Vec<(String, String)>,
    /// The working folder: relative paths of the command line start there.
    pub directory: &'a Path,
    /// Where `$(env:…)` looks.
    pub environment: &'a dyn Environment,
    /// Reads a file.
    pub read: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
}

/// An experiment as written.
#[derive(Debug)]
pub struct Experiment {
    /// Its name: `name:`, or that of the file.
    pub name: Arc<str>,
    /// The question it asks.
    pub about: Option<Arc<str>>,
    /// The profile that was chosen.
    pub profile: Option<Arc<str>>,
    /// The names of all profiles.
    pub profiles: Vec<Arc<str>>,
    /// The seed of the tasks that use one.
    pub seed: u64,
    /// Capacity of each named limit.
    pub limits: BTreeMap<String, u32>,
    /// The axes; the arms are the axis `arm`.
    pub axes: IndexMap<Arc<str>, Axis>,
    /// The nodes, as written.
    pub nodes: IndexMap<Arc<str>, NodeSpec>,
    /// Where results are shared.
    pub remote: Option<RemoteSpec>,
    pub(crate) run: Option<Field>,
    pub(crate) services: Option<Field>,
    pub(crate) params: Tree,
    pub(crate) sets: Tree,
    pub(crate) environment: BTreeMap<String, Option<Arc<str>>>,
    pub(crate) command_line: SourceId,
    pub(crate) span: Span,
    pub(crate) sources: Arc<Sources>,
    pub(crate) faults: Vec<Diagnostic>,
}

/// A node as written: one for all places it takes on its axes.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Its name.
    pub name: Arc<str>,
    /// Where its name is written.
    pub span: Span,
    /// The task kind, and where it is written; `None` if that is faulty.
    pub task: Option<(Arc<str>, Span)>,
    /// The axes it is over.
    pub over: Vec<Arc<str>>,
    /// What enters its ports.
    pub inputs: Option<Field>,
    /// The params of its task.
    pub with: Option<Field>,
    /// How to run it.
    pub run: Option<Field>,
    /// Whether it exists at a place.
    pub when: Option<Field>,
}

/// The fields of a node.
pub(crate) const NODE_FIELDS: [&str; 7] = ["task", "about", "over", "inputs", "with", "run", "when"];

/// Reads the experiment at `path`, with all that it extends.
///
/// # Errors
/// A file that cannot be read or is not YAML, or a profile that is not there. All other faults are in the experiment, for
/// [`compile`](crate::graph::compile()) to report.
pub fn load(path: &Path, options: &LoadOptions<'_>) -> Result<Experiment, Diagnostics> {
    let document = document::load(path, options)?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok(read_document(document, &stem, options.environment))
}

fn read_document(document: Document, stem: &str, environment: &dyn Environment) -> Experiment {
    let Document { tree, sets, set_paths, profile, command_line, sources, mut faults } = document;
    let section =
        |name: &str| tree.get(name).map_or_else(|| Tree::empty_map(tree.span), |field| field.tree.clone());
    let text = |name: &str, faults: &mut Vec<Diagnostic>| {
        let field = tree.get(name)?;
        let text = field.tree.as_text().cloned();
        if text.is_none() {
            faults.push(Diagnostic::at(
                field.tree.span,
                format!("`{name}` is a text, not {}", field.tree.what()),
            ));
        }
        text
    };
    let mut experiment = Experiment {
        name: text("name", &mut faults).unwrap_or_else(|| stem.into()),
        about: text("about", &mut faults),
        profile,
        profiles: section("profiles").as_map().into_iter().flat_map(|map| map.keys().cloned()).collect(),
        seed: read_seed(&tree, &mut faults),
        limits: read_limits(&section("limits"), &mut faults),
        axes: IndexMap::new(),
        nodes: IndexMap::new(),
        remote: None,
        run: tree.get("run").cloned(),
        services: tree.get("services").cloned(),
        params: section("params"),
        sets,
        environment: read_environment(&tree, environment),
        command_line,
        span: tree.get("name").map_or(tree.span, |field| field.tree.span),
        sources: Arc::new(sources),
        faults: Vec::new(),
    };
    experiment.axes = read_axes(&experiment, &tree, &mut faults);
    if let Some(field) = tree.get("remote") {
        let filled = Scope::new(&experiment).fill(&field.tree, &[], &mut faults);
        experiment.remote = filled.and_then(|tree| shared::read(&tree, &mut faults));
    }
    for name in experiment.params.as_map().into_iter().flat_map(|map| map.keys()) {
        let field = &experiment.params.as_map().expect("just iterated")[name];
        if SECTIONS.contains(&&**name) || FIELDS.contains(&&**name) || experiment.axes.contains_key(name) {
            faults.push(
                Diagnostic::at(field.key, format!("a param cannot be called `{name}`"))
                    .help("`$(…)` of that name is a field or an axis of the experiment"),
            );
        }
    }
    for (name, field) in section("nodes").as_map().into_iter().flatten() {
        if !matches!(field.tree.value, Value::Null) {
            let spec = read_node(name, field, &experiment.axes, &mut faults);
            experiment.nodes.insert(Arc::clone(name), spec);
        }
    }
    check_uses(&experiment, &tree, &set_paths, &mut faults);
    experiment.faults = faults;
    experiment
}

fn read_seed(tree: &Tree, faults: &mut Vec<Diagnostic>) -> u64 {
    let Some(field) = tree.get("seed") else { return 0 };
    let seed = match &field.tree.value {
        Value::Number(number, _) => number.as_u64(),
        _ => None,
    };
    seed.unwrap_or_else(|| {
        faults.push(Diagnostic::at(field.tree.span, "`seed` is a whole number, zero or more"));
        0
    })
}

fn read_limits(tree: &Tree, faults: &mut Vec<Diagnostic>) -> BTreeMap<String, u32> {
    let mut limits = BTreeMap::new();
    for (name, field) in tree.as_map().into_iter().flatten() {
        let capacity = match &field.tree.value {
            Value::Number(number, _) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
            _ => None,
        };
        match capacity.filter(|capacity| *capacity > 0) {
            Some(capacity) => {
                limits.insert(name.to_string(), capacity);
            }
            None => faults.push(Diagnostic::at(
                field.tree.span,
                "the capacity of a limit is a whole number above zero",
            )),
        }
    }
    limits
}

/// The values of all environment variables that the file names, each read once.
fn read_environment(tree: &Tree, environment: &dyn Environment) -> BTreeMap<String, Option<Arc<str>>> {
    let mut values = BTreeMap::new();
    visit_templates(tree, &mut |_, text| {
        for piece in interpolate::pieces(text) {
            if let Piece::Environment { name, .. } = piece {
                let read = || environment.var(name).filter(|value| !value.is_empty()).map(Arc::from);
                values.entry(name.to_owned()).or_insert_with(read);
            }
        }
    });
    values
}

fn read_axes(experiment: &Experiment, tree: &Tree, faults: &mut Vec<Diagnostic>) -> IndexMap<Arc<str>, Axis> {
    let mut axes = IndexMap::new();
    let scope = Scope::new(experiment);
    let arms = tree.get("arms").map(|field| (Arc::from("arm"), field));
    let others = tree.get("axes").and_then(|field| field.tree.as_map()).into_iter().flatten();
    for (name, field) in arms.into_iter().chain(others.map(|(name, field)| (Arc::clone(name), field))) {
        if matches!(field.tree.value, Value::Null) {
            continue;
        }
        check_name("an axis", &name, field.key, faults);
        let whole = match &field.tree.value {
            Value::Map(map) => map.contains_key("range"),
            _ => true,
        };
        // The parameters of a map's values are filled in where they are used, since they may depend on the place.
        let filled = if whole {
            scope.fill(&field.tree, &[], faults)
        } else {
            Some(without_nulls(&field.tree, &name))
        };
        let Some(filled) = filled else { continue };
        let axis = Axis::read(&name, &Field { key: field.key, tree: filled }, faults);
        if let Some(other) = axes.insert(Arc::clone(&name), axis) {
            let fault = Diagnostic::at(field.key, "the axis `arm` is what `arms:` defines");
            faults.push(fault.related(other.span, "it is defined here"));
        }
    }
    axes
}

/// Without the arms that an overlay has set to null. In an axis, a null is a value without parameters.
fn without_nulls(tree: &Tree, axis: &str) -> Tree {
    let Some(map) = tree.as_map().filter(|_| axis == "arm") else { return tree.clone() };
    let kept = map.iter().filter(|(_, field)| !matches!(field.tree.value, Value::Null));
    let kept = kept.map(|(name, field)| (Arc::clone(name), field.clone())).collect();
    Tree::new(tree.span, Value::Map(Arc::new(kept)))
}

fn check_name(what: &str, name: &str, span: Span, faults: &mut Vec<Diagnostic>) {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let starts = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if !starts || !name.bytes().all(word) {
        faults.push(
            Diagnostic::at(span, format!("`{name}` cannot be the name of {what}"))
                .help("a name is letters, digits, `_` and `-`, and begins with a letter"),
        );
    }
}

fn read_node(
    name: &Arc<str>,
    field: &Field,
    axes: &IndexMap<Arc<str>, Axis>,
    faults: &mut Vec<Diagnostic>,
) -> NodeSpec {
    check_name("a node", name, field.key, faults);
    let mut spec = NodeSpec {
        name: Arc::clone(name),
        span: field.key,
        task: None,
        over: Vec::new(),
        inputs: None,
        with: None,
        run: None,
        when: None,
    };
    let Some(map) = field.tree.as_map() else {
        faults.push(
            Diagnostic::at(field.tree.span, format!("a node is a map, not {}", field.tree.what()))
                .help("the smallest node is `{ task: KIND }`"),
        );
        return spec;
    };
    for (key, field) in map {
        match &**key {
            "task" => match field.tree.as_text() {
                Some(task) => spec.task = Some((Arc::clone(task), field.tree.span)),
                None => faults.push(Diagnostic::at(field.tree.span, "`task` is the name of a task kind")),
            },
            "over" => spec.over = read_over(&field.tree, axes, faults),
            "inputs" => spec.inputs = Some(field.clone()),
            "with" => spec.with = Some(field.clone()),
            "run" => spec.run = Some(field.clone()),
            "when" => spec.when = Some(field.clone()),
            "about" => {}
            _ => faults.push(
                Diagnostic::at(field.key, format!("a node has no field `{key}`")).suggest(key, NODE_FIELDS),
            ),
        }
    }
    if !map.contains_key("task") {
        faults.push(
            Diagnostic::at(field.key, format!("the node `{name}` has no `task`"))
                .help("if it only changes a node that is extended, its name may be misspelt"),
        );
    }
    spec
}

fn read_over(tree: &Tree, axes: &IndexMap<Arc<str>, Axis>, faults: &mut Vec<Diagnostic>) -> Vec<Arc<str>> {
    let items: &[Tree] = match &tree.value {
        Value::List(items) => items,
        Value::Null => &[],
        _ => std::slice::from_ref(tree),
    };
    let mut over: Vec<Arc<str>> = Vec::new();
    for item in items {
        let Some(name) = item.as_text() else {
            faults.push(Diagnostic::at(item.span, format!("an axis is named here, not {}", item.what())));
            continue;
        };
        if !axes.contains_key(name) {
            let fault = Diagnostic::at(item.span, format!("there is no axis `{name}`"));
            faults.push(fault.suggest(name, axes.keys().map(|name| &**name)));
        } else if over.contains(name) {
            faults.push(Diagnostic::at(item.span, format!("the axis `{name}` is named twice")));
        } else {
            over.push(Arc::clone(name));
        }
    }
    over
}

/// What is defined and not used looks like a mistake; what is `--set` and not used is one.
fn check_uses(
    experiment: &Experiment,
    tree: &Tree,
    set_paths: &[(String, Span)],
    faults: &mut Vec<Diagnostic>,
) {
    let mut used = BTreeSet::new();
    SECTIONS
        .iter()
        .filter_map(|name| tree.get(name))
        .for_each(|field| collect_variables(&field.tree, &mut used));
    for (path, span) in set_paths {
        let section = path.split('.').next().unwrap_or(path);
        if !SECTIONS.contains(&section) && !is_used(&used, path) {
            let mut known: Vec<String> = interpolate::paths(&experiment.params);
            known.retain(|other| is_used(&used, other));
            known.extend(used.iter().cloned());
            let fault = Diagnostic::at(*span, format!("nothing in the experiment uses `{path}`"));
            faults.push(fault.suggest(path, known.iter().map(String::as_str)));
        }
    }
    // What another profile uses is no mistake in this one.
    tree.get("profiles").into_iter().for_each(|field| collect_variables(&field.tree, &mut used));
    let is_used = |path: &str| is_used(&used, path);
    let is_set = |path: &str| set_paths.iter().any(|(set, _)| set == path);
    visit_leaves(&experiment.params, "", &mut |path, key| {
        if !is_used(path) && !is_set(path) {
            let fault = Diagnostic::warning(key, format!("nothing uses the param `{path}`"));
            faults.push(match diagnostic::closest(path, used.iter().map(String::as_str)) {
                Some(near) => fault.help(format!("did you mean `{near}`?")),
                None => fault,
            });
        }
    });
    for axis in experiment.axes.values() {
        for value in axis.values() {
            let Some(parameters) = &value.parameters else { continue };
            visit_leaves(parameters, "", &mut |path, key| {
                let overlays = &*axis.name == "arm" && is_used(path);
                if !overlays && !is_used(&format!("{}.{path}", axis.name)) {
                    faults.push(Diagnostic::warning(key, format!("nothing uses `$({}.{path})`", axis.name)));
                }
            });
        }
    }
}

fn collect_variables(tree: &Tree, used: &mut BTreeSet<String>) {
    visit_templates(tree, &mut |_, text| {
        for piece in interpolate::pieces(text) {
            if let Piece::Variable { path, .. } = piece {
                used.insert(path.to_owned());
            }
        }
    });
}

/// A path is used if it, something in it or something around it is.
fn is_used(used: &BTreeSet<String>, path: &str) -> bool {
    let inside = format!("{path}.");
    used.contains(path)
        || path.match_indices('.').any(|(at, _)| used.contains(&path[..at]))
        || used.range(inside.clone()..).next().is_some_and(|next| next.starts_with(&inside))
}

/// Calls `visit` with the dotted path and the key of everything in `tree` that is not a map.
fn visit_leaves(tree: &Tree, prefix: &str, visit: &mut impl FnMut(&str, Span)) {
    for (name, field) in tree.as_map().into_iter().flatten() {
        let path = if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") };
        if field.tree.as_map().is_some() {
            visit_leaves(&field.tree, &path, visit);
        } else {
            visit(&path, field.key);
        }
    }
}

impl Experiment {
    /// The absolute path that `path`, written in `origin`, means.
    pub(crate) fn resolve_path(&self, origin: SourceId, path: &str) -> PathBuf {
        normalised(&self.sources.get(origin).directory.join(path))
    }
}

#[cfg(test)]
pub(crate) mod tests;
