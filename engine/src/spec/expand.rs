//! Axes, and the places they make: every node over axes stands once for each combination of their values.
//!
//! The order is that of `over:` with the last axis fastest, and of each axis as written; a place is found by arithmetic
//! and never by search, so a hundred thousand of them cost nothing to look up.

use std::sync::Arc;

use indexmap::IndexMap;

use super::diagnostic::Diagnostic;
use super::source::Span;
use super::tree::{Field, Tree, Value};

/// The most values of one axis, and the most nodes of one graph.
pub const MAX_NODES: usize = 1_000_000;

/// A named list of values.
#[derive(Debug, Clone)]
pub struct Axis {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is written.
    pub span: Span,
    values: IndexMap<Arc<str>, Coordinate>,
}

/// One value of an axis.
#[derive(Debug, Clone)]
pub struct Coordinate {
    /// As it stands in names of nodes: `r1` in `judged@r1`.
    pub label: Arc<str>,
    /// Where it is written.
    pub span: Span,
    /// What `$(axis)` is.
    value: Value,
    /// What `$(axis.name)` looks into: a map.
    pub parameters: Option<Tree>,
}

impl Coordinate {
    /// The value that stands for `$(axis)`.
    pub fn tree(&self) -> Tree {
        Tree::new(self.span, self.value.clone())
    }
}

impl Axis {
    /// Reads an axis: a list of scalars, a map of values with parameters, or `{ range: n }`, `{ range: [from, to] }`.
    /// What is wrong is added to the faults, and the axis has the values that could be read.
    pub fn read(name: &Arc<str>, field: &Field, faults: &mut Vec<Diagnostic>) -> Self {
        let mut axis = Self { name: Arc::clone(name), span: field.key, values: IndexMap::new() };
        let before = faults.len();
        match &field.tree.value {
            Value::List(items) => items.iter().for_each(|item| axis.read_item(item, faults)),
            Value::Map(map) if map.contains_key("range") => {
                axis.read_range(&map["range"].tree, faults);
                for (key, field) in map.iter().filter(|(key, _)| &***key != "range") {
                    faults.push(
                        Diagnostic::at(
                            field.key,
                            format!("a range takes nothing beside it, but `{key}` is here"),
                        )
                        .help("write `{ range: 1000 }`, or a map of values with parameters"),
                    );
                }
            }
            Value::Map(map) => map.iter().for_each(|(label, field)| axis.read_entry(label, field, faults)),
            _ => faults.push(
                Diagnostic::at(
                    field.tree.span,
                    format!("an axis is a list, a map or a range, not {}", field.tree.what()),
                )
                .help("write `[a, b]`, `{ a: { size: 1 }, b: { size: 2 } }` or `{ range: 1000 }`"),
            ),
        }
        if axis.values.is_empty() && faults.len() == before {
            faults.push(
                Diagnostic::at(field.key, format!("the axis `{name}` has no values"))
                    .help("a node over it would not exist; give it at least one"),
            );
        }
        axis
    }

    fn read_item(&mut self, item: &Tree, faults: &mut Vec<Diagnostic>) {
        let Some(label) = item.scalar_text() else {
            faults.push(
                Diagnostic::at(
                    item.span,
                    format!("a value of an axis is a word or a number, not {}", item.what()),
                )
                .help("values with parameters are written as a map: `{ name: { parameter: 1 } }`"),
            );
            return;
        };
        self.insert(
            Coordinate { label, span: item.span, value: item.value.clone(), parameters: None },
            faults,
        );
    }

    fn read_entry(&mut self, label: &Arc<str>, field: &Field, faults: &mut Vec<Diagnostic>) {
        let parameters = match &field.tree.value {
            Value::Map(_) => Some(field.tree.clone()),
            // Nothing after the name: a value without parameters.
            Value::Null => None,
            _ => {
                faults.push(
                    Diagnostic::at(
                        field.tree.span,
                        format!("the parameters of `{label}` are a map, not {}", field.tree.what()),
                    )
                    .help(format!("write `{label}: {{ name: value }}`")),
                );
                None
            }
        };
        let value = Value::Text(Arc::clone(label));
        self.insert(Coordinate { label: Arc::clone(label), span: field.key, value, parameters }, faults);
    }

    fn read_range(&mut self, range: &Tree, faults: &mut Vec<Diagnostic>) {
        let integer = |tree: &Tree| match &tree.value {
            Value::Number(number, _) => number.as_i64(),
            _ => None,
        };
        let bounds = match &range.value {
            Value::Number(..) => integer(range).map(|to| (0, to)),
            Value::List(items) if items.len() == 2 => integer(&items[0]).zip(integer(&items[1])),
            _ => None,
        };
        let Some((from, to)) = bounds else {
            faults.push(
                Diagnostic::at(range.span, "a range is a whole number or two of them")
                    .help("`{ range: 3 }` is 0, 1, 2; `{ range: [1, 4] }` is 1, 2, 3"),
            );
            return;
        };
        let Some(length) = to.checked_sub(from).and_then(|length| usize::try_from(length).ok()) else {
            faults.push(Diagnostic::at(range.span, "the range ends before it starts"));
            return;
        };
        if length > MAX_NODES {
            faults.push(Diagnostic::at(range.span, format!("an axis has at most {MAX_NODES} values")));
            return;
        }
        self.values.reserve(length);
        for number in from..to {
            let label: Arc<str> = number.to_string().into();
            let value = Value::Number(number.into(), Arc::clone(&label));
            self.values
                .insert(Arc::clone(&label), Coordinate { label, span: range.span, value, parameters: None });
        }
    }

