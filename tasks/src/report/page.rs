//! A report as an HTML page: no network, light and dark, readable on a phone, and without scripts but for the browser of responses.
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};

use super::blocks::Inline;
use super::curves;
use super::escape::escape;
use super::findings::{Cell, Comparison, Findings};
use super::flow;
use super::gather::{Arm, Gathered};
use super::plot::{self, Bar, Series};
use super::responses::Index;
use super::tables::{Table, count, percent};
use crate::evaluate::score::Graded;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("browser.js");

/// What a page is made from, besides what is worded already.
pub(super) struct Page<'a> {
    pub(super) title: &'a str,
    pub(super) note: Option<&'a str>,
    pub(super) gathered: &'a Gathered,
    pub(super) findings: &'a Findings,
}

/// What stands beside the name of a row.
#[derive(Default)]
struct Extra {
    before: String,
    after: String,
}

/// A part of the page with a heading.
struct Section {
    id: &'static str,
    title: &'static str,
    body: String,
}

/// A sentence in the list of them: what is between backticks as code, a warning set off.
fn item(sentence: &str) -> String {
    let class = if sentence.starts_with("Warning: ") { r#" class="warning""# } else { "" };
    let pieces = sentence.split('`').enumerate().map(|(index, piece)| match index % 2 {
        0 => escape(piece),
        _ => format!("<code>{}</code>", escape(piece)),
    });
    format!("<li{class}>{}</li>", pieces.collect::<String>())
}

impl Page<'_> {
    /// The whole page. `blocks` are those that go into it.
    pub(super) fn html(
        &self,
        tables: &[Table],
        sentences: &[String],
        index: &Index,
        blocks: &[Inline],
    ) -> String {
        let title = escape(self.title);
        let mut head = vec![format!("<h1>{title}</h1>")];
        head.extend(self.note.map(|note| format!("<p>{}</p>", escape(note))));
        if !sentences.is_empty() {
            let items: Vec<String> = sentences.iter().map(|sentence| item(sentence)).collect();
            head.push(format!(r#"<ul class="findings">{}</ul>"#, items.concat()));
        }
        let sections: Vec<Section> =
            self.sections(tables).into_iter().filter(|section| !section.body.is_empty()).collect();
        let jumps: Vec<String> = sections
            .iter()
            .map(|section| format!(r##"<a href="#{}">{}</a>"##, section.id, section.title))
            .collect();
        let sections: Vec<String> = sections
            .iter()
            .map(|Section { id, title, body }| {
                format!(r#"<section id="{id}"><h2>{title}</h2>{body}</section>"#)
            })
            .collect();
        let (top, responses) = if index.columns.is_empty() {
            (String::new(), String::new())
        } else {
            let top =
                r##"<nav class="top"><a href="#" aria-current>Report</a><a href="#/">Responses</a></nav>"##;
            let responses = r#"<noscript><p class="note">Responses are read with JavaScript, which is off.</p></noscript><div id="responses" hidden><p class="note">Loading …</p></div><p id="told" role="status" hidden></p>"#;
            (top.to_owned(), responses.to_owned())
        };
        let blocks: Vec<String> = blocks
            .iter()
            .map(|(name, base64)| {
                format!(r#"<script type="text/plain" data-block="{name}">{base64}</script>"#)
            })
            .collect();
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{}\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <title>{title}</title><style>{STYLE}</style></head><body>{top}\
             <main id=\"report\">{}<nav class=\"jumps\">{}</nav>{}</main>{responses}{}<script>{SCRIPT}</script></body></html>\n",
            policy(),
            head.concat(),
            jumps.concat(),
            sections.concat(),
            blocks.concat()
        )
    }

    fn sections(&self, tables: &[Table]) -> Vec<Section> {
        let Self { gathered, findings, .. } = self;
        let table = |title: &str| tables.iter().find(|table| table.title == title);
        let plain = |title: &str| table(title).map_or_else(String::new, |table| html_table(table, &[]));
        let results = table("Results").map_or_else(String::new, |table| {
            let extras: Vec<Extra> = findings.cells.iter().map(|cell| self.extra(cell)).collect();
            html_table(table, &extras) + &self.marks_note()
        });
        let wide = |picture: String| {
            if picture.is_empty() {
                picture
            } else {
                format!(
                    r#"<div class="scroll bare" tabindex="0"><figure class="flow">{picture}</figure></div>"#
                )
            }
        };
        let mut sections = vec![
            Section { id: "results", title: "Results", body: results },
            Section { id: "accuracy", title: "Accuracy", body: accuracy_figure(gathered, findings) },
            Section { id: "compared", title: "Arms compared", body: plain("Arms compared") },
            Section {
                id: "gain",
                title: "Gain over the untrained base",
                body: plain("Gain over the untrained base"),
            },
            Section { id: "lengths", title: "Length of responses", body: length_figure(gathered) },
            Section { id: "budget", title: "Accuracy at a token budget", body: budget_figure(gathered) },
            Section { id: "loss", title: "Training loss", body: loss_figure(gathered) },
            Section {
                id: "fairness",
                title: "What each arm was trained on",
                body: plain("What each arm was trained on"),
            },
            Section { id: "data", title: "Data", body: funnel_figure(gathered) },
            Section { id: "verdicts", title: "Verdicts of the judge", body: plain("Verdicts of the judge") },
            Section { id: "judge", title: "How good the judge is", body: plain("How good the judge is") },
        ];
        // A table that no section above has is shown all the same.
        let known: Vec<&str> = sections.iter().map(|section| section.title).collect();
        let others: Vec<Section> = tables
            .iter()
            .filter(|table| !known.contains(&table.title))
            .map(|table| Section { id: "", title: table.title, body: html_table(table, &[]) })
            .collect();
        sections.extend(others);
        sections.push(Section {
            id: "experiment",
            title: "The experiment",
            body: wide(flow::picture(gathered, findings)),
        });
        sections
    }

    /// What stands beside the name of an arm in the main table: its colour, which differences stand, and a button for its
    /// command.
    fn extra(&self, cell: &Cell) -> Extra {
        let arms = self.gathered.arms.iter();
        let index = arms.take_while(|arm| arm.label != cell.arm || arm.is_base != cell.is_base).count();
        let mut marks = String::new();
        for (sign, is_over_base) in [("*", false), ("†", true)] {
            let over: Vec<&str> = self
                .differences()
                .filter(|(one, _)| one.benchmark == cell.benchmark)
                .filter_map(|(one, with_base)| {
                    let is_first = one.pass_at_1.mean > 0.0;
                    let (winner, loser) = if is_first { (&one.a, &one.b) } else { (&one.b, &one.a) };
                    // The second of such a pair is the base.
                    let (base_wins, base_loses) = (with_base && !is_first, with_base && is_first);
                    let is_it =
                        *winner == cell.arm && cell.is_base == base_wins && is_over_base == base_loses;
                    is_it.then_some(loser.as_str())
                })
                .collect();
            if !over.is_empty() {
                let title = escape(&over.join(", "));
                marks += &format!(r#"<abbr title="stands above {title}">{sign}</abbr>"#);
            }
        }
        let before =
            format!(r#"<i class="swatch {}" aria-hidden="true"></i>"#, class_of(cell.is_base, index));
        let after = format!(
            r#"{marks} <button type="button" class="quiet" data-benchmark="{}" data-arm="{}" data-base="{}" title="copy the dag trace command of these results">trace</button>"#,
            escape(&cell.benchmark),
            escape(&cell.arm),
            cell.is_base
        );
        Extra { before, after }
    }

    fn marks_note(&self) -> String {
        let has = |is_over_base: bool| {
            self.differences().any(|(one, with_base)| (with_base && one.pass_at_1.mean > 0.0) == is_over_base)
        };
        let notes: Vec<&str> =
            [(false, "* stands above another row"), (true, "† stands above the untrained base")]
                .into_iter()
                .filter_map(|(is_over_base, note)| has(is_over_base).then_some(note))
                .collect();
        if notes.is_empty() {
            return String::new();
        }
        format!(r#"<p class="note">{}, at 5 % after Holm's correction.</p>"#, notes.join("; "))
    }

    /// The differences that stand, and whether each is with the untrained base.
    fn differences(&self) -> impl Iterator<Item = (&Comparison, bool)> {
        let arms = self.findings.comparisons.iter().map(|one| (one, false));
        let base = self.findings.against_base.iter().map(|one| (one, true));
        arms.chain(base).filter(|(one, _)| one.stands())
    }
}

/// The content policy: nothing may be loaded from anywhere, and only this page's own script and style apply, known by their
/// hashes. That script alone may add others (`strict-dynamic`), which are the block files beside the page: from a disk they have no
/// origin that a policy could name. Where a browser knows trusted types, their names pass through one function, and text can become
/// markup nowhere.
fn policy() -> String {
    let hash = |text: &str| STANDARD.encode(digest(&SHA256, text.as_bytes()));
    format!(
        "default-src 'none'; script-src 'strict-dynamic' 'sha256-{}'; style-src 'sha256-{}'; \
         require-trusted-types-for 'script'; trusted-types blocks; base-uri 'none'; form-action 'none'",
        hash(SCRIPT),
        hash(STYLE)
    )
}

/// The class that colours an arm.
pub(super) fn class_of(is_base: bool, index: usize) -> String {
    if is_base { "base".to_owned() } else { format!("s{}", index % 6) }
}

/// The colour of an arm by its label, for figures about training.
pub(super) fn class_of_label(gathered: &Gathered, label: &str, index: usize) -> String {
    let at = gathered.arms.iter().position(|arm| !arm.is_base && arm.label == label);
    class_of(false, at.unwrap_or(index))
}

/// All arms by name and colour.
fn arms(gathered: &Gathered) -> Vec<(String, String)> {
    let arms = gathered.arms.iter().enumerate();
    arms.map(|(index, arm)| (arm.label.clone(), class_of(arm.is_base, index))).collect()
}

fn legend(entries: &[(String, String)]) -> String {
    let entries: Vec<String> = entries
        .iter()
        .map(|(label, class)| {
            format!(r#"<span><i class="swatch {class}" aria-hidden="true"></i>{}</span>"#, escape(label))
        })
        .collect();
    format!(r#"<div class="legend">{}</div>"#, entries.concat())
}

fn panel(title: &str, svg: &str) -> String {
    format!("<figure><h3>{}</h3>{svg}</figure>", escape(title))
}

/// One panel for each benchmark on which an arm has data.
fn panels<T>(
    gathered: &Gathered,
    data: impl Fn(&Arm, &str) -> Option<T>,
    draw: impl Fn(&str, &[Series<T>]) -> String,
) -> String {
    let each = gathered.benchmarks.iter().filter_map(|benchmark| {
        let series: Vec<Series<T>> = gathered
            .arms
            .iter()
            .enumerate()
            .filter_map(|(index, arm)| {
                let data = data(arm, benchmark)?;
                Some(Series { label: arm.label.clone(), class: class_of(arm.is_base, index), data })
            })
            .collect();
        (!series.is_empty()).then(|| panel(benchmark, &draw(benchmark, &series)))
    });
    each.collect()
}

/// Panels with the note that explains them; nothing without panels.
fn figure(before: &str, panels: &str, note: &str) -> String {
    if panels.is_empty() {
        return String::new();
    }
    format!(r#"{before}<div class="panels">{panels}</div><p class="note">{note}</p>"#)
}

fn accuracy_figure(gathered: &Gathered, findings: &Findings) -> String {
    let data = |arm: &Arm, benchmark: &str| {
        let mut cells = findings.cells.iter();
        let cell = cells.find(|cell| {
            cell.arm == arm.label && cell.is_base == arm.is_base && cell.benchmark == benchmark
        })?;
        Some((cell.pass_at_1.mean, cell.pass_at_1.interval))
    };
    let panels = panels(gathered, data, |benchmark, rows| {
        plot::intervals(&format!("pass@1 of every arm on {benchmark}"), rows, 360.0)
    });
    figure("", &panels, "Dots are pass@1, lines its 95 % interval.")
}

fn length_figure(gathered: &Gathered) -> String {
    let data = |arm: &Arm, benchmark: &str| {
        let data: Vec<f64> = arm.results.get(benchmark)?.iter().flat_map(Graded::sorted_tokens).collect();
        (!data.is_empty()).then_some(data)
    };
    let panels = panels(gathered, data, |benchmark, series| {
        let description = format!("how many tokens responses to {benchmark} have, by arm");
        plot::histogram(&description, "tokens, logarithmic", series, 360.0)
    });
    let note = "Share of each arm's responses in %, thinking included. Truncated responses stand at the longest length.";
    figure(&legend(&arms(gathered)), &panels, note)
}

fn budget_figure(gathered: &Gathered) -> String {
    let data = |arm: &Arm, benchmark: &str| {
        let curve =
            curves::accuracy(arm.results.get(benchmark)?, &curves::budgets(&gathered.arms, benchmark));
        (!curve.is_empty()).then_some(curve)
    };
    let panels = panels(gathered, data, |benchmark, series| {
        plot::curves(
            &format!("pass@1 on {benchmark} at each token budget, by arm"),
            "tokens, logarithmic",
            series,
            360.0,
        )
    });
    let note = "pass@1 in % if every response longer than the budget counted as wrong. A curve that ends higher but rises later buys its \
                accuracy with tokens.";
    figure(&legend(&arms(gathered)), &panels, note)
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
    let draw = |width| plot::lines("training loss by step", "step", &series, width);
    format!(
        r#"{}{}<p class="note">Running means over the values of every step; in full in loss.csv.</p>"#,
        legend(&entries),
        wide_and_narrow(draw)
    )
}

/// Drawn twice, so that its text is readable on a phone too.
fn wide_and_narrow(draw: impl Fn(f64) -> String) -> String {
    let figure = |class: &str, width| format!(r#"<figure class="{class}">{}</figure>"#, draw(width));
    figure("wide", 1080.0) + &figure("narrow", 360.0)
}

/// What was left of the data at each step, and why.
fn funnel_figure(gathered: &Gathered) -> String {
    let Some(first) = gathered.funnel.first() else { return String::new() };
    let share = |rows: u64| {
        if first.rows > 0 {
            format!(", {} %", percent(rows as f64 / first.rows as f64))
        } else {
            String::new()
        }
    };
    let mut rows = Vec::new();
    for step in &gathered.funnel {
        rows.push(Bar {
            label: step.label.clone(),
            value: step.rows as f64,
            note: format!("{}{}", count(step.rows as f64), share(step.rows)),
            is_part: false,
        });
        let mut reasons: Vec<(&String, &u64)> = step.reasons.iter().collect();
        reasons.sort_by_key(|(reason, rows)| (std::cmp::Reverse(**rows), *reason));
        rows.extend(reasons.into_iter().map(|(reason, rows)| Bar {
            label: reason.clone(),
            value: *rows as f64,
            note: format!("{}{}", count(*rows as f64), share(*rows)),
            is_part: true,
        }));
    }
    wide_and_narrow(|width| plot::bars("rows of data at each step", &rows, width))
}

/// A table. `extras` are put beside the name of each row, in their order.
fn html_table(table: &Table, extras: &[Extra]) -> String {
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
        .enumerate()
        .map(|(number, row)| {
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
                .map(|column| {
                    let none = Extra::default();
                    let Extra { before, after } =
                        extras.get(number).filter(|_| column == groups).unwrap_or(&none);
                    format!(
                        "<td{}>{before}{}{after}</td>",
                        class(column),
                        set_off_interval(&row.cells[column])
                    )
                })
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
        "<div class=\"scroll\" tabindex=\"0\"><table><thead><tr>{}</tr></thead>\
         <tbody>{}</tbody></table></div>{note}",
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
