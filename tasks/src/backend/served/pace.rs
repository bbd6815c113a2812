//! Rate limits that a provider sells: requests and tokens per minute, kept before the provider has to enforce them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much may be sent at once after a pause, as a share of a minute.
const BURST: f64 = 1.0 / 60.0;

/// The limits of one node.
pub(super) struct Pace {
    requests: Option<Mutex<Bucket>>,
    tokens: Option<Mutex<Bucket>>,
    /// The running mean of the tokens of an answer, to guess those of the next.
    answer: Mutex<f64>,
}

/// When the next unit is due, if units come at an even pace.
struct Bucket {
    per_second: f64,
    due: Instant,
}

impl Bucket {
    fn new(per_minute: f64, now: Instant) -> Self {
        Self { per_second: per_minute / 60.0, due: now }
    }

    /// Books `amount`, and gives when it may be sent.
    fn book(&mut self, amount: f64, now: Instant) -> Instant {
        let burst = Duration::from_secs_f64(60.0 * BURST);
        let floor = now.checked_sub(burst).unwrap_or(now);
        let due = self.due.max(floor);
        self.due = due + Duration::from_secs_f64(amount / self.per_second);
        due
    }

    /// Books more, or takes back, what a guess was off by.
    fn correct(&mut self, by: f64) {
        let seconds = Duration::from_secs_f64(by.abs() / self.per_second);
        self.due =
            if by > 0.0 { self.due + seconds } else { self.due.checked_sub(seconds).unwrap_or(self.due) };
    }
}

impl Pace {
    pub(super) fn new(requests: Option<f64>, tokens: Option<f64>, most: u32, now: Instant) -> Self {
        let bucket = |limit: Option<f64>| limit.map(|limit| Mutex::new(Bucket::new(limit, now)));
        // A quarter of the longest answer, until answers are seen.
        let answer = Mutex::new(f64::from(most) / 4.0);
        Self { requests: bucket(requests), tokens: bucket(tokens), answer }
    }

    /// Books a request with so many bytes of prompt; gives when it may be sent and the tokens it was booked for.
    pub(super) fn book(&self, prompt: usize, now: Instant) -> (Instant, f64) {
        let mut due = now;
        if let Some(bucket) = &self.requests {
            due = due.max(bucket.lock().unwrap_or_else(PoisonError::into_inner).book(1.0, now));
        }
        let mut booked = 0.0;
        if let Some(bucket) = &self.tokens {
            // Four bytes to a token, the usual guess for English.
            booked = prompt as f64 / 4.0 + *self.answer.lock().unwrap_or_else(PoisonError::into_inner);
            due = due.max(bucket.lock().unwrap_or_else(PoisonError::into_inner).book(booked, now));
        }
        (due, booked)
    }

    /// Replaces the tokens a request was booked for by those it took.
    pub(super) fn settle(&self, booked: f64, input: Option<u64>, output: Option<u64>) {
        if let (Some(bucket), Some(output)) = (&self.tokens, output) {
            let taken = (input.unwrap_or(0) + output) as f64;
            bucket.lock().unwrap_or_else(PoisonError::into_inner).correct(taken - booked);
            let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
            *answer += 0.05 * (output as f64 - *answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_at_an_even_pace_after_a_burst_of_a_second() {
        let now = Instant::now();
        let pace = Pace::new(Some(600.0), None, 1000, now);
        let waits: Vec<Duration> =
            (0..30).map(|_| pace.book(100, now).0.saturating_duration_since(now)).collect();
        assert!(waits[..1].iter().all(Duration::is_zero));
        let last = waits[29].as_secs_f64();
        assert!((1.8..=2.95).contains(&last), "30 requests at 10 a second: {last}");
        // After a pause, a second's worth goes out together and no more.
        let later = now + Duration::from_mins(5);
        let together = (0..30).filter(|_| pace.book(100, later).0 <= later).count();
        assert!((10..=11).contains(&together), "{together}");
    }

    #[test]
    fn tokens_are_booked_by_guess_and_settled_by_count() {
        let now = Instant::now();
        let pace = Pace::new(None, Some(60_000.0), 4000, now);
        let (_, booked) = pace.book(400, now);
        assert!((booked - 1100.0).abs() < 1e-9);
        let (due, _) = pace.book(400, now);
        assert!((due.duration_since(now).as_secs_f64() - 1.1).abs() < 1e-3);
        pace.settle(booked, Some(100), Some(10));
        pace.settle(booked, Some(100), Some(10));
        let (due, booked) = pace.book(400, now);
        assert!(due.saturating_duration_since(now).as_secs_f64() < 0.3, "what was not taken is given back");
        assert!(booked < 1100.0, "the next guess has learned");
    }
}
