//! Console: the events of a run for people, live on a terminal and as plain lines elsewhere.
//!
//! What has happened for good scrolls by as lines; on a terminal a region below them shows what is going on now, drawn
//! from [`RunState`], the same fold that `dag status` shows.

use std::collections::BTreeMap;
use std::time::Duration;

use dag_cache::RemoteReport;
use dag_engine::event::{Counts, End, Event, Reporter, RunResult, Stamped};
use dag_engine::state::{NodeState, Phase, RunState};

use crate::context::Context;
use crate::printer::Printer;
use crate::text::Text;
use crate::words::{bytes, count, duration, grouped, money, short};

/// The region is drawn again after so many milliseconds at the earliest.
const REDRAW: u64 = 100;
/// Without a terminal a node tells of its progress every so many milliseconds.
const PROGRESS_LINE: u64 = 10_000;
/// Columns of a progress bar.
const BAR: usize = 16;

/// Shows a run while it happens.
pub struct Console<'p> {
    printer: &'p Printer,
    /// Whether stderr can be drawn on.
    live: bool,
    state: RunState,
    /// Lines of the region that are on the screen.
    drawn: usize,
    drawn_at: u64,
    /// When each node last told of its progress, without a terminal.
    told: BTreeMap<String, u64>,
}

impl<'p> Console<'p> {
    /// Shows on stderr.
    pub fn new(printer: &'p Printer) -> Self {
        let live = printer.live_size().is_some();
        Self { printer, live, state: RunState::default(), drawn: 0, drawn_at: 0, told: BTreeMap::new() }
    }

    /// The run by now.
    pub fn state(&self) -> &RunState {
        &self.state
    }

    /// Takes note of an event without showing it.
    pub fn take(&mut self, stamped: &Stamped) {
        self.state.apply(stamped);
    }

    /// Writes what stays, above the region.
    fn say(&mut self, text: &Text) {
        self.erase();
        self.printer.note(text);
    }

    fn erase(&mut self) {
        if self.drawn > 0 {
            self.printer.raw_note(&format!("\x1b[{}A\r\x1b[J", self.drawn));
            self.drawn = 0;
        }
    }

    fn draw(&mut self, now: u64) {
        let Some((columns, rows)) = self.printer.live_size() else { return };
        let region = region(&self.state, now, rows.saturating_sub(3));
        let lines = region.render_lines(self.printer.note_color(), columns.saturating_sub(1));
        // One write, so that a terminal never shows half of it.
        let up = if self.drawn > 0 { format!("\x1b[{}A\r\x1b[J", self.drawn) } else { String::new() };
        self.drawn = lines.len();
        self.drawn_at = now;
        let body: String = lines.into_iter().map(|line| line + "\n").collect();
        self.printer.raw_note(&(up + &body));
    }

    /// Whether a progress line of the node is due, where there is no region that shows it.
    fn is_due(&mut self, stamped: &Stamped) -> bool {
        let Event::NodeProgress { node, .. } = &stamped.event else { return true };
        if self.live {
            return false;
        }
        let began = self.state.nodes.get(node).and_then(|node| node.began).unwrap_or(stamped.at);
        let last = self.told.get(node).copied().unwrap_or(began);
        let due = stamped.at >= last + PROGRESS_LINE;
        if due {
            self.told.insert(node.clone(), stamped.at);
        }
        due
    }
}

impl Reporter for Console<'_> {
    fn report(&mut self, stamped: &Stamped) {
        self.state.apply(stamped);
        let due = self.is_due(stamped);
        let told = lines(stamped, &self.state, due, self.live);
        if !told.is_empty() {
            self.say(&told);
        }
        match stamped.event {
            Event::RunFinished { .. } => self.erase(),
            _ if self.live && (!told.is_empty() || stamped.at >= self.drawn_at + REDRAW) => {
                self.draw(stamped.at);
            }
            _ => {}
        }
    }

    fn tick(&mut self) {
        if self.live && self.state.result.is_none() && !self.state.nodes.is_empty() {
            self.draw(Context::now());
        }
    }
}