    fn insert(&mut self, coordinate: Coordinate, faults: &mut Vec<Diagnostic>) {
        let label = &coordinate.label;
        if !is_label(label) {
            faults.push(
                Diagnostic::at(coordinate.span, format!("`{label}` cannot be part of a node's name")).help(
                    "a value has no spaces and none of `/ @ * $`; a map gives a long value a short name",
                ),
            );
        } else if let Some(first) = self.values.get(label) {
            faults.push(
                Diagnostic::at(coordinate.span, format!("`{label}` is twice on the axis `{}`", self.name))
                    .related(first.span, "the first time"),
            );
        } else {
            self.values.insert(Arc::clone(label), coordinate);
        }
    }

    /// How many values it has.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The value at a position.
    pub fn value(&self, position: usize) -> &Coordinate {
        &self.values[position]
    }

    /// The position of the value called `label`.
    pub fn position(&self, label: &str) -> Option<usize> {
        self.values.get_index_of(label)
    }

    /// The labels, in order.
    pub fn labels(&self) -> impl Iterator<Item = &Arc<str>> {
        self.values.keys()
    }

    /// The values, in order.
    pub fn values(&self) -> impl Iterator<Item = &Coordinate> {
        self.values.values()
    }
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && !text.contains(|char: char| char.is_whitespace() || char.is_control() || "/@*$".contains(char))
}

/// All places of one node: the product of its axes.
#[derive(Debug, Clone)]
pub struct Grid<'a> {
    axes: Vec<&'a Axis>,
}

impl<'a> Grid<'a> {
    /// The grid over `axes`.
    pub fn new(axes: Vec<&'a Axis>) -> Self {
        Self { axes }
    }

    /// The axes, in the order of `over:`.
    pub fn axes(&self) -> &[&'a Axis] {
        &self.axes
    }

    /// How many places there are: one if there are no axes.
    pub fn places(&self) -> usize {
        self.axes.iter().fold(1, |product, axis| product.saturating_mul(axis.len()))
    }

    /// The positions on each axis of the place with this index.
    pub fn positions(&self, index: usize) -> Vec<usize> {
        let mut positions = vec![0; self.axes.len()];
        let mut rest = index;
        for (slot, axis) in positions.iter_mut().zip(&self.axes).rev() {
            *slot = rest % axis.len();
            rest /= axis.len();
        }
        positions
    }

    /// The index of the place at these positions.
    pub fn index(&self, positions: &[usize]) -> usize {
        self.axes.iter().zip(positions).fold(0, |index, (axis, position)| index * axis.len() + position)
    }

    /// The indices of all places that agree with `fixed`, where it says something; in order.
    pub fn matching(&self, fixed: &[Option<usize>]) -> Vec<usize> {
        let mut found = vec![0];
        for (axis, fixed) in self.axes.iter().zip(fixed) {
            let range = fixed.map_or(0..axis.len(), |position| position..position + 1);
            found =
                found.iter().flat_map(|index| range.clone().map(move |at| index * axis.len() + at)).collect();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::spec::diagnostic::Diagnostics;
    use crate::spec::source::Sources;
    use crate::spec::yaml;

    fn axis(text: &str) -> (Axis, String) {
        let mut sources = Sources::default();
        let source = sources.add("x.yaml", Path::new(""), text);
        let mut faults = Vec::new();
        let tree = yaml::parse(&sources, source, &mut faults).unwrap();
        let (name, field) = tree.as_map().unwrap().first().unwrap();
        let axis = Axis::read(name, field, &mut faults);
        (axis, Diagnostics::new(sources.into(), faults).to_string())
    }

    fn labels(text: &str) -> Vec<String> {
        let (axis, faults) = axis(text);
        assert_eq!(faults, "");
        axis.labels().map(ToString::to_string).collect()
    }

    #[test]
    fn an_axis_is_a_list_a_map_or_a_range() {
        assert_eq!(labels("lr: [1e-5, 5e-6]"), ["1e-5", "5e-6"]);
        assert_eq!(labels("arm: { r1: { a: 1 }, gpt-oss: }"), ["r1", "gpt-oss"]);
        assert_eq!(labels("shard: { range: 3 }"), ["0", "1", "2"]);
        assert_eq!(labels("shard: { range: [2, 4] }"), ["2", "3"]);
    }

    #[test]
    fn what_is_no_axis_is_refused() {
        for text in [
            "a: 1",
            "a: []",
            "a: [[1]]",
            "a: { b: 1 }",
            "a: { range: -1 }",
            "a: { range: 2000000 }",
            "a: [x/y]",
            "a: [x, x]",
            "a: { range: x }",
            "a: { range: 1, b: {} }",
        ] {
            assert_ne!(axis(text).1, "", "{text}");
        }
    }

    proptest! {
        #[test]
        fn places_are_numbered_in_order(sizes in proptest::collection::vec(1_usize..5, 0..4)) {
            let axes: Vec<Axis> = sizes.iter().map(|size| axis(&format!("a: {{ range: {size} }}")).0).collect();
            let grid = Grid::new(axes.iter().collect());
            let all: Vec<_> = (0..grid.places()).map(|index| grid.positions(index)).collect();
            let mut sorted = all.clone();
            sorted.sort();
            prop_assert_eq!(&all, &sorted);
            for (index, positions) in all.iter().enumerate() {
                prop_assert_eq!(grid.index(positions), index);
                let fixed: Vec<_> = positions.iter().enumerate().map(|(axis, at)| (axis % 2 == 0).then_some(*at)).collect();
                let expected: Vec<_> = all
                    .iter()
                    .enumerate()
                    .filter(|(_, other)| other.iter().zip(&fixed).all(|(at, fixed)| fixed.is_none_or(|fixed| fixed == *at)))
                    .map(|(index, _)| index)
                    .collect();
                prop_assert_eq!(grid.matching(&fixed), expected);
            }
        }
    }
}
