//! References: `node`, `node.port`, `node@value`, `node@r1/gsm8k`, `node@*`, and the places they mean.

use crate::spec::Diagnostic;
use crate::spec::expand::{Axis, Grid};
use crate::spec::source::Span;

/// A reference as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reference<'t> {
    /// The node.
    pub node: &'t str,
    /// The output port; `None` for the first.
    pub port: Option<&'t str>,
    /// What stands after `@`, cut at `/`.
    pub at: Option<&'t str>,
}

impl<'t> Reference<'t> {
    /// Cuts a text at `@` and `.`; a node's name has neither, the value of an axis may have dots.
    pub(super) fn parse(text: &'t str) -> Self {
        let (name, at) = text.split_once('@').map_or((text, None), |(name, at)| (name, Some(at)));
        let (node, port) = name.split_once('.').map_or((name, None), |(node, port)| (node, Some(port)));
        Self { node, port, at }
    }

    /// Whether it gathers the nodes of several places.
    pub(super) fn gathers(&self) -> bool {
        self.at.is_some_and(|at| at.split('/').any(|segment| segment == "*"))
    }

    /// The places of `grid` that it means, seen from a node at `from`; a fault if there is none.
    ///
    /// The values after `@` are those of the grid's axes, in order. A last `*` stands for all axes that follow. An axis
    /// that nothing is said about has the value that it has for the node that refers.
    pub(super) fn places(
        &self,
        grid: &Grid<'_>,
        from: &[(&Axis, usize)],
        span: Span,
    ) -> Result<Vec<usize>, Diagnostic> {
        let given: Vec<&str> = self.at.map_or_else(Vec::new, |at| at.split('/').collect());
        if given.len() > grid.axes().len() {
            let over: Vec<_> = grid.axes().iter().map(|axis| format!("`{}`", axis.name)).collect();
            let over = if over.is_empty() { "no axis".to_owned() } else { over.join(", ") };
            return Err(Diagnostic::at(
                span,
                format!("`{}` is over {over}, so `@{}` says too much", self.node, self.at.unwrap_or("")),
            ));
        }
        let open = given.last() == Some(&"*");
        let mut fixed = Vec::with_capacity(grid.axes().len());
        for (index, axis) in grid.axes().iter().enumerate() {
            let position = match given.get(index) {
                Some(&"*") => None,
                Some(label) => match axis.position(label) {
                    Some(position) => Some(position),
                    None => return Err(self.no_such_value(label, axis, span)),
                },
                None if open => None,
                None => match from.iter().find(|(other, _)| other.name == axis.name) {
                    Some((_, position)) => Some(*position),
                    None => return Err(self.no_coordinate(axis, grid, span)),
                },
            };
            fixed.push(position);
        }
        Ok(grid.matching(&fixed))
    }

    fn no_such_value(&self, label: &str, axis: &Axis, span: Span) -> Diagnostic {
        Diagnostic::at(span, format!("the axis `{}` of `{}` has no value `{label}`", axis.name, self.node))
            .related(axis.span, "the axis is defined here")
            .suggest(label, axis.labels().map(|label| &**label))
    }

    fn no_coordinate(&self, axis: &Axis, grid: &Grid<'_>, span: Span) -> Diagnostic {
        let node = self.node;
        let over: Vec<_> = grid.axes().iter().map(|axis| &*axis.name).collect();
        let one: Vec<_> =
            grid.axes().iter().filter_map(|axis| axis.labels().next()).map(|label| &**label).collect();
        Diagnostic::at(span, format!("`{node}` is over `{}`, and this node is not", axis.name))
            .label(format!("which `{}`?", axis.name))
            .help(format!("`{node}@*` gathers them all, `{node}@{}` is one of them", one.join("/")))
            .help(format!("or put this node over it too: `over: [{}]`", over.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_cut_at_its_marks() {
        let cut = |text| {
            let Reference { node, port, at } = Reference::parse(text);
            (node, port, at)
        };
        assert_eq!(cut("a"), ("a", None, None));
        assert_eq!(cut("a.kept"), ("a", Some("kept"), None));
        assert_eq!(cut("a.kept@qwen2.5/*"), ("a", Some("kept"), Some("qwen2.5/*")));
        assert!(Reference::parse("a@*").gathers());
        assert!(!Reference::parse("a@x").gathers());
    }
}
