//! Small figures as inline SVG: lines, histograms, intervals.
//!
//! Colours are classes (`s0`, `s1`, …, `base`) that the page's style sheet fills in for light and dark.
//! Nothing is drawn with style attributes, which the page's content policy would not apply.
use std::fmt::Write;

use super::escape::escape;
use crate::stats::Interval;

const LEFT: f64 = 44.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 38.0;

/// A named set of points or values and its colour class.
pub(super) struct Series<T> {
    pub(super) label: String,
    pub(super) class: String,
    pub(super) data: T,
}

/// Where values fall along one side of a figure.
#[derive(Clone, Copy)]
struct Scale {
    low: f64,
    high: f64,
    is_log: bool,
    start: f64,
    end: f64,
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        let map = |value: f64| if self.is_log { value.max(f64::MIN_POSITIVE).ln() } else { value };
        let span = map(self.high) - map(self.low);
        let share = if span > 0.0 { (map(value) - map(self.low)) / span } else { 0.5 };
        self.start + share.clamp(0.0, 1.0) * (self.end - self.start)
    }

    /// About `most` round values between the ends.
    fn ticks(&self, most: f64) -> Vec<f64> {
        if self.is_log {
            let decades = (self.low.log10().floor() as i32)..=(self.high.log10().ceil() as i32);
            let steps: &[f64] =
                if (self.high / self.low).log10() * 3.0 > most { &[1.0] } else { &[1.0, 2.0, 5.0] };
            let all = decades.flat_map(|decade| steps.iter().map(move |step| step * 10.0_f64.powi(decade)));
            return all.filter(|tick| (self.low..=self.high).contains(tick)).collect();
        }
        let rough = (self.high - self.low) / most;
        if rough <= 0.0 {
            return vec![self.low];
        }
        let magnitude = 10.0_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * magnitude >= rough).unwrap_or(10.0)
            * magnitude;
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last).map(|tick| tick as f64 * step).collect()
    }
}

/// A figure under construction.
struct Figure {
    body: String,
    width: f64,
    height: f64,
    x: Scale,
    y: Scale,
}

