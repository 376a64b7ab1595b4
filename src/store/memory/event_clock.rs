//! Ids of events.

use parking_lot::Mutex;
use ulid::Ulid;

use crate::mail::Timestamp;
use crate::model::EventId;

/// Generates strictly growing ids, also within a millisecond and when the system clock goes back. The lanes of a process share
/// it, so the ids of a lane grow too.
pub(in crate::store) struct EventClock(Mutex<u128>);

impl EventClock {
    /// Continues after an id.
    pub(in crate::store) fn behind(last: u128) -> Self {
        Self(Mutex::new(last))
    }

    /// The last generated id.
    pub(in crate::store) fn last(&self) -> u128 {
        *self.0.lock()
    }

    pub(in crate::store) fn next(&self, now: Timestamp) -> Ulid {
        let fresh = u128::from(Ulid::from(EventId::generate(now)));
        let mut last = self.0.lock();
        *last = if fresh >> 80 > *last >> 80 { fresh } else { last.saturating_add(1) };
        Ulid::from(*last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_within_a_millisecond_and_when_the_clock_goes_back() {
        let clock = EventClock::behind(0);
        let late = Timestamp::from_second(1_000).unwrap();
        let early = Timestamp::from_second(999).unwrap();
        let ids = [late, late, early, late].map(|at| clock.next(at));
        assert!(ids.is_sorted() && ids[0] != ids[1] && ids[2] != ids[3]);
    }
}
