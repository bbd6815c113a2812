//! Experiment and registry to [`Graph`]: params bound, references resolved, ports checked, cycles found.
//!
//! Every fault is collected; only a graph without any is built. What cannot differ between the places of a node (its
//! params, its inputs, its options) is made once and shared, so a hundred thousand places cost little more than their
//! names.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use super::cycle::find_cycles;
use super::fault::{Params, Part, bind_fault, check_fault, environment_faults};
use super::reference::Reference;
use super::shared::{Shared, axes_in};
use super::{FileInput, Graph, Location, Node, NodeId, NodeInput, RunOptions, run_options, services};
use crate::artifact::Arity;
use crate::registry::{Registry, Step};
use crate::service::Service;
use crate::spec::diagnostic::Diagnostics;
use crate::spec::expand::{Axis, Grid, MAX_NODES};
use crate::spec::interpolate::Scope;
use crate::spec::source::Span;
use crate::spec::tree::{Field, Tree, Value};
use crate::spec::{Diagnostic, Experiment, NodeSpec, Severity};
use crate::task::FileKind;

/// The most inputs of all nodes together: gathers multiply.
const MAX_EDGES: usize = 4_000_000;

/// Compiles an experiment to a graph, with warnings.
///
/// # Errors
/// All faults of the experiment, those found while it was read included.
pub fn compile(experiment: &Experiment, registry: &Registry) -> Result<(Graph, Diagnostics), Diagnostics> {
    let mut compiler = Compiler::new(experiment, registry);
    compiler.make_parts();
    let nodes = compiler.wire_places();
    compiler.report_cycles(&nodes);
    let faults = std::mem::take(&mut compiler.faults);
    if faults.iter().any(|fault| fault.severity == Severity::Error) {
        return Err(Diagnostics::new(Arc::clone(&experiment.sources), faults));
    }
    let graph = compiler.build(nodes);
    Ok((graph, Diagnostics::new(Arc::clone(&experiment.sources), faults)))
}

/// A node as written, with what its places share.
struct Template<'a> {
    spec: &'a NodeSpec,
    grid: Grid<'a>,
    /// The index of its first place among all places.
    first: usize,
    steps: Shared<'a, Bound>,
    wires: Shared<'a, Arc<[Wire]>>,
    runs: Shared<'a, Arc<RunOptions>>,
}

/// A bound step, and the files its params name.
#[derive(Clone)]
struct Bound {
    step: Arc<dyn Step>,
    files: Arc<[FileInput]>,
}

/// One entry of `inputs:`, variables filled in.
struct Wire {
    port: Arc<str>,
    /// Where the port is named.
    key: Span,
    /// Whether a list was written.
    list: bool,
    references: Vec<(Arc<str>, Span)>,
    /// Whether a variable brought the references from elsewhere.
    brought: bool,
}

/// A place that exists, with what enters it.
struct Placed {
    template: usize,
    place: usize,
    inputs: Vec<NodeInput>,
}

struct Compiler<'a> {
    experiment: &'a Experiment,
    registry: &'a Registry,
    scope: Scope<'a>,
    arm_scopes: Vec<Scope<'a>>,
    services: BTreeMap<String, Arc<Service>>,
    templates: Vec<Template<'a>>,
    names: BTreeMap<String, Arc<str>>,
    faults: Vec<Diagnostic>,
}

impl<'a> Compiler<'a> {
    fn new(experiment: &'a Experiment, registry: &'a Registry) -> Self {
        let mut faults = experiment.faults.clone();
        let arms = experiment.axes.get("arm");
        let arm_scopes = arms.into_iter().flat_map(|axis| (0..axis.len()).map(move |at| (axis, at)));
        let arm_scopes = arm_scopes.map(|(axis, at)| Scope::of_arm(experiment, axis, at)).collect();
        let mut templates = Vec::new();
        let mut first = 0_usize;
        for spec in experiment.nodes.values() {
            let grid = Grid::new(spec.over.iter().map(|name| &experiment.axes[name]).collect());
            let places = grid.places();
            if first.saturating_add(places) > MAX_NODES {
                faults.push(Diagnostic::at(
                    spec.span,
                    format!("with `{}` the graph has more than {MAX_NODES} nodes", spec.name),
                ));
                break;
            }
            let defaults = experiment.run.as_ref();
            let kind = spec.task.as_ref().map_or("", |(kind, _)| kind);
            let run = run_options::layers(defaults, kind, spec.run.as_ref());
            templates.push(Template {
                spec,
                first,
                steps: Shared::new(axes_in(spec.with.iter().map(|field| &field.tree), &grid), &grid),
                wires: Shared::new(axes_in(spec.inputs.iter().map(|field| &field.tree), &grid), &grid),
                runs: Shared::new(axes_in(&run, &grid), &grid),
                grid,
            });
            first += places;
        }
        let kinds: Vec<&str> = registry.kinds().collect();
        run_options::check_defaults(experiment.run.as_ref(), &kinds, &mut faults);
        let scope = Scope::new(experiment);
        let services = services::read(experiment, registry, &scope, &mut faults);
        Self { experiment, registry, scope, arm_scopes, services, templates, names: BTreeMap::new(), faults }
    }

