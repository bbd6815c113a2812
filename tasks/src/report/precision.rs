//! Tables of how sure the numbers are: what their errors are made of, all benchmarks together, and shorter limits.
use super::findings::{BudgetCell, Findings};
use super::tables::{
    Table, TableRow, count, dash, grouped, p_value, percent, points, signed_interval, with_interval,
};

pub(super) fn tables(findings: &Findings) -> Vec<Table> {
    vec![pooled(findings), errors(findings), budgets(findings)]
}

fn pooled(findings: &Findings) -> Table {
    let rows = findings.pooled.iter().map(|one| TableRow {
        cells: vec![
            format!("{} − {}", one.a, one.b),
            one.benchmarks.to_string(),
            points(one.mean),
            one.bootstrap.map_or_else(dash, |bootstrap| signed_interval(bootstrap.interval)),
            one.bootstrap.map_or_else(dash, |bootstrap| p_value(bootstrap.p)),
        ],
        starts_group: true,
    });
    Table {
        title: "All benchmarks together",
        note: "The mean over benchmarks of the difference in pass@1, each counting the same; interval and p by a bootstrap of \
               the problems within each benchmark, paired, 10,000 draws."
            .to_owned(),
        headers: ["Arms", "Benchmarks", "Difference", "Bootstrap 95 %", "p"].map(str::to_owned).into(),
        names: 1,
        rows: rows.collect(),
    }
}

fn errors(findings: &Findings) -> Table {
    // Where all are right, or all wrong, the samples do not tell their error: nothing is not ±0.
    let half_width = |error: Option<f64>| {
        error.filter(|error| *error > 0.0).map_or_else(dash, |error| format!("±{}", percent(1.96 * error)))
    };
    let told = findings.cells.iter().filter(|cell| cell.these_problems.is_some());
    let rows = grouped(told.map(|cell| {
        let samples = cell.variance.and_then(|split| split.share_within());
        vec![
            cell.benchmark.clone(),
            cell.arm.clone(),
            half_width(cell.pass_at_1.standard_error),
            half_width(cell.these_problems),
            samples.map_or_else(dash, percent),
        ]
    }));
    let headers = ["Benchmark", "Arm", "Problems like these", "These problems", "% of it from sampling"];
    Table {
        title: "What the errors of pass@1 are made of",
        note: "±1.96 standard errors in points, for all problems of which these are a draw, and for these alone. What is from \
               sampling more samples would remove; the rest only more problems."
            .to_owned(),
        headers: headers.map(str::to_owned).into(),
        names: 2,
        rows,
    }
}

fn budgets(findings: &Findings) -> Table {
    let mut headers = vec!["Benchmark".to_owned(), "Arm".to_owned()];
    let shown: Vec<u64> =
        findings.budgets.first().map(|cell| cell.at.keys().copied().collect()).unwrap_or_default();
    headers.extend(shown.iter().map(|budget| format!("≤ {}", count(*budget as f64))));
    let rows = grouped(findings.budgets.iter().map(|BudgetCell { benchmark, arm, at }| {
        [benchmark.clone(), arm.clone()].into_iter().chain(at.values().map(with_interval)).collect()
    }));
    Table {
        title: "pass@1 within so many tokens",
        note: "The same responses, with longer ones graded as wrong. Tokens are those that the model's server counts.".to_owned(),
        headers,
        names: 2,
        rows,
    }
}
