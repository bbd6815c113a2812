//! How long to wait before asking again: full jitter below a doubling bound, and never less than the server asks for.

use std::time::Duration;

use dag_engine::seed;

const BASE: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_mins(1);
/// A server that asks for more than this is not waited for: to ask it sooner would be no better than not to listen, so the
/// record fails for now, and the next run owes it.
const LONGEST_ASKED: Duration = Duration::from_mins(5);

/// Whether what the server asks for is waited for.
pub(super) fn is_bearable(asked: Option<Duration>) -> bool {
    asked.is_none_or(|asked| asked <= LONGEST_ASKED)
}

/// The waits between the attempts of one request.
pub(super) struct Backoff {
    seed: u64,
    attempt: u32,
}

impl Backoff {
    /// Waits that differ from request to request, because `seed` does.
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, attempt: 0 }
    }

    /// The next wait; at least `asked`, which is what the server asks for.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let bound = BASE.saturating_mul(1 << self.attempt.min(16)).min(LONGEST);
        let draw = seed::derive(self.seed, &[b"backoff", &self.attempt.to_le_bytes()]);
        self.attempt += 1;
        let jitter = bound.mul_f64((draw >> 11) as f64 / (1_u64 << 53) as f64);
        match asked {
            // The jitter comes on top, or everyone who was told the same would be back at the same instant.
            Some(asked) => asked + jitter.min(Duration::from_millis(50)),
            None => jitter,
        }
    }
}

/// The wait that a `Retry-After` header means. A date is read against the server's own `Date`, since clocks differ.
pub(super) fn wait_of(retry_after: &str, date: Option<&str>) -> Option<Duration> {
    let text = retry_after.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return (seconds.is_finite() && seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(1e6)));
    }
    let (then, now) = (seconds_of(text)?, seconds_of(date?.trim())?);
    Some(Duration::from_secs(u64::try_from(then - now).unwrap_or(0)))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` as seconds since 1970.
fn seconds_of(date: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = date.split_once(", ")?.1.split(' ');
    let day: i64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = i64::try_from(MONTHS.iter().position(|name| *name == month)?).ok()? + 1;
    let year: i64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if words.next() != Some("GMT") || !(1..=31).contains(&day) || !(1900..10_000).contains(&year) {
        return None;
    }
    // Days since 1970-01-01 in the proleptic Gregorian calendar, the year beginning in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_below_a_bound_that_doubles() {
        let mut different = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let mut backoff = Backoff::new(seed);
            for attempt in 0..20 {
                let wait = backoff.next(None);
                assert!(wait <= BASE.saturating_mul(1 << attempt.min(16)).min(LONGEST));
                different.insert(wait);
            }
        }
        assert!(different.len() > 900, "the waits are spread");
    }

    #[test]
    fn what_the_server_asks_for_is_kept_within_reason() {
        let mut backoff = Backoff::new(1);
        let wait = backoff.next(Some(Duration::from_secs(7)));
        assert!(wait >= Duration::from_secs(7) && wait <= Duration::from_millis(7_100));
        assert!(is_bearable(None) && is_bearable(Some(Duration::from_mins(1))));
        assert!(!is_bearable(Some(Duration::from_hours(72))));
    }

    #[test]
    fn both_forms_of_the_header_are_read() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(seconds_of(date), Some(784_111_777));
        assert_eq!(seconds_of("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
        assert_eq!(wait_of("3", None), Some(Duration::from_secs(3)));
        assert_eq!(wait_of("0.25", None), Some(Duration::from_millis(250)));
        assert_eq!(wait_of("Sun, 06 Nov 1994 08:49:47 GMT", Some(date)), Some(Duration::from_secs(10)));
        assert_eq!(wait_of(date, Some("Sun, 06 Nov 1994 08:50:00 GMT")), Some(Duration::ZERO));
        for nonsense in ["-5", "soon", "NaN", "", "Sun, 99 Foo 1994"] {
            assert_eq!(wait_of(nonsense, Some(date)), None, "{nonsense}");
        }
    }
}
