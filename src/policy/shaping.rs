//! How much a site may be sent at one time: a limit of connections that grows while it goes well and shrinks when the
//! site says so, a rate, and a hold for a site that wants to be left alone.
//!
//! The limit starts at two, and each message that a full lane gets rid of adds one until the first trouble (slow start);
//! after it, a whole round of messages adds one. Trouble halves it, once for all tries that were under way. A host that
//! refuses every connection, says that it is too much, or makes trouble although it has one connection only is left
//! alone for a time, which doubles until something is taken: mail waits meanwhile without being tried.

use std::time::{Duration, Instant};

use crate::mail::EnhancedStatus;

/// Where the limit of a site begins that nothing is known of.
const CONNECTIONS_FIRST: usize = 2;
/// Deferrals without a success between them that count as trouble.
const DEFERRALS_MAX: u32 = 10;
const HOLD_MIN: Duration = Duration::from_secs(30);
const HOLD_MAX: Duration = Duration::from_secs(10 * 60);
const MINUTE: Duration = Duration::from_secs(60);
/// A rate may be ahead of itself by what it allows in this time.
const BURST: Duration = Duration::from_secs(1);
/// Characters of a reply that are shown as the reason of a hold.
const REASON_CHARS_MAX: usize = 200;

/// What a site takes at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Connections at one time: at least one.
    pub connections_max: usize,
    /// Messages over one connection.
    pub messages_per_connection_max: u32,
    /// Messages in a minute; as many as go if absent.
    pub messages_per_minute: Option<u32>,
    /// Connections begun in a minute; as many as go if absent.
    pub connections_per_minute: Option<u32>,
    /// Whether the site is ours, so that it gets its most from the start.
    pub trusted: bool,
}

/// What a try taught about the site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lesson {
    /// It worked: the message was taken, or refused for good.
    Served,
    /// It was put off, for reasons of the message or the recipient.
    Deferred,
    /// Too much: less from now on.
    Trouble {
        /// The reply, or what happened.
        reason: String,
    },
    /// No connection to any host, or a host that says to come back later.
    Closed {
        /// The reply, or what happened.
        reason: String,
    },
}

impl Lesson {
    /// How bad it is.
    pub fn severity(&self) -> u8 {
        match self {
            Self::Served => 0,
            Self::Deferred => 1,
            Self::Trouble { .. } => 2,
            Self::Closed { .. } => 3,
        }
    }
}

/// Whether the site may be sent something now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Over so many connections.
    Open(usize),
    /// Not before this time.
    Closed(Instant),
}

/// A site that is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Until when.
    pub until: Instant,
    /// Why.
    pub reason: String,
}

/// What is known of one site.
#[derive(Debug)]
pub struct Shaper {
    rule: Rule,
    limit: usize,
    /// Below it the limit grows with each message, above it with each round of them.
    slow_start_max: usize,
    served_since_growth: usize,
    deferrals: u32,
    /// Tries that began before it tell nothing new.
    changed_at: Option<Instant>,
    hold: Option<Hold>,
    holds_in_row: u32,
    messages: Option<Pace>,
    connections: Option<Pace>,
    used_at: Instant,
}

impl Shaper {
    /// Of a site that nothing is known of.
    pub fn new(rule: Rule, now: Instant) -> Self {
        let connections_max = rule.connections_max.max(1);
        let limit = if rule.trusted { connections_max } else { connections_max.min(CONNECTIONS_FIRST) };
        Self {
            limit,
            slow_start_max: connections_max,
            served_since_growth: 0,
            deferrals: 0,
            changed_at: None,
            hold: None,
            holds_in_row: 0,
            messages: rule.messages_per_minute.map(|rate| Pace::new(rate, now)),
            connections: rule.connections_per_minute.map(|rate| Pace::new(rate, now)),
            used_at: now,
            rule: Rule { connections_max, ..rule },
        }
    }

    /// What it takes at most.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// How many connections it may have when nothing else is in the way.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether and over how many connections it may be sent something, `in_use` of which there are.
    pub fn gate(&self, in_use: usize, now: Instant) -> Gate {
        if let Some(hold) = self.hold(now) {
            return Gate::Closed(hold.until);
        }
        if let Some(at) = self.messages.as_ref().and_then(|pace| pace.waits_until(now)) {
            return Gate::Closed(at);
        }
        match self.connections.as_ref().and_then(|pace| pace.waits_until(now)) {
            Some(at) if in_use == 0 => Gate::Closed(at),
            Some(_) => Gate::Open(in_use.min(self.limit)),
            None => Gate::Open(self.limit),
        }
    }

