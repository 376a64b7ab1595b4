//! After a start or a jump of the clock, mail may have reached the end of its lifetime without a chance of an attempt. For
//! some time such mail is attempted before it expires.

use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::{Clock, Instant};
use crate::mail::{SignedDuration, Timestamp};

/// For how long. Mail whose site does not become available within this time expires without an attempt, as it does
/// during a long back-off.
const CATCH_UP: Duration = Duration::from_secs(60 * 60);
/// How much further than the monotonic clock the wall clock must have moved. Corrections of the time are smaller; a
/// suspended machine or a clock that was set is ahead by more.
const JUMP_MIN: SignedDuration = SignedDuration::from_mins(1);

/// Whether the server catches up.
pub struct CatchUp {
    clock: Clock,
    observed: Mutex<Observed>,
}

/// The clocks at the last look.
struct Observed {
    wall: Timestamp,
    monotonic: Instant,
    /// The start of the server, or the last jump.
    since: Instant,
}

impl CatchUp {
    /// Begins at the start of the server.
    pub fn new(clock: Clock) -> Self {
        let (wall, monotonic) = (clock.now(), clock.instant());
        Self { clock, observed: Mutex::new(Observed { wall, monotonic, since: monotonic }) }
    }

    /// Whether mail whose lifetime has ended is still attempted.
    pub fn is_active(&self) -> bool {
        let (wall, monotonic) = (self.clock.now(), self.clock.instant());
        self.observed.lock().look(wall, monotonic)
    }
}

impl Observed {
    fn look(&mut self, wall: Timestamp, monotonic: Instant) -> bool {
        let passed = monotonic.saturating_duration_since(self.monotonic);
        let passed = SignedDuration::try_from(passed).unwrap_or(SignedDuration::MAX);
        let ahead = wall.duration_since(self.wall).saturating_sub(passed);
        if ahead > JUMP_MIN {
            tracing::warn!(
                seconds = ahead.as_secs(),
                "the clock jumped forward: mail that could not be attempted before the end of its lifetime is attempted once"
            );
            self.since = monotonic;
        }
        (self.wall, self.monotonic) = (wall, monotonic);
        monotonic.saturating_duration_since(self.since) < CATCH_UP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_and_a_jump_of_the_clock_are_followed_by_a_time_of_catching_up() {
        let (wall, monotonic) = (Timestamp::UNIX_EPOCH, Clock::system().instant());
        let mut observed = Observed { wall, monotonic, since: monotonic };
        let hours = |number: u32| CATCH_UP * number;
        let mut look = |wall_hours, monotonic_hours| {
            observed.look(wall + hours(wall_hours), monotonic + hours(monotonic_hours))
        };
        assert!(look(0, 0));
        assert!(!look(1, 1), "it has caught up");
        assert!(!look(100, 100), "an idle server is no jump");
        assert!(look(105, 100), "the clock was set");
        assert!(!look(106, 101));
        assert!(!look(6, 102), "a jump back ends no lifetime");
        assert!(look(110, 103));
    }
}
