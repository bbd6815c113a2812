//! A report as plain text for the terminal, as Markdown and as CSV.
use super::findings::{Findings, Score};
use super::gather::Gathered;
use super::published;
use super::tables::{Table, points};

/// What must be known first, and what the comparisons say, one sentence each.
pub(super) fn sentences(findings: &Findings) -> Vec<String> {
    let warnings = findings.warnings.iter().map(|warning| format!("Warning: {warning}"));
    let each = findings.comparisons.iter().map(|one| {
        let difference = &one.pass_at_1;
        let interval = difference.interval.map_or_else(String::new, |ends| {
            format!(" (95 % interval {} to {})", points(ends.low), points(ends.high))
        });
        let verdict = if one.stands() { "stands" } else { "does not stand" };
        format!(
            "{}: {} minus {} is {} points of pass@1{interval}; the difference {verdict} after correction.",
            one.benchmark,
            one.a,
            one.b,
            points(difference.mean)
        )
    });
    let published = findings.published.iter().filter_map(published::sentence);
    warnings.chain(each).chain(published).collect()
}

/// Tables for a terminal: columns aligned, nothing else.
pub(super) fn plain(title: &str, tables: &[Table], sentences: &[String]) -> String {
    let mut text = vec![format!("{title}\n")];
    for table in tables {
        text.push(format!("\n{}\n", table.title));
        let rows = || std::iter::once(&table.headers).chain(table.rows.iter().map(|row| &row.cells));
        let widths: Vec<usize> = (0..table.headers.len())
            .map(|column| rows().map(|cells| cells[column].chars().count()).max().unwrap_or(0))
            .collect();
        for cells in rows() {
            let line: Vec<String> = cells
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, width))| {
                    let gap = " ".repeat(width - cell.chars().count());
                    if column < table.names { format!("{cell}{gap}") } else { format!("{gap}{cell}") }
                })
                .collect();
            text.push(format!("{}\n", line.join("  ").trim_end()));
        }
    }
    if !sentences.is_empty() {
        text.push("\n".to_owned());
    }
    for sentence in sentences {
        text.push(format!("{sentence}\n"));
    }
    // A control character in a label must not reach the terminal.
    text.concat().replace(|character: char| character.is_control() && character != '\n', " ")
}

/// The same as a Markdown document.
pub(super) fn markdown(title: &str, tables: &[Table], sentences: &[String]) -> String {
    let mut text = vec![format!("# {}\n", escape_markdown(title))];
    if !sentences.is_empty() {
        text.push("\n".to_owned());
    }
    for sentence in sentences {
        text.push(format!("- {}\n", escape_markdown(sentence)));
    }
    for table in tables {
        text.push(format!("\n## {}\n\n", table.title));
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| escape_markdown(cell)).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        text.push(line(&table.headers));
        let rules = (0..table.headers.len()).map(|column| if column < table.names { "---" } else { "--:" });
        text.push(format!("| {} |\n", rules.collect::<Vec<_>>().join(" | ")));
        for row in &table.rows {
            text.push(line(&row.cells));
        }
        if !table.note.is_empty() {
            text.push(format!("\n{}\n", table.note));
        }
    }
    text.concat()
}

/// Text that Markdown takes as it is.
fn escape_markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' | '|' | '*' | '_' | '`' | '#' | '~' => escaped.extend(['\\', character]),
            '<' => escaped.push_str("&lt;"),
            '\n' | '\r' => escaped.push(' '),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// The main table in full precision, one line for each arm and benchmark.
pub(super) fn results_csv(findings: &Findings) -> String {
    let mut text = vec![String::from(
        "benchmark,arm,is_base,items,ungradable_items,replicates,k,\
         pass_at_1,pass_at_1_se,pass_at_1_low,pass_at_1_high,\
         pass_at_k,pass_at_k_se,pass_at_k_low,pass_at_k_high,\
         majority_at_k,majority_at_k_se,majority_at_k_low,majority_at_k_high,\
         tokens_mean,tokens_median,tokens_p90,truncated,no_answer,failed_samples,\
         these_problems_se,tokens_uncensored_median,thinking_tokens,answer_tokens,reference_tokens,\
         looped,unclosed,empty_final\n",
    )];
    for cell in &findings.cells {
        let mut fields = vec![
            csv_field(&cell.benchmark),
            csv_field(&cell.arm),
            cell.is_base.to_string(),
            cell.items.to_string(),
            cell.ungradable_items.to_string(),
            cell.replicates.to_string(),
            findings.k.to_string(),
        ];
        let optional = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
        for Score { mean, standard_error, interval } in [cell.pass_at_1, cell.pass_at_k, cell.majority_at_k] {
            let ends = [interval.map(|ends| ends.low), interval.map(|ends| ends.high)];
            fields.extend([Some(mean), standard_error, ends[0], ends[1]].map(optional));
        }
        let tokens = cell.tokens.as_ref();
        fields
            .extend([tokens.map(|t| t.mean), tokens.map(|t| t.median), tokens.map(|t| t.p90)].map(optional));
        fields.extend([
            cell.truncated.to_string(),
            cell.no_answer.to_string(),
            cell.failed_samples.to_string(),
        ]);
        let counts = [
            cell.these_problems,
            cell.uncensored_median,
            cell.thinking_tokens,
            cell.answer_tokens,
            cell.reference_tokens,
        ];
        fields.extend(counts.map(optional));
        fields.extend([cell.looped, cell.unclosed, cell.empty_final].map(|share| share.to_string()));
        text.push(format!("{}\n", fields.join(",")));
    }
    text.concat()
}

/// The loss logs of all training runs.
pub(super) fn loss_csv(gathered: &Gathered) -> String {
    let mut text = vec![String::from("arm,replicate,step,loss,lr,grad_norm,loss_tokens\n")];
    for run in &gathered.training {
        let replicate = run.replicate.as_deref().unwrap_or_default();
        for step in &run.steps {
            let optional = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
            text.push(format!(
                "{},{},{},{},{},{},{}\n",
                csv_field(&run.arm),
                csv_field(replicate),
                step.number,
                step.loss,
                optional(step.lr),
                optional(step.grad_norm),
                step.loss_tokens.map_or_else(String::new, |tokens| tokens.to_string()),
            ));
        }
    }
    text.concat()
}

fn csv_field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