    /// The hold that is in force.
    pub fn hold(&self, now: Instant) -> Option<&Hold> {
        self.hold.as_ref().filter(|hold| now < hold.until)
    }

    /// Ends a hold before its time. True if there was one.
    pub fn lift(&mut self) -> bool {
        self.hold.take().is_some()
    }

    /// A message is about to be sent.
    pub fn begin_message(&mut self, now: Instant) {
        self.used_at = now;
        if let Some(pace) = &mut self.messages {
            pace.spend(now);
        }
    }

    /// A connection is about to be opened.
    pub fn begin_connection(&mut self, now: Instant) {
        if let Some(pace) = &mut self.connections {
            pace.spend(now);
        }
    }

    /// Learns from a try that began at `began`, when `in_use` connections were in use. True if the site is on hold
    /// from now on and was not before.
    pub fn learn(&mut self, lesson: &Lesson, began: Instant, in_use: usize, now: Instant) -> bool {
        self.used_at = now;
        match lesson {
            Lesson::Served => {
                self.deferrals = 0;
                self.holds_in_row = 0;
                self.grow(in_use);
                false
            }
            Lesson::Deferred => {
                self.deferrals += 1;
                if self.deferrals >= DEFERRALS_MAX && self.is_news(began) {
                    self.deferrals = 0;
                    self.shrink(now);
                }
                false
            }
            _ if !self.is_news(began) => false,
            Lesson::Trouble { .. } if self.limit > 1 => {
                self.shrink(now);
                false
            }
            Lesson::Trouble { reason } | Lesson::Closed { reason } => {
                self.shrink(now);
                let length = HOLD_MIN.saturating_mul(1 << self.holds_in_row.min(16)).min(HOLD_MAX);
                self.holds_in_row += 1;
                let reason = reason.chars().take(REASON_CHARS_MAX).collect();
                self.hold = Some(Hold { until: now + length, reason });
                // With one connection, to see whether it takes something again.
                self.limit = 1;
                true
            }
        }
    }

    /// Whether a try began after what was learnt last.
    fn is_news(&self, began: Instant) -> bool {
        self.changed_at.is_none_or(|changed_at| began >= changed_at)
    }

    /// Only a limit that is reached has proved anything.
    fn grow(&mut self, in_use: usize) {
        if in_use < self.limit || self.limit >= self.rule.connections_max {
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
        // After a hold: quickly up to half of what was too much, from there slowly.
        self.slow_start_max = self.limit;
        self.served_since_growth = 0;
        self.changed_at = Some(now);
    }

    /// How long nothing was sent there, if nothing is held against it.
    pub fn idle_for(&self, now: Instant) -> Option<Duration> {
        self.hold(now).is_none().then(|| now.saturating_duration_since(self.used_at))
    }
}

/// A rate, as the time at which the next one would be due if all came evenly (GCRA).
#[derive(Debug)]
struct Pace {
    interval: Duration,
    next_due: Instant,
}

impl Pace {
    fn new(per_minute: u32, now: Instant) -> Self {
        Self { interval: MINUTE / per_minute.max(1), next_due: now }
    }

    fn spend(&mut self, now: Instant) {
        self.next_due = self.next_due.max(now) + self.interval;
    }

    fn waits_until(&self, now: Instant) -> Option<Instant> {
        let earliest = self.next_due.checked_sub(BURST.saturating_sub(self.interval))?;
        (earliest > now).then_some(earliest)
    }
}

/// What a reply teaches. `opened`: whether the host had taken a MAIL command on this connection.
pub fn lesson_of(code: u16, status: Option<EnhancedStatus>, text: &str, opened: bool) -> Lesson {
    let reason = || match status {
        Some(status) => format!("{code} {status} {text}"),
        None => format!("{code} {text}"),
    };
    match code {
        // A limit of one sender's domain is no matter of others.
        400..500 if opened && is_about_sender(text) => Lesson::Deferred,
        421 if !opened || is_policy(status) || says_too_much(text) => Lesson::Closed { reason: reason() },
        421 => Lesson::Trouble { reason: reason() },
        400..500 if is_rate(status) || says_too_much(text) => Lesson::Closed { reason: reason() },
        400..500 => Lesson::Deferred,
        // Refused before MAIL: about us or the host, whatever the class of the code (RFC 5321 §3.1).
        500.. if !opened => Lesson::Closed { reason: reason() },
        _ => Lesson::Served,
    }
}

/// RFC 3463 §3.8, and what providers add: 4.7.28 is Gmail's unusual rate, 4.7.650 to 4.7.652 and 4.7.500 Microsoft's.
fn is_rate(status: Option<EnhancedStatus>) -> bool {
    status.is_some_and(|status| {
        matches!((status.class, status.subject, status.detail), (4, 7, 28 | 500..=599 | 650..=652))
    })
}

fn is_policy(status: Option<EnhancedStatus>) -> bool {
    status.is_some_and(|status| status.class == 4 && status.subject == 7)
}

/// Words of providers and of the defaults of common servers.
fn says_too_much(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "too many connections",
        "too many concurrent",
        "too many sessions",
        "concurrent connection",
        "connection limit",
        "connection rate",
        "rate limit",
        "rate-limit",
        "ratelimit",
        "throttl",
        // Yahoo: [TSS04]
        "temporarily deferred",
        // Gmail
        "unusual rate",
        "unusual amount of mail",
        // Microsoft, GMX, Orange
        "server busy",
        "too many messages from",
        "try again later from",
        "sending too fast",
        "slow down",
    ];
    let text = text.to_ascii_lowercase();
    WORDS.iter().any(|words| text.contains(words))
}

