//! The clock as a value. All decisions by time read a [`Clock`]: due times, retries, expiry, pauses, back-offs, idle
//! connections, cache lifetimes, retention, regular checks. A test moves time by moving the clock.
//!
//! Time limits of network I/O ([`Deadline`], `tokio::time::timeout`) and a few measured durations use the clock of the
//! runtime, which a simulation can pause.

mod rounds;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::error::Elapsed;
use tokio::time::{sleep_until, timeout_at};

use crate::mail::Timestamp;

pub use std::time::Instant;

pub use rounds::Rounds;

impl Timestamp {
    /// The time of the system, which a [`Clock`] may be ahead of.
    pub fn now() -> Self {
        jiff::Timestamp::now().into()
    }
}

/// The wall clock and a monotonic clock, which move together.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    /// The clock of the system.
    System,
    /// It is so far ahead of that.
    Adjustable(Arc<watch::Sender<Duration>>),
    /// The clock of the runtime, with the time that it had at a moment.
    Runtime { then: Timestamp, moment: Instant },
}

impl Clock {
    /// The clock of the system.
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that [`Clock::advance`] moves. It begins with the time of the system.
    pub fn adjustable() -> Self {
        Self(Source::Adjustable(Arc::new(watch::Sender::new(Duration::ZERO))))
    }

    /// A clock that begins with this time and goes as the clock of the runtime does, which a simulation pauses.
    pub fn of_runtime(now: Timestamp) -> Self {
        Self(Source::Runtime { then: now, moment: tokio::time::Instant::now().into_std() })
    }

    /// Moves an adjustable clock and all its clones forward, and completes the sleeps that end by then. Does nothing to
    /// other clocks.
    pub fn advance(&self, by: Duration) {
        if let Source::Adjustable(ahead) = &self.0 {
            ahead.send_modify(|ahead| *ahead += by);
        }
    }

    /// The wall-clock time.
    pub fn now(&self) -> Timestamp {
        let (then, passed) = match &self.0 {
            Source::System => return Timestamp::now(),
            Source::Adjustable(ahead) => (Timestamp::now(), *ahead.borrow()),
            Source::Runtime { then, moment } => (*then, self.elapsed_since(*moment)),
        };
        then.saturating_add(passed).unwrap_or(Timestamp::MAX)
    }

    /// The monotonic time, for intervals.
    pub fn instant(&self) -> Instant {
        let now = tokio::time::Instant::now().into_std();
        match &self.0 {
            Source::System | Source::Runtime { .. } => now,
            Source::Adjustable(ahead) => now + *ahead.borrow(),
        }
    }

    /// The time that has passed since `earlier`.
    pub fn elapsed_since(&self, earlier: Instant) -> Duration {
        self.instant().saturating_duration_since(earlier)
    }

    /// Completes at a time of [`Clock::instant`].
    pub async fn sleep_until(&self, at: Instant) {
        let Source::Adjustable(ahead) = &self.0 else { return sleep_until(at.into()).await };
        let mut moved = ahead.subscribe();
        loop {
            let ahead = *moved.borrow_and_update();
            // A time before the range of the system's clock has passed.
            let Some(at) = at.checked_sub(ahead) else { return };
            tokio::select! {
                () = sleep_until(at.into()) => return,
                // `changed` cannot fail: the sender is in `self`.
                _ = moved.changed() => {}
            }
        }
    }

    /// Completes after a time.
    pub async fn sleep(&self, length: Duration) {
        self.sleep_until(self.instant() + length).await;
    }

    /// A timer that ticks at once and then one period after each tick.
    pub fn interval(&self, period: Duration) -> Interval {
        Interval { next: self.instant(), clock: self.clone(), period }
    }
}

/// A periodic timer; see [`Clock::interval`].
#[derive(Debug)]
pub struct Interval {
    clock: Clock,
    next: Instant,
    period: Duration,
}

impl Interval {
    /// Completes at the next tick. Safe to cancel.
    pub async fn tick(&mut self) {
        self.clock.sleep_until(self.next).await;
        self.next = self.clock.instant() + self.period;
    }
}

/// The end of a time limit of network I/O, on the clock of the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(tokio::time::Instant);

impl Deadline {
    /// The deadline `limit` from now.
    pub fn after(limit: Duration) -> Self {
        Self(tokio::time::Instant::now() + limit)
    }

    /// Whether it has passed.
    pub fn has_passed(self) -> bool {
        self.0 <= tokio::time::Instant::now()
    }

    /// Runs `work` until the deadline.
    ///
    /// # Errors
    /// The deadline passed before `work` completed.
    pub async fn limit<T>(self, work: impl Future<Output = T>) -> Result<T, Elapsed> {
        timeout_at(self.0, work).await
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::time::timeout;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Whether the future completes within 50 ms of real time.
    async fn completes(work: impl Future<Output = ()>) -> bool {
        timeout(Duration::from_millis(50), work).await.is_ok()
    }

    #[tokio::test]
    async fn a_moved_clock_ends_sleeps_and_moves_both_times() {
        let clock = Clock::adjustable();
        let (began, wall) = (clock.instant(), clock.now());
        let clone = clock.clone();
        let mut sleeper = pin!(clone.sleep(HOUR));
        assert!(!completes(&mut sleeper).await);
        clock.advance(HOUR / 2);
        assert!(!completes(&mut sleeper).await, "half of the time is left");
        clock.advance(HOUR / 2);
        assert!(completes(&mut sleeper).await);
        assert!(clock.elapsed_since(began) >= HOUR);
        assert!(clock.now().duration_since(wall).unsigned_abs() >= HOUR);
    }

    #[tokio::test]
    async fn an_unmoved_clock_advances_and_the_clock_of_the_system_cannot_be_moved() {
        for clock in [Clock::system(), Clock::adjustable()] {
            clock.sleep(Duration::from_millis(1)).await;
        }
        let clock = Clock::system();
        let mut sleeper = pin!(clock.sleep(HOUR));
        assert!(!completes(&mut sleeper).await);
        clock.advance(HOUR);
        assert!(!completes(&mut sleeper).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_of_the_runtime_goes_as_the_runtime_does() {
        let begin = Timestamp::from_second(1_800_000_000).unwrap();
        let clock = Clock::of_runtime(begin);
        clock.sleep(HOUR).await;
        assert_eq!(clock.now().duration_since(begin).unsigned_abs(), HOUR);
        clock.advance(HOUR);
        assert_eq!(clock.now().duration_since(begin).unsigned_abs(), HOUR);
    }

    #[tokio::test]
    async fn an_interval_ticks_at_once_and_does_not_repeat_missed_ticks() {
        let clock = Clock::adjustable();
        let mut interval = clock.interval(HOUR);
        for (moved, is_due) in
            [(Duration::ZERO, true), (HOUR / 2, false), (HOUR * 5, true), (HOUR / 2, false)]
        {
            clock.advance(moved);
            assert_eq!(completes(interval.tick()).await, is_due, "{moved:?}");
            assert!(!completes(interval.tick()).await, "{moved:?}");
        }
    }
}
