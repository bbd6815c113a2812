//! `dag status`: runs and the state of their nodes, read from their journals, live or finished.

use std::time::Duration;

use dag_cache::Layout;
use dag_engine::event::{End, RunResult};
use dag_engine::journal;
use dag_engine::state::{Phase, RunState};
use serde_json::{Value, json};

use crate::args::Status;
use crate::console::{pace, summary};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::text::Text;
use crate::words::{count, date, duration, grouped};

/// A run read from its journal.
pub struct Past {
    /// Its id.
    pub run: String,
    /// Whether its process is alive.
    pub live: bool,
    /// What its events add up to.
    pub state: RunState,
}

impl Past {
    /// Reads the run called `run`.
    pub fn read(layout: &Layout, run: &str) -> Result<Self, Failure> {
        // Asked first: a run that ends in between has then told its end.
        let live = journal::is_live(layout, run);
        let path = layout.journal(run);
        let events = journal::read(&path)
            .map_err(|error| Failure::failed(format!("failed to read `{}`: {error}", path.display())))?;
        Ok(Self { run: run.to_owned(), live, state: RunState::of(&events) })
    }

    /// How it stands, in a word.
    pub fn word(&self) -> &'static str {
        match self.state.result {
            Some(RunResult::Done) => "done",
            Some(RunResult::Failed) => "failed",
            Some(RunResult::Cancelled) => "interrupted",
            Some(RunResult::Paused) => "paused",
            None if self.live => "running",
            None => "died",
        }
    }

    fn to_json(&self, now: u64) -> Value {
        json!({ "run": self.run, "status": self.word(), "seconds": self.seconds(now), "state": self.state })
    }

    fn seconds(&self, now: u64) -> f64 {
        let until = if self.live { now } else { self.state.latest };
        self.state.seconds.unwrap_or(until.saturating_sub(self.state.began) as f64 / 1000.0)
    }
}

/// The run that the user means: an id, the beginning of one, or `latest`.
pub fn find_run(layout: &Layout, wanted: Option<&str>) -> Result<String, Failure> {
    let runs = journal::list(layout);
    let Some(newest) = runs.last() else {
        return Err(Failure::user(format!("there is no run in `{}`", layout.root().display()))
            .hint("`dag run FILE` makes one; `--store DIR` looks elsewhere"));
    };
    let Some(wanted) = wanted.filter(|wanted| *wanted != "latest") else { return Ok(newest.clone()) };
    let mut meant = runs.iter().filter(|run| *run == wanted || run.starts_with(wanted));
    match (runs.iter().find(|run| *run == wanted), meant.next(), meant.next()) {
        (Some(run), ..) | (None, Some(run), None) => Ok(run.clone()),
        (None, None, _) => {
            Err(Failure::user(format!("there is no run `{wanted}`")).hint("`dag status` lists the runs"))
        }
        (None, Some(_), Some(_)) => Err(Failure::user(format!("more than one run begins with `{wanted}`"))
            .hint("`dag status` lists the runs")),
    }
}

pub fn run(arguments: &Status, context: &Context) -> Outcome {
    let view = context.view();
    let layout = view.layout();
    let now = Context::now();
    if let Some(wanted) = &arguments.run {
        let past = Past::read(layout, &find_run(layout, Some(wanted))?)?;
        if context.json {
            return context.printer.json(&past.to_json(now));
        }
        return context.printer.data(&heading(&past, now).then(nodes(&past, now)));
    }
    let runs = journal::list(layout);
    let latest: Vec<Past> =
        runs.iter().rev().take(arguments.limit).filter_map(|run| Past::read(layout, run).ok()).collect();
    if context.json {
        let listed: Vec<Value> = latest.iter().map(|past| past.to_json(now)).collect();
        return context.printer.json(&listed);
    }
    if latest.is_empty() {
        context.printer.note(&format!("no run in `{}` yet\n", layout.root().display()).into());
        return Ok(());
    }
    // A run that goes on is what the user came for; the others are one line each.
    let mut text = Text::new();
    for past in &latest {
        text = text.then(heading(past, now));
        if past.live {
            text = text.then(nodes(past, now));
        }
    }
    context.printer.data(&text)
}

fn heading(past: &Past, now: u64) -> Text {
    let state = &past.state;
    let text = Text::new().bold(&past.run).plain("  ");
    let text = match past.word() {
        "done" => text.good("done"),
        "running" => text.accent("running"),
        word => text.bad(word),
    };
    let profile = state.profile.as_ref().map_or_else(String::new, |profile| format!(" ({profile})"));
    let ends = &state.ends;
    let mut counts = format!(
        "{}: {} ran, {} up to date",
        count(state.total, "node"),
        grouped(ends.ran),
        grouped(ends.hit)
    );
    for (number, what) in [(ends.failed, "failed"), (ends.skipped, "skipped"), (ends.cancelled, "not run")] {
        if number > 0 {
            counts += &format!(", {} {what}", grouped(number));
        }
    }
    text.plain(format!("  {}{profile}  {counts}", state.experiment))
        .faint(format!(
            "  {}, {}",
            date(state.began / 1000),
            duration(Duration::from_secs_f64(past.seconds(now).max(0.0)))
        ))
        .line()
}

fn nodes(past: &Past, now: u64) -> Text {
    let names = past.state.nodes.keys().map(|name| name.chars().count()).max().unwrap_or(0);
    let mut text = Text::new();
    for (name, node) in &past.state.nodes {
        text = match node.phase {
            Phase::Planned => text.faint("  planned  "),
            Phase::Waiting => text.warn("  waiting  "),
            Phase::Running if past.live => text.accent("  running  "),
            Phase::Running => text.bad("  died     "),
            Phase::Ended(End::Hit) => text.good("  same     "),
            Phase::Ended(End::Ran) => text.good("  done     "),
            Phase::Ended(End::Failed) => text.bad("  failed   "),
            Phase::Ended(End::Skipped) => text.warn("  skipped  "),
            Phase::Ended(End::Cancelled) => text.warn("  stopped  "),
        };
        text = text.bold(name).pad_to(13 + names);
        text = match node.phase {
            Phase::Running => text.plain(pace(node, if past.live { now } else { past.state.latest })),
            Phase::Ended(End::Ran) => text.plain(duration(Duration::from_secs_f64(node.seconds.max(0.0)))),
            Phase::Waiting => text.plain(node.message.as_deref().unwrap_or_default()),
            Phase::Ended(End::Failed) => {
                text.plain(node.error.as_deref().and_then(|error| error.lines().next()).unwrap_or_default())
            }
            _ => text.faint(node.reasons.first().map_or_else(String::new, ToString::to_string)),
        };
        text = text.line();
    }
    if past.state.result.is_some() {
        text = text.then(summary(&past.state));
    }
    text
}
