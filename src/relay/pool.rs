//! Idle connections, kept for the next message of their destination queue.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::connection::Connection;
use crate::clock::{Clock, Instant};
use crate::model::TenantId;
use crate::queue::QueueKey;

/// Idle connections by destination queue. The key includes the site, or the smart host with its account.
pub struct ConnectionPool<K = QueueKey, C = Connection> {
    idle: Mutex<HashMap<K, Vec<Idle<C>>>>,
    idle_max: Duration,
    clock: Clock,
}

struct Idle<C> {
    since: Instant,
    /// The tenant of the last message.
    tenant: TenantId,
    connection: C,
}

impl<K: Clone + Eq + Hash, C> ConnectionPool<K, C> {
    /// Connections idle for longer than `idle_max` are not given out.
    pub fn new(idle_max: Duration, clock: Clock) -> Self {
        Self { idle: Mutex::default(), idle_max, clock }
    }

    /// Takes a usable connection of a queue: the one that the tenant used last, else the one that is idle longest. The
    /// `reserved` most recent connections are not taken if another tenant used them.
    pub fn take(
        &self,
        queue: &K,
        tenant: &TenantId,
        reserved: usize,
        fits: impl Fn(&C) -> bool,
    ) -> Option<C> {
        let mut idle = self.lock();
        let connections = idle.get_mut(queue)?;
        let is_usable = |idle: &Idle<C>| !self.has_expired(idle) && fits(&idle.connection);
        let own = connections.iter().rposition(|idle| idle.tenant == *tenant && is_usable(idle));
        let spare = connections.len().saturating_sub(reserved);
        let place = own.or_else(|| connections.iter().take(spare).position(is_usable))?;
        let connection = connections.remove(place).connection;
        if connections.is_empty() {
            idle.remove(queue);
        }
        Some(connection)
    }

    /// Keeps a connection for the next message.
    pub fn put(&self, queue: &K, tenant: TenantId, connection: C) {
        let idle = Idle { since: self.clock.instant(), tenant, connection };
        self.lock().entry(queue.clone()).or_default().push(idle);
    }

    /// Takes the connection that is idle longest.
    pub fn take_oldest(&self) -> Option<C> {
        let mut idle = self.lock();
        // Within a queue the first is idle longest.
        let queue = idle
            .iter()
            .filter_map(|(queue, connections)| Some((connections.first()?.since, queue)))
            .min_by_key(|(since, _)| *since)
            .map(|(_, queue)| queue.clone())?;
        let connections = idle.get_mut(&queue)?;
        let connection = connections.remove(0).connection;
        if connections.is_empty() {
            idle.remove(&queue);
        }
        Some(connection)
    }

    /// Takes all connections that were idle for too long.
    pub fn take_expired(&self) -> Vec<C> {
        let mut expired = Vec::new();
        self.lock().retain(|_, connections| {
            let stale = connections.iter().take_while(|idle| self.has_expired(idle)).count();
            expired.extend(connections.drain(..stale).map(|idle| idle.connection));
            !connections.is_empty()
        });
        expired
    }

    /// Whether it has connections.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Takes all connections.
    pub fn take_all(&self) -> Vec<C> {
        self.lock().drain().flat_map(|(_, connections)| connections).map(|idle| idle.connection).collect()
    }

    fn has_expired(&self, idle: &Idle<C>) -> bool {
        self.clock.elapsed_since(idle.since) >= self.idle_max
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Vec<Idle<C>>>> {
        self.idle.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Timestamp;

    #[test]
    fn a_tenant_gets_its_own_connection_first_and_leaves_the_reserved_ones_of_others() {
        let tenant = |second| TenantId::generate(Timestamp::from_second(second).unwrap());
        let (one, other, third) = (tenant(1), tenant(2), tenant(3));
        let pool: ConnectionPool<u8, u8> = ConnectionPool::new(Duration::from_secs(60), Clock::system());
        for (user, connection) in [(one, 1), (other, 2), (one, 3), (other, 4)] {
            pool.put(&0, user, connection);
        }
        assert_eq!(pool.take(&0, &one, 4, |_| true), Some(3), "its own, the one used last");
        assert_eq!(
            pool.take(&0, &one, 0, |&connection| connection != 1),
            Some(2),
            "of others the one idle longest"
        );
        assert_eq!(pool.take(&0, &third, 1, |_| true), Some(1));
        assert_eq!(pool.take(&0, &third, 1, |_| true), None, "the last one is reserved");
        assert_eq!(pool.take(&0, &third, 0, |_| true), Some(4));
        assert_eq!(pool.take(&0, &third, 0, |_| true), None);
    }
}