    /// Binds the params, reads the inputs and the options of every node.
    fn make_parts(&mut self) {
        let mut templates = std::mem::take(&mut self.templates);
        for template in &mut templates {
            let (spec, grid) = (template.spec, &template.grid);
            template.steps.make(grid, |at| self.bind(spec, at));
            template.wires.make(grid, |at| self.read_inputs(spec, at));
            let step = template.steps.made.iter().flatten().next().map(|bound| Arc::clone(&bound.step));
            template.runs.make(grid, |at| self.read_run(spec, step.as_deref(), at).map(Arc::new));
        }
        self.templates = templates;
    }

    fn fill(&mut self, tree: &Tree, at: &[(&'a Axis, usize)]) -> Option<Tree> {
        let arm = at.iter().find(|(axis, _)| &*axis.name == "arm");
        let scope = arm.map_or(&self.scope, |(_, position)| &self.arm_scopes[*position]);
        scope.fill(tree, at, &mut self.faults)
    }

    fn bind(&mut self, spec: &'a NodeSpec, at: &[(&'a Axis, usize)]) -> Option<Bound> {
        let (kind, kind_span) = spec.task.as_ref()?;
        if self.registry.about(kind).is_none() {
            let fault = Diagnostic::at(*kind_span, format!("there is no task kind `{kind}`"));
            self.faults.push(fault.suggest(kind, self.registry.kinds()));
            return None;
        }
        let filled = match &spec.with {
            Some(field) => self.fill(&field.tree, at)?,
            None => Tree::empty_map(*kind_span),
        };
        let filled = match filled.value {
            Value::Null => Tree::empty_map(filled.span),
            _ => filled,
        };
        let params = Params { spec, part: Part::With, filled: &filled };
        let step = match self.registry.bind_tree(kind, &filled)? {
            Ok(step) => step,
            Err(error) => {
                self.faults.push(bind_fault(&error, &params));
                return None;
            }
        };
        for fault in step.check() {
            self.faults.push(check_fault(fault, &params));
        }
        environment_faults(&*step, &params, &mut self.faults);
        let files = step.files().into_iter().map(|file| {
            let origin =
                filled.pointer(&file.pointer).map_or(self.experiment.span.source, |(_, tree)| tree.origin);
            let path = match file.kind {
                FileKind::Remote => file.pattern.into(),
                _ => self.experiment.resolve_path(origin, &file.pattern),
            };
            FileInput { pointer: file.pointer, path, kind: file.kind }
        });
        Some(Bound { files: files.collect(), step })
    }

