//! Limits how much mail is sent to a site concurrently: a connection limit that grows with success and shrinks with
//! overload, rates, and a back-off for a site that refuses mail.
//!
//! The limit starts at two. Each message that the site accepts or refuses while all connections are in use adds one,
//! until the first overload (slow start); after that, a full round of messages adds one. Overload halves the limit,
//! once for all attempts in progress. A back-off begins if the site refuses every connection, replies that the rate is
//! too high, or is overloaded with only one connection. Its length doubles until the site accepts or refuses a message;
//! meanwhile the mail of the site waits without attempts.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::site_feedback::SiteFeedback;

/// The initial connection limit of an unknown site.
const CONNECTIONS_FIRST: usize = 2;
/// Consecutive deferrals that count as overload.
const DEFERRALS_MAX: u32 = 10;
const BACKOFF_MIN: Duration = Duration::from_secs(30);
/// The longest back-off.
pub const BACKOFF_MAX: Duration = Duration::from_secs(10 * 60);
/// Maximum of hosts of one site that are known to have accepted mail.
const HOSTS_MAX: usize = 64;
const MINUTE: Duration = Duration::from_secs(60);
/// The length of a burst: the rate of this much time may be used in advance.
const BURST: Duration = Duration::from_secs(1);
/// Characters of a reply stored as the reason of a back-off.
const REASON_CHARS_MAX: usize = 200;

/// The limits of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Maximum of connections, at least one.
    pub connections_max: usize,
    /// Maximum of messages over one connection.
    pub messages_per_connection_max: u32,
    /// Messages per minute; unlimited if absent.
    pub messages_per_minute: Option<u32>,
    /// New connections per minute; unlimited if absent.
    pub connections_per_minute: Option<u32>,
    /// Whether it is a host of the operator, which starts at its maximum and never gets a back-off.
    pub trusted: bool,
    /// Whether hosts match by suffix. Any domain can then name a host under the suffix, so a refusal before MAIL counts
    /// for the site only if the host accepted mail before.
    pub by_suffix: bool,
    /// Whether connections and rates are limited for each node, and not for all nodes together.
    pub per_node: bool,
}

/// Whether mail may be sent to the site now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// Over at most this many connections.
    UpTo(usize),
    /// Not before this time.
    NotBefore(Instant),
}

/// A back-off of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteBackoff {
    /// The end.
    pub until: Instant,
    /// The reason.
    pub reason: String,
}

/// The state of one site.
#[derive(Debug)]
pub struct SiteLimiter {
    rule: Rule,
    /// Maximum of connections of this node.
    connections_max: usize,
    limit: usize,
    /// Below this limit each message adds one, above it each round of messages.
    slow_start_max: usize,
    served_since_growth: usize,
    deferrals: u32,
    /// Hosts that accepted mail, the latest last; used with `by_suffix` only.
    hosts: VecDeque<String>,
    served_at: Option<Instant>,
    /// The time of the last change. Results of attempts that began before it are ignored.
    changed_at: Option<Instant>,
    backoff: Option<SiteBackoff>,
    consecutive_backoffs: u32,
    messages: Option<RateLimiter>,
    connections: Option<RateLimiter>,
    used_at: Instant,
}

impl SiteLimiter {
    /// A site without history.
    pub fn new(rule: Rule, now: Instant) -> Self {
        let connections_max = rule.connections_max.max(1);
        let rate_limiter = |rate: Option<u32>| rate.map(|rate| RateLimiter::new(rate, now));
        let limit = if rule.trusted { connections_max } else { connections_max.min(CONNECTIONS_FIRST) };
        Self {
            connections_max,
            limit,
            slow_start_max: connections_max,
            served_since_growth: 0,
            deferrals: 0,
            hosts: VecDeque::new(),
            served_at: None,
            changed_at: None,
            backoff: None,
            consecutive_backoffs: 0,
            messages: rate_limiter(rule.messages_per_minute),
            connections: rate_limiter(rule.connections_per_minute),
            used_at: now,
            rule,
        }
    }

