//! The experiment as a picture: which data, verdicts, packs, trainings and results the report was made from.
//!
//! It is drawn from what the report can know, its inputs by their coordinates; names of nodes, times and reuse are not its own.
use std::fmt::Write;

use super::escape::escape;
use super::findings::Findings;
use super::gather::Gathered;
use super::page::{class_of, class_of_label};
use super::plot::clipped;
use super::tables::{count, percent};

const WIDTH: f64 = 158.0;
const HEIGHT: f64 = 54.0;
const ACROSS: f64 = 40.0;
const DOWN: f64 = 14.0;
const TOP: f64 = 26.0;
/// Longer names and lines are cut; the tables have them in full.
const LETTERS: [usize; 2] = [20, 26];

/// A stage of the experiment: boxes one above the other.
struct Stage {
    title: &'static str,
    boxes: Vec<Block>,
}

/// One box. Boxes of equal arms in neighbouring stages belong together; one without an arm belongs to all.
struct Block {
    arm: Option<String>,
    class: String,
    lines: [String; 2],
}

/// The picture; empty where there are fewer than two stages.
pub(super) fn picture(gathered: &Gathered, findings: &Findings) -> String {
    let stages: Vec<Stage> =
        stages(gathered, findings).into_iter().filter(|stage| !stage.boxes.is_empty()).collect();
    if stages.len() < 2 {
        return String::new();
    }
    let most = stages.iter().map(|stage| stage.boxes.len()).max().unwrap_or(1) as f64;
    let width = stages.len() as f64 * (WIDTH + ACROSS) - ACROSS + 2.0;
    let height = TOP + most * (HEIGHT + DOWN) - DOWN + 2.0;
    let place = |stage: usize, number: usize| {
        let own = stages[stage].boxes.len() as f64;
        let start = TOP + (most - own) * (HEIGHT + DOWN) / 2.0;
        (1.0 + stage as f64 * (WIDTH + ACROSS), start + number as f64 * (HEIGHT + DOWN))
    };
    let mut body = String::new();
    let mut push = |arguments: std::fmt::Arguments<'_>| {
        body.write_fmt(arguments).expect("writing to a string succeeds");
    };
    for (at, pair) in stages.windows(2).enumerate() {
        for (from, left) in pair[0].boxes.iter().enumerate() {
            for (to, right) in pair[1].boxes.iter().enumerate() {
                if !belong(left, right) {
                    continue;
                }
                let ((x, y), (to_x, to_y)) = (place(at, from), place(at + 1, to));
                let (x, y, to_y) = (x + WIDTH, y + HEIGHT / 2.0, to_y + HEIGHT / 2.0);
                let middle = f64::midpoint(x, to_x);
                push(format_args!(
                    r#"<path class="edge" d="M{x:.1} {y:.1}C{middle:.1} {y:.1} {middle:.1} {to_y:.1} {to_x:.1} {to_y:.1}"/>"#
                ));
            }
        }
    }
    for (at, stage) in stages.iter().enumerate() {
        let x = place(at, 0).0;
        push(format_args!(r#"<text class="stage" x="{x:.1}" y="14">{}</text>"#, stage.title));
        for (number, block) in stage.boxes.iter().enumerate() {
            let (x, y) = place(at, number);
            let [first, second] = [0, 1].map(|line| escape(&clipped(&block.lines[line], LETTERS[line])));
            push(format_args!(
                r#"<rect class="box {}" x="{x:.1}" y="{y:.1}" width="{WIDTH}" height="{HEIGHT}" rx="7"/><text class="name" x="{:.1}" y="{:.1}">{first}</text><text class="tick" x="{:.1}" y="{:.1}">{second}</text>"#,
                block.class,
                x + 11.0,
                y + 23.0,
                x + 11.0,
                y + 40.0
            ));
        }
    }
    format!(
        r#"<svg viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" role="img" aria-label="the experiment, from its data to its results">{body}</svg>"#
    )
}

/// Whether an edge goes between two boxes of neighbouring stages.
fn belong(left: &Block, right: &Block) -> bool {
    match (&left.arm, &right.arm) {
        (Some(one), Some(other)) => one == other,
        // The untrained base is made from none of the data.
        (None, Some(_)) => right.class != "base",
        _ => true,
    }
}

fn stages(gathered: &Gathered, findings: &Findings) -> Vec<Stage> {
    let arm_class = |label: &str, index| class_of_label(gathered, label, index);
    let step = |step: &super::gather::FunnelStep| Block {
        arm: None,
        class: "plain".to_owned(),
        lines: [step.label.clone(), format!("{} rows", count(step.rows as f64))],
    };
    let (first, later) = gathered.funnel.split_at(gathered.funnel.len().min(1));
    let judged = gathered.judged.iter().enumerate().map(|(index, judged)| {
        let total: u64 = judged.verdicts.values().sum();
        let matches = judged.verdicts.get("match").copied().unwrap_or(0);
        let line = if total > 0 {
            format!("{} % of {}", percent(matches as f64 / total as f64), count(total as f64))
        } else {
            "controls".to_owned()
        };
        Block {
            arm: Some(judged.arm.clone()),
            class: arm_class(&judged.arm, index),
            lines: [judged.arm.clone(), line],
        }
    });
    let packs = gathered.packs.iter().enumerate().map(|(index, (arm, stats))| {
        let number = |name: &str| stats.get(name).and_then(serde_json::Value::as_f64);
        let line = number("packs").map(|packs| format!("{} packs", count(packs)));
        let line =
            line.or_else(|| number("examples").map(|examples| format!("{} examples", count(examples))));
        Block {
            arm: Some(arm.clone()),
            class: arm_class(arm, index),
            lines: [arm.clone(), line.unwrap_or_default()],
        }
    });
    // Replicates of an arm are one box.
    let mut trained: Vec<(&str, usize, u64)> = Vec::new();
    for run in &gathered.training {
        let steps = run.steps.last().map_or(0, |step| step.number);
        match trained.iter_mut().find(|(arm, ..)| *arm == run.arm) {
            Some((_, times, most)) => (*times, *most) = (*times + 1, steps.max(*most)),
            None => trained.push((&run.arm, 1, steps)),
        }
    }
    let trained = trained.into_iter().enumerate().map(|(index, (arm, times, steps))| {
        let seeds = if times > 1 { format!(", {times} seeds") } else { String::new() };
        Block {
            arm: Some(arm.to_owned()),
            class: arm_class(arm, index),
            lines: [arm.to_owned(), format!("{} steps{seeds}", count(steps as f64))],
        }
    });
    let results = gathered.arms.iter().enumerate().map(|(index, arm)| {
        let cells = findings.cells.iter().filter(|cell| cell.arm == arm.label && cell.is_base == arm.is_base);
        let scores: Vec<String> = cells.map(|cell| percent(cell.pass_at_1.mean)).collect();
        Block {
            arm: Some(arm.label.clone()),
            class: class_of(arm.is_base, index),
            lines: [arm.label.clone(), format!("pass@1 {}", scores.join(" · "))],
        }
    });
    vec![
        Stage { title: "Data", boxes: first.iter().map(step).collect() },
        Stage { title: "Judged right", boxes: judged.collect() },
        // A table with reasons is what was dropped; nothing follows from it.
        Stage {
            title: "Kept",
            boxes: later.iter().filter(|step| step.reasons.is_empty()).map(step).collect(),
        },
        Stage { title: "Packed", boxes: packs.collect() },
        Stage { title: "Trained", boxes: trained.collect() },
        Stage { title: "Evaluated", boxes: results.collect() },
    ]
}
