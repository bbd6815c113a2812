//! A report as one HTML page: no network, no script, light and dark, readable on a phone.
use super::escape::escape;
use super::findings::Findings;
use super::gather::{Arm, Gathered};
use super::plot::{self, Series};
use super::tables::Table;
use crate::evaluate::score::Graded;

const STYLE: &str = include_str!("style.css");
/// Nothing may be loaded, run or sent; only the page's own style sheet applies.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

pub(super) fn page(
    title: &str,
    note: Option<&str>,
    gathered: &Gathered,
    findings: &Findings,
    tables: &[Table],
    sentences: &[String],
) -> String {
    let mut body = vec![format!("<h1>{}</h1>", escape(title))];
    body.extend(note.map(|note| format!("<p>{}</p>", escape(note))));
    if !sentences.is_empty() {
        let items: Vec<String> =
            sentences.iter().map(|sentence| format!("<li>{}</li>", escape(sentence))).collect();
        body.push(format!("<ul>{}</ul>", items.concat()));
    }
    let (results, others): (Vec<&Table>, Vec<&Table>) =
        tables.iter().partition(|table| table.title == "Results");
    body.push(accuracy_figure(gathered, findings));
    body.extend(results.into_iter().map(html_table));
    body.push(length_figure(gathered));
    body.push(loss_figure(gathered));
    body.extend(others.into_iter().map(html_table));
    let body = body.concat();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n",
        escape(title)
    )
}

fn class_of(arm: &Arm, index: usize) -> String {
    if arm.is_base { "base".to_owned() } else { format!("s{}", index % 6) }
}

/// The colour of an arm by its label, for figures about training.
fn class_of_label(gathered: &Gathered, label: &str, index: usize) -> String {
    let at = gathered.arms.iter().position(|arm| !arm.is_base && arm.label == label);
    format!("s{}", at.unwrap_or(index) % 6)
}

