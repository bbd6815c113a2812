//! What serde and the tasks say about params, said again with a place and a suggestion.

use crate::params::BindError;
use crate::registry::Step;
use crate::spec::interpolate::visit_templates;
use crate::spec::source::Span;
use crate::spec::tree::{Field, Tree, Value};
use crate::spec::{Diagnostic, NodeSpec};
use crate::task::Fault;

/// The params of a node: as written, and as they are at one place.
pub(super) struct Params<'a> {
    /// The node.
    pub spec: &'a NodeSpec,
    /// The part of it that is read.
    pub part: Part,
    /// Its value.
    pub filled: &'a Tree,
}

/// The parts of a node that hold params.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// `with:`.
    With,
    /// `run:`.
    Run,
}

impl Params<'_> {
    /// The part as it is written, if it is.
    fn written(&self) -> Option<&Field> {
        match self.part {
            Part::With => self.spec.with.as_ref(),
            Part::Run => self.spec.run.as_ref(),
        }
    }

    /// What the part is called in messages.
    fn owner(&self) -> String {
        let kind = self.spec.task.as_ref().map_or("", |(kind, _)| &**kind);
        match self.part {
            Part::With => format!("the task `{kind}`"),
            Part::Run => format!("the `run` of `{kind}`"),
        }
    }

    /// Where to point if the params as a whole are at fault.
    fn whole(&self) -> Span {
        let task = self.spec.task.as_ref().map_or(self.spec.span, |(_, span)| *span);
        self.written().map_or(task, |field| field.key)
    }

    /// The key at `pointer`, or of what is nearest around it.
    fn key(&self, pointer: &str) -> Span {
        self.nearest(pointer).map_or_else(|| self.whole(), |(key, _)| key)
    }

    /// The value at `pointer`, or what is nearest around it.
    fn value(&self, pointer: &str) -> Span {
        self.nearest(pointer).map_or_else(|| self.whole(), |(_, tree)| tree.span)
    }

    fn nearest(&self, mut pointer: &str) -> Option<(Span, &Tree)> {
        while !pointer.is_empty() {
            if let Some(found) = self.filled.pointer(pointer) {
                return Some(found);
            }
            pointer = pointer.rsplit_once('/').map_or("", |(outer, _)| outer);
        }
        None
    }

    /// Adds where a value is used, if a variable brought it from elsewhere.
    fn used(&self, diagnostic: Diagnostic) -> Diagnostic {
        let (Some(written), Some((span, _))) = (self.written(), &diagnostic.span) else { return diagnostic };
        let mut brought = *span != written.key && written.tree.templated;
        visit_spans(&written.tree, &mut |own| brought &= own != *span);
        if !brought {
            return diagnostic;
        }
        let mut uses = Vec::new();
        visit_templates(&written.tree, &mut |tree, _| uses.push(tree.span));
        match uses[..] {
            [only] => diagnostic.related(only, format!("used by `{}` here", self.spec.name)),
            _ => diagnostic.related(written.key, format!("used by `{}` here", self.spec.name)),
        }
    }
}

fn visit_spans(tree: &Tree, visit: &mut impl FnMut(Span)) {
    visit(tree.span);
    match &tree.value {
        Value::List(items) => items.iter().for_each(|item| visit_spans(item, visit)),
        Value::Map(map) => map.values().for_each(|field| {
            visit(field.key);
            visit_spans(&field.tree, visit);
        }),
        _ => {}
    }
}

/// A value that does not fit the type of the params.
pub(super) fn bind_fault(error: &BindError, params: &Params<'_>) -> Diagnostic {
    let message = without_secrets(&error.message, params.filled);
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let within = error.pointer.trim_start_matches('/').replace('/', ".");
    let whole = params.owner();
    let owner = if within.is_empty() { whole.clone() } else { format!("`{within}` of {whole}") };
    let diagnostic = if message.starts_with("unknown field") {
        let name = quoted.first().copied().unwrap_or_default();
        // serde_path_to_error stops at the map for some types and at the field for others.
        let inner = format!("{}/{name}", error.pointer);
        let (pointer, owner) = match params.filled.pointer(&inner) {
            Some(_) => (inner.as_str(), owner),
            None => (error.pointer.as_str(), outer_owner(&within, &whole)),
        };
        Diagnostic::at(params.key(pointer), format!("{owner} has no field `{name}`"))
            .label("no such field")
            .suggest(name, quoted.iter().skip(1).copied())
    } else if message.starts_with("missing field") {
        let name = quoted.first().copied().unwrap_or_default();
        Diagnostic::at(params.key(&error.pointer), format!("{owner} needs the field `{name}`"))
    } else if message.starts_with("unknown variant") {
        let name = quoted.first().copied().unwrap_or_default();
        Diagnostic::at(params.value(&error.pointer), format!("{owner} cannot be `{name}`"))
            .suggest(name, quoted.iter().skip(1).copied())
    } else {
        Diagnostic::at(params.value(&error.pointer), format!("{owner}: {message}"))
    };
    params.used(diagnostic)
}

fn outer_owner(within: &str, owner: &str) -> String {
    match within.rsplit_once('.') {
        Some((outer, _)) => format!("`{outer}` of {owner}"),
        None => owner.to_owned(),
    }
}

/// A fault that a task found in its params.
pub(super) fn check_fault(fault: Fault, params: &Params<'_>) -> Diagnostic {
    let message = without_secrets(&fault.message, params.filled);
    let mut diagnostic = Diagnostic::at(params.value(&fault.pointer), message);
    diagnostic.help.extend(fault.help);
    params.used(diagnostic)
}

/// Values of the environment in params that are not paths of files: they would be in the key, and in every record.
pub(super) fn environment_faults(step: &dyn Step, params: &Params<'_>, faults: &mut Vec<Diagnostic>) {
    if !params.filled.environment {
        return;
    }
    let files = step.files();
    visit_environment(params.filled, &mut String::new(), &mut |pointer, tree| {
        if !files.iter().any(|file| file.pointer == pointer) {
            let fault = Diagnostic::at(tree.span, "the environment may not decide a result")
                .label("this is in the key")
                .help("`$(env:…)` may stand under `run:` and in paths of local files; `--set` gives a param its value");
            faults.push(params.used(fault));
        }
    });
}

pub(super) fn visit_environment<'t>(
    tree: &'t Tree,
    pointer: &mut String,
    visit: &mut impl FnMut(&str, &'t Tree),
) {
    if !tree.environment {
        return;
    }
    let length = pointer.len();
    match &tree.value {
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                pointer.push('/');
                pointer.push_str(&index.to_string());
                visit_environment(item, pointer, visit);
                pointer.truncate(length);
            }
        }
        Value::Map(map) => {
            for (name, field) in map.iter() {
                pointer.push('/');
                pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
                visit_environment(&field.tree, pointer, visit);
                pointer.truncate(length);
            }
        }
        _ => visit(pointer, tree),
    }
}

/// `message` without the values that the environment gave: what serde finds at fault, it quotes.
fn without_secrets(message: &str, filled: &Tree) -> String {
    let mut message = message.to_owned();
    visit_environment(filled, &mut String::new(), &mut |_, tree| {
        if let Some(secret) = tree.as_text().filter(|secret| !secret.is_empty()) {
            message = message.replace(&**secret, "$(env:…)");
        }
    });
    message
}
