//! Limits look-ups of keys that the server does not know. Anyone can make a key with a right checksum, and such look-ups
//! must not keep acceptance and delivery from the database. A key that was valid a moment ago is not limited, so that
//! guesses through a reverse proxy do not lock out the programs behind it.

use std::net::IpAddr;

use ipnet::IpNet;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::api::{ApiError, Result};
use crate::limits::auth_limiter::network_of;
use crate::mail::Timestamp;
use crate::model::{LimitPeriod, RefusalCode};
use crate::policy::fixed_window::{FixedWindow, QuotaStatus};

/// Unknown keys of one network and minute that are looked up.
const FAILURES_PER_MINUTE_MAX: u64 = 120;
/// Concurrent look-ups, so that they leave connections of the store to others.
const LOOKUPS_MAX: usize = 2;
/// Networks with failures in memory. Beyond it the count starts again.
const NETWORKS_MAX: usize = 10_000;

/// Counts unknown keys by network, an IPv6 /64 or an IPv4 address.
pub struct UnknownKeyLimiter {
    failures: Mutex<FixedWindow<IpNet>>,
    lookups: Semaphore,
}

impl Default for UnknownKeyLimiter {
    fn default() -> Self {
        Self {
            failures: Mutex::new(FixedWindow::new(LimitPeriod::Minute)),
            lookups: Semaphore::new(LOOKUPS_MAX),
        }
    }
}

impl UnknownKeyLimiter {
    /// Waits for the permit to look up a key. Refused if the client sent too many unknown keys.
    pub async fn admit(&self, client: IpAddr, now: Timestamp) -> Result<SemaphorePermit<'_>> {
        let permit = self.lookups.acquire().await.map_err(ApiError::internal)?;
        let network = network_of(client);
        let status = self.lock().status(&network, FAILURES_PER_MINUTE_MAX, now);
        if status.remaining() > 0 { Ok(permit) } else { Err(refuse(network, status, now)) }
    }

    /// Counts an unknown key. The caller holds the permit of its look-up.
    pub fn record_failure(&self, client: IpAddr, now: Timestamp) {
        let (mut failures, network) = (self.lock(), network_of(client));
        if failures.key_count() >= NETWORKS_MAX && !failures.contains(&network, now) {
            *failures = FixedWindow::new(LimitPeriod::Minute);
        }
        failures.take(network, 1, now);
    }

    fn lock(&self) -> MutexGuard<'_, FixedWindow<IpNet>> {
        self.failures.lock()
    }
}

fn refuse(network: IpNet, status: QuotaStatus, now: Timestamp) -> ApiError {
    let mut error = ApiError::new(
        RefusalCode::RateLimited,
        format!("limit reached: {FAILURES_PER_MINUTE_MAX} unknown API keys per minute from {network}"),
        format!("use a key of this server; a new key is looked up again at {}", status.resets_at),
    );
    error.retry_after_s = Some(status.seconds_to_reset(now));
    error
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn only_a_client_with_many_unknown_keys_is_refused_and_only_for_a_minute() {
        let limiter = UnknownKeyLimiter::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        let (guesser, neighbour) = ("2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap());
        for _ in 0..FAILURES_PER_MINUTE_MAX {
            drop(limiter.admit(guesser, at(1)).await.unwrap());
            limiter.record_failure("2001:db8::2".parse().unwrap(), at(1));
        }
        let refused = limiter.admit(guesser, at(1)).await.unwrap_err();
        assert_eq!((refused.status().as_u16(), refused.retry_after_s.unwrap().get()), (429, 59));
        assert!(limiter.admit(neighbour, at(1)).await.is_ok());
        assert!(limiter.admit(guesser, at(60)).await.is_ok());
    }

    #[tokio::test]
    async fn look_ups_and_networks_in_memory_are_limited() {
        let limiter = UnknownKeyLimiter::default();
        let now = Timestamp::UNIX_EPOCH;
        let client = |number| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + number));
        let held =
            [limiter.admit(client(0), now).await.unwrap(), limiter.admit(client(1), now).await.unwrap()];
        assert!(limiter.admit(client(2), now).now_or_never().is_none());
        drop(held);
        for number in 0..=NETWORKS_MAX as u32 {
            limiter.record_failure(client(number), now);
        }
        assert!(limiter.lock().key_count() <= NETWORKS_MAX);
    }
}
