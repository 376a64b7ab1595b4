//! The schedule of reports.

use std::time::Duration;

use jiff::ToSpan;
use jiff::tz::TimeZone;

use crate::mail::{Date, SignedDuration, Timestamp};

/// How late results may reach the store.
const RESULTS_DELAY: SignedDuration = SignedDuration::from_secs(2 * 60);
/// How many days undelivered results are kept.
const RETENTION_DAYS: i32 = 7;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;

/// Seconds between attempts: about a day in all (RFC 8460 §5.5).
const RETRIES: &[i64] = &[5 * MINUTE, 15 * MINUTE, HOUR, 2 * HOUR, 4 * HOUR, 8 * HOUR, 8 * HOUR];

/// The UTC date of a time.
pub fn day_of(time: Timestamp) -> Date {
    time.to_zoned(TimeZone::UTC).date()
}

/// The oldest day whose results are kept.
pub fn oldest_retained(now: Timestamp) -> Date {
    day_of(now).saturating_sub(RETENTION_DAYS.days())
}

/// The time of the first attempt: spread over `delay_max` after the end of the day, so that not all reporters send at
/// midnight (RFC 8460 §4.1). `part` is from 0 to 1.
pub fn first_try_at(day: Date, delay_max: Duration, part: f64) -> Timestamp {
    let end = day.saturating_add(1.day()).to_zoned(TimeZone::UTC).map(|end| Timestamp::from(end.timestamp()));
    let delay = SignedDuration::try_from(delay_max.mul_f64(part.clamp(0.0, 1.0))).unwrap_or_default();
    // A day at the end of the range of dates is never reported.
    let end = end.unwrap_or(Timestamp::MAX);
    end.saturating_add(RESULTS_DELAY + delay).unwrap_or(Timestamp::MAX)
}

/// The time of the next attempt after `tries` (at least one); `None` after the last.
pub fn next_try_at(tries: usize, now: Timestamp) -> Option<Timestamp> {
    let delay = RETRIES.get(tries.checked_sub(1)?)?;
    now.checked_add(SignedDuration::from_secs(*delay)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TlsReport;

    #[test]
    fn a_report_is_sent_after_its_day_and_retried_for_a_day() {
        let hour = Duration::from_secs(3600);
        let at = |part| format!("{:.0}", first_try_at("2026-12-31".parse().unwrap(), hour, part));
        assert_eq!(at(0.0), "2027-01-01T00:02:00Z");
        assert_eq!(at(1.0), "2027-01-01T01:02:00Z");
        let begin: Timestamp = "2027-01-01T00:02:00Z".parse().unwrap();
        let mut now = begin;
        let mut tries = 1;
        while let Some(next) = next_try_at(tries, now) {
            (now, tries) = (next, tries + 1);
        }
        let hours = now.duration_since(begin).as_hours();
        assert!((20..=24).contains(&hours), "{hours}");
        assert_eq!(oldest_retained(begin).to_string(), "2026-12-25");
        let day = "2026-12-31".parse().unwrap();
        let latest = first_try_at(day, TlsReport::DELAY_MAX, 1.0);
        assert!(oldest_retained(latest + now.duration_since(begin)) <= day, "it is kept until the last try");
    }
}
