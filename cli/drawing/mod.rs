//! `Drawing`: a graph as boxes and arrows, and the formats it is drawn in.

mod layout;
mod svg;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use dag_engine::graph::{Graph, Node};

use crate::text::{Text, inert, width};
use crate::words::grouped;

/// One node, or all nodes of a base name as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// The name in the file; with its coordinates where every node is drawn.
    pub name: String,
    /// The task kind.
    pub kind: String,
    /// How many nodes it stands for.
    pub count: usize,
    /// The axes it is over, where it stands for many.
    pub axes: Vec<String>,
}

impl Shape {
    /// ` ×6 (arm, benchmark)`, or nothing for a single node.
    fn multiplicity(&self) -> String {
        if self.count == 1 {
            return String::new();
        }
        format!(" ×{} ({})", grouped(self.count as u64), self.axes.join(", "))
    }
}

/// From one shape to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrow {
    /// Index of the shape it leaves.
    pub from: usize,
    /// Index of the shape it enters.
    pub to: usize,
    /// The ports it enters, in order.
    pub ports: Vec<String>,
}

/// Boxes, each after everything that enters it, and arrows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drawing {
    /// The boxes.
    pub shapes: Vec<Shape>,
    /// The arrows, ordered by where they lead.
    pub arrows: Vec<Arrow>,
}

impl Drawing {
    /// Draws `graph`: one box per name in the file, or with `expand` one per node.
    pub fn of(graph: &Graph, expand: bool) -> Self {
        let label = |node: &Node| if expand { node.name.to_string() } else { node.base.to_string() };
        let mut drawing = Self::default();
        let mut places = BTreeMap::new();
        for &id in graph.order() {
            let node = graph.node(id);
            let at = *places.entry(label(node)).or_insert_with(|| {
                drawing.shapes.push(Shape {
                    name: label(node),
                    kind: node.step.kind().to_owned(),
                    count: 0,
                    axes: node.coordinates.iter().map(|(axis, _)| axis.to_string()).collect(),
                });
                drawing.shapes.len() - 1
            });
            drawing.shapes[at].count += 1;
        }
        let mut arrows: BTreeMap<(usize, usize), Vec<String>> = BTreeMap::new();
        for &id in graph.order() {
            let node = graph.node(id);
            for input in &node.inputs {
                let ends = (places[&label(node)], places[&label(graph.node(input.source))]);
                let ports = arrows.entry(ends).or_default();
                if !ports.iter().any(|port| **port == *input.port) {
                    ports.push(input.port.to_string());
                }
            }
        }
        drawing.arrows = arrows.into_iter().map(|((to, from), ports)| Arrow { from, to, ports }).collect();
        drawing
    }

    /// One line per box: name, kind, and what enters which port.
    pub fn text(&self) -> Text {
        let name_width = self.column(|shape| width(&shape.name) + width(&shape.multiplicity()));
        let kind_width = self.column(|shape| width(&shape.kind));
        let mut text = Text::new();
        for (index, shape) in self.shapes.iter().enumerate() {
            // Arrows are ordered by where they lead.
            let first = self.arrows.partition_point(|arrow| arrow.to < index);
            let inputs: Vec<String> = self.arrows[first..]
                .iter()
                .take_while(|arrow| arrow.to == index)
                .map(|arrow| format!("{}: {}", arrow.ports.join(", "), self.shapes[arrow.from].name))
                .collect();
            text = text.bold(&shape.name).faint(shape.multiplicity()).pad_to(name_width + 2);
            text = text.accent(&shape.kind);
            if !inputs.is_empty() {
                text = text.pad_to(name_width + kind_width + 4).faint("← ").plain(inputs.join("; "));
            }
            text = text.line();
        }
        text
    }

    fn column(&self, measure: impl Fn(&Shape) -> usize) -> usize {
        self.shapes.iter().map(measure).max().unwrap_or(0)
    }

    /// The language of Graphviz.
    pub fn dot(&self, title: &str) -> String {
        let mut out = format!(
            "digraph {} {{\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n",
            quoted(title)
        );
        for (index, shape) in self.shapes.iter().enumerate() {
            let label = format!(
                "{}{}\\n{}",
                escape_quoted(&shape.name),
                escape_quoted(&shape.multiplicity()),
                escape_quoted(&shape.kind)
            );
            let _ = writeln!(out, "  n{index} [label=\"{label}\"];");
        }
        for arrow in &self.arrows {
            let _ = writeln!(
                out,
                "  n{} -> n{} [label={}];",
                arrow.from,
                arrow.to,
                quoted(&arrow.ports.join(", "))
            );
        }
        out + "}\n"
    }