    /// Limits this node to its share, if connections and rates are limited for all nodes together: receivers count by
    /// address, and nodes may share one. Each node has at least one connection.
    pub fn share_among(&mut self, nodes: u32) {
        let nodes = if self.rule.per_node { 1 } else { nodes.max(1) };
        let before = self.connections_max;
        self.connections_max = (self.rule.connections_max / nodes as usize).max(1);
        let follow = |limit: usize| {
            if limit == before { self.connections_max } else { limit.min(self.connections_max) }
        };
        self.slow_start_max = follow(self.slow_start_max);
        // What was learnt is only lowered.
        self.limit =
            if self.rule.trusted { follow(self.limit) } else { self.limit.min(self.connections_max) };
        for (limiter, rate) in [
            (&mut self.messages, self.rule.messages_per_minute),
            (&mut self.connections, self.rule.connections_per_minute),
        ] {
            if let (Some(limiter), Some(rate)) = (limiter, rate) {
                limiter.interval = interval_of(rate) * nodes;
            }
        }
    }

    /// The limits of the site.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// The present connection limit, apart from rates and back-off.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether mail may be sent now and over how many connections, of which `in_use` are in use.
    pub fn allowance(&self, in_use: usize, now: Instant) -> Allowance {
        if let Some(backoff) = self.backoff(now) {
            return Allowance::NotBefore(backoff.until);
        }
        if let Some(at) = self.messages.as_ref().and_then(|limiter| limiter.next_allowed_at(now)) {
            return Allowance::NotBefore(at);
        }
        match self.connections.as_ref().and_then(|limiter| limiter.next_allowed_at(now)) {
            Some(at) if in_use == 0 => Allowance::NotBefore(at),
            Some(_) => Allowance::UpTo(in_use.min(self.limit)),
            None => Allowance::UpTo(self.limit),
        }
    }

    /// The active back-off.
    pub fn backoff(&self, now: Instant) -> Option<&SiteBackoff> {
        self.backoff.as_ref().filter(|backoff| now < backoff.until)
    }

    /// Ends the back-off early. Returns true if there was one.
    pub fn end_backoff(&mut self) -> bool {
        self.backoff.take().is_some()
    }

    /// Call before sending a message.
    pub fn begin_message(&mut self, now: Instant) {
        self.used_at = now;
        if let Some(limiter) = &mut self.messages {
            limiter.record(now);
        }
    }

    /// Call before opening a connection.
    pub fn begin_connection(&mut self, now: Instant) {
        if let Some(limiter) = &mut self.connections {
            limiter.record(now);
        }
    }

    /// Records the result of an attempt that began at `began` with `in_use` connections in use. Returns true if the
    /// site backs off from now on and did not before.
    pub fn record_feedback(
        &mut self,
        feedback: &SiteFeedback,
        began: Instant,
        in_use: usize,
        now: Instant,
    ) -> bool {
        self.used_at = now;
        match feedback {
            SiteFeedback::Served { host } => {
                self.deferrals = 0;
                self.consecutive_backoffs = 0;
                self.served_at = Some(now);
                self.remember_host(host);
                self.grow(in_use);
                false
            }
            SiteFeedback::Individual => false,
            SiteFeedback::Deferred => {
                self.deferrals += 1;
                if self.deferrals >= DEFERRALS_MAX && self.began_after_change(began) {
                    self.deferrals = 0;
                    self.shrink(now);
                }
                false
            }
            SiteFeedback::Refused { host, .. } | SiteFeedback::Unreachable { host, .. }
                if !self.represents_site(host) =>
            {
                false
            }
            // A message that the site accepted during the attempt outweighs one unreachable host.
            SiteFeedback::Unreachable { .. } if self.served_at.is_some_and(|served_at| served_at > began) => {
                false
            }
            _ if !self.began_after_change(began) => false,
            SiteFeedback::Overloaded { .. } if self.limit > 1 => {
                self.shrink(now);
                false
            }
            _ if self.rule.trusted => {
                self.shrink(now);
                false
            }
            SiteFeedback::Overloaded { reason }
            | SiteFeedback::Throttled { reason }
            | SiteFeedback::Refused { reason, .. }
            | SiteFeedback::Unreachable { reason, .. } => {
                self.shrink(now);
                self.begin_backoff(reason, now);
                true
            }
        }
    }

