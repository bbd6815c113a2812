//! `$(…)`: what it may look like, and what stands for it.
//!
//! A scalar that is one `$(…)` and nothing else takes the value with its type, a whole map included; inside a longer text
//! the value's text is put. `$$(` is a literal `$(`. `{{ … }}` is for run time and passes through.
//!
//! Variables, in the order they are looked up: an axis the node is over (`$(arm)` is its name, `$(arm.column)` a
//! parameter of it), a param (`$(pack.max_tokens)`), then `name`, `profile` and `seed` of the experiment.
//! `$(env:NAME)` is the environment; where it is allowed is checked where it arrives.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::Experiment;
use super::diagnostic::Diagnostic;
use super::expand::Axis;
use super::source::{Sources, Span};
use super::tree::{Field, Map, Tree, Value};

/// How long a chain of params that refer to each other may be.
const MAX_CHAIN: usize = 64;
/// How large a value may grow, in bytes and values.
const MAX_WEIGHT: u32 = 8 << 20;

/// A part of a text with variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece<'a> {
    /// As it is.
    Text(&'a str),
    /// `$(a.b)`, with the whole of it for messages.
    Variable {
        /// `a.b`.
        path: &'a str,
        /// `$(a.b)`.
        written: &'a str,
    },
    /// `$(env:NAME)`.
    Environment {
        /// `NAME`.
        name: &'a str,
        /// `$(env:NAME)`.
        written: &'a str,
    },
    /// `$(` that is not followed by a variable.
    Invalid {
        /// From the `$(` to its end.
        written: &'a str,
    },
}

/// Whether `text` holds a `$(`, escaped or not.
pub fn is_templated(text: &str) -> bool {
    text.contains("$(")
}

/// The pieces of a text.
pub fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("$(") {
        // `$$(`: the first dollar goes, the bracket is text.
        if at > 0 && rest.as_bytes()[at - 1] == b'$' {
            pieces.push(Piece::Text(&rest[..at - 1]));
            pieces.push(Piece::Text(&rest[at..at + 2]));
            rest = &rest[at + 2..];
            continue;
        }
        if at > 0 {
            pieces.push(Piece::Text(&rest[..at]));
        }
        let end = rest[at..].find(')').map_or(rest.len(), |end| at + end + 1);
        let written = &rest[at..end];
        let inside = written[2..].strip_suffix(')').unwrap_or("$");
        pieces.push(match inside.strip_prefix("env:") {
            Some(name) if is_environment_name(name) => Piece::Environment { name, written },
            None if is_path(inside) => Piece::Variable { path: inside, written },
            _ => Piece::Invalid { written },
        });
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    pieces
}

fn is_path(text: &str) -> bool {
    text.split('.').all(|segment| {
        !segment.is_empty()
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    })
}

fn is_environment_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Calls `visit` with every text in `tree` that holds a `$(`.
pub fn visit_templates<'t>(tree: &'t Tree, visit: &mut impl FnMut(&'t Tree, &'t str)) {
    if !tree.templated {
        return;
    }
    match &tree.value {
        Value::Text(text) => visit(tree, text),
        Value::List(items) => items.iter().for_each(|item| visit_templates(item, visit)),
        Value::Map(map) => map.values().for_each(|field| visit_templates(&field.tree, visit)),
        Value::Null | Value::Bool(_) | Value::Number(..) => {}
    }
}

/// The place of `written` inside the scalar at `span`.
pub fn span_within(sources: &Sources, span: Span, written: &str) -> Span {
    sources.slice(span).find(written).map_or(span, |at| Span {
        start: span.start + at as u32,
        length: written.len() as u32,
        ..span
    })
}

/// Where a node stands: the axes it is over, each with the position of its value.
pub type Bindings<'a> = [(&'a Axis, usize)];

/// What variables mean in the nodes of one arm, or in those that are over no arm.
///
/// An arm's parameters overlay the params, so `$(take)` in a node over `arm` is the arm's `take` where it has one.
pub struct Scope<'a> {
    experiment: &'a Experiment,
    params: Tree,
    arm: Option<(&'a Axis, usize)>,
    /// Path → value; `None` where it could not be made, which has been reported.
    known: RefCell<BTreeMap<String, Option<Tree>>>,
    active: RefCell<Vec<String>>,
    /// Whether an environment variable that is not set is left out instead of a fault.
    lenient: Cell<bool>,
}

impl<'a> Scope<'a> {
    /// The scope of nodes that are over no arm.
    pub fn new(experiment: &'a Experiment) -> Self {
        let params = experiment.params.overlaid(&experiment.sets);
        Self::with(experiment, params, None)
    }