    /// The language of Mermaid.
    pub fn mermaid(&self) -> String {
        // Mermaid reads Markdown and HTML inside quotes; entities keep names what they are.
        let escape = |text: &str| {
            inert(text)
                .replace('&', "#amp;")
                .replace('"', "#quot;")
                .replace('<', "#lt;")
                .replace('>', "#gt;")
                .replace('`', "#96;")
        };
        let mut out = "flowchart LR\n".to_owned();
        for (index, shape) in self.shapes.iter().enumerate() {
            let label = escape(&format!("{}{}", shape.name, shape.multiplicity()));
            let _ = writeln!(out, "  n{index}[\"{label}<br/><i>{}</i>\"]", escape(&shape.kind));
        }
        for arrow in &self.arrows {
            let _ =
                writeln!(out, "  n{} -->|\"{}\"| n{}", arrow.from, escape(&arrow.ports.join(", ")), arrow.to);
        }
        out
    }

    /// A picture.
    pub fn svg(&self, title: &str) -> String {
        svg::draw(self, title)
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escape_quoted(text))
}

fn escape_quoted(text: &str) -> String {
    inert(text).replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> Drawing {
        let shape = |name: &str, kind: &str, count: usize, axes: &[&str]| Shape {
            name: name.into(),
            kind: kind.into(),
            count,
            axes: axes.iter().map(ToString::to_string).collect(),
        };
        let arrow = |from: usize, to: usize, port: &str| Arrow { from, to, ports: vec![port.into()] };
        Drawing {
            shapes: vec![
                shape("base", "model", 1, &[]),
                shape("problems", "dataset", 1, &[]),
                shape("judged", "judge", 2, &["arm"]),
                shape("trained", "train", 2, &["arm"]),
                shape("evaluated", "evaluate", 1200, &["arm", "benchmark"]),
            ],
            arrows: vec![
                arrow(1, 2, "references"),
                arrow(0, 3, "base"),
                arrow(2, 3, "packs"),
                arrow(1, 4, "problems"),
                arrow(3, 4, "model"),
            ],
        }
    }

    #[test]
    fn as_text() {
        insta::assert_snapshot!(sample().text().render(false), @r"
        base                               model
        problems                           dataset
        judged ×2 (arm)                    judge     ← references: problems
        trained ×2 (arm)                   train     ← base: base; packs: judged
        evaluated ×1,200 (arm, benchmark)  evaluate  ← problems: problems; model: trained
        ");
    }

    #[test]
    fn as_dot() {
        insta::assert_snapshot!(sample().dot("learning \"to\" reason"), @r#"
        digraph "learning \"to\" reason" {
          rankdir=LR;
          node [shape=box, fontname="sans-serif"];
          n0 [label="base\nmodel"];
          n1 [label="problems\ndataset"];
          n2 [label="judged ×2 (arm)\njudge"];
          n3 [label="trained ×2 (arm)\ntrain"];
          n4 [label="evaluated ×1,200 (arm, benchmark)\nevaluate"];
          n1 -> n2 [label="references"];
          n0 -> n3 [label="base"];
          n2 -> n3 [label="packs"];
          n1 -> n4 [label="problems"];
          n3 -> n4 [label="model"];
        }
        "#);
    }

    #[test]
    fn as_mermaid() {
        insta::assert_snapshot!(sample().mermaid(), @r#"
        flowchart LR
          n0["base<br/><i>model</i>"]
          n1["problems<br/><i>dataset</i>"]
          n2["judged ×2 (arm)<br/><i>judge</i>"]
          n3["trained ×2 (arm)<br/><i>train</i>"]
          n4["evaluated ×1,200 (arm, benchmark)<br/><i>evaluate</i>"]
          n1 -->|"references"| n2
          n0 -->|"base"| n3
          n2 -->|"packs"| n3
          n1 -->|"problems"| n4
          n3 -->|"model"| n4
        "#);
    }
}