/// What an event leaves on the screen for good. `progress` says whether a progress event is worth a line now; a `live`
/// console shows beginnings in its region instead.
pub fn lines(stamped: &Stamped, state: &RunState, progress: bool, live: bool) -> Text {
    let text = Text::new();
    match &stamped.event {
        Event::RunStarted { run, experiment, profile, nodes, hits, .. } => {
            if hits == nodes {
                return text;
            }
            let profile = profile.as_ref().map_or_else(String::new, |profile| format!(" ({profile})"));
            text.bold(experiment)
                .plain(profile)
                .faint(format!("  run {run}"))
                .plain(format!(": {}, {} up to date", count(*nodes, "node"), grouped(*hits)))
                .line()
        }
        Event::NodeWaiting { node, holder } => {
            text.warn("  wait  ").bold(node).plain(format!("  computed by {holder}")).line()
        }
        Event::NodeStarted { node, kind, reasons, .. } => {
            if live {
                return text;
            }
            let why = reasons.first().map_or_else(String::new, |reason| format!("  {reason}"));
            text.accent("  start ").bold(node).faint(format!("  {kind}")).plain(why).line()
        }
        Event::NodeRetried { node, attempt, error, wait } => text
            .warn("  retry ")
            .bold(node)
            .plain(format!(
                "  attempt {attempt} failed: {error}; again in {}",
                duration(Duration::from_secs_f64(wait.max(0.0)))
            ))
            .line(),
        Event::NodeProgress { node, warnings, .. } => {
            let mut text = text;
            for warning in warnings {
                text = text.warn("warning: ").bold(node).plain(format!(": {warning}")).line();
            }
            if let (true, Some(state)) = (progress, state.nodes.get(node)) {
                text = text.accent("  …     ").bold(node).plain("  ").plain(pace(state, stamped.at)).line();
            }
            text
        }
        Event::NodeFinished { node, end, counts, seconds, owed, error, .. } => {
            finished(node, *end, counts, *seconds, *owed, error.as_deref())
        }
        Event::Warning { text: warning } => text.warn("warning: ").plain(warning).line(),
        Event::Shared(shared) => troubles(shared),
        Event::NodePlanned { .. } | Event::RunFinished { .. } => text,
    }
}

fn finished(node: &str, end: End, counts: &Counts, seconds: f64, owed: u64, error: Option<&str>) -> Text {
    let text = Text::new();
    let text = match end {
        End::Hit => text.good("  same  "),
        End::Ran if owed > 0 => text.warn("  part  "),
        End::Ran => text.good("  done  "),
        End::Failed => text.bad("  fail  "),
        End::Skipped => text.warn("  skip  "),
        End::Cancelled => text.warn("  stop  "),
    };
    let mut text = text.bold(node);
    if end == End::Ran {
        text = text
            .plain(format!("  {}", duration(Duration::from_secs_f64(seconds.max(0.0)))))
            .faint(told(counts));
    }
    if owed > 0 {
        text = text.warn(format!("  {} failed and owed to the next run", count(owed, "record")));
    }
    let mut text = text.line();
    for line in error.into_iter().flat_map(str::lines) {
        text = text.plain(format!("        {line}")).line();
    }
    text
}

/// `  1,200 records, 300 reused, 45.1k tokens`, as far as there is something to tell.
fn told(counts: &Counts) -> String {
    let mut parts = Vec::new();
    if counts.done > 0 || counts.reused > 0 {
        parts.push(format!("{} made", count(counts.done, "record")));
    }
    if counts.reused > 0 {
        parts.push(format!("{} reused", grouped(counts.reused)));
    }
    for (kind, number) in &counts.failures {
        parts.push(format!("{} {kind}", grouped(*number)));
    }
    if counts.output_tokens > 0 {
        parts.push(format!("{} tokens", short(counts.output_tokens as f64)));
    }
    if counts.spent > 0 {
        parts.push(money(dollars(counts.spent)));
    }
    if parts.is_empty() { String::new() } else { format!("  {}", parts.join(", ")) }
}

fn dollars(millionths: u64) -> f64 {
    millionths as f64 / 1e6
}

/// What was spent so far, and what all will have cost with the spread of that (95 %), if the rest is like what was seen.
fn spending(counts: &Counts) -> Option<String> {
    let spent = (counts.spent > 0).then(|| dollars(counts.spent))?;
    let (seen, left) = (counts.done as f64, counts.total?.saturating_sub(counts.over()) as f64);
    if seen < 2.0 || left < 1.0 {
        return Some(money(spent));
    }
    let mean = spent / seen;
    let variance = ((counts.spent_squares as f64 / 1e12 - seen * mean * mean) / (seen - 1.0)).max(0.0);
    let spread = 1.96 * (variance * (left + left * left / seen)).sqrt();
    Some(format!("{} of about {} ± {}", money(spent), money(spent + left * mean), money(spread)))
}

