//! Connections to other servers: how they are opened, which are idle, and how many there may be.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::dialer::Dialer;
use super::pool::ConnectionPool;
use super::source::Sources;
use super::tasks::Tasks;

/// What opens and keeps connections.
pub struct OutboundConnections {
    /// The addresses that they come from.
    pub sources: Arc<Sources>,
    /// Opens them.
    pub dialer: Dialer,
    /// Keeps them while they are idle.
    pub pool: ConnectionPool,
    /// One for each open connection.
    pub permits: Arc<Semaphore>,
}

impl OutboundConnections {
    /// A permit for one more connection; closes the connection that is idle longest if there is none left.
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
