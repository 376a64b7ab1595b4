//! The place of a test in the calendar: what is counted by minute, hour, day or month must not start again during it.

use jiff::ToSpan;
use jiff::tz::TimeZone;
use pillarbox::clock::Clock;

/// Moves the clock to the start of the next month in UTC, where a minute, an hour and a day start too.
pub fn advance_to_next_month(clock: &Clock) {
    let now = clock.now().to_zoned(TimeZone::UTC);
    let next = now.first_of_month().unwrap().start_of_day().unwrap().checked_add(1.month()).unwrap();
    clock.advance(now.duration_until(&next).unsigned_abs());
}
