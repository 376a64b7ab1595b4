//! Limits failed logins. Each failure doubles the delay of the reply, and too many failures cause a ban. One wrong
//! credential must not lock out everybody behind an address, so an address is banned only for several user names. The
//! state is in memory and bounded. Imports `mail` and `model`; the time is an argument.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use parking_lot::{Mutex, MutexGuard};

use crate::mail::Timestamp;
use crate::model::KeyId;

/// Maximum of subjects in memory. Beyond it the oldest are removed, those without a ban first.
const SUBJECTS_MAX: usize = 10_000;
/// From this number of user names on, failed logins from an address are guesses and not one wrong credential.
const USERNAMES_MIN: usize = 3;
/// The delay after the first failure; each further failure doubles it.
const DELAY_FIRST: Duration = Duration::from_millis(250);
const DELAY_MAX: Duration = Duration::from_secs(8);

/// Settings of the limiter.
#[derive(Debug, Clone)]
pub struct AuthLimiterSettings {
    /// What counts as a failure, for the log.
    pub failures: &'static str,
    /// Failures within the window before a ban.
    pub failures_max: u32,
    /// The window, counted from the first failure.
    pub window: Duration,
    /// The duration of a ban.
    pub ban: Duration,
    /// Networks whose addresses are never banned.
    pub exempt: Vec<IpNet>,
}

/// The subject that failures are counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BanSubject {
    /// The client's network.
    Network(IpNet),
    /// The key whose id was the user name. A banned key still accepts its correct secret. Otherwise anyone who knows
    /// the id could lock out the owner.
    Key(KeyId),
}

/// A ban.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ban {
    /// The banned subject.
    pub subject: BanSubject,
    /// Failures before and during the ban.
    pub failures: u32,
    /// The time of the first failure.
    pub since: Timestamp,
    /// The end of the ban.
    pub until: Timestamp,
}

/// A ban that another process has made or lifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BanChange {
    /// The subject.
    pub subject: BanSubject,
    /// The end of the ban; `None` if it was lifted.
    pub until: Option<Timestamp>,
}

/// The consequence of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthDecision {
    /// Delay the reply.
    Delay(Duration),
    /// Refuse logins until this time.
    Ban(Timestamp),
}

/// A failed login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginFailure {
    /// What to do with the reply.
    pub decision: AuthDecision,
    /// The bans that begin with it.
    pub new_bans: Vec<Ban>,
}

#[derive(Debug, Clone)]
struct Record {
    failures: u32,
    /// Hashes of the first user names that failed, at most [`USERNAMES_MIN`]. A user name may be a mistyped password.
    usernames: Vec<u64>,
    since: Timestamp,
    banned_until: Option<Timestamp>,
}

/// Counts failed logins.
#[derive(Debug)]
pub struct AuthLimiter {
    settings: AuthLimiterSettings,
    records: Mutex<HashMap<BanSubject, Record>>,
    username_hasher: RandomState,
    failures: AtomicU64,
}

impl BanSubject {
    /// The network of an address. An IPv6 client usually has a whole /64 (RFC 4291 §2.5.4).
    pub fn of_client(address: IpAddr) -> Self {
        Self::Network(network_of(address))
    }

    fn is_key(self) -> bool {
        matches!(self, Self::Key(_))
    }

    /// Parses an address or a key id.
    pub fn parse(text: &str) -> Option<Self> {
        match text.parse::<IpAddr>() {
            Ok(address) => Some(Self::of_client(address)),
            Err(_) => text.parse().ok().map(Self::Key),
        }
    }
}

/// The IPv4 address, or the /64 of an IPv6 address.
pub fn network_of(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(v4) => Ipv4Net::from(v4).into(),
        IpAddr::V6(v6) => {
            let prefix = Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64));
            Ipv6Net::new_assert(prefix, 64).into()
        }
    }
}

impl fmt::Display for BanSubject {
    /// The form that [`BanSubject::parse`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => write!(f, "{}", network.addr()),
            Self::Key(id) => write!(f, "{id}"),
        }
    }
}

impl AuthLimiter {
    /// A limiter without failures.
    pub fn new(settings: AuthLimiterSettings) -> Self {
        Self {
            settings,
            records: Mutex::default(),
            username_hasher: RandomState::new(),
            failures: AtomicU64::new(0),
        }
    }

    /// The end of the ban of an address, if banned.
    pub fn banned_until(&self, address: IpAddr, now: Timestamp) -> Option<Timestamp> {
        let until = self.lock().get(&BanSubject::of_client(address))?.banned_until?;
        (until > now).then_some(until)
    }

