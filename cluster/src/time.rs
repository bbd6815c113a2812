//! Spans of time as options write them.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A span of time: seconds, or a number with `s`, `m`, `h` or `d`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Time {
    /// Seconds.
    Seconds(u32),
    /// A number with its unit.
    Text(String),
}

impl Time {
    /// The span; none where it is not one.
    pub(crate) fn span(&self) -> Option<Duration> {
        let (number, unit) = match self {
            Self::Seconds(seconds) => return Some(Duration::from_secs((*seconds).into())),
            Self::Text(text) => text.split_at_checked(text.len().checked_sub(1)?)?,
        };
        let factor = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86400,
            _ => return None,
        };
        number.trim().parse::<u64>().ok()?.checked_mul(factor).map(Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time() {
        let span = |text: &str| Time::Text(text.to_owned()).span().map(|span| span.as_secs());
        assert_eq!(
            [span("90s"), span("3m"), span("2h"), span("1d")],
            [Some(90), Some(180), Some(7200), Some(86400)]
        );
        assert_eq!([span(""), span("m"), span("1w"), span("-1s"), span("1ß")], [None; 5]);
    }
}
