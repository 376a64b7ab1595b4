//! How often a network may do something in a minute.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use parking_lot::Mutex;

use super::auth_limiter::network_of;
use crate::mail::Timestamp;

const NETWORKS_MAX: usize = 10_000;

/// Counts by network (an IPv6 /64 is one) and minute.
#[derive(Debug)]
pub struct NetworkLimiter {
    per_minute_max: u32,
    current: Mutex<Minute>,
}

#[derive(Debug, Default)]
struct Minute {
    number: i64,
    counts: HashMap<IpNet, u32>,
}

impl NetworkLimiter {
    /// A limiter that has counted nothing.
    pub fn new(per_minute_max: u32) -> Self {
        Self { per_minute_max, current: Mutex::default() }
    }

    /// Counts one more. False if the network has reached its limit in this minute. When [`NETWORKS_MAX`] networks are
    /// counted, further ones are not limited: a limit by network does not stop an attacker with so many, and a refusal
    /// would shut out everybody else.
    pub fn take(&self, client: IpAddr, now: Timestamp) -> bool {
        let number = now.as_second().div_euclid(60);
        let mut minute = self.current.lock();
        if minute.number != number {
            *minute = Minute { number, counts: HashMap::new() };
        }
        let network = network_of(client);
        if minute.counts.len() >= NETWORKS_MAX && !minute.counts.contains_key(&network) {
            return true;
        }
        let count = minute.counts.entry(network).or_default();
        *count = count.saturating_add(1);
        *count <= self.per_minute_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_has_a_count_until_the_next_minute() {
        let limiter = NetworkLimiter::new(30);
        let at = |second| Timestamp::from_second(second).unwrap();
        let client = |text: &str| text.parse().unwrap();
        for _ in 0..30 {
            assert!(limiter.take(client("2001:db8::1"), at(0)));
        }
        assert!(!limiter.take(client("2001:db8::2"), at(59)));
        assert!(limiter.take(client("2001:db8:0:1::1"), at(59)));
        assert!(limiter.take(client("2001:db8::1"), at(60)));
    }

    #[test]
    fn the_number_of_counted_networks_is_limited() {
        let limiter = NetworkLimiter::new(1);
        for bits in 0..NETWORKS_MAX as u32 + 100 {
            limiter.take(IpAddr::from(bits.to_be_bytes()), Timestamp::UNIX_EPOCH);
        }
        assert_eq!(limiter.current.lock().counts.len(), NETWORKS_MAX);
    }
}