    /// Counts a failure for the address, and for the key if the user name is a key id, existing or not.
    pub fn record_failure(&self, address: IpAddr, username: &str, now: Timestamp) -> LoginFailure {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let key = username.parse().ok().map(BanSubject::Key);
        let network = Some(BanSubject::of_client(address)).filter(|_| !self.is_exempt(address));
        let username = self.username_hasher.hash_one(username);
        let mut failure = LoginFailure { decision: AuthDecision::Delay(DELAY_FIRST), new_bans: Vec::new() };
        let mut records = self.lock();
        for subject in network.into_iter().chain(key) {
            let (record, is_new_ban) = self.count(&mut records, subject, username, now);
            if is_new_ban {
                failure.new_bans.extend(record.ban(subject, now));
            }
            // The failures of one key slow down that key and no other.
            if subject.is_key() || key.is_none() || record.is_guessing() {
                failure.decision = failure.decision.max(record.decision());
            }
        }
        failure
    }

    /// Failures since the start.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Resets the failures after a successful login.
    pub fn record_success(&self, address: IpAddr, key: KeyId) {
        let mut records = self.lock();
        records.remove(&BanSubject::of_client(address));
        records.remove(&BanSubject::Key(key));
    }

    /// All bans, the longest first.
    pub fn list(&self, now: Timestamp) -> Vec<Ban> {
        let records = self.lock();
        let mut bans: Vec<Ban> =
            records.iter().filter_map(|(&subject, record)| record.ban(subject, now)).collect();
        bans.sort_by_key(|ban| std::cmp::Reverse(ban.until));
        bans
    }

    /// Removes a subject. Returns false if it was not banned.
    pub fn lift(&self, subject: BanSubject, now: Timestamp) -> bool {
        let record = self.lock().remove(&subject);
        record.and_then(|record| record.banned_until).is_some_and(|until| until > now)
    }

    /// Applies a ban that another process has made or lifted.
    pub fn apply(&self, change: BanChange, now: Timestamp) {
        let BanChange { subject, until } = change;
        let Some(until) = until else {
            self.lift(subject, now);
            return;
        };
        let is_exempt = matches!(subject, BanSubject::Network(network) if self.is_exempt(network.addr()));
        if is_exempt || until <= now {
            return;
        }
        let mut records = self.lock();
        if !records.contains_key(&subject) {
            self.evict(&mut records, now);
        }
        let failures = self.settings.failures_max.saturating_add(1);
        let fresh = Record { failures, usernames: Vec::new(), since: now, banned_until: None };
        let record = records.entry(subject).or_insert(fresh);
        record.failures = record.failures.max(failures);
        record.banned_until = record.banned_until.max(Some(until));
    }

    /// Counts a failure of one subject. Returns its record, and whether it is banned from now on.
    fn count<'r>(
        &self,
        records: &'r mut HashMap<BanSubject, Record>,
        subject: BanSubject,
        username: u64,
        now: Timestamp,
    ) -> (&'r Record, bool) {
        if records.get(&subject).is_none_or(|record| self.is_expired(record, now)) {
            records.remove(&subject);
            self.evict(records, now);
        }
        let fresh = Record { failures: 0, usernames: Vec::new(), since: now, banned_until: None };
        let record = records.entry(subject).or_insert(fresh);
        record.failures = record.failures.saturating_add(1);
        if !record.is_guessing() && !record.usernames.contains(&username) {
            record.usernames.push(username);
        }
        let is_new_ban = record.failures > self.settings.failures_max
            && (subject.is_key() || record.is_guessing())
            && record.banned_until.is_none();
        if is_new_ban {
            record.banned_until = Some(after(now, self.settings.ban));
            tracing::warn!(%subject, failures = record.failures, "banned for {}", self.settings.failures);
        }
        (record, is_new_ban)
    }

    fn is_exempt(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.settings.exempt.iter().any(|network| network.contains(&address))
    }

    fn is_expired(&self, record: &Record, now: Timestamp) -> bool {
        let end = record.banned_until.unwrap_or(after(record.since, self.settings.window));
        end <= now
    }

    /// Removes expired records, then the oldest eighth, so that the search for the oldest is rare.
    fn evict(&self, records: &mut HashMap<BanSubject, Record>, now: Timestamp) {
        if records.len() < SUBJECTS_MAX {
            return;
        }
        records.retain(|_, record| !self.is_expired(record, now));
        if records.len() < SUBJECTS_MAX {
            return;
        }
        let age = |record: &Record| (record.banned_until.is_some(), record.since);
        let mut oldest: Vec<_> = records.iter().map(|(subject, record)| (age(record), *subject)).collect();
        oldest.sort_unstable_by_key(|(age, _)| *age);
        for (_, subject) in &oldest[..SUBJECTS_MAX / 8] {
            records.remove(subject);
        }
    }

    /// Each change is a single insertion or removal, so a panic leaves nothing half changed.
    fn lock(&self) -> MutexGuard<'_, HashMap<BanSubject, Record>> {
        self.records.lock()
    }
}

