//! Layered layout: a column per distance from the sources, few crossings, arrows that pass between boxes.
//!
//! An arrow that spans several columns is bent at a waypoint in each, and waypoints take part in the ordering like
//! boxes, so that no arrow runs through a box.

use super::Drawing;

/// A place in a column: a box, or a bend of an arrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    /// Index of the shape.
    Shape(usize),
    /// Index of the arrow that passes.
    Bend(usize),
}

/// Columns from left to right, each from top to bottom.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// The items of each column.
    pub(super) columns: Vec<Vec<Item>>,
}

/// Passes over the columns; the order settles within a few.
const SWEEPS: usize = 12;

impl Layout {
    pub(super) fn of(drawing: &Drawing) -> Self {
        let layer = layers(drawing);
        let mut columns = vec![Vec::new(); layer.iter().max().map_or(0, |last| last + 1)];
        for (index, &at) in layer.iter().enumerate() {
            columns[at].push(Item::Shape(index));
        }
        for (index, arrow) in drawing.arrows.iter().enumerate() {
            for column in &mut columns[layer[arrow.from] + 1..layer[arrow.to]] {
                column.push(Item::Bend(index));
            }
        }
        let mut layout = Self { columns };
        let mut best = (layout.crossings(drawing), layout.columns.clone());
        for sweep in 0..SWEEPS {
            layout.sweep(drawing, sweep % 2 == 0);
            let crossings = layout.crossings(drawing);
            if crossings < best.0 {
                best = (crossings, layout.columns.clone());
            }
        }
        layout.columns = best.1;
        layout
    }

    /// Puts each item of a column at the middle of its neighbours in the column before (or after) it.
    fn sweep(&mut self, drawing: &Drawing, forward: bool) {
        let count = self.columns.len();
        for step in 1..count {
            let (at, beside) = if forward { (step, step - 1) } else { (count - 1 - step, count - step) };
            let segments = self.segments(drawing, at.min(beside));
            let mut weighted: Vec<(f64, Item)> = self.columns[at]
                .iter()
                .enumerate()
                .map(|(place, &item)| {
                    let beside: Vec<usize> = segments
                        .iter()
                        .filter_map(|&(left, right)| {
                            let (own, other) = if forward { (right, left) } else { (left, right) };
                            (own == place).then_some(other)
                        })
                        .collect();
                    let middle = beside.iter().sum::<usize>() as f64 / beside.len().max(1) as f64;
                    (if beside.is_empty() { place as f64 } else { middle }, item)
                })
                .collect();
            weighted.sort_by(|a, b| a.0.total_cmp(&b.0));
            self.columns[at] = weighted.into_iter().map(|(_, item)| item).collect();
        }
    }

    /// The pieces of arrows between column `left` and the next, as places in the two.
    fn segments(&self, drawing: &Drawing, left: usize) -> Vec<(usize, usize)> {
        let place = |column: usize, arrow: usize, shape: usize| {
            self.columns[column]
                .iter()
                .position(|&item| item == Item::Shape(shape) || item == Item::Bend(arrow))
        };
        drawing
            .arrows
            .iter()
            .enumerate()
            .filter_map(|(index, arrow)| {
                Some((place(left, index, arrow.from)?, place(left + 1, index, arrow.to)?))
            })
            .collect()
    }

    fn crossings(&self, drawing: &Drawing) -> usize {
        (1..self.columns.len())
            .map(|right| {
                let segments = self.segments(drawing, right - 1);
                let crosses = |a: &(usize, usize), b: &(usize, usize)| {
                    (a.0 < b.0 && a.1 > b.1) || (a.0 > b.0 && a.1 < b.1)
                };
                segments
                    .iter()
                    .enumerate()
                    .map(|(index, a)| segments[index + 1..].iter().filter(|b| crosses(a, b)).count())
                    .sum::<usize>()
            })
            .sum()
    }
}

/// The column of each shape: one more than the last of what enters it. Then sources move right, next to what they
/// feed, which shortens their arrows.
fn layers(drawing: &Drawing) -> Vec<usize> {
    let mut layer = vec![0; drawing.shapes.len()];
    // Arrows are ordered by where they lead, and shapes topologically: one pass is enough.
    for arrow in &drawing.arrows {
        layer[arrow.to] = layer[arrow.to].max(layer[arrow.from] + 1);
    }
    let mut first_use = vec![usize::MAX; layer.len()];
    for arrow in &drawing.arrows {
        first_use[arrow.from] = first_use[arrow.from].min(layer[arrow.to]);
    }
    // Only sources are in the first column, and a source that feeds nothing stays there.
    for (layer, first_use) in layer.iter_mut().zip(first_use) {
        if *layer == 0 && first_use != usize::MAX {
            *layer = first_use - 1;
        }
    }
    layer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing::tests::sample;

    #[test]
    fn every_arrow_leads_right_and_bends_in_each_column_it_passes() {
        let drawing = sample();
        let layout = Layout::of(&drawing);
        let column = |item: Item| layout.columns.iter().position(|column| column.contains(&item));
        for arrow in &drawing.arrows {
            assert!(column(Item::Shape(arrow.from)) < column(Item::Shape(arrow.to)));
        }
        // `problems` feeds `evaluated` across the columns of `judged` and `trained`.
        let bends = layout.columns.iter().flatten().filter(|&&item| item == Item::Bend(3)).count();
        assert_eq!(bends, 2);
        assert_eq!(layout.crossings(&drawing), 0);
    }

    #[test]
    fn nothing_is_laid_out_as_nothing() {
        assert_eq!(Layout::of(&Drawing::default()), Layout::default());
    }
}
