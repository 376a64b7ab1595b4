//! Connections that wait for the next message of their lane.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::route::Lane;
use crate::mail::TenantId;

/// Idle connections by lane: the lane holds the site or the smart host with its account.
pub struct Pool {
    idle: Mutex<HashMap<Lane, Vec<Idle>>>,
    idle_max: Duration,
}

struct Idle {
    since: Instant,
    /// Whose message it carried last.
    user: TenantId,
    connection: Connection,
}

impl Pool {
    /// Connections idle for longer than `idle_max` are not given out.
    pub fn new(idle_max: Duration) -> Self {
        Self { idle: Mutex::default(), idle_max }
    }

    /// Of the connections of a lane that fit, the one that the tenant used last; else the one that is idle longest, but for
    /// so many that are left to those who used them last.
    pub fn take(
        &self,
        lane: &Lane,
        tenant: &TenantId,
        left_to_others: usize,
        fits: impl Fn(&Connection) -> bool,
    ) -> Option<Connection> {
        let mut idle = self.lock();
        let connections = idle.get_mut(lane)?;
        let is_good = |idle: &Idle| idle.since.elapsed() < self.idle_max && fits(&idle.connection);
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
    pub fn put(&self, lane: &Lane, user: TenantId, connection: Connection) {
        let idle = Idle { since: Instant::now(), user, connection };
        self.lock().entry(lane.clone()).or_default().push(idle);
    }

    /// The connection that is idle longest, to make room.
    pub fn take_oldest(&self) -> Option<Connection> {
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
    pub fn take_expired(&self) -> Vec<Connection> {
        let mut expired = Vec::new();
        self.lock().retain(|_, connections| {
            let stale = connections.iter().take_while(|idle| idle.since.elapsed() >= self.idle_max).count();
            expired.extend(connections.drain(..stale).map(|idle| idle.connection));
            !connections.is_empty()
        });
        expired
    }

    /// Takes out everything.
    pub fn take_all(&self) -> Vec<Connection> {
        self.lock().drain().flat_map(|(_, connections)| connections).map(|idle| idle.connection).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Lane, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
