//! Connections that wait for the next message of their lane.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::connection::Connection;
use crate::model::TenantId;
use crate::queue::QueueKey;

/// Idle connections by lane: the lane holds the site or the smart host with its account.
pub struct Pool<L = QueueKey, C = Connection> {
    idle: Mutex<HashMap<L, Vec<Idle<C>>>>,
    idle_max: Duration,
}

struct Idle<C> {
    since: Instant,
    /// Whose message it carried last.
    user: TenantId,
    connection: C,
}

impl<L: Clone + Eq + Hash, C> Pool<L, C> {
    /// Connections idle for longer than `idle_max` are not given out.
    pub fn new(idle_max: Duration) -> Self {
        Self { idle: Mutex::default(), idle_max }
    }

    /// Of the connections of a lane that fit, the one that the tenant used last; else the one that is idle longest, but for
    /// so many that are left to those who used them last.
    pub fn take(
        &self,
        lane: &L,
        tenant: &TenantId,
        left_to_others: usize,
        fits: impl Fn(&C) -> bool,
    ) -> Option<C> {
        let mut idle = self.lock();
        let connections = idle.get_mut(lane)?;
        let is_good = |idle: &Idle<C>| idle.since.elapsed() < self.idle_max && fits(&idle.connection);
        let own = connections.iter().rposition(|idle| idle.user == *tenant && is_good(idle));
        let spare = connections.len().saturating_sub(left_to_others);
        let place = own.or_else(|| connections.iter().take(spare).position(is_good))?;
        let connection = connections.remove(place).connection;
        if connections.is_empty() {
            idle.remove(lane);
        }
        Some(connection)
    }

    /// Keeps a connection for the next message.
    pub fn put(&self, lane: &L, user: TenantId, connection: C) {
        let idle = Idle { since: Instant::now(), user, connection };
        self.lock().entry(lane.clone()).or_default().push(idle);
    }

    /// The connection that is idle longest, to make room.
    pub fn take_oldest(&self) -> Option<C> {
        let mut idle = self.lock();
        // Within a lane the first is the oldest.
        let lane = idle
            .iter()
            .filter_map(|(lane, connections)| Some((connections.first()?.since, lane)))
            .min_by_key(|(since, _)| *since)
            .map(|(_, lane)| lane.clone())?;
        let connections = idle.get_mut(&lane)?;
        let connection = connections.remove(0).connection;
        if connections.is_empty() {
            idle.remove(&lane);
        }
        Some(connection)
    }

    /// Takes out what was idle for too long.
    pub fn take_expired(&self) -> Vec<C> {
        let mut expired = Vec::new();
        self.lock().retain(|_, connections| {
            let stale = connections.iter().take_while(|idle| idle.since.elapsed() >= self.idle_max).count();
            expired.extend(connections.drain(..stale).map(|idle| idle.connection));
            !connections.is_empty()
        });
        expired
    }

    /// Takes out everything.
    pub fn take_all(&self) -> Vec<C> {
        self.lock().drain().flat_map(|(_, connections)| connections).map(|idle| idle.connection).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<L, Vec<Idle<C>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Timestamp;

    #[test]
    fn a_tenant_finds_its_own_connection_again_and_who_has_slots_leaves_the_last_to_their_users() {
        let tenant = |second| TenantId::generate(Timestamp::from_second(second).unwrap());
        let (one, other, third) = (tenant(1), tenant(2), tenant(3));
        let pool: Pool<u8, u8> = Pool::new(Duration::from_secs(60));
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
        assert_eq!(pool.take(&0, &third, 1, |_| true), None, "the last is left to the other");
        assert_eq!(pool.take(&0, &third, 0, |_| true), Some(4));
        assert_eq!(pool.take(&0, &third, 0, |_| true), None);
    }
}
