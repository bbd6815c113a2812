//! `Meter`: what a running task has told, summed up until the run loop looks.
//!
//! A task may tell of every record; the loop looks a few times a second. Totals, not differences, leave it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::context::Note;
use crate::event::{Counts, Point};

/// Sums up the notes of one task, from any thread.
#[derive(Debug, Default)]
pub(crate) struct Meter(Mutex<News>);

/// What is new since the last look.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Totals, not only of what is new.
    pub(crate) counts: Counts,
    pub(crate) message: Option<String>,
    pub(crate) points: Vec<Point>,
    pub(crate) warnings: Vec<String>,
    any: bool,
}

impl Meter {
    /// Takes note.
    pub(crate) fn note(&self, note: Note) {
        let mut news = self.lock();
        news.any = true;
        let counts = &mut news.counts;
        match note {
            Note::Total { records } => counts.total = Some(records),
            Note::Done { records } => counts.done += records,
            Note::Reused { records } => counts.reused += records,
            Note::Tokens { input, output } => {
                counts.input_tokens += input;
                counts.output_tokens += output;
            }
            Note::Spent { millionths } => {
                counts.spent += millionths;
                counts.spent_squares =
                    counts.spent_squares.saturating_add(millionths.saturating_mul(millionths));
            }
            Note::Saved { millionths } => counts.saved += millionths,
            Note::Failed { kind } => *counts.failures.entry(kind).or_default() += 1,
            Note::Message { text } => news.message = Some(text),
            Note::Point { series, x, y } => {
                let finite = |number: f64| number.is_finite().then_some(number);
                news.points.push(Point { series, x: finite(x), y: finite(y) });
            }
            Note::Warning { text } => news.warnings.push(text),
        }
    }

    /// What is new since the last call, if anything is.
    pub(crate) fn news(&self) -> Option<News> {
        let mut news = self.lock();
        if !news.any {
            return None;
        }
        let next = News { counts: news.counts.clone(), ..News::default() };
        Some(std::mem::replace(&mut news, next))
    }

    /// The totals by now.
    pub(crate) fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }

    /// Forgets the counts: another attempt begins, which counts from nothing.
    pub(crate) fn restart(&self) {
        self.lock().counts = Counts::default();
    }

    fn lock(&self) -> MutexGuard<'_, News> {
        // Every change is whole before anything could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
