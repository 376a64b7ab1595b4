//! Counts usage per key in fixed windows, such as minutes or days. A window starts for all keys at the same time, so
//! its end is known exactly; at its end all counts are discarded.

use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroU32;

use crate::mail::Timestamp;
use crate::model::LimitPeriod;

/// Usage in the current window, by key. Limits are passed by the caller and may change at any time.
#[derive(Debug)]
pub struct FixedWindow<K> {
    period: LimitPeriod,
    ends_at: Timestamp,
    used: HashMap<K, u64>,
}

/// The state of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaStatus {
    /// The limit per window.
    pub limit: u64,
    /// The usage.
    pub used: u64,
    /// The end of the window.
    pub resets_at: Timestamp,
}

/// Whole seconds until a time, at least one.
pub fn seconds_until(time: Timestamp, now: Timestamp) -> NonZeroU32 {
    let left_ms = u64::try_from(time.duration_since(now).as_millis()).unwrap_or(0);
    let left_s = u32::try_from(left_ms.div_ceil(1000)).unwrap_or(u32::MAX);
    NonZeroU32::new(left_s).unwrap_or(NonZeroU32::MIN)
}

impl QuotaStatus {
    /// The remaining quota.
    pub fn remaining(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    /// Whole seconds until the window ends, at least one.
    pub fn seconds_to_reset(&self, now: Timestamp) -> NonZeroU32 {
        seconds_until(self.resets_at, now)
    }

    /// Used percentage of the limit, rounded down.
    pub fn percent(&self) -> u64 {
        self.used.saturating_mul(100).checked_div(self.limit).unwrap_or(100)
    }
}

impl<K: Eq + Hash> FixedWindow<K> {
    /// No usage.
    pub fn new(period: LimitPeriod) -> Self {
        Self { period, ends_at: Timestamp::MIN, used: HashMap::new() }
    }

    /// The state of a limit for a key.
    pub fn status(&mut self, user: &K, limit: u64, now: Timestamp) -> QuotaStatus {
        self.roll_over(now);
        QuotaStatus { limit, used: self.used.get(user).copied().unwrap_or(0), resets_at: self.ends_at }
    }

    /// Adds usage without a check of the limit.
    pub fn take(&mut self, user: K, count: u64, now: Timestamp) {
        self.roll_over(now);
        let used = self.used.entry(user).or_default();
        *used = used.saturating_add(count);
    }

    /// Subtracts usage that was added at a time, unless that window is over; returns whether it is not.
    pub fn release(&mut self, user: &K, count: u64, taken_at: Timestamp) -> bool {
        let is_current = self.is_current(taken_at);
        if is_current && let Some(used) = self.used.get_mut(user) {
            *used = used.saturating_sub(count);
        }
        is_current
    }

    /// The number of keys with usage, also if their window is over.
    pub fn key_count(&self) -> usize {
        self.used.len()
    }

    /// Whether any usage of a key is known in this window.
    pub fn contains(&mut self, user: &K, now: Timestamp) -> bool {
        self.roll_over(now);
        self.used.contains_key(user)
    }

    /// Sets the initial usage of a key from before this process, unless known already.
    pub fn preload(&mut self, user: K, used: u64, now: Timestamp) {
        self.roll_over(now);
        self.used.entry(user).or_insert(used);
    }

    /// Sets the usage of a key, which other processes change too.
    pub fn set(&mut self, user: K, used: u64, now: Timestamp) {
        self.roll_over(now);
        self.used.insert(user, used);
    }

    /// The end of the window in which usage at a time is counted.
    pub fn ends_at(&mut self, now: Timestamp) -> Timestamp {
        self.roll_over(now);
        self.ends_at
    }

    /// Removes the usage of a key, so that it must be preloaded again.
    pub fn forget(&mut self, user: &K) {
        self.used.remove(user);
    }

    fn is_current(&self, time: Timestamp) -> bool {
        self.period.end_of(time) == self.ends_at
    }

    /// Starts the window of `now`, if it differs. A time in the previous window is counted in the current one: the
    /// caller read the clock just before the window started. A time further back means that the clock was set.
    fn roll_over(&mut self, now: Timestamp) {
        let ends_at = self.period.end_of(now);
        let late_s = self.ends_at.duration_since(ends_at).as_secs();
        if late_s != 0 && late_s != self.period.seconds() {
            *self = Self { ends_at, ..Self::new(self.period) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn each_key_is_counted_separately_and_all_reset_with_the_window() {
        let now = at("2026-11-22T05:42:27Z");
        let mut minute = FixedWindow::new(LimitPeriod::Minute);
        minute.take("a", 3, now);
        let status = minute.status(&"a", 5, now);
        assert_eq!((status.used, status.remaining()), (3, 2));
        assert_eq!(status.resets_at, at("2026-11-22T05:43:00Z"));
        assert_eq!(status.seconds_to_reset(at("2026-11-22T05:42:27.5Z")).get(), 33);
        assert_eq!(minute.status(&"b", 5, now).remaining(), 5);
        assert_eq!(minute.status(&"a", 2, now).remaining(), 0);
        let next = at("2026-11-22T05:43:00Z");
        assert_eq!(minute.status(&"a", 5, next).remaining(), 5);
        assert!(!minute.contains(&"a", next));
    }

    #[test]
    fn a_release_counts_for_its_own_window_only() {
        let (first, second) = (at("2026-11-22T23:59:59Z"), at("2026-11-23T00:00:00Z"));
        let mut day = FixedWindow::new(LimitPeriod::Day);
        day.take("a", 3, first);
        day.release(&"a", 2, first);
        assert_eq!(day.status(&"a", 5, first).used, 1);
        day.take("a", 4, second);
        day.release(&"a", 1, first);
        assert_eq!(day.status(&"a", 5, second).used, 4);
    }

    #[test]
    fn a_late_caller_does_not_restore_the_old_window_but_a_clock_change_does() {
        let (late, now) = (at("2026-11-22T05:42:59.9Z"), at("2026-11-22T05:43:00Z"));
        let mut minute = FixedWindow::new(LimitPeriod::Minute);
        minute.take("a", 3, now);
        minute.take("a", 1, late);
        assert_eq!(minute.status(&"a", 5, now).used, 4);
        assert_eq!(minute.status(&"a", 5, at("2026-11-22T04:00:00Z")).used, 0);
    }

    #[test]
    fn earlier_usage_is_preloaded_once() {
        let now = at("2026-11-22T05:42:27Z");
        let mut day = FixedWindow::new(LimitPeriod::Day);
        assert!(!day.contains(&"a", now));
        day.preload("a", 7, now);
        day.take("a", 1, now);
        day.preload("a", 7, now);
        assert_eq!(
            day.status(&"a", 10, now),
            QuotaStatus { limit: 10, used: 8, resets_at: at("2026-11-23T00:00:00Z") }
        );
        assert_eq!(day.status(&"a", 10, now).percent(), 80);
    }
}
