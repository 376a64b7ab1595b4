//! Implements the interface of the queue manager: routes, MX look-ups, delivery workers and the end of idle
//! connections.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{RelayContext, worker};
use crate::mail::{DomainName, Host};
use crate::model::TenantId;
use crate::queue::{Claim, DeliveryAgents, RouteDecision, Routed, Slot};
use crate::store::{Batch, RecordBatch, StoreError};

/// The delivery agents that the queue manager starts.
pub struct Agents {
    pub(super) context: Arc<RelayContext>,
    pub(super) recordings: mpsc::Sender<RecordBatch>,
}

impl DeliveryAgents for Agents {
    async fn route(&self, batch: &Batch) -> Result<Option<Routed>, StoreError> {
        self.context.router.route_batch(batch).await
    }

    fn known_route(&self, tenant: TenantId, destination: &Host) -> Option<RouteDecision> {
        self.context.router.cached_decision(tenant, destination)
    }

    async fn mail_hosts(&self, domain: &DomainName) -> Option<Vec<String>> {
        self.context.targets.known_hosts(domain).await
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.context.tasks.spawn(task);
    }

    fn deliver(&self, slot: Slot, claim: Claim) {
        let worker = worker::run(self.context.clone(), self.recordings.clone(), slot, claim);
        self.context.tasks.spawn(worker);
    }

    fn end_attempts(&self) {
        self.context.tasks.end_attempts();
    }

    fn end_idle_connections(&self) -> bool {
        for connection in self.context.outbound.pool.take_expired() {
            self.context.tasks.spawn(connection.quit());
        }
        !self.context.outbound.pool.is_empty()
    }
}
