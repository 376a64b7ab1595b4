//! Connections to other servers: the dialer, the pool of idle connections and the limit on open ones.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::dialer::Dialer;
use super::pool::ConnectionPool;
use super::source::Sources;
use super::tasks::Tasks;

/// Opens connections, keeps idle ones and limits their number.
pub struct OutboundConnections {
    /// The source addresses.
    pub sources: Arc<Sources>,
    /// Opens connections.
    pub dialer: Arc<Dialer>,
    /// Keeps idle connections.
    pub pool: ConnectionPool,
    /// One for each open connection.
    pub permits: Arc<Semaphore>,
}

impl OutboundConnections {
    /// Waits for the permit of a new connection. If no permit is free, closes the connection that is idle longest.
    pub async fn permit(&self, tasks: &Tasks) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return Some(permit);
        }
        if let Some(oldest) = self.pool.take_oldest() {
            tasks.spawn(oldest.quit());
        }
        self.permits.clone().acquire_owned().await.ok()
    }
}
