//! Connections that wait for the next message of their lane.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::route::Lane;

/// Idle connections by lane: the lane holds the site or the smart host with its account.
pub struct Pool {
    idle: Mutex<HashMap<Lane, Vec<(Instant, Connection)>>>,
    idle_max: Duration,
}

impl Pool {
    /// Connections idle for longer than `idle_max` are not given out.
    pub fn new(idle_max: Duration) -> Self {
        Self { idle: Mutex::default(), idle_max }
    }

    /// Of the connections of a lane that fit, the one that was used last.
    pub fn take(&self, lane: &Lane, fits: impl Fn(&Connection) -> bool) -> Option<Connection> {
        let mut idle = self.lock();
        let connections = idle.get_mut(lane)?;
        let place = connections
            .iter()
            .rposition(|(since, connection)| since.elapsed() < self.idle_max && fits(connection))?;
        let (_, connection) = connections.remove(place);
        if connections.is_empty() {
            idle.remove(lane);
        }
        Some(connection)
    }

    /// Keeps a connection for the next message.
    pub fn put(&self, lane: &Lane, connection: Connection) {
        self.lock().entry(lane.clone()).or_default().push((Instant::now(), connection));
    }

    /// The connection that is idle longest, to make room.
    pub fn take_oldest(&self) -> Option<Connection> {
        let mut idle = self.lock();
        // Within a lane the first is the oldest.
        let lane = idle
            .iter()
            .filter_map(|(lane, connections)| Some((connections.first()?.0, lane)))
            .min_by_key(|(since, _)| *since)
            .map(|(_, lane)| lane.clone())?;
        let connections = idle.get_mut(&lane)?;
        let (_, connection) = connections.remove(0);
        if connections.is_empty() {
            idle.remove(&lane);
        }
        Some(connection)
    }

    /// Takes out what was idle for too long.
    pub fn take_expired(&self) -> Vec<Connection> {
        let mut expired = Vec::new();
        self.lock().retain(|_, connections| {
            let stale = connections.iter().take_while(|(since, _)| since.elapsed() >= self.idle_max).count();
            expired.extend(connections.drain(..stale).map(|(_, connection)| connection));
            !connections.is_empty()
        });
        expired
    }

    /// Takes out everything.
    pub fn take_all(&self) -> Vec<Connection> {
        self.lock()
            .drain()
            .flat_map(|(_, connections)| connections)
            .map(|(_, connection)| connection)
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Lane, Vec<(Instant, Connection)>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
