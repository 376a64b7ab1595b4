//! The retry schedule of webhooks.

use std::time::Duration;

use crate::mail::{SignedDuration, Timestamp};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// Delays between attempts: about three days in all.
pub const RETRIES: &[Duration] = &[
    Duration::from_secs(5),
    Duration::from_secs(5 * MINUTE),
    Duration::from_secs(30 * MINUTE),
    Duration::from_secs(2 * HOUR),
    Duration::from_secs(5 * HOUR),
    Duration::from_secs(10 * HOUR),
    Duration::from_secs(14 * HOUR),
    Duration::from_secs(20 * HOUR),
    Duration::from_secs(24 * HOUR),
];

/// Maximum of the random part of a delay. It separates the retries of requests that failed together.
const JITTER_MAX: f64 = 0.1;

/// The time of the next attempt after `attempts` (at least one), the last of which failed at `now`. `None` after the
/// last. `jitter` is from 0 to 1.
pub fn next_attempt_at(
    retries: &[Duration],
    attempts: u32,
    now: Timestamp,
    jitter: f64,
) -> Option<Timestamp> {
    let failures = usize::try_from(attempts).unwrap_or(usize::MAX);
    let delay = retries.get(failures.checked_sub(1)?)?;
    let delay = delay.mul_f64(1.0 + JITTER_MAX * jitter.clamp(0.0, 1.0));
    now.checked_add(SignedDuration::try_from(delay).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_delay_is_the_documented_one_or_up_to_a_tenth_longer_and_the_schedule_ends(
            attempts in 1_u32..20, second in 0_i64..10_000_000_000, jitter in 0.0_f64..=1.0,
        ) {
            let hours = |hours: f64| hours * 3600.0;
            let documented = [
                5.0, 300.0, 1800.0, hours(2.0), hours(5.0), hours(10.0), hours(14.0), hours(20.0), hours(24.0),
            ];
            let now = Timestamp::from_second(second).unwrap();
            let next = next_attempt_at(RETRIES, attempts, now, jitter);
            match documented.get(attempts as usize - 1) {
                None => prop_assert_eq!(next, None),
                Some(delay) => {
                    let waited = next.unwrap().duration_since(now).as_secs_f64();
                    prop_assert!(waited >= *delay && waited <= delay * 1.1 + 0.001, "{waited} of {delay}");
                }
            }
        }
    }
}