/// Gmail limits the domains of SPF and DKIM as well as addresses.
fn is_about_sender(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["dkim domain", "spf domain", "sender domain", "from your domain"]
        .iter()
        .any(|words| text.contains(words))
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
        }
    }

    fn trouble() -> Lesson {
        Lesson::Trouble { reason: "421 busy".into() }
    }

    fn closed() -> Lesson {
        Lesson::Closed { reason: "421 4.7.0 too many connections".into() }
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// A full lane that gets rid of so many messages.
    fn serve(shaper: &mut Shaper, messages: usize, now: Instant) {
        for _ in 0..messages {
            shaper.learn(&Lesson::Served, now, shaper.limit(), now);
        }
    }

    #[test]
    fn the_limit_doubles_with_each_round_until_the_first_trouble_and_grows_slowly_after_it() {
        let start = Instant::now();
        let mut shaper = Shaper::new(rule(40), start);
        assert_eq!(shaper.gate(0, start), Gate::Open(2));
        serve(&mut shaper, 2, start);
        assert_eq!(shaper.limit(), 4);
        serve(&mut shaper, 16, start);
        assert_eq!(shaper.limit(), 20);
        shaper.learn(&trouble(), start, 20, start + SECOND);
        assert_eq!(shaper.limit(), 10);
        // The others that were under way say the same.
        shaper.learn(&trouble(), start, 20, start + SECOND);
        assert_eq!(shaper.limit(), 10);
        serve(&mut shaper, 10, start + 2 * SECOND);
        assert_eq!(shaper.limit(), 11);
        serve(&mut shaper, 1000, start + 2 * SECOND);
        assert_eq!(shaper.limit(), 40);
    }

    #[test]
    fn a_limit_that_is_not_reached_does_not_grow() {
        let now = Instant::now();
        let mut shaper = Shaper::new(rule(20), now);
        for _ in 0..50 {
            shaper.learn(&Lesson::Served, now, 1, now);
        }
        assert_eq!(shaper.limit(), 2);
    }

    #[test]
    fn a_site_of_ours_starts_at_its_most() {
        let now = Instant::now();
        assert_eq!(Shaper::new(Rule { trusted: true, ..rule(200) }, now).limit(), 200);
    }

    #[test]
    fn deferrals_count_when_nothing_else_comes() {
        let now = Instant::now();
        let mut shaper = Shaper::new(rule(20), now);
        serve(&mut shaper, 100, now);
        for n in 0..30 {
            shaper.learn(if n % 9 == 0 { &Lesson::Served } else { &Lesson::Deferred }, now, 20, now);
        }
        assert_eq!(shaper.limit(), 20);
        for _ in 0..10 {
            shaper.learn(&Lesson::Deferred, now, 20, now);
        }
        assert_eq!(shaper.limit(), 10);
        assert!(shaper.hold(now).is_none());
    }

    #[test]
    fn a_hold_grows_until_something_is_taken() {
        let mut now = Instant::now();
        let mut shaper = Shaper::new(rule(20), now);
        serve(&mut shaper, 100, now);
        let mut lengths = Vec::new();
        for _ in 0..7 {
            assert!(shaper.learn(&closed(), now, 1, now));
            assert!(!shaper.learn(&closed(), now - SECOND, 1, now), "the others that were under way");
            let hold = shaper.hold(now).unwrap().clone();
            assert_eq!(shaper.gate(0, now), Gate::Closed(hold.until));
            assert_eq!(hold.reason, "421 4.7.0 too many connections");
            lengths.push((hold.until - now).as_secs());
            now = hold.until;
            assert_eq!(shaper.gate(0, now), Gate::Open(1));
        }
        assert_eq!(lengths, [30, 60, 120, 240, 480, 600, 600]);
        serve(&mut shaper, 1, now);
        assert!(shaper.learn(&closed(), now, 1, now));
        assert_eq!(shaper.hold(now).unwrap().until - now, HOLD_MIN);
        shaper.lift();
        assert_eq!(shaper.gate(0, now), Gate::Open(1));
    }

    #[test]
    fn trouble_with_a_single_connection_is_a_hold() {
        let now = Instant::now();
        let mut shaper = Shaper::new(rule(20), now);
        assert!(!shaper.learn(&trouble(), now, 2, now));
        assert!(shaper.learn(&trouble(), now, 1, now));
    }

    #[test]
    fn rates_are_kept() {
        let start = Instant::now();
        for (per_minute, expected) in [(6, 6..=7), (60, 60..=61), (600, 600..=610)] {
            let mut shaper = Shaper::new(Rule { messages_per_minute: Some(per_minute), ..rule(20) }, start);
            let (mut now, mut sent) = (start, 0);
            while now < start + MINUTE {
                match shaper.gate(0, now) {
                    Gate::Open(_) => {
                        shaper.begin_message(now);
                        sent += 1;
                    }
                    Gate::Closed(at) => now = at,
                }
            }
            assert!(expected.contains(&sent), "{sent} of {per_minute}");
        }
        let mut shaper = Shaper::new(Rule { connections_per_minute: Some(6), ..rule(20) }, start);
        shaper.begin_connection(start);
        assert_eq!(shaper.gate(0, start), Gate::Closed(start + 10 * SECOND));
        assert_eq!(shaper.gate(1, start), Gate::Open(1), "what is open goes on");
    }

    #[test]
    fn replies_teach() {
        use Lesson::{Deferred, Served};
        for (text, opened, lesson) in [
            ("250 2.0.0 ok", true, Some(Served)),
            ("550 5.1.1 nobody", true, Some(Served)),
            ("450 4.7.1 greylisted", true, Some(Deferred)),
            ("452 4.2.2 mailbox full", true, Some(Deferred)),
            ("421 4.7.28 unusual rate of mail from your DKIM domain [a.example]", true, Some(Deferred)),
            ("421 4.3.2 shutting down", true, None),
        ] {
            let (code, status) =
                (text[..3].parse().unwrap(), text[4..].split(' ').next().unwrap().parse().ok());
            let found = lesson_of(code, status, &text[4..], opened);
            match lesson {
                Some(lesson) => assert_eq!(found, lesson, "{text}"),
                None => assert!(matches!(found, Lesson::Trouble { .. }), "{text}"),
            }
        }
        for (text, opened) in [
            ("421 4.3.2 not now", false),
            ("554 5.7.1 you are listed", false),
            ("421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred", true),
            ("450 4.7.28 Gmail has detected an unusual rate", true),
            ("451 4.7.650 The mail server has been temporarily rate limited", true),
            ("452 4.3.0 Too many connections from your host", true),
        ] {
            let (status, words) = text[4..].split_once(' ').unwrap();
            let found = lesson_of(text[..3].parse().unwrap(), status.parse().ok(), words, opened);
            assert_eq!(found, Lesson::Closed { reason: text.to_owned() });
        }
    }

    fn lesson() -> impl Strategy<Value = Lesson> {
        prop_oneof![4 => Just(Lesson::Served), 2 => Just(Lesson::Deferred), 1 => Just(trouble()), 1 => Just(closed())]
    }

    proptest! {
        #[test]
        fn the_limit_stays_between_one_and_the_most_and_recovers(
            most in 1usize..50,
            lessons in prop::collection::vec((lesson(), 0u64..100, 0usize..50), 0..300),
        ) {
            let mut now = Instant::now();
            let mut shaper = Shaper::new(rule(most), now);
            for (lesson, seconds, in_use) in lessons {
                let began = now;
                now += Duration::from_secs(seconds);
                shaper.learn(&lesson, began, in_use, now);
                prop_assert!((1..=most).contains(&shaper.limit()));
                if let Gate::Closed(until) = shaper.gate(0, now) {
                    prop_assert!(until > now && until <= now + HOLD_MAX);
                }
            }
            now += HOLD_MAX;
            serve(&mut shaper, most * most, now);
            prop_assert_eq!(shaper.gate(0, now), Gate::Open(most));
        }
    }
}