    fn read_inputs(&mut self, spec: &'a NodeSpec, at: &[(&'a Axis, usize)]) -> Option<Arc<[Wire]>> {
        let Some(field) = &spec.inputs else { return Some(Arc::default()) };
        let filled = self.fill(&field.tree, at)?;
        let map = match &filled.value {
            Value::Map(map) => map,
            Value::Null => return Some(Arc::default()),
            _ => {
                let fault = Diagnostic::at(filled.span, format!("`inputs` is a map, not {}", filled.what()));
                self.faults.push(fault.help("write `inputs: { PORT: NODE }`"));
                return None;
            }
        };
        let mut wires = Vec::with_capacity(map.len());
        for (port, entry) in map.iter() {
            let written = field.tree.get(port).map_or(&field.tree, |field| &field.tree);
            let (items, list): (&[Tree], bool) = match &entry.tree.value {
                Value::List(items) => (items, true),
                // An overlay takes an input away by null.
                Value::Null => continue,
                _ => (std::slice::from_ref(&entry.tree), false),
            };
            let mut references = Vec::with_capacity(items.len());
            for item in items {
                match item.as_text() {
                    Some(text) => references.push((Arc::clone(text), item.span)),
                    None => self.faults.push(
                        Diagnostic::at(
                            item.span,
                            format!("the name of a node is expected, not {}", item.what()),
                        )
                        .help("write `NODE`, `NODE.PORT`, `NODE@VALUE` or `NODE@*`, or a list of them"),
                    ),
                }
            }
            let brought = written.templated && entry.tree.span != written.span;
            wires.push(Wire { port: Arc::clone(port), key: entry.key, list, references, brought });
        }
        Some(wires.into())
    }

    fn read_run(
        &mut self,
        spec: &'a NodeSpec,
        step: Option<&dyn Step>,
        at: &[(&'a Axis, usize)],
    ) -> Option<RunOptions> {
        let (kind, _) = spec.task.as_ref()?;
        let layers = run_options::layers(self.experiment.run.as_ref(), kind, spec.run.as_ref());
        let arm = at.iter().find(|(axis, _)| &*axis.name == "arm");
        let scope = arm.map_or(&self.scope, |(_, position)| &self.arm_scopes[*position]);
        // Every layer is filled even after one has failed: all faults are wanted.
        let filled: Vec<_> =
            layers.iter().map(|layer| scope.fill_operational(layer, at, &mut self.faults)).collect();
        let Some(filled) = run_options::joined(filled.into_iter().collect::<Option<_>>()?) else {
            return Some(RunOptions { task: Json::Object(serde_json::Map::new()), ..RunOptions::default() });
        };
        // Without a step its ports are not known; its faults are reported already.
        let step = step?;
        let mut options =
            run_options::read(&filled, step.ports(), self.experiment, self.registry, &mut self.faults);
        let params = Params { spec, part: Part::Run, filled: &filled };
        if let Some(Err(error)) = self.registry.check_run(kind, &options.task) {
            self.faults.push(bind_fault(&error, &params));
            return Some(options);
        }
        for fault in step.check_run(&options.task) {
            self.faults.push(check_fault(fault, &params));
        }
        services::connect(step, &filled, &self.services, self.experiment, &mut options, &mut self.faults);
        Some(options)
    }

    /// Decides which places exist, and resolves what enters each of them.
    fn wire_places(&mut self) -> Vec<Placed> {
        let templates = std::mem::take(&mut self.templates);
        let (ids, mut placed) = self.number_places(&templates);
        let mut edges = 0;
        for node in &mut placed {
            node.inputs = self.wire(&templates, &ids, &templates[node.template], node.place);
            edges += node.inputs.len();
            if edges > MAX_EDGES {
                let spec = templates[node.template].spec;
                self.faults
                    .push(Diagnostic::at(spec.span, format!("more than {MAX_EDGES} inputs in one graph")));
                break;
            }
        }
        self.templates = templates;
        placed
    }

    /// The node of every place, in order; `None` where `when:` says that it does not exist.
    fn number_places(&mut self, templates: &[Template<'a>]) -> (Vec<Option<NodeId>>, Vec<Placed>) {
        let (mut ids, mut placed) = (Vec::new(), Vec::new());
        for (index, template) in templates.iter().enumerate() {
            for place in 0..template.grid.places() {
                let exists = template.spec.when.as_ref().is_none_or(|when| {
                    let at = at(&template.grid, place);
                    self.is_true(when, &at)
                });
                ids.push(exists.then(|| NodeId::new(placed.len())));
                if exists {
                    placed.push(Placed { template: index, place, inputs: Vec::new() });
                }
            }
        }
        (ids, placed)
    }

    fn is_true(&mut self, when: &Field, at: &[(&'a Axis, usize)]) -> bool {
        let Some(filled) = self.fill(&when.tree, at) else { return true };
        if let Value::Bool(value) = filled.value {
            return value;
        }
        self.faults
            .push(Diagnostic::at(filled.span, format!("`when` is true or false, not {}", filled.what())));
        true
    }

    /// What enters the place: declared ports in their order, then the others as they are written.
    fn wire(
        &mut self,
        templates: &[Template<'a>],
        ids: &[Option<NodeId>],
        template: &Template<'a>,
        place: usize,
    ) -> Vec<NodeInput> {
        let positions = template.grid.positions(place);
        let Some(wires) = template.wires.at(&positions) else { return Vec::new() };
        let step = template.steps.at(&positions).map(|bound| &bound.step);
        let mut order: Vec<&Wire> = wires.iter().collect();
        if let Some(step) = step {
            let declared = step.ports().inputs();
            let rank = |wire: &&Wire| {
                declared.iter().position(|port| *port.name == *wire.port).unwrap_or(usize::MAX)
            };
            order.sort_by_key(rank);
            for port in declared {
                if port.arity == Arity::One && !wires.iter().any(|wire| *wire.port == *port.name) {
                    let spec = template.spec;
                    let span = spec.inputs.as_ref().map_or(spec.span, |field| field.key);
                    self.faults.push(
                        Diagnostic::at(span, format!("`{}` needs an input `{}`", spec.name, port.name)).help(
                            format!(
                                "write `inputs: {{ {}: NODE }}` with a node that gives {}",
                                port.name, port.accepts
                            ),
                        ),
                    );
                }
            }
        }
        let from: Vec<_> = template.grid.axes().iter().copied().zip(positions).collect();
        let mut inputs = Vec::new();
        for wire in order {
            let accepts = step.and_then(|step| step.ports().find_input(&wire.port));
            if let (Some(step), None) = (step, accepts) {
                let known = step.ports().inputs().iter().map(|port| port.name.as_str());
                let message = format!("the task `{}` has no input `{}`", step.kind(), wire.port);
                let fault = Diagnostic::at(wire.key, message).label("no such input");
                self.faults.push(fault.suggest(&wire.port, known));
            }
            let gathers =
                wire.list || wire.references.iter().any(|(text, _)| Reference::parse(text).gathers());
            if gathers && accepts.is_some_and(|(_, arity)| arity != Arity::Many) {
                let span = wire.references.first().map_or(wire.key, |(_, span)| *span);
                self.faults.push(
                    Diagnostic::at(span, format!("the input `{}` takes one artifact", wire.port))
                        .label("this gathers several")
                        .help("name one of them: `NODE@VALUE`"),
                );
            }
            for (text, span) in &wire.references {
                let before = self.faults.len();
                let found = self.resolve(templates, ids, text, *span, &from);
                for (source, output, gives) in found {
                    if let (Some((accepts, _)), Some(gives)) = (accepts, gives)
                        && !accepts.accepts(gives)
                    {
                        let message =
                            format!("the input `{}` takes {accepts}, and `{text}` gives {gives}", wire.port);
                        self.faults.push(Diagnostic::at(*span, message).label(format!("gives {gives}")));
                        break;
                    }
                    inputs.push(NodeInput {
                        port: Arc::clone(&wire.port),
                        source,
                        output,
                        gathered: gathers,
                    });
                }
                if wire.brought {
                    for fault in &mut self.faults[before..] {
                        fault.related.push((wire.key, format!("used by `{}` here", template.spec.name)));
                    }
                }
            }
        }
        inputs
    }

    /// The nodes that a reference means, with the output port of each and what it gives.
    fn resolve(
        &mut self,
        templates: &[Template<'a>],
        ids: &[Option<NodeId>],
        text: &str,
        span: Span,
        from: &[(&Axis, usize)],
    ) -> Vec<(NodeId, Arc<str>, Option<crate::artifact::ArtifactType>)> {
        let reference = Reference::parse(text);
        let index = self.experiment.nodes.get_index_of(reference.node);
        let Some(target) = index.and_then(|index| templates.get(index)) else {
            if index.is_none() {
                let fault = Diagnostic::at(span, format!("there is no node `{}`", reference.node))
                    .label("no such node");
                self.faults
                    .push(fault.suggest(reference.node, self.experiment.nodes.keys().map(|name| &**name)));
            }
            return Vec::new();
        };
        let places = match reference.places(&target.grid, from, span) {
            Ok(places) => places,
            Err(fault) => {
                self.faults.push(fault);
                return Vec::new();
            }
        };
        let mut found = Vec::with_capacity(places.len());
        for place in places {
            let Some(source) = ids[target.first + place] else {
                // A gather takes what is there.
                if !reference.gathers() {
                    let name = name_of(target, place);
                    self.faults.push(
                        Diagnostic::at(span, format!("`{name}` does not exist: its `when` is false there"))
                            .help("give this node a `when` too"),
                    );
                }
                continue;
            };
            let Some(bound) = target.steps.at(&target.grid.positions(place)) else {
                found.push((source, Arc::default(), None));
                continue;
            };
            let outputs = bound.step.ports().outputs();
            let port = match reference.port {
                None => outputs.first(),
                Some(name) => bound.step.ports().find_output(name),
            };
            let Some(port) = port else {
                let message = match reference.port {
                    None => format!("`{}` has no output", reference.node),
                    Some(name) => format!("`{}` has no output `{name}`", reference.node),
                };
                let names = outputs.iter().map(|port| port.name.as_str());
                self.faults.push(Diagnostic::at(span, message).suggest(reference.port.unwrap_or(""), names));
                break;
            };
            let gives = port.gives;
            found.push((source, intern(&mut self.names, &port.name), Some(gives)));
        }
        found
    }

    fn report_cycles(&mut self, nodes: &[Placed]) {
        let sources: Vec<&[NodeInput]> = nodes.iter().map(|node| &node.inputs[..]).collect();
        for cycle in find_cycles(&sources) {
            self.report_cycle(nodes, &cycle);
        }
    }

    fn report_cycle(&mut self, nodes: &[Placed], cycle: &[usize]) {
        /// A longer cycle is shown by its beginning.
        const SHOWN: usize = 8;
        let name = |node: usize| name_of(&self.templates[nodes[node].template], nodes[node].place);
        let mut names: Vec<String> =
            cycle.iter().take(SHOWN).map(|node| format!("`{}`", name(*node))).collect();
        if cycle.len() > SHOWN {
            names.extend(["…".to_owned(), format!("`{}`", name(cycle[0]))]);
        }
        let (first, second) = (&nodes[cycle[0]], &nodes[cycle[1]]);
        let template = &self.templates[first.template];
        let wanted = &self.templates[second.template].spec.name;
        let wires = template.wires.at(&template.grid.positions(first.place));
        let references = wires.into_iter().flat_map(|wires| wires.iter().flat_map(|wire| &wire.references));
        let span = references.into_iter().find(|(text, _)| Reference::parse(text).node == &**wanted);
        let span = span.map_or(template.spec.span, |(_, span)| *span);
        self.faults.push(Diagnostic::at(span, format!("nodes need each other: {}", names.join(" needs "))));
    }

    fn build(&self, placed: Vec<Placed>) -> Graph {
        let locations: Vec<Location> =
            self.templates.iter().map(|template| self.location(template.spec.span)).collect();
        let nodes = placed.into_iter().map(|Placed { template: index, place, inputs }| {
            let template = &self.templates[index];
            let positions = template.grid.positions(place);
            let made = "a graph is built only if every part could be made";
            let bound = template.steps.at(&positions).expect(made);
            let coordinates = template.grid.axes().iter().zip(&positions);
            let coordinates =
                coordinates.map(|(axis, at)| (Arc::clone(&axis.name), Arc::clone(&axis.value(*at).label)));
            Node {
                name: name_of(template, place).into(),
                base: Arc::clone(&template.spec.name),
                coordinates: coordinates.collect(),
                step: Arc::clone(&bound.step),
                inputs,
                files: Arc::clone(&bound.files),
                run: Arc::clone(template.runs.at(&positions).expect(made)),
                seed: bound.step.uses_seed().then_some(self.experiment.seed),
                location: locations[index].clone(),
            }
        });
        let profile = self.experiment.profile.as_ref().map(ToString::to_string);
        let graph = Graph::new(self.experiment.name.to_string(), profile, nodes.collect());
        let Ok(mut graph) = graph else { unreachable!("cycles are looked for before the graph is built") };
        graph.limits = self.experiment.limits.clone();
        graph.remote.clone_from(&self.experiment.remote);
        graph.services = self.services.clone();
        let axes = self.experiment.axes.iter();
        graph.axes = axes.map(|(name, axis)| (Arc::clone(name), axis.labels().cloned().collect())).collect();
        graph
    }

    fn location(&self, span: Span) -> Location {
        let place = self.experiment.sources.place(span);
        Location { file: Arc::clone(place.file), line: place.line, column: place.column }
    }
}

/// The positions on `grid`, each with its axis, of a place.
fn at<'a>(grid: &Grid<'a>, place: usize) -> Vec<(&'a Axis, usize)> {
    grid.axes().iter().copied().zip(grid.positions(place)).collect()
}

/// The name of a place: `trained@r1/1`.
fn name_of(template: &Template<'_>, place: usize) -> String {
    let mut name = template.spec.name.to_string();
    for (index, (axis, position)) in at(&template.grid, place).into_iter().enumerate() {
        name.push(if index == 0 { '@' } else { '/' });
        name.push_str(&axis.value(position).label);
    }
    name
}

fn intern(names: &mut BTreeMap<String, Arc<str>>, name: &str) -> Arc<str> {
    if let Some(known) = names.get(name) {
        return Arc::clone(known);
    }
    let shared: Arc<str> = name.into();
    names.insert(name.to_owned(), Arc::clone(&shared));
    shared
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
