//! SVG: the layered layout as a picture that needs no font, script or style from elsewhere.

use std::fmt::Write as _;

use super::layout::{Item, Layout};
use super::{Drawing, Shape};
use crate::text::{inert, width};

const BOX_HEIGHT: f64 = 44.0;
const BEND_HEIGHT: f64 = 10.0;
const ROW_GAP: f64 = 18.0;
const COLUMN_GAP: f64 = 64.0;
const MARGIN: f64 = 24.0;
/// Width of a character of the fonts asked for, at 13 pixels; a little more than most need.
const CHARACTER: f64 = 7.6;

/// A rectangle that an item takes.
#[derive(Clone, Copy, Default)]
struct Frame {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

pub(super) fn draw(drawing: &Drawing, title: &str) -> String {
    let layout = Layout::of(drawing);
    let (frames, size) = place(drawing, &layout);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w:.0} {h:.0}\" width=\"{w:.0}\" height=\"{h:.0}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n<title>{title}</title>\n\
         <defs><marker id=\"head\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\">\
         <path d=\"M0 0L8 4L0 8z\" fill=\"#667\"/></marker></defs>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        w = size.0,
        h = size.1,
        title = escape(title),
    );
    for (index, arrow) in drawing.arrows.iter().enumerate() {
        let through: Vec<Frame> = layout
            .columns
            .iter()
            .zip(&frames)
            .filter_map(|(items, frames)| {
                items.iter().position(|&item| item == Item::Bend(index)).map(|at| frames[at])
            })
            .collect();
        let from = frame_of(&layout, &frames, arrow.from);
        let to = frame_of(&layout, &frames, arrow.to);
        let tip = format!(
            "{} → {} ({})",
            drawing.shapes[arrow.from].name,
            drawing.shapes[arrow.to].name,
            arrow.ports.join(", ")
        );
        let _ = writeln!(
            out,
            "<path d=\"{}\" fill=\"none\" stroke=\"#99a\" stroke-width=\"1.3\" marker-end=\"url(#head)\"><title>{}</title></path>",
            curve(from, &through, to),
            escape(&tip)
        );
    }
    for (index, shape) in drawing.shapes.iter().enumerate() {
        draw_shape(&mut out, shape, frame_of(&layout, &frames, index));
    }
    out + "</svg>\n"
}

fn draw_shape(out: &mut String, shape: &Shape, frame: Frame) {
    let Frame { x, y, width, height } = frame;
    if shape.count > 1 {
        // A second sheet behind the first says "many" without colour.
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"6\" fill=\"#eef\" stroke=\"#99a\"/>",
            x + 4.0,
            y - 4.0
        );
    }
    let middle = x + width / 2.0;
    let _ = writeln!(
        out,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"6\" fill=\"#f6f7ff\" stroke=\"#556\"/>\n\
         <text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#112\">{}<tspan fill=\"#667\">{}</tspan></text>\n\
         <text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"11\" fill=\"#667\">{}</text>",
        y + 19.0,
        escape(&shape.name),
        escape(&shape.multiplicity()),
        y + 35.0,
        escape(&shape.kind)
    );
}

/// The frame of every item, column by column, and the size of the whole.
fn place(drawing: &Drawing, layout: &Layout) -> (Vec<Vec<Frame>>, (f64, f64)) {
    let height_of = |item: &Item| if matches!(item, Item::Shape(_)) { BOX_HEIGHT } else { BEND_HEIGHT };
    let column_height =
        |items: &[Item]| items.iter().map(|item| height_of(item) + ROW_GAP).sum::<f64>() - ROW_GAP;
    let tallest = layout.columns.iter().map(|items| column_height(items)).fold(0.0, f64::max);
    let mut x = MARGIN;
    let mut frames = Vec::new();
    for items in &layout.columns {
        let column_width = items.iter().map(|item| width_of(drawing, item)).fold(0.0, f64::max);
        let mut y = MARGIN + (tallest - column_height(items)) / 2.0;
        let mut column = Vec::new();
        for item in items {
            column.push(Frame { x, y, width: column_width, height: height_of(item) });
            y += height_of(item) + ROW_GAP;
        }
        frames.push(column);
        x += column_width + COLUMN_GAP;
    }
    let total = if layout.columns.is_empty() { 2.0 * MARGIN } else { x - COLUMN_GAP + MARGIN };
    (frames, (total, tallest + 2.0 * MARGIN))
}

fn width_of(drawing: &Drawing, item: &Item) -> f64 {
    match item {
        Item::Bend(_) => 0.0,
        Item::Shape(index) => {
            let shape = &drawing.shapes[*index];
            let longest = (width(&shape.name) + width(&shape.multiplicity())).max(width(&shape.kind));
            longest as f64 * CHARACTER + 24.0
        }
    }
}

fn frame_of(layout: &Layout, frames: &[Vec<Frame>], shape: usize) -> Frame {
    let found = layout.columns.iter().zip(frames).find_map(|(items, frames)| {
        items.iter().position(|&item| item == Item::Shape(shape)).map(|at| frames[at])
    });
    found.unwrap_or_default()
}

/// A smooth line from the right side of a box, straight across the columns it passes, to the left side of another.
fn curve(from: Frame, through: &[Frame], to: Frame) -> String {
    let (mut x, mut y) = (from.x + from.width, from.y + from.height / 2.0);
    let mut path = format!("M{x:.1} {y:.1}");
    let mut go = |next_x: f64, next_y: f64| {
        let middle = f64::midpoint(x, next_x);
        let _ = write!(path, " C{middle:.1} {y:.1} {middle:.1} {next_y:.1} {next_x:.1} {next_y:.1}");
        (x, y) = (next_x, next_y);
    };
    for bend in through {
        let at = bend.y + bend.height / 2.0;
        go(bend.x, at);
        go(bend.x + bend.width, at);
    }
    go(to.x, to.y + to.height / 2.0);
    path
}

fn escape(text: &str) -> String {
    inert(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing::tests::sample;

    #[test]
    fn a_picture_has_every_box_and_arrow_and_no_live_text() {
        let mut drawing = sample();
        drawing.shapes[0].name = "<script>&\"".into();
        let svg = draw(&drawing, "title");
        assert_eq!(svg.matches("marker-end").count(), drawing.arrows.len());
        assert_eq!(svg.matches("fill=\"#f6f7ff\"").count(), drawing.shapes.len());
        assert!(svg.contains("&lt;script&gt;&amp;&quot;") && !svg.contains("<script>"));
    }

    #[test]
    fn boxes_of_a_column_do_not_overlap() {
        let drawing = sample();
        let layout = Layout::of(&drawing);
        let (frames, _) = place(&drawing, &layout);
        for column in frames {
            assert!(column.windows(2).all(|pair| pair[0].y + pair[0].height < pair[1].y));
        }
    }
}