    /// The scope of nodes in the arm at `position` of `axis`.
    pub fn of_arm(experiment: &'a Experiment, axis: &'a Axis, position: usize) -> Self {
        let mut params = experiment.params.clone();
        if let Some(parameters) = axis.value(position).parameters.as_ref() {
            params = params.overlaid(parameters);
        }
        Self::with(experiment, params.overlaid(&experiment.sets), Some((axis, position)))
    }

    fn with(experiment: &'a Experiment, params: Tree, arm: Option<(&'a Axis, usize)>) -> Self {
        let (known, active) = (RefCell::default(), RefCell::default());
        Self { experiment, params, arm, known, active, lenient: Cell::new(false) }
    }

    /// Like [`fill`](Self::fill), for `run:`: what the environment does not set is null, with a warning. A run that
    /// needs it says so in its preflight; checking and planning do not need it.
    pub fn fill_operational(
        &self,
        tree: &Tree,
        at: &Bindings<'_>,
        faults: &mut Vec<Diagnostic>,
    ) -> Option<Tree> {
        self.lenient.set(true);
        let filled = self.fill(tree, at, faults);
        self.lenient.set(false);
        filled
    }

    /// `tree` with every variable replaced; `None` if one has no value, which is then among the faults.
    pub fn fill(&self, tree: &Tree, at: &Bindings<'_>, faults: &mut Vec<Diagnostic>) -> Option<Tree> {
        if !tree.templated {
            return Some(tree.clone());
        }
        let filled = match &tree.value {
            Value::Text(text) => return self.fill_text(tree, text, at, faults),
            Value::List(items) => {
                // Every item is filled even after one has failed: all faults are wanted.
                let items: Vec<_> = items.iter().map(|item| self.fill(item, at, faults)).collect();
                Value::List(Arc::new(items.into_iter().collect::<Option<_>>()?))
            }
            Value::Map(map) => {
                let mut fields = Map::with_capacity(map.len());
                for (name, field) in map.iter() {
                    if let Some(tree) = self.fill(&field.tree, at, faults) {
                        fields.insert(Arc::clone(name), Field { key: field.key, tree });
                    }
                }
                if fields.len() < map.len() {
                    return None;
                }
                Value::Map(Arc::new(fields))
            }
            Value::Null | Value::Bool(_) | Value::Number(..) => return Some(tree.clone()),
        };
        bounded(Tree { origin: tree.origin, ..Tree::new(tree.span, filled) }, faults)
    }

    fn fill_text(
        &self,
        tree: &Tree,
        text: &str,
        at: &Bindings<'_>,
        faults: &mut Vec<Diagnostic>,
    ) -> Option<Tree> {
        let pieces = pieces(text);
        if let [piece @ (Piece::Variable { .. } | Piece::Environment { .. } | Piece::Invalid { .. })] =
            &pieces[..]
        {
            return self.value_of(tree, piece, at, faults);
        }
        let mut filled = String::with_capacity(text.len() + 16);
        let mut environment = false;
        let mut origin = tree.origin;
        let mut complete = true;
        for (index, piece) in pieces.iter().enumerate() {
            if let Piece::Text(text) = piece {
                filled.push_str(text);
                continue;
            }
            let Some(value) = self.value_of(tree, piece, at, faults) else {
                complete = false;
                continue;
            };
            if value.environment && matches!(value.value, Value::Null) {
                return Some(value);
            }
            let Some(text) = value.scalar_text() else {
                let span = self.written_at(tree, piece);
                faults.push(
                    Diagnostic::at(span, format!("{} cannot stand inside a text", value.what()))
                        .related(value.span, "its value")
                        .help("a `$(…)` that stands alone takes the value as it is"),
                );
                complete = false;
                continue;
            };
            if index == 0 {
                // A path that begins with a variable starts where the variable's value was written.
                origin = value.origin;
            }
            environment |= value.environment;
            filled.push_str(&text);
        }
        if !complete {
            return None;
        }
        let filled = Tree { origin, environment, ..Tree::new(tree.span, Value::Text(filled.into())) };
        bounded(filled, faults)
    }

    fn written_at(&self, tree: &Tree, piece: &Piece<'_>) -> Span {
        let (Piece::Text(written)
        | Piece::Variable { written, .. }
        | Piece::Environment { written, .. }
        | Piece::Invalid { written }) = piece;
        span_within(&self.experiment.sources, tree.span, written)
    }

    fn value_of(
        &self,
        tree: &Tree,
        piece: &Piece<'_>,
        at: &Bindings<'_>,
        faults: &mut Vec<Diagnostic>,
    ) -> Option<Tree> {
        let span = || self.written_at(tree, piece);
        match piece {
            Piece::Text(_) => None,
            Piece::Invalid { written } => {
                faults.push(
                    Diagnostic::at(span(), format!("`{written}` is not a variable"))
                        .help("a variable is `$(name)` or `$(name.field)`; `$$(` is a literal `$(`"),
                );
                None
            }
            Piece::Environment { name, .. } => {
                let value = self.experiment.environment.get(*name).and_then(Clone::clone);
                let lenient = self.lenient.get();
                if value.is_none() {
                    let message = format!("the environment variable `{name}` is not set");
                    faults.push(if lenient {
                        Diagnostic::warning(span(), message)
                    } else {
                        Diagnostic::at(span(), message)
                            .help(format!("set `{name}`, or give the value with `--set`"))
                    });
                }
                let value = match value {
                    Some(value) => Value::Text(value),
                    None if lenient => Value::Null,
                    None => return None,
                };
                let origin = self.experiment.command_line;
                Some(Tree { templated: false, environment: true, origin, ..Tree::new(span(), value) })
            }
            Piece::Variable { path, .. } => self.variable(path, &span, at, faults),
        }
    }

    fn variable(
        &self,
        path: &str,
        span: &dyn Fn() -> Span,
        at: &Bindings<'_>,
        faults: &mut Vec<Diagnostic>,
    ) -> Option<Tree> {
        let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
        if let Some((axis, position)) = at.iter().find(|(axis, _)| &*axis.name == head) {
            return self.coordinate(axis, *position, rest, span, at, faults);
        }
        if self.experiment.axes.contains_key(head) {
            let inside_param = !self.active.borrow().is_empty();
            faults.push(if inside_param {
                Diagnostic::at(span(), format!("a param cannot depend on the axis `{head}`"))
                    .help("write it in the `with:` of a node over that axis, or as a parameter of the axis")
            } else {
                Diagnostic::at(span(), format!("`{head}` is an axis, and this node is not over it"))
                    .help(format!("add it: `over: [{head}]`"))
            });
            return None;
        }
        self.param(path, span, faults)
    }

    fn coordinate(
        &self,
        axis: &Axis,
        position: usize,
        rest: Option<&str>,
        span: &dyn Fn() -> Span,
        at: &Bindings<'_>,
        faults: &mut Vec<Diagnostic>,
    ) -> Option<Tree> {
        let value = axis.value(position);
        let Some(rest) = rest else { return Some(value.tree()) };
        let mut tree = value.parameters.as_ref();
        for segment in rest.split('.') {
            tree = tree.and_then(|tree| tree.get(segment)).map(|field| &field.tree);
        }
        let Some(tree) = tree else {
            let candidates: Vec<String> = value.parameters.iter().flat_map(paths).collect();
            faults.push(
                Diagnostic::at(span(), format!("`{}@{}` has no parameter `{rest}`", axis.name, value.label))
                    .related(value.span, "it is defined here")
                    .suggest(rest, candidates.iter().map(String::as_str)),
            );
            return None;
        };
        // A parameter of a coordinate may use its own coordinate, and no other.
        let own: Vec<_> = at.iter().copied().filter(|(other, _)| other.name == axis.name).collect();
        self.enter(&format!("{}.{rest}", axis.name), span, faults, |faults| self.fill(tree, &own, faults))
    }

    /// The value of a param, found once and remembered.
    fn param(&self, path: &str, span: &dyn Fn() -> Span, faults: &mut Vec<Diagnostic>) -> Option<Tree> {
        if let Some(known) = self.known.borrow().get(path) {
            return known.clone();
        }
        let value = self.enter(path, span, faults, |faults| self.find_param(path, span, faults));
        self.known.borrow_mut().insert(path.to_owned(), value.clone());
        value
    }

    /// Runs `find` with `path` on the chain of variables being filled in, unless it is there already.
    fn enter(
        &self,
        path: &str,
        span: &dyn Fn() -> Span,
        faults: &mut Vec<Diagnostic>,
        find: impl FnOnce(&mut Vec<Diagnostic>) -> Option<Tree>,
    ) -> Option<Tree> {
        let fault = {
            let active = self.active.borrow();
            if let Some(first) = active.iter().position(|other| other == path) {
                let chain: Vec<&str> = active[first..].iter().map(String::as_str).chain([path]).collect();
                Some(format!("the param `{path}` is defined by itself: {}", chain.join(" → ")))
            } else if active.len() >= MAX_CHAIN {
                Some(format!("more than {MAX_CHAIN} params refer to each other in a chain"))
            } else {
                None
            }
        };
        if let Some(message) = fault {
            faults.push(Diagnostic::at(span(), message));
            return None;
        }
        self.active.borrow_mut().push(path.to_owned());
        let value = find(faults);
        self.active.borrow_mut().pop();
        value
    }

    fn find_param(&self, path: &str, span: &dyn Fn() -> Span, faults: &mut Vec<Diagnostic>) -> Option<Tree> {
        let own: Vec<_> = self.arm.into_iter().collect();
        let mut tree = self.params.clone();
        for segment in path.split('.') {
            if tree.as_text().is_some() {
                tree = self.fill(&tree, &own, faults)?;
            }
            let Some(field) = tree.get(segment) else {
                return self.builtin(path).or_else(|| {
                    let mut candidates = paths(&self.params);
                    candidates.extend(self.experiment.axes.keys().map(ToString::to_string));
                    candidates.extend(["name", "profile", "seed"].map(str::to_owned));
                    let mut fault = Diagnostic::at(span(), format!("`{path}` is not defined"))
                        .label("no param, axis or arm of this name");
                    if candidates.iter().any(|candidate| candidate == path) {
                        fault =
                            fault.help("it is defined in some profiles only; choose one with `--profile`");
                    }
                    faults.push(fault.suggest(path, candidates.iter().map(String::as_str)));
                    None
                });
            };
            tree = field.tree.clone();
        }
        self.fill(&tree, &own, faults)
    }

    fn builtin(&self, path: &str) -> Option<Tree> {
        let experiment = self.experiment;
        let value = match path {
            "name" => Value::Text(Arc::clone(&experiment.name)),
            "profile" => Value::Text(experiment.profile.clone().unwrap_or_default()),
            "seed" => Value::Number(experiment.seed.into(), experiment.seed.to_string().into()),
            _ => return None,
        };
        Some(Tree::new(experiment.span, value))
    }
}