impl Record {
    /// Whether several user names failed.
    fn is_guessing(&self) -> bool {
        self.usernames.len() >= USERNAMES_MIN
    }

    fn decision(&self) -> AuthDecision {
        match self.banned_until {
            Some(until) => AuthDecision::Ban(until),
            None => AuthDecision::Delay(delay_after(self.failures)),
        }
    }

    /// The ban of the subject, if it lasts.
    fn ban(&self, subject: BanSubject, now: Timestamp) -> Option<Ban> {
        let until = self.banned_until.filter(|&until| until > now)?;
        Some(Ban { subject, failures: self.failures, since: self.since, until })
    }
}

impl AuthDecision {
    fn max(self, other: Self) -> Self {
        match (self, other) {
            (Self::Ban(a), Self::Ban(b)) => Self::Ban(a.max(b)),
            (Self::Ban(until), _) | (_, Self::Ban(until)) => Self::Ban(until),
            (Self::Delay(a), Self::Delay(b)) => Self::Delay(a.max(b)),
        }
    }
}

/// The sum, or the maximum of time if the configured duration exceeds the range.
fn after(begin: Timestamp, time: Duration) -> Timestamp {
    begin.checked_add(time).unwrap_or(Timestamp::MAX)
}

fn delay_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    DELAY_FIRST.saturating_mul(1 << doublings).min(DELAY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const WINDOW: Duration = Duration::from_secs(600);
    const BAN: Duration = Duration::from_secs(900);

    fn limiter(failures_max: u32) -> AuthLimiter {
        let settings = AuthLimiterSettings {
            failures: "failed logins",
            failures_max,
            window: WINDOW,
            ban: BAN,
            exempt: vec!["198.51.100.0/24".parse().unwrap()],
        };
        AuthLimiter::new(settings)
    }

    /// A login that fails with the next of three user names.
    fn guess(limiter: &AuthLimiter, client: IpAddr, n: u32, now: Timestamp) -> AuthDecision {
        limiter.record_failure(client, ["root", "admin", "test"][n as usize % 3], now).decision
    }

    fn start() -> Timestamp {
        "2026-11-22T00:00:00Z".parse().unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn key() -> KeyId {
        KeyId::generate(Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn failures_increase_the_delay_and_then_cause_a_ban() {
        let (bans, client, now) = (limiter(7), address("192.0.2.1"), start());
        let delays: Vec<_> = (0..7).map(|n| guess(&bans, client, n, now)).collect();
        let expected = [250, 500, 1000, 2000, 4000, 8000, 8000];
        assert_eq!(delays, expected.map(|ms| AuthDecision::Delay(Duration::from_millis(ms))));
        assert_eq!(bans.banned_until(client, now), None);
        let until = now + BAN;
        let failure = bans.record_failure(client, "root", now);
        let ban = Ban { subject: BanSubject::of_client(client), failures: 8, since: now, until };
        assert_eq!(failure, LoginFailure { decision: AuthDecision::Ban(until), new_bans: vec![ban] });
        let again = LoginFailure { decision: AuthDecision::Ban(until), new_bans: Vec::new() };
        assert_eq!(bans.record_failure(client, "root", now), again, "a ban begins once");
        assert_eq!(bans.banned_until(client, now + SECOND), Some(until));
        assert_eq!(bans.banned_until(address("192.0.2.2"), now), None);
        assert_eq!(bans.banned_until(client, until), None);
        assert_eq!(guess(&bans, client, 0, until), AuthDecision::Delay(DELAY_FIRST));
        assert_eq!(bans.failures(), 10);
    }

    #[test]
    fn one_wrong_credential_bans_no_address_and_slows_down_nobody_else() {
        let (bans, client, now) = (limiter(7), address("192.0.2.1"), start());
        let (stale, other) = (key(), key());
        for _ in 0..100 {
            bans.record_failure(client, &stale.to_string(), now);
        }
        assert_eq!(bans.banned_until(client, now), None);
        assert!(matches!(
            bans.record_failure(client, &stale.to_string(), now).decision,
            AuthDecision::Ban(_)
        ));
        let of_other = bans.record_failure(client, &other.to_string(), now);
        assert_eq!(of_other.decision, AuthDecision::Delay(DELAY_FIRST));
        assert!(matches!(guess(&bans, client, 0, now), AuthDecision::Ban(_)), "the third user name");
    }

    #[test]
    fn an_exempt_network_is_never_banned_but_the_key_is() {
        let (bans, now, id) = (limiter(7), start(), key());
        for client in [address("198.51.100.7"), address("::ffff:198.51.100.8")] {
            for n in 0..100 {
                assert_eq!(guess(&bans, client, n, now), AuthDecision::Delay(DELAY_FIRST));
            }
            assert_eq!(bans.banned_until(client, now), None);
        }
        for _ in 0..8 {
            bans.record_failure(address("198.51.100.7"), &id.to_string(), now);
        }
        assert_eq!(bans.list(now).iter().map(|ban| ban.subject).collect::<Vec<_>>(), [BanSubject::Key(id)]);
    }

    #[test]
    fn a_ban_of_another_process_holds_until_its_end_or_its_lift() {
        let (bans, client, now) = (limiter(7), address("192.0.2.1"), start());
        let (subject, until) = (BanSubject::of_client(client), now + WINDOW);
        guess(&bans, client, 0, now);
        bans.apply(BanChange { subject, until: Some(until) }, now);
        assert_eq!(bans.banned_until(client, now), Some(until));
        assert_eq!(bans.list(now), [Ban { subject, failures: 8, since: now, until }]);
        assert_eq!(bans.banned_until(client, until), None);
        bans.apply(BanChange { subject, until: None }, now);
        assert_eq!(bans.banned_until(client, now), None);
        let exempt = address("198.51.100.7");
        let change = BanChange { subject: BanSubject::of_client(exempt), until: Some(until) };
        bans.apply(change, now);
        assert_eq!(bans.banned_until(exempt, now), None);
    }

    #[test]
    fn failures_expire_and_are_reset_by_a_success() {
        let (bans, client, now) = (limiter(7), address("192.0.2.1"), start());
        let id = key();
        for _ in 0..7 {
            bans.record_failure(client, &id.to_string(), now);
        }
        assert_eq!(guess(&bans, client, 0, now + WINDOW), AuthDecision::Delay(DELAY_FIRST));
        bans.record_failure(client, &id.to_string(), now);
        bans.record_success(client, id);
        let failure = bans.record_failure(client, &id.to_string(), now);
        assert_eq!(failure.decision, AuthDecision::Delay(DELAY_FIRST));
    }

    #[test]
    fn failures_of_one_key_count_from_all_addresses() {
        let (bans, id, now) = (limiter(7), key(), start());
        for n in 0..8 {
            bans.record_failure(address(&format!("192.0.2.{n}")), &id.to_string(), now);
        }
        let failure = bans.record_failure(address("192.0.2.99"), &id.to_string(), now);
        assert!(matches!(failure.decision, AuthDecision::Ban(_)));
        assert_eq!(guess(&bans, address("192.0.2.98"), 0, now), AuthDecision::Delay(DELAY_FIRST));
        assert_eq!(bans.banned_until(address("192.0.2.99"), now), None);
        assert_eq!(bans.list(now).iter().map(|ban| ban.subject).collect::<Vec<_>>(), [BanSubject::Key(id)]);
    }

    #[test]
    fn an_ipv6_network_is_one_subject_and_any_of_its_addresses_names_it() {
        let (bans, now) = (limiter(1), start());
        for n in 0..3 {
            guess(&bans, address(&format!("2001:db8::{n}")), n, now);
        }
        assert!(bans.banned_until(address("2001:db8::ffff"), now).is_some());
        let listed = bans.list(now);
        assert_eq!((listed.len(), listed[0].subject.to_string().as_str()), (1, "2001:db8::"));
        assert!(bans.lift(BanSubject::parse("2001:db8::3").unwrap(), now));
        assert!(!bans.lift(BanSubject::parse("2001:db8::3").unwrap(), now));
        assert_eq!(bans.banned_until(address("2001:db8::1"), now), None);
        assert_eq!(BanSubject::parse("::ffff:192.0.2.1"), BanSubject::parse("192.0.2.1"));
        let id = key();
        assert_eq!(BanSubject::parse(&id.to_string()), Some(BanSubject::Key(id)));
        assert_eq!(BanSubject::parse("nobody"), None);
    }

    #[test]
    fn a_flood_of_addresses_is_bounded_and_keeps_bans() {
        let (bans, now) = (limiter(1), start());
        let banned = address("192.0.2.1");
        for n in 0..3 {
            guess(&bans, banned, n, now);
        }
        for n in 0..25_000u32 {
            guess(&bans, std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into(), 0, now + SECOND);
            assert!(bans.lock().len() <= SUBJECTS_MAX);
        }
        assert!(bans.banned_until(banned, now + SECOND).is_some());
        guess(&bans, banned, 0, now + BAN);
        for n in 0..25_000u32 {
            guess(&bans, std::net::Ipv4Addr::from_bits(0x0b00_0000 + n).into(), 0, now + BAN);
        }
        assert!(bans.lock().len() <= SUBJECTS_MAX);
    }
}
