//! `Shared`: what the places of a node have in common is made once.

use indexmap::IndexSet;

use crate::spec::expand::{Axis, Grid};
use crate::spec::interpolate::{Piece, pieces, visit_templates};
use crate::spec::tree::Tree;

/// Things made once for all places that cannot differ in them. `None`: it could not be made, which was reported.
pub(super) struct Shared<'a, T> {
    /// The axes they depend on, by their position in `over:`.
    axes: Vec<usize>,
    grid: Grid<'a>,
    pub(super) made: Vec<Option<T>>,
}

impl<'a, T> Shared<'a, T> {
    pub(super) fn new(axes: Vec<usize>, over: &Grid<'a>) -> Self {
        let grid = Grid::new(axes.iter().map(|axis| over.axes()[*axis]).collect());
        Self { axes, grid, made: Vec::new() }
    }

    /// What belongs to the place at these positions of the whole grid.
    pub(super) fn at(&self, positions: &[usize]) -> Option<&T> {
        let own: Vec<usize> = self.axes.iter().map(|axis| positions[*axis]).collect();
        self.made.get(self.grid.index(&own))?.as_ref()
    }

    /// Makes all of them; `make` is given the positions on the whole grid, zero on axes that do not matter.
    pub(super) fn make(&mut self, over: &Grid<'a>, mut make: impl FnMut(&[(&'a Axis, usize)]) -> Option<T>) {
        for index in 0..self.grid.places() {
            let own = self.grid.positions(index);
            let mut at: Vec<_> = over.axes().iter().map(|axis| (*axis, 0)).collect();
            for (axis, position) in self.axes.iter().zip(own) {
                at[*axis].1 = position;
            }
            self.made.push(make(&at));
        }
    }
}

/// The axes of `grid` that `trees` can depend on, by their position.
pub(super) fn axes_in<'t>(trees: impl IntoIterator<Item = &'t Tree>, grid: &Grid<'_>) -> Vec<usize> {
    let mut heads = IndexSet::new();
    for tree in trees {
        visit_templates(tree, &mut |_, text| {
            for piece in pieces(text) {
                if let Piece::Variable { path, .. } = piece {
                    heads.insert(path.split('.').next().unwrap_or(path).to_owned());
                }
            }
        });
    }
    let is_axis = |name: &str| grid.axes().iter().any(|axis| &*axis.name == name);
    // A param may be overlaid by the arm.
    let uses_params = heads.iter().any(|head| !is_axis(head));
    let matters = |axis: &Axis| heads.contains(&*axis.name) || (uses_params && &*axis.name == "arm");
    grid.axes().iter().enumerate().filter(|(_, axis)| matters(axis)).map(|(position, _)| position).collect()
}