impl Figure {
    fn new(
        width: f64,
        height: f64,
        (x_low, x_high): (f64, f64),
        (y_low, y_high): (f64, f64),
        is_log: bool,
    ) -> Self {
        let x = Scale { low: x_low, high: x_high, is_log, start: LEFT, end: width - RIGHT };
        let y = Scale { low: y_low, high: y_high, is_log: false, start: height - BOTTOM, end: TOP };
        Self { body: String::new(), width, height, x, y }
    }

    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        self.body.write_fmt(element).expect("writing to a string succeeds");
    }

    fn polyline(&mut self, kind: &str, class: &str, points: &[(f64, f64)]) {
        let points: Vec<String> =
            points.iter().map(|(x, y)| format!("{:.1},{:.1}", self.x.at(*x), self.y.at(*y))).collect();
        self.push(format_args!(r#"<polyline class="{kind} {class}" points="{}"/>"#, points.join(" ")));
    }

    fn x_axis(&mut self, label: &str) {
        let (x, bottom) = (self.x, self.height - BOTTOM);
        for tick in x.ticks(self.width / 70.0) {
            let at = x.at(tick);
            self.push(format_args!(
                r#"<line class="grid" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{bottom}"/>"#
            ));
            let text = number(tick);
            self.push(format_args!(
                r#"<text class="tick" x="{at:.1}" y="{:.1}" text-anchor="middle">{text}</text>"#,
                bottom + 14.0
            ));
        }
        let middle = f64::midpoint(x.start, x.end);
        let (below, label) = (self.height - 6.0, escape(label));
        self.push(format_args!(
            r#"<text class="axis" x="{middle:.1}" y="{below:.1}" text-anchor="middle">{label}</text>"#
        ));
    }

    fn y_axis(&mut self) {
        let (y, right) = (self.y, self.width - RIGHT);
        for tick in y.ticks(5.0) {
            let (at, text) = (y.at(tick), number(tick));
            self.push(format_args!(
                r#"<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1}" y2="{at:.1}"/>"#
            ));
            self.push(format_args!(
                r#"<text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{text}</text>"#,
                LEFT - 6.0,
                at + 3.5
            ));
        }
    }

    fn finish(self, description: &str) -> String {
        let Self { body, width, height, .. } = self;
        let description = escape(description);
        format!(r#"<svg viewBox="0 0 {width} {height}" role="img" aria-label="{description}">{body}</svg>"#)
    }
}

/// Curves, such as the loss of each training run, with the raw values faint behind their running means.
pub(super) fn lines(
    description: &str,
    x_label: &str,
    series: &[Series<Vec<(f64, f64)>>],
    width: f64,
) -> String {
    let points = || series.iter().flat_map(|line| &line.data);
    let (x_low, x_high) = range(points().map(|point| point.0));
    let (y_low, y_high) = range(points().map(|point| point.1));
    let mut figure = Figure::new(width, 280.0, (x_low, x_high), (y_low.min(0.0), y_high * 1.02), false);
    figure.x_axis(x_label);
    figure.y_axis();
    for line in series {
        let class = &line.class;
        let raw = thin(&line.data, width as usize / 2);
        let smooth = thin(&running_mean(&line.data), width as usize / 2);
        figure.polyline("raw", class, &raw);
        figure.polyline("line", class, &smooth);
    }
    figure.finish(description)
}

/// Rising curves of percentages over a logarithmic axis.
pub(super) fn curves(
    description: &str,
    x_label: &str,
    series: &[Series<Vec<(f64, f64)>>],
    width: f64,
) -> String {
    let points = || series.iter().flat_map(|line| &line.data);
    let (x_low, x_high) = range(points().map(|point| point.0));
    let (_, y_high) = range(points().map(|point| point.1));
    // A logarithm has no place for zero.
    let (x_low, x_high) = (x_low.max(1.0), x_high.max(2.0));
    let mut figure = Figure::new(width, 220.0, (x_low, x_high), (0.0, (y_high * 1.08).min(100.0)), true);
    figure.x_axis(x_label);
    figure.y_axis();
    for line in series {
        figure.polyline("line", &line.class, &line.data);
    }
    figure.finish(description)
}

/// A row of a bar chart.
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) value: f64,
    /// What stands after the bar.
    pub(super) note: String,
    /// Whether it is a part of the row above.
    pub(super) is_part: bool,
}

/// Bars on one scale, each with its label above it.
pub(super) fn bars(description: &str, rows: &[Bar], width: f64) -> String {
    const TALL: f64 = 40.0;
    const LOW: f64 = 28.0;
    let high = rows.iter().map(|row| row.value).fold(1.0, f64::max);
    let mut figure = Figure::new(width, 0.0, (0.0, high), (0.0, 1.0), false);
    let mut y = 2.0;
    for row in rows {
        let (start, thick) = if row.is_part { (18.0, 5.0) } else { (0.0, 14.0) };
        let long = (width * row.value / high).max(1.5).min(width - start);
        // About 6.5 units a letter; the note keeps its place.
        let fitting = (width / 6.5) as usize;
        let fitting = fitting.saturating_sub(row.note.chars().count() + 4).max(8);
        let (label, note) = (escape(&clipped(&row.label, fitting)), escape(&row.note));
        let (class, name) = if row.is_part { ("bar part", "tick") } else { ("bar", "name") };
        figure.push(format_args!(
            r#"<text class="{name}" x="{start}" y="{:.1}">{label}</text><text class="value" x="{width}" y="{:.1}" text-anchor="end">{note}</text><rect class="{class}" x="{start}" y="{:.1}" width="{long:.1}" height="{thick}" rx="2"/>"#,
            y + 12.0, y + 12.0, y + 17.0
        ));
        y += if row.is_part { LOW } else { TALL };
    }
    figure.height = y;
    figure.finish(description)
}

