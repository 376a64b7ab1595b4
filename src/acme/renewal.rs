//! When a certificate is renewed. Pure.

use std::time::Duration;

use crate::mail::{SignedDuration, Timestamp};

const HOUR: Duration = Duration::from_secs(60 * 60);
/// The pause after a first failure, and the longest one.
const PAUSE_MIN: Duration = HOUR;
const PAUSE_MAX: Duration = Duration::from_secs(12 * 60 * 60);
/// The longest pause that an authority may ask for.
const ASKED_PAUSE_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The life of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

/// The time in which the authority wants it to be renewed (RFC 9773).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    start: Timestamp,
    end: Timestamp,
}

impl Window {
    /// Of times in seconds after 1970. `None` if it does not end after its start (RFC 9773 §4.2).
    pub fn new(start: i64, end: i64) -> Option<Self> {
        let (start, end) = (Timestamp::from_second(start).ok()?, Timestamp::from_second(end).ok()?);
        (start < end).then_some(Self { start, end })
    }
}

impl Life {
    /// When the certificate is renewed: at `place` of the window, a fraction that is drawn once, or at two thirds of its life.
    /// Nine tenths of its life is the end, whatever the window says.
    pub fn renew_at(self, window: Option<Window>, place: f64) -> Timestamp {
        let life = self.not_after.duration_since(self.not_before).as_secs();
        let latest = after(self.not_before, life / 10 * 9);
        match window {
            None => after(self.not_before, life / 3 * 2),
            Some(Window { start, end }) => {
                let length = end.duration_since(start).as_secs() as f64;
                after(start, (length * place) as i64).min(latest)
            }
        }
    }
}

/// The pause after so many failures in a row: longer each time, with a spread of a tenth, or as long as the authority asked for.
pub(super) fn pause_after(failures: u32, asked: Option<Duration>, place: f64) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    let pause = PAUSE_MIN.saturating_mul(doubled).min(PAUSE_MAX).mul_f64(0.9 + place / 5.0);
    asked.map_or(pause, |asked| asked.clamp(PAUSE_MIN, ASKED_PAUSE_MAX))
}

fn after(at: Timestamp, seconds: i64) -> Timestamp {
    at.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn day(day: i64) -> Timestamp {
        Timestamp::from_second(day * DAY).unwrap()
    }

    #[test]
    fn the_window_decides_and_else_two_thirds_of_life() {
        let life = Life { not_before: day(0), not_after: day(90) };
        let window = |start: i64, end: i64| Window::new(start * DAY, end * DAY);
        for (window, place, expected) in [
            (None, 0.0, 60),
            (None, 1.0, 60),
            (window(50, 60), 0.0, 50),
            (window(50, 60), 0.5, 55),
            (window(50, 60), 1.0, 60),
            // The authority revokes it.
            (window(-3, -1), 0.5, -2),
            // An authority that is wrong does not let it end.
            (window(88, 200), 0.9, 81),
        ] {
            assert_eq!(life.renew_at(window, place), day(expected), "{window:?} {place}");
        }
        assert_eq!((window(60, 60), window(60, 50)), (None, None));
        let short = Life { not_before: day(0), not_after: day(6) };
        assert_eq!(short.renew_at(None, 0.5), day(4));
    }

    #[test]
    fn tries_become_rarer_up_to_twelve_hours() {
        let hours = |failures, asked: Option<u64>| {
            pause_after(failures, asked.map(|hours| HOUR * hours as u32), 0.5).as_secs_f64() / 3600.0
        };
        let pauses: Vec<f64> = (1..=6).map(|failures| hours(failures, None).round()).collect();
        assert_eq!(pauses, [1.0, 2.0, 4.0, 8.0, 12.0, 12.0]);
        assert_eq!(hours(u32::MAX, None).round(), 12.0);
        assert_eq!((hours(1, Some(0)), hours(1, Some(30)), hours(5, Some(1000))), (1.0, 30.0, 168.0));
        assert!(pause_after(1, None, 0.0) < HOUR && pause_after(1, None, 1.0) > HOUR);
    }
}