fn legend(entries: &[(String, String)]) -> String {
    let entries: Vec<String> = entries
        .iter()
        .map(|(label, class)| {
            let swatch = format!(r#"<svg viewBox="0 0 10 10" aria-hidden="true"><circle class="dot {class}" cx="5" cy="5" r="5"/></svg>"#);
            format!("<span>{swatch}{}</span>", escape(label))
        })
        .collect();
    format!(r#"<div class="legend">{}</div>"#, entries.concat())
}

fn panel(title: &str, svg: &str) -> String {
    format!("<figure><h3>{}</h3>{svg}</figure>", escape(title))
}

fn accuracy_figure(gathered: &Gathered, findings: &Findings) -> String {
    let panels: String = gathered
        .benchmarks
        .iter()
        .map(|benchmark| {
            let rows: Vec<_> = gathered
                .arms
                .iter()
                .enumerate()
                .filter_map(|(index, arm)| {
                    let mut cells = findings.cells.iter();
                    let cell = cells.find(|cell| {
                        cell.arm == arm.label && cell.is_base == arm.is_base && cell.benchmark == *benchmark
                    })?;
                    let data = (cell.pass_at_1.mean, cell.pass_at_1.interval);
                    Some(Series { label: arm.label.clone(), class: class_of(arm, index), data })
                })
                .collect();
            panel(benchmark, &plot::intervals(&format!("pass@1 of every arm on {benchmark}"), &rows, 360.0))
        })
        .collect();
    if panels.is_empty() {
        return String::new();
    }
    format!(
        r#"<h2>Accuracy</h2><div class="panels">{panels}</div><p class="note">Dots are pass@1, lines its 95 % interval.</p>"#
    )
}

fn length_figure(gathered: &Gathered) -> String {
    let mut panels = String::new();
    for benchmark in &gathered.benchmarks {
        let series: Vec<_> = gathered
            .arms
            .iter()
            .enumerate()
            .filter_map(|(index, arm)| {
                let data: Vec<f64> =
                    arm.results.get(benchmark)?.iter().flat_map(Graded::sorted_tokens).collect();
                (!data.is_empty()).then(|| Series {
                    label: arm.label.clone(),
                    class: class_of(arm, index),
                    data,
                })
            })
            .collect();
        if !series.is_empty() {
            let description = format!("how many tokens responses to {benchmark} have, by arm");
            panels.push_str(&panel(
                benchmark,
                &plot::histogram(&description, "tokens, logarithmic", &series, 360.0),
            ));
        }
    }
    if panels.is_empty() {
        return String::new();
    }
    let entries: Vec<_> = gathered
        .arms
        .iter()
        .enumerate()
        .map(|(index, arm)| (arm.label.clone(), class_of(arm, index)))
        .collect();
    format!(
        r#"<h2>Length of responses</h2>{}<div class="panels">{panels}</div><p class="note">Share of each arm's responses in %, thinking included. Truncated responses stand at the longest length.</p>"#,
        legend(&entries)
    )
}

fn loss_figure(gathered: &Gathered) -> String {
    let runs: Vec<_> = gathered.training.iter().filter(|run| !run.steps.is_empty()).collect();
    if runs.is_empty() {
        return String::new();
    }
    let series: Vec<_> = runs
        .iter()
        .enumerate()
        .map(|(index, run)| Series {
            label: run.arm.clone(),
            class: class_of_label(gathered, &run.arm, index),
            data: run.steps.iter().map(|step| (step.number as f64, step.loss)).collect(),
        })
        .collect();
    let mut entries: Vec<_> = series.iter().map(|line| (line.label.clone(), line.class.clone())).collect();
    entries.dedup();
    // Drawn twice, so that its text is readable on a phone too.
    let figure = |class: &str, width| {
        format!(
            r#"<figure class="{class}">{}</figure>"#,
            plot::lines("training loss by step", "step", &series, width)
        )
    };
    format!(
        r#"<h2>Training loss</h2>{}{}{}<p class="note">Running means over the values of every step; in full in loss.csv.</p>"#,
        legend(&entries),
        figure("wide", 1080.0),
        figure("narrow", 360.0)
    )
}

fn html_table(table: &Table) -> String {
    // A first column that names groups becomes a line above each group, so that the arm stays in sight
    // where a narrow screen scrolls the numbers.
    let groups = table.names - 1;
    let class = |column: usize| if column < table.names { r#" class="label""# } else { "" };
    let headers: Vec<String> = (groups..table.headers.len())
        .map(|column| format!(r#"<th scope="col"{}>{}</th>"#, class(column), escape(&table.headers[column])))
        .collect();
    let rows: Vec<String> = table
        .rows
        .iter()
        .map(|row| {
            let group = if groups > 0 && row.starts_group {
                let width = table.headers.len() - groups;
                format!(
                    r#"<tr class="group"><th scope="rowgroup" colspan="{width}"><span>{}</span></th></tr>"#,
                    escape(&row.cells[0])
                )
            } else {
                String::new()
            };
            let cells: Vec<String> = (groups..row.cells.len())
                .map(|column| format!("<td{}>{}</td>", class(column), set_off_interval(&row.cells[column])))
                .collect();
            format!("{group}<tr>{}</tr>", cells.concat())
        })
        .collect();
    let note = if table.note.is_empty() {
        String::new()
    } else {
        format!(r#"<p class="note">{}</p>"#, escape(&table.note))
    };
    format!(
        "<h2>{}</h2><div class=\"scroll\" tabindex=\"0\"><table><thead><tr>{}</tr></thead>\
         <tbody>{}</tbody></table></div>{note}",
        escape(table.title),
        headers.concat(),
        rows.concat()
    )
}

/// `83.4 [79.1, 87.7]` with its interval in the softer voice.
fn set_off_interval(cell: &str) -> String {
    match cell.split_once(" [") {
        Some((value, interval)) => format!("{} <small>[{}</small>", escape(value), escape(interval)),
        None => escape(cell),
    }
}
