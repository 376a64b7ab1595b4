//! Whether a site has a bad day: it says of many addresses that they are gone, though they took mail a short time ago.

use std::collections::{HashSet, VecDeque};

use crate::mail::{SignedDuration, Timestamp};

/// An address lives if it took mail within this time.
pub const TOOK_MAIL_WITHIN: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The time over which results count.
const WINDOW: SignedDuration = SignedDuration::from_hours(1);
/// Results are counted by parts of the window.
const BUCKET_SECONDS: i64 = 300;
/// Living addresses that must be reported as gone.
pub const GONE_MIN: u64 = 20;
/// One in so many results must be such an address.
const RESULTS_PER_GONE_MAX: u64 = 10;
/// Maximum number of addresses of a site that are counted once each. Further ones are counted each time.
const DISTINCT_MAX: usize = 1_000;
/// How long a site stays suspicious after it was last found to be.
const SUSPICIOUS_FOR: SignedDuration = SignedDuration::from_hours(1);
/// A suspicion is renewed when it would end within this time.
const RENEWED_BEFORE_END: SignedDuration = SignedDuration::from_mins(30);

/// The results of deliveries at a site in the last hour.
#[derive(Debug, Default)]
pub struct SiteBounces {
    buckets: VecDeque<Bucket>,
    suspicious_until: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Bucket {
    number: i64,
    results: u64,
    gone: u64,
    /// Hashes of the addresses that `gone` counts.
    addresses: HashSet<u64>,
}

/// Why a site is suspicious.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspicion {
    /// Living addresses that the site reported as gone.
    pub gone: u64,
    /// All results at the site.
    pub results: u64,
    /// The beginning of the time in which they were counted.
    pub since: Timestamp,
    /// The end of the suspicion.
    pub until: Timestamp,
}

impl SiteBounces {
    /// Counts final results: delivered or refused.
    pub fn note_results(&mut self, count: u64, now: Timestamp) {
        self.bucket(now).results += count;
    }

    /// Counts a living address that was reported as gone, once. Its result is counted by [`SiteBounces::note_results`].
    pub fn note_gone(&mut self, address_hash: u64, now: Timestamp) {
        if self.buckets.iter().any(|bucket| bucket.addresses.contains(&address_hash)) {
            return;
        }
        let known: usize = self.buckets.iter().map(|bucket| bucket.addresses.len()).sum();
        let bucket = self.bucket(now);
        bucket.gone += 1;
        if known < DISTINCT_MAX {
            bucket.addresses.insert(address_hash);
        }
    }

    /// The suspicion, if the site is suspicious and it is new or has to be renewed.
    pub fn suspect(&mut self, now: Timestamp) -> Option<Suspicion> {
        self.forget(now);
        let gone: u64 = self.buckets.iter().map(|bucket| bucket.gone).sum();
        let results: u64 = self.buckets.iter().map(|bucket| bucket.results).sum();
        if gone < GONE_MIN || gone.saturating_mul(RESULTS_PER_GONE_MAX) < results {
            return None;
        }
        if self.suspicious_until.is_some_and(|until| until.duration_since(now) > RENEWED_BEFORE_END) {
            return None;
        }
        let until = now.checked_add(SUSPICIOUS_FOR).unwrap_or(Timestamp::MAX);
        self.suspicious_until = Some(until);
        let since = now.checked_sub(WINDOW).unwrap_or(Timestamp::MIN);
        Some(Suspicion { gone, results, since, until })
    }

    /// The suspicion could not be written: the next result finds it again.
    pub fn forget_suspicion(&mut self) {
        self.suspicious_until = None;
    }

    /// Whether nothing was counted in the last hour.
    pub fn is_idle(&mut self, now: Timestamp) -> bool {
        self.forget(now);
        self.buckets.is_empty()
    }

    fn bucket(&mut self, now: Timestamp) -> &mut Bucket {
        self.forget(now);
        let number = number_of(now);
        if self.buckets.back().is_none_or(|last| last.number < number) {
            self.buckets.push_back(Bucket { number, ..Bucket::default() });
        }
        let last = self.buckets.len() - 1;
        &mut self.buckets[last]
    }

    fn forget(&mut self, now: Timestamp) {
        // A clock that went back leaves results of the future.
        let is_near =
            |bucket: &Bucket| (number_of(now) - bucket.number).abs() < WINDOW.as_secs() / BUCKET_SECONDS;
        self.buckets.retain(is_near);
    }
}

fn number_of(time: Timestamp) -> i64 {
    time.as_second().div_euclid(BUCKET_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    /// One address a minute, each with so many results.
    fn site(addresses: u64, results_of_each: u64) -> SiteBounces {
        let mut site = SiteBounces::default();
        for number in 0..addresses {
            let now = at(60 * number as i64);
            site.note_results(results_of_each, now);
            site.note_gone(number, now);
        }
        site
    }

    #[test]
    fn twenty_living_addresses_that_are_a_tenth_of_the_results_make_a_site_suspicious() {
        let now = at(20 * 60);
        for (addresses, results, expected) in [(19, 1, None), (20, 10, Some((20, 200))), (20, 11, None)] {
            let found = site(addresses, results).suspect(now);
            assert_eq!(found.map(|found| (found.gone, found.results)), expected, "{addresses} {results}");
        }
    }

    #[test]
    fn the_same_address_counts_once_and_an_hour_later_not_at_all() {
        let mut repeated = SiteBounces::default();
        for _ in 0..40 {
            repeated.note_results(1, at(0));
            repeated.note_gone(7, at(0));
        }
        assert_eq!(repeated.suspect(at(0)), None);
        let mut slow = SiteBounces::default();
        for number in 0..40 {
            let now = at(200 * number as i64);
            slow.note_results(1, now);
            slow.note_gone(number, now);
            assert_eq!(slow.suspect(now), None, "20 in 66 minutes");
        }
        assert!(site(20, 1).suspect(at(20 * 60)).is_some());
        assert_eq!(site(20, 1).suspect(at(3600 + 600)), None);
        assert!(!site(1, 1).is_idle(at(60)) && site(1, 1).is_idle(at(3600)));
    }

    #[test]
    fn a_suspicion_is_renewed_while_the_site_goes_on_and_found_again_if_it_was_not_written() {
        let mut site = site(40, 1);
        let first = site.suspect(at(2400)).unwrap();
        assert_eq!(first.until, at(6000));
        assert_eq!(first.since, at(-1200));
        assert_eq!(site.suspect(at(2401)), None);
        site.forget_suspicion();
        assert_eq!(site.suspect(at(2402)).unwrap().until, at(6002));
        for number in 100..140 {
            site.note_results(1, at(4400));
            site.note_gone(number, at(4400));
        }
        assert_eq!(site.suspect(at(4400)).unwrap().until, at(8000));
    }

    #[test]
    fn memory_is_bounded_and_counting_goes_on() {
        let mut site = SiteBounces::default();
        for number in 0..5_000 {
            site.note_results(1, at(0));
            site.note_gone(number, at(0));
        }
        assert_eq!(site.buckets[0].addresses.len(), DISTINCT_MAX);
        assert_eq!(site.suspect(at(0)).unwrap().gone, 5_000);
    }
}
