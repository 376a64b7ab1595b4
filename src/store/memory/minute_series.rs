//! Usage by minute of the last 24 hours, in memory. It is fed with the sums of each commit, so acceptance pays one addition
//! for each tenant and commit.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use parking_lot::Mutex;

use crate::mail::Timestamp;
use crate::model::{Environment, TenantId};
use crate::store::UsageCounts;

/// Usage of tenants and environments in the minutes that begin at these times.
pub(in crate::store) type UsageByMinute = Vec<(TenantId, Environment, Timestamp, UsageCounts)>;

const MINUTES_MAX: usize = 24 * 60;
/// Counts of tenants in all minutes; beyond it, the oldest minutes lose those of tenants.
const ENTRIES_MAX: usize = 300_000;

/// The counts of one minute.
#[derive(Default)]
struct Minute {
    number: i64,
    all: [UsageCounts; 2],
    of_tenants: HashMap<(TenantId, Environment), UsageCounts>,
}

#[derive(Default)]
struct Series {
    minutes: VecDeque<Minute>,
    entries: usize,
    /// The first minute that has the counts of all tenants together.
    since: i64,
    /// The first minute that has the counts of every tenant.
    complete_since: i64,
}

/// The last 24 hours.
pub(in crate::store) struct MinuteSeries {
    since: Timestamp,
    series: Mutex<Series>,
}

fn number_of(at: Timestamp) -> i64 {
    at.as_second().div_euclid(60)
}

impl MinuteSeries {
    /// Nothing was counted before `since`.
    pub(in crate::store) fn new(since: Timestamp) -> Self {
        let number = number_of(since);
        let series = Series { since: number, complete_since: number, ..Series::default() };
        Self { since, series: Mutex::new(series) }
    }

    /// Adds the usage of a commit.
    pub(in crate::store) fn add(&self, used: &[(TenantId, Environment, Timestamp, UsageCounts)]) {
        let mut series = self.series.lock();
        for &(tenant, environment, at, counts) in used {
            series.add(tenant, environment, number_of(at), counts);
        }
    }

    /// The counts of each minute with usage, in order, and since when nothing is missing.
    pub(in crate::store) fn read(
        &self,
        tenant: Option<TenantId>,
        environment: Environment,
        during: Range<Timestamp>,
    ) -> (Vec<(Timestamp, UsageCounts)>, Timestamp) {
        let series = self.series.lock();
        let of_minute = |minute: &Minute| match tenant {
            None => Some(minute.all[environment as usize]),
            Some(tenant) => minute.of_tenants.get(&(tenant, environment)).copied(),
        };
        let start = |minute: &Minute| Timestamp::from_second(minute.number * 60).unwrap_or(Timestamp::MIN);
        let minutes = series.minutes.iter().filter(|minute| during.contains(&start(minute)));
        let counts = minutes.filter_map(|minute| Some((start(minute), of_minute(minute)?))).collect();
        let first = if tenant.is_some() { series.complete_since } else { series.since };
        let first = Timestamp::from_second(first * 60).unwrap_or(Timestamp::MIN);
        (counts, first.max(self.since))
    }
}

impl Series {
    fn add(&mut self, tenant: TenantId, environment: Environment, number: i64, counts: UsageCounts) {
        let newest = self.minutes.back().map_or(i64::MIN, |minute| minute.number);
        if number > newest {
            self.minutes.push_back(Minute { number, ..Minute::default() });
        }
        // A delivery may be recorded a little after a later minute began; what is older than the series is not counted.
        let place = self.minutes.iter().rposition(|minute| minute.number == number);
        let place = place.or_else(|| self.minutes.iter().rposition(|minute| minute.number < number));
        let Some(minute) = place.and_then(|place| self.minutes.get_mut(place)) else { return };
        if let Some(all) = minute.all.get_mut(environment as usize) {
            *all += counts;
        }
        let entries_before = minute.of_tenants.len();
        *minute.of_tenants.entry((tenant, environment)).or_default() += counts;
        self.entries += minute.of_tenants.len() - entries_before;
        self.shorten(newest.max(number));
    }

    fn shorten(&mut self, newest: i64) {
        while self.minutes.front().is_some_and(|oldest| newest - oldest.number >= MINUTES_MAX as i64) {
            if let Some(oldest) = self.minutes.pop_front() {
                self.entries -= oldest.of_tenants.len();
                self.since = self.since.max(oldest.number + 1);
                self.complete_since = self.complete_since.max(self.since);
            }
        }
        let mut place = 0;
        while self.entries > ENTRIES_MAX && place + 1 < self.minutes.len() {
            let minute = &mut self.minutes[place];
            self.entries -= minute.of_tenants.len();
            minute.of_tenants = HashMap::new();
            self.complete_since = self.complete_since.max(minute.number + 1);
            place += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn sent(count: u64) -> UsageCounts {
        UsageCounts { sent: count, ..UsageCounts::default() }
    }

    #[test]
    fn minutes_are_summed_by_tenant_and_environment_and_end_after_a_day() {
        let series = MinuteSeries::new(at(0));
        let (a, b) = (TenantId::generate(at(1)), TenantId::generate(at(2)));
        series.add(&[(a, Environment::Live, at(60), sent(2)), (b, Environment::Live, at(119), sent(3))]);
        series.add(&[(a, Environment::Test, at(61), sent(5)), (a, Environment::Live, at(120), sent(1))]);
        let read = |tenant, environment| series.read(tenant, environment, at(0)..at(1000)).0;
        assert_eq!(read(None, Environment::Live), [(at(60), sent(5)), (at(120), sent(1))]);
        assert_eq!(read(Some(a), Environment::Test), [(at(60), sent(5))]);
        assert_eq!(read(Some(b), Environment::Live), [(at(60), sent(3))]);
        series.add(&[(a, Environment::Live, at(60 + 24 * 3600), sent(7))]);
        let rest = series.read(Some(a), Environment::Live, at(0)..at(200_000)).0;
        assert_eq!(rest, [(at(120), sent(1)), (at(60 + 24 * 3600), sent(7))]);
        for tenant in [None, Some(a)] {
            assert_eq!(series.read(tenant, Environment::Live, at(0)..at(9)).1, at(120));
        }
    }

    #[test]
    fn counts_of_tenants_are_bounded_and_the_series_says_since_when_they_are_whole() {
        let series = MinuteSeries::new(at(0));
        let of_minute = |minute: i64| {
            (0..1000).map(move |_| (TenantId::generate(at(1)), Environment::Live, at(minute * 60), sent(1)))
        };
        for minute in 0..(ENTRIES_MAX as i64 / 1000) + 2 {
            series.add(&of_minute(minute).collect::<Vec<_>>());
        }
        let tenant = TenantId::generate(at(1));
        let (_, since) = series.read(Some(tenant), Environment::Live, at(0)..at(1_000_000));
        assert_eq!(since, at(120));
        let (all, since) = series.read(None, Environment::Live, at(0)..at(1_000_000));
        assert_eq!((all[0].1.sent, since), (1000, at(0)));
    }
}
