//! Limits open connections: in total, per client address and per tenant. Clients that have not logged in cannot take all
//! slots: a quarter is kept for those that have, and a new connection takes the slot of the one that has waited longest
//! without a login. Imports `auth_limiter` for the network of an address, and `model`.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use super::auth_limiter::network_of;
use crate::model::TenantId;

/// One slot of so many is kept for connections that have logged in.
const LOGGED_IN_SHARE: usize = 4;

/// Counts open connections against limits.
#[derive(Debug)]
pub struct ConnectionLimiter {
    limits: Limits,
    open: Mutex<Open>,
}

/// Maximum of open connections.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// In total.
    pub total_max: usize,
    /// From one address.
    pub per_address_max: usize,
    /// Authenticated for one tenant.
    pub per_tenant_max: usize,
}

/// The counts of open connections. No count in a map is zero, so a map has at most `total` entries.
#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_network: HashMap<IpNet, usize>,
    by_tenant: HashMap<TenantId, usize>,
    /// Connections without a login, the oldest first.
    waiting: BTreeMap<u64, CancellationToken>,
    admitted: u64,
}

/// A limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitReached;

/// The admission of one connection; released on drop.
#[derive(Debug)]
pub struct ConnectionSlot {
    limiter: Arc<ConnectionLimiter>,
    network: Option<IpNet>,
    tenant: Option<TenantId>,
    number: u64,
    evicted: CancellationToken,
}

impl Limits {
    /// Maximum of connections without a login.
    fn waiting_max(&self) -> usize {
        self.total_max - self.total_max / LOGGED_IN_SHARE
    }
}

impl ConnectionLimiter {
    /// A limiter without open connections.
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default() })
    }

    /// Admits a connection under the total limit. If there is no slot, the oldest connection without a login loses its
    /// own.
    pub fn admit(self: &Arc<Self>) -> Result<ConnectionSlot, LimitReached> {
        let evicted = CancellationToken::new();
        let mut open = self.lock();
        let is_full = open.total >= self.limits.total_max || open.waiting.len() >= self.limits.waiting_max();
        if is_full {
            let (_, oldest) = open.waiting.pop_first().ok_or(LimitReached)?;
            oldest.cancel();
            open.total -= 1;
        }
        open.total += 1;
        let number = open.admitted;
        open.admitted += 1;
        open.waiting.insert(number, evicted.clone());
        Ok(ConnectionSlot { limiter: self.clone(), network: None, tenant: None, number, evicted })
    }

    /// Open connections.
    pub fn open_count(&self) -> usize {
        self.lock().total
    }

    /// No panic leaves the counts inconsistent.
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock()
    }
}

impl ConnectionSlot {
    /// Counts the connection for the client's address.
    pub fn set_address(&mut self, address: IpAddr) -> Result<(), LimitReached> {
        let network = network_of(address);
        let mut open = self.limiter.lock();
        add(&mut open.by_network, network, self.limiter.limits.per_address_max)?;
        if let Some(earlier) = self.network.replace(network) {
            remove(&mut open.by_network, earlier);
        }
        Ok(())
    }

    /// Cancelled when another connection takes the slot, which ends with the login.
    pub fn evicted(&self) -> CancellationToken {
        self.evicted.clone()
    }

    /// Keeps the slot until the end of the connection, because the client has logged in.
    pub fn set_logged_in(&self) -> Result<(), LimitReached> {
        self.keep(&mut self.limiter.lock())
    }

    /// Whether the client has logged in.
    pub fn is_logged_in(&self) -> bool {
        !self.evicted.is_cancelled() && !self.limiter.lock().waiting.contains_key(&self.number)
    }

    fn keep(&self, open: &mut Open) -> Result<(), LimitReached> {
        open.waiting.remove(&self.number);
        if self.evicted.is_cancelled() { Err(LimitReached) } else { Ok(()) }
    }

    /// Counts the connection for a tenant, whose client has logged in or reports about its mail.
    pub fn set_tenant(&mut self, tenant: TenantId) -> Result<(), LimitReached> {
        let mut open = self.limiter.lock();
        self.keep(&mut open)?;
        if self.tenant == Some(tenant) {
            return Ok(());
        }
        add(&mut open.by_tenant, tenant, self.limiter.limits.per_tenant_max)?;
        if let Some(earlier) = self.tenant.replace(tenant) {
            remove(&mut open.by_tenant, earlier);
        }
        Ok(())
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut open = self.limiter.lock();
        open.waiting.remove(&self.number);
        // Else another connection has the slot.
        if !self.evicted.is_cancelled() {
            open.total = open.total.saturating_sub(1);
        }
        if let Some(network) = self.network {
            remove(&mut open.by_network, network);
        }
        if let Some(tenant) = self.tenant {
            remove(&mut open.by_tenant, tenant);
        }
    }
}

