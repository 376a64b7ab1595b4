//! The retry schedule of deliveries.

use std::time::Duration;

use crate::mail::{SignedDuration, Timestamp};

/// How long mail is retried while the DNS names no host that could be dialled. Such an answer is rarely temporary: a
/// domain that was set up wrong by mistake is corrected within hours.
pub const UNROUTABLE_FOR_MAX: SignedDuration = SignedDuration::from_hours(4);

const MINUTE_S: u64 = 60;
/// Delay after the first failure, the second and so on; the last one repeats.
const DELAYS_S: [u64; 7] =
    [MINUTE_S, 5 * MINUTE_S, 15 * MINUTE_S, 30 * MINUTE_S, 60 * MINUTE_S, 120 * MINUTE_S, 180 * MINUTE_S];
/// The random part of a delay. It separates the retries of deliveries that failed together.
const JITTER: f64 = 0.1;

/// How soon a retry may succeed, which decides the first delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryPace {
    /// Within a minute: connection errors, greylisting, load.
    Brief,
    /// Within minutes.
    Usual,
    /// Not within half an hour: full mailbox, block list, wrong password.
    Slow,
}

/// A failed delivery that may be retried.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    /// Attempts so far, including this one.
    pub attempts: u32,
    /// How soon to retry.
    pub pace: RetryPace,
    /// The time of the failure.
    pub at: Timestamp,
    /// The end of the lifetime of the delivery.
    pub expires_at: Timestamp,
}

impl Failure {
    /// The time of the next attempt; `None` if it were after the lifetime. `jitter` is random, from -1 to 1.
    pub fn next_attempt_at(&self, jitter: f64) -> Option<Timestamp> {
        let seconds = self.delay_s() as f64 * (1.0 + JITTER * jitter.clamp(-1.0, 1.0));
        let next = self.at.checked_add(Duration::from_secs_f64(seconds)).ok()?;
        (next < self.expires_at).then_some(next)
    }

    fn delay_s(&self) -> u64 {
        let failures = usize::try_from(self.attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        let step = failures.saturating_add(self.pace.first_step());
        DELAYS_S[step.min(DELAYS_S.len() - 1)]
    }
}

impl RetryPace {
    fn first_step(self) -> usize {
        match self {
            Self::Brief => 0,
            Self::Usual => 1,
            Self::Slow => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY_S: i64 = 24 * 60 * 60;

    fn failure(attempts: u32, pace: RetryPace) -> Failure {
        let expires_at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(5 * DAY_S);
        Failure { attempts, pace, at: Timestamp::UNIX_EPOCH, expires_at }
    }

    fn minutes(attempts: u32, pace: RetryPace) -> i64 {
        failure(attempts, pace).next_attempt_at(0.0).unwrap().as_second() / 60
    }

    #[test]
    fn the_delays_by_attempt_and_pace() {
        let brief: Vec<i64> = (1..=9).map(|n| minutes(n, RetryPace::Brief)).collect();
        assert_eq!(brief, [1, 5, 15, 30, 60, 120, 180, 180, 180]);
        let lasting: Vec<i64> = (1..=8).map(|n| minutes(n, RetryPace::Usual)).collect();
        assert_eq!(lasting, [5, 15, 30, 60, 120, 180, 180, 180]);
        let slow: Vec<i64> = (1..=5).map(|n| minutes(n, RetryPace::Slow)).collect();
        assert_eq!(slow, [30, 60, 120, 180, 180]);
    }

    #[test]
    fn no_retry_is_scheduled_after_the_lifetime() {
        let mut late = failure(3, RetryPace::Usual);
        late.expires_at = Timestamp::UNIX_EPOCH + SignedDuration::from_mins(30);
        assert_eq!(late.next_attempt_at(0.0), None);
        assert!(late.next_attempt_at(-1.0).is_some());
        late.at = Timestamp::MAX;
        assert_eq!(late.next_attempt_at(0.0), None);
    }

    proptest! {
        #[test]
        fn the_delay_stays_within_a_tenth(attempts in 0u32.., step in 0..3usize, jitter: f64) {
            let failure = failure(attempts, [RetryPace::Brief, RetryPace::Usual, RetryPace::Slow][step]);
            let plain = failure.next_attempt_at(0.0).unwrap().as_second() as f64;
            let spread = failure.next_attempt_at(jitter).unwrap().as_second() as f64;
            prop_assert!((spread - plain).abs() <= plain * JITTER + 1.0);
        }
    }
}