    /// Backs off as another node does that shares the limits. False if it does not, or already does for as long.
    pub fn join_backoff(&mut self, backoff: SiteBackoff, now: Instant) -> bool {
        let is_new = self.backoff(now).is_none_or(|own| own.until < backoff.until);
        if !is_new || self.rule.trusted || self.rule.per_node || backoff.until <= now {
            return false;
        }
        if self.backoff(now).is_none() {
            self.shrink(now);
            // The next one is longer, whichever node finds that it is necessary.
            self.consecutive_backoffs += 1;
        }
        self.backoff = Some(backoff);
        self.limit = 1;
        true
    }

    fn begin_backoff(&mut self, reason: &str, now: Instant) {
        let length = BACKOFF_MIN.saturating_mul(1 << self.consecutive_backoffs.min(16)).min(BACKOFF_MAX);
        self.consecutive_backoffs += 1;
        let reason = reason.chars().take(REASON_CHARS_MAX).collect();
        self.backoff = Some(SiteBackoff { until: now + length, reason });
        // One connection tests whether the site accepts mail again.
        self.limit = 1;
    }

    fn remember_host(&mut self, host: &str) {
        if !self.rule.by_suffix || self.hosts.back().is_some_and(|last| last == host) {
            return;
        }
        self.hosts.retain(|known| known != host);
        if self.hosts.len() == HOSTS_MAX {
            self.hosts.pop_front();
        }
        self.hosts.push_back(host.to_owned());
    }

    /// Whether refusals of this host before MAIL count for the site.
    fn represents_site(&self, host: &str) -> bool {
        !self.rule.by_suffix || self.hosts.iter().any(|known| known == host)
    }

    /// Whether the attempt began after the last change.
    fn began_after_change(&self, began: Instant) -> bool {
        self.changed_at.is_none_or(|changed_at| began >= changed_at)
    }

    /// The limit grows only when it is fully used.
    fn grow(&mut self, in_use: usize) {
        if in_use < self.limit || self.limit >= self.connections_max {
            return;
        }
        self.served_since_growth += 1;
        if self.limit < self.slow_start_max || self.served_since_growth >= self.limit {
            self.limit += 1;
            self.served_since_growth = 0;
        }
    }

    fn shrink(&mut self, now: Instant) {
        self.limit = (self.limit / 2).max(1);
        // The limit grows fast to half of its earlier value, then slowly.
        self.slow_start_max = self.limit;
        self.served_since_growth = 0;
        self.changed_at = Some(now);
    }

    /// The time since the last message to the site; `None` during a back-off.
    pub fn idle_for(&self, now: Instant) -> Option<Duration> {
        self.backoff(now).is_none().then(|| now.saturating_duration_since(self.used_at))
    }
}

/// Between two events at an even rate.
fn interval_of(per_minute: u32) -> Duration {
    MINUTE / per_minute.max(1)
}

/// A rate limiter (GCRA): the time at which the next event is due at an even rate.
#[derive(Debug)]
struct RateLimiter {
    interval: Duration,
    next_due: Instant,
}

impl RateLimiter {
    fn new(per_minute: u32, now: Instant) -> Self {
        Self { interval: interval_of(per_minute), next_due: now }
    }

    fn record(&mut self, now: Instant) {
        self.next_due = self.next_due.max(now) + self.interval;
    }

