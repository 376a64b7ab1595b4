//! What the relay does for the queue manager: it knows the routes, asks the DNS and delivers.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{RelayContext, worker};
use crate::dns::MailHosts;
use crate::mail::{DomainName, Host};
use crate::model::TenantId;
use crate::queue::{Claim, DeliveryAgents, RouteDecision, Routed, Slot};
use crate::store::{Batch, RecordBatch, StoreError};

/// The relay as the queue manager sees it.
pub struct Agents {
    pub(super) core: Arc<RelayContext>,
    pub(super) recordings: mpsc::Sender<RecordBatch>,
}

impl DeliveryAgents for Agents {
    async fn route(&self, batch: &Batch) -> Result<Option<Routed>, StoreError> {
        self.core.router.route_batch(batch).await
    }

    fn known_route(&self, tenant: TenantId, destination: &Host) -> Option<RouteDecision> {
        self.core.router.cached_decision(tenant, destination)
    }

    async fn mail_hosts(&self, domain: &DomainName) -> Option<Vec<String>> {
        match self.core.targets.resolver.mail_hosts(domain).await {
            Ok(MailHosts::Hosts(hosts)) => Some(hosts),
            Ok(MailHosts::NullMx) => Some(Vec::new()),
            Err(_) => None,
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.core.tasks.spawn(task);
    }

    fn deliver(&self, slot: Slot, claim: Claim) {
        self.core.tasks.spawn(worker::run(self.core.clone(), self.recordings.clone(), slot, claim));
    }

    fn end_idle_connections(&self) {
        for connection in self.core.outbound.pool.take_expired() {
            self.core.tasks.spawn(connection.quit());
        }
    }
}
