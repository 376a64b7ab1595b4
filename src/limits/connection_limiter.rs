//! Limits open connections: in total, per client address and per tenant. Imports `auth_limiter` for the network of an
//! address, and `model`.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use super::auth_limiter::network_of;
use crate::model::TenantId;

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
}

impl ConnectionLimiter {
    /// A limiter without open connections.
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default() })
    }

    /// Admits a connection under the total limit.
    pub fn admit(self: &Arc<Self>) -> Result<ConnectionSlot, LimitReached> {
        let mut open = self.lock();
        if open.total >= self.limits.total_max {
            return Err(LimitReached);
        }
        open.total += 1;
        Ok(ConnectionSlot { limiter: self.clone(), network: None, tenant: None })
    }

    /// Open connections.
    pub fn open_count(&self) -> usize {
        self.lock().total
    }

    /// No panic leaves the counts inconsistent, so a poisoned lock is still usable.
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Counts the connection for a tenant.
    pub fn set_tenant(&mut self, tenant: TenantId) -> Result<(), LimitReached> {
        let mut open = self.limiter.lock();
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
        open.total = open.total.saturating_sub(1);
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
    fn limits_are_enforced_and_dropped_slots_are_released() {
        let limiter = limiter(3, 2, 1);
        let mut first = admit(&limiter, "192.0.2.1").unwrap();
        let mut second = admit(&limiter, "::ffff:192.0.2.1").unwrap();
        assert_eq!(admit(&limiter, "192.0.2.1").unwrap_err(), LimitReached);
        let third = admit(&limiter, "192.0.2.2").unwrap();
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