/// How far a running node is, how fast it goes, and when it will be there.
pub fn pace(node: &NodeState, now: u64) -> String {
    let counts = &node.counts;
    let elapsed = node.began.map_or(0.0, |began| now.saturating_sub(began) as f64 / 1000.0);
    let mut parts = Vec::new();
    match counts.total {
        Some(total) if total > 0 => {
            let share = (100 * counts.over().min(total)) / total;
            parts.push(format!("{}/{} {share}%", grouped(counts.over()), grouped(total)));
        }
        _ if counts.over() > 0 => parts.push(count(counts.over(), "record")),
        _ => {}
    }
    if counts.reused > 0 {
        parts.push(format!("{} reused", grouped(counts.reused)));
    }
    if counts.failed() > 0 {
        parts.push(format!("{} failed", grouped(counts.failed())));
    }
    if elapsed >= 1.0 {
        if counts.done > 0 {
            parts.push(format!("{}/s", short(counts.done as f64 / elapsed)));
        }
        if counts.output_tokens > 0 {
            parts.push(format!("{} tok/s", short(counts.output_tokens as f64 / elapsed)));
        }
    }
    parts.extend(spending(counts));
    for (series, point) in &node.curves {
        if let Some(y) = point.y {
            parts.push(format!("{series} {}", (y * 1e4).round() / 1e4));
        }
    }
    parts.push(duration(Duration::from_secs_f64(elapsed)));
    if let Some(left) = seconds_left(node, elapsed) {
        parts.push(format!("{} left", duration(Duration::from_secs_f64(left))));
    }
    if let Some(message) = &node.message {
        parts.push(message.clone());
    }
    parts.join("  ")
}

/// By the pace so far; before there is one, by what was estimated.
fn seconds_left(node: &NodeState, elapsed: f64) -> Option<f64> {
    let counts = &node.counts;
    match counts.total {
        Some(total) if counts.done > 0 && elapsed >= 1.0 => {
            Some(total.saturating_sub(counts.over()) as f64 * elapsed / counts.done as f64)
        }
        _ => node.estimate.seconds.map(|seconds| seconds - elapsed).filter(|left| *left > 0.0),
    }
}

/// The nodes that share a name, and that name.
type Group<'a> = (&'a str, Vec<(&'a String, &'a NodeState)>);

/// What goes on now, in at most `rows` lines: running and waiting nodes under the name they share, then the sum.
pub fn region(state: &RunState, now: u64, rows: usize) -> Text {
    let mut groups: BTreeMap<usize, Group> = BTreeMap::new();
    let mut order: Vec<&str> = Vec::new();
    for (name, node) in &state.nodes {
        let base = name.split('@').next().unwrap_or(name);
        let at = order.iter().position(|known| *known == base).unwrap_or_else(|| {
            order.push(base);
            order.len() - 1
        });
        groups.entry(at).or_insert_with(|| (base, Vec::new())).1.push((name, node));
    }
    let names = state.nodes.keys().map(|name| name.chars().count()).max().unwrap_or(0).min(32);
    let mut tree = Vec::new();
    for (base, nodes) in groups.values() {
        let moving = |node: &&(&String, &NodeState)| matches!(node.1.phase, Phase::Running | Phase::Waiting);
        let shown: Vec<_> = nodes.iter().filter(moving).collect();
        if shown.is_empty() {
            continue;
        }
        if nodes.len() > 1 {
            let over = nodes.iter().filter(|(_, node)| matches!(node.phase, Phase::Ended(_))).count();
            tree.push(
                Text::new().bold(format!("  {base}")).faint(format!("  {over}/{} done", nodes.len())).line(),
            );
        }
        for (name, node) in shown {
            let indent = if nodes.len() > 1 { "  └ " } else { "  " };
            let line = Text::new().plain(indent).bold(name).pad_to(names + 5);
            tree.push(if node.phase == Phase::Waiting {
                line.warn("waits")
                    .plain(format!("  computed by {}", node.message.as_deref().unwrap_or("another process")))
                    .line()
            } else {
                line.accent(bar(&node.counts)).plain(format!(" {}", pace(node, now))).line()
            });
        }
    }
    let hidden = tree.len().saturating_sub(rows);
    tree.truncate(rows);
    let mut text = tree.into_iter().fold(Text::new(), Text::then);
    if hidden > 0 {
        text = text.faint(format!("  … {hidden} more")).line();
    }
    let ends = &state.ends;
    let over = ends.hit + ends.ran + ends.failed + ends.skipped + ends.cancelled;
    text = text.bold(format!("  {}/{} nodes", grouped(over), grouped(state.total)));
    text = text.plain(format!("  {} running", state.count(Phase::Running)));
    if ends.failed > 0 {
        text = text.bad(format!("  {} failed", ends.failed));
    }
    text.plain(format!("  {}", duration(Duration::from_millis(now.saturating_sub(state.began))))).line()
}