fn add<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K, max: usize) -> Result<(), LimitReached> {
    if counts.get(&key).copied().unwrap_or_default() >= max {
        return Err(LimitReached);
    }
    *counts.entry(key).or_default() += 1;
    Ok(())
}

fn remove<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Timestamp;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn limiter(total_max: usize, per_address_max: usize, per_tenant_max: usize) -> Arc<ConnectionLimiter> {
        ConnectionLimiter::new(Limits { total_max, per_address_max, per_tenant_max })
    }

    fn admit(limiter: &Arc<ConnectionLimiter>, from: &str) -> Result<ConnectionSlot, LimitReached> {
        let mut place = limiter.admit()?;
        place.set_address(address(from))?;
        Ok(place)
    }

    #[test]
    fn a_new_connection_takes_the_slot_of_the_oldest_without_a_login_and_never_of_one_with() {
        let limiter = limiter(4, 100, 100);
        let tenant = TenantId::generate(Timestamp::UNIX_EPOCH);
        let mut slots: Vec<_> = (0..3).map(|_| limiter.admit().unwrap()).collect();
        slots[0].set_tenant(tenant).unwrap();
        let fourth = limiter.admit().unwrap();
        assert_eq!(limiter.open_count(), 4);
        let evicted = |slots: &[ConnectionSlot]| -> Vec<bool> {
            slots.iter().map(|slot| slot.evicted().is_cancelled()).collect()
        };
        let fifth = limiter.admit().unwrap();
        assert_eq!((evicted(&slots), limiter.open_count()), (vec![false, true, false], 4));
        assert_eq!(
            (slots[1].set_logged_in(), slots[1].set_tenant(tenant)),
            (Err(LimitReached), Err(LimitReached))
        );
        slots.remove(1);
        assert_eq!(limiter.open_count(), 4, "its slot was not free");
        for slot in [&slots[1], &fourth, &fifth] {
            slot.set_logged_in().unwrap();
        }
        assert_eq!(limiter.admit().unwrap_err(), LimitReached);
        assert!(!evicted(&slots).contains(&true));
        drop((slots, fourth, fifth));
        let open = limiter.lock();
        assert_eq!((open.total, open.waiting.len(), open.by_tenant.len()), (0, 0, 0));
    }

    #[test]
    fn a_quarter_of_the_slots_is_kept_for_logged_in_clients() {
        let limiter = limiter(8, 100, 100);
        let slots: Vec<_> = (0..7).map(|_| limiter.admit().unwrap()).collect();
        assert_eq!(limiter.open_count(), 6);
        assert!(slots[0].evicted().is_cancelled() && !slots[1].evicted().is_cancelled());
        slots[1].set_logged_in().unwrap();
        let _next = limiter.admit().unwrap();
        assert_eq!(limiter.open_count(), 7);
    }

    #[test]
    fn limits_are_enforced_and_dropped_slots_are_released() {
        let limiter = limiter(3, 2, 1);
        let mut first = admit(&limiter, "192.0.2.1").unwrap();
        let mut second = admit(&limiter, "::ffff:192.0.2.1").unwrap();
        assert_eq!(admit(&limiter, "192.0.2.1").unwrap_err(), LimitReached);
        let third = admit(&limiter, "192.0.2.2").unwrap();
        for slot in [&first, &second, &third] {
            slot.set_logged_in().unwrap();
        }
        assert_eq!(limiter.admit().unwrap_err(), LimitReached);
        let tenant = TenantId::generate(Timestamp::UNIX_EPOCH);
        first.set_tenant(tenant).unwrap();
        assert_eq!(second.set_tenant(tenant), Err(LimitReached));
        drop(first);
        second.set_tenant(tenant).unwrap();
        let fourth = admit(&limiter, "192.0.2.1").unwrap();
        drop((second, third, fourth));
        let open = limiter.lock();
        assert_eq!((open.total, open.by_network.len(), open.by_tenant.len()), (0, 0, 0));
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let limiter = limiter(10, 1, 1);
        let _first = admit(&limiter, "2001:db8::1").unwrap();
        assert_eq!(admit(&limiter, "2001:db8::2:1").unwrap_err(), LimitReached);
        assert!(admit(&limiter, "2001:db8:0:1::1").is_ok());
    }
}
