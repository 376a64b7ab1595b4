//! How many requests a network may make in a minute.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;

use crate::limits::auth_limiter::network_of;
use crate::mail::Timestamp;

const NETWORKS_MAX: usize = 10_000;

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum RequestKind {
    /// Shows a page, or has no valid link.
    Visit,
    /// Unsubscribes by a valid link. A few hosts of a mail provider send those of all its users.
    Unsubscribe,
}

impl RequestKind {
    fn per_minute_max(self) -> u32 {
        match self {
            Self::Visit => 30,
            Self::Unsubscribe => 600,
        }
    }
}

/// Counts requests by network (an IPv6 /64 is one) and minute.
#[derive(Debug, Default)]
pub(super) struct RateLimiter {
    current: Mutex<Minute>,
}

#[derive(Debug, Default)]
struct Minute {
    number: i64,
    counts: HashMap<(IpNet, RequestKind), u32>,
}

impl RateLimiter {
    /// Counts a request. False if the network has made too many. If too many networks make requests, the others are not
    /// counted: who has that many addresses is not limited by any of them, and others must not suffer.
    pub(super) fn take(&self, kind: RequestKind, client: IpAddr, now: Timestamp) -> bool {
        let number = now.as_second().div_euclid(60);
        let mut minute = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if minute.number != number {
            *minute = Minute { number, counts: HashMap::new() };
        }
        let key = (network_of(client), kind);
        if minute.counts.len() >= NETWORKS_MAX && !minute.counts.contains_key(&key) {
            return true;
        }
        let count = minute.counts.entry(key).or_default();
        *count = count.saturating_add(1);
        *count <= kind.per_minute_max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_its_own_count_of_each_kind_until_the_next_minute() {
        let limiter = RateLimiter::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        let client = |text: &str| text.parse().unwrap();
        for _ in 0..30 {
            assert!(limiter.take(RequestKind::Visit, client("2001:db8::1"), at(0)));
        }
        assert!(!limiter.take(RequestKind::Visit, client("2001:db8::2"), at(59)));
        assert!(limiter.take(RequestKind::Visit, client("2001:db8:0:1::1"), at(59)));
        assert!(limiter.take(RequestKind::Unsubscribe, client("2001:db8::1"), at(59)));
        assert!(limiter.take(RequestKind::Visit, client("2001:db8::1"), at(60)));
        for _ in 0..600 {
            assert!(limiter.take(RequestKind::Unsubscribe, client("2001:db8:0:2::1"), at(60)));
        }
        assert!(limiter.take(RequestKind::Visit, client("2001:db8:0:2::1"), at(60)));
        assert!(!limiter.take(RequestKind::Unsubscribe, client("2001:db8:0:2::1"), at(60)));
    }

    #[test]
    fn the_number_of_counted_networks_is_limited() {
        let limiter = RateLimiter::default();
        for bits in 0..NETWORKS_MAX as u32 + 100 {
            limiter.take(RequestKind::Visit, IpAddr::from(bits.to_be_bytes()), Timestamp::UNIX_EPOCH);
        }
        assert_eq!(limiter.current.lock().unwrap().counts.len(), NETWORKS_MAX);
    }
}