fn bar(counts: &Counts) -> String {
    let Some(total) = counts.total.filter(|total| *total > 0) else { return " ".repeat(BAR) };
    let full = (BAR as u64 * counts.over().min(total) / total) as usize;
    "█".repeat(full) + &"░".repeat(BAR - full)
}

/// What was wrong with a shared cache, a line per kind.
pub fn troubles(shared: &RemoteReport) -> Text {
    shared.troubles.iter().fold(Text::new(), |text, trouble| {
        let what = format!(
            "{} of {} {}",
            count(trouble.count, "object"),
            shared.url,
            trouble.kind.words(trouble.count)
        );
        text.warn("warning: ").plain(format!("{what}; first {}", trouble.example)).line()
    })
}

/// `3 nodes, 5 blobs (2.1 MiB) from s3://team/dag`, as far as anything went either way.
pub fn shared_words(shared: &RemoteReport) -> Option<String> {
    let ways = [
        (shared.records, shared.blobs, shared.segments, shared.bytes, "from"),
        (shared.given_records, shared.given_blobs, shared.given_segments, shared.given_bytes, "to"),
    ];
    let told = ways.into_iter().filter_map(|(records, blobs, segments, size, way)| {
        let things = [
            (records, count(records, "node")),
            (blobs, count(blobs, "blob")),
            (segments, format!("{} of responses", count(segments, "segment"))),
        ];
        let things: Vec<String> =
            things.into_iter().filter(|(number, _)| *number > 0).map(|(_, words)| words).collect();
        (!things.is_empty()).then(|| format!("{} ({}) {way} {}", things.join(", "), bytes(size), shared.url))
    });
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| told.join("; "))
}

fn shared_line(state: &RunState) -> Text {
    match state.shared.as_ref().and_then(shared_words) {
        Some(words) => Text::new().plain(words).line(),
        None => Text::new(),
    }
}

/// What a run came to.
pub fn summary(state: &RunState) -> Text {
    let ends = &state.ends;
    let text = Text::new();
    if state.result == Some(RunResult::Done) && ends.hit == state.total {
        let line = text.good(format!("{}, all up to date; 0 ran", count(state.total, "node"))).line();
        return line.then(shared_line(state));
    }
    let mut parts = vec![format!("{} ran", grouped(ends.ran)), format!("{} up to date", grouped(ends.hit))];
    for (number, what) in [(ends.failed, "failed"), (ends.skipped, "skipped"), (ends.cancelled, "not run")] {
        if number > 0 {
            parts.push(format!("{} {what}", grouped(number)));
        }
    }
    let sum = |of: fn(&NodeState) -> u64| state.nodes.values().map(of).sum::<u64>();
    let (made, reused) = (sum(|node| node.counts.done), sum(|node| node.counts.reused));
    let (tokens, owed) = (sum(|node| node.counts.output_tokens), sum(|node| node.owed));
    let mut line = format!("{}: {}", count(state.total, "node"), parts.join(", "));
    if made + reused > 0 {
        line += &format!("; {} made, {} reused", count(made, "record"), grouped(reused));
    }
    if tokens > 0 {
        line += &format!("; {} tokens", short(tokens as f64));
    }
    let (spent, saved) = (sum(|node| node.counts.spent), sum(|node| node.counts.saved));
    if spent > 0 {
        line += &format!("; {} spent", money(dollars(spent)));
    }
    if saved > 0 {
        line += &format!("; reuse saved {}", money(dollars(saved)));
    }
    let seconds = state.seconds.unwrap_or_else(|| state.latest.saturating_sub(state.began) as f64 / 1000.0);
    line += &format!("; {}", duration(Duration::from_secs_f64(seconds.max(0.0))));
    let mut text = match state.result {
        Some(RunResult::Done) => text.good(line),
        Some(RunResult::Failed) => text.bad(line),
        Some(RunResult::Cancelled | RunResult::Paused) | None => text.warn(line),
    }
    .line()
    .then(shared_line(state));
    if owed > 0 {
        text = text
            .warn(format!("{} failed and are owed: the next run asks for those alone", count(owed, "record")))
            .line();
    }
    text
}