/// How values spread on a logarithmic axis: one outline for each series, in shares of its own total.
pub(super) fn histogram(description: &str, x_label: &str, series: &[Series<Vec<f64>>], width: f64) -> String {
    const BINS: usize = 28;
    let (low, high) = range(series.iter().flat_map(|one| one.data.iter().copied()));
    let (low, high) = (low.max(1.0) * 0.9, high.max(2.0) * 1.1);
    let edge = |bin: usize| low * (high / low).powf(bin as f64 / BINS as f64);
    let shares: Vec<Vec<f64>> = series
        .iter()
        .map(|one| {
            let mut shares = vec![0.0; BINS];
            for value in &one.data {
                let place = (value.max(low) / low).ln() / (high / low).ln() * BINS as f64;
                shares[(place as usize).min(BINS - 1)] += 100.0 / one.data.len() as f64;
            }
            shares
        })
        .collect();
    let highest = shares.iter().flatten().copied().fold(1.0, f64::max);
    let mut figure = Figure::new(width, 220.0, (low, high), (0.0, highest * 1.05), true);
    figure.x_axis(x_label);
    figure.y_axis();
    for (one, shares) in series.iter().zip(shares) {
        let floor = figure.y.at(0.0);
        let mut path = format!("M{:.1} {floor:.1}", figure.x.at(edge(0)));
        for (bin, share) in shares.iter().enumerate() {
            let (left, right, top) =
                (figure.x.at(edge(bin)), figure.x.at(edge(bin + 1)), figure.y.at(*share));
            write!(path, "L{left:.1} {top:.1}L{right:.1} {top:.1}").expect("writing to a string succeeds");
        }
        write!(path, "L{:.1} {floor:.1}", figure.x.at(edge(BINS))).expect("writing to a string succeeds");
        figure.push(format_args!(r#"<path class="area {}" d="{path}"/>"#, one.class));
    }
    figure.finish(description)
}

/// Means with their intervals, one below the other, on a scale from 0 to 100.
pub(super) fn intervals(description: &str, series: &[Series<(f64, Option<Interval>)>], width: f64) -> String {
    const ROW: f64 = 26.0;
    let height = TOP + ROW * series.len() as f64 + BOTTOM;
    let mut figure = Figure::new(width, height, (0.0, 100.0), (0.0, 1.0), false);
    let longest = series.iter().map(|row| row.label.chars().count()).max().unwrap_or(0);
    figure.x.start = (10.0 + 6.6 * longest as f64).min(width / 2.0);
    let fitting = ((figure.x.start - 10.0) / 6.6) as usize;
    figure.x.end -= 38.0;
    figure.x_axis("pass@1, %");
    for (index, row) in series.iter().enumerate() {
        let y = TOP + ROW * (index as f64 + 0.5);
        let (class, label) = (&row.class, escape(&clipped(&row.label, fitting)));
        let (mean, interval) = row.data;
        let at = figure.x.at(100.0 * mean);
        figure.push(format_args!(r#"<text class="name" x="4" y="{:.1}">{label}</text>"#, y + 4.0));
        if let Some(ends) = interval {
            let (low, high) = (figure.x.at(100.0 * ends.low), figure.x.at(100.0 * ends.high));
            figure.push(format_args!(
                r#"<line class="whisker {class}" x1="{low:.1}" x2="{high:.1}" y1="{y:.1}" y2="{y:.1}"/>"#
            ));
        }
        figure.push(format_args!(r#"<circle class="dot {class}" cx="{at:.1}" cy="{y:.1}" r="4.5"/>"#));
        let right = width - 2.0;
        figure.push(format_args!(
            r#"<text class="value" x="{right:.1}" y="{:.1}" text-anchor="end">{:.1}</text>"#,
            y + 4.0,
            100.0 * mean
        ));
    }
    figure.finish(description)
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high { (0.0, 1.0) } else { (low, high) }
}

/// The mean over a window of a fiftieth of the curve.
fn running_mean(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let reach = points.len() / 100;
    let window = |at: usize| &points[at.saturating_sub(reach)..(at + reach + 1).min(points.len())];
    (0..points.len())
        .map(|at| {
            (points[at].0, window(at).iter().map(|point| point.1).sum::<f64>() / window(at).len() as f64)
        })
        .collect()
}

/// At most about `most` of the points, evenly chosen, the last among them.
fn thin(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    let step = points.len().div_ceil(most.max(1)).max(1);
    let mut thinned: Vec<(f64, f64)> = points.iter().step_by(step).copied().collect();
    if let Some(last) = points.last().filter(|last| thinned.last() != Some(last)) {
        thinned.push(*last);
    }
    thinned
}

/// The beginning of a text that is too long for its place.
pub(super) fn clipped(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// A tick's number: 0.5, 20, 3k, 1.5M.
fn number(value: f64) -> String {
    let (scaled, suffix) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, "B"),
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = format!("{scaled:.3}");
    format!("{}{suffix}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let scale = |low, high, is_log| Scale { low, high, is_log, start: 0.0, end: 100.0 };
        assert_eq!(scale(0.0, 100.0, false).ticks(5.0), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(scale(0.3, 2.9, false).ticks(5.0), [1.0, 2.0]);
        assert_eq!(scale(90.0, 1100.0, true).ticks(10.0), [100.0, 200.0, 500.0, 1000.0]);
        assert_eq!(scale(1.0, 1.0, false).ticks(5.0), [1.0]);
        assert_eq!(
            ["0", "0.5", "20k", "1.5M"],
            [0.0, 0.5, 2e4, 1.5e6].map(number).each_ref().map(String::as_str)
        );
    }

    #[test]
    fn figures_hold_no_raw_text_and_survive_odd_data() {
        let one = |data| Series { label: "<r1>".to_owned(), class: "s0".to_owned(), data };
        let svg = intervals("a \"b\"", &[one((0.5, None))], 300.0);
        assert!(svg.contains("&lt;r1&gt;") && svg.contains("a &quot;b&quot;") && !svg.contains("style="));
        for data in [vec![], vec![(1.0, 2.0)], vec![(1.0, f64::NAN), (2.0, 1.0)]] {
            let series = Series { label: String::new(), class: "s0".to_owned(), data };
            assert!(lines("loss", "step", &[series], 300.0).starts_with("<svg"));
        }
        for data in [vec![], vec![(1.0, 0.0)], vec![(10.0, 30.0), (1000.0, f64::NAN)]] {
            let series = Series { label: String::new(), class: "s0".to_owned(), data };
            assert!(curves("budget", "tokens", &[series], 300.0).starts_with("<svg"));
        }
        let bar =
            |value| Bar { label: "<b>".repeat(90), value, note: "<i>".to_owned(), is_part: value < 1.0 };
        let svg = bars("rows", &[bar(9.0), bar(0.0)], 300.0);
        assert!(!svg.contains("<b>") && !svg.contains("<i>") && !svg.contains("NaN") && svg.contains('…'));
        for data in [vec![], vec![0.0], vec![5.0, 5.0]] {
            let series = Series { label: String::new(), class: "s0".to_owned(), data };
            let svg = histogram("tokens", "tokens", &[series], 300.0);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn thinning_keeps_the_ends() {
        let points: Vec<(f64, f64)> = (0..1000).map(|i| (f64::from(i), 1.0)).collect();
        let thinned = thin(&points, 100);
        assert!(thinned.len() <= 101 && thinned.first() == points.first() && thinned.last() == points.last());
    }
}