    fn next_allowed_at(&self, now: Instant) -> Option<Instant> {
        let earliest = self.next_due.checked_sub(BURST.saturating_sub(self.interval))?;
        (earliest > now).then_some(earliest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(connections_max: usize) -> Rule {
        Rule {
            connections_max,
            messages_per_connection_max: 100,
            messages_per_minute: None,
            connections_per_minute: None,
            trusted: false,
            by_suffix: false,
            per_node: false,
        }
    }

    fn served() -> SiteFeedback {
        SiteFeedback::Served { host: "mx".into() }
    }

    fn unreachable(host: &str) -> SiteFeedback {
        SiteFeedback::Unreachable { host: host.into(), reason: "time-out".into() }
    }

    fn refused(host: &str) -> SiteFeedback {
        SiteFeedback::Refused { host: host.into(), reason: "554 no".into() }
    }

    fn overloaded() -> SiteFeedback {
        SiteFeedback::Overloaded { reason: "421 busy".into() }
    }

    fn throttled() -> SiteFeedback {
        SiteFeedback::Throttled { reason: "421 4.7.0 too many connections".into() }
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// Reports this many accepted messages with all connections in use.
    fn serve(limiter: &mut SiteLimiter, messages: usize, now: Instant) {
        for _ in 0..messages {
            limiter.record_feedback(&served(), now, limiter.limit(), now);
        }
    }

    #[test]
    fn a_back_off_of_another_node_is_joined_and_makes_the_next_one_longer() {
        let now = Instant::now();
        let backoff = |seconds| SiteBackoff {
            until: now + Duration::from_secs(seconds),
            reason: "421 4.7.0 too many connections".into(),
        };
        let mut limiter = SiteLimiter::new(rule(10), now);
        assert!(limiter.join_backoff(backoff(30), now));
        assert_eq!(limiter.allowance(0, now), Allowance::NotBefore(backoff(30).until));
        assert!(!limiter.join_backoff(backoff(20), now), "a shorter one changes nothing");
        assert!(
            !limiter.record_feedback(&throttled(), now - Duration::from_secs(1), 1, now),
            "an attempt in progress"
        );
        let later = backoff(30).until;
        assert!(limiter.record_feedback(&throttled(), later, 1, later));
        assert_eq!(limiter.backoff(later).unwrap().until, later + 2 * BACKOFF_MIN);
        for rule in [Rule { per_node: true, ..rule(10) }, Rule { trusted: true, ..rule(10) }] {
            assert!(!SiteLimiter::new(rule, now).join_backoff(backoff(30), now));
        }
    }

    #[test]
    fn the_limit_doubles_each_round_until_the_first_overload_and_then_grows_slowly() {
        let start = Instant::now();
        let mut limiter = SiteLimiter::new(rule(40), start);
        assert_eq!(limiter.allowance(0, start), Allowance::UpTo(2));
        serve(&mut limiter, 2, start);
        assert_eq!(limiter.limit(), 4);
        serve(&mut limiter, 16, start);
        assert_eq!(limiter.limit(), 20);
        limiter.record_feedback(&overloaded(), start, 20, start + SECOND);
        assert_eq!(limiter.limit(), 10);
        // Results of attempts in progress at the same time.
        limiter.record_feedback(&overloaded(), start, 20, start + SECOND);
        assert_eq!(limiter.limit(), 10);
        serve(&mut limiter, 10, start + 2 * SECOND);
        assert_eq!(limiter.limit(), 11);
        serve(&mut limiter, 1000, start + 2 * SECOND);
        assert_eq!(limiter.limit(), 40);
    }

    #[test]
    fn a_limit_that_is_not_used_does_not_grow() {
        let now = Instant::now();
        let mut limiter = SiteLimiter::new(rule(20), now);
        for _ in 0..50 {
            limiter.record_feedback(&served(), now, 1, now);
        }
        assert_eq!(limiter.limit(), 2);
    }

    #[test]
    fn a_trusted_site_starts_at_its_maximum_and_never_backs_off() {
        let mut now = Instant::now();
        let mut limiter = SiteLimiter::new(Rule { trusted: true, ..rule(200) }, now);
        assert_eq!(limiter.limit(), 200);
        for feedback in [throttled(), overloaded(), refused("mx"), unreachable("mx")].iter().cycle().take(20)
        {
            now += SECOND;
            assert!(!limiter.record_feedback(feedback, now, 1, now));
        }
        assert_eq!(limiter.allowance(0, now), Allowance::UpTo(1));
    }

    #[test]
    fn with_suffix_rules_only_hosts_that_accepted_mail_cause_a_back_off() {
        let mut now = Instant::now();
        let mut limiter = SiteLimiter::new(Rule { by_suffix: true, ..rule(20) }, now);
        for known in [false, true] {
            for host in ["www", "mx"] {
                for feedback in [unreachable(host), refused(host)] {
                    now += SECOND;
                    limiter.end_backoff();
                    assert_eq!(
                        limiter.record_feedback(&feedback, now, 1, now),
                        known && host == "mx",
                        "{feedback:?}"
                    );
                }
            }
            limiter.end_backoff();
            serve(&mut limiter, 9, now);
        }
        // Feedback of any host that accepted mail before counts.
        now += SECOND;
        assert!(limiter.record_feedback(&throttled(), now, 1, now));
        // Other hosts accept mail until this one is evicted.
        for other in 0..HOSTS_MAX {
            now += SECOND;
            limiter.record_feedback(&SiteFeedback::Served { host: other.to_string() }, now, 1, now);
        }
        assert!(
            !limiter.record_feedback(&unreachable("mx"), now, 1, now) && limiter.hosts.len() == HOSTS_MAX
        );
    }

    #[test]
    fn an_unreachable_host_causes_no_back_off_if_others_accepted_mail_meanwhile() {
        let start = Instant::now();
        let mut limiter = SiteLimiter::new(rule(20), start);
        serve(&mut limiter, 1, start + SECOND);
        assert!(!limiter.record_feedback(&unreachable("mx"), start, 1, start + 2 * SECOND));
        assert!(limiter.record_feedback(&unreachable("mx"), start + 2 * SECOND, 1, start + 3 * SECOND));
    }

    #[test]
    fn deferrals_without_success_count_as_overload() {
        let now = Instant::now();
        let mut limiter = SiteLimiter::new(rule(20), now);
        serve(&mut limiter, 100, now);
        for n in 0..30 {
            limiter.record_feedback(
                &if n % 9 == 0 { served() } else { SiteFeedback::Deferred },
                now,
                20,
                now,
            );
        }
        assert_eq!(limiter.limit(), 20);
        for _ in 0..10 {
            limiter.record_feedback(&SiteFeedback::Deferred, now, 20, now);
        }
        assert_eq!(limiter.limit(), 10);
        assert!(limiter.backoff(now).is_none());
    }

    #[test]
    fn deferrals_of_one_sender_or_recipient_do_not_slow_the_mail_of_others() {
        let now = Instant::now();
        let mut limiter = SiteLimiter::new(rule(20), now);
        serve(&mut limiter, 100, now);
        for _ in 0..100 {
            limiter.record_feedback(&SiteFeedback::Individual, now, 20, now);
        }
        assert_eq!(limiter.limit(), 20);
    }

    #[test]
    fn a_back_off_doubles_until_mail_is_accepted() {
        let mut now = Instant::now();
        let mut limiter = SiteLimiter::new(rule(20), now);
        serve(&mut limiter, 100, now);
        let mut lengths = Vec::new();
        for _ in 0..7 {
            assert!(limiter.record_feedback(&throttled(), now, 1, now));
            assert!(
                !limiter.record_feedback(&throttled(), now - SECOND, 1, now),
                "the others that were under way"
            );
            let backoff = limiter.backoff(now).unwrap().clone();
            assert_eq!(limiter.allowance(0, now), Allowance::NotBefore(backoff.until));
            assert_eq!(backoff.reason, "421 4.7.0 too many connections");
            lengths.push((backoff.until - now).as_secs());
            now = backoff.until;
            assert_eq!(limiter.allowance(0, now), Allowance::UpTo(1));
        }
        assert_eq!(lengths, [30, 60, 120, 240, 480, 600, 600]);
        serve(&mut limiter, 1, now);
        assert!(limiter.record_feedback(&throttled(), now, 1, now));
        assert_eq!(limiter.backoff(now).unwrap().until - now, BACKOFF_MIN);
        limiter.end_backoff();
        assert_eq!(limiter.allowance(0, now), Allowance::UpTo(1));
    }

    #[test]
    fn overload_with_a_single_connection_is_a_back_off() {
        let now = Instant::now();
        let mut limiter = SiteLimiter::new(rule(20), now);
        assert!(!limiter.record_feedback(&overloaded(), now, 2, now));
        assert!(limiter.record_feedback(&overloaded(), now, 1, now));
    }

    #[test]
    fn rates_are_kept() {
        let start = Instant::now();
        for (per_minute, expected) in [(6, 6..=7), (60, 60..=61), (600, 600..=610)] {
            let mut limiter =
                SiteLimiter::new(Rule { messages_per_minute: Some(per_minute), ..rule(20) }, start);
            let (mut now, mut sent) = (start, 0);
            while now < start + MINUTE {
                match limiter.allowance(0, now) {
                    Allowance::UpTo(_) => {
                        limiter.begin_message(now);
                        sent += 1;
                    }
                    Allowance::NotBefore(at) => now = at,
                }
            }
            assert!(expected.contains(&sent), "{sent} of {per_minute}");
        }
        let mut limiter = SiteLimiter::new(Rule { connections_per_minute: Some(6), ..rule(20) }, start);
        limiter.begin_connection(start);
        assert_eq!(limiter.allowance(0, start), Allowance::NotBefore(start + 10 * SECOND));
        assert_eq!(limiter.allowance(1, start), Allowance::UpTo(1), "open connections are still used");
    }

    fn feedback() -> impl Strategy<Value = SiteFeedback> {
        prop_oneof![
            4 => Just(served()),
            2 => Just(SiteFeedback::Deferred),
            1 => Just(overloaded()),
            1 => Just(throttled()),
            1 => Just(unreachable("mx")),
        ]
    }

    /// The messages that are sent in a minute to a site with a rate, as fast as it admits.
    fn messages_in_a_minute(limiter: &mut SiteLimiter, begin: Instant) -> u32 {
        let (mut now, mut count) = (begin, 0);
        while now < begin + MINUTE {
            match limiter.allowance(0, now) {
                Allowance::NotBefore(at) => now = at,
                Allowance::UpTo(_) => {
                    limiter.begin_message(now);
                    count += 1;
                }
            }
        }
        count
    }

    #[test]
    fn nodes_share_the_connections_and_rates_of_a_site() {
        let now = Instant::now();
        let shared = Rule { messages_per_minute: Some(60), trusted: true, ..rule(10) };
        for (nodes, connections, messages) in [(1, 10, 60), (3, 3, 20), (20, 1, 3)] {
            let mut limiter = SiteLimiter::new(shared.clone(), now);
            limiter.share_among(nodes);
            assert_eq!((limiter.limit(), messages_in_a_minute(&mut limiter, now)), (connections, messages));
        }
        let mut own = SiteLimiter::new(Rule { per_node: true, ..shared.clone() }, now);
        own.share_among(3);
        assert_eq!((own.limit(), messages_in_a_minute(&mut own, now)), (10, 60));
    }

    #[test]
    fn a_learnt_limit_is_lowered_with_the_share_and_grows_again_by_success() {
        let now = Instant::now();
        let mut limiter = SiteLimiter::new(rule(8), now);
        serve(&mut limiter, 64, now);
        assert_eq!(limiter.limit(), 8);
        limiter.share_among(2);
        assert_eq!(limiter.limit(), 4);
        serve(&mut limiter, 64, now);
        assert_eq!(limiter.limit(), 4);
        limiter.share_among(1);
        assert_eq!(limiter.limit(), 4);
        serve(&mut limiter, 64, now);
        assert_eq!(limiter.limit(), 8);
    }

    proptest! {
        #[test]
        fn the_limit_stays_within_bounds_and_recovers(
            most in 1usize..50,
            lessons in prop::collection::vec((feedback(), 0u64..100, 0usize..50), 0..300),
        ) {
            let mut now = Instant::now();
            let mut limiter = SiteLimiter::new(rule(most), now);
            for (feedback, seconds, in_use) in lessons {
                let began = now;
                now += Duration::from_secs(seconds);
                limiter.record_feedback(&feedback, began, in_use, now);
                prop_assert!((1..=most).contains(&limiter.limit()));
                if let Allowance::NotBefore(until) = limiter.allowance(0, now) {
                    prop_assert!(until > now && until <= now + BACKOFF_MAX);
                }
            }
            now += BACKOFF_MAX;
            serve(&mut limiter, most * most, now);
            prop_assert_eq!(limiter.allowance(0, now), Allowance::UpTo(most));
        }
    }
}
