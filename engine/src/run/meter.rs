//! `Meter`: what a running task has told, summed up until the run loop looks.
//!
//! A task may tell of every record; the loop looks a few times a second. Totals, not differences, leave it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::context::Note;
use crate::event::{Counts, News, Point};

/// Sums up the notes of one task, from any thread.
#[derive(Debug, Default)]
pub struct Meter(Mutex<Told>);

/// What was told since the last look.
#[derive(Debug, Default)]
struct Told {
    news: News,
    any: bool,
}

impl Meter {
    /// Takes note.
    pub fn note(&self, note: Note) {
        let mut told = self.lock();
        told.any = true;
        let news = &mut told.news;
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
    pub fn news(&self) -> Option<News> {
        let mut told = self.lock();
        if !told.any {
            return None;
        }
        told.any = false;
        let next = News { counts: told.news.counts.clone(), ..News::default() };
        Some(std::mem::replace(&mut told.news, next))
    }

    /// Takes over what a worker elsewhere has told; its counts are totals already.
    pub(crate) fn take(&self, news: News) {
        let mut told = self.lock();
        told.any = true;
        told.news.counts = news.counts;
        told.news.message = news.message.or(told.news.message.take());
        told.news.points.extend(news.points);
        told.news.warnings.extend(news.warnings);
    }

    /// The totals by now.
    pub fn counts(&self) -> Counts {
        self.lock().news.counts.clone()
    }

    /// Forgets the counts: another attempt begins, which counts from nothing.
    pub(crate) fn restart(&self) {
        self.lock().news.counts = Counts::default();
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        // Every change is whole before anything could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
