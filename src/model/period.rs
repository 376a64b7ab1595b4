//! Periods of usage and limits, aligned in UTC.

use super::{LimitPeriod, UsageInterval};
use crate::mail::Timestamp;

const MINUTE_S: i64 = 60;
const HOUR_S: i64 = 60 * MINUTE_S;
const DAY_S: i64 = 24 * HOUR_S;

impl UsageInterval {
    /// Its length in seconds.
    pub const fn seconds(self) -> i64 {
        match self {
            Self::Hour => HOUR_S,
            Self::Day => DAY_S,
        }
    }

    /// The start of the interval that contains a time.
    pub fn start_of(self, time: Timestamp) -> Timestamp {
        second(start_s(time, self.seconds()))
    }
}

impl LimitPeriod {
    /// Its length in seconds.
    pub const fn seconds(self) -> i64 {
        match self {
            Self::Minute => MINUTE_S,
            Self::Hour => HOUR_S,
            Self::Day => DAY_S,
        }
    }

    /// The start of the period that contains a time.
    pub fn start_of(self, time: Timestamp) -> Timestamp {
        second(start_s(time, self.seconds()))
    }

    /// The end of the period that contains a time, which is the start of the next.
    pub fn end_of(self, time: Timestamp) -> Timestamp {
        second(start_s(time, self.seconds()) + self.seconds())
    }
}

/// Unix time has no leap seconds, so every period has the same length.
fn start_s(time: Timestamp, span_s: i64) -> i64 {
    time.as_second().div_euclid(span_s) * span_s
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_aligned_in_utc() {
        let time: Timestamp = "2026-11-22T05:42:27.5Z".parse().unwrap();
        let is = |found: Timestamp, expected: &str| assert_eq!(format!("{found:.0}"), expected);
        is(UsageInterval::Hour.start_of(time), "2026-11-22T05:00:00Z");
        is(UsageInterval::Day.start_of(time), "2026-11-22T00:00:00Z");
        is(LimitPeriod::Minute.start_of(time), "2026-11-22T05:42:00Z");
        is(LimitPeriod::Minute.end_of(time), "2026-11-22T05:43:00Z");
        is(LimitPeriod::Day.end_of(time), "2026-11-23T00:00:00Z");
        let midnight = LimitPeriod::Day.end_of(time);
        assert_eq!(LimitPeriod::Day.start_of(midnight), midnight);
    }
}