/// `tree`, unless it has grown too large.
fn bounded(mut tree: Tree, faults: &mut Vec<Diagnostic>) -> Option<Tree> {
    if tree.weight > MAX_WEIGHT {
        faults.push(Diagnostic::at(tree.span, "this grows too large when its variables are filled in"));
        return None;
    }
    // What came in for a variable is final, even if it looks like one.
    tree.templated = false;
    Some(tree)
}

/// The dotted paths of everything in `tree`, inner maps included.
pub fn paths(tree: &Tree) -> Vec<String> {
    fn collect(tree: &Tree, prefix: &str, out: &mut Vec<String>) {
        for (name, field) in tree.as_map().into_iter().flatten() {
            let path = if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") };
            collect(&field.tree, &path, out);
            out.push(path);
        }
    }
    let mut out = Vec::new();
    collect(tree, "", &mut out);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shape(text: &str) -> String {
        pieces(text)
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => format!("[{text}]"),
                Piece::Variable { path, .. } => format!("<{path}>"),
                Piece::Environment { name, .. } => format!("<env {name}>"),
                Piece::Invalid { written } => format!("<bad {written}>"),
            })
            .collect()
    }

    #[test]
    fn texts_are_cut_at_their_variables() {
        assert_eq!(shape("plain $x (y) {{ z }}"), "[plain $x (y) {{ z }}]");
        assert_eq!(shape("$(a.b-c)"), "<a.b-c>");
        assert_eq!(shape("x$(a)y$(env:HOME_1)"), "[x]<a>[y]<env HOME_1>");
        assert_eq!(shape("echo $$(date) $(a)"), "[echo ][$(][date) ]<a>");
        assert_eq!(shape("{{ $(a) }}"), "[{{ ]<a>[ }}]");
        assert_eq!(shape("$(date +%s)"), "<bad $(date +%s)>");
        assert_eq!(shape("$(a..b) $( $(env:) $()"), "<bad $(a..b)>[ ]<bad $( $(env:)>[ ]<bad $()>");
        assert_eq!(shape("$(open"), "<bad $(open>");
    }

    proptest! {
        #[test]
        fn a_text_without_variables_is_one_piece(text in "[a-z$() ]{0,40}") {
            prop_assume!(!is_templated(&text) && !text.is_empty());
            prop_assert_eq!(pieces(&text), vec![Piece::Text(&text)]);
        }

        #[test]
        fn pieces_are_the_text(text in "[a-b$().:{} é]{0,40}") {
            let joined: String = pieces(&text)
                .iter()
                .map(|piece| match piece {
                    Piece::Text("$(") => "$$(",
                    Piece::Text(text) => text,
                    Piece::Variable { written, .. } | Piece::Environment { written, .. } | Piece::Invalid { written } => written,
                })
                .collect();
            prop_assert_eq!(joined, text);
        }
    }
}
