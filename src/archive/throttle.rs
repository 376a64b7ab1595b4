//! How fast a backup works. It rests between pieces of its work, so that the server beside it keeps the disk and the processor.

use std::io::{Read, Result};
use std::ops::ControlFlow;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// With [`Pace::Resting`], a rest is so many times as long as the work before it.
const REST_FACTOR: u32 = 2;
/// Maximum of such a rest. Work takes long also because the processor is busy with other programs, and that needs no rest: the
/// write-ahead log would only grow for longer.
const REST_MAX: Duration = Duration::from_millis(250);
/// Shorter rests are added up, because a timer is not that exact.
const REST_MIN: Duration = Duration::from_millis(10);
/// How often a long rest asks whether to go on.
const ASK_INTERVAL: Duration = Duration::from_millis(250);

/// How fast a backup works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// It rests twice as long as it works.
    Resting,
    /// It reads at most so many octets a second.
    Rate(u64),
    /// It never rests.
    Unlimited,
}

impl Pace {
    /// The pace for the octets a second that were asked for; 0 are unlimited.
    pub fn of_rate(rate: Option<u64>) -> Self {
        match rate {
            None => Self::Resting,
            Some(0) => Self::Unlimited,
            Some(rate) => Self::Rate(rate),
        }
    }

    /// The rest after a piece of work.
    fn rest_after(self, worked: Duration, octets: u64) -> Duration {
        match self {
            Self::Resting => worked.saturating_mul(REST_FACTOR).min(REST_MAX),
            Self::Rate(rate) => {
                let due = Duration::try_from_secs_f64(octets as f64 / rate as f64);
                due.unwrap_or(Duration::MAX).saturating_sub(worked)
            }
            Self::Unlimited => Duration::ZERO,
        }
    }
}

/// Makes a backup rest.
pub(super) struct Throttle {
    pace: Pace,
    /// The end of the last rest.
    resumed: Instant,
    /// What was read since then.
    octets: u64,
}

impl Throttle {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, resumed: Instant::now(), octets: 0 }
    }

    /// Rests, after so many octets were read. Asks at the end and often during a long rest whether to go on.
    pub(super) fn rest(
        &mut self,
        octets: u64,
        mut may_go_on: impl FnMut() -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.octets += octets;
        let mut left = self.pace.rest_after(self.resumed.elapsed(), self.octets);
        if left < REST_MIN {
            return may_go_on();
        }
        while !left.is_zero() {
            let part = left.min(ASK_INTERVAL);
            sleep(part);
            left -= part;
            may_go_on()?;
        }
        (self.resumed, self.octets) = (Instant::now(), 0);
        ControlFlow::Continue(())
    }
}

/// A file that is read with rests.
pub(super) struct Throttled<'a, R> {
    pub(super) from: R,
    pub(super) throttle: &'a mut Throttle,
}

impl<R: Read> Read for Throttled<'_, R> {
    fn read(&mut self, piece: &mut [u8]) -> Result<usize> {
        let read = self.from.read(piece)?;
        let _ = self.throttle.rest(read as u64, || ControlFlow::Continue(()));
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_rests_twice_as_long_as_it_works_unless_a_rate_is_given() {
        let rest = |rate, worked, octets| {
            Pace::of_rate(rate).rest_after(Duration::from_millis(worked), octets).as_millis()
        };
        assert_eq!(rest(None, 100, 7), 200);
        assert_eq!(rest(None, 1000, 7), 250, "what the processor did for others needs no rest");
        assert_eq!(rest(Some(1000), 100, 500), 400);
        assert_eq!(rest(Some(1000), 100, 50), 0, "it is late already");
        assert_eq!(rest(Some(0), 100, 500), 0, "0 is unlimited");
    }

    #[test]
    fn a_long_rest_asks_whether_to_go_on() {
        let mut asked = 0;
        let mut throttle = Throttle::new(Pace::Rate(1));
        let ended = throttle.rest(60, || {
            asked += 1;
            if asked == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(ended.is_break() && asked == 2);
    }
}
